"""Pictures: those of a folder, listed, and any picture, decoded and prepared by an `ImagePlan`.

Pillow is what most models were trained with (torchvision, timm, Hugging Face), its bilinear filter is
antialiased, and it raises on a truncated file where others return half a picture.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.parts import LOOKS, digest, spread
from pfa_onnx.stats.records import Index, Record
from pfa_onnx.stats.store import Store, plain_file

if TYPE_CHECKING:
    from PIL import Image

    from pfa_onnx.stats.imageplan import ImagePlan

LABELS_FILE = "labels.csv"
_LABELS_FIX = "write two columns, file,label, in UTF-8; quote what has a comma in it"
_LABELS_HEADER = {"file", "filename", "file_name", "image", "name", "path"}
# formats that Pillow only identifies, or opens by starting another program
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_PAD_PIXEL = 114  # the letterbox grey of the YOLO family
_ORIENTATION = 0x0112  # the EXIF tag
_LARGEST = 64_000_000  # pixels of a resized picture that is to be cropped; a strip a pixel wide becomes far larger


class ImageFolder(Index):
    """Pictures below a folder, in the order of their relative paths, or a single picture.

    The label of a picture is its line in labels.csv, else its first sub-folder when all pictures lie in at
    least two of them.
    """

    stretches = False

    def __init__(self, store: Store, names: Sequence[str], *, alone: bool = False) -> None:
        self._store, self._names = store, names
        self._labels = {} if alone else _labels(store, names)
        self.starts = (0, len(names))

    def unit(self, where: int, rows: Sequence[int]) -> Pictures:
        """Name some pictures."""
        del where
        names = tuple(self._names[row] for row in rows)
        return Pictures(self._store, names, tuple(self._labels.get(name) for name in names))

    def find(self, name: str) -> int:
        """Find it in the sorted list."""
        return bisect_left(self._names, name)

    def looks(self) -> Iterator[bytes]:
        """Know the pictures by all their names, and the bytes of a few."""
        yield from (b"images", digest(*map(os.fsencode, self._names)).encode())
        for row in spread(len(self._names), LOOKS):
            try:
                yield self._store.read(self._names[row])
            except OSError:
                yield b""

    def classes(self) -> tuple[str, ...]:
        """Return the names of all sub-folders, or of all labels in labels.csv."""
        return tuple(sorted(set(self._labels.values())))


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a folder."""

    store: Store
    names: tuple[str, ...]
    labels: tuple[str | None, ...]

    def records(self) -> Iterator[Record]:
        """Read each when it is its turn."""
        for name, label in zip(self.names, self.labels, strict=True):
            if self.store.remote:
                yield Record(name, label, partial(self.store.read, name))
            else:
                path = Path(self.store.root) / name
                yield Record(name, label, partial(plain_file, path), place=str(path))


@dataclass(frozen=True)
class PictureDecoder:
    """Records that are pictures: the bytes of a file, or its path."""

    plan: ImagePlan
    noun: str = "images"

    def open(self, raw: Path | bytes) -> Image.Image:
        """Decode."""
        return decode(BytesIO(raw) if isinstance(raw, bytes) else raw, self.plan.channels)

    def fit(self, opened: Image.Image, name: str) -> Mapping[str, npt.NDArray[Any]]:
        """Resize and scale."""
        return {self.plan.spec.name: apply(self.plan, opened, name=name)[None]}

    def describe(self) -> dict[str, Any]:
        """Return the preprocessing that applies."""
        return {"preprocess": self.plan.describe()}


# --- one picture ---


