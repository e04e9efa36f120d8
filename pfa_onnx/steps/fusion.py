"""Keep onnxruntime's CPU fusions alive beside the taps.

A convolution whose output is also tapped is no longer fused with what follows it. A Relu of its own costs little, but
Clip and its kin have no kernel for the blocked layout of the CPU: every one of them was unblocked and blocked again,
and calibrating MobileNetV2 took 1.6 times its inference. An identity, as a depthwise convolution of one pixel, stands
between the two in the copy that calibrates: what follows is fused with it, in the blocked layout. It changes no value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pfa_onnx.graph.trace import Traced

BLOCK = 16  # channels that depthwise convolutions have a multiple of, to be blocked; half of it without AVX-512
FUSED = {"Clip", "LeakyRelu", "HardSigmoid"}  # with a convolution, but not blocked on their own
PREFIX = "pfa_onnx/identity"


def keep_fused(proto: onnx.ModelProto, layers: Sequence[Traced]) -> int:
    """Insert identities behind tapped convolutions where they pay, in place; return how many."""
    channels = {
        traced.layer.output: traced.layer.channels
        for traced in layers
        if traced.layer.op == "Conv" and len(traced.shape) == 4 and traced.axis == 1
    }
    single = _float_convolutions(proto)
    reads = Counter(name for node in proto.graph.node for name in node.input if not _is_tap(node))
    follower = {name: node for node in proto.graph.node for name in node.input if not _is_tap(node)}
    nodes: list[onnx.NodeProto] = []
    ones: dict[int, str] = {}
    inserted = 0
    for node in proto.graph.node:
        index = _place(node, channels, reads, follower)
        if index is not None and node.input[index] in single:
            source, width = node.input[index], channels[node.input[index]]
            name = f"{PREFIX}/{inserted}"
            weight = ones.setdefault(width, f"{PREFIX}/ones/{width}")
            nodes.append(
                helper.make_node("Conv", [source, weight], [name], name=name, group=width, kernel_shape=[1, 1])
            )
            node.input[index] = name
            inserted += 1
        nodes.append(node)
    if inserted:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(_ones(width, name) for width, name in ones.items())
    return inserted


def _place(
    node: onnx.NodeProto, channels: Mapping[str, int], reads: Counter[str], follower: Mapping[str, onnx.NodeProto]
) -> int | None:
    """Return which input of a node is better read through an identity, or None."""
    if node.domain not in {"", "ai.onnx"} or _is_tap(node):
        return None
    wanted = node.op_type in FUSED or node.op_type in {"Add", "Sum"}  # a sum is added up in the convolution
    if node.op_type == "BatchNormalization":  # folded into the identity, for the sake of what follows
        after = follower.get(node.output[0])
        wanted = after is not None and after.op_type in FUSED and reads[node.output[0]] == 1
    if not wanted:
        return None
    fit = (k for k, name in enumerate(node.input) if channels.get(name, 1) % BLOCK == 0 and reads[name] == 1)
    return next(fit, None)


def _is_tap(node: onnx.NodeProto) -> bool:
    return any(name.startswith("pfa_onnx/response/") for name in node.output)


def _float_convolutions(proto: onnx.ModelProto) -> set[str]:
    """Return the outputs of convolutions in float32: the only ones that onnxruntime blocks."""
    weights = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return {node.output[0] for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in weights}


def _ones(width: int, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones((width, 1, 1, 1), np.float32), name)
