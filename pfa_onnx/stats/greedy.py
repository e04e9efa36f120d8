"""The greedy removal of paper section 3.2.3 in O(C^2): the row with the largest l1 norm goes, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats, Ints

Bools = npt.NDArray[np.bool_]

TIE = 1e-9  # norms this close, relatively, are the same norm


def removal_order(correlation: Floats, removable: Bools) -> Ints:
    """Return the removable rows in the order in which they go, the last survivor too.

    correlation: [L, L], symmetric, absolute, zero diagonal. removable: [L]; the other rows are never
    removed and count in the row sums to the end.

    Row sums are updated by subtraction. Each time that half of the rows are gone the matrix is
    compacted and the sums are taken afresh: O(C^2) in all, and rounding cannot pile up until it
    decides about the last few rows.
    """
    names = np.arange(len(correlation))
    order = [names[:0]]
    while removable.any():
        gone = _remove_half(correlation, removable)
        order.append(names[gone])
        stays = np.ones(len(names), bool)
        stays[gone] = False
        names, removable = names[stays], removable[stays]
        correlation = correlation[np.ix_(stays, stays)]
    return np.concatenate(order)


def _remove_half(correlation: Floats, removable: Bools) -> list[int]:
    """Remove half of the rows (at least one; all that may go, if they are fewer) and return them in order."""
    size = len(correlation)
    sums = correlation.sum(axis=1)
    noise = size * np.finfo(np.float64).eps * float(sums.max())  # of `size` subtractions
    sums[~removable] = -np.inf
    partners = _Partners(correlation)
    gone = []
    for _ in range(min(int(removable.sum()), max(1, size // 2))):
        top = float(sums[sums.argmax()])  # twice as fast as max() on a short row
        tied = (sums >= top - TIE * abs(top) - noise).nonzero()[0]
        row = int(tied[0]) if len(tied) == 1 else partners.closest(tied)
        gone.append(row)
        sums -= correlation[row]
        sums[row] = -np.inf
        partners.lose(row)
    return gone


class _Partners:
    """Every row's most correlated surviving row, found when a tie asks for it."""

    def __init__(self, correlation: Floats) -> None:
        self._correlation = correlation
        # One place more than there are rows: the partner of a row that was never asked, gone from the start.
        self._alive = np.append(np.ones(len(correlation), bool), False)
        self._best = np.full(len(correlation), len(correlation))

    def lose(self, row: int) -> None:
        """Note that a row is gone."""
        self._alive[row] = False

    def closest(self, tied: Ints) -> int:
        """Return the tied row with the highest single coefficient; the first of them if that ties too."""
        for row in tied[~self._alive[self._best[tied]]]:
            # The last of equal partners: ties remove the first ones, so it survives longest.
            reversed_row = np.where(self._alive[:-1], self._correlation[row], -1.0)[::-1]
            self._best[row] = len(reversed_row) - 1 - int(np.argmax(reversed_row))
        peaks = self._correlation[tied, self._best[tied]]
        return int(tied[np.argmax(peaks >= peaks.max() * (1.0 - TIE))])
