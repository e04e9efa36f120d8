"""Calibration data as batches, whatever it comes from.

    folder of images, .tar or .parquet files | FILE.npy | FILE.npz | file.py:function
    mapping | array | callable | iterable | get_next()

The first axis of every array is the sample. A data set can be read again and again, yields the same
samples every time, from any of them on, and never holds more than a few batches (a .npy file is mapped, a .npz is
loaded).
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.nearest import nearest
from pfa_onnx.stats.archive import BROKEN, refuse_claims
from pfa_onnx.stats.conform import conform
from pfa_onnx.stats.parts import LOOKS, WHOLE, Part, Shard, array_bytes, check_shard, choose, digest, spread
from pfa_onnx.stats.preprocess import Preprocess
from pfa_onnx.stats.store import Each, in_threads, is_address

if TYPE_CHECKING:
    from pfa_onnx.recipe import InputSpec

Array = npt.NDArray[Any]
Data = str | Path | Mapping[str, Any] | Array | Callable[[], Any] | Iterable[Any]

UNNAMED = ""  # the key of an array that came alone
LABELS_KEY = "labels"  # in a .npz or mapping, when no input has this name
_SAVE = "save them with numpy.save or numpy.savez, as numbers"
_FIRST_AXIS = "give every input as many samples, along the first axis"
KINDS = "a folder of images, .tar or .parquet files, FILE.npy, FILE.npz or loader.py:function"


@dataclass(frozen=True)
class Batch:
    """Some samples: for every input an array [count, ...], and for every sample its name and label or None."""

    feeds: Mapping[str, Array]
    names: tuple[str, ...]
    labels: tuple[str | None, ...]

    @property
    def count(self) -> int:
        """How many samples."""
        return len(self.names)


class Dataset(ABC):
    """Samples to measure a model with.

    source: what the report calls it. count: samples chosen, None when only reading tells.
    skipped: (name, why) of the last pass.
    """

    source: str
    count: int | None = None
    skipped: Sequence[tuple[str, str]] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """All label names that are known, sorted."""
        return ()

    @abstractmethod
    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield the samples, `batch_size` at a time; raises DataError.

        start: leave out so many of the chosen samples, as `position` counts them.
        """

    @abstractmethod
    def part(self) -> Part:
        """Return which samples of which data these are; of a stream, those that were read so far."""

    def position(self, seen: int, last: str) -> int:
        """Return how many of the chosen samples lie behind: `seen` came, and the last had this name."""
        del last
        return seen

    def permuted(self, random: np.random.Generator) -> Dataset:
        """Return the same samples in another order, as far as they can be read in any; a stream's stays."""
        del random
        return self

    def describe(self) -> dict[str, Any]:
        """Return what is known before reading, as plain JSON values."""
        return {"source": self.source, "samples": self.count}


class ArrayData(Dataset):
    """Arrays [samples, ...] by input name; memory-mapped ones are read one batch at a time."""

    def __init__(
        self,
        arrays: Mapping[str, Any],
        inputs: Sequence[InputSpec],
        *,
        source: str,
        limit: int | None,
        shard: Shard = WHOLE,
    ) -> None:
        self.source = source
        self._limit, self._shard = limit, shard
        self._inputs = inputs
        self._arrays, labels = _match(arrays, inputs, source)
        lengths = {name: len(array) if array.ndim else 0 for name, array in self._arrays.items()}
        if labels is not None:
            lengths[LABELS_KEY] = labels.size
        if len(set(lengths.values())) != 1:
            counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise DataError(f"the arrays have different numbers of samples: {counts}", at=source, fix=_FIRST_AXIS)
        total = next(iter(lengths.values()))
        if total == 0:
            raise DataError("there are no samples", at=source, fix=f"give {KINDS}")
        self._labels = None if labels is None else tuple(str(label) for label in labels.ravel())
        self._total = total
        self._rows = choose(total, limit, shard)
        self.count = len(self._rows)
        refuse_empty(self)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels."""
        return tuple(sorted(set(self._labels or ())))

    def permuted(self, random: np.random.Generator) -> Dataset:
        """Read the rows in any order."""
        other = copy(self)
        other._rows = random.permutation(self._rows).tolist()  # noqa: SLF001 - its own copy
        return other

    def part(self) -> Part:
        """Know the data by its shapes and a few of its rows."""
        looks = spread(self._total, LOOKS)
        pieces = [
            piece
            for spec in self._inputs
            for array in [self._arrays[spec.name]]
            for piece in (spec.name.encode(), str(array.shape).encode(), array_bytes(_take(array, looks)))
        ]
        return Part(digest(b"arrays", *pieces), self._total, self._limit, *self._shard)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield copies of the chosen rows."""
        for first in range(start, len(self._rows), batch_size):
            rows = self._rows[first : first + batch_size]
            feeds = {
                spec.name: conform(_take(self._arrays[spec.name], rows), spec, at=self.source, rows=rows)
                for spec in self._inputs
            }
            names = tuple(f"{self.source}[{row}]" for row in rows)
            yield Batch(feeds, names, tuple(self._labels[row] if self._labels else None for row in rows))


