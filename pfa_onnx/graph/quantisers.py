"""Quantisers of activations round: a change of one in a million may become a step of 1 in 255 at the output.

Two copies help the proof with that: one without these quantisers, where only arithmetic is left, and one whose
constants are changed a little, which shows what rounding alone does. Neither is ever written.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph import protos
from pfa_onnx.graph.model import Graph, static_shape

_ROUND = {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_DOMAINS = {"", "ai.onnx", "com.microsoft"}


def rounds(graph: Graph) -> bool:
    """Tell whether activations are quantised."""
    return any(_is_quantiser(graph, node) for node in graph.nodes)


def _is_quantiser(graph: Graph, node: ir.Node) -> bool:
    return node.op_type in _ROUND and node.domain in _DOMAINS and not graph.is_constant(node.outputs[0])


def unrounded(graph: Graph, model: ir.Model) -> ir.Model | None:
    """Return a copy in which what was quantised and read back is taken as it is; None where some is read in between.

    graph: where the copy's external data lies. The values that a quantiser would cut off are left as well.
    """
    copy = Graph(protos.copied(model, graph.directory), graph.path, "")
    for node in [n for n in copy.nodes if _is_quantiser(copy, n)]:
        readers = [use.node for use in node.outputs[0].uses()]
        pairs = node.op_type == "QuantizeLinear" and all(_reads_back(node, reader) for reader in readers)
        if not pairs or node.outputs[0].is_graph_output():
            return None
        for reader in readers:
            reader.op_type, reader.domain = "Identity", ""
            reader.attributes.clear()
            reader.resize_inputs(1)
            reader.replace_input_with(0, node.inputs[0])
    return copy.model


def _reads_back(quantiser: ir.Node, reader: ir.Node) -> bool:
    if reader.op_type != "DequantizeLinear" or reader.inputs[0] is not quantiser.outputs[0]:
        return False
    one, other = quantiser.inputs[1], reader.inputs[1]
    return one is not None and other is not None and one.dtype == other.dtype


def jitter(graph: Graph, model: ir.Model, size: float, seed: int) -> None:
    """Change the floating-point initializers by about `size` of what they are, in place, as they are written.

    The scales of activations stay: pairs of them have to be equal, or runtimes take other ways.
    """
    fixed = {str(v.name) for n in graph.nodes if _is_scaled_activation(graph, n) for v in n.inputs[1:] if v is not None}
    for k, (name, value) in enumerate(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and name not in fixed and tensor.dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
            value.const_value = _jittered(tensor, size, (seed, k))


def _is_scaled_activation(graph: Graph, node: ir.Node) -> bool:
    known = node.op_type in {"QuantizeLinear", "DequantizeLinear"} and node.domain in _DOMAINS
    return known and not graph.is_constant(node.inputs[0])


def _jittered(tensor: ir.TensorProtocol, size: float, seed: tuple[int, int]) -> ir.LazyTensor:
    def make() -> ir.Tensor[np.ndarray]:
        array = np.asarray(tensor.numpy())
        noise = np.random.default_rng(seed).normal(scale=size, size=array.shape)
        return ir.Tensor((array * (1 + noise)).astype(array.dtype), name=tensor.name)

    return ir.LazyTensor(make, tensor.dtype, ir.Shape(static_shape(tensor)), name=tensor.name)
