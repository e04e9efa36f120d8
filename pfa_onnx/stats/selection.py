"""Which filters go: the most correlated first (paper section 3.2.3), over layers that share channels.

All of this works on labels, the removable things of `recipe.Layer`. Layers that carry the same label
(a residual spine) lose it together, so each set of such layers has one order of removal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import BUG, InternalError
from pfa_onnx.recipe import Coupling, Floats, Ints, Layer, Method, Select, Wish
from pfa_onnx.stats.greedy import removal_order
from pfa_onnx.stats.reconstruct import Read, reconstruction_order
from pfa_onnx.stats.threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Bools = npt.NDArray[np.bool_]

DEAD = 1e-8  # a channel with less than this share of its layer's largest variance does not vary


def dead_channels(variances: Floats) -> Bools:
    """Return which channels do not vary, next to their layer's largest variance: [C] -> [C]."""
    dead: Bools = (variances < DEAD * variances.max()) | (variances <= 0)
    return dead


def absolute_correlation(covariance: Floats) -> tuple[Floats, Bools]:
    """Return |Pearson correlation| [C, C] and which channels are dead [C].

    The diagonal and the rows of dead channels are zero. Any positive multiple of a covariance gives
    the same answer: there is no absolute floor, so responses of 1e-30 rank like responses of 1.
    """
    variances = np.diagonal(covariance)
    dead = dead_channels(variances)
    # Two factors of 1/sd: the product of two variances may overflow, or vanish.
    scale = np.divide(1.0, np.sqrt(variances, where=~dead, out=np.ones_like(variances)))
    scale[dead] = 0.0
    matrix = np.abs(covariance)
    matrix *= scale[:, None]
    matrix *= scale
    np.fill_diagonal(matrix, 0.0)
    return np.minimum(matrix, 1.0, out=matrix), dead


def coupled_sets(coupling: Coupling) -> list[tuple[Layer, ...]]:
    """Return the layers in sets that share a label which may go; sets and members in graph order."""
    layers = coupling.layers
    home: dict[int, int] = {}  # label -> the set that carries it, named by its first layer
    members: dict[int, list[int]] = {}
    removable = [[label for label in layer.labels.tolist() if _may_go(label, coupling.frozen)] for layer in layers]
    for index, labels in enumerate(removable):
        touched = sorted({home[label] for label in labels if label in home})
        name = touched[0] if touched else index
        moved = [member for other in touched[1:] for member in members.pop(other)]
        for member in (*moved, index):
            home.update(dict.fromkeys(removable[member], name))
        members[name] = sorted([*members.get(name, ()), *moved, index])
    return [tuple(layers[member] for member in members[name]) for name in sorted(members)]


def group_order(layers: Sequence[Layer], covariances: Mapping[str, Floats], frozen: Collection[int]) -> Ints:
    """Return every removable label of one coupled set, in the order in which PFA removes them.

    Dead labels (dead in every channel that carries them) go first, the least varying one first. Then
    the paper's greedy choice on the mean of the members' |correlation| matrices. Frozen labels stay
    in the row sums: what they repeat is still repeated. For a single layer this is the paper's order.

    covariances: by layer output, [C, C], or any positive multiple of it.
    """
    labels, positions = _index(layers)
    live = np.zeros(len(labels), bool)
    relative = np.zeros(len(labels))
    for layer, position in zip(layers, positions, strict=True):
        variances = np.diagonal(covariances[layer.output])
        live[position[~dead_channels(variances)]] = True
        np.add.at(relative, position, variances / (variances.max() or 1.0))
    removable = np.array([_may_go(label, frozen) for label in labels.tolist()], bool)
    dead_first = np.flatnonzero(removable & ~live)
    dead_first = dead_first[np.argsort(relative[dead_first], kind="stable")]
    matrices = (absolute_correlation(covariances[layer.output])[0] for layer in layers)
    rest = removal_order(_mean_over_members(matrices, positions, len(labels)), removable & live)
    order: Ints = labels[np.concatenate([dead_first, rest])]
    return order


def magnitude_order(layers: Sequence[Layer], norms: Mapping[str, Floats], frozen: Collection[int] = ()) -> Ints:
    """Return every removable label of one coupled set, the smallest sum of its channels' norms first.

    norms: by layer output, [C]: the l1 or l2 norm of each channel's weights.
    """
    labels, positions = _index(layers)
    total = np.zeros(len(labels))
    for layer, position in zip(layers, positions, strict=True):
        np.add.at(total, position, norms[layer.output])
    ascending = labels[np.argsort(total, kind="stable")]
    return _only_removable(ascending, frozen)


def random_order(labels: Iterable[int], seed: int) -> Ints:
    """Return the labels shuffled. It depends on which labels there are, not on how they are listed."""
    names = np.array(sorted(set(labels)), np.int64)
    if not len(names):
        return names
    # The first label joins the seed, or all layers of one width would lose the same positions.
    return np.random.default_rng((seed, int(names[0]))).permutation(names)


