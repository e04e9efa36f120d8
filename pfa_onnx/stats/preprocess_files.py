"""Read the preprocessing that a model was published with: Hugging Face and timm configuration keys.

Whatever cannot be followed exactly is refused: a picture prepared almost right measures the wrong thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pfa_onnx.errors import UsageError

Settings = Mapping[str, Any]

# PIL's numbers, which Hugging Face stores
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TIMM_CROP = {"center": "crop", "squash": "stretch", "border": "pad"}
_PRESET = "use --preprocess with a preset name"
_EXACT_FROM = 384  # ConvNeXt: from this size on, pictures are stretched and not cropped


def read_settings(settings: Settings, *, at: str) -> dict[str, Any]:
    """Return the fields of `Preprocess` that the configuration fixes; raises UsageError."""
    nested = settings.get("pretrained_cfg")
    if isinstance(nested, Mapping):  # timm on the hub wraps its keys
        settings = nested
    try:
        if "input_size" in settings:
            return _timm(settings)
        if any(key in settings for key in ("do_resize", "do_rescale", "do_normalize", "image_mean", "size")):
            return _hugging_face(settings)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UsageError(f"the preprocessing settings are broken: {error!r}", at=at, fix=_PRESET) from error
    except _UnsupportedError as error:
        raise UsageError(
            f"these preprocessing settings cannot be followed: {error}",
            at=at,
            fix="use --preprocess with a preset and --size, --resize, --mean, --std, or loader.py:function",
        ) from error
    raise UsageError(
        "found neither Hugging Face keys (do_resize, image_mean, ...) nor timm keys (input_size, ...)",
        at=at,
        fix=_PRESET,
    )


class _UnsupportedError(Exception):
    """The settings mean something that `Preprocess` cannot say."""


def _timm(settings: Settings) -> dict[str, Any]:
    height, width = (int(dim) for dim in settings["input_size"][-2:])
    crop = settings.get("crop_mode") or "center"
    interpolation = settings.get("interpolation", "bilinear")
    if crop not in _TIMM_CROP or interpolation not in _RESAMPLE.values():
        raise _UnsupportedError(f"crop_mode {crop!r}, interpolation {interpolation!r}")
    return {
        "resize": _TIMM_CROP[crop],
        "size": (height, width),
        "crop_pct": float(settings.get("crop_pct", 0.875)),
        "mean": _floats(settings.get("mean", (0.485, 0.456, 0.406))),
        "std": _floats(settings.get("std", (0.229, 0.224, 0.225))),
        "scale": 1 / 255,
        "interpolation": interpolation,
    }


def _hugging_face(settings: Settings) -> dict[str, Any]:
    normalize = settings.get("do_normalize", "image_mean" in settings)
    rescale = settings.get("do_rescale", True)
    mean = _floats(settings.get("image_mean") or ()) if normalize else ()
    if settings.get("rescale_offset"):  # EfficientNet: pixel * factor - 1, before the mean
        mean = tuple(value + 1 for value in mean) or (1.0,)
    return {
        **_hugging_face_size(settings),
        "mean": mean,
        "std": _floats(settings.get("image_std") or ()) if normalize else (),
        "scale": float(settings.get("rescale_factor", 1 / 255)) if rescale else 1.0,
        "order": "bgr" if settings.get("do_flip_channel_order") else "rgb",
        "interpolation": _RESAMPLE[int(settings.get("resample", 2))],
    }


def _hugging_face_size(settings: Settings) -> dict[str, Any]:
    """Translate size, crop_size and crop_pct; the keys grew over the years, so each is read in every form."""
    size, crop_size = settings.get("size"), settings.get("crop_size")
    center = settings.get("do_center_crop", crop_size is not None)
    resize = settings.get("do_resize", size is not None)
    if settings.get("do_pad") or settings.get("do_thumbnail"):
        raise _UnsupportedError("do_pad and do_thumbnail give every picture another size")
    if not resize:
        if center:
            raise _UnsupportedError("do_center_crop without do_resize")
        return {"resize": "none"}
    if isinstance(size, int) and center:
        size = {"shortest_edge": size}
    size = _square(size)
    if "shortest_edge" not in size:
        height, width = int(size["height"]), int(size["width"])
        if center and _edges(crop_size) != (height, width):
            raise _UnsupportedError("size.height and size.width with another crop_size")
        return {"resize": "stretch", "size": (height, width)}
    edge = int(size["shortest_edge"])
    if center:
        return _crop(_edges(crop_size), edge)
    if "crop_pct" in settings:  # ConvNeXt: resize to edge / crop_pct, then crop to edge
        square = {"size": (edge, edge), "crop_pct": float(settings["crop_pct"])}
        return {"resize": "stretch", "size": (edge, edge)} if edge >= _EXACT_FROM else {"resize": "crop"} | square
    raise _UnsupportedError("size.shortest_edge without a crop gives every picture another size")


def _crop(crop: tuple[int, int], edge: int) -> dict[str, Any]:
    if crop[0] != crop[1] or crop[0] > edge:
        raise _UnsupportedError(f"a crop of {crop[0]}x{crop[1]} from a shortest edge of {edge}")
    return {"resize": "crop", "size": crop, "crop_pct": crop[0] / edge}


def _edges(size: Any) -> tuple[int, int]:
    square = _square(size)
    return int(square["height"]), int(square["width"])


def _square(size: Any) -> Mapping[str, Any]:
    if isinstance(size, Mapping):
        return size
    height, width = (size, size) if isinstance(size, int) else size
    return {"height": height, "width": width}


def _floats(values: Any) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)
