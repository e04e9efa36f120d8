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
    with one_blas_thread():
        states = [_State(read, candidates) for read in reads]
        left = list(candidates)
        order = []
        while left:
            costs, index = np.zeros(len(left)), {label: k for k, label in enumerate(left)}
            for state in states:
                state.costs(costs, index)
            chosen = left.pop(int(np.argmin(costs)))
            order.append(chosen)
            for state in states:
                state.remove(chosen)
    return np.array(order, np.int64)


class _State:
    """One reader as it is after the eliminations so far.

    The precision is kept as it was, less the products of what was eliminated (lower: [d, r]); only the blocks of labels
    that are left are followed, since nothing else decides.
    """

    def __init__(self, read: Read, candidates: Sequence[int]) -> None:
        size = len(read.labels)
        variance = float(np.trace(read.covariance)) / max(size, 1)
        ridge = RIDGE * variance if variance > 0 else 1.0
        self._precision: Floats = np.linalg.inv(read.covariance + ridge * np.eye(size)).astype(np.float64)
        self._weights = np.array(read.weights)
        made = float(np.sum(read.weights * (read.covariance @ read.weights)))
        self._norm = max(made, np.finfo(np.float64).tiny)
        self._places = _places(read.labels, set(candidates))
        self._lower = np.empty((size, sum(len(at) for at in self._places.values())), order="F")
        self._rank = 0
        self._blocks = [_Blocks(self, labels, at) for labels, at in _by_size(self._places)]

    def costs(self, total: Floats, index: Mapping[int, int]) -> None:
        """Add what removing each label adds to `total`; index: where in it a label stands."""
        for blocks in self._blocks:
            at = np.array([index[label] for label in blocks.labels], np.int64)
            if len(at):
                total[at] += blocks.losses() / self._norm

    def remove(self, label: int) -> None:
        """Eliminate a label."""
        at = self._places.pop(label, None)
        if at is None:
            return
        done = self._lower[:, : self._rank]
        columns = self._precision[:, at] - done @ done[at].T
        root = np.linalg.cholesky(columns[at])
        # lower lower^T = columns (P_bb)^-1 columns^T
        lower: Floats = np.linalg.solve(root, columns.T).T.astype(np.float64)
        step: Floats = np.linalg.solve(columns[at], columns.T).astype(np.float64)  # [entries, d]
        rows: Floats = self._weights[at] @ self._weights.T  # of W W^T
        self._weights -= step.T @ self._weights[at]
        self._lower[:, self._rank : self._rank + len(at)] = lower
        self._rank += len(at)
        for blocks in self._blocks:
            blocks.follow(label, lower, step, rows, rows[:, at])

    def products(self, at: Ints) -> tuple[Floats, Floats]:
        """Return the blocks of the precision and of W W^T before any elimination; at: [labels, entries]."""
        rows = self._weights[at]
        precision: Floats = self._precision[at[:, :, None], at[:, None, :]]
        return precision, rows @ rows.swapaxes(1, 2)


class _Blocks:
    """Labels that stand at equally many inputs: their blocks of the precision and of W W^T, [labels, k, k]."""

    def __init__(self, state: _State, labels: list[int], at: Ints) -> None:
        self.labels = labels
        self._at = at
        self._precision, self._gram = state.products(at)

    def losses(self) -> Floats:
        """Return tr((P_bb)^-1 W_b W_b^T) of every label."""
        found: Floats = np.trace(np.linalg.solve(self._precision, self._gram), axis1=1, axis2=2)
        return found

    def follow(self, gone: int, lower: Floats, step: Floats, rows: Floats, own: Floats) -> None:
        """Follow one elimination. W becomes T W with T = I - step^T E, and W W^T becomes T W W^T T^T."""
        if gone in self.labels:
            stays = np.array([label != gone for label in self.labels])
            self.labels = [label for label in self.labels if label != gone]
            self._at, self._precision, self._gram = self._at[stays], self._precision[stays], self._gram[stays]
        part = lower[self._at]
        self._precision -= part @ part.swapaxes(1, 2)
        moved, read = step.T[self._at], rows.T[self._at]  # [labels, k, entries]
        cross = moved @ read.swapaxes(1, 2)
        self._gram += moved @ own @ moved.swapaxes(1, 2) - cross - cross.swapaxes(1, 2)


def _places(labels: Ints, wanted: set[int]) -> dict[int, Ints]:
    """Return where each wanted label stands."""
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {label: part for label, part in zip(values.tolist(), parts, strict=True) if label in wanted}


def _by_size(places: Mapping[int, Ints]) -> list[tuple[list[int], Ints]]:
    """Return labels that stand at equally many places together."""
    sizes: dict[int, list[int]] = {}
    for label, at in places.items():
        sizes.setdefault(len(at), []).append(label)
    return [(labels, np.stack([places[label] for label in labels])) for labels in sizes.values()]
