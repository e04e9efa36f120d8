"""The size of every channel's weights: what the magnitude baselines rank by."""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph.labels import varying
from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.recipe import Floats


def filter_norms(trace: Trace, traced: Traced, order: int) -> Floats:
    """Return the l1 or l2 norm of the weights that make each channel of a layer, [C]."""
    index, i = traced.use
    value = trace.graph.nodes[index].inputs[i]
    assert value is not None
    weight = np.abs(trace.graph.array(value).astype(np.float64)) ** order
    made = next(f for f in trace.binds[traced.use] if f.role == "made")
    axes = varying(made.ids) or (0,)
    if len(axes) > 1:  # a grouped transposed convolution: [groups * n, m, k...] makes groups * m channels
        groups = traced.layer.channels // weight.shape[1]
        sums = weight.reshape(groups, -1, weight.shape[1], *weight.shape[2:]).sum(axis=(1, *range(3, weight.ndim + 1)))
        sums = sums.ravel()
    else:
        sums = weight.sum(axis=tuple(a for a in range(weight.ndim) if a != axes[0]))
    if len(sums) != traced.layer.channels:  # a transposed depthwise convolution makes several channels a filter
        sums = np.repeat(sums, traced.layer.channels // len(sums))
    norms: Floats = sums if order == 1 else np.sqrt(sums)
    return norms
