"""The size of every channel's weights: what the magnitude baselines rank by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.labels import varying
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.recipe import Floats

_CONVOLUTIONS = {"Conv", "ConvTranspose", "DeformConv"}


@dataclass(frozen=True)
class Operand:
    """What a layer reads: the tensor's name and shape, and the axis of its channels; weight_axis: of its weight."""

    tensor: str
    axis: int
    shape: tuple[int, ...]
    weight_axis: int
    groups: int = 1


def filter_norms(trace: Trace, traced: Traced, order: int, inputs: Floats | None = None) -> Floats:
    """Return the l1 or l2 norm of the weights that make each channel of a layer, [C].

    inputs: the norms of what the weights are multiplied with, by channel of the layer's input: every weight then
    counts as often (with order 1, the score of Wanda, summed over the weights of a filter).
    """
    index, i = traced.use
    value = trace.graph.nodes[index].inputs[i]
    assert value is not None
    weight = np.abs(trace.graph.array(value).astype(np.float64))
    if inputs is not None:
        operand = operand_of(trace.graph, traced, trace.shapes)
        assert operand is not None
        weight = weight * _aligned(inputs, operand, weight.shape)
    weight = weight**order
    made = next(f for f in trace.binds[traced.use] if f.role == "made")
    axes = varying(made.ids) or (0,)
    if len(axes) > 1:  # a grouped transposed convolution: [groups * n, m, k...] makes groups * m channels
        groups = traced.layer.channels // weight.shape[1]
        sums = weight.reshape(groups, -1, weight.shape[1], *weight.shape[2:]).sum(axis=(1, *range(3, weight.ndim + 1)))
        sums = sums.ravel()
    else:
        sums = weight.sum(axis=tuple(a for a in range(weight.ndim) if a != axes[0]))
    if len(sums) != traced.layer.channels:  # a transposed depthwise convolution makes several channels a filter
        sums = np.repeat(sums, traced.layer.channels // len(sums))
    norms: Floats = sums if order == 1 else np.sqrt(sums)
    return norms


def operands_of(graph: Graph, layers: Iterable[Traced], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Operand]:
    """Return what the layers read, by layer output, less what has its channels on the first axis."""
    found = {traced.layer.output: operand_of(graph, traced, shapes) for traced in layers}
    return {output: operand for output, operand in found.items() if operand is not None and operand.axis}


def operand_of(graph: Graph, traced: Traced, shapes: Mapping[str, tuple[int, ...]]) -> Operand | None:
    """Return what a layer reads; None for an Einsum, which may sum over anything."""
    index, i = traced.use
    node = graph.nodes[index]
    source = node.inputs[0 if node.op_type in _CONVOLUTIONS else 1 - i]
    weight = node.inputs[i]
    shape = () if source is None else shapes.get(str(source.name), ())
    if source is None or weight is None or not shape:
        return None
    rank = len(graph.shape_of(weight, dict(shapes)))
    if node.op_type in _CONVOLUTIONS:
        groups = node.attributes.get("group")
        count = 1 if groups is None else int(groups.value)
        return Operand(str(source.name), 1, shape, 0 if node.op_type == "ConvTranspose" else 1, count)
    if node.op_type == "MatMul":
        return Operand(str(source.name), len(shape) - (1 if i else 2), shape, rank - (2 if i else 1))
    if node.op_type == "Gemm":
        flipped = [_is_set(node, "transA"), _is_set(node, "transB")]
        axes = [0 if flipped[0] else 1, 1 if flipped[1] else 0]  # that are summed over, of A and of B
        return Operand(str(source.name), axes[1 - i], shape, axes[i])
    return None


def _is_set(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.value)


def _aligned(inputs: Floats, operand: Operand, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the norms of the input channels so that they broadcast to the weight."""
    if operand.weight_axis == 1 and operand.groups > 1:  # [groups * m, n, k...] reads n channels of its own group
        rows = np.repeat(inputs.reshape(operand.groups, -1), shape[0] // operand.groups, axis=0)
        return rows.reshape(*rows.shape, *(1 for _ in shape[2:]))
    return inputs.reshape([-1 if a == operand.weight_axis else 1 for a in range(len(shape))])
