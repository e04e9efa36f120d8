"""Operators that choose: Slice, Gather, Pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops import learned, refuse_inputs, rule, unknown
from pfa_onnx.recipe import Ints


@rule("Slice")
def slice_(c: Context) -> None:
    """Starts, ends, axes, steps: attributes at first, inputs since opset 10."""
    fields = [_field(c, name, k + 1) for k, name in enumerate(("starts", "ends", "axes", "steps"))]
    starts, ends, axes, steps = fields
    x = c.mark(0)
    if starts is None or ends is None or (c.has(3) and axes is None) or (c.has(4) and steps is None):
        unknown(c)
        return
    listed = [int(a) % x.rank for a in axes] if axes is not None else list(range(len(starts)))
    if c.is_constant(0):
        x = _table(c, listed)
    by = [int(s) for s in steps] if steps is not None else [1] * len(starts)
    new_starts, new_ends = starts.copy(), ends.copy()
    result = x
    before = c.operand_shape(0)
    for k, axis in enumerate(listed):
        start, end, step = slice(int(starts[k]), int(ends[k]), by[k]).indices(before[axis])
        if not x.varies(axis):
            count = len(range(start, end, step))
            result = Marked(result.ids, (*result.shape[:axis], count, *result.shape[axis + 1 :]), result.axes)
        elif step == 1:
            end = max(start, end)
            if not (c.is_constant(1) and c.is_constant(2)) and c.has(1):
                _equal_pieces(c, axis, start, end, before[axis])
            _, first, last, _ = c.bounds(0, axis, [0, start, end, before[axis]])
            new_starts[k] = _restated(starts[k], first, before[axis], x.shape[axis])
            new_ends[k] = _restated(ends[k], last, before[axis], x.shape[axis])
            _keep_computed(c, k, (first, last), x.shape[axis], (new_starts, new_ends))
            result = movement.take(result, axis, np.arange(first, last))
        else:
            result = _strided(c, result, axis, range(start, end, step))
            if 0 <= ends[k] < before[axis]:
                new_ends[k] = min(int(ends[k]), x.shape[axis])
    _restate(c, ("starts", 1, starts, new_starts), ("ends", 2, ends, new_ends))
    c.out(result)


def _equal_pieces(c: Context, axis: int, start: int, end: int, extent: int) -> None:
    """A bound computed from the extent, as chunk() is exported, stays right when all pieces shrink alike."""
    size = end - start
    if size and extent % size == 0 and start % size == 0:
        rows = np.moveaxis(c.mark(0).ids, axis, -1)
        if rows.shape[-1] == extent:
            c.blocks(rows.reshape(-1, size))


def _field(c: Context, name: str, i: int) -> Ints | None:
    """Return a field of Slice wherever it is written."""
    if c.has(i):
        known = c.original(i)
        return None if known is None else np.asarray(known, dtype=np.int64).ravel()
    attribute = c.attr(name, None)
    return None if attribute is None else np.asarray(attribute, dtype=np.int64)


def _restated(written: np.int64, now: int, extent: int, extent_now: int) -> int:
    """Return a bound in the style in which it was written: from the end, or beyond the end, stays so."""
    if written < 0:
        return now - extent_now if now < extent_now else int(written)
    return int(written) if written >= extent else now


def _keep_computed(c: Context, k: int, wanted: tuple[int, int], extent: int, bounds: tuple[Ints, Ints]) -> None:
    """Leave bounds alone that are computed from the extent and have followed it."""
    now = c.known(1), c.known(2)
    if now[0] is None or now[1] is None:
        return
    start, end = int(now[0].ravel()[k]), int(now[1].ravel()[k])
    if slice(start, end).indices(extent)[:2] == wanted:
        bounds[0][k], bounds[1][k] = start, end


def _strided(c: Context, x: Marked, axis: int, chosen: range) -> Marked:
    """A stride keeps its meaning where whole strides leave together, as the pairs of a rotary embedding do."""
    step, extent = chosen.step, c.operand_shape(0)[axis]
    if step < 1 or extent % step or chosen.start >= step or len(chosen) != extent // step:
        c.freeze(x.ids, f"is sliced with step {step} along its channels")
        return movement.take(x, axis, np.array(list(chosen), dtype=np.int64))
    moved = np.moveaxis(x.full([axis]), axis, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, step)
    c.same(blocks, blocks[..., :1])
    return movement.take(x, axis, np.arange(chosen.start, x.shape[axis], step))


def _restate(c: Context, *fields: tuple[str, int, Ints, Ints]) -> None:
    for name, i, was, now in fields:
        if c.has(i):
            c.rewrite(i, now)
        elif not np.array_equal(was, now):
            c.rewrite_attr(name, now.tolist())


@rule("Gather")
def gather(c: Context) -> None:
    """From an activation by constant indices: channels are picked. From a constant by data: an embedding."""
    x, indices = c.mark(0), c.original(1)
    axis = int(c.attr("axis", 0)) % x.rank
    if c.is_constant(0):
        _gather_by_data(c, _table(c, [axis]), axis)
        return
    if indices is None:
        if x.varies(axis):
            refuse_inputs(c, "by indices computed from data")
        else:
            _gather_by_data(c, x, axis)
        return
    before = c.operand_shape(0)
    wanted = np.where(indices < 0, indices + before[axis], indices).astype(np.int64)
    now = c.positions(0, axis, wanted)
    if not np.array_equal(now, wanted):
        c.rewrite(1, now)
    c.out(movement.take(x, axis, now))


def _gather_by_data(c: Context, x: Marked, axis: int) -> None:
    indices = c.operand_shape(1)
    more = len(indices) - 1
    extents = (*x.shape[:axis], *indices, *x.shape[axis + 1 :])
    ids_shape = (*x.ids.shape[:axis], *(1,) * len(indices), *x.ids.shape[axis + 1 :])
    axes = tuple(a if a < axis else a + more for a in x.axes)
    c.out(Marked(x.ids.reshape(ids_shape), extents, axes))


@rule("GatherND")
def gather_nd(c: Context) -> None:
    """Every index picks a position along the leading axes; labels along the others pass."""
    if c.is_constant(0):
        refuse_inputs(c, "of a constant")
        return
    x, indices = c.mark(0), c.operand_shape(1)
    picked = int(c.attr("batch_dims", 0)) + indices[-1]
    if 1 in c.activations():
        c.freeze(c.mark(1).ids, "chooses where GatherND reads")
    c.steady(1)
    if any(a < picked for a in x.axes):
        refuse_inputs(c, "along its channels")
        return
    more = len(indices) - 1 - picked
    ids = x.ids.reshape((1,) * (len(indices) - 1) + x.ids.shape[picked:])
    c.out(Marked(ids, (*indices[:-1], *x.shape[picked:]), tuple(a + more for a in x.axes)))


@rule("GatherElements")
def gather_elements(c: Context) -> None:
    """There is an index for every element: along all axes but one the indices have the channels of the data."""
    if c.is_constant(0) or 1 not in c.activations():
        refuse_inputs(c, "by constant indices, or from a constant")
        return
    marks, before, after = (c.mark(0), c.mark(1)), c.operand_shape(0), c.out_shape()
    axis = int(c.attr("axis", 0)) % len(before)
    varied = sorted({a for x in marks for a in x.axes})
    if any(a == axis or before[a] != after[a] for a in varied):
        refuse_inputs(c, "along its channels")
        return
    shapes = (tuple(n if a in varied else 1 for a, n in enumerate(x.shape)) for x in marks)
    joined = c.join([Marked(x.ids, shape, x.axes) for x, shape in zip(marks, shapes, strict=True)])
    extents = tuple(joined.shape[a] if a in varied else n for a, n in enumerate(after))
    c.out(Marked(joined.ids, extents, joined.axes))


def _table(c: Context, picked: Sequence[int]) -> Marked:
    """Return the labels of a learned constant of which parts are picked, as tables of positions and of words are."""
    return learned(c, [a for a in range(len(c.operand_shape(0))) if a not in picked])


@rule("Trilu", "ReverseSequence", "CenterCropPad")
def by_place(c: Context) -> None:
    """What a position becomes depends on its place along some axes: labels pass along the others."""
    x, kind = c.mark(0), c.node.op_type
    if kind == "Trilu":
        axes = [x.rank - 2, x.rank - 1]
    elif kind == "ReverseSequence":
        axes = [int(c.attr("batch_axis", 1)) % x.rank, int(c.attr("time_axis", 0)) % x.rank]
    else:
        axes = [int(a) % x.rank for a in c.attr("axes", range(x.rank))]
    c.freeze_along(x, axes, f"is placed along its channels by {kind}")
    rest = tuple(a for a in x.axes if a not in axes)
    ids = x.ids[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.rank))]  # all of them stay
    c.out(Marked(ids, tuple(x.shape[a] if a in rest else n for a, n in enumerate(c.out_shape())), rest))


@rule("Pad")
def pad(c: Context) -> None:
    """What is added along the channels is born with labels of its own; then the amounts shrink with it."""
    x = c.mark(0)
    amounts = c.attr("pads", None) if not c.has(1) else c.original(1)
    listed = c.known(3) if c.has(3) else None
    if amounts is None or (c.has(3) and listed is None):
        refuse_inputs(c, "by amounts computed from data")
        return
    axes = [int(a) % x.rank for a in listed.ravel()] if listed is not None else list(range(x.rank))
    written = np.asarray(amounts, dtype=np.int64).ravel()
    now, result = written.copy(), x
    before, after = c.operand_shape(0), c.out_shape()
    for k, axis in enumerate(axes):
        first, last = int(written[k]), int(written[k + len(axes)])
        if (first, last) == (0, 0):
            continue
        if before[axis] + first + last != after[axis] or (result.varies(axis) and min(first, last) < 0):
            refuse_inputs(c, "along its channels by a negative amount")
            return
        if not result.varies(axis):
            extents = (*result.shape[:axis], after[axis], *result.shape[axis + 1 :])
            result = Marked(result.ids, extents, result.axes)
            continue
        result, now[k], now[k + len(axes)] = _grow(c, result, axis, first, last)
        if c.attr("mode", b"constant") not in {b"constant", "constant"}:
            c.freeze(result.ids, "is padded along its channels with channels of its own")
    if c.has(1):
        c.rewrite(1, now)
    elif not np.array_equal(now, written):
        c.rewrite_attr("pads", now.tolist())
    c.out(result)


def _grow(c: Context, x: Marked, axis: int, first: int, last: int) -> tuple[Marked, int, int]:
    """Return the labels with new ones on both sides, and how many there are on each."""
    parts, counts = [], []
    for side, count in (("before", first), ("after", last)):
        labels = c.grown(f"{side} {axis}", count)
        counts.append(len(labels))
        extents = tuple(len(labels) if a == axis else n for a, n in enumerate(x.shape))
        parts.append(Marked(along(labels, axis, x.rank), extents, (axis,)))
    return movement.concat([parts[0], x, parts[1]], axis), counts[0], counts[1]
