"""Label arrays and what data-movement operators do to them: with numpy, just what they do to the tensor.

Everything here is a pure function on `Marked` values and knows no operator and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pfa_onnx.recipe import Ints


@dataclass(frozen=True)
class Marked:
    """The labels of one tensor.

    ids: an integer array of the tensor's rank that broadcasts to its shape.
    shape: the tensor's shape.
    axes: the axes along which labels vary; along all others `ids` has extent 1. (With a single channel
        left, an axis has extent 1 and is still one of `axes`.)
    """

    ids: Ints
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, ids: Ints, shape: tuple[int, ...]) -> Marked:
        """Return labels that vary along every axis on which `ids` has more than one entry."""
        return cls(ids, shape, tuple(axis for axis, extent in enumerate(ids.shape) if extent > 1))

    @property
    def rank(self) -> int:
        """The tensor's rank."""
        return len(self.shape)

    def full(self, axes: Sequence[int]) -> Ints:
        """Return the labels with the given axes written out to the tensor's extent."""
        extents = tuple(self.shape[i] if i in axes else n for i, n in enumerate(self.ids.shape))
        return np.broadcast_to(self.ids, extents)

    def varies(self, axis: int) -> bool:
        """Tell whether labels vary along an axis."""
        return axis in self.axes

    def vector(self, axis: int) -> Ints:
        """Return the labels along one axis at the first position of all others, [extent]."""
        index = tuple(slice(None) if i == axis else 0 for i in range(self.rank))
        return self.full([axis])[index]


def along(vector: Ints, axis: int, rank: int) -> Ints:
    """Return a label vector as an array of `rank` axes that varies along `axis`."""
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def shrink(ids: Ints) -> Ints:
    """Drop axes along which all labels are equal to extent 1."""
    for axis, extent in enumerate(ids.shape):
        if extent > 1:
            first = np.take(ids, [0], axis=axis)
            if bool((ids == first).all()):
                ids = first
    return ids


def regroup(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split a reshape into the smallest independent steps.

    Returns pairs (axes of `old`, axes of `new`) with equal products, in order. (2,6,5) -> (2,3,10) is
    [([0], [0]), ([1, 2], [1, 2])]. Where extents of 0 make products meaningless, one step holds all.
    """
    if 0 in old or 0 in new:
        return [(list(range(len(old))), list(range(len(new))))]
    steps: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left.append(i)
            a, i = old[i], i + 1
        if j < len(new):
            right.append(j)
            b, j = new[j], j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        if steps and (not left or not right):  # trailing extents of 1 belong to the step before
            steps[-1][0].extend(left)
            steps[-1][1].extend(right)
        else:
            steps.append((left, right))
    return steps


def reshape(x: Marked, shape: tuple[int, ...]) -> Marked:
    """Reshape; only the axes that labels vary along, and those merged with them, are written out."""
    steps = regroup(x.shape, shape)
    touched = [step for step in steps if any(x.varies(i) for i in step[0])]
    whole = [axis for left, _ in touched for axis in left]
    axes = tuple(axis for _, right in touched for axis in right)
    extents = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    return Marked(x.full(whole).reshape(extents), shape, axes)


def transpose(x: Marked, perm: Sequence[int]) -> Marked:
    """Permute the axes."""
    axes = tuple(new for new, old in enumerate(perm) if x.varies(old))
    return Marked(np.transpose(x.ids, perm), tuple(x.shape[i] for i in perm), axes)


def take(x: Marked, axis: int, positions: Ints) -> Marked:
    """Keep these positions of an axis, in this order; a scalar position drops the axis, others replace it."""
    more = positions.ndim - 1
    ids = np.take(
        x.full([axis]) if x.varies(axis) else x.ids,
        positions if x.varies(axis) else np.zeros_like(positions),
        axis=axis,
    )
    shape = (*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :])
    axes: list[int] = []
    for a in x.axes:
        axes += range(axis, axis + positions.ndim) if a == axis else [a if a < axis else a + more]
    if not x.varies(axis):
        here = tuple(slice(0, 1) if axis <= a < axis + positions.ndim else slice(None) for a in range(len(shape)))
        ids = ids[here]
    return Marked(ids, shape, tuple(axes))


def concat(parts: Sequence[Marked], axis: int) -> Marked:
    """Join along an axis; labels may vary along it, and wherever a part's do."""
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    axes = sorted({axis}.union(*(p.axes for p in parts)))
    written = [p.full([axis]) for p in parts]
    extents = [max(w.shape[i] for w in written) for i in range(len(shape))]
    pieces = [np.broadcast_to(w, (*extents[:axis], w.shape[axis], *extents[axis + 1 :])) for w in written]
    return Marked(np.concatenate(pieces, axis=axis), tuple(shape), tuple(axes))


def broadcast_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the shape that all of these stretch to."""
    return tuple(int(n) for n in np.broadcast_shapes(*[tuple(s) for s in shapes]))


def lift(x: Marked, rank: int) -> Marked:
    """Add leading axes of extent 1 up to `rank`."""
    missing = rank - x.rank
    if missing == 0:
        return x
    ones = (1,) * missing
    return Marked(x.ids.reshape(ones + x.ids.shape), ones + x.shape, tuple(a + missing for a in x.axes))


def lift_shape(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """Add leading extents of 1 up to `rank`."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def require_fit(shape: Sequence[int], x: Marked) -> None:
    """Raise ValueError unless an operand that nothing is cut of still fits where `x` may have shrunk."""
    for axis in x.axes:
        if shape[axis] not in {1, x.shape[axis]}:
            raise ValueError(f"{x.shape[axis]} positions meet {shape[axis]} on axis {axis}")


def size(shape: Sequence[int]) -> int:
    """Return the number of elements."""
    return prod(shape)