def removal_orders(
    coupling: Coupling,
    method: Method,
    covariances: Mapping[str, Floats],
    norms: Mapping[str, Floats] | None = None,
    reads: Callable[[Collection[int]], Sequence[Read]] | None = None,
) -> tuple[Ints, ...]:
    """Return the order of every coupled set that has one, by `method.select`.

    norms: by layer output, [C]: what the baselines rank by, smallest first. reads: what readers of some labels read.
    """
    rank = ORDERS[method.select]
    evidence = Evidence(method, covariances, norms, coupling.frozen, reads)
    return tuple(rank(layers, evidence) for layers in coupled_sets(coupling) if _any_may_go(layers, coupling.frozen))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What may decide which channels of a coupled set go first."""

    method: Method
    covariances: Mapping[str, Floats]
    norms: Mapping[str, Floats] | None
    frozen: Collection[int]
    reads: Callable[[Collection[int]], Sequence[Read]] | None = None


def _by_correlation(layers: Sequence[Layer], evidence: Evidence) -> Ints:
    return group_order(layers, evidence.covariances, evidence.frozen)


def _by_norm(layers: Sequence[Layer], evidence: Evidence) -> Ints:
    if evidence.norms is None:
        select = f"--select {evidence.method.select}"
        raise InternalError(f"{select} was asked for without what it ranks by", at=select, fix=BUG)
    return magnitude_order(layers, evidence.norms, evidence.frozen)


def _by_chance(layers: Sequence[Layer], evidence: Evidence) -> Ints:
    labels = _only_removable(np.concatenate([layer.labels for layer in layers]), evidence.frozen)
    return random_order(labels.tolist(), evidence.method.seed)


def _by_reconstruction(layers: Sequence[Layer], evidence: Evidence) -> Ints:
    """Ask the readers; where one label's are not known, its whole set goes by correlation."""
    if evidence.reads is None:
        select = "--select reconstruct"
        raise InternalError(f"{select} was asked for without what the readers read", at=select, fix=BUG)
    labels = _only_removable(np.concatenate([layer.labels for layer in layers]), evidence.frozen)
    candidates = list(dict.fromkeys(labels.tolist()))
    reads = evidence.reads(candidates)
    if not set(candidates) <= {label for read in reads for label in np.unique(read.labels).tolist()}:
        return _by_correlation(layers, evidence)
    return reconstruction_order(reads, candidates)


ORDERS: Mapping[Select, Callable[[Sequence[Layer], Evidence], Ints]] = {
    "pfa": _by_correlation,
    "l1": _by_norm,
    "l2": _by_norm,
    "bn": _by_norm,
    "wanda": _by_norm,
    "reconstruct": _by_reconstruction,
    "random": _by_chance,
}


def wish(coupling: Coupling, asked: Mapping[str, int], orders: Iterable[Ints]) -> Wish:
    """Return what the data would remove, walking each order from its start.

    A label goes if every layer that carries it still keeps as many channels as it asked for. A lone
    layer so loses the first C - asked of its order, a spine keeps the largest count that any member
    asks for: equation (2) holds for every layer.
    """
    spare = {layer.output: layer.channels - max(asked[layer.output], 1) for layer in coupling.layers}
    carriers: dict[int, list[tuple[str, int]]] = {}
    for layer in coupling.layers:
        for label, times in Counter(layer.labels.tolist()).items():
            carriers.setdefault(label, []).append((layer.output, times))
    order = list(dict.fromkeys(label for each in orders for label in each.tolist()))
    remove = set()
    for label in order:
        users = carriers[label]
        if _may_go(label, coupling.frozen) and all(spare[output] >= times for output, times in users):
            remove.add(label)
            for output, times in users:
                spare[output] -= times
    return Wish(asked=dict(asked), order=np.array(order, np.int64), remove=frozenset(remove))


def _may_go(label: int, frozen: Collection[int]) -> bool:
    return label > 0 and label not in frozen


def _any_may_go(layers: Iterable[Layer], frozen: Collection[int]) -> bool:
    return any(_may_go(label, frozen) for layer in layers for label in layer.labels.tolist())


def _only_removable(labels: Ints, frozen: Collection[int]) -> Ints:
    return np.array([label for label in labels.tolist() if _may_go(label, frozen)], np.int64)


def _index(layers: Sequence[Layer]) -> tuple[Ints, list[Ints]]:
    """Return the labels in order of first appearance, and for each layer the position of its channels' labels.

    Label 0 only says "frozen": two channels that carry it are not the same thing, so each of them
    gets a (negative) label of its own.
    """
    joined = np.concatenate([layer.labels for layer in layers])
    nameless = joined == 0
    joined[nameless] = -np.arange(1, nameless.sum() + 1)
    values, firsts, inverse = np.unique(joined, return_index=True, return_inverse=True)
    appearance = np.argsort(firsts)
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(values))
    ends = np.cumsum([layer.channels for layer in layers])[:-1]
    return values[appearance], np.split(rank[inverse], ends)


def _mean_over_members(matrices: Iterable[Floats], positions: Sequence[Ints], size: int) -> Floats:
    """Return [L, L]: the mean |correlation| of two labels over the layers that carry both, else 0."""
    if len(positions) == 1 and np.array_equal(positions[0], np.arange(size)):
        return next(iter(matrices))
    total = np.zeros((size, size))
    carries = np.zeros((len(positions), size))
    for member, (position, matrix) in enumerate(zip(positions, matrices, strict=True)):
        where, mean = _one_row_per_label(position, matrix)
        total[np.ix_(where, where)] += mean
        carries[member, where] = 1.0
    with one_blas_thread():
        together = carries.T @ carries
    np.fill_diagonal(total, 0.0)
    return np.divide(total, np.maximum(together, 1.0), out=total)


def _one_row_per_label(position: Ints, matrix: Floats) -> tuple[Ints, Floats]:
    """Average the entries of channels that carry the same label; return the labels' positions and [l, l]."""
    order = np.argsort(position, kind="stable")
    where, starts, times = np.unique(position[order], return_index=True, return_counts=True)
    if len(where) == len(position):
        return position, matrix
    rows = np.add.reduceat(matrix[np.ix_(order, order)], starts, axis=0)
    sums = np.add.reduceat(rows, starts, axis=1)
    return where, sums / np.outer(times, times)
