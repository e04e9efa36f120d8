"""Concat and Split: channels put side by side, and taken apart again."""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops import computed, rule, unknown


@rule("Concat")
def concat(c: Context) -> None:
    """Side by side along the axis; along all others the parts are the same.

    A constant part is born with labels of its own, so that it can shrink with what it is added to.
    """
    rank = len(c.out_shape())
    axis = int(c.attr("axis", 1)) % rank
    changing = c.activations()
    if not changing:
        computed(c)
        return
    parts = {i: c.mark(i) for i in changing}
    across = any(p.varies(axis) for p in parts.values())
    shared = _shared(c, list(parts.values()), axis) if not across else None
    pieces = []
    for i in range(len(c.node.inputs)):
        if i in parts:
            pieces.append(parts[i])
        elif not c.is_constant(i):
            c.steady(i)
            pieces.append(_still(c, i))
        elif shared is not None:
            c.follow(i, Marked(shared.ids, _with(shared.shape, axis, c.operand_shape(i)[axis]), shared.axes))
            pieces.append(Marked(shared.ids, _with(shared.shape, axis, c.operand_shape(i)[axis]), shared.axes))
        else:
            pieces.append(_constant_part(c, i, axis))
    c.out(movement.concat(pieces, axis))


def _shared(c: Context, parts: list[Marked], axis: int) -> Marked:
    """Say that parts agree along every axis but the one they are joined along."""
    return c.join([Marked(p.ids, _with(p.shape, axis, 1), p.axes) for p in parts])


def _with(shape: tuple[int, ...], axis: int, extent: int) -> tuple[int, ...]:
    return (*shape[:axis], extent, *shape[axis + 1 :])


def _constant_part(c: Context, i: int, axis: int) -> Marked:
    labels = c.born(i, axis)
    shape = c.operand_shape(i)
    ids = along(labels, axis, len(shape))
    c.bind(i, Factor(ids))
    return Marked(ids, _with(shape, axis, len(labels)), (axis,))


def _still(c: Context, i: int) -> Marked:
    """Give a part that is computed from shapes one frozen label."""
    labels = c.grown(f"part {i}", 1)
    c.freeze(labels, "is joined with values computed from shapes")
    shape = c.operand_shape(i)
    return Marked(labels.reshape((1,) * len(shape)), shape, ())


@rule("Split")
def split(c: Context) -> None:
    """Sizes are an attribute, since opset 13 an input; without either, or by num_outputs, the pieces are equal."""
    x = c.mark(0)
    axis = int(c.attr("axis", 0)) % x.rank
    sizes = [c.out_shape(k)[axis] for k in range(len(c.node.outputs))]
    if c.has(1) and c.known(1) is None:
        unknown(c)
        return
    ends = c.bounds(0, axis, [0, *np.cumsum(sizes).tolist()])
    now = np.diff(ends)
    if c.has(1):
        c.rewrite(1, now.astype(np.int64))
    elif c.attr("split", None) is not None:
        c.rewrite_attr("split", now.tolist())
    elif not np.array_equal(now, sizes):
        _write_sizes(c, now)
    for k in range(len(sizes)):
        c.out(movement.take(x, axis, np.arange(ends[k], ends[k + 1])), k)


def _write_sizes(c: Context, now: np.ndarray) -> None:
    """Equal pieces need no sizes; unequal ones do."""
    if c.graph.opset < 13:
        c.rewrite_attr("split", now.tolist())
    elif (now == now[0]).all():
        return
    else:
        c.rewrite_attr("num_outputs", None)
        c.insert_input(1, now.astype(np.int64))
