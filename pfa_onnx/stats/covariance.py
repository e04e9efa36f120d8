"""Streaming covariance: responses go in row by row, sums of squared deviations come out.

Everything is float64 and every sum is centred before it is squared. E[xx] - E[x]E[x] on float32
responses loses the covariance as soon as the mean is large (an error of 5 % at mean 1000, negative
variances at 10 000), and with it the small eigenvalues that PFA counts. Centred sums also merge
exactly, so shards of the data can be measured apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.stats.threads import one_blas_thread

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats

BLOCK = 512  # rows per product: the cost per row falls 16-fold from 8 rows to 512, and flattens there
LOOK = "look for NaN and infinity in inputs and weights; if it is float16, calibrate its float32 original"
ROUNDING = 1e-6  # a standard deviation that is this share of the mean is rounding: a few units in float32's last place


class NoNumberError(DataError):
    """A response is NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Moments:
    """The first two moments of some rows of responses (A in paper section 3.1).

    count: how many rows. mean: [C]. m2: [C, C], the sum of (a - mean)(a - mean)^T over the rows.
    """

    count: int
    mean: Floats
    m2: Floats

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """Return the moments of no rows at all."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> Moments:
        """Return the moments of rows [k, C] of any real dtype."""
        return _fold(cls.empty(rows.shape[1]), rows)

    @staticmethod
    def merge(a: Moments, b: Moments) -> Moments:
        """Return the moments of both sets of rows (Chan, Golub and LeVeque): exact up to rounding."""
        total = a.count + b.count
        if not total:
            return a
        delta = b.mean - a.mean
        # One root on each side of the product keeps m2 symmetric to the last bit.
        spread = delta * math.sqrt(a.count * b.count / total)
        m2 = np.outer(spread, spread)
        m2 += a.m2
        m2 += b.m2
        return Moments(total, a.mean + delta * (b.count / total), m2)

    @property
    def channels(self) -> int:
        """How many channels the rows have."""
        return len(self.mean)

    @property
    def covariance(self) -> Floats:
        """The covariance [C, C]; all zero for fewer than two rows."""
        return self.m2 / max(self.count - 1, 1)

    @property
    def variances(self) -> Floats:
        """The diagonal of the covariance [C]."""
        return np.diagonal(self.m2) / max(self.count - 1, 1)

    def without_rounding(self) -> Moments:
        """Return the moments in which channels that vary by no more than rounding, next to their mean, do not vary.

        What is behind a layer that gives constants is constant too, but for the last bits: a runtime adds up in another
        order where a batch is smaller, or threads are more. In a layer where nothing else varies that would decide.
        """
        spread = np.sqrt(np.maximum(self.variances, 0.0))
        still = (spread > 0) & (spread <= ROUNDING * np.abs(self.mean))
        if not still.any():
            return self
        m2 = self.m2.copy()
        m2[still] = 0.0
        m2[:, still] = 0.0
        return Moments(self.count, self.mean, m2)


def _fold(seen: Moments, rows: npt.NDArray[Any]) -> Moments:
    """Return the moments of what was seen and these rows [k, C] together.

    This is `merge`, but the distance between the two means is one more row of the product,
    so that a [4096, 4096] layer needs no third matrix.
    """
    count, channels = rows.shape
    if not count:
        return seen
    total = seen.count + count
    # Shifting by an actual row first makes a constant channel exactly zero, not nearly zero.
    first = rows[0].astype(np.float64)
    centred = np.empty((count + 1, channels))
    deviations = np.subtract(rows, first, out=centred[:count])
    drift = deviations.mean(axis=0)
    deviations -= drift
    delta = first + drift - seen.mean
    centred[count] = delta * math.sqrt(seen.count * count / total)
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused in the end
        m2 = centred.T @ centred
    m2 += seen.m2
    return Moments(total, seen.mean + delta * (count / total), m2)


class Accumulator:
    """Collects one layer's responses in O(C^2 + BLOCK C) memory, however many rows there are."""

    def __init__(self, channels: int, name: str = "responses") -> None:
        """Start with no rows. name: the layer, for messages."""
        self._name = name
        self._seen = Moments.empty(channels)
        self._buffer: npt.NDArray[Any] = np.empty((BLOCK, channels), np.float32)
        self._filled = 0

    @property
    def count(self) -> int:
        """How many rows were added."""
        return self._seen.count + self._filled

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Take in rows [k, C]. They are copied once: the caller may reuse its array."""
        self._refuse_strange(rows)
        self._make_room_for(rows.dtype)
        while len(rows):
            taken = rows[: BLOCK - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == BLOCK:
                self._flush()

    def absorb(self, moments: Moments) -> None:
        """Take in rows that were added up elsewhere."""
        self._refuse_infinite(np.isfinite(moments.mean) & np.isfinite(np.diagonal(moments.m2)))
        self._seen = Moments.merge(self._seen, moments)

    def moments(self) -> Moments:
        """Return the moments of all rows so far; more rows may follow. Raises DataError where squares overflow."""
        self._flush()
        finite = np.isfinite(np.diagonal(self._seen.m2))
        self._refuse_infinite(finite, "the square of a response is infinite", "scale the model's inputs or weights")
        return self._seen

    def state(self) -> tuple[Moments, npt.NDArray[Any]]:
        """Return what was folded, and a copy of the rows that wait: with both, another accumulator goes on exactly.

        Folding the waiting rows now would move the boundaries of all later products, and with them the last bits.
        """
        return self._seen, self._buffer[: self._filled].copy()

    def restore(self, seen: Moments, waiting: npt.NDArray[Any]) -> None:
        """Go on from another accumulator's state."""
        self._seen, self._filled = seen, 0
        self.add(waiting)

    def _flush(self) -> None:
        self._seen = _fold(self._seen, self._buffer[: self._filled])
        self._filled = 0

    def _make_room_for(self, dtype: np.dtype[Any]) -> None:
        """Keep float32 as it comes (half the memory), but never round a wider type down to it."""
        needed = np.result_type(dtype, np.float32)
        if not np.can_cast(needed, self._buffer.dtype):
            self._flush()
            self._buffer = np.empty(self._buffer.shape, needed)

    def _refuse_strange(self, rows: npt.NDArray[Any]) -> None:
        channels = self._seen.channels
        if rows.ndim != 2 or rows.shape[1] != channels:
            raise DataError(
                f"responses have shape {rows.shape}, but the layer has {channels} channels",
                at=self._name,
                fix="leave the layer out with --exclude",
            )
        self._refuse_infinite(np.logical_and.reduce(_are_numbers(rows)))

    def _refuse_infinite(
        self, finite: npt.NDArray[np.bool_], what: str = "a response is NaN or infinite", fix: str = LOOK
    ) -> None:
        if not finite.all():
            raise NoNumberError(f"{what} (channel {int(np.argmin(finite))})", at=self._name, fix=fix)


def _are_numbers(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which responses are numbers: of a map of nothing but NaN, a maximum pool gives the lowest one there is."""
    floats = rows.dtype.kind == "f"
    found: npt.NDArray[np.bool_] = np.abs(rows) < np.finfo(rows.dtype).max if floats else np.isfinite(rows)
    return found
