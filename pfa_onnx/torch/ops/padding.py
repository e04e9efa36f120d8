"""Padding, as convolutions, poolings and Pad need it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def same_pads(
    extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[int, ...]:
    """Return ONNX's pads [begins..., ends...] of auto_pad SAME_UPPER or SAME_LOWER."""
    begins, ends = [], []
    for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
        made = -(-int(extent) // stride)
        total = max(0, (made - 1) * stride + (int(size) - 1) * dilation + 1 - int(extent))
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return (*begins, *ends)


def pad(x: torch.Tensor, pads: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """Pad the last axes of x by ONNX's [begins..., ends...]; negative pads cut off."""
    rank = len(pads) // 2
    order = [int(n) for axis in reversed(range(rank)) for n in (pads[axis], pads[rank + axis])]
    return functional.pad(x, order, value=value)
