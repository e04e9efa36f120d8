"""onnxruntime's own fused operators, where they are simple: the rest freeze what they read, like any unknown one."""

from __future__ import annotations

from pfa_onnx.graph.context import Context
from pfa_onnx.graph.ops import rule
from pfa_onnx.graph.ops.contraction import conv

_DOMAIN = "com.microsoft"


@rule("FusedConv", domain=_DOMAIN)
def fused_conv(c: Context) -> None:
    """A convolution with its activation, and with what is added before it."""
    conv(c)
    c.out(c.plus(3, c.marks[str(c.node.outputs[0].name)]))


@rule("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain=_DOMAIN)
def gelu(c: Context) -> None:
    """Element-wise, with a bias or without."""
    c.out(c.plus(1, c.mark(0)))