def open_data(
    data: Data,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | str = "auto",
    limit: int | None = None,
    shard: Shard = WHOLE,
    each: Each = in_threads,
) -> Dataset:
    """Return the data set for a model with these inputs.

    preprocess: for pictures only. limit: at most so many samples, evenly spaced over a folder or an array;
    the first ones of a function or an iterable. shard: (i, n), every n-th of these from the i-th on, of samples in
    .tar or .parquet files the i-th of n stretches. each: how many files are looked into, see `open_files`.
    Raises DataError or UsageError when the data cannot be opened or cannot fit.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}", at="--limit", fix="give a number of samples, 1 or more")
    check_shard(shard)
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return _open_path(str(data), inputs, preprocess, each, limit=limit, shard=shard)
    if isinstance(data, Mapping):
        return ArrayData(data, inputs, source="arrays", limit=limit, shard=shard)
    if isinstance(data, np.ndarray):
        return ArrayData({UNNAMED: data}, inputs, source="array", limit=limit, shard=shard)
    from pfa_onnx.stats.stream import open_stream  # noqa: PLC0415 - it builds on this module

    return open_stream(data, inputs, limit=limit, shard=shard)


def refuse_empty(dataset: Dataset) -> None:
    """Raise DataError when there are fewer samples than shards."""
    if dataset.count == 0:
        raise DataError("there are fewer samples than shards", at=dataset.source, fix="use fewer shards")


def require_two(dataset: Dataset, seen: int | None = None) -> None:
    """Raise DataError when the data set has, or a pass over it has `seen`, fewer than two samples."""
    count = dataset.count if seen is None else seen
    if count is not None and count < 2:
        raise DataError(
            f"{count} sample{'' if count == 1 else 's'} cannot show how responses vary; PFA needs at least two, "
            "and ten for every channel to be sure",
            at=dataset.source,
            fix="give more samples with --data",
        )


def rebatch(pieces: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Cut and join batches so that each has `size` samples; the last, and the last of one shape, may have fewer."""
    pending: list[Batch] = []
    held = 0
    for piece in pieces:
        if pending and _shape(pending[0]) != _shape(piece):
            yield _join(pending)
            pending, held = [], 0
        start = 0
        while piece.count - start >= size - held:
            stop = start + size - held
            yield _join([*pending, _part(piece, start, stop)])
            pending, held, start = [], 0, stop
        if start < piece.count:
            pending.append(_part(piece, start, piece.count))
            held += piece.count - start
    if pending:
        yield _join(pending)


