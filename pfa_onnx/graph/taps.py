"""Copies of a model for one run: to learn every shape, to pool every layer's response.

They are never written. Where the taps stand in the node list decides the memory: onnxruntime schedules from the
last leaf back, so that main nodes first and then the taps in reverse layer order let every response be freed
as soon as it is pooled (a test guards it; nothing depends on it for correctness).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir as ir
from onnx import helper

from pfa_onnx.graph import protos
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.pools import POSITIONS, check_nodes, mean_nodes, position_nodes, square_nodes
from pfa_onnx.graph.preflight import reads
from pfa_onnx.responses import Pool

if TYPE_CHECKING:
    from pfa_onnx.graph.norms import Operand
    from pfa_onnx.graph.trace import Traced

Pooling = Literal["global", "reduce", "tiled"]  # operators that pool alike, to the last bit
POOLED = {ir.DataType.FLOAT, ir.DataType.FLOAT16}  # what "global" and "tiled" have kernels for
TILE = 8  # of "tiled": 8 x 8 positions first, then what is left

_NO_TENSOR = {
    "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence", "SequenceMap",
    "Optional", "OptionalGetElement", "ZipMap", "DictVectorizer", "CastMap",
}  # fmt: skip

_READ_SEQUENCES = {
    "ConcatFromSequence",
    "SequenceAt",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
}


def probe(graph: Graph) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy that gives the shape of every tensor, and {its output name: tensor name}."""
    proto = protos.to_proto(graph.model)
    wanted: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        for value in node.outputs:
            if value.name and node.op_type not in _NO_TENSOR and not _is_sequence(value):
                tap = f"pfa_onnx/shape/{len(wanted)}"
                wanted[tap] = str(value.name)
                nodes.append(helper.make_node("Shape", [str(value.name)], [tap], name=tap))
    proto.graph.node.extend(nodes)
    _outputs(proto, [helper.make_tensor_value_info(tap, onnx.TensorProto.INT64, None) for tap in wanted])
    return proto, wanted


def _is_sequence(value: ir.Value) -> bool:
    """Tell whether a value is no tensor: by its type, or, where the file has none, by who reads it."""
    told = isinstance(value.type, ir.SequenceType | ir.OptionalType)
    return told or any(use.node.op_type in _READ_SEQUENCES and use.idx == 0 for use in value.uses())


@dataclass(frozen=True)
class Tapping:
    """How responses are taken; the default is the paper's way.

    poolings: by which operators space is pooled, by layer output. points: the tensors that are measured in place
    of the layers' outputs. operands: what layers read, of which the mean squares are wanted too; double: the layers
    for which these are taken in double precision. samples: that the layers' shapes are of.
    """

    poolings: Mapping[str, Pooling] = field(default_factory=dict)
    pool: Pool = "max"
    points: Mapping[str, str] = field(default_factory=dict)
    operands: Mapping[str, Operand] = field(default_factory=dict)
    double: Collection[str] = ()
    samples: int = 1


