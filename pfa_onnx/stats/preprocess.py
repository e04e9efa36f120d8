"""What happens to a picture before the model sees it, as immutable data.

    pixels 0..255 -> resize -> (pixel * scale - mean) / std -> layout and dtype of the input

`make_preprocess` turns a preset name or a configuration file, and overrides, into a `Preprocess`; `fit`
(imageplan.py) joins it to one model input. Nothing here opens a picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pfa_onnx.errors import UsageError
from pfa_onnx.nearest import did_you_mean
from pfa_onnx.stats.preprocess_files import read_settings

Resize = Literal["crop", "stretch", "pad", "none"]
Order = Literal["rgb", "bgr"]
Layout = Literal["auto", "nchw", "nhwc"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "resize": ("crop", "stretch", "pad", "none"),
    "order": ("rgb", "bgr"),
    "layout": ("auto", "nchw", "nhwc"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
}
_ANOTHER = "give a preprocessor_config.json or timm config.json, or a preset name"
_PIXEL = 1 / 255


@dataclass(frozen=True)
class Preprocess:
    """How pictures become the numbers of an input.

    resize: `crop` covers size / crop_pct and cuts the centre out; `stretch` ignores the aspect ratio;
        `pad` fits inside and fills with grey (letterbox); `none` leaves the picture alone.
    size: (height, width) in pixels, None = the model's.
    mean, std: one number, or one per channel in the model's channel order, after `scale`; () = none.
    scale: factor on the pixels 0..255.
    pending: overrides of `auto`, which has no numbers until it sees the input.
    """

    name: str
    resize: Resize = "stretch"
    size: tuple[int, int] | None = None
    crop_pct: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    order: Order = "rgb"
    layout: Layout = "auto"
    interpolation: str = "bilinear"
    pending: tuple[tuple[str, Any], ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, for reports and stats files."""
        fields = ("name", "resize", "crop_pct", "scale", "order", "layout", "interpolation")
        plain: dict[str, Any] = {field: getattr(self, field) for field in fields}
        return plain | {
            "size": list(self.size) if self.size else None,
            "mean": list(self.mean),
            "std": list(self.std),
        }


IMAGENET = Preprocess(
    "imagenet", resize="crop", crop_pct=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=_PIXEL
)
UNIT = Preprocess("unit", scale=_PIXEL)
BYTES = Preprocess("0..255")  # what `auto` means for an integer input: raw, but resized
PRESETS: dict[str, Preprocess] = {
    "auto": Preprocess("auto"),
    "imagenet": IMAGENET,
    "inception": replace(IMAGENET, name="inception", mean=(0.5,), std=(0.5,)),
    "unit": UNIT,
    "raw": Preprocess("raw", resize="none"),
}


def make_preprocess(
    choice: str | Path = "auto",
    *,
    resize: str | None = None,
    size: int | Sequence[int] | None = None,
    crop_pct: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    scale: float | None = None,
    order: str | None = None,
    layout: str | None = None,
    interpolation: str | None = None,
) -> Preprocess:
    """Return the preset, or the file's settings, with the overrides that are not None.

    choice: a preset name, or the path of a Hugging Face preprocessor_config.json or timm config.json.
    size: one number for a square, or (height, width), in pixels.
    Raises UsageError for an unknown name or a value out of range.
    """
    given = {
        "resize": resize,
        "size": None if size is None else _pair(size),
        "crop_pct": crop_pct,
        "mean": None if mean is None else _numbers(mean),
        "std": None if std is None else _numbers(std),
        "scale": scale,
        "order": order,
        "layout": layout,
        "interpolation": interpolation,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    base = _base(choice)
    if base.name == "auto":
        validate(replace(BYTES, **cast("dict[str, Any]", overrides)), numbers=False)
        return replace(base, pending=tuple(sorted(overrides.items(), key=lambda item: item[0])))
    result = replace(base, **cast("dict[str, Any]", overrides))
    validate(result)
    return result


def _base(choice: str | Path) -> Preprocess:
    if str(choice) in PRESETS:
        return PRESETS[str(choice)]
    path = Path(choice)
    if path.suffix != ".json" and not path.is_file():
        names = ", ".join(PRESETS)
        meant = did_you_mean(str(choice), PRESETS)
        raise UsageError(
            f"no preset is called {str(choice)!r}",
            at="--preprocess",
            fix=f"{f'{meant} Or ' if meant else ''}use one of {names}, or the path of a preprocessor_config.json",
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the preprocessing settings: {error}", at=str(path), fix=_ANOTHER) from error
    if not isinstance(settings, Mapping):
        raise UsageError("the preprocessing settings are not a JSON object", at=str(path), fix=_ANOTHER)
    return Preprocess(path.name, **read_settings(settings, at=str(path)))


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    values = [size, size] if isinstance(size, int) else list(size)
    if len(values) == 1:
        values *= 2
    if len(values) != 2:
        raise UsageError(f"size has {len(values)} numbers", at="--size", fix="give one number, or height and width")
    return int(values[0]), int(values[1])


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(float(item) for item in value)


def validate(pre: Preprocess, *, numbers: bool = True) -> None:
    """Raise UsageError for what cannot be meant; `numbers` is off while the scale is not known yet."""
    for field, choices in _CHOICES.items():
        if getattr(pre, field) not in choices:
            flag = f"--{'channel-order' if field == 'order' else field}"
            raise UsageError(f"{field} is {getattr(pre, field)!r}", at=flag, fix=f"use one of {', '.join(choices)}")
    if pre.size is not None and min(pre.size) < 1:
        what = f"size {pre.size[0]}x{pre.size[1]} is not positive"
        raise UsageError(what, at="--size", fix="give numbers of pixels, 1 or more")
    if not 0 < pre.crop_pct <= 1:
        raise UsageError(f"crop_pct is {pre.crop_pct}", at="--crop-pct", fix="give a number above 0 and up to 1")
    if not all(value > 0 for value in pre.std):
        raise UsageError("std has a number that is not positive", at="--std", fix="give numbers above 0")
    if pre.size is not None and pre.resize == "none":
        what = f"preprocess {pre.name!r} never resizes, so size cannot hold"
        raise UsageError(what, at="--size", fix="add --resize stretch")
    # the usual slip: mean 123.7 belongs to 0..255, and silently ruins pictures scaled to 0..1
    if numbers and any(abs(value) > 255 * abs(pre.scale) + 1e-6 for value in pre.mean):
        raise UsageError(
            f"mean {max(pre.mean, key=abs):g} lies outside the pixels, which scale {pre.scale:.6g} maps to "
            f"0..{255 * pre.scale:g}",
            at="--mean",
            fix="give the mean of the scaled pixels, or --scale 1",
        )
