"""Reductions: over other axes labels pass; over the channels the result depends on every one of them."""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph.context import Context, Taking
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import rule, unknown

_ZERO_ADDS_NOTHING = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})


@rule("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
      "ReduceSum", "ReduceSumSquare")  # fmt: skip
def reduce(c: Context) -> None:
    """Reduce over the listed axes: an attribute at first, an input since opset 13 (ReduceSum) and 18."""
    x = c.mark(0)
    axes = c.attr("axes", None)
    if axes is None and c.has(1):
        known = c.known(1)
        if known is None:
            unknown(c)
            return
        axes = [int(a) for a in known.ravel()]
    if not axes:
        axes = [] if c.attr("noop_with_empty_axes", 0) else list(range(x.rank))
    taking: Taking = "sums" if c.node.op_type in _ZERO_ADDS_NOTHING else "statistics"
    _reduced(c, x, [a % x.rank for a in axes], taking, keep=bool(c.attr("keepdims", 1)))


@rule("ArgMax", "ArgMin")
def argument(c: Context) -> None:
    """The index of a channel changes when others go."""
    x = c.mark(0)
    _reduced(c, x, [int(c.attr("axis", 0)) % x.rank], "all", keep=bool(c.attr("keepdims", 1)))


def _reduced(c: Context, x: Marked, axes: list[int], taking: Taking, *, keep: bool) -> None:
    x = c.mixed(x, axes, "reduced", taking)
    if x.axes and x.axes[-1] in axes:
        c.opaque(f"is a {c.node.op_type} over channels")
        return
    ids = x.ids
    for axis in axes:
        ids = np.take(ids, [0], axis=axis)
    left = [a for a in range(x.rank) if a not in axes]
    if keep:
        shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
        c.out(Marked(ids, shape, tuple(a for a in x.axes if a not in axes)))
        return
    extents = [ids.shape[a] for a in left]
    varied = tuple(new for new, a in enumerate(left) if x.varies(a))
    c.out(Marked(ids.reshape(extents), tuple(x.shape[a] for a in left), varied))


@rule("CumSum", "TopK")
def along_axis(c: Context) -> None:
    """Labels pass along the other axes."""
    x = c.mark(0)
    axis = c.known(1) if c.node.op_type == "CumSum" else np.array(c.attr("axis", -1))
    if axis is None:
        unknown(c)
        return
    c.freeze_along(x, [int(axis.ravel()[0]) % x.rank], f"is ordered over its channels by {c.node.op_type}")
    for k in range(len(c.node.outputs)):
        shape = c.out_shape(k)
        c.out(Marked(x.ids, tuple(n if x.varies(a) else shape[a] for a, n in enumerate(x.shape)), x.axes), k)
