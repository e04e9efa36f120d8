"""Operators that detectors read regions of images with, and choose among boxes with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.ops.operands import numbers
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}  # the standard's names from version 20 on -> torch's


@operator("GridSample")
def grid_sample(n: Node) -> Function:
    mode = str(n.attribute("mode", "bilinear" if n.opset < 20 else "linear"))
    rest = (_SAMPLING.get(mode, mode), str(n.attribute("padding_mode", "zeros")), bool(n.attribute("align_corners", 0)))
    return lambda x, grid: functional.grid_sample(x, grid, *rest)


# --- boxes ----------------------------------------------------------------------------------------------


@operator("NonMaxSuppression", host=(2, 3, 4))
def non_max_suppression(n: Node) -> Function:
    """Take the best box of each class, drop those that overlap it, and so on."""
    centred, most_of = bool(n.attribute("center_point_box", 0)), numbers(n, 2)

    def run(
        boxes: Tensor,
        scores: Tensor,
        most: Tensor | None = None,
        overlap: Tensor | None = None,
        least: Tensor | None = None,
    ) -> Tensor:
        count = (most_of(most) or [0])[0]
        share = 0.0 if overlap is None else float(overlap.item())
        floor = None if least is None else float(least.item())
        corners = _corners(boxes.detach(), centred=centred).cpu()
        found = [
            (batch, kind, box)
            for batch, of_classes in enumerate(scores.detach().cpu())
            for kind, row in enumerate(of_classes)
            for box in _chosen(corners[batch], row, count, share, floor)
        ]
        return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return run


def _corners(boxes: Tensor, *, centred: bool) -> Tensor:
    """Return boxes as (low, low, high, high)."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat([middle - half, middle + half], -1)
    one, other = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(one, other), torch.maximum(one, other)], -1)


def _chosen(corners: Tensor, scores: Tensor, count: int, share: float, floor: float | None) -> list[int]:
    ranked = scores.argsort(descending=True, stable=True)
    if floor is not None:
        ranked = ranked[scores[ranked] > floor]
    chosen: list[int] = []
    while len(ranked) and len(chosen) < count:
        chosen.append(int(ranked[0]))
        ranked = ranked[1:]
        ranked = ranked[~_overlaps(corners[chosen[-1]], corners[ranked], share)]
    return chosen


def _overlaps(box: Tensor, others: Tensor, share: float) -> Tensor:
    """Tell which boxes have more than a share of their union with a box in common."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    own, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(-1)
    union = own + areas - common
    return (common > 0) & (own > 0) & (areas > 0) & (union > 0) & (common / union > share)


# --- regions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bins:
    """How a region is read. samples: along each side of a bin, 0 to have about one for each pixel."""

    extents: tuple[int, int]
    samples: int
    scale: float
    half_pixel: bool
    largest: bool


@operator("RoiAlign")
def roi_align(n: Node) -> Function:
    """Read every region at a regular grid of points, between the pixels."""
    mode, where = str(n.attribute("mode", "avg")), str(n.attribute("coordinate_transformation_mode", "half_pixel"))
    if mode not in {"avg", "max"}:
        raise Untrainable(f"mode {mode}")
    bins = _Bins(
        extents=(int(n.attribute("output_height", 1)), int(n.attribute("output_width", 1))),
        samples=int(n.attribute("sampling_ratio", 0)),
        scale=float(n.attribute("spatial_scale", 1.0)),
        half_pixel=n.opset >= 16 and where == "half_pixel",
        largest=mode == "max",
    )

    def run(x: Tensor, regions: Tensor, images: Tensor) -> Tensor:
        read = [_region(x[image], region, bins) for region, image in zip(regions, images.tolist(), strict=True)]
        return torch.stack(read) if read else x.new_zeros((0, x.shape[1], *bins.extents))

    return run


def _region(image: Tensor, region: Tensor, bins: _Bins) -> Tensor:
    """Return [C, height, width] for one region, (x1, y1, x2, y2)."""
    ends = region * bins.scale - (0.5 if bins.half_pixel else 0.0)
    extents = ends[2:] - ends[:2]
    if not bins.half_pixel:
        extents = extents.clamp(min=1)
    (rows, tall), (columns, wide) = (
        _points(ends[axis], extents[axis], bins.extents[1 - axis], bins.samples) for axis in (1, 0)
    )
    corners = _corner_values(image, rows, columns)
    values = (corners if bins.largest else corners.sum(0, keepdim=True)).unflatten(3, (-1, wide))
    values = values.unflatten(2, (-1, tall))  # [corners, C, height, samples, width, samples]
    return values.amax((0, 3, 5)) if bins.largest else values.mean((0, 3, 5))


def _points(start: Tensor, extent: Tensor, bins: int, samples: int) -> tuple[Tensor, int]:
    """Return the coordinates that are read along one axis, and how many there are in every bin."""
    each = samples or max(1, math.ceil(float(extent) / bins))
    steps = (torch.arange(bins * each, device=start.device) + 0.5) / each
    return start + steps * extent / bins, each


def _corner_values(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return [4, C, rows, columns]: the pixels around every point, by how near they are; 0 far outside."""
    low_row, high_row, down = _between(rows, image.shape[1])
    low_column, high_column, right = _between(columns, image.shape[2])
    inside = (rows >= -1) & (rows <= image.shape[1])
    within = ((columns >= -1) & (columns <= image.shape[2])) & inside[:, None]
    read = [
        image[:, y[:, None], x] * (v[:, None] * h * within)
        for y, v in ((low_row, 1 - down), (high_row, down))
        for x, h in ((low_column, 1 - right), (high_column, right))
    ]
    return torch.stack(read)


def _between(places: Tensor, extent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels before and behind each coordinate, and how near it is to the latter."""
    places = places.clamp(0, extent - 1)
    low = places.detach().floor().long()
    return low, (low + 1).clamp(max=extent - 1), places - low
