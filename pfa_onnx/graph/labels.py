"""Integer labels for removable things: union-find, and the reasons why some must stay.

A label is one removable thing. Two positions with one label leave together, or stay together.
A frozen label always carries the reasons of every node that froze it: merging labels merges reasons.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pfa_onnx.recipe import Ints, Reason


class Labels:
    """All labels of one model."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._why: dict[int, dict[Reason, None]] = {}

    def fresh(self, count: int) -> Ints:
        """Return `count` new labels, [count]."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many labels there are, each counted by itself."""
        return len(self._parent)

    def same(self, one: Ints, other: Ints) -> None:
        """Merge labels position by position; the arrays broadcast against each other."""
        a, b = np.broadcast_arrays(one, other)
        differ = a != b
        if not differ.any():
            return
        count = len(self._parent)
        pairs = np.unique(a[differ] * count + b[differ])
        for x, y in zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True):
            self._union(x, y)

    def freeze(self, labels: Ints, reason: Reason) -> None:
        """Say that these labels must stay, and why."""
        for label in np.unique(labels).tolist():
            self._why.setdefault(self._find(label), {})[reason] = None

    def roots(self) -> Ints:
        """Return, for every label, the one that stands for its set: the smallest, [labels]."""
        return np.fromiter((self._find(x) for x in range(len(self._parent))), np.int64, len(self._parent))

    def together(self, labels: Ints) -> bool:
        """Tell whether labels are all the same by now."""
        first = self._find(int(labels[0]))
        return all(self._find(x) == first for x in labels.tolist())

    def frozen(self) -> dict[int, tuple[Reason, ...]]:
        """Return the reasons of every frozen set, by its root."""
        return {root: tuple(why) for root, why in sorted(self._why.items())}

    def _find(self, x: int) -> int:
        parent = self._parent
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def _union(self, x: int, y: int) -> None:
        low, high = sorted((self._find(x), self._find(y)))
        if low == high:
            return
        self._parent[high] = low  # the smallest label is the root: results do not depend on the order of merging
        why = self._why.pop(high, None)
        if why:
            self._why.setdefault(low, {}).update(why)


def varying(ids: Ints) -> tuple[int, ...]:
    """Return the axes along which a label array varies."""
    return tuple(axis for axis, extent in enumerate(ids.shape) if extent > 1)


def occurrences(ids: Iterable[int] | Ints) -> Ints:
    """Return, for every position, how often its label came before it, [n]."""
    ids = np.asarray(ids)
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    first = np.searchsorted(ranked, ranked, side="left")
    result = np.empty(len(ids), dtype=np.int64)
    result[order] = np.arange(len(ids)) - first
    return result


def pairs(one: Ints, other: Ints) -> Ints:
    """Return which labels stand at the same position, as sorted codes."""
    if one is other or np.array_equal(one, other):
        met = np.unique(one)
        return met << 31 | met
    return np.unique(one << 31 | other)


def unpaired(codes: Ints) -> tuple[Ints, Ints]:
    """Return the labels of `pairs` again, position by position."""
    return codes >> 31, codes & np.int64(2**31 - 1)


def are_pairs(one: Ints, other: Ints, known: Ints | None) -> bool:
    """Tell whether labels are one of the `known` pairs at every position; None: whether they are equal.

    A label that meets another one may not meet itself instead: a map that was shuffled and added to what it was
    would come out in another order.
    """
    if known is None:
        return bool((one == other).all())
    codes = one << 31 | other
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return bool((known[at] == codes).all())


def match(old: Ints, new: Ints) -> Ints | None:
    """Find every label of `new` in `old`: the k-th occurrence is the k-th occurrence.

    old: [n], new: [m]. Returns indices into `old`, [m]; None when some label of `new` is not there.
    """
    old, new = old.ravel(), new.ravel()
    if len(new) == 0:
        return np.empty(0, dtype=np.int64)
    span = max(len(old), len(new)) + 1
    key_old = old * span + occurrences(old)
    key_new = new * span + occurrences(new)
    order = np.argsort(key_old, kind="stable")
    at = np.searchsorted(key_old[order], key_new)
    if (at >= len(old)).any():
        return None
    found = order[at]
    return found if bool((key_old[found] == key_new).all()) else None
