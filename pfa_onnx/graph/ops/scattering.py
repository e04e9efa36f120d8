"""Writing at positions: along the axes that positions are not chosen on, labels pass."""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import met_along, refuse_inputs, rule, unknown


@rule("ConstantOfShape")
def constant_of_shape(c: Context) -> None:
    """All elements are alike: as many of them may go as what they meet loses."""
    written, shape = c.original(0), c.out_shape()
    axis = met_along(c, range(len(shape))) if written is not None else None
    if written is None or axis is None:
        unknown(c)
        return
    labels = c.grown("filled", shape[axis])
    target = np.asarray(written, dtype=np.int64).copy()
    target[axis] = len(labels)
    c.rewrite(0, target)
    c.vector_out(labels, axis)


@rule("ScatterElements", "Scatter")
def scatter_elements(c: Context) -> None:
    """There is a place for every element: along all axes but one, data, places and updates have the same channels."""
    marks, shapes = {i: c.mark(i) for i in c.activations()}, [c.operand_shape(i) for i in range(3)]
    axis = int(c.attr("axis", 0)) % len(shapes[0])
    varied = sorted({a for x in marks.values() for a in x.axes})
    if not varied or any(a == axis or shape[a] != shapes[0][a] for a in varied for shape in shapes):
        refuse_inputs(c, "along its channels")
        return
    joined = _joined(c, {i: _only(x, varied) for i, x in marks.items()}, (0, 1, 2))
    extents = tuple(joined.shape[a] if a in varied else n for a, n in enumerate(shapes[0]))
    c.out(Marked(joined.ids, extents, joined.axes))


@rule("ScatterND")
def scatter_nd(c: Context) -> None:
    """Every place is one along the leading axes; labels along the others pass."""
    data, places = c.operand_shape(0), c.operand_shape(1)
    picked, spread = places[-1], len(places) - 1
    if 1 in c.activations():
        c.freeze(c.mark(1).ids, "chooses where ScatterND writes")
    c.steady(1)
    marks = {i: c.mark(i) for i in c.activations() if i != 1}
    if not any(x.axes for x in marks.values()) or any(
        a < (spread if i else picked) for i, x in marks.items() for a in x.axes
    ):
        refuse_inputs(c, "along its channels")
        return
    joined = _joined(c, {i: _behind(x, spread if i else picked) for i, x in marks.items()}, (0, 2))
    ids = joined.ids.reshape((1,) * picked + joined.ids.shape)
    c.out(Marked(ids, (*data[:picked], *joined.shape), tuple(a + picked for a in joined.axes)))


def _only(x: Marked, axes: list[int]) -> Marked:
    """Return labels as if the tensor had one position along all other axes, on which extents may differ."""
    return Marked(x.ids, tuple(n if a in axes else 1 for a, n in enumerate(x.shape)), x.axes)


def _behind(x: Marked, count: int) -> Marked:
    """Return labels without the first axes, along which they do not vary."""
    return Marked(x.ids.reshape(x.ids.shape[count:]), x.shape[count:], tuple(a - count for a in x.axes))


def _joined(c: Context, marks: dict[int, Marked], operands: tuple[int, ...]) -> Marked:
    """Say that channels are the same; constants are cut along, and what is computed must have followed by itself."""
    joined = c.join(list(marks.values()))
    for i in operands:
        if c.is_constant(i):
            c.follow(i, joined)
        elif i not in marks and i not in c.activations():
            _follows(c, i, joined)
    return joined


def _follows(c: Context, i: int, x: Marked) -> None:
    """A computed operand of equal numbers may be of any size, if it is of the right one; any other may not change."""
    value, found, before = c.input(i), c.known(i), c.original(i)
    assert value is not None
    assert found is not None
    assert before is not None
    maker = value.producer()
    filled = maker is not None and maker.op_type == "ConstantOfShape"  # with nothing in it, it does not show
    if not filled and (np.unique(found).size != 1 or not np.array_equal(np.unique(found), np.unique(before))):
        c.steady(i)
    movement.require_fit(found.shape, movement.lift(x, found.ndim))
