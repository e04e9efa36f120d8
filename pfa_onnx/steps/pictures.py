"""Small pictures of samples whose prediction changed, for those who want to see what a model now gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.results import Picture
from pfa_onnx.stats.compare import Answer
from pfa_onnx.stats.data import Batch

Pixels = npt.NDArray[np.uint8]

SIDE = 96  # pixels of the longer side, at most


@dataclass(frozen=True, eq=False)
class _Seen:
    place: int  # among all changed samples
    png: bytes


class Gallery:
    """Collects pictures while samples go by, and in the end has some, evenly spread over all that changed.

    most: how many it shows. prepared: how pictures became inputs (`Preprocess.describe`), to be undone; {} for arrays.
    """

    def __init__(self, most: int, prepared: Mapping[str, Any]) -> None:
        self._most, self._prepared = most, prepared
        self._seen: list[_Seen] = []
        self._count, self._stride = 0, 1

    def add(self, batch: Batch, changed: Sequence[int]) -> None:
        """Look at one batch. changed: the positions of the samples in it whose prediction changed."""
        for position in changed if self._most else ():
            if self._count % self._stride == 0:
                sample = {name: array[position] for name, array in batch.feeds.items()}
                png = thumbnail(sample, self._prepared)
                if png is not None:
                    self._seen.append(_Seen(self._count, png))
            self._count += 1
            if len(self._seen) >= 2 * self._most:  # how many will come is not known: keep every second one
                self._stride *= 2
                self._seen = [one for one in self._seen if one.place % self._stride == 0]

    def pictures(self, answers: Iterable[Answer]) -> tuple[Picture, ...]:
        """Return the pictures and what both models say of them. answers: of all samples, in order."""
        changed, names = [], {}
        for answer in answers:
            if answer.truth is not None and answer.label is not None:
                names[answer.truth] = answer.label
            if answer.before != answer.after:
                changed.append(answer)
        picks = np.unique(np.linspace(0, len(self._seen) - 1, min(self._most, len(self._seen))).round().astype(int))
        return tuple(_picture(changed[one.place], one.png, names) for one in (self._seen[k] for k in picks.tolist()))


def _picture(answer: Answer, png: bytes, names: Mapping[int, str]) -> Picture:
    before, after = (names.get(number, str(number)) for number in (answer.before, answer.after))
    return Picture(answer.name, before, after, None if answer.truth is None else names[answer.truth], png)


def thumbnail(sample: Mapping[str, npt.NDArray[Any]], prepared: Mapping[str, Any]) -> bytes | None:
    """Return the first input of one sample that can be looked at, as a small PNG; None where there is none."""
    from PIL import Image  # noqa: PLC0415 - slow, and only those who look at pictures need it

    for array in sample.values():
        pixels = as_pixels(array, prepared)
        if pixels is not None:
            image = Image.fromarray(pixels)
            image.thumbnail((SIDE, SIDE))
            file = BytesIO()
            image.save(file, "PNG", optimize=True)
            return file.getvalue()
    return None


def as_pixels(array: npt.NDArray[Any], prepared: Mapping[str, Any]) -> Pixels | None:
    """Return [H, W], or [H, W, 3 or 4], of 0..255; None where the array is no picture."""
    if array.dtype.kind not in "uifb":
        return None
    last = prepared.get("layout") == "nhwc" if prepared else _channels_are_last(array.shape)
    if array.ndim == 3 and not last:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or min(array.shape[:2]) < 2:
        return None
    values = np.nan_to_num(array.astype(np.float64))
    values = _undone(values, prepared) if prepared else _stretched(values)
    pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels


def _channels_are_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] not in (1, 3, 4)


def _undone(values: npt.NDArray[np.float64], prepared: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Take the preprocessing back."""
    values = values * np.array(prepared.get("std") or 1.0) + np.array(prepared.get("mean") or 0.0)
    values = values / (prepared.get("scale") or 1.0)
    colours = values.shape[-1] >= 3 and prepared.get("order") == "bgr"
    return np.concatenate([values[..., 2::-1], values[..., 3:]], axis=-1) if colours else values


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Guess the range: 0..1, 0..255, or whatever there is."""
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        low, high = 0.0, next((top for top in (1.0, 255.0) if high <= top), high)
    return (values - low) * (255 / (high - low or 1.0))
