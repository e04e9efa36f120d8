"""Resize and Upsample.

Along each axis an output is a weighted sum of inputs, so a matrix [out, in] says everything. The matrices are what
onnxruntime computes in float32. Where torch's own interpolation has the same, it does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_ONE, _HALF = np.float32(1), np.float32(0.5)


@dataclass(frozen=True)
class Way:
    """How values in between are found. simple: the nearest as it was before version 11."""

    mode: str = "nearest"
    coordinates: str = "asymmetric"
    nearest: str = "simple"
    cubic: float = -0.75
    outside: bool = True  # elements outside the image count, as copies of the last inside
    smooth: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis that is resized: to `made` elements, which are 1 / scale apart."""

    axis: int
    extent: int
    made: int
    scale: float


Plan = tuple[Axis, ...]


@operator("Upsample", host=(1,))
def upsample(n: Node) -> Function:
    mode = str(n.attribute("mode", "nearest"))
    fixed = n.attribute("scales") if n.opset < 9 else _floats(n, 1)
    way = Way("linear" if mode in {"linear", "bilinear"} else "nearest")
    return _resizer(way, lambda x, scales=None: _scaled(x, _read(fixed, scales), range(x.ndim)))


@operator("Resize", host=(1, 2, 3))
def resize(n: Node) -> Function:
    mode = str(n.attribute("mode", "nearest"))
    if n.opset < 11:
        fixed = _floats(n, 1)
        return _resizer(Way(mode), lambda x, scales: _scaled(x, _read(fixed, scales), range(x.ndim)))
    way = Way(
        mode,
        str(n.attribute("coordinate_transformation_mode", "half_pixel")),
        str(n.attribute("nearest_mode", "round_prefer_floor")),
        float(n.attribute("cubic_coeff_a", -0.75)),
        not n.attribute("exclude_outside", 0),
        bool(n.attribute("antialias", 0)) and mode != "nearest",
    )
    if way.coordinates not in _PLACES:
        raise Untrainable(f"coordinate_transformation_mode {way.coordinates}")
    return _resizer(way, _planner(n))


def _planner(n: Node) -> Callable[..., Plan]:
    """Return what reads the scales or the sizes."""
    scales, sizes, chosen = _floats(n, 2), n.numbers(3), n.attribute("axes")
    policy = str(n.attribute("keep_aspect_ratio_policy", "stretch"))

    def plan(x: Tensor, roi: Any, given: Tensor | None = None, wanted: Tensor | None = None) -> Plan:
        del roi
        axes = [axis % x.ndim for axis in chosen] if chosen else range(x.ndim)
        if found := _read(scales, given):
            return _scaled(x, found, axes)
        return _sized(x, _read(sizes, wanted), axes, policy)

    return plan


def _floats(n: Node, index: int) -> list[float] | None:
    found = n.constant(index)
    return None if found is None else [float(v) for v in found.ravel()]


def _read(settled: Sequence[Any] | None, given: Tensor | None) -> Sequence[Any]:
    """Return numbers that the graph settles, or that are computed for every batch."""
    return settled if settled is not None else [] if given is None else given.tolist()


def _scaled(x: Tensor, scales: Sequence[float], axes: Sequence[int]) -> Plan:
    return tuple(
        Axis(axis, x.shape[axis], int(np.float32(scale) * np.float32(x.shape[axis])), scale)
        for axis, scale in zip(axes, scales, strict=True)
        if scale != 1
    )


def _sized(x: Tensor, sizes: Sequence[int], axes: Sequence[int], policy: str) -> Plan:
    pairs = [(axis, x.shape[axis], size) for axis, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        scale = (min if policy == "not_larger" else max)(np.float32(size / extent) for _, extent, size in pairs)
        return tuple(Axis(a, extent, int(scale * np.float32(extent) + _HALF), float(scale)) for a, extent, _ in pairs)
    return tuple(Axis(axis, extent, size, size / extent) for axis, extent, size in pairs if size != extent)


def _resizer(way: Way, plan: Callable[..., Plan]) -> Function:
    @lru_cache(maxsize=64)
    def settled(axes: Plan, rank: int, device: torch.device, dtype: torch.dtype) -> Function:
        return _by_torch(way, axes, rank) or _by_matrices(way, axes, device, dtype)

    def run(x: Tensor, *sizes: Tensor | None) -> Tensor:
        axes = plan(x, *sizes)
        return settled(axes, x.ndim, x.device, x.dtype)(x) if axes else x

    return run


def _by_matrices(way: Way, axes: Plan, device: torch.device, dtype: torch.dtype) -> Function:
    if way.mode == "nearest":
        places = [(a.axis, torch.from_numpy(_nearest(way, a)).to(device)) for a in axes]
        return lambda x: _taken(x, places)
    matrices = [(a.axis, torch.from_numpy(_matrix(way, a)).to(device, dtype)) for a in axes]
    return lambda x: _multiplied(x, matrices)


def _taken(x: Tensor, places: Sequence[tuple[int, Tensor]]) -> Tensor:
    for axis, index in places:
        x = x.index_select(axis, index)
    return x


def _multiplied(x: Tensor, matrices: Sequence[tuple[int, Tensor]]) -> Tensor:
    for axis, matrix in matrices:
        x = _along(x, axis, matrix)
    return x


def _along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    head, tail = x.shape[:axis], x.shape[axis + 1 :]
    if not tail:
        return x @ matrix.t()
    return (matrix @ x.flatten(axis + 1)).reshape(*head, -1, *tail)


# --- torch's own ------------------------------------------------------------------------------------------------

_OWN: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "nearest": (("nearest", {}), ("nearest-exact", {})),
    "linear": (("linear", {"align_corners": False}), ("linear", {"align_corners": True})),
    "cubic": (("bicubic", {"align_corners": False}), ("bicubic", {"align_corners": True})),
}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def _by_torch(way: Way, axes: Plan, rank: int) -> Function | None:
    """Return torch's own interpolation if it has the same matrices."""
    if not 3 <= rank <= 5 or any(a.axis < 2 for a in axes) or (way.mode == "cubic" and rank != 4) or way.smooth:
        return None
    for mode, options in _OWN[way.mode]:
        if all(_is_same(way, a, mode, **options) for a in axes):
            made = {a.axis: a.made for a in axes}
            named = _LINEAR[rank] if mode == "linear" else mode
            return lambda x, m=named, o=options: functional.interpolate(
                x, [made.get(axis, x.shape[axis]) for axis in range(2, x.ndim)], mode=m, **o
            )
    return None