def decode(file: Path | BinaryIO, channels: int) -> Image.Image:
    """Open a picture as grey, RGB or RGBA (1, 3 or 4 channels), upright by its EXIF orientation.

    Transparency is flattened on white. 16-bit grey is scaled to 0..255, which Pillow alone would clip. Of an animation
    the first frame counts. Raises whatever Pillow raises for a broken file, ValueError for pixels without a known
    range, and DecompressionBombError for more of them than `Image.MAX_IMAGE_PIXELS`, before any is decoded.
    """
    from PIL import Image  # noqa: PLC0415 - slow, and --help does not need it

    with Image.open(file) as opened:
        pixels, most = opened.width * opened.height, Image.MAX_IMAGE_PIXELS
        if most is not None and pixels > most:  # Pillow alone would decode twice as many
            raise Image.DecompressionBombError(f"{opened.width}x{opened.height} pixels are more than {most:,}")
        if not pixels:
            raise ValueError("there are no pixels")
        image = _upright(opened)
        if image.mode.startswith("I"):
            deep = np.asarray(image)
            if deep.min() < 0 or deep.max() > 65535:
                raise ValueError("32-bit pixels have no known range")
            image = Image.fromarray(np.rint(deep / 257).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("float pixels have no known range")
        if channels == 4:
            return image.convert("RGBA")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            white = Image.new("RGBA", clear.size, "white")
            image = Image.alpha_composite(white, clear).convert("RGB")
        return image.convert("L" if channels == 1 else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Decode, and turn as its EXIF data says; where that is broken, the pixels may still be fine."""
    from PIL import Image as Pillow  # noqa: PLC0415

    image.load()
    how = Pillow.Transpose
    turns = {
        2: how.FLIP_LEFT_RIGHT, 3: how.ROTATE_180, 4: how.FLIP_TOP_BOTTOM, 5: how.TRANSPOSE,
        6: how.ROTATE_270, 7: how.TRANSVERSE, 8: how.ROTATE_90,
    }  # fmt: skip
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow raises anything on a broken one
        turn = None
    return image if turn is None else image.transpose(turn)


def apply(plan: ImagePlan, image: Image.Image, *, name: str) -> npt.NDArray[Any]:
    """Return the picture as one sample of the input, without the batch axis: [C,H,W] or [H,W,C].

    Raises DataError, naming the picture, when it does not have the input's height and width.
    """
    pre = plan.preprocess
    pixels = np.asarray(_resized(plan, image))
    pixels = pixels.reshape(*pixels.shape[:2], plan.channels)
    if pre.order == "bgr" and plan.channels >= 3:
        pixels = pixels[..., [2, 1, 0, *range(3, plan.channels)]]
    if pre.scale != 1 or pre.mean or pre.std:
        pixels = pixels.astype(np.float32) * np.float32(pre.scale)
        if pre.mean:
            pixels = pixels - np.asarray(pre.mean, np.float32)
        if pre.std:
            pixels = pixels / np.asarray(pre.std, np.float32)
    _check_size(plan, pixels.shape, name)
    sample = pixels if plan.nhwc else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(sample, dtype=plan.spec.dtype)


def _resized(plan: ImagePlan, image: Image.Image) -> Image.Image:
    """Resize and crop as torchvision and timm do, so that borders fall on the same pixels."""
    from PIL import Image as Pillow  # noqa: PLC0415

    if plan.size is None:
        return image
    pre, (height, width) = plan.preprocess, plan.size
    how = Pillow.Resampling[pre.interpolation.upper()]
    if pre.resize == "stretch":
        return image.resize((width, height), how)
    if pre.resize == "pad":
        ratio = min(height / image.height, width / image.width)
        inner = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        canvas = Pillow.new("L", (width, height), _PAD_PIXEL).convert(image.mode)
        canvas.paste(image.resize(inner, how), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas
    # crop: the side that is short for the target becomes exactly target / crop_pct; the epsilon undoes 224/(224/256)
    tall, wide = int(height / pre.crop_pct + 1e-6), int(width / pre.crop_pct + 1e-6)
    if tall * image.width >= wide * image.height:
        wide = max(wide, tall * image.width // image.height)
    else:
        tall = max(tall, wide * image.height // image.width)
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    if wide * tall > _LARGEST:  # the same pixels but for rounding, and those alone
        across, down = image.width / wide, image.height / tall
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), how, box)
    return image.resize((wide, tall), how).crop((left, top, left + width, top + height))


def _check_size(plan: ImagePlan, got: tuple[int, ...], name: str) -> None:
    spec = plan.spec
    if not spec.shape:
        return
    wanted = spec.shape[1:3] if plan.nhwc else spec.shape[2:4]
    if any(want not in (None, have) for want, have in zip(wanted, got[:2], strict=True)):
        want = "x".join("?" if dim is None else str(dim) for dim in (plan.channels, *wanted))
        raise DataError(
            f"images become {plan.channels}x{got[0]}x{got[1]} but input {spec.name!r} is {want}",
            at=f"{name} -> input {spec.name!r}",
            fix="use a --preprocess that resizes, such as unit, or --resize stretch",
        )


# --- the folder ---


def picture_endings() -> frozenset[str]:
    """Return the file name endings, in lower case with the dot, that Pillow can decode."""
    from PIL import Image  # noqa: PLC0415

    formats = Image.registered_extensions()
    return frozenset(end for end, name in formats.items() if name in Image.OPEN and name not in _NOT_PICTURES)


def _labels(store: Store, names: Sequence[str]) -> Mapping[str, str]:
    try:
        table = store.read(LABELS_FILE)
    except FileNotFoundError:
        first = {name: name.split("/")[0] for name in names if "/" in name}
        # one sub-folder, or loose pictures beside some, is an arrangement and not a classification
        return first if len(first) == len(names) and len(set(first.values())) > 1 else {}
    except OSError as error:
        fix = "let it be read, or move it out of the data"
        raise DataError(f"cannot read the labels: {error}", at=store.place(LABELS_FILE), fix=fix) from error
    return _labels_from_table(table, names, store.place(LABELS_FILE))


def _labels_from_table(table: bytes, names: Sequence[str], place: str) -> Mapping[str, str]:
    rows: dict[str, str] = {}
    try:
        lines = StringIO(table.decode("utf-8-sig"), newline="")
        for number, row in enumerate(csv.reader(lines), start=1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and cells[0].lower() in _LABELS_HEADER):
                continue
            if len(cells) != 2:
                what = f"{len(cells)} columns, expected file,label"
                raise DataError(what, at=f"{place}:{number}", fix=_LABELS_FIX)
            rows[cells[0].replace("\\", "/").removeprefix("./")] = cells[1]
    except (ValueError, csv.Error) as error:
        raise DataError(f"cannot read the labels: {error}", at=place, fix=_LABELS_FIX) from error
    by_name = {name: rows.get(name, rows.get(name.rsplit("/", 1)[-1])) for name in names}
    return {name: label for name, label in by_name.items() if label is not None}
