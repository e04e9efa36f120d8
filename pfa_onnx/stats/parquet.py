"""Parquet files as a data set: an image column, or a column of lists for each input, and perhaps `label`.

An image is the bytes of a file, or Hugging Face's struct of `bytes` and `path`. Row groups are read one at a time,
a few rows of them at once. pyarrow is an extra: `pip install 'pfa-onnx[parquet]'`.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.parts import LOOKS, digest, spread
from pfa_onnx.stats.records import Index, Record
from pfa_onnx.stats.store import Each, Store, in_threads, require

ENDING = ".parquet"
LABEL = "label"

_ROWS = 32  # of a row group, decoded at once
_BUFFER = 1 << 20  # bytes of a column that are read at once
_LOOK = 65_536  # bytes of a row group that go into a digest
_USUAL = ("image", "img", "jpg", "png")  # what image columns are called


@dataclass(frozen=True)
class Columns:
    """Which columns to read. image: the one of pictures, "" where each input has its own."""

    image: str
    inputs: tuple[str, ...]
    label: bool

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*([self.image] if self.image else self.inputs), *([LABEL] if self.label else [])]


@dataclass(frozen=True)
class Group:
    """A row group. first: its first row in the file. start, size: where its bytes lie, as the footer says."""

    file: str
    number: int
    first: int
    rows: int
    start: int
    size: int


class ParquetFiles(Index):
    """All rows of some Parquet files; a part is a row group."""

    most: ClassVar[int] = sys.maxsize  # reading a part of a row group costs as much as all of it

    def __init__(self, store: Store, files: Sequence[str], columns: Columns, *, each: Each = in_threads) -> None:
        self._store, self._files, self._columns, self._each = store, files, columns, each
        found: list[list[Group]] = each(partial(list_groups, store, columns), files)
        self._groups = [group for groups in found for group in groups]
        self.starts = tuple(accumulate((group.rows for group in self._groups), initial=0))
        self._first: dict[str, int] = {}
        for group, start in zip(self._groups, self.starts, strict=False):
            self._first.setdefault(group.file, start)

    def unit(self, where: int, rows: Sequence[int]) -> Rows:
        """Name some rows of one row group."""
        return Rows(self._store, self._groups[where], np.asarray(rows, np.int64), self._columns)

    def find(self, name: str) -> int:
        """Count the rows before it."""
        file, _, row = name.removesuffix("]").rpartition("[")
        return self._first[file] + int(row)

    def looks(self) -> Iterator[bytes]:
        """Know the data by all names and sizes, and some bytes of a few row groups."""
        yield b"parquet"
        yield digest(*(repr((g.file, g.number, g.rows, g.size)).encode() for g in self._groups)).encode()
        for row in spread(self.starts[-1], LOOKS):
            group = self._groups[bisect_right(self.starts, row) - 1]
            try:
                yield self._store.read(group.file, group.start, min(group.size, _LOOK))
            except (OSError, EOFError):
                yield b""

    def classes(self) -> tuple[str, ...]:
        """Read the column of labels."""
        if not self._columns.label:
            return ()
        return tuple(sorted(set().union(*self._each(partial(list_labels, self._store), self._files))))


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of one row group, counted from its first one."""

    store: Store
    group: Group
    rows: npt.NDArray[np.int64]
    columns: Columns

    def records(self) -> Iterator[Record]:
        """Read the group a few rows at once; from where it is damaged on, every row fails."""
        done = 0
        try:
            for start, batch in self._batches():
                stop = int(np.searchsorted(self.rows, start + batch.num_rows))
                for row in self.rows[done:stop].tolist():
                    done += 1
                    yield self._record(row, batch, row - start)
        except (OSError, ValueError, RuntimeError) as error:  # all that pyarrow raises
            why = str(error)
            for row in self.rows[done:].tolist():
                yield Record(self._name(row), None, partial(_fail, why))

    def _batches(self) -> Iterator[tuple[int, Any]]:
        with self.store.open(self.group.file) as file:
            near = not self.store.remote  # there, few requests; here, little memory
            opened = _module().ParquetFile(file, pre_buffer=not near, buffer_size=_BUFFER if near else 0)
            start = 0
            for batch in opened.iter_batches(
                batch_size=_ROWS, row_groups=[self.group.number], columns=self.columns.names, use_threads=False
            ):
                yield start, batch
                start += batch.num_rows

    def _record(self, row: int, batch: Any, place: int) -> Record:
        label = batch.column(LABEL)[place].as_py() if self.columns.label else None
        get = partial(self._picture if self.columns.image else self._arrays, batch, place)
        return Record(self._name(row), None if label is None else str(label), get)

    def _picture(self, batch: Any, place: int) -> bytes:
        found = batch.column(self.columns.image)[place].as_py()
        content = found["bytes"] if isinstance(found, dict) else found
        if content is None:
            raise ValueError("there are no bytes")
        return bytes(content)

    def _arrays(self, batch: Any, place: int) -> dict[str, Any]:
        return {name: to_array(batch.column(name)[place]) for name in self.columns.inputs}

    def _name(self, row: int) -> str:
        return f"{self.group.file}[{self.group.first + row}]"


