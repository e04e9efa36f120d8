"""Which samples of which data some statistics saw: what tells a missing shard from one that is counted twice.

Machines see the same data under different paths, and different data under the same path, so that data is known by
what it holds: all names or shapes, and a few whole samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import UsageError

WHOLE = (1, 1)
LOOKS = 16  # whole samples that go into a digest

Shard = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """Some samples of some data: every `count`-th of those that `limit` chose, from the `index`-th on.

    stretch: the `index`-th of `count` equal stretches of them instead: what lies together is read together.
    data: the digest of the data. total: how many samples it has; of a stream, how many were asked for.
    limit: as in `spread`, None for all. index: from 1 to count.
    """

    data: str
    total: int
    limit: int | None
    index: int
    count: int
    stretch: bool = False

    @property
    def key(self) -> tuple[str, int, int, int, int]:
        """What parts are sorted by."""
        return self.data, self.total, self.limit or 0, self.count, self.index

    @property
    def rows(self) -> Sequence[int]:
        """The samples' positions in the whole data."""
        return choose(self.total, self.limit, (self.index, self.count), stretch=self.stretch)

    def begins_like(self, other: Part) -> bool:
        """Whether both ask for the same samples; of a stream that is not at its end, the total is not yet known."""
        return (self.data, self.limit, self.index, self.count) == (other.data, other.limit, other.index, other.count)


def spread(total: int, limit: int | None) -> Sequence[int]:
    """Return at most `limit` of 0..total-1, evenly spaced from 0, so that sorted class folders are all covered."""
    if limit is None or limit >= total:
        return range(total)
    return [index * total // limit for index in range(limit)]


def choose(total: int, limit: int | None, shard: Shard, *, stretch: bool = False) -> Sequence[int]:
    """Return the positions that one shard takes of what `spread` chooses: every n-th, or one of n equal stretches."""
    index, count = shard
    chosen = spread(total, limit)
    if stretch:
        return chosen[(index - 1) * len(chosen) // count : index * len(chosen) // count]
    return chosen[index - 1 :: count]


def check_shard(shard: Shard) -> None:
    """Raise UsageError unless this is (i, n) with 1 <= i <= n."""
    index, count = shard
    if not 1 <= index <= count:
        raise UsageError(f"--shard is {index}/{count}", fix="give i/n with i from 1 to n")


def overlap(parts: Iterable[Part]) -> tuple[Part, Part] | None:
    """Return the first two parts that share a sample, or None; O(samples) memory, a byte each."""
    seen: dict[str, tuple[npt.NDArray[np.bool_], list[Part]]] = {}
    for part in parts:
        used, before = seen.get(part.data, (np.zeros(0, np.bool_), []))
        if len(used) < part.total:  # a stream that was read further
            used = np.concatenate([used, np.zeros(part.total - len(used), np.bool_)])
        rows = np.asarray(part.rows, np.int64)
        if used[rows].any():
            return next((other, part) for other in before if np.isin(rows, np.asarray(other.rows)).any())
        used[rows] = True
        seen[part.data] = used, [*before, part]
    return None


def missing(parts: Iterable[Part]) -> list[Shard]:
    """Return the shards that would complete data of which some shards are there, (index, count), sorted."""
    found: dict[tuple[str, int | None, int], set[int]] = {}
    for part in parts:
        found.setdefault((part.data, part.limit, part.count), set()).add(part.index)
    return sorted((index, count) for (_, _, count), have in found.items() for index in set(range(1, count + 1)) - have)


def digest(*pieces: bytes) -> str:
    """Return a digest of the pieces, whose lengths count too."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little"))
        found.update(piece)
    return found.hexdigest()


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an array's type, shape and contents."""
    what = f"{array.dtype.str} {array.shape} ".encode()
    if array.dtype.hasobject:  # its bytes would be addresses
        return what + repr(array.tolist()).encode("utf-8", "backslashreplace")
    return what + array.tobytes()
