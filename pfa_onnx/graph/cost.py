"""What a model costs, as papers count: parameters stored, and multiply-accumulates of Conv, Gemm and MatMul.

An operator that is one of these under another name, or that holds two of them as Attention does, counts as they do.

Parameters are the elements of all constants of rank 1 and more that hold weights (floats, or quantized integers
that are dequantized), each stored once; running statistics of BatchNormalization are no parameters. One
multiply-accumulate is one multiplication and one addition; a bias, a norm and an activation cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from pfa_onnx.graph.model import Graph, static_shape

Shapes = Mapping[str, tuple[int, ...]]

_WEIGHT_TYPES = {
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2,
}  # fmt: skip


PLAIN = {
    "DeformConv": "Conv", "FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul",
    "TransposeMatMul": "MatMul",
}  # fmt: skip
_ATTENTION = {("", "Attention"), ("ai.onnx", "Attention"), ("com.microsoft", "MultiHeadAttention")}


def parameters(graph: Graph) -> int:
    """Count the parameters of a model, without reading its weights."""
    return sum(prod(shape) for shape in weights(graph).values())


def weights(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Return the shape of every constant that holds parameters, by name."""
    statistics = {
        id(value)
        for node in graph.nodes
        if node.op_type == "BatchNormalization"
        for value in map(_behind_identities, node.inputs[3:5])
        if value is not None
    }
    found: dict[str, tuple[int, ...]] = {}
    for value in graph.model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in _WEIGHT_TYPES and id(value) not in statistics and len(tensor.shape):
            found[str(value.name)] = static_shape(tensor)
    for node in graph.nodes:
        if node.op_type == "Constant" and "value" in node.attributes and id(node.outputs[0]) not in statistics:
            tensor = node.attributes["value"].value
            if tensor.dtype in _WEIGHT_TYPES and len(tensor.shape):
                found[str(node.outputs[0].name)] = static_shape(tensor)
        elif node.op_type == "ConstantOfShape" and graph.is_constant(node.outputs[0]) and _makes_floats(node):
            shape = graph.array(node.inputs[0])  # type: ignore[arg-type]
            found[str(node.outputs[0].name)] = tuple(int(n) for n in shape)
    return found


def _makes_floats(node: ir.Node) -> bool:
    return "value" not in node.attributes or node.attributes["value"].value.dtype in _WEIGHT_TYPES


def _behind_identities(value: ir.Value | None) -> ir.Value | None:
    while value is not None and value.producer() is not None and value.producer().op_type == "Identity":  # type: ignore[union-attr]
        value = value.producer().inputs[0]  # type: ignore[union-attr]
    return value


def macs(graph: Graph, shapes: Shapes, samples: int = 1) -> int:
    """Count the multiply-accumulates of one sample; `shapes` are those of a run on `samples` samples."""
    return sum(node_macs(graph, node, shapes) for node in graph.nodes) // max(samples, 1)


def node_macs(graph: Graph, node: ir.Node, shapes: Shapes) -> int:
    """Count the multiply-accumulates of one node; 0 for operators that papers do not count."""
    kind = PLAIN.get(node.op_type, node.op_type)
    counted = kind in {"Conv", "ConvTranspose", "Gemm", "MatMul"} or is_attention(node)
    if not counted or len(node.inputs) < 2 or all(graph.is_constant(v) for v in node.outputs):
        return 0
    x, w = (_shape(graph, v, shapes) for v in node.inputs[:2])
    out = shapes.get(str(node.outputs[0].name))
    if x is None or w is None or out is None:
        return 0
    if kind == "Conv":  # every output position sums over one filter
        return prod(out) * prod(w[1:])
    if kind == "ConvTranspose":  # every input position is spread over one filter
        return prod(x) * prod(w[1:])
    if is_attention(node):  # Q K^T, and its product with V: every channel of Q and of the output meets every key
        return _keys(graph, node, shapes, w) * (prod(x) + prod(out))
    return prod(out) * x[-2 if _flag(node, "transA") else -1]


def is_attention(node: ir.Node) -> bool:
    """Tell whether a node holds the two products of attention, and no weights."""
    return (node.domain, node.op_type) in _ATTENTION


def _keys(graph: Graph, node: ir.Node, shapes: Shapes, key: tuple[int, ...]) -> int:
    """Return how many keys there are, those of an earlier run included."""
    i = 4 if node.op_type == "Attention" else 6
    past = _shape(graph, node.inputs[i], shapes) if i < len(node.inputs) else None
    return key[-2] + (past[2] if past else 0)


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].value)


def _shape(graph: Graph, value: ir.Value | None, shapes: Shapes) -> tuple[int, ...] | None:
    if value is None:
        return None
    known = shapes.get(str(value.name))
    return known if known is not None or not graph.is_constant(value) else graph.shape_of(value, dict(shapes))
