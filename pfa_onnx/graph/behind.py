"""What directly follows a layer: its bias, its BatchNormalization, its activation.

"Directly" means that nothing else reads what lies between. A bias that is an Add, and a normalisation that is written
out as Sub, Mul, Add or Div by constants of one number a channel, count as what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.trace import Traced
from pfa_onnx.recipe import Floats
from pfa_onnx.responses import Tap

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_AFFINE = {"Add", "Sub", "Mul", "Div"}
_STEPS = 6  # of a function that a tensor is multiplied by: x * sigmoid(x), x * clip(x + 3) / 6, x * (1 + erf(...))
_ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Clip", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid",
    "HardSwish", "Swish", "Mish", "Gelu", "FastGelu", "QuickGelu", "Tanh", "Softplus", "Softsign", "Erf",
}  # fmt: skip


def tap_points(graph: Graph, layers: Sequence[Traced], tap: Tap) -> dict[str, str]:
    """Return, by layer output, the tensor that is measured; of the layer's shape, with channels on the same axis."""
    if tap == "layer":
        return {traced.layer.output: traced.layer.output for traced in layers}
    return {traced.layer.output: str(_point(graph, traced, tap).name) for traced in layers}


def batch_norm_scale(graph: Graph, traced: Traced) -> Floats | None:
    """Return gamma of the BatchNormalization that directly follows a layer, [C]; None where there is none."""
    value = graph.nodes[traced.use[0]].outputs[0]
    while (node := _affine_reader(graph, value, traced.layer.channels)) is not None:
        if node.op_type == "BatchNormalization":
            scale = node.inputs[1]
            if scale is None or not graph.is_constant(scale):
                return None
            return np.broadcast_to(graph.array(scale).astype(np.float64).ravel(), (traced.layer.channels,))
        if node.op_type not in {"Add", "Sub"}:
            return None
        value = node.outputs[0]
    return None


def _point(graph: Graph, traced: Traced, tap: Tap) -> ir.Value:
    value = graph.nodes[traced.use[0]].outputs[0]
    while (node := _affine_reader(graph, value, traced.layer.channels)) is not None:
        value = node.outputs[0]
    if tap == "bn":
        return value
    reader = _only_reader(value)
    if reader is not None and _is_activation(reader) and reader.inputs[0] is value:
        return reader.outputs[0]
    return _gated(graph, value) or value


def _affine_reader(graph: Graph, value: ir.Value, channels: int) -> ir.Node | None:
    """Return the only reader, if it is a BatchNormalization or combines channels with a constant each."""
    node = _only_reader(value)
    if node is None or node.domain not in _DOMAINS:
        return None
    if node.op_type == "BatchNormalization":
        return node if node.inputs[0] is value else None
    if node.op_type not in _AFFINE or (node.op_type == "Div" and node.inputs[0] is not value):
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    return node if graph.is_constant(other) and other is not None and graph.array(other).size == channels else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _is_activation(node: ir.Node) -> bool:
    return node.op_type in _ACTIVATIONS and node.domain in _DOMAINS


def _gated(graph: Graph, value: ir.Value) -> ir.Value | None:
    """Return what an activation that exporters spell out makes: the tensor times a function of itself alone."""
    uses = list(value.uses())
    if len(uses) != 2 or value.is_graph_output():
        return None
    for use in uses:
        if use.node.op_type == "Mul":
            other = use.node.inputs[1 - use.idx]
            if other is not None and _is_function_of(graph, other, value):
                return use.node.outputs[0]
    return None


def _is_function_of(graph: Graph, value: ir.Value, source: ir.Value) -> bool:
    for _ in range(_STEPS):
        node = value.producer()
        if node is None or _only_reader(value) is None:
            return False
        given = [v for v in node.inputs if v is not None and not graph.is_constant(v)]
        if len(given) != 1 or not (_is_activation(node) or node.op_type in _AFFINE):
            return False
        value = given[0]
        if value is source:
            return True
    return False
