"""From a wish to a legal plan, by restoring.

`settle` traces a model and rehearses random cuts on labels alone, until every node can follow: blocks that
shrink freely are put in lockstep where their order gets lost, and what still cannot follow is frozen, with
the node and the reason. `legalise` then starts from what the data would remove and puts channels back until
every block, rounding and minimum holds. Kept sets only grow, so both always end, at worst with nothing removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pfa_onnx.errors import BUG, InternalError
from pfa_onnx.graph.edits import Mask, Stuck
from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.labels import Labels, varying
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.movement import shrink
from pfa_onnx.graph.ties import Tie, whole_layers
from pfa_onnx.graph.trace import Rows, Trace, Tracer, split_rows
from pfa_onnx.recipe import Ints, Reason

_REHEARSALS = (
    (0.0, 0),
    (0.5, 0),
    (0.5, 1),
    (0.3, 2),
    (0.6, 3),
    (0.4, 4),
    (0.8, 5),
    (1.0, 6),
)  # (share of labels removed, seed)


def settle(
    graph: Graph,
    shapes: dict[str, tuple[int, ...]],
    extra: Iterable[tuple[str, Reason]] = (),
    *,
    through_norm: bool = False,
) -> Trace:
    """Trace a model until random cuts can be followed at every node.

    shapes: the concrete shape of every tensor, from a run on a real sample.
    extra: (layer output, reason) of layers that must stay for reasons outside the graph.
    through_norm: channels that a normalisation runs over may go too; it then runs over the kept ones only.
    """
    blunt: frozenset[int] = frozenset()
    while True:
        try:
            return _settled(Tracer(graph, shapes, blunt, through_norm=through_norm), dict(extra))
        except _Hopeless as hopeless:
            if hopeless.index in blunt:
                node = graph.nodes[hopeless.index]
                at = str(node.name or node.outputs[0].name)
                what = f"{node.op_type} cannot follow although all it reads stays"
                raise InternalError(what, at=at, fix=BUG) from hopeless
            blunt |= {hopeless.index}


class _Hopeless(Exception):  # noqa: N818 - caught above: the node is treated as if it had no rule
    """A node cannot follow although all that it reads is frozen."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _settled(tracer: Tracer, extra: dict[str, Reason]) -> Trace:
    tracer.run()
    for traced in tracer.finish().layers:
        if traced.layer.output in extra:
            tracer.labels.freeze(traced.layer.labels, extra[traced.layer.output])
    ties: list[Tie] = []
    tied = _tie_crossed(tracer, ties)
    while True:
        trace = _pinned(tracer, ties)
        try:
            for share, seed in _REHEARSALS:
                follow(trace, _random_plan(trace, share, seed))
        except Stuck as stuck:
            if not _give_way(tracer.labels, trace, stuck, tied, ties):
                raise _Hopeless(stuck.index) from stuck
        else:
            return trace


def _tie_crossed(tracer: Tracer, ties: list[Tie]) -> set[int]:
    """Put blocks in lockstep whose channels a grouped convolution regroups, as behind a shuffle; return these splits.

    Blocks that lose different channels come out of a shuffle in another order: the groups behind it would no longer
    hold what they held. (Pieces of a Split have free sizes, and are left to the rehearsals.)
    """
    trace = tracer.finish()
    crossed = set()
    grouped = [block for block in trace.blocks if block.grouped]
    for k, split in enumerate(trace.splits):
        rows = split_rows(split.ids)
        if rows is None or len(rows) < 2 or (rows == rows[0]).all():
            continue
        home = np.full(trace.count, -1, dtype=np.int64)
        home[rows] = np.arange(len(rows))[:, None]
        for block in grouped:
            homes = home[block.ids]
            low = np.where(homes < 0, len(rows), homes).min(axis=1)
            if (homes.max(axis=1) > low).any():
                crossed.add(k)
                _lockstep(tracer.labels, split.ids, split.index, ties)
                break
    return crossed


def _random_plan(trace: Trace, share: float, seed: int) -> Mask:
    order = np.random.default_rng(seed).permutation(removable(trace))
    return legalise(trace, order[: round(share * len(order))].tolist(), order)


def removable(trace: Trace) -> Ints:
    """Return the labels of layers' channels that may go, sorted."""
    found = np.unique(np.concatenate([t.layer.labels for t in trace.layers])) if trace.layers else np.empty(0, np.int64)
    return found[[label not in trace.frozen for label in found.tolist()]] if len(found) else found


def _give_way(labels: Labels, trace: Trace, stuck: Stuck, tied: set[int], ties: list[Tie]) -> bool:
    """Tie the blocks that the stuck node reads in lockstep; if that was done already, freeze what it reads.

    Returns False when nothing is left to give.
    """
    tied_now = False
    for k, split in enumerate(trace.splits):
        if k in tied or not np.isin(split.ids, stuck.ids).any():
            continue
        tied.add(k)
        tied_now |= _lockstep(labels, split.ids, split.index, ties)
    for k, rows in enumerate(trace.rows):
        if tied_now or -1 - k in tied or not np.isin(rows.ids, stuck.ids).any():
            continue
        tied.add(-1 - k)
        tied_now |= _lockstep(labels, rows.ids, rows.index, ties)
    if not tied_now and np.isin(stuck.ids, np.fromiter(trace.frozen, np.int64, len(trace.frozen))).all():
        return False
    if not tied_now:
        node = trace.graph.nodes[stuck.index]
        labels.freeze(stuck.ids, Reason(f"{node.op_type} {stuck.why}", str(node.name or node.outputs[0].name)))
    return True


