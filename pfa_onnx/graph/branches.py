"""Control flow whose course the file itself fixes is written out when a model is read, as its functions are.

An If that can take one branch only becomes that branch; a Loop that runs a known, small number of times becomes its
rounds; a sequence of known length becomes its tensors. Everything else stays as it is, and keeps what it reads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.sequences import SEQUENCES, dissolve
from pfa_onnx.graph.splice import Splicer
from pfa_onnx.graph.static import Static

UNROLLED = 256  # nodes that a Loop may become; torch writes tensor_split as one round of six
IN_ALL = 4096  # ... and all Loops of a file together: in one another, they multiply


def write_out(model: ir.Model) -> bool:
    """Write out what can be, in place; tells whether anything was.

    One thing leads to another: a condition may be known only after the loop before it is gone.
    """
    changed = inferring = False
    room = IN_ALL
    static = Static(model)
    while any(node.domain == "" and node.op_type in {"If", "Loop", *SEQUENCES} for node in model.graph):
        splicer = Splicer(model)
        done = False
        for node in list(model.graph):
            grown = _write_out(node, splicer, static, room) if node.domain == "" else None
            done |= grown is not None
            room -= grown or 0
        progress = done or dissolve(splicer, static)
        if not progress and inferring:
            break
        inferring = not progress  # shapes are inferred only where constants no longer help
        static = static.next(inferring=inferring)
        splicer.sweep()
        changed |= progress
    return changed


def _write_out(node: ir.Node, splicer: Splicer, static: Static, room: int) -> int | None:
    """Return how many nodes there are now that the file does not have; None where the node stays."""
    if node.op_type == "If":
        return _choose(node, splicer, static)
    return _unroll(node, splicer, static, room) if node.op_type == "Loop" else None


def _choose(node: ir.Node, splicer: Splicer, static: Static) -> int | None:
    """Put the only branch that an If can take in its place."""
    condition = static.value(node.inputs[0])
    if condition is None or condition.size != 1:
        return None
    branches = {name: node.attributes[name].value for name in ("then_branch", "else_branch")}
    for body in branches.values():
        splicer.forget(body)
    taken = branches["then_branch" if condition.item() else "else_branch"]
    splicer.replace(node, splicer.body(taken, [], node))
    return 0


def _unroll(node: ir.Node, splicer: Splicer, static: Static, room: int) -> int | None:
    """Put a Loop's rounds in its place: one body after the other, each fed by the one before."""
    body: ir.Graph = node.attributes["body"].value
    rounds = _rounds(node, body, static)
    nodes = sum(1 for _ in body.all_nodes())
    if rounds is None or rounds * nodes > min(UNROLLED, room):
        return None
    splicer.forget(body)
    states = [v for v in node.inputs[2:] if v is not None]
    number, condition = (np.ones((1,) * _rank(value), dtype=np.int64) for value in body.inputs[:2])
    go_on = splicer.constant(condition.astype(np.bool_), node, f"{node.name}_condition")
    for k in range(rounds):
        count = splicer.constant(k * number, node, f"{node.name}_round")
        copy = body.clone(allow_outer_scope_values=True)
        states = splicer.body(copy, [count, go_on, *states], node)[1:]
    splicer.replace(node, states)
    return rounds * nodes


def _rounds(node: ir.Node, body: ir.Graph, static: Static) -> int | None:
    """Return how often a Loop runs, if the file fixes it; nothing is collected over the rounds."""
    states = len(node.inputs) - 2
    count = static.value(node.inputs[0])
    fits = len(body.inputs) == 2 + states and len(body.outputs) == 1 + states and None not in node.inputs[2:]
    if count is None or count.size != 1 or not fits:
        return None
    first = node.inputs[1] if len(node.inputs) > 1 else None
    if first is not None and not _is_true(first, static):
        return None
    last = body.outputs[0]
    while (maker := last.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        last = maker.inputs[0]
    if last is not body.inputs[1] and not _is_true(last, static):
        return None
    return max(int(count.item()), 0)


def _rank(value: ir.Value) -> int:
    """Return the rank that a body declares for its count or condition; one element either way."""
    return 0 if value.shape is None else len(value.shape)


def _is_true(value: ir.Value, static: Static) -> bool:
    found = static.value(value)
    return found is not None and found.size == 1 and bool(found.item())