def _open_path(
    data: str,
    inputs: Sequence[InputSpec],
    preprocess: Preprocess | str,
    each: Each,
    *,
    limit: int | None,
    shard: Shard,
) -> Dataset:
    path = Path(data)
    script, _, function = data.rpartition(":")
    if script.endswith(".py") and not _is_there(path):
        from pfa_onnx.stats.stream import open_script  # noqa: PLC0415

        return open_script(script, function, inputs, limit=limit, shard=shard)
    if not is_address(data) and not _is_there(path):
        raise DataError(f"no such file or folder: {data}", at="--data", fix=f"give {KINDS}")
    if path.suffix.lower() in (".npy", ".npz") and not is_address(data):
        return ArrayData(_load(path), inputs, source=data, limit=limit, shard=shard)
    if path.suffix == ".py":
        raise UsageError(f"{data} does not say which function to call", at="--data", fix=f"use {data}:function")
    from pfa_onnx.stats.sources import open_files  # noqa: PLC0415 - brings Pillow

    return open_files(data, inputs, preprocess=preprocess, limit=limit, shard=shard, each=each)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder on the way may not be entered
        raise DataError(f"cannot look for {path}: {error.strerror}", at="--data", fix="check the path") from error


def _take(array: Array, rows: Sequence[int]) -> Array:
    """Return a copy of some rows. A mapped file is mapped anew: pages once touched would count as memory used."""
    if isinstance(array, np.memmap) and array.filename is not None:
        mapped = _load(Path(array.filename))[UNNAMED]
        if (mapped.shape, mapped.dtype) != (array.shape, array.dtype):
            raise DataError("the file changed while it was being read", at=str(array.filename), fix="run again")
        array = mapped
    return np.array(array[list(rows)])


def _load(path: Path) -> Mapping[str, Array]:
    try:
        if path.suffix.lower() == ".npy":
            return {UNNAMED: np.load(path, mmap_mode="r", allow_pickle=False)}
        refuse_claims(path)
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except MemoryError as error:
        fix = "save each array as FILE.npy, which is read piece by piece, or give loader.py:function"
        raise DataError(
            "out of memory: the arrays of a .npz file are read as a whole", at=str(path), fix=fix
        ) from error
    except (*BROKEN, AttributeError, zlib.error) as error:
        raise DataError(f"cannot read the arrays: {error}", at=str(path), fix=_SAVE) from error


def _match(
    arrays: Mapping[str, Any], inputs: Sequence[InputSpec], source: str
) -> tuple[dict[str, Array], Array | None]:
    """Give every input its array, and split off the labels."""
    found = {str(name): np.asanyarray(array) for name, array in arrays.items()}
    wanted = [spec.name for spec in inputs]
    labels = None if LABELS_KEY in wanted or len(found) < 2 else found.pop(LABELS_KEY, None)
    if set(found) == {UNNAMED}:
        if len(wanted) > 1:
            raise DataError(
                f"one array without a name came, but the model has {len(wanted)} inputs: {', '.join(wanted)}",
                at=source,
                fix="give FILE.npz with an array for each input",
            )
        return {wanted[0]: found[UNNAMED]}, labels
    if set(found) != set(wanted):
        raise DataError(
            f"the arrays are {', '.join(sorted(found)) or 'none'} but the inputs are {', '.join(wanted)}",
            at=source,
            fix=renamed(set(found), wanted) or "name one array after each input, and no other but labels",
        )
    return {name: found[name] for name in wanted}, labels


def renamed(found: set[str], wanted: Sequence[str]) -> str | None:
    """Return how arrays want to be called, where each is nearly called after an input; None where one is not."""
    strange, missing = sorted(found - set(wanted)), [name for name in wanted if name not in found]
    pairs = {name: nearest(name, missing, 1) for name in strange}
    if not pairs or len(pairs) != len({meant for close in pairs.values() for meant in close}):
        return None
    return " and ".join(f"rename '{name}' to '{close[0]}'" for name, close in pairs.items())


def _shape(batch: Batch) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in batch.feeds.values()]


def _part(batch: Batch, start: int, stop: int) -> Batch:
    if (start, stop) == (0, batch.count):
        return batch  # also keeps a sample whose arrays have no common first axis whole
    feeds = {name: array[start:stop] for name, array in batch.feeds.items()}
    return Batch(feeds, batch.names[start:stop], batch.labels[start:stop])


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    feeds = {name: np.concatenate([part.feeds[name] for part in parts]) for name in parts[0].feeds}
    names = tuple(name for part in parts for name in part.names)
    return Batch(feeds, names, tuple(label for part in parts for label in part.labels))
