"""A folder of pictures as a data set: listed, decoded in threads, prepared by an `ImagePlan`.

Pillow is what most models were trained with (torchvision, timm, Hugging Face), its bilinear filter is
antialiased, and it raises on a truncated file where others return half a picture.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_right
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.data import Batch, Dataset, rebatch, refuse_empty
from pfa_onnx.stats.parts import LOOKS, WHOLE, Part, Shard, choose, digest, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from PIL import Image

    from pfa_onnx.stats.imageplan import ImagePlan

LABELS_FILE = "labels.csv"
_LABELS_HEADER = {"file", "filename", "file_name", "image", "name", "path"}
# formats that Pillow only identifies, or opens by starting another program
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_PAD_PIXEL = 114  # the letterbox grey of the YOLO family
_AHEAD = 2  # batches that may be decoded before they are asked for


class ImageFolder(Dataset):
    """Pictures below a folder, in the order of their relative paths, or a single picture.

    The label of a picture is its line in labels.csv, else its first sub-folder when all pictures lie in at
    least two of them. A picture that cannot be decoded is skipped and listed in `skipped`.
    """

    def __init__(
        self, path: Path, plan: ImagePlan, *, source: str, limit: int | None = None, shard: Shard = WHOLE
    ) -> None:
        self.source = source
        self.skipped: list[tuple[str, str]] = []
        self._plan = plan
        self._root = path.parent if path.is_file() else path
        names = [path.name] if path.is_file() else list_pictures(path)
        if not names:
            raise DataError(
                f"no images in {source}",
                at=source,
                fix="give a folder of images, FILE.npy, FILE.npz or loader.py:function",
            )
        labels = {} if path.is_file() else _labels(self._root, names)
        self.classes = tuple(sorted(set(labels.values())))
        self._names = [names[index] for index in choose(len(names), limit, shard)]
        self._labels = labels
        self.count = len(self._names)
        refuse_empty(self)
        self._whole = Part(digest(*map(os.fsencode, names)), len(names), limit, *shard)
        self._looks = [names[index] for index in spread(len(names), LOOKS)]

    def part(self) -> Part:
        """Know the pictures by all their names, and the bytes of a few."""
        contents = [_bytes_of(self._root / name) for name in self._looks]
        return replace(self._whole, data=digest(b"images", self._whole.data.encode(), *contents))

    def position(self, seen: int, last: str) -> int:
        """Count those that could not be read, too."""
        del seen
        return bisect_right(self._names, last)

    def describe(self) -> dict[str, Any]:
        """Return the source, the number of pictures and the preprocessing that applies."""
        return super().describe() | {"preprocess": self._plan.describe()}

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield prepared pictures; raises DataError for one that does not fit, or when none can be read."""
        return rebatch(self._decoded(batch_size, self._names[start:]), batch_size)

    def _decoded(self, batch_size: int, names: list[str]) -> Iterator[Batch]:
        self.skipped = []
        name = self._plan.spec.name
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
            try:
                for file, result in _ahead(pool, self._load, names, _AHEAD * batch_size):
                    if isinstance(result, str):
                        self.skipped.append((file, result))
                    else:
                        yield Batch({name: result[None]}, (file,), (self._labels.get(file),))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if names and len(self.skipped) == len(self._names):
            file, why = self.skipped[0]
            raise DataError(
                f"none of {len(self._names)} images can be read, the first: {why}", at=f"{self.source}, {file}"
            )

    def _load(self, file: str) -> npt.NDArray[Any] | str:
        """Return the prepared sample, or why the picture cannot be read."""
        try:
            image = decode(self._root / file, self._plan.channels)
        except Exception as error:  # noqa: BLE001 - decoders raise anything on a broken file, and one must not stop a run
            return f"{type(error).__name__}: {error}".replace(str(self._root / file), file)
        return apply(self._plan, image, name=file)


def _ahead(pool: ThreadPoolExecutor, load: Any, names: Iterable[str], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield (name, loaded) in order while at most `depth` later ones are being loaded."""
    rest = iter(names)
    waiting: deque[tuple[str, Future[Any]]] = deque()
    for name in rest:
        waiting.append((name, pool.submit(load, name)))
        if len(waiting) > depth:
            break
    while waiting:
        name, future = waiting.popleft()
        yield name, future.result()
        waiting.extend((later, pool.submit(load, later)) for later in islice(rest, 1))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- one picture ---


def decode(path: Path, channels: int) -> Image.Image:
    """Open a picture as grey, RGB or RGBA (1, 3 or 4 channels), upright by its EXIF orientation.

    Transparency is flattened on white. 16-bit grey is scaled to 0..255, which Pillow alone would clip.
    Raises whatever Pillow raises for a broken file, and ValueError for pixels without a known range.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 - slow, and --help does not need it

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
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


def list_pictures(folder: Path) -> list[str]:
    """Return the relative paths (with /) of all pictures below a folder, sorted; hidden files are left out."""
    endings = picture_endings()
    found: list[str] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        pictures = (name for name in files if not name.startswith(".") and Path(name).suffix.lower() in endings)
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in pictures]
    return sorted(found)


def picture_endings() -> frozenset[str]:
    """Return the file name endings, in lower case with the dot, that Pillow can decode."""
    from PIL import Image  # noqa: PLC0415

    formats = Image.registered_extensions()
    return frozenset(end for end, name in formats.items() if name in Image.OPEN and name not in _NOT_PICTURES)


def _labels(root: Path, names: list[str]) -> Mapping[str, str]:
    table = root / LABELS_FILE
    if table.is_file():
        return _labels_from_table(table, names)
    first = {name: name.split("/")[0] for name in names if "/" in name}
    # one sub-folder, or loose pictures beside some, is an arrangement and not a classification
    return first if len(first) == len(names) and len(set(first.values())) > 1 else {}


def _labels_from_table(table: Path, names: list[str]) -> Mapping[str, str]:
    rows: dict[str, str] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and cells[0].lower() in _LABELS_HEADER):
                    continue
                if len(cells) != 2:
                    raise DataError(f"{len(cells)} columns, expected file,label", at=f"{table}:{number}")
                rows[cells[0].replace("\\", "/").removeprefix("./")] = cells[1]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read the labels: {error}", at=str(table)) from error
    by_name = {name: rows.get(name, rows.get(name.rsplit("/", 1)[-1])) for name in names}
    return {name: label for name, label in by_name.items() if label is not None}
