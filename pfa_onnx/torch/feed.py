"""The samples that a model is trained on: in another order in every epoch, some of them held back.

Which samples are held back depends on their place in the data alone, and the order on the seed and the epoch, so that
a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from pfa_onnx.errors import DataError
from pfa_onnx.stats.data import Batch, Dataset, rebatch

CACHE = 2 << 30  # bytes of inputs that are read once and kept
AHEAD = 16  # batches among which a source that has an order is mixed


class Feed:
    """Batches to train on and batches to judge by.

    size: samples in a batch. train, held: how many samples there are of each. labels: all that were seen, None among
    them where a sample has none. Raises DataError for too few samples.
    """

    def __init__(self, dataset: Dataset, size: int, *, share: float, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._every = max(2, round(1 / share))
        self._kept: list[Batch] | None = []
        self._held: list[Batch] = []
        self.labels: set[str | None] = set()
        count = self._look(size)
        self.held = sum(batch.count for batch in self._held)
        self.train = count - self.held
        if self.held < 1 or self.train < 2:
            raise DataError(
                f"{count} samples are too few to train on some and to judge by others",
                at=dataset.source,
                fix=f"give at least {2 * self._every}, better thousands",
            )
        self.size = min(size, self.train)

    @property
    def steps(self) -> int:
        """Batches in an epoch; what is left over of them waits for the next one."""
        return self.train // self.size

    def _look(self, size: int) -> int:
        """Read everything once, hold some back, and keep the rest if there is room; returns how many there are."""
        seen = kept = 0
        for batch in self._dataset.batches(size):
            mine, back = self._split(batch, seen)
            seen += batch.count
            self.labels |= set(batch.labels)
            if back.count:
                self._held.append(back)
            if self._kept is not None and mine.count:
                self._kept.append(mine)
                kept += sum(array.nbytes for array in mine.feeds.values())
                if kept > CACHE:
                    self._kept = None
        self._names = {name for batch in self._held for name in batch.names}
        return seen

    def _split(self, batch: Batch, before: int) -> tuple[Batch, Batch]:
        """Part the samples of a batch that follows so many others."""
        parts: tuple[list[int], list[int]] = ([], [])
        for k in range(batch.count):
            parts[(before + k) % self._every == self._every - 1].append(k)
        return _pick(batch, parts[0]), _pick(batch, parts[1])

    def judged(self) -> Iterator[Batch]:
        """Yield what is held back."""
        return iter(self._held)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        random = np.random.default_rng((self._seed, number))
        pieces = self._cached(random) if self._kept is not None else self._streamed(random)
        full = (batch for batch in rebatch(pieces, self.size) if batch.count == self.size)
        return islice(full, self.steps)

    def _cached(self, random: np.random.Generator) -> Iterator[Batch]:
        assert self._kept is not None
        shapes = {tuple(array.shape[1:] for array in batch.feeds.values()) for batch in self._kept}
        if len(shapes) > 1:  # samples of one shape stay together
            for k in random.permutation(len(self._kept)):
                yield self._kept[k]
            return
        places = [(b, k) for b, batch in enumerate(self._kept) for k in range(batch.count)]
        order = random.permutation(len(places))
        for start in range(0, len(order), self.size):
            yield _gathered(self._kept, [places[k] for k in order[start : start + self.size]])

    def _streamed(self, random: np.random.Generator) -> Iterator[Batch]:
        """Mix among some batches what comes in the order in which it can be read."""
        batches = self._dataset.permuted(random).batches(self.size)
        while chunk := list(islice(batches, AHEAD)):
            own = [_pick(b, [k for k, name in enumerate(b.names) if name not in self._names]) for b in chunk]
            for batch in rebatch((b for b in own if b.count), AHEAD * self.size):
                yield _pick(batch, random.permutation(batch.count).tolist())


def _gathered(batches: list[Batch], places: list[tuple[int, int]]) -> Batch:
    """Join single samples of several batches."""
    feeds = {name: np.stack([batches[b].feeds[name][k] for b, k in places]) for name in batches[0].feeds}
    names = tuple(batches[b].names[k] for b, k in places)
    return Batch(feeds, names, tuple(batches[b].labels[k] for b, k in places))


def _pick(batch: Batch, rows: list[int]) -> Batch:
    if len(rows) == batch.count == 1:
        return batch  # also keeps a sample whose arrays have no common first axis whole
    feeds = {name: array[rows] for name, array in batch.feeds.items()}
    return replace(
        batch, feeds=feeds, names=tuple(batch.names[k] for k in rows), labels=tuple(batch.labels[k] for k in rows)
    )
