"""The paper's "from scratch": the pruned architecture with weights drawn anew, as if training had never begun."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.constants import replace_constant
from pfa_onnx.graph.cost import PLAIN
from pfa_onnx.graph.declarations import Array
from pfa_onnx.graph.model import Graph

_NORM_START = (1.0, 0.0, 0.0, 1.0)  # scale, bias, running mean, running variance


def redraw(graph: Graph, seed: int) -> None:
    """Draw all weights of layers from He's normal distribution, N(0, 2 / fan_in), in place.

    Biases become 0 and BatchNormalization the identity, as frameworks start them.
    """
    random = np.random.default_rng(seed)
    for node in graph.nodes:
        kind = PLAIN.get(node.op_type, node.op_type)
        if kind == "BatchNormalization":
            for i, start in enumerate(_NORM_START, start=1):
                _fill(graph, node, i, lambda old, start=start: np.full(old.shape, start))
        elif kind in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            for i in (0, 1):
                _fill(
                    graph, node, i, lambda old, node=node: random.normal(0, np.sqrt(2 / _fan_in(node, old)), old.shape)
                )
            _fill(graph, node, 3 if node.op_type == "DeformConv" else 2, lambda old: np.zeros(old.shape))


def _fan_in(node: ir.Node, weight: Array) -> int:
    if PLAIN.get(node.op_type) == "Conv" or node.op_type == "Conv":
        return max(prod(weight.shape[1:]), 1)
    if node.op_type == "ConvTranspose":
        return max(int(weight.shape[0]) * prod(weight.shape[2:]), 1)
    flipped = "transB" in node.attributes and node.attributes["transB"].value
    return max(int(weight.shape[-1 if flipped else 0]), 1)


def _fill(graph: Graph, node: ir.Node, i: int, make: object) -> None:
    """Replace a constant operand's content, at the initializer or Constant node that a plain chain starts from."""
    value = node.inputs[i] if i < len(node.inputs) else None
    if value is None or not graph.is_constant(value):
        return
    while (maker := value.producer()) is not None and maker.op_type in {"Identity", "Cast", "Transpose"}:
        if maker.inputs[0] is None:
            return
        value = maker.inputs[0]
    old = graph.array(value)
    if old.dtype.kind != "f" or not callable(make):
        return
    replace_constant(graph, value, np.asarray(make(old)))
