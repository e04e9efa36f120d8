"""Copies of a model for one run: to learn every shape, to pool every layer's response.

They are never written. Where the taps stand in the node list decides the memory: onnxruntime schedules from the
last leaf back, so that main nodes first and then the taps in reverse layer order let every response be freed
as soon as it is pooled (a test guards it; nothing depends on it for correctness).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from onnx import helper

from pfa_onnx.graph import protos
from pfa_onnx.graph.model import Graph

if TYPE_CHECKING:
    from pfa_onnx.graph.trace import Traced

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


def tapped(graph: Graph, layers: Sequence[Traced]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy that gives every layer's pooled response, [rows, C], and {layer output: its output name}.

    Nothing behind the last measured layer is left in it.
    """
    proto = protos.to_proto(graph.model)
    taps = {traced.layer.output: f"pfa_onnx/response/{k}" for k, traced in enumerate(layers)}
    pooled = [_pool(traced, taps[traced.layer.output], graph.opset) for traced in layers]
    drop_unread(proto, taps)
    for nodes in reversed(pooled):
        proto.graph.node.extend(nodes)
    _outputs(proto, [onnx.ValueInfoProto(name=tap) for tap in taps.values()])
    return proto, taps


def _pool(traced: Traced, tap: str, opset: int) -> list[onnx.NodeProto]:
    """Pool over all axes but samples and channels (paper, section 3.1: spatial max-pooling)."""
    source, rank, axis = traced.layer.output, len(traced.shape), traced.axis
    if axis == 1 and rank > 2:
        pool = helper.make_node("GlobalMaxPool", [source], [f"{tap}/pooled"], name=f"{tap}/pool")
        return [pool, helper.make_node("Flatten", [f"{tap}/pooled"], [tap], name=tap, axis=1)]
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
            waiting += [*_reads(maker[name]), *maker[name].output]
    weights = {tensor.name for tensor in graph.initializer}
    _filter(graph.node, lambda node: any(name in needed for name in node.output))
    _filter(graph.input, lambda value: value.name in needed or value.name not in weights)
    _filter(graph.initializer, lambda tensor: tensor.name in needed)


def _filter(items: Any, keep: Callable[[Any], bool]) -> None:
    """Delete from a repeated field in place: weights are not copied."""
    for k in reversed(range(len(items))):
        if not keep(items[k]):
            del items[k]


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return every name a node may read, those in its bodies included."""
    names = list(node.input)
    for attribute in node.attribute:
        for body in (
            [attribute.g, *attribute.graphs]
            if attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
            else []
        ):
            for inner in body.node:
                names += _reads(inner)
            names += [value.name for value in body.output]
    return names
