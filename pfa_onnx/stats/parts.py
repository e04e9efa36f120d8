"""Which samples of which data some statistics saw: what tells a missing shard from one that is counted twice.

Machines see the same data under different paths, and different data under the same path, so that data is known by
what it holds: all names or shapes, and a few whole samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import UsageError

WHOLE = (1, 1)
LOOKS = 16  # whole samples that go into a digest
MOST_SHARDS = 1 << 20
COMPARED = 1 << 24  # samples, one by one

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
    def places(self) -> range:
        """The samples' positions among those that were chosen of the whole data."""
        return _places(self.total if self.limit is None else min(self.total, self.limit), self)

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


def _places(chosen: int, part: Part) -> range:
    if part.stretch:
        return range((part.index - 1) * chosen // part.count, part.index * chosen // part.count)
    return range(part.index - 1, chosen, part.count)


def check_shard(shard: Shard) -> None:
    """Raise UsageError unless this is (i, n) with 1 <= i <= n."""
    index, count = shard
    if not 1 <= index <= count:
        raise UsageError(f"--shard is {index}/{count}", at="--shard", fix="give i/n with i from 1 to n")


def overlap(parts: Iterable[Part]) -> tuple[Part, Part] | None:
    """Return the first part that shares a sample with one before it, after that one; or None.

    What a file says of itself is not believed: nothing is made here that is as large as the numbers in it.
    """
    known: dict[str, dict[tuple[int, int | None, int, bool], dict[int, Part]]] = {}
    for part in parts:
        own = (part.total, part.limit, part.count, part.stretch)
        alike = known.setdefault(part.data, {})
        for key, members in alike.items():
            # parts of one cut are apart, unless they are the same one
            rivals = list(members.values()) if key != own else [members[k] for k in (part.index,) if k in members]
            found = next((other for other in rivals if _meet(other, part)), None)
            if found is not None:
                return found, part
        alike.setdefault(own, {})[part.index] = part
    return None


def _meet(one: Part, other: Part) -> bool:
    whole = all(part.limit is None or part.limit >= part.total for part in (one, other))
    if whole or (one.total, one.limit) == (other.total, other.limit):
        return _ranges_meet(one.places, other.places)
    if max(len(one.places), len(other.places)) > COMPARED:
        return True  # of other limits, and too many to compare: better refused than counted twice
    return bool(np.isin(np.asarray(one.rows, np.int64), np.asarray(other.rows, np.int64)).any())


def _ranges_meet(one: range, other: range) -> bool:
    """Tell whether two ascending ranges have a number in common."""
    if not one or not other:
        return False
    common = math.gcd(one.step, other.step)
    if (other.start - one.start) % common:
        return False
    # the first common number, from the start of the first range on, and from there on the first in both
    period = one.step // common * other.step
    rounds = (other.start - one.start) // common * pow(one.step // common, -1, other.step // common)
    first = one.start + one.step * (rounds % (other.step // common))
    start = max(one.start, other.start)
    first += -(-(start - first) // period) * period if first < start else 0
    return first <= min(one[-1], other[-1])


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
