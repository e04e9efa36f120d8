"""Normalisations: per-channel parameters follow axis 1; a norm over the channels depends on every one of them."""

from __future__ import annotations

from pfa_onnx.graph.context import Context, Factor, Taking
from pfa_onnx.graph.ops import rule


@rule("BatchNormalization", "InstanceNormalization")
def per_channel(c: Context) -> None:
    """Scale, bias and statistics are one number a channel.

    A group normalisation is often written as an instance normalisation of groups, [N, groups, rest]: whole groups may
    go, for the statistics of the others do not change; or, where the user allows it, channels of every group.
    """
    x = c.mark(0)
    within = [a for a in range(2, x.rank) if x.varies(a)]
    if within and c.node.op_type == "InstanceNormalization" and (c.through_norm or not x.varies(1)):
        c.out(c.mixed(x, within, "normalised", "statistics"))
        return
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


_TAKING: dict[str, Taking] = {
    "LayerNormalization": "statistics",
    "LpNormalization": "sums",
    "RMSNormalization": "statistics",
}


@rule("LayerNormalization", "RMSNormalization", "LogSoftmax", "Softmax", "Hardmax", "LpNormalization")
def over_axes(c: Context) -> None:
    """Labels pass along the axes that are not normalised over."""
    kind, layers = c.node.op_type, c.layers(0)
    x = layers[0] if kind in {"Softmax", "LogSoftmax", "Hardmax"} else c.mark(0)
    default = 1 if kind in {"Softmax", "LogSoftmax", "Hardmax"} and c.graph.opset < 13 else -1
    axis = int(c.attr("axis", default)) % x.rank
    flattened = kind in {"LayerNormalization", "RMSNormalization"} or (kind != "LpNormalization" and c.graph.opset < 13)
    axes = range(axis, x.rank) if flattened else [axis]
    if len(layers) > 1 and kind not in _TAKING:
        c.out_layers([c.mixed(x, axes, "normalised") for x in layers])
        return
    x = c.mixed(x, axes, "normalised", _TAKING.get(kind, "all"))
    for i in range(1, len(c.node.inputs)):
        x = c.plus(i, x)
    for k in range(len(c.node.outputs)):
        c.out(x, 0) if k == 0 else c.opaque(f"is a statistic of {kind}", k)


@rule("LRN")
def local_response(c: Context) -> None:
    """Neighbouring channels enter each other's denominator."""
    x = c.mark(0)
    c.freeze_along(x, [1], "is normalised over its channels by LRN")
    c.out(x)


@rule("MeanVarianceNormalization")
def mean_variance(c: Context) -> None:
    """Over batch and space by default: labels pass."""
    x = c.mark(0)
    c.out(c.mixed(x, [int(a) % x.rank for a in c.attr("axes", [0, 2, 3])], "normalised", "statistics"))


@rule("GroupNormalization")
def over_groups(c: Context) -> None:
    """Channels of a group share their statistics: whole groups may go, or, where the user allows it, some of each.

    Scale and bias are one number a group, or a channel since opset 21.
    """
    x = c.mark(0)
    if not x.axes:
        c.out(x)
        return
    labels = c.channels(x, 1)
    groups = int(c.attr("num_groups", 1))
    if c.through_norm:
        c.blocks(labels.reshape(groups, -1))
        c.narrowed(0)
    else:
        rows = labels.reshape(-1, c.operand_shape(0)[1] // groups)
        if groups == 1:
            c.freeze(labels, "is normalised over its channels by GroupNormalization (--through-norm prunes it)")
        c.same(rows, rows[:, :1])
        c.rewrite_attr("num_groups", len(rows))
    for i in (1, 2):
        if not c.is_constant(i):
            c.freeze(labels, "is scaled by a computed parameter of GroupNormalization")
        elif c.graph.opset >= 21:
            c.bind(i, Factor(labels))
        elif not c.through_norm:
            c.bind(i, Factor(rows[:, 0]))
    c.vector_out(labels, 1)