def tapped(
    graph: Graph, layers: Sequence[Traced], how: Tapping | None = None
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy that gives every layer's response, [rows, C], and {layer output: its output name}.

    The mean squares of what a layer reads are in `squares_tap` of that name. Nothing behind the last measured layer is
    left in the copy.
    """
    how = how or Tapping()
    proto = protos.to_proto(graph.model)
    taps = {traced.layer.output: f"pfa_onnx/response/{k}" for k, traced in enumerate(layers)}
    nodes = [_tap_nodes(traced, taps[traced.layer.output], graph.opset, how) for traced in layers]
    drop_unread(proto, [how.points.get(output, output) for output in taps])
    for some in reversed(nodes):
        proto.graph.node.extend(some)
    squares = [squares_tap(taps[output]) for output in how.operands]
    _outputs(proto, [onnx.ValueInfoProto(name=tap) for tap in (*taps.values(), *squares)])
    return proto, taps


def squares_tap(tap: str) -> str:
    """Return the name of the output that has the mean squares of what a layer reads."""
    return f"{tap}/input"


def _tap_nodes(traced: Traced, tap: str, opset: int, how: Tapping) -> list[onnx.NodeProto]:
    output, rank, axis = traced.layer.output, len(traced.shape), traced.axis
    source, nodes = how.points.get(output, output), []
    operand = how.operands.get(output)
    if operand is not None:
        double = output in how.double
        nodes = square_nodes(operand.tensor, squares_tap(tap), len(operand.shape), operand.axis, opset, double=double)
    if how.pool == "mean" and axis:
        reduce = how.poolings.get(output) == "reduce"
        return [*nodes, *mean_nodes(source, tap, rank, axis, opset, reduce=reduce)]
    if how.pool == "positions" and axis:
        rows = max(1, POSITIONS * how.samples // max(1, traced.shape[0]))  # a sample's windows share its rows
        return [*nodes, *position_nodes(source, tap, traced.shape, axis, rows)]
    return [*nodes, *pool_nodes(source, tap, rank, axis, opset, pooling=how.poolings.get(output, "global"))]


def checked(graph: Graph, layers: Sequence[Traced]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy that gives zero for every layer, [rows, C], but NaN where a response is NaN or infinite."""
    proto = protos.to_proto(graph.model)
    taps = {traced.layer.output: f"pfa_onnx/check/{k}" for k, traced in enumerate(layers)}
    drop_unread(proto, taps)
    for traced in reversed(layers):
        output, rank = traced.layer.output, len(traced.shape)
        proto.graph.node.extend(check_nodes(output, taps[output], rank, traced.axis, graph.opset))
    _outputs(proto, [onnx.ValueInfoProto(name=tap) for tap in taps.values()])
    return proto, taps


def showing(model: ir.Model, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are these tensors, and that computes nothing else."""
    proto = protos.to_proto(model)
    drop_unread(proto, names)
    _outputs(proto, [onnx.ValueInfoProto(name=name) for name in names])
    return proto


def pool_nodes(
    source: str, tap: str, rank: int, axis: int, opset: int, *, pooling: Pooling = "global"
) -> list[onnx.NodeProto]:
    """Return nodes that pool over all axes but samples and channels (paper, section 3.1: spatial max-pooling).

    "global" and "tiled" are for channels on axis 1; elsewhere it is a reduction in any case.
    """
    if axis == 1 and rank > 2 and pooling != "reduce":
        nodes: list[onnx.NodeProto] = []
        if pooling == "tiled":
            sides = [TILE] * (rank - 2)
            how: dict[str, Any] = {"kernel_shape": sides, "strides": sides, "ceil_mode": 1}
            nodes = [helper.make_node("MaxPool", [source], [f"{tap}/tiles"], name=f"{tap}/tile", **how)]
            source = f"{tap}/tiles"
        pool = helper.make_node("GlobalMaxPool", [source], [f"{tap}/pooled"], name=f"{tap}/pool")
        return [*nodes, pool, helper.make_node("Flatten", [f"{tap}/pooled"], [tap], name=tap, axis=1)]
    axes = [a for a in range(1, rank) if a != axis]
    if not axes:
        return [helper.make_node("Identity", [source], [tap], name=tap)]
    if opset < 18:
        return [helper.make_node("ReduceMax", [source], [tap], name=tap, axes=axes, keepdims=0)]
    listed = helper.make_node("Constant", [], [f"{tap}/axes"], name=f"{tap}/axes", value_ints=axes)
    return [listed, helper.make_node("ReduceMax", [source, f"{tap}/axes"], [tap], name=tap, keepdims=0)]


def _outputs(proto: onnx.ModelProto, values: Iterable[onnx.ValueInfoProto]) -> None:
    del proto.graph.output[:]
    proto.graph.output.extend(values)
    del proto.graph.value_info[:]


def drop_unread(proto: onnx.ModelProto, wanted: Iterable[str]) -> None:
    """Drop the nodes and initializers that no wanted tensor depends on."""
    graph = proto.graph
    maker = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in maker:
            waiting += [*reads(maker[name]), *maker[name].output]
    weights = {tensor.name for tensor in graph.initializer}
    _filter(graph.node, lambda node: any(name in needed for name in node.output))
    _filter(graph.input, lambda value: value.name in needed or value.name not in weights)
    _filter(graph.initializer, lambda tensor: tensor.name in needed)


def _filter(items: Any, keep: Callable[[Any], bool]) -> None:
    """Delete from a repeated field in place: weights are not copied."""
    for k in reversed(range(len(items))):
        if not keep(items[k]):
            del items[k]