def _fail(why: str) -> Any:
    raise ValueError(why)


def to_array(value: Any) -> npt.NDArray[Any]:
    """Return a value of a column, a number, nested lists or a tensor, as an array; raises ValueError for null."""
    if not value.is_valid:
        raise ValueError("there is no value")
    if hasattr(value, "value") and hasattr(value.type, "storage_type"):  # an extension: lists with a shape
        flat = to_array(value.value)
        shape = getattr(value.type, "shape", None)
        if shape is None or flat.size != np.prod(shape):
            return flat
        order = getattr(value.type, "permutation", None)
        return flat.reshape(shape) if not order else flat.reshape(shape).transpose(order)
    values = getattr(value, "values", None)
    if values is None:
        return np.asarray(value.as_py())
    if hasattr(values.type, "value_type"):
        return np.stack([to_array(item) for item in values])
    return np.asarray(values.to_numpy(zero_copy_only=False))


def choose_columns(store: Store, file: str, inputs: Sequence[str]) -> Columns:
    """Find the columns that feed the inputs; raises DataError when there are none, or several could be meant."""
    schema = _footer(store, file)[0]
    label = LABEL in schema.names and LABEL not in inputs
    pictures = [field.name for field in schema if _holds_pictures(field.type)]
    if all(name in schema.names for name in inputs) and not set(inputs) & set(pictures):
        return Columns("", tuple(inputs), label)
    usual = [name for name in (*inputs, *_USUAL) if name in pictures]
    if len(pictures) == 1 or usual:
        return Columns((usual or pictures)[0], (), label)
    what = f"its image columns are {', '.join(pictures)}" if pictures else "none of them holds the bytes of images"
    raise DataError(
        f"the columns are {', '.join(schema.names)} but the inputs are {', '.join(inputs)}, and {what}",
        at=store.place(file),
        fix="name one column after each input, or the one with images `image`",
    )


def list_groups(store: Store, columns: Columns, file: str) -> list[Group]:
    """Return the row groups of one file; raises DataError where it cannot be read or lacks a column."""
    schema, footer = _footer(store, file)
    lacking = [name for name in columns.names if name not in schema.names]
    if lacking:
        what = f"it has no column {lacking[0]!r}, as the first file has; its columns are {', '.join(schema.names)}"
        raise DataError(what, at=store.place(file), fix="leave the file out")
    groups: list[Group] = []
    first = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        start, size = _span(group, columns.names)
        groups.append(Group(file, number, first, group.num_rows, start, size))
        first += group.num_rows
    return groups


def list_labels(store: Store, file: str) -> set[str]:
    """Return the labels in one file."""
    with store.open(file) as opened:
        batches = _module().ParquetFile(opened).iter_batches(columns=[LABEL], use_threads=False)
        return {
            str(label) for batch in batches for label in batch.column(LABEL).unique().to_pylist() if label is not None
        }


def _footer(store: Store, file: str) -> tuple[Any, Any]:
    try:
        with store.open(file) as opened:
            found = _module().ParquetFile(opened)
            return found.schema_arrow, found.metadata
    except (OSError, ValueError, RuntimeError) as error:
        why = f"cannot read the Parquet file: {error}"
        raise DataError(why, at=store.place(file), fix="leave the file out, or write it again") from error


def _span(group: Any, names: Sequence[str]) -> tuple[int, int]:
    """Return where the bytes of the first of these columns begin, and how many all of them have."""
    chunks = [group.column(k) for k in range(group.num_columns)]
    mine = [one for one in chunks if any(f"{one.path_in_schema}.".startswith(f"{name}.") for name in names)]
    starts = [min(filter(None, (one.dictionary_page_offset, one.data_page_offset)), default=0) for one in mine]
    return min(starts, default=0), sum(one.total_compressed_size for one in mine)


def _holds_pictures(kind: Any) -> bool:
    types = require("pyarrow", "Parquet is read by pyarrow").types
    if types.is_struct(kind):
        where = kind.get_field_index("bytes")
        return where >= 0 and _holds_pictures(kind.field(where).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _module() -> Any:
    return require("pyarrow.parquet", "Parquet is read by pyarrow")
