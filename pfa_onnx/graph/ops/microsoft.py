"""onnxruntime's own fused operators, where they are simple; `refusals` says why the rest stay as they are."""

from __future__ import annotations

from pfa_onnx.graph.context import Context
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import refuse_inputs, rule
from pfa_onnx.graph.ops.contraction import add_to_made, conv, gemm, multiply

_DOMAIN = "com.microsoft"


@rule("FusedConv", domain=_DOMAIN)
def fused_conv(c: Context) -> None:
    """A convolution with its activation, and with what is added before it."""
    conv(c)
    add_to_made(c, 3)


@rule("FusedGemm", domain=_DOMAIN)
def fused_gemm(c: Context) -> None:
    """A Gemm with its activation."""
    gemm(c)


@rule("FusedMatMul", "TransposeMatMul", domain=_DOMAIN)
def fused_matmul(c: Context) -> None:
    """A scaled product; either operand may have its last two axes, or its batch axes, in another order."""
    if c.attr("transBatchA", 0) or c.attr("transBatchB", 0):
        refuse_inputs(c, "with its batch axes moved: prune the model before it is optimised")
        return
    multiply(c, bool(c.attr("transA", 0)), bool(c.attr("transB", 0)))


@rule("BiasGelu", "FastGelu", "Gelu", "QuickGelu", domain=_DOMAIN)
def gelu(c: Context) -> None:
    """Element-wise, with a bias or without."""
    c.out(c.plus(1, c.mark(0)))


@rule("SimplifiedLayerNormalization")
def simplified(c: Context) -> None:
    """RMSNormalization before the standard had it."""
    x = c.mark(0)
    x = c.mixed(x, range(int(c.attr("axis", -1)) % x.rank, x.rank), "normalised", "statistics")
    _normalised(c, c.plus(1, x))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def skip_layer_norm(c: Context) -> None:
    """A residual Add, perhaps of a bias as well, and the norm of the sum; the sum may be an output of its own."""
    if c.is_constant(0) or c.is_constant(1):
        refuse_inputs(c, "of a constant")
        return
    bias = 4 if c.node.op_type == "SkipLayerNormalization" else 3
    total = c.plus(bias, c.join([c.mark(0), c.mark(1)]))
    total = c.mixed(total, [total.rank - 1], "normalised")
    _normalised(c, total)
    if len(c.node.outputs) > 3 and c.node.outputs[3].name:
        c.out(total, 3)


def _normalised(c: Context, x: Marked) -> None:
    """Set the outputs: the first has labels, statistics have none."""
    for k in range(1, len(c.node.outputs)):
        c.opaque(f"is a statistic of {c.node.op_type}", k)
    c.out(x)
