"""Layers as linear maps: their weights as matrices, where their bias lies, and how to write both back.

A matrix is [groups, d, n]: d unfolded inputs (channel by channel, each with all its kernel positions) make n outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.model import Graph, constant_of, read_tensor
from pfa_onnx.recipe import Floats, Geometry

Array = npt.NDArray[Any]

_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_RENAMES = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer whose weights may be written anew.

    source, output: the names of the tensors that it reads and makes. operand: the input that is its weight.
    level: how many readers lie before it on the longest way from an input.
    """

    node: ir.Node
    source: str
    output: str
    operand: int
    geometry: Geometry
    level: int

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name or self.output)


def readers(graph: Graph) -> Iterator[Reader]:
    """Yield the layers whose weights can be written anew, in execution order.

    Left out are weights that are quantised, computed, or read by others too.
    """
    depth: dict[str, int] = {}
    for node in graph.nodes:
        level = max((depth.get(str(v.name), 0) for v in node.inputs if v is not None), default=0)
        found = _reader(graph, node, level)
        depth.update({str(v.name): level + (found is not None) for v in node.outputs})
        if found is not None:
            yield found


def matrix(graph: Graph, reader: Reader) -> Floats:
    """Return the weights as [groups, d, n]."""
    weight = graph.array(_given(reader.node.inputs[reader.operand])).astype(np.float64)
    g = reader.geometry
    if g.kind == "conv":  # [groups * n, C / groups, kernel]
        return np.ascontiguousarray(weight.reshape(g.groups, -1, prod(weight.shape[1:])).swapaxes(1, 2))
    if g.kind == "transposed":  # [groups * c, n, kernel]
        split = weight.reshape(g.groups, weight.shape[0] // g.groups, weight.shape[1], -1)
        return np.ascontiguousarray(split.swapaxes(2, 3).reshape(g.groups, -1, weight.shape[1]))
    return np.ascontiguousarray(_scale(reader) * _read_first(reader, weight))[None]


def replace_matrix(graph: Graph, reader: Reader, wanted: Floats) -> None:
    """Write a matrix [groups, d, n] back into the constant that the weights come from."""
    value = _given(reader.node.inputs[reader.operand])
    shape = graph.array(value).shape
    g = reader.geometry
    if g.kind == "conv":
        weight = wanted.swapaxes(1, 2).reshape(shape)
    elif g.kind == "transposed":
        split = wanted.reshape(g.groups, shape[0] // g.groups, -1, shape[1])
        weight = split.swapaxes(2, 3).reshape(shape)
    else:
        weight = _read_first(reader, wanted[0] / _scale(reader)).reshape(shape)
    _write(graph, value, weight)


def add_bias(graph: Graph, reader: Reader, more: Floats) -> None:
    """Add a vector to what a layer makes: in its bias, in the normalisation or sum behind it, or in a new bias."""
    place = _bias_place(graph, reader)
    assert place is not None
    node, index, kind = place
    if kind == "new":
        _new_bias(graph, reader, more)
        return
    value = _given(node.inputs[index])
    old = graph.array(value)
    added = -more if kind == "mean" else more
    if kind == "bias" and reader.node.op_type == "Gemm":
        added = added / float(_attribute(reader.node, "beta", 1.0))
    _write(graph, value, old + added.reshape(old.shape if old.size == added.size else -1))


def has_bias(graph: Graph, reader: Reader) -> bool:
    """Whether there is a place to add a vector to what a layer makes."""
    return _bias_place(graph, reader) is not None


# --- which nodes are readers ----------------------------------------------------------------------------


def _reader(graph: Graph, node: ir.Node, level: int) -> Reader | None:
    if node.op_type not in _LINEAR or node.domain not in {"", "ai.onnx"} or len(node.inputs) < 2:
        return None
    constant = [graph.is_constant(value) for value in node.inputs[:2]]
    if sum(constant) != 1 or (node.op_type.startswith("Conv") and constant[0]):
        return None
    operand = constant.index(True)
    weight = _given(node.inputs[operand])
    if not _is_writable(weight) or graph.array(weight).dtype.kind != "f":
        return None
    geometry = _geometry(graph, node, operand)
    if geometry is None:
        return None
    source = _given(node.inputs[1 - operand])
    return Reader(node, str(source.name), str(node.outputs[0].name), operand, geometry, level)


def _geometry(graph: Graph, node: ir.Node, operand: int) -> Geometry | None:
    shape = graph.array(_given(node.inputs[operand])).shape
    if node.op_type in {"Conv", "ConvTranspose"}:
        rank = len(shape) - 2
        ones, transposed = [1] * rank, node.op_type == "ConvTranspose"
        pad = _attribute(node, "auto_pad", "NOTSET")
        if transposed and (pad != "NOTSET" or "output_shape" in node.attributes):
            return None
        return Geometry(
            "transposed" if transposed else "conv",
            read=1,
            made=1,
            groups=int(_attribute(node, "group", 1)),
            kernel=shape[2:],
            strides=tuple(_attribute(node, "strides", ones)),
            dilations=tuple(_attribute(node, "dilations", ones)),
            begins=tuple(_attribute(node, "pads", [0] * 2 * rank))[:rank],
            auto_pad=str(pad),
        )
    if any(extent != 1 for extent in shape[:-2]) or len(shape) < 2:
        return None
    if node.op_type == "MatMul":
        return Geometry("matrix", read=-1, made=-1) if operand else Geometry("matrix", read=-2, made=-2)
    flipped = bool(_attribute(node, "transA" if operand else "transB", 0))
    if operand:
        return Geometry("matrix", read=0 if flipped else 1, made=1)
    return Geometry("matrix", read=1 if flipped else 0, made=0)


def _read_first(reader: Reader, weight: Floats) -> Floats:
    """Turn a matrix so that the summed axis is the first one; the same turn leads back."""
    weight = weight.reshape(weight.shape[-2:])
    name = "transB" if reader.operand else "transA"
    flipped = reader.node.op_type == "Gemm" and bool(_attribute(reader.node, name, 0))
    return weight.T if flipped == bool(reader.operand) else weight


def _scale(reader: Reader) -> float:
    return float(_attribute(reader.node, "alpha", 1.0)) if reader.node.op_type == "Gemm" else 1.0


# --- where the bias lies ----------------------------------------------------------------------------------


def _bias_place(graph: Graph, reader: Reader) -> tuple[ir.Node, int, str] | None:
    """Return the node, its input, and what that is: "bias", the "mean" of a normalisation, or "new"."""
    node = reader.node
    if node.op_type != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return (node, 2, "bias") if _is_vector(graph, reader, node.inputs[2]) else None
    after = _only_reader(node.outputs[0])
    if after is not None and after.op_type == "BatchNormalization" and reader.geometry.made == 1:
        mean = after.inputs[3]
        if graph.is_constant(mean) and _is_writable(_given(mean)) and not _attribute(after, "training_mode", 0):
            return after, 3, "mean"
    if after is not None and after.op_type == "Add":
        index = 1 - list(after.inputs).index(node.outputs[0])
        if _is_vector(graph, reader, after.inputs[index]):
            return after, index, "bias"
    if node.op_type.startswith("Conv") or (node.op_type == "Gemm" and reader.operand):
        return node, 2, "new"
    return None


def _is_vector(graph: Graph, reader: Reader, value: ir.Value | None) -> bool:
    """Whether a constant has a number for each output of the layer, along the axis it makes, and can be written."""
    if value is None or not graph.is_constant(value) or not _is_writable(value):
        return False
    shape, outputs = graph.array(value).shape, _outputs(graph, reader)
    if prod(shape) != outputs or outputs == 1:
        return False
    if reader.geometry.kind != "matrix":  # its own bias has one axis, that of a sum behind it also has those of space
        return len(shape) in {1, len(reader.geometry.kernel) + 1, len(reader.geometry.kernel) + 2} and (
            value is _own_bias(reader) or (len(shape) > 1 and shape[-1 - len(reader.geometry.kernel)] == outputs)
        )
    last = reader.geometry.made == -1 or (reader.geometry.made == 1 and reader.node.op_type == "Gemm")
    return shape[-1] == outputs if last else len(shape) > 1 and shape[-2] == outputs


def _own_bias(reader: Reader) -> ir.Value | None:
    return reader.node.inputs[2] if len(reader.node.inputs) > 2 else None


def _outputs(graph: Graph, reader: Reader) -> int:
    found = matrix(graph, reader).shape
    return int(found[0] * found[2])


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _new_bias(graph: Graph, reader: Reader, more: Floats) -> None:
    weight = graph.array(_given(reader.node.inputs[reader.operand]))
    taken = {str(v.name) for node in graph.nodes for v in node.outputs} | set(graph.model.graph.initializers)
    name = f"{reader.name}.bias"
    while name in taken:
        name += "_"
    tensor = ir.Tensor(more.astype(weight.dtype), name=name)
    value = ir.Value(name=name, shape=ir.Shape(more.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    if len(reader.node.inputs) < 3:
        reader.node.resize_inputs(3)
    reader.node.replace_input_with(2, value)
    graph.forget()


# --- writing constants -----------------------------------------------------------------------------------------


def _is_writable(value: ir.Value) -> bool:
    """Whether nobody else reads a constant, nor what it comes from, and only its shape and type change on the way."""
    while True:
        if len(list(value.uses())) != 1 or value.is_graph_output():
            return False
        node = value.producer()
        if node is None or node.op_type == "Constant":
            return True
        if node.op_type not in _RENAMES or node.inputs[0] is None:
            return False
        value = node.inputs[0]


def _write(graph: Graph, value: ir.Value, wanted: Array) -> None:
    """Change a constant at its root, so that it becomes what is wanted."""
    chain: list[ir.Node] = []
    while (node := value.producer()) is not None and node.op_type != "Constant":
        chain.append(node)
        value = _given(node.inputs[0])
    for step in chain:
        before = graph.array(_given(step.inputs[0])).shape
        if step.op_type == "Transpose":
            order = _attribute(step, "perm", list(range(wanted.ndim))[::-1])
            wanted = np.transpose(wanted, np.argsort(order))
        else:
            wanted = wanted.reshape(before)
    if node is None:
        old = read_tensor(value)
        value.const_value = ir.Tensor(np.ascontiguousarray(wanted.astype(old.dtype)), name=value.name)
    else:
        old = constant_of(node)
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(np.ascontiguousarray(wanted.astype(old.dtype))))
    graph.forget()


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