def _is_same(way: Way, a: Axis, mode: str, **options: bool) -> bool:
    if mode.startswith("nearest"):
        places = functional.interpolate(torch.arange(a.extent, dtype=torch.float64)[None, None], a.made, mode=mode)
        return np.array_equal(places[0, 0].numpy(), _nearest(way, a))
    unit = torch.eye(a.extent)[None]
    if mode == "bicubic":
        found = functional.interpolate(unit[None], (a.made, a.extent), mode=mode, **options)[0, 0]
    else:
        found = functional.interpolate(unit, a.made, mode=mode, **options)[0].t()
    return np.allclose(found.numpy(), _matrix(way, a), atol=1e-6)


# --- matrices ---------------------------------------------------------------------------------------------------


def _half_pixel(made: Floats, a: Axis) -> Floats:
    return (made + _HALF) / np.float32(a.scale) - _HALF


def _symmetric(made: Floats, a: Axis) -> Floats:
    adjustment = np.float32(a.made) / (np.float32(a.scale) * np.float32(a.extent))
    return np.float32(a.extent) / 2 * (_ONE - adjustment) + (made + _HALF) / np.float32(a.scale) - _HALF


_PLACES: dict[str, Callable[[Floats, Axis], Floats]] = {
    "asymmetric": lambda made, a: made / np.float32(a.scale),
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": lambda made, a: _half_pixel(made, a) if a.made > 1 else np.zeros_like(made),
    "align_corners": lambda made, a: made * np.float32(a.extent - 1) / np.float32(max(1, a.made - 1)),
    "half_pixel_symmetric": _symmetric,
    "tf_half_pixel_for_nn": lambda made, a: (made + _HALF) / np.float32(a.scale),
}


@lru_cache(maxsize=256)
def _places(way: Way, a: Axis) -> Floats:
    """Return where in the input each output lies."""
    return np.asarray(_PLACES[way.coordinates](np.arange(a.made, dtype=np.float32), a), dtype=np.float32)


def _nearest(way: Way, a: Axis) -> Integers:
    x = _places(way, a)
    match way.nearest:
        case "simple":
            near = np.ceil(x) if a.scale < 1 else np.trunc(x)
        case "floor":
            near = np.floor(x)
        case "ceil":
            near = np.ceil(x)
        case "round_prefer_ceil":
            near = np.floor(x + np.float64(0.5))
        case _:
            near = np.ceil(x - np.float64(0.5))
    return np.clip(near, 0, a.extent - 1).astype(np.int64)


def _matrix(way: Way, a: Axis) -> Floats:
    """Return [made, extent]."""
    x = _places(way, a)
    if way.smooth:
        return _smooth(way, a, x)
    if way.mode == "linear":
        x = np.clip(x, 0, a.extent - 1)
    reach = 1 if way.mode == "linear" else 2
    taps = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weights = _weights(way, x[:, None] - taps)
    return _gathered(way, a, taps, weights)


def _smooth(way: Way, a: Axis, x: Floats) -> Floats:
    """Widen the filter by as much as the image shrinks."""
    wide = max(1.0, 1 / a.scale)
    support = (1 if way.mode == "linear" else 2) * wide
    centre = x.astype(np.float64) + 0.5
    first = np.floor(centre - support + 0.5).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(support)) * 2 + 1)
    weights = _weights(way, (taps - centre[:, None] + 0.5) / wide)
    weights *= taps < np.floor(centre + support + 0.5)[:, None]
    return _gathered(way, a, taps, weights)


def _weights(way: Way, distance: npt.NDArray[Any]) -> npt.NDArray[Any]:
    d = np.abs(distance).astype(np.float64)
    if way.mode == "linear":
        return np.maximum(0, 1 - d)
    c = way.cubic
    near = ((c + 2) * d - (c + 3)) * d * d + 1
    far = ((c * d - 5 * c) * d + 8 * c) * d - 4 * c
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _gathered(way: Way, a: Axis, taps: Integers, weights: npt.NDArray[Any]) -> Floats:
    """Put weights where they belong; those outside the image fall to its edge, or to nobody."""
    if not way.outside:
        weights = weights * ((taps >= 0) & (taps < a.extent))
    if way.smooth or not way.outside:
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((a.made, a.extent))
    np.add.at(matrix, (np.arange(a.made)[:, None], np.clip(taps, 0, a.extent - 1)), weights)
    return matrix.astype(np.float32)
