"""Least squares from streaming second moments: which weights make of these inputs what was made before.

Rows are never kept: O(groups (d^2 + d n)) memory for d inputs and n outputs, however many rows there are. Everything is
float64 and centred on the mean of the first rows before it is squared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.stats.threads import one_blas_thread

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats

Array = npt.NDArray[Any]

BLOCK = 512  # rows a product
CONSTANT = 1e-12  # a variance that is this share of the mean square is rounding


@dataclass(frozen=True, eq=False)
class Joint:
    """The second moments of rows of inputs x and outputs y, about their means.

    x, y: means [groups, d], [groups, n]. xx: [groups, d, d]; xy: [groups, d, n]; yy: [groups, n], its diagonal only.
    All are sums over the rows, divided by their count.
    """

    count: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    def error(self, weights: Floats, bias: Floats) -> Floats:
        """Return the mean square error of y = x weights + bias, [groups, n]; weights: [groups, d, n]."""
        off = self.y - np.einsum("gd,gdn->gn", self.x, weights) - bias
        with one_blas_thread():
            spread = np.einsum("gdn,gdn->gn", weights, self.xx @ weights - 2 * self.xy)
        found: Floats = np.maximum(self.yy + spread, 0.0) + off**2
        return found

    def shifted(self, more: Floats) -> Joint:
        """Return the moments of y + more; more: [groups, n]."""
        return replace(self, y=self.y + more)

    def about_zero(self) -> Joint:
        """Return the moments about zero: for maps that have no bias."""
        return replace(
            self,
            x=np.zeros_like(self.x),
            y=np.zeros_like(self.y),
            xx=self.xx + self.x[:, :, None] * self.x[:, None, :],
            xy=self.xy + self.x[:, :, None] * self.y[:, None, :],
            yy=self.yy + self.y**2,
        )

    def intercept(self, weights: Floats) -> Floats:
        """Return the bias with which the outputs' means are right, [groups, n]."""
        found: Floats = self.y - np.einsum("gd,gdn->gn", self.x, weights)
        return found


class JointSums:
    """Collects rows, and gives their moments."""

    def __init__(self) -> None:
        self.count = 0  # of all rows, those that wait included
        self._rows: list[tuple[Array, Array]] = []
        self._waiting = 0
        self._origin: tuple[Floats, Floats] | None = None
        self._sums: list[Floats] = []

    def add(self, x: Array, y: Array) -> None:
        """Take in rows [rows, groups, d] and [rows, groups, n]; those with numbers that are not finite say nothing."""
        if not (np.isfinite(x.sum(dtype=np.float64)) and np.isfinite(y.sum(dtype=np.float64))):
            finite = np.isfinite(x).all(axis=(1, 2)) & np.isfinite(y).all(axis=(1, 2))
            x, y = x[finite], y[finite]
        if not len(x):
            return
        self._rows.append((x, y))
        self.count += len(x)
        self._waiting += len(x)
        if self._waiting >= BLOCK:
            self._fold()

    def moments(self) -> Joint:
        """Return the moments of all rows so far, of which there must be one."""
        self._fold()
        assert self._origin is not None
        sum_x, sum_y, xx, xy, yy = (total / self.count for total in self._sums)
        xx -= sum_x[:, :, None] * sum_x[:, None, :]
        xy -= sum_x[:, :, None] * sum_y[:, None, :]
        return Joint(
            self.count,
            x=self._origin[0] + sum_x,
            y=self._origin[1] + sum_y,
            xx=xx,
            xy=xy,
            yy=yy - sum_y**2,
        )

    def _fold(self) -> None:
        if not self._rows:
            return
        # [groups, rows, d]: one product a group
        x, y = (np.concatenate(part).astype(np.float64).swapaxes(0, 1) for part in zip(*self._rows, strict=True))
        self._rows, self._waiting = [], 0
        if self._origin is None:
            self._origin = x.mean(axis=1), y.mean(axis=1)
        x, y = x - self._origin[0][:, None], y - self._origin[1][:, None]
        with one_blas_thread():
            found = [x.sum(axis=1), y.sum(axis=1), x.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ y, (y * y).sum(axis=1)]
        self._sums = [a + b for a, b in zip(self._sums, found, strict=True)] if self._sums else found


def solve(moments: Joint, before: Floats, ridge: float) -> Floats:
    """Return the weights [groups, d, n] that make y of x best, pulled toward those of before.

    Minimises the mean square error plus ridge |weights - before|^2, in units of the inputs' mean variance.
    """
    size = moments.xx.shape[1]
    scale = np.trace(moments.xx, axis1=1, axis2=2) / size
    scale = np.maximum(scale, CONSTANT * np.mean(moments.x**2, axis=1))
    scale[scale == 0] = 1.0  # a group of zeros: anything keeps the system solvable
    diagonal = ridge * scale[:, None, None] * np.eye(size)
    with one_blas_thread():
        step = np.linalg.solve(moments.xx + diagonal, moments.xy - moments.xx @ before)
    found: Floats = before + step
    return found


def matched(moments: Joint, weights: Floats) -> Floats:
    """Return the weights scaled so that every output varies as much as it did: a regression alone varies less."""
    with one_blas_thread():
        made = np.einsum("gdn,gdn->gn", weights, moments.xx @ weights)
    gain = np.sqrt(np.divide(moments.yy, made, out=np.ones_like(made), where=made > 1e-12 * moments.yy))
    return weights * np.where(moments.yy > 0, gain, 1.0)[:, None, :]
