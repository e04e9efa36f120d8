"""Samples that lie in files: listed first, read where they lie, decoded in threads.

An `Index` knows which samples there are and where, and holds none of them. It makes `Unit`s of those that are
wanted: neighbours, to be read one after the other by whoever gets the unit, here or in another process. A sample
that cannot be read is skipped and listed; one that does not fit the model is an error.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.conform import conform
from pfa_onnx.stats.data import Batch, Dataset, rebatch, refuse_empty
from pfa_onnx.stats.parts import WHOLE, Part, Shard, choose, digest

if TYPE_CHECKING:
    from pfa_onnx.recipe import InputSpec

Array = npt.NDArray[Any]

_AHEAD = 2  # batches that may be decoded before they are asked for
_THREADS = 8
_BUFFER = re.compile(r"<_io\.BytesIO object at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True)
class Record:
    """One sample: `get` reads it. place: its full path, which messages leave out."""

    name: str
    label: str | None
    get: Callable[[], Any]
    place: str = ""


@dataclass(frozen=True)
class Loaded:
    """One sample, ready to run, with a batch axis of one; or why there is none."""

    name: str
    label: str | None
    feeds: Mapping[str, Array]
    why: str = ""


class Unit(Protocol):
    """Some samples that are read together; small, and travels to other processes."""

    def records(self) -> Iterator[Record]:
        """Go through them; raises nothing: what cannot be read fails in `Record.get`."""


class Decoder(Protocol):
    """Makes inputs of what a record holds; travels to other processes. noun: what reports call the samples."""

    @property
    def noun(self) -> str:
        """What samples are called."""

    def open(self, raw: Any) -> Any:
        """Decode; whatever is raised means that the sample is broken."""

    def fit(self, opened: Any, name: str) -> Mapping[str, Array]:
        """Return the inputs [1, ...]; raises DataError when the sample does not fit the model."""

    def describe(self) -> dict[str, Any]:
        """Return what a report says about the preparation."""


class Index(ABC):
    """A sorted list of samples in files.

    starts: the first sample of every file, or part of one that is read at once, and at the end how many there are.
    stretches: shards are stretches of the list, since samples that lie together are read together; else every n-th.
    most: samples in one unit.
    """

    starts: Sequence[int]
    stretches: ClassVar[bool] = True
    most: ClassVar[int] = 64

    @abstractmethod
    def unit(self, where: int, rows: Sequence[int]) -> Unit:
        """Return some samples of the file or part `where`, counted from its first one."""

    @abstractmethod
    def find(self, name: str) -> int:
        """Return the place of the sample with this name in the list."""

    @abstractmethod
    def looks(self) -> Iterable[bytes]:
        """Return what tells this data from other data: all names, sizes, and the bytes of a few samples."""

    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Return all labels, sorted."""

    def units(self, rows: Sequence[int]) -> Iterator[Unit]:
        """Return the units that hold these samples, in this order; what ascends within a file is read at once."""
        done = 0
        while done < len(rows):
            where = bisect_right(self.starts, rows[done]) - 1
            end, stop = self.starts[where + 1], done + 1
            while stop < min(len(rows), done + self.most) and rows[stop - 1] < rows[stop] < end:
                stop += 1
            yield self.unit(where, [row - self.starts[where] for row in rows[done:stop]])
            done = stop


