"""Quantize and dequantize: element-wise, with one scale and zero point, or one for every index of an axis."""

from __future__ import annotations

from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.ops import refuse_inputs, rule


@rule("DequantizeLinear", "QuantizeLinear")
@rule("DequantizeLinear", "QuantizeLinear", domain="com.microsoft")
def linear(c: Context) -> None:
    """Labels pass; scales along a labelled axis follow it."""
    x = c.mark(0)
    scales = c.operand_shape(1)
    if len(scales) > 1 or not c.is_constant(1) or (c.has(2) and not c.is_constant(2)):
        refuse_inputs(c, "with blocks or computed scales")
        return
    axis = int(c.attr("axis", 1)) % max(x.rank, 1)
    if len(scales) == 1 and scales[0] > 1 and x.varies(axis):
        labels = c.channels(x, axis)
        for i in (1, 2):
            if c.has(i):
                c.bind(i, Factor(labels))
    c.out(x)
