"""Which channels the kept ones can make up for: backward elimination on the covariance of what the readers read.

The objective is the one that repair minimises. With inputs x of covariance S and weights W, removing the inputs b and
solving the weights of the others anew adds tr(W_b^T (P_bb)^-1 W_b) to the mean square error of what the reader makes,
where P = S^-1 over the inputs that are left and W are their weights as solved so far (a structured optimal brain
surgeon; Hassibi and Stork 1993). The channel that adds least goes; P and W follow by one step of Gaussian elimination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pfa_onnx.recipe import Floats, Ints
from pfa_onnx.stats.threads import one_blas_thread

RIDGE = 1e-3  # of the mean variance of an input: as in repair
ROUNDING = 1e-9  # what a reader makes varies no more than this share of what the ridge adds
WAITING = 128  # inputs that are eliminated before what follows is applied


@dataclass(frozen=True, eq=False)
class Read:
    """What one reader reads. covariance: [d, d]; weights: [d, n]; labels: [d], which label each input carries."""

    covariance: Floats
    weights: Floats
    labels: Ints


def reconstruction_order(reads: Sequence[Read], candidates: Sequence[int]) -> Ints:
    """Return the candidates, the one that is made up for best first; costs of several readers add up.

    Each reader's cost is a share of the variance of what it makes. Ties go to the label that is listed first.
    """
    labels = np.asarray(candidates, np.int64)
    if not len(labels):
        return labels
    with one_blas_thread():
        states = [_State(read, labels) for read in reads]
        order = []
        costs = np.empty(len(labels))
        gone = np.zeros(len(labels), np.bool_)
        for _ in labels:
            costs[:] = np.where(gone, np.inf, 0.0)
            for state in states:
                state.costs(costs)
            chosen = int(np.argmin(costs))
            gone[chosen] = True
            order.append(labels[chosen])
            for state in states:
                state.remove(chosen)
    return np.array(order, np.int64)


class _State:
    """One reader as it is after the eliminations so far. A label is its number among the candidates.

    Only inputs of labels that are left are followed, since nothing else decides. What eliminations change is collected,
    and applied to the precision and the weights many at a time: one by one, memory would set the pace.
    """

    def __init__(self, read: Read, candidates: Ints) -> None:
        size = len(read.labels)
        variance = float(np.trace(read.covariance)) / max(size, 1)
        ridge = RIDGE * variance if variance > 0 else 1.0
        made = float(np.sum(read.weights * (read.covariance @ read.weights)))
        # of what never varies nothing is lost
        self._norm = made if made > ROUNDING * ridge * float(np.sum(read.weights**2)) else np.inf
        order = np.argsort(candidates)
        near = order[np.minimum(np.searchsorted(candidates, read.labels, sorter=order), len(order) - 1)]
        live = np.flatnonzero(candidates[near] == read.labels)
        precision = np.linalg.inv(read.covariance + ridge * np.eye(size)).astype(np.float64)
        self._precision: Floats = precision[np.ix_(live, live)]
        self._weights: Floats = read.weights[live]
        self._places = _places(near[live])
        self._blocks = [_Blocks(self, labels, at) for labels, at in _by_size(self._places)]
        self._wait()

    def costs(self, total: Floats) -> None:
        """Add what removing each label adds to `total`."""
        for blocks in self._blocks:
            total[blocks.labels] += blocks.losses() / self._norm

    def remove(self, label: int) -> None:
        """Eliminate a label."""
        at = self._places.pop(label, None)
        if at is None:
            return
        done = slice(0, self._rank)
        columns = self._precision[:, at] - self._lower[:, done] @ self._lower[at, done].T
        weights = self._weights[at] - self._steps[at, done] @ self._removed[done]
        rows: Floats = weights @ self._weights.T  # of W W^T
        rows -= (weights @ self._removed[done].T) @ self._steps[:, done].T
        # lower lower^T = columns (P_bb)^-1 columns^T
        root = np.linalg.cholesky(columns[at])
        lower: Floats = np.linalg.solve(root, columns.T).T.astype(np.float64)
        step: Floats = np.linalg.solve(root.T, lower.T).T.astype(np.float64)  # [d, entries]
        more = slice(self._rank, self._rank + len(at))
        self._lower[:, more], self._steps[:, more], self._removed[more] = lower, step, weights
        self._rank += len(at)
        for blocks in self._blocks:
            blocks.follow(label, lower, step, rows, rows[:, at])
        if self._rank + max(map(len, self._places.values()), default=0) > self._lower.shape[1]:
            self._catch_up()

    def products(self, at: Ints) -> tuple[Floats, Floats]:
        """Return the blocks of the precision and of W W^T before any elimination; at: [labels, entries]."""
        rows = self._weights[at]
        precision: Floats = self._precision[at[:, :, None], at[:, None, :]]
        return precision, rows @ rows.swapaxes(1, 2)

    def _wait(self) -> None:
        """Make room for eliminations that wait."""
        size, outputs = self._weights.shape
        room = max([WAITING, *map(len, self._places.values())])
        self._lower, self._steps = np.empty((size, room), order="F"), np.empty((size, room), order="F")
        self._removed = np.empty((room, outputs))
        self._rank = 0

    def _catch_up(self) -> None:
        """Apply what waits to the inputs of the labels that are left, and drop the others."""
        left = np.sort(np.concatenate([*self._places.values(), np.empty(0, np.int64)]))
        lower, steps = self._lower[left, : self._rank], self._steps[left, : self._rank]
        self._precision = self._precision[np.ix_(left, left)]
        self._precision -= lower @ lower.T
        self._weights = self._weights[left] - steps @ self._removed[: self._rank]
        self._places = {label: np.searchsorted(left, at) for label, at in self._places.items()}
        for blocks in self._blocks:
            blocks.move(left)
        self._wait()


class _Blocks:
    """Labels that stand at equally many inputs: their blocks of the precision and of W W^T, [labels, k, k]."""

    def __init__(self, state: _State, labels: Ints, at: Ints) -> None:
        self.labels = labels
        self._at = at
        self._precision, self._gram = state.products(at)
        self._losses: Floats | None = None

    def losses(self) -> Floats:
        """Return tr((P_bb)^-1 W_b W_b^T) of every label."""
        if self._losses is None:
            if self._at.shape[1] == 1:
                self._losses = (self._gram / self._precision).ravel()
            else:
                self._losses = np.trace(np.linalg.solve(self._precision, self._gram), axis1=1, axis2=2)
        return self._losses

    def follow(self, gone: int, lower: Floats, step: Floats, rows: Floats, own: Floats) -> None:
        """Follow one elimination. W becomes T W with T = I - step E, and W W^T becomes T W W^T T^T."""
        stays = self.labels != gone
        if not stays.all():
            self.labels, self._at = self.labels[stays], self._at[stays]
            self._precision, self._gram = self._precision[stays], self._gram[stays]
        part = lower[self._at]
        self._precision -= part @ part.swapaxes(1, 2)
        moved, read = step[self._at], rows.T[self._at]  # [labels, k, entries]
        cross = moved @ read.swapaxes(1, 2)
        self._gram += moved @ own @ moved.swapaxes(1, 2) - cross - cross.swapaxes(1, 2)
        self._losses = None

    def move(self, left: Ints) -> None:
        """Follow the inputs, of which only these are left."""
        self._at = np.searchsorted(left, self._at)


def _places(labels: Ints) -> dict[int, Ints]:
    """Return where each label stands."""
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))


def _by_size(places: Mapping[int, Ints]) -> list[tuple[Ints, Ints]]:
    """Return labels that stand at equally many places together."""
    sizes: dict[int, list[int]] = {}
    for label, at in places.items():
        sizes.setdefault(len(at), []).append(label)
    return [(np.array(labels), np.stack([places[label] for label in labels])) for labels in sizes.values()]
