"""Join a `Preprocess` to one model input: which axis is which, which size, and what `auto` means here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.stats.preprocess import BYTES, IMAGENET, UNIT, Preprocess, validate

if TYPE_CHECKING:
    from pfa_onnx.recipe import InputSpec

_DEFAULT_SIZE = 224  # what nearly every ImageNet model saw


@dataclass(frozen=True)
class ImagePlan:
    """A `Preprocess` fitted to one input: no field is open any more.

    size: (height, width), None when pictures keep their own.
    """

    preprocess: Preprocess
    spec: InputSpec
    channels: int
    nhwc: bool
    size: tuple[int, int] | None

    def describe(self) -> dict[str, Any]:
        """Return the settings that really apply, as plain JSON values."""
        return self.preprocess.describe() | {
            "layout": "nhwc" if self.nhwc else "nchw",
            "channels": self.channels,
            "size": list(self.size) if self.size else None,
        }


def fit(preprocess: Preprocess, spec: InputSpec) -> ImagePlan:
    """Settle layout, channels, size and `auto` for one input.

    Raises DataError when the input does not take pictures, UsageError when a size is missing.
    """
    layout = dict(preprocess.pending).get("layout", preprocess.layout)
    channels, nhwc = _channels(spec, layout)
    settled = _settle(preprocess, spec, channels)
    for field, values in (("mean", settled.mean), ("std", settled.std)):
        if len(values) not in (0, 1, channels):
            raise DataError(
                f"{field} has {len(values)} numbers but input {spec.name!r} has {channels} channels",
                at=f"preprocess {settled.name}",
                fix="use --preprocess unit, or give one number for each channel",
            )
    if spec.dtype.kind in "iub":
        _check_integer(settled, spec)
    size = _size(settled, spec, channels, nhwc=nhwc)
    return ImagePlan(settled, spec, channels, nhwc, size)


def _channels(spec: InputSpec, layout: str) -> tuple[int, bool]:
    """Which axis holds 1, 3 or 4 channels: (channels, nhwc)."""
    shape = spec.shape or (None,) * 4
    if len(shape) != 4:
        raise DataError(
            f"input {spec.name!r} has {len(shape)} axes, a batch of images has 4",
            at=f"input {spec.name!r}",
            fix="use --data FILE.npy, FILE.npz or loader.py:function",
        )
    if layout == "auto":
        layout = "nhwc" if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else "nchw"
    nhwc = layout == "nhwc"  # where both axes could be channels, nchw is meant
    channels = shape[3] if nhwc else shape[1]
    if channels not in (None, 1, 3, 4):
        raise DataError(
            f"input {spec.name!r} has {channels} channels in {layout} order, images have 1, 3 or 4",
            at=f"input {spec.name!r}",
            fix="use --data FILE.npy or loader.py:function, or set --layout",
        )
    return channels or 3, nhwc


def _settle(pre: Preprocess, spec: InputSpec, channels: int) -> Preprocess:
    if pre.name != "auto":
        return pre
    colour = IMAGENET if channels == 3 else UNIT
    base = BYTES if spec.dtype.kind in "iu" else colour
    settled = replace(base, **dict(pre.pending))
    validate(settled)
    return settled


def _check_integer(pre: Preprocess, spec: InputSpec) -> None:
    if pre.scale != 1 or pre.mean or pre.std:
        raise UsageError(
            f"preprocess {pre.name!r} makes fractions but input {spec.name!r} is {spec.dtype}",
            at=f"input {spec.name!r}",
            fix="use --preprocess auto",
        )
    if spec.dtype.kind == "b" or np.iinfo(spec.dtype).max < 255:
        raise DataError(
            f"pixels 0..255 do not fit input {spec.name!r}, which is {spec.dtype}",
            at=f"input {spec.name!r}",
            fix="use --data FILE.npy or loader.py:function",
        )


def _size(pre: Preprocess, spec: InputSpec, channels: int, *, nhwc: bool) -> tuple[int, int] | None:
    shape = spec.shape or (None,) * 4
    wanted = shape[1:3] if nhwc else shape[2:4]
    if pre.resize == "none":
        return None
    default = _DEFAULT_SIZE if pre.name == "imagenet" or (channels == 3 and pre.name == BYTES.name) else None
    given: tuple[int | None, ...] = pre.size or (default, default)
    height, width = (dim or fill for dim, fill in zip(wanted, given, strict=True))
    if height is None or width is None:
        raise UsageError(
            f"input {spec.name!r} takes images of any size", at=f"input {spec.name!r}", fix="give --size, such as 224"
        )
    if pre.size is not None and pre.size != (height, width):
        raise DataError(
            f"images become {channels}x{pre.size[0]}x{pre.size[1]} but input {spec.name!r} is "
            f"{channels}x{height}x{width}",
            at=f"input {spec.name!r}",
            fix=f"use --size {height},{width}, or leave the size to the model",
        )
    return height, width
