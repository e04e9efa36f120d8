"""Rows of a linear map: what a layer reads for one of its output positions, and what it makes there."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pfa_onnx.recipe import Geometry, Ints

    Rows = tuple[int, Callable[[Ints], tuple[npt.NDArray[Any], npt.NDArray[Any]]]]

Array = npt.NDArray[Any]

CHUNK = 1024  # rows at a time


def unfold(
    geometry: Geometry, x: Array, y: Array, count: int, random: np.random.Generator
) -> tuple[Array, Array] | None:
    """Return rows of at most `count` output positions, [rows, groups, d] and [rows, groups, n], drawn without order.

    x, y: what the layer reads and makes, one batch of it. None where the positions of the two do not correspond.
    """
    parts = list(unfolded(geometry, x, y, count, random))
    return (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])) if parts else None


def unfolded(
    geometry: Geometry, x: Array, y: Array, count: int, random: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yield these rows a few at a time: many of a wide layer would take more memory than its moments."""
    rows = _matrix_rows(geometry, x, y) if geometry.kind == "matrix" else _kernel_rows(geometry, x, y)
    if rows is None:
        return
    positions, take = rows
    at = _draw(positions, count, random)
    for start in range(0, len(at), CHUNK):
        yield take(at[start : start + CHUNK])


def _kernel_rows(geometry: Geometry, x: Array, y: Array) -> Rows:
    """Return how many output positions there are, and what gives the rows of some."""
    offsets = list(product(*(range(extent) for extent in geometry.kernel)))

    def take(at: Ints) -> tuple[Array, Array]:
        where = np.unravel_index(at, (y.shape[0], *y.shape[2:]))
        made: Array = np.moveaxis(y, 1, -1)[where]
        taps = [_read(geometry, x, y, where, offset) for offset in offsets]
        rows = np.stack(taps, axis=2)  # [rows, channels, kernel positions]
        split = (len(at), geometry.groups, -1)
        return rows.reshape(split), made.reshape(split)

    return y.shape[0] * prod(y.shape[2:]), take


def _matrix_rows(geometry: Geometry, x: Array, y: Array) -> Rows | None:
    """Do the same of a matrix product."""
    if min(x.ndim + geometry.read, y.ndim + geometry.made) < 0:  # a vector, behind a matrix
        return None
    read, made = np.moveaxis(x, geometry.read, -1), np.moveaxis(y, geometry.made, -1)
    read, made = read.reshape(-1, read.shape[-1]), made.reshape(-1, made.shape[-1])
    if len(read) != len(made):
        return None
    return len(read), lambda at: (read[at][:, None], made[at][:, None])


def _draw(positions: int, count: int, random: np.random.Generator) -> Ints:
    if positions <= count:
        return np.arange(positions)
    found: Ints = random.choice(positions, count, replace=False)
    return found


def _read(geometry: Geometry, x: Array, y: Array, where: tuple[Ints, ...], offset: tuple[int, ...]) -> Array:
    """Return what the drawn positions read through one kernel position, [rows, channels]; zero in the padding."""
    inside = np.ones(len(where[0]), bool)
    index = []
    for at, (place, extent) in zip(where[1:], _places(geometry, x, y, offset), strict=True):
        position, valid = place(at)
        inside &= valid & (position >= 0) & (position < extent)
        index.append(np.clip(position, 0, extent - 1))
    values: Array = np.moveaxis(x, 1, -1)[(where[0], *index)]
    values[~inside] = 0
    return values


def _places(geometry: Geometry, x: Array, y: Array, offset: tuple[int, ...]) -> Iterator[tuple[Any, int]]:
    """Yield, by spatial axis, where an output position reads, and the extent of the input there."""
    for axis, k in enumerate(offset):
        stride, extent = geometry.strides[axis], x.shape[2 + axis]
        shift = k * geometry.dilations[axis] - _begin(geometry, axis, extent, y.shape[2 + axis])
        if geometry.kind == "conv":
            yield (lambda at, s=stride, d=shift: (at * s + d, np.True_)), extent
        else:  # position q of the input is written to q * stride + shift
            yield (lambda at, s=stride, d=shift: ((at - d) // s, (at - d) % s == 0)), extent


def _begin(geometry: Geometry, axis: int, extent: int, made: int) -> int:
    """Return the padding before the first position of an axis."""
    if geometry.auto_pad in {"NOTSET", ""}:
        return geometry.begins[axis]
    if geometry.auto_pad == "VALID":
        return 0
    width = (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1
    missing = max((made - 1) * geometry.strides[axis] + width - extent, 0)
    return missing // 2 if geometry.auto_pad == "SAME_UPPER" else missing - missing // 2
