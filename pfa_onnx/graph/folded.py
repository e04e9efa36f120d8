"""Whether an exporter folded BatchNormalization into the convolutions: it is gone then, and only names tell."""

from __future__ import annotations

import re
from collections import Counter

import onnx_ir as ir

from pfa_onnx.graph.model import Graph

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_MADE_UP = re.compile(r"onnx::Conv\w*_\d+")  # what the TorchScript exporter calls a constant that it computed
# exporter -> how to make it keep them
_KEEP = {
    "torch": "torch.onnx.export(..., optimize=False)",
    "torchscript": "torch.onnx.export(..., training=TrainingMode.PRESERVE, do_constant_folding=False)",
    "tf2onnx": "tell the exporter not to optimise",
}


def batch_norms(graph: Graph) -> tuple[int, int, str | None]:
    """Return how many there are, how many convolutions one was folded into, and how an export keeps them."""
    there = sum(node.op_type == "BatchNormalization" for node in graph.nodes)
    folded = Counter(filter(None, map(_folded_by, graph.nodes)))
    how = _KEEP[folded.most_common(1)[0][0]] if folded else None
    return there, folded.total(), how


def _folded_by(node: ir.Node) -> str | None:
    """Return which exporter folded something into this convolution."""
    if node.op_type not in _CONVOLUTIONS or len(node.inputs) < 3 or node.inputs[1] is None or node.inputs[2] is None:
        return None
    weight, bias = str(node.inputs[1].name), str(node.inputs[2].name)
    if "fused_bn" in bias:
        return "tf2onnx"
    if bias == f"{weight}_bias":
        return "torch"
    return "torchscript" if _MADE_UP.fullmatch(weight) and _MADE_UP.fullmatch(bias) else None
