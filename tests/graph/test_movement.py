"""Moving compact labels, then writing them out, is moving the written-out labels."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfa_onnx.graph import movement
from pfa_onnx.graph.movement import Marked

quick = settings(derandomize=True, deadline=None, max_examples=150)


def full(x: Marked) -> np.ndarray:
    return np.broadcast_to(x.ids, x.shape)


@st.composite
def marks(draw, rank=None, largest=4, varies=None):
    """Labels that vary along some axes, and are the same along the others."""
    shape = tuple(draw(st.lists(st.integers(1, largest), min_size=rank or 1, max_size=rank or 4)))
    axes = varies if varies is not None else tuple(a for a in range(len(shape)) if draw(st.booleans()))
    extents = tuple(n if a in axes else 1 for a, n in enumerate(shape))
    ids = np.array(draw(st.permutations(range(prod(extents)))), dtype=np.int64).reshape(extents)
    return Marked(ids, shape, axes)


def factored(draw, n: int) -> list[int]:
    """Extents whose product is n, some of them 1."""
    result = []
    while n > 1:
        factor = draw(st.sampled_from([d for d in range(2, n + 1) if n % d == 0]))
        result.append(factor)
        n //= factor
    for _ in range(draw(st.integers(0, 2))):
        result.insert(draw(st.integers(0, len(result))), 1)
    return result or [1]


@given(marks(), st.data())
@quick
def test_reshape(x, data):
    shape = tuple(factored(data.draw, prod(x.shape)))
    result = movement.reshape(x, shape)
    assert result.shape == shape
    np.testing.assert_array_equal(full(result), full(x).reshape(shape))


@given(marks(), st.data())
@quick
def test_reshape_and_back(x, data):
    shape = tuple(factored(data.draw, prod(x.shape)))
    back = movement.reshape(movement.reshape(x, shape), x.shape)
    np.testing.assert_array_equal(full(back), full(x))


@given(marks(), st.data())
@quick
def test_transpose(x, data):
    perm = data.draw(st.permutations(range(x.rank)))
    result = movement.transpose(x, perm)
    np.testing.assert_array_equal(full(result), full(x).transpose(perm))
    assert result.axes == tuple(new for new, old in enumerate(perm) if old in x.axes)


@given(marks(), st.data())
@quick
def test_take(x, data):
    axis = data.draw(st.integers(0, x.rank - 1))
    size = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    count = prod(size)
    positions = np.array(
        data.draw(st.lists(st.integers(0, x.shape[axis] - 1), min_size=count, max_size=count)), dtype=np.int64
    ).reshape(size)
    result = movement.take(x, axis, positions)
    assert result.shape == (*x.shape[:axis], *size, *x.shape[axis + 1 :])
    np.testing.assert_array_equal(full(result), np.take(full(x), positions, axis=axis))


@given(st.data())
@quick
def test_concat(data):
    first = data.draw(marks())
    axis = data.draw(st.integers(0, first.rank - 1))
    parts = [first]
    for _ in range(data.draw(st.integers(0, 2))):
        shape = tuple(data.draw(st.integers(1, 3)) if a == axis else n for a, n in enumerate(first.shape))
        axes = tuple(a for a in range(first.rank) if data.draw(st.booleans()))
        extents = tuple(n if a in axes else 1 for a, n in enumerate(shape))
        parts.append(Marked(100 * len(parts) + np.arange(prod(extents)).reshape(extents), shape, axes))
    result = movement.concat(parts, axis)
    np.testing.assert_array_equal(full(result), np.concatenate([full(p) for p in parts], axis=axis))


@given(marks())
@quick
def test_shrink_drops_only_what_is_the_same(x):
    small = movement.shrink(np.ascontiguousarray(full(x)))
    np.testing.assert_array_equal(np.broadcast_to(small, x.shape), full(x))
    for axis, extent in enumerate(small.shape):
        assert extent == 1 or (small != np.take(small, [0], axis=axis)).any()


@given(marks(), st.integers(0, 2))
@quick
def test_lift_adds_leading_axes(x, more):
    result = movement.lift(x, x.rank + more)
    np.testing.assert_array_equal(full(result), full(x).reshape((1,) * more + x.shape))
    assert result.axes == tuple(a + more for a in x.axes)


@given(marks())
@quick
def test_vector_is_the_first_line_along_an_axis(x):
    for axis in range(x.rank):
        line = np.moveaxis(full(x), axis, -1).reshape(-1, x.shape[axis])[0]
        np.testing.assert_array_equal(x.vector(axis), line)


@given(st.lists(st.integers(1, 6), min_size=0, max_size=5), st.data())
@quick
def test_regroup_splits_into_equal_products(old, data):
    new = factored(data.draw, prod(old))
    steps = movement.regroup(old, new)
    assert [a for left, _ in steps for a in left] == list(range(len(old)))
    assert [a for _, right in steps for a in right] == list(range(len(new)))
    for left, right in steps:
        assert prod(old[a] for a in left) == prod(new[a] for a in right)


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        ((2, 6, 5), (2, 3, 10), [([0], [0]), ([1, 2], [1, 2])]),
        ((2, 8, 4, 4), (2, 128), [([0], [0]), ([1, 2, 3], [1])]),
        ((2, 12), (2, 3, 4), [([0], [0]), ([1], [1, 2])]),
        ((2, 3, 1), (2, 3), [([0], [0]), ([1, 2], [1])]),
        ((4,), (2, 2, 1, 1), [([0], [0, 1, 2, 3])]),
        ((0, 3), (3, 0), [([0, 1], [0, 1])]),
    ],
)
def test_regroup_examples(old, new, steps):
    assert movement.regroup(old, new) == steps