class Records(Dataset):
    """The samples of an index, or a shard of them. remote: they lie in an object store.

    Raises DataError when the index is empty.
    """

    def __init__(
        self,
        index: Index,
        decoder: Decoder,
        *,
        source: str,
        remote: bool = False,
        limit: int | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        self.source, self.remote = source, remote
        self.skipped: list[tuple[str, str]] = []
        self.index, self.decoder = index, decoder
        self._limit, self._shard = limit, shard
        self._rows = choose(index.starts[-1], limit, shard, stretch=index.stretches)
        self._digest = ""
        self.count = len(self._rows)
        refuse_empty(self)

    @property
    def classes(self) -> tuple[str, ...]:
        """All label names."""
        return self.index.classes()

    def part(self) -> Part:
        """Know the data by what the index looks at."""
        self._digest = self._digest or digest(*self.index.looks())
        index = self.index
        return Part(self._digest, index.starts[-1], self._limit, *self._shard, stretch=index.stretches)

    def position(self, seen: int, last: str) -> int:
        """Count those that could not be read, too."""
        del seen
        return bisect_right(self._rows, self.index.find(last))

    def permuted(self, random: np.random.Generator) -> Dataset:
        """Read samples in any order, or short stretches of them where those that lie together are read together."""
        other = copy(self)
        step = self.index.most if self.index.stretches else 1
        order = random.permutation(-(-len(self._rows) // step))
        other._rows = [row for k in order.tolist() for row in self._rows[k * step : (k + 1) * step]]  # noqa: SLF001
        other.skipped = []
        return other

    def describe(self) -> dict[str, Any]:
        """Return the source, the number of samples and the preprocessing that applies."""
        return super().describe() | self.decoder.describe()

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield prepared samples; raises DataError for one that does not fit, or when none can be read."""
        units = self.index.units(self._rows[start:])
        found = load_units(units, self.decoder, batch_size)
        return rebatch(taken(self, self.skipped, found, self.decoder.noun), batch_size)

    def units_of(self, shard: Shard) -> tuple[list[Unit], int]:
        """Return what another process has to read of a shard of these samples, and how many they are."""
        rows = choose(self.index.starts[-1], self._limit, shard, stretch=self.index.stretches)
        return list(self.index.units(rows)), len(rows)


def taken(dataset: Dataset, skipped: list[tuple[str, str]], found: Iterable[Loaded], noun: str) -> Iterator[Batch]:
    """Yield samples as batches of one; those that could not be read go to `skipped`.

    Raises DataError when these are all samples of the data set.
    """
    skipped.clear()
    for one in found:
        if one.why:
            skipped.append((one.name, one.why))
        else:
            yield Batch(one.feeds, (one.name,), (one.label,))
    if len(skipped) == dataset.count:
        name, why = skipped[0]
        raise DataError(
            f"none of {dataset.count} {noun} can be read, the first: {why}",
            at=f"{dataset.source}, {name}",
            fix=f"give --data {noun} that open in other programs",
        )


def load_units(units: Iterable[Unit], decoder: Decoder, batch_size: int = 1) -> Iterator[Loaded]:
    """Read and decode in threads, in order."""
    records = (record for unit in units for record in unit.records())
    with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        try:
            yield from _ahead(pool, lambda record: load(record, decoder), records, _AHEAD * batch_size)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def load(record: Record, decoder: Decoder) -> Loaded:
    """Return the prepared sample, or why it cannot be read; raises DataError when it does not fit."""
    try:
        opened = decoder.open(record.get())
    except MemoryError:  # it says nothing about the sample
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on a broken file, and one must not stop a run
        why = f"{type(error).__name__}: {error}"
        why = why.replace(record.place, record.name) if record.place else why
        return Loaded(record.name, record.label, {}, _BUFFER.sub(lambda _: repr(record.name), why))
    return Loaded(record.name, record.label, decoder.fit(opened, record.name))


@dataclass(frozen=True)
class Arrays:
    """Records that are arrays by input name."""

    inputs: tuple[InputSpec, ...]
    noun: str = "samples"

    def open(self, raw: Mapping[str, Any]) -> Mapping[str, Array]:
        """Make arrays of whatever it is; raises ValueError for ragged lists."""
        return {spec.name: _shaped(np.asarray(raw[spec.name]), spec) for spec in self.inputs}

    def fit(self, opened: Mapping[str, Array], name: str) -> Mapping[str, Array]:
        """Check every array against its input."""
        return {spec.name: conform(opened[spec.name][None], spec, at=name) for spec in self.inputs}

    def describe(self) -> dict[str, Any]:
        """Return nothing: arrays come as they are."""
        return {}


def _shaped(array: Array, spec: InputSpec) -> Array:
    """Give a flat list the input's shape: formats of tables often keep the numbers only."""
    shape = spec.shape[1:]
    if array.ndim >= 2 or array.ndim == len(shape) or not shape:
        return array
    known = [extent for extent in shape if extent is not None]
    size = int(np.prod(known))
    whole = array.size == size if len(known) == len(shape) else len(known) == len(shape) - 1 and array.size % size == 0
    return array.reshape([-1 if extent is None else extent for extent in shape]) if whole else array


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[Record], Loaded], records: Iterable[Record], depth: int
) -> Iterator[Loaded]:
    """Yield what was loaded, in order, while at most `depth` later ones are being loaded."""
    rest = iter(records)
    waiting: deque[Future[Loaded]] = deque()
    for record in rest:
        waiting.append(pool.submit(load, record))
        if len(waiting) > depth:
            break
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(load, later) for later in islice(rest, 1))
