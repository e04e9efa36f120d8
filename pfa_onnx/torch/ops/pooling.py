"""Pooling.

Windows lie where onnxruntime has them: where it rounds up, a window must start within the image or the padding before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.ops.operands import numbers
from pfa_onnx.torch.ops.padding import pad
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_MEAN = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)

Extents = tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling lie in an image of some extents.

    before, after: the padding. behind: how far the last window reaches over the image, less than 0 if it does not.
    """

    before: Extents
    after: Extents
    behind: Extents


class Layout:
    """The attributes of a pooling node, and where they lay its windows."""

    def __init__(self, n: Node) -> None:
        self.kernel = tuple(int(k) for k in n.attribute("kernel_shape"))
        rank = len(self.kernel)
        self.strides = tuple(n.attribute("strides") or [1] * rank)
        self.dilations = tuple(n.attribute("dilations") or [1] * rank)
        self.pads = tuple(n.attribute("pads") or [0] * 2 * rank)
        self.auto, self.up = str(n.attribute("auto_pad", "NOTSET")), bool(n.attribute("ceil_mode", 0))
        self.windows = lru_cache(maxsize=64)(self._windows)

    def _windows(self, extents: Extents) -> Windows:
        rank, pads, behind = len(self.kernel), self.pads, []
        if self.auto.startswith("SAME"):
            ends = [_same(*axis, self.auto) for axis in zip(extents, self.kernel, self.strides, strict=True)]
            pads = (*(before for before, _ in ends), *(after for _, after in ends))
        elif self.auto == "VALID":
            pads = (0,) * 2 * rank
        before, after = pads[:rank], pads[rank:]
        for axis, extent in enumerate(extents):
            stride, span = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
            room, start = extent + before[axis] + after[axis] - span, extent + before[axis]
            steps = -(-room // stride) if self.up else room // stride
            if self.up and steps * stride >= start:
                steps -= 1
            behind.append(steps * stride + span - start)
        return Windows(before, after, tuple(behind))

    def is_torch(self, w: Windows) -> bool:
        """Tell whether torch finds these windows by itself: it pads alike at both ends, by half a kernel."""
        half = all(0 <= 2 * b <= k for b, k in zip(w.before, self.kernel, strict=True))
        return half and w.before == w.after and len(self.kernel) <= len(_MAX)


def _same(extent: int, size: int, stride: int, auto: str) -> tuple[int, int]:
    """Return how much auto_pad adds; onnxruntime leaves dilations out of account, and cuts off what is too much."""
    total = (-(-extent // stride) - 1) * stride + size - extent
    before = int((total + (auto == "SAME_LOWER")) / 2)  # towards 0
    return before, total - before


@operator("MaxPool")
def max_pool(n: Node) -> Function:
    layout, indexed, rank = Layout(n), n.outputs > 1, len(n.attribute("kernel_shape"))
    if rank > len(_MAX):
        raise Untrainable("more than three axes")
    if indexed and n.attribute("storage_order", 0):
        raise Untrainable("indices column by column")
    pool, kernel, strides, dilations = _MAX[rank - 1], layout.kernel, layout.strides, layout.dilations

    def run(x: Tensor) -> Any:
        extents = tuple(x.shape[2:])
        w = layout.windows(extents)
        before, up = w.before, layout.up
        if not layout.is_torch(w):
            x, before, up = pad(x, (*before, *w.behind), _lowest(x)), (0,) * rank, False
        if not indexed:
            return pool(x, kernel, strides, before, dilations, up)
        y, places = pool(x, kernel, strides, before, dilations, up, return_indices=True)
        return y, _in_tensor(places, tuple(x.shape[2:]), extents, before if before == w.before else w.before)

    return run


def _lowest(x: Tensor) -> float:
    return -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def _in_tensor(places: Tensor, padded: Extents, extents: Extents, before: Extents) -> Tensor:
    """Return where in the whole tensor the maxima lie, of where they lie in each padded plane."""
    if padded != extents:
        along = torch.unravel_index(places, padded)
        places = torch.zeros_like(places)
        for where, extent, shift in zip(along, extents, before, strict=True):
            places = places * extent + where - shift
    planes = torch.arange(places.shape[0] * places.shape[1], device=places.device) * prod(extents)
    return places + planes.reshape(*places.shape[:2], *[1] * len(extents))


@operator("MaxUnpool", host=(2,))
def max_unpool(n: Node) -> Function:
    """Put every element where the indices say, in the whole tensor."""
    layout, shape_of = Layout(n), numbers(n, 2)
    rank = len(layout.kernel)

    def run(x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = shape_of(shape)
        if wanted is None:
            gone = [b + a for b, a in zip(layout.pads[:rank], layout.pads[rank:], strict=True)]
            each = zip(x.shape[2:], layout.strides, layout.kernel, gone, strict=True)
            wanted = [*x.shape[:2], *((e - 1) * s + k - g for e, s, k, g in each)]
        return x.new_zeros(prod(wanted)).scatter(0, places.reshape(-1), x.reshape(-1)).reshape(wanted)

    return run


@operator("AveragePool")
def average_pool(n: Node) -> Function:
    layout, padded, rank = Layout(n), bool(n.attribute("count_include_pad", 0)), len(n.attribute("kernel_shape"))
    dense = all(d == 1 for d in layout.dilations)

    @lru_cache(maxsize=64)
    def counts(extents: Extents, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return how many elements each window is divided by: those past the padding never count."""
        w, found = layout.windows(extents), torch.ones(1, 1, *[1] * rank)
        for axis, extent in enumerate(extents):
            before, after = (w.before[axis], w.after[axis]) if padded else (0, 0)
            ones = torch.ones(before + extent + after)
            line = functional.pad(ones, (w.before[axis] - before, w.behind[axis] - after))
            found = found * _sums(line, 0, layout, axis).reshape(-1, *[1] * (rank - 1 - axis))
        return found.to(device, dtype)

    def run(x: Tensor) -> Tensor:
        extents = tuple(x.shape[2:])
        w = layout.windows(extents)
        if dense and layout.is_torch(w):
            return _MEAN[rank - 1](x, layout.kernel, layout.strides, w.before, layout.up, padded)
        y = pad(x, (*w.before, *w.behind))
        for axis in range(rank):
            y = _sums(y, 2 + axis, layout, axis)
        return y / counts(extents, x.device, x.dtype)

    return run


def _sums(x: Tensor, dim: int, layout: Layout, axis: int) -> Tensor:
    """Sum the windows along one axis."""
    size, dilation = layout.kernel[axis], layout.dilations[axis]
    windows = x.unfold(dim, (size - 1) * dilation + 1, layout.strides[axis])
    return windows[..., ::dilation].sum(-1)


@operator("LpPool")
def lp_pool(n: Node) -> Function:
    layout, p = Layout(n), float(n.attribute("p", 2))

    def run(x: Tensor) -> Tensor:
        w = layout.windows(tuple(x.shape[2:]))
        y = pad(x, (*w.before, *w.behind)).abs().pow(p)
        for axis in range(len(layout.kernel)):
            y = _sums(y, 2 + axis, layout, axis)
        return _root(y, p)

    return run


def _root(x: Tensor, p: float) -> Tensor:
    """Give an empty window, which has no derivative, the derivative 0."""
    empty = x == 0
    return torch.where(empty, x, torch.where(empty, torch.ones_like(x), x).pow(1 / p))


@operator("GlobalAveragePool")
def global_average_pool(n: Node) -> Function:
    del n
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(n: Node) -> Function:
    del n
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(n: Node) -> Function:
    p = float(n.attribute("p", 2))
    return lambda x: torch.linalg.vector_norm(x, p, tuple(range(2, x.ndim)), keepdim=True)