def _lockstep(labels: Labels, ids: Ints, index: int, ties: list[Tie]) -> bool:
    """Make every block lose the same indices: merge labels over all axes but the longest varying one.

    index: the node that made the blocks; what was tied on its account is noted in `ties`.
    """
    axes = varying(shrink(ids))
    if len(axes) < 2:
        return False
    longest = max(axes, key=lambda a: ids.shape[a])
    first = ids
    for axis in axes:
        if axis != longest:
            first = np.take(first, [0], axis=axis)
    labels.same(ids, first)
    ties.append((index, ids, first))
    return True


# --- what can never go ----------------------------------------------------------------------------------


def _pinned(tracer: Tracer, ties: list[Tie]) -> Trace:
    """Freeze what blocks and minimums can never give up, so that it carries a reason; return the trace."""
    labels = tracer.labels
    while True:
        trace = tracer.finish()
        before = len(trace.frozen)
        whole = whole_layers(trace, ties)
        for traced in trace.layers:
            if traced.layer.output in whole:
                labels.freeze(traced.layer.labels, whole[traced.layer.output])
        for rows in trace.blocks:
            _pin_rows(labels, trace, rows)
        frozen = labels.frozen()
        if len(frozen) == before and trace.raw is not None:  # at most, some have one more reason
            return replace(trace, frozen=frozen, raw=replace(trace.raw, frozen=frozen))


def _pin_rows(labels: Labels, trace: Trace, rows: Rows) -> None:
    stays = np.isin(rows.ids, np.fromiter(trace.frozen, np.int64, len(trace.frozen)))
    whole = np.flatnonzero(stays.all(axis=1))
    if len(whole) and len(rows.ids) > 1 and not stays.all():
        for reason in trace.frozen[int(rows.ids[whole[0], 0])]:
            labels.freeze(rows.ids, reason)
        return
    single = (rows.ids == rows.ids[:, :1]).all(axis=1)
    if single.any() and not stays[single].all():
        node = trace.graph.nodes[rows.index]
        why = f"is all that one block or piece of {node.op_type} has"
        labels.freeze(rows.ids[single], Reason(why, str(node.name or node.outputs[0].name)))


# --- restoring ------------------------------------------------------------------------------------------


def _share_out(trace: Trace, rows: Ints, keep: Mask, rank: Ints) -> None:
    """Let every block lose equally many, if the same layers carry all of them; in place.

    What was to go all in all is shared out, each block losing its own first ones: putting channels back until
    the luckiest block is matched would keep far more than was asked for.
    """
    which, times = trace.carriers
    labels, counts = zip(*(np.unique(row, return_counts=True) for row in rows), strict=True)
    every = np.concatenate(labels)
    carried = which[every]
    if len(rows) < 2 or len(np.unique(every)) < len(every) or carried[0] == 0 or (carried != carried[0]).any():
        return
    # a label may stand at several places of its block, as the pairs of a rotary embedding do, and in several blocks
    weight = np.array([times[own].max() / count.max() for own, count in zip(labels, counts, strict=True)])
    gone = np.array([count[~keep[own]].sum() for own, count in zip(labels, counts, strict=True)])
    free = [own[rank[own] >= 0] for own in labels]
    most = min(min(len(f), len(own) - 1) * int(count.max()) for f, own, count in zip(free, labels, counts, strict=True))
    step = int(np.lcm.reduce(np.concatenate(counts)))
    share = min(int((weight * gone).sum() / weight.sum() + 1e-9), most) // step * step
    for row, count in zip(free, counts, strict=True):
        keep[row] = True
        keep[row[np.argsort(rank[row], kind="stable")[: max(share, 0) // int(count.max())]]] = False


@dataclass
class _Restoring:
    keep: Mask
    rank: Ints  # where a label stands in the order of leaving: the last to leave are the first to come back

    def restore(self, ids: Ints, target: int) -> bool:
        """Put channels of `ids` back until `target` of its positions are kept; tell whether any was."""
        have = int(self.keep[ids].sum())
        if have >= target:
            return False
        gone, counts = np.unique(ids[~self.keep[ids]], return_counts=True)
        for k in np.argsort(-self.rank[gone], kind="stable"):
            self.keep[gone[k]] = True
            have += int(counts[k])
            if have >= target:
                break
        return True


def legalise(trace: Trace, remove: Iterable[int], order: Ints, *, round_to: int = 1, minimum: int = 1) -> Mask:
    """Return which labels stay, [labels]: as few as the wish allows once everything holds.

    order: labels, the first to leave first. round_to: every layer keeps a multiple of it, or all its channels.
    minimum: every layer keeps at least so many.
    """
    keep = np.ones(trace.count, dtype=np.bool_)
    keep[[label for label in remove if label not in trace.frozen]] = False
    rank = np.full(trace.count, -1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    for block in trace.lone_blocks:
        _share_out(trace, block.ids, keep, rank)
    state = _Restoring(keep, rank)
    rows = trace.blocks
    changed = True
    while changed:
        changed = False
        for block in rows:
            counts = keep[block.ids].sum(axis=1)
            target = max(int(counts.max()), 1)
            for k in np.flatnonzero(counts < target):
                changed |= state.restore(block.ids[k], target)
        for traced in trace.layers:
            own = traced.layer.labels
            have = max(int(keep[own].sum()), min(minimum, len(own)), 1)
            changed |= state.restore(own, min(len(own), -(-have // round_to) * round_to))
    return keep
