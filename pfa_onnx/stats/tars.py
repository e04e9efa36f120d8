"""Tar files as a data set (WebDataset): members that share a name up to its first dot are one sample.

    photos/0001.jpg  photos/0001.cls                  a picture and its label (.cls, or a short .txt)
    0001.ids.npy  0001.mask.npy                       an array for each input; `0001.npy` for the only one

Only headers and labels are read to list them, samples are read where they lie; so the files are not compressed.
Where a file is cut off or damaged, what lies before is used, and one more sample stands for the rest: it is skipped,
named and counted.
"""

from __future__ import annotations

import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.parts import LOOKS, digest, spread
from pfa_onnx.stats.records import Index, Record
from pfa_onnx.stats.store import Each, Store, in_threads

ENDING = ".tar"

_LABEL_BYTES = 256  # a longer .txt is a text, and no label
_BUFFER = 1 << 20  # of an object store: headers lie between samples

Span = tuple[int, int]  # where the bytes begin, and how many they are


@dataclass(frozen=True)
class Wanted:
    """What a sample consists of: one array for each of these inputs, or a picture."""

    endings: frozenset[str]
    inputs: tuple[str, ...]
    arrays: bool

    def spans(self, members: Mapping[str, Span], sample: str) -> tuple[Span | None, ...] | None:
        """Return where each part lies, None where one is missing; None when there is nothing of a sample."""
        if self.arrays:
            alone = members.get("npy") if len(self.inputs) == 1 else None
            found = tuple(members.get(f"{name}.npy", alone) for name in self.inputs)
            return found if any(found) else None
        pictures = [name for name in members if f".{name.rpartition('.')[2].lower()}" in self.endings]
        plain = [name for name in pictures if "." not in name]
        if not plain and len(pictures) > 1:
            raise DataError(
                f"{len(pictures)} pictures belong to one sample: {', '.join(pictures)}",
                at=sample,
                fix="name one .jpg or .png, or leave no other dots in the names of pictures",
            )
        return (members[(plain or pictures)[0]],) if pictures else None


@dataclass(frozen=True)
class Listed:
    """The samples of one file; spans: [samples, parts, 2], -1 where a part is missing."""

    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    spans: npt.NDArray[np.int64]
    torn: str = ""


class TarFiles(Index):
    """All samples of some tar files, in the order in which they lie there."""

    def __init__(self, store: Store, files: Sequence[str], wanted: Wanted, *, each: Each = in_threads) -> None:
        self._store, self._files, self._inputs = store, files, wanted.inputs if wanted.arrays else None
        self._listed: list[Listed] = each(partial(list_samples, store, wanted), files)
        sizes = [len(listed.keys) for listed in self._listed]
        self.starts = tuple(accumulate(sizes, initial=0))

    def unit(self, where: int, rows: Sequence[int]) -> Members:
        """Name some samples of one file."""
        listed = self._listed[where]
        labels = tuple(listed.labels[row] for row in rows)
        names = tuple(self._name(where, row) for row in rows)
        return Members(self._store, self._files[where], names, labels, listed.spans[rows], self._inputs, listed.torn)

    def find(self, name: str) -> int:
        """Look through the keys of its file."""
        for where, file in enumerate(self._files):
            if name == file:  # the end of a damaged one
                return self.starts[where + 1] - 1
            if name.startswith(f"{file}/"):
                return self.starts[where] + self._listed[where].keys.index(name[len(file) + 1 :])
        raise ValueError(f"there is no sample {name}")

    def looks(self) -> Iterator[bytes]:
        """Know the data by all names and sizes, and the bytes of a few samples."""
        yield b"tar"
        for file, listed in zip(self._files, self._listed, strict=True):
            yield digest(file.encode(), *map(str.encode, listed.keys), listed.spans[..., 1].tobytes()).encode()
        for row in spread(self.starts[-1], LOOKS):
            where = bisect_right(self.starts, row) - 1
            for offset, size in self._listed[where].spans[row - self.starts[where]].tolist():
                try:
                    yield self._store.read(self._files[where], offset, size) if size >= 0 else b""
                except (OSError, EOFError):
                    yield b""

    def classes(self) -> tuple[str, ...]:
        """Return the labels that came with the names."""
        return tuple(sorted({label for listed in self._listed for label in listed.labels if label is not None}))

    def _name(self, where: int, row: int) -> str:
        key = self._listed[where].keys[row]
        return f"{self._files[where]}/{key}" if key else self._files[where]


