"""Recurrent layers: what they read may shrink, through W; their own state stays whole."""

from __future__ import annotations

from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import along
from pfa_onnx.graph.ops import refuse_inputs, rule


@rule("GRU", "LSTM", "RNN")
def recurrent(c: Context) -> None:
    """X is [T, N, C] or [N, T, C], W [directions, gates * H, C]: the last axis of both is summed."""
    if not c.is_constant(1) or c.is_constant(0):
        refuse_inputs(c, "with a computed weight")
        return
    read = c.channels(c.mark(0), 2)
    c.bind(1, Factor(along(read, 2, 3), "read"))
    for i in c.activations():
        if i > 0:
            c.freeze(c.mark(i).ids, f"is a state of {c.node.op_type}")
    c.opaque(f"is made by {c.node.op_type}, whose state stays whole")
