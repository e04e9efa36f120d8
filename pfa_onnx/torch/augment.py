"""Pictures a little changed, so that a model sees more of them than there are."""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 8  # a picture moves by up to this part of its extent
KINDS = ("flip", "shift")


def augment(pictures: Tensor, kinds: tuple[str, ...], random: torch.Generator, *, channels_last: bool) -> Tensor:
    """Return pictures [N, C, H, W] (or [N, H, W, C]) of which every other is mirrored, or all are moved a little."""
    high, wide = (1, 2) if channels_last else (2, 3)
    if "flip" in kinds:
        chosen = torch.rand(len(pictures), generator=random) < 0.5
        pictures = torch.where(chosen.view(-1, 1, 1, 1), pictures.flip(wide), pictures)
    if "shift" in kinds:
        for axis in (high, wide):
            pictures = _moved(pictures, axis, random)
    return pictures


def _moved(pictures: Tensor, axis: int, random: torch.Generator) -> Tensor:
    """Move every picture along an axis by a number of its own; its edge is repeated."""
    extent = pictures.shape[axis]
    reach = extent // REACH
    by = torch.randint(-reach, reach + 1, (len(pictures), 1), generator=random)
    places = (torch.arange(extent) + by).clamp(0, extent - 1)
    shape = [len(pictures), 1, 1, 1]
    shape[axis] = extent
    return torch.gather(pictures, axis, places.view(shape).expand_as(pictures))
