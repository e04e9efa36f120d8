"""Operators that work on every channel by itself, over its positions: pooling, resizing, sampling."""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph.context import Context
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import learned, rule


@rule("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
def pool(c: Context) -> None:
    """Axis 1 passes; the positions of one channel are mixed."""
    x = c.mark(0)
    if len(c.node.outputs) == 1 and x.axes and all(_sees_one(c, axis) for axis in x.axes):
        shape = tuple(x.shape[a] if x.varies(a) else n for a, n in enumerate(c.out_shape()))
        c.out(Marked(x.ids, shape, x.axes))
        return
    labels = c.channels(x, 1)
    if len(c.node.outputs) > 1 and c.node.outputs[1].name:
        c.freeze(labels, "is counted by the indices that MaxPool gives")
    for k in range(len(c.node.outputs)):
        c.vector_out(labels, 1, k)


def _sees_one(c: Context, axis: int) -> bool:
    """Tell whether the window sees one position of an axis of space at a time, and goes on to the next one."""
    kernel = c.attr("kernel_shape", None)
    if kernel is None or axis < 2 or c.attr("auto_pad", b"NOTSET") not in {"NOTSET", b"NOTSET"}:
        return False
    k, strides, pads = axis - 2, c.attr("strides", [1] * len(kernel)), c.attr("pads", [0] * 2 * len(kernel))
    return bool(kernel[k] == strides[k] == 1 and pads[k] == pads[k + len(kernel)] == 0)


@rule("Resize", "Upsample")
def resize(c: Context) -> None:
    """Labels pass along axes that keep their extent; sizes that restate a channel extent are rewritten."""
    before, after = c.operand_shape(0), c.out_shape()
    changed = [a for a in range(len(before)) if before[a] != after[a]]
    x = learned(c, [a for a in range(len(before)) if a not in changed][:2]) if c.is_constant(0) else c.mark(0)
    c.freeze_along(x, changed, f"is resized along its channels by {c.node.op_type}")
    ids = c.uniform(x, [a for a in changed if x.varies(a)])
    axes = tuple(a for a in x.axes if a not in changed)
    result = Marked(ids, tuple(x.shape[a] if x.varies(a) else after[a] for a in range(x.rank)), axes)
    if c.node.op_type == "Resize" and c.has(3):
        _sizes(c, result)
    c.out(result)


def _sizes(c: Context, result: Marked) -> None:
    """Keep the sizes as they are written but along the axes that labels vary along."""
    written = c.original(3)
    if written is None:
        c.freeze(result.ids, "is resized to sizes computed from data")
        return
    listed = c.attr("axes", None) or list(range(result.rank))
    wanted = np.array([result.shape[a] if result.varies(a) else n for a, n in zip(listed, written, strict=True)])
    c.rewrite(3, wanted.astype(written.dtype))


@rule("GridSample", "MaxRoiPool", "RoiAlign")
def sample(c: Context) -> None:
    """Read positions that the other inputs choose, of every channel by itself."""
    labels = c.channels(c.mark(0), 1)
    for i in c.activations():
        if i > 0:
            c.freeze(c.mark(i).ids, f"chooses where {c.node.op_type} reads")
    c.vector_out(labels, 1)
