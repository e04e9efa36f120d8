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
    if c.has(3):
        name = str(c.node.outputs[0].name)
        if c.is_constant(3):
            c.follow(3, c.marks[name])
        else:
            c.out(c.join([c.marks[name], c.mark(3)]))


@rule("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain=_DOMAIN)
def gelu(c: Context) -> None:
    """Element-wise, with a bias or without."""
    x = c.mark(0)
    if c.has(1):
        if c.is_constant(1):
            c.follow(1, x)
        else:
            x = c.join([x, c.mark(1)])
    c.out(x)
