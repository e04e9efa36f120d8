"""Which constants of a graph are weights: those that training changes, and that go back into the file by name.

The table of operators says which operands are weights. Behind an operand may stand a chain of nodes that only
initializers feed (an Identity, a Transpose, a standardised weight): the initializers at its start are trained, the
chain is computed for every batch. Elsewhere an added or multiplied vector is a weight if it is as long as some layer
is wide and meets something that weights made, so that the mean and the deviation of an image stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from pfa_onnx.graph.model import Graph, captured
from pfa_onnx.torch.registry import Operator, find

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm"}
_STATISTICS = (3, 4)  # of BatchNormalization: running mean and variance


@dataclass(frozen=True)
class Weights:
    """What training changes.

    parameters: names of initializers (or outputs of Constant nodes), in the order in which they are read first.
    statistics: running means and variances that one BatchNormalization alone reads. Shared ones stay as they are, and
    so does a weight that is one of them, too: exporters store once what happens to be equal.
    made: values that are computed from parameters alone.
    """

    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    made: frozenset[str]


def find_weights(graph: Graph) -> Weights:
    """Find them; the graph is not changed."""
    widths, running = _widths(graph), _running(graph)
    parameters: dict[str, None] = {}
    touched: set[str] = set()  # values that weights had a part in
    for node in graph.nodes:
        entry = find(node)
        reads = {str(v.name) for v in (*node.inputs, *captured(node)) if v is not None}
        for index in _trained(graph, node, entry, widths, touched):
            value = node.inputs[index]
            assert value is not None
            found = {root: None for root in _roots(graph, value) if root not in running}
            parameters |= found
            reads |= found.keys()
        if not reads.isdisjoint(touched) or not reads.isdisjoint(parameters):
            touched |= {str(v.name) for v in node.outputs}
    statistics = tuple(name for name, readers in running.items() if readers == 1)
    return Weights(tuple(parameters), statistics, frozenset(_made_of(graph, {*parameters, *statistics})))


def _trained(graph: Graph, node: ir.Node, entry: Operator | None, widths: set[int], touched: set[str]) -> Iterator[int]:
    """Yield the operands of a node that are weights."""
    for index, value in enumerate(node.inputs):
        if entry is None or value is None or not graph.is_constant(value):
            continue
        if entry.trains == "vectors":
            others = [v for v in node.inputs if v is not value and v is not None]
            if any(str(v.name) in touched for v in others) and _is_vector(graph, value, widths):
                yield index
        elif index in entry.trains:
            yield index


def _widths(graph: Graph) -> set[int]:
    """Return every extent of the weights of layers."""
    return {
        extent
        for node in graph.nodes
        if node.op_type in _LAYERS
        for value in node.inputs[:2]
        if value is not None and graph.is_constant(value)
        for extent in graph.shape_of(value, {})
    }


def _is_vector(graph: Graph, value: ir.Value, widths: set[int]) -> bool:
    long = [extent for extent in graph.shape_of(value, {}) if extent != 1]
    return len(long) == 1 and long[0] in widths


def _roots(graph: Graph, value: ir.Value) -> Iterator[str]:
    """Yield the float initializers and Constant nodes that a constant is made of; scalars are no weights."""
    waiting: list[ir.Value | None] = [value]
    while waiting:
        one = waiting.pop()
        node = None if one is None else one.producer()
        if node is not None and node.op_type != "Constant":
            if node.op_type not in {"DequantizeLinear", "QuantizeLinear", "CastLike"}:
                waiting += reversed(node.inputs)
        elif one is not None and _is_weight(graph, one, node):
            yield str(one.name)


def _is_weight(graph: Graph, value: ir.Value, node: ir.Node | None) -> bool:
    tensor = value.const_value if node is None else None
    dtype = tensor.dtype if tensor is not None else ir.DataType.from_numpy(graph.array(value).dtype)
    return dtype in _FLOATS and (graph.shape_of(value, {}) not in {(), (1,)} or node is None)


def _running(graph: Graph) -> dict[str, int]:
    """Return every running mean and variance, and by how many nodes it is read as such."""
    read: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type == "BatchNormalization":
            for index in _STATISTICS:
                value = _unnamed(node.inputs[index])
                if value is not None and value.is_initializer():
                    read[str(value.name)] = read.get(str(value.name), 0) + 1
    return read


def _unnamed(value: ir.Value | None) -> ir.Value | None:
    """Look through Identity, by which exporters share what is equal."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    return value


def _made_of(graph: Graph, names: set[str]) -> set[str]:
    found = set(names)
    for node in graph.nodes:
        reads = [str(v.name) for v in node.inputs if v is not None]
        if any(name in found for name in reads) and all(graph.is_constant(v) for v in node.inputs if v is not None):
            found |= {str(v.name) for v in node.outputs}
    return found