@dataclass(frozen=True, eq=False)
class Members:
    """Some samples of one tar file. inputs: whose arrays they are, None for pictures."""

    store: Store
    file: str
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    spans: npt.NDArray[np.int64]
    inputs: tuple[str, ...] | None
    torn: str

    def records(self) -> Iterator[Record]:
        """Read each when it is its turn."""
        for name, label, spans in zip(self.names, self.labels, self.spans.tolist(), strict=True):
            yield Record(name, label, partial(self._get, name, spans))

    def _get(self, name: str, spans: Sequence[Sequence[int]]) -> Any:
        if name == self.file:
            raise EOFError(self.torn)
        if self.inputs is None:
            return self.store.read(self.file, *spans[0])
        found = {}
        for wanted, (offset, size) in zip(self.inputs, spans, strict=True):
            if size < 0:
                raise KeyError(f"{wanted}.npy is missing")
            found[wanted] = np.load(BytesIO(self.store.read(self.file, offset, size)), allow_pickle=False)
        return found


def list_samples(store: Store, wanted: Wanted, file: str) -> Listed:
    """Return the samples of one tar file; raises DataError when it is none."""
    samples: dict[str, dict[str, Span]] = {}
    labels: dict[str, str] = {}
    torn = ""
    with _opened(store, file) as archive:
        try:
            for key, ending, member in _members(archive):
                members = samples.setdefault(key, {})
                members[ending] = (member.offset_data, member.size)
                if ending == "cls" or (ending == "txt" and member.size <= _LABEL_BYTES and key not in labels):
                    labels[key] = _text(archive, member)
        except (tarfile.TarError, OSError, EOFError) as error:
            torn = f"the file is cut off or damaged after {next(reversed(samples), 'its beginning')!r}: {error}"
    found = {key: wanted.spans(members, f"{store.place(file)}, {key}") for key, members in samples.items()}
    rows = {key: [span or (-1, -1) for span in spans] for key, spans in found.items() if spans is not None}
    if torn:
        rows[""] = [(-1, -1)] * (len(wanted.inputs) if wanted.arrays else 1)
    spans = np.array([*rows.values()], np.int64).reshape(len(rows), -1, 2)
    return Listed(tuple(rows), tuple(map(labels.get, rows)), spans, torn)


def first_sample(store: Store, files: Sequence[str]) -> dict[str, str]:
    """Return the members of the first sample, by their endings: what kind of data this is."""
    found: dict[str, str] = {}
    first = None
    for file in files:
        with _opened(store, file) as archive:
            try:
                for key, ending, member in _members(archive):
                    if first not in (None, key):
                        return found
                    first = key
                    found[ending] = member.name
            except (tarfile.TarError, OSError):
                pass  # it will be listed as damaged
        if found:
            break
    return found


@contextmanager
def _opened(store: Store, file: str) -> Iterator[tarfile.TarFile]:
    try:
        raw: Any = store.open(file)
        with BufferedReader(raw, _BUFFER) if store.remote else raw as opened:
            yield tarfile.open(fileobj=opened, mode="r:")  # noqa: SIM115 - it would not close the file
    except (tarfile.TarError, OSError) as error:
        fix = "leave the file out, or write it again without compression"
        raise DataError(f"cannot read the tar file: {error}", at=store.place(file), fix=fix) from error


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, ending, member) of all files that are not hidden; raises TarError at damage."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it would remember them all
        name = member.name.removeprefix("./")
        if not member.isreg() or any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
            continue
        folder, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        yield f"{folder}{slash}{key}", ending, member
    archive.fileobj.seek(archive.offset)
    rest = archive.fileobj.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):  # tarfile takes a broken header for the end
        raise tarfile.ReadError("broken header")


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    return "" if file is None else file.read(_LABEL_BYTES).decode("utf-8", "replace").strip()
