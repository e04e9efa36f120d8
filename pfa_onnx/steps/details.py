"""What a page shows of a decision beside its report: orders of removal, correlations, what other energies would cost.

It takes seconds and some memory, so that it is done only for those who look at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import isqrt

import numpy as np
import numpy.typing as npt

from pfa_onnx.graph.planned import Planned
from pfa_onnx.options import Hooks
from pfa_onnx.recipe import Floats, Ints, Layer, Method
from pfa_onnx.results import Correlations, Cost, Details, LayerDetails
from pfa_onnx.stats.pfa import asked
from pfa_onnx.stats.selection import absolute_correlation
from pfa_onnx.steps.decide import Decider, Decision

SIDE = 128  # cells along a matrix: as many as a phone shows
CELLS = 3_000_000  # of all matrices together, before the lower triangles are left out
POINTS = 24  # of the curve of costs
LOWEST = 0.5  # the energy where that curve begins
FINEST = 5e-4  # two energies that are not told apart


def details(decider: Decider, decision: Decision, hooks: Hooks) -> Details | None:
    """Return what only a page shows; nothing where a recipe decided, and not the data."""
    if not decision.spectra:
        return None
    found = dict(_layers(decider, decision, hooks))
    return Details(found, tuple(_costs(decider, decision.method, hooks)))


# --- layers ---


def _layers(decider: Decider, decision: Decision, hooks: Hooks) -> Iterator[tuple[str, LayerDetails]]:
    orders = decider.orders(decision.method)
    rank = {label: place for place, label in enumerate(np.concatenate([[], *orders]).astype(np.int64).tolist())}
    measured = [t.layer for t in decision.trace.layers if t.layer.output in decision.spectra]
    side = min(SIDE, isqrt(CELLS // max(len(measured), 1)))
    for done, layer in enumerate(measured, 1):
        order = removal_order_of(layer, rank, decision.keep[layer.labels])
        squares = decider.measured.stats.moments[layer.output].without_rounding().m2
        correlations = small_matrix(absolute_correlation(squares)[0], order, side)
        yield layer.output, LayerDetails(tuple(order.tolist()), decision.spectra[layer.output].keep_kl(), correlations)
        hooks.progress("details", done, len(measured))


def removal_order_of(layer: Layer, rank: dict[int, int], kept: npt.NDArray[np.bool_]) -> Ints:
    """Return a layer's channels, the removed ones first; rank: the place of a label in its order of removal."""
    never = len(rank)
    places = np.array([rank.get(label, never) for label in layer.labels.tolist()])
    order: Ints = np.lexsort((np.arange(layer.channels), places, kept))
    return order


def small_matrix(matrix: Floats, order: Ints, side: int) -> Correlations:
    """Return a symmetric matrix [C, C] of 0..1 with its rows in this order, of at most `side` cells a side.

    What a channel has in common with itself counts only where it has a cell of its own.
    """
    size = len(order)
    side = min(side, size)
    starts = np.arange(side) * size // side
    counts = np.diff([*starts.tolist(), size])
    ordered = matrix[np.ix_(order, order)]
    np.fill_diagonal(ordered, 0.0)
    sums = np.add.reduceat(np.add.reduceat(ordered, starts, axis=0), starts, axis=1)
    pairs = np.outer(counts, counts) - np.diag(counts)
    means = np.divide(sums, pairs, out=np.ones_like(sums), where=pairs > 0)
    cells = np.rint(np.clip(means, 0.0, 1.0) * 255).astype(np.uint8)
    return Correlations(side, cells[np.triu_indices(side)].tobytes())


# --- what other energies would cost ---


def _costs(decider: Decider, method: Method, hooks: Hooks) -> Iterator[Cost]:
    spectra = decider.spectra_for(method)
    planned = Planned(decider.trace, decider.measured.probed)

    def cost(tau: float) -> Cost:
        tried = replace(method, name="energy", tau=tau)
        keep = decider.kept(tried, asked(spectra, tried))
        return Cost(tau, planned.parameters(keep), planned.macs(keep))

    known = [LOWEST, 1.0] if method.tau is None else sorted({min(LOWEST, method.tau), method.tau, 1.0})
    yield from refined(cost, known, hooks)


def refined(cost: Callable[[float], Cost], start: list[float], hooks: Hooks) -> list[Cost]:
    """Return costs at these energies, and at more of them where they fall most."""
    points = [cost(tau) for tau in start]
    while len(points) < POINTS:
        hooks.progress("curve", len(points), POINTS)
        whole = points[-1]
        steps = [_step(one, other, whole) for one, other in pairwise(points)]
        where = max(range(len(steps)), key=lambda k: (steps[k], -k), default=0)
        if not steps or steps[where] <= 0:
            break
        points.insert(where + 1, cost((points[where].tau + points[where + 1].tau) / 2))
    return points


def _step(one: Cost, other: Cost, whole: Cost) -> float:
    """Return how far two neighbours on the curve are apart; 0 where nothing is between them."""
    wide = other.tau - one.tau
    falls = (other.params - one.params) / max(whole.params, 1), (other.macs - one.macs) / max(whole.macs, 1)
    return max(*falls, wide / 2) if wide >= 2 * FINEST else 0.0
