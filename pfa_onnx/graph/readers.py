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

from pfa_onnx.graph.constants import replace_constant
from pfa_onnx.graph.model import Graph, constant_of
from pfa_onnx.recipe import Floats, Geometry

Array = npt.NDArray[Any]

_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_RENAMES = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}


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

    Left out are weights that are quantised, computed, or read by others too, and layers with a bias that is not one
    number for each output.
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


def extents(graph: Graph, reader: Reader) -> tuple[int, int, int]:
    """Return the extents of its matrix."""
    shape, g = graph.array(_given(reader.node.inputs[reader.operand])).shape, reader.geometry
    if g.kind == "conv":
        return g.groups, prod(shape[1:]), shape[0] // g.groups
    if g.kind == "transposed":
        return g.groups, shape[0] // g.groups * prod(shape[2:]), shape[1]
    d, n = _read_first(reader, np.broadcast_to(0.0, shape)).shape
    return 1, d, n


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
    more = more.ravel()
    if node.op_type == "Gemm":
        more = more / _beta(node)
    if kind == "new":
        _new_bias(graph, reader, more)
        return
    value = _given(node.inputs[index])
    old = graph.array(value).astype(np.float64)
    _write(graph, value, old + (-more if kind == "mean" else more).reshape(old.shape))


def own_bias(graph: Graph, reader: Reader) -> Floats:
    """Return what the layer itself adds to what its weights make, [groups, n]."""
    groups, _, n = extents(graph, reader)
    value = _third(reader.node)
    if value is None:
        return np.zeros((groups, n))
    found = graph.array(value).astype(np.float64).ravel() * (_beta(reader.node) if reader.node.op_type == "Gemm" else 1)
    return np.broadcast_to(found, (groups * n,)).reshape(groups, n).copy()


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
    found = Reader(node, str(source.name), str(node.outputs[0].name), operand, geometry, level)
    bias = _third(node)
    if bias is not None and not (graph.is_constant(bias) and _is_one_each(graph, found, bias)):
        return None  # what is added differs from position to position
    return found


def _third(node: ir.Node) -> ir.Value | None:
    """Return the bias that is an input of the layer itself."""
    return node.inputs[2] if node.op_type != "MatMul" and len(node.inputs) > 2 else None


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
    if any(extent != 1 for extent in shape[:-2]) or len(shape) < 2 or _attribute(node, "alpha", 1.0) == 0:
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


def _beta(gemm: ir.Node) -> float:
    return float(_attribute(gemm, "beta", 1.0))


# --- where the bias lies ----------------------------------------------------------------------------------


def _bias_place(graph: Graph, reader: Reader) -> tuple[ir.Node, int, str] | None:
    """Return the node, its input, and what that is: "bias", the "mean" of a normalisation, or "new"."""
    node = reader.node
    own = _third(node)
    takes = node.op_type.startswith("Conv") or (node.op_type == "Gemm" and _beta(node) != 0)
    if takes and own is not None and _is_writable(own) and _is_vector(graph, reader, own):
        return node, 2, "bias"
    after = _only_reader(node.outputs[0])
    if after is not None and after.op_type == "BatchNormalization" and _is_mean_of(graph, reader, after):
        return after, 3, "mean"
    if after is not None and after.op_type == "Add" and after.domain in {"", "ai.onnx"}:
        value = after.inputs[1 - list(after.inputs).index(node.outputs[0])]
        if value is not None and graph.is_constant(value) and _is_writable(value) and _is_vector(graph, reader, value):
            return after, list(after.inputs).index(value), "bias"
    return (node, 2, "new") if takes and (reader.operand or reader.geometry.kind != "matrix") else None


def _is_mean_of(graph: Graph, reader: Reader, norm: ir.Node) -> bool:
    """Whether a normalisation subtracts a constant from each output of the layer, and it can be written."""
    mean = norm.inputs[3] if len(norm.inputs) > 3 else None
    if mean is None or norm.inputs[0] is not reader.node.outputs[0] or reader.geometry.made != 1:
        return False
    trains = _attribute(norm, "training_mode", 0) or len(norm.outputs) > 1
    one_each = graph.is_constant(mean) and graph.array(mean).shape == (_outputs(graph, reader),)
    return one_each and _is_writable(mean) and not trains


def _is_vector(graph: Graph, reader: Reader, value: ir.Value) -> bool:
    """Whether a constant has a number for each output of the layer, along the axis it makes."""
    return prod(graph.array(value).shape) == _outputs(graph, reader) and _is_one_each(graph, reader, value)


def _is_one_each(graph: Graph, reader: Reader, value: ir.Value) -> bool:
    """Whether adding a constant to what the layer makes adds one number to each output, at all positions."""
    shape, g, outputs = graph.array(value).shape, reader.geometry, _outputs(graph, reader)
    if prod(shape) == 1:
        return True
    behind = int(g.made in {-2, 0}) if g.kind == "matrix" else len(g.kernel)  # axes behind that of the outputs
    if g.kind != "matrix" and value is _third(reader.node):
        behind = 0
    return prod(shape) == outputs and len(shape) > behind and shape[-1 - behind] == outputs


def _outputs(graph: Graph, reader: Reader) -> int:
    groups, _, n = extents(graph, reader)
    return groups * n


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _new_bias(graph: Graph, reader: Reader, more: Floats) -> None:
    """Give a layer a bias of its own: what it had, and more."""
    weight, old = graph.array(_given(reader.node.inputs[reader.operand])), _third(reader.node)
    if old is not None:
        more = more + graph.array(old).astype(np.float64).ravel()
    main = graph.model.graph
    taken = {str(v.name) for node in graph.nodes for v in node.outputs} | {str(v.name) for v in main.inputs}
    name = f"{reader.name}.bias"
    while name in taken or name in main.initializers:
        name += "_"
    tensor = ir.Tensor(_rounded(more, weight.dtype), name=name)
    value = ir.Value(name=name, shape=ir.Shape(more.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    main.register_initializer(value)
    if graph.model.ir_version < 4:  # until then initializers had to be inputs too
        main.inputs.append(value)
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
        if node is None:
            return value.const_value is not None and value.const_value.dtype in _FLOATS
        if node.op_type == "Constant":
            return constant_of(node).dtype.kind == "f"
        if node.op_type not in _RENAMES or node.inputs[0] is None:
            return False
        value = node.inputs[0]


def _write(graph: Graph, value: ir.Value, wanted: Array) -> None:
    """Change a constant at its root, so that it becomes what is wanted."""
    chain: list[ir.Node] = []
    while (node := value.producer()) is not None and node.op_type != "Constant":
        chain.append(node)
        value = _given(node.inputs[0])
    narrow = [graph.array(v) for step in chain for v in step.outputs]  # a Cast may allow less than the root
    for step in chain:
        before = graph.array(_given(step.inputs[0])).shape
        if step.op_type == "Transpose":
            order = _attribute(step, "perm", list(range(wanted.ndim))[::-1])
            wanted = np.transpose(wanted, np.argsort(order))
        else:
            wanted = wanted.reshape(before)
    for one in narrow:
        wanted = _within(wanted, one.dtype)
    replace_constant(graph, value, wanted)


def _within(wanted: Array, dtype: npt.DTypeLike) -> Array:
    """Return numbers that do not overflow in a type."""
    most = 65504.0 if np.dtype(dtype) == np.float16 else 3.3e38
    return np.clip(wanted, -most, most)


def _rounded(wanted: Array, dtype: npt.DTypeLike) -> Array:
    found: Array = _within(wanted, dtype).astype(dtype)
    return found


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
