"""Normalisations: per-channel parameters follow axis 1; a norm over the channels depends on every one of them."""

from __future__ import annotations

from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.ops import freeze_inputs, rule


@rule("BatchNormalization", "InstanceNormalization")
def per_channel(c: Context) -> None:
    """Scale, bias and statistics are one number a channel."""
    x = c.mark(0)
    if c.node.op_type == "InstanceNormalization":
        c.freeze_along(x, range(2, x.rank), "is normalised over its channels by InstanceNormalization")
    labels = c.channels(x, 1)
    for i in range(1, len(c.node.inputs)):
        if c.is_constant(i):
            c.bind(i, Factor(labels))
        else:
            c.freeze(labels, f"is scaled by a computed parameter of {c.node.op_type}")
    c.vector_out(labels, 1)
    for k in range(1, len(c.node.outputs)):
        if c.node.outputs[k].name and c.out_shape(k):
            c.vector_out(labels, 0, k)


@rule("LayerNormalization", "RMSNormalization", "LogSoftmax", "Softmax", "Hardmax", "LpNormalization")
def over_axes(c: Context) -> None:
    """Labels pass along the axes that are not normalised over."""
    x = c.mark(0)
    kind = c.node.op_type
    default = 1 if kind in {"Softmax", "LogSoftmax", "Hardmax"} and c.graph.opset < 13 else -1
    axis = int(c.attr("axis", default)) % x.rank
    flattened = kind in {"LayerNormalization", "RMSNormalization"} or (kind != "LpNormalization" and c.graph.opset < 13)
    axes = range(axis, x.rank) if flattened else [axis]
    x = c.mixed(x, list(axes), "normalised")
    for k in range(len(c.node.outputs)):
        c.out(x, 0) if k == 0 else c.opaque(f"is a statistic of {kind}", k)


@rule("LRN")
def local_response(c: Context) -> None:
    """Neighbouring channels enter each other's denominator."""
    x = c.mark(0)
    c.freeze_along(x, [1], "is normalised over its channels by LRN")
    c.out(x)


@rule("GroupNormalization", "MeanVarianceNormalization")
def over_groups(c: Context) -> None:
    """Channels of one group share a mean."""
    freeze_inputs(c, f"is normalised over its channels by {c.node.op_type}")
    c.out(c.mark(0))
