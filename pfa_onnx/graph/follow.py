"""The second run, on labels only, with the removed ones gone: what the cut model looks like.

Every constant is gathered by the labels that arrive, in the order in which they arrive; every size written
in the graph is rewritten. Where that is impossible, `Stuck` says at which node, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Array, Context, Factor
from pfa_onnx.graph.edits import Edits, Gather, Mask, Narrowed, Stuck, gather_step
from pfa_onnx.graph.labels import are_pairs, match, varying
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.origin import Origins
from pfa_onnx.graph.trace import Trace
from pfa_onnx.recipe import Ints


class Follower(Context):
    """One run with removed labels. keep: [labels], True for those that stay."""

    def __init__(self, trace: Trace, keep: Mask) -> None:
        super().__init__(trace.graph, dict(trace.shapes), trace.blunt, through_norm=trace.through_norm)
        assert trace.raw is not None
        assert trace.raw.roots is not None
        self.trace = trace.raw  # every position by its own number: tied channels must not be mistaken for one another
        self.keep = keep[trace.raw.roots]
        self.edits = Edits()
        self._blocks_seen = (-1, 0)
        self._origins = Origins(self)

    def run(self) -> None:
        """Follow the cut; raises Stuck."""
        super().run()
        for name, marked in self.marks.items():
            before = self.trace.marks[name].shape
            if marked.shape != before:
                self.edits.shapes[name] = marked.shape
                both = zip(before, marked.shape, strict=True)
                self.edits.extents[name] = {axis: now for axis, (was, now) in enumerate(both) if was != now}

    def apply(self, rule: Callable[[Context], None]) -> None:
        """Run one rule; arrays that no longer fit each other mean that the node cannot follow."""
        try:
            rule(self)
        except (ValueError, IndexError) as error:
            raise self.stuck("cannot follow: what it reads would no longer fit together") from error

    def stuck(self, why: str) -> Stuck:
        """Return the exception that says the current node cannot follow, with all labels that it reads."""
        read = [
            labels[str(v.name)].ids.ravel()
            for v in self.node.inputs
            for labels in (self.trace.marks, self.trace.across)
            if v is not None and str(v.name) in labels
        ]
        bound = [f.ids.ravel() for (index, _), fs in self.trace.binds.items() if index == self.index for f in fs]
        labels = np.concatenate([*read, *bound, np.empty(0, np.int64)])
        assert self.trace.roots is not None
        return Stuck(self.index, why, np.unique(self.trace.roots[labels]))

    def evaluated(self, inputs: Sequence[Array | None]) -> list[Array]:
        """Reuse what the first run computed where nothing changed."""
        before = [self.trace.values.get(str(out.name)) for out in self.node.outputs]
        same = all(
            v is None
            or str(v.name) not in self.values
            or np.array_equal(self.values[str(v.name)], self.trace.values[str(v.name)])
            for v in self.node.inputs
        )
        return (
            [b for b in before if b is not None]
            if same and all(b is not None for b in before)
            else super().evaluated(inputs)
        )

    def original(self, i: int) -> Array | None:
        value = self.input(i)
        return self.trace.values.get(str(value.name), self.known(i)) if value is not None else None

    # --- what a rule declares ------------------------------------------------------------------------

    def same(self, one: Ints, other: Ints) -> None:
        try:
            a, b = np.broadcast_arrays(one, other)
            assert self.trace.pairs is not None
            equal = are_pairs(a, b, self.trace.pairs.get(self.index))
        except ValueError:
            equal = False
        if not equal:
            raise self.stuck("reads channels that no longer line up")

    def freeze(self, ids: Ints, why: str) -> None:
        """Frozen labels were never removed."""

    def blocks(self, rows: Ints, *, grouped: bool = False) -> None:
        """Balance was established before the cut; a grouped convolution also needs every block to hold its own."""
        if not grouped:
            return
        self._blocks_seen = (self.index, self._blocks_seen[1] + 1 if self._blocks_seen[0] == self.index else 0)
        old = [r.ids for r in self.trace.rows if r.index == self.index and r.grouped][self._blocks_seen[1]]
        for was, now in zip(old, rows.reshape(-1, rows.shape[-1]), strict=True):
            if not np.array_equal(np.sort(was[self.keep[was]]), np.sort(now)):
                raise self.stuck("reads channels that left their block")

    def born(self, i: int, axis: int) -> Ints:
        return self._kept(self.trace.births[self.index, i, axis])

    def grown(self, key: str, count: int) -> Ints:
        return self._kept(self.trace.births[self.index, key])

    def _kept(self, ids: Ints) -> Ints:
        return ids[self.keep[ids]]

    def bind(self, i: int, *factors: Factor) -> None:
        steps = []
        shape = list(self.operand_shape(i))
        current = [f.ids for f in self.trace.binds[self.index, i]]
        for k, new in enumerate(factors):
            old = current[k]
            axes = varying(self.trace.binds[self.index, i][k].ids)
            if not axes:
                continue
            extents = tuple(new.ids.shape[a] for a in axes)
            at = self._positions_of(old, new.ids, axes)
            if at is None:
                continue
            steps.append((axes, at, extents))
            current = [_gathered(ids, axes, at, extents, shape) for ids in current]
            for a, n in zip(axes, extents, strict=True):
                shape[a] = n
        if steps:
            self.edits.gathers[self.index, i] = Gather(tuple(steps))
        self._note_reads(i)

    def _positions_of(self, old: Ints, new: Ints, axes: tuple[int, ...]) -> Ints | None:
        """Return where the arriving labels lie in the constant; None where nothing changes."""
        if old.shape == new.shape and bool((old == new).all()):
            return None
        at = match(old, new)
        if at is None or len(at) != int(self.keep[old].sum()):
            raise self.stuck("holds constants for channels that no longer line up")
        last = axes[-1]
        if len(axes) > 1 and all(old.shape[a] == new.shape[a] for a in axes[:-1]):
            rows = np.repeat(np.arange(old.size // old.shape[last]), new.shape[last])
            if not np.array_equal(at // old.shape[last], rows):
                raise self.stuck("reads channels that left their block")
        return at

    def _note_reads(self, i: int) -> None:
        gone = []
        for factor in self.trace.binds[self.index, i]:
            axes = varying(factor.ids)
            if factor.role == "read" and axes and not self.keep[factor.ids].all():
                gone.append((axes, ~self.keep[factor.ids]))
        if gone:
            self.edits.reads[self.index, i] = tuple(gone)

    def summed(self, i: int) -> None:
        kept = self.keep[self.before(i).ids]
        if (value := self.input(i)) is not None and str(value.name) in self.trace.across:
            kept = kept & self.keep[self.trace.across[str(value.name)].ids]
        if not kept.all():
            self.edits.sums[self.index, i] = kept

    def narrowed(self, i: int) -> None:
        kept = self.keep[self.before(i).ids]
        if not kept.all():
            passes = bool(self.trace.marks[str(self.node.outputs[0].name)].axes)
            self.edits.narrowed[self.index, i] = Narrowed(kept, passes)

    def layer(self, i: int, made: Ints, axis: int) -> None:
        """Layers were found by the first run."""

    def out(self, marked: Marked, k: int = 0, across: Marked | None = None) -> None:
        if k >= len(self.node.outputs):
            return
        name = str(self.node.outputs[k].name)
        first = self._written_as(self.trace.marks[name], marked)
        if name in self.trace.across:
            assert across is not None
            second = self._written_as(self.trace.across[name], across)
            shape = tuple(n if first.varies(a) else second.shape[a] for a, n in enumerate(first.shape))
            first, self.across[name] = replace(first, shape=shape), replace(second, shape=shape)
        self.marks[name] = first

    def _written_as(self, old: Marked, new: Marked) -> Marked:
        """Return labels written out along the axes along which the first run wrote them."""
        ids = new.ids
        for axis in range(old.rank):
            if not old.varies(axis) and ids.shape[axis] > 1:
                written, ids = ids, np.take(ids, [0], axis=axis)
                if (written != ids).any():
                    self.same(written, ids)
            elif old.varies(axis) and ids.shape[axis] == 1:
                ids = np.repeat(ids, new.shape[axis], axis=axis)
        shape = tuple(n if old.varies(a) else old.shape[a] for a, n in enumerate(ids.shape))
        return Marked(ids, shape, old.axes)

    def bounds(self, i: int, axis: int, positions: Sequence[int]) -> list[int]:
        old, new = self.before(i), self.mark(i)
        if not old.varies(axis) or np.array_equal(old.ids, new.ids):
            return list(positions)
        moved = list(positions) if new.shape[axis] == old.shape[axis] else self._moved(old, axis, positions)
        before, after = np.moveaxis(old.ids, axis, -1), np.moveaxis(new.ids, axis, -1)
        for k in range(len(positions) - 1):
            was = before[..., positions[k] : positions[k + 1]].ravel()
            now = after[..., moved[k] : moved[k + 1]].ravel()
            if not np.array_equal(np.sort(was[self.keep[was]]), np.sort(now)):
                raise self.stuck("cuts its channels where they no longer lie")
        return moved

    def _moved(self, old: Marked, axis: int, positions: Sequence[int]) -> list[int]:
        """Return where positions of an axis that shrank lie now: in every row at the same place."""
        kept = self.keep[np.moveaxis(old.ids, axis, -1)].reshape(-1, old.shape[axis])
        kept = kept[kept.any(axis=1)]
        before = np.concatenate([np.zeros((len(kept), 1), np.int64), np.cumsum(kept, axis=1)], axis=1)
        total = before[:, list(positions)]
        if len(total) == 0 or (total != total[0]).any():
            raise self.stuck("cuts its channels into pieces that no longer have one size")
        return [int(n) for n in total[0]]

    def positions(self, i: int, axis: int, wanted: Ints) -> Ints:
        old, new = self.before(i), self.mark(i)
        if not old.varies(axis) or (new.shape == old.shape and np.array_equal(old.ids, new.ids)):
            return wanted
        before = np.moveaxis(old.full([axis]), axis, -1).reshape(-1, old.shape[axis])
        after = np.moveaxis(new.full([axis]), axis, -1).reshape(-1, new.shape[axis])
        if new.shape[axis] == old.shape[axis]:
            return wanted  # another axis shrank
        found: Ints | None = None
        for was, now in zip(before, after, strict=False):
            at = match(was, now)
            if len(before) != len(after) or at is None:
                raise self.stuck("picks channels where they no longer lie")
            place = np.full(len(was), -1, dtype=np.int64)
            place[at] = np.arange(len(at))
            picked = place[wanted]
            if found is not None and not np.array_equal(found, picked):
                raise self.stuck("picks other channels in every block")
            found = picked
        assert found is not None
        if found.ndim == 0:
            if found < 0:
                raise self.stuck("picks one channel that is gone")
            return found
        if found.ndim > 1 and (found < 0).any():
            raise self.stuck("picks channels in a pattern that does not shrink")
        return found[found >= 0]

    def before(self, i: int) -> Marked:
        value = self.node.inputs[i]
        assert value is not None
        return self.trace.marks[str(value.name)]

    def reshaped(self, i: int, shape: tuple[int, ...]) -> Marked:
        old, new = self.before(i), self.mark(i)
        if old.shape == new.shape:
            return movement.reshape(new, shape)
        wanted, shrunk = list(shape), []
        result = self.trace.marks[str(self.node.outputs[0].name)]
        assert self.trace.roots is not None
        apart = varying(movement.shrink(self.trace.roots[result.ids]))  # what goes together does not tell axes apart
        for left, right in movement.regroup(old.shape, shape):
            now = prod(new.shape[a] for a in left)
            if now == prod(old.shape[a] for a in left):
                continue
            shrinking = [a for a in right if a in apart]
            if not shrinking:
                raise self.stuck("merges channels that no longer line up")
            wanted[shrinking[-1]], rest = divmod(now, prod(shape[a] for a in right if a != shrinking[-1]))
            shrunk.append((right, shrinking[-1]))
            if rest:
                raise self.stuck("splits its channels into blocks that are no longer equal")
        reshaped = movement.reshape(new, tuple(wanted))
        written = self._written_as(result, reshaped)
        for right, axis in shrunk:
            self._require_own(_lines(result, right, axis), _lines(written, right, axis))
        return reshaped

    def _require_own(self, before: Ints, after: Ints) -> None:
        """See to it that every block holds what is left of it: behind a shuffle, channels may stand in another one."""
        kept = self.keep[before]
        if before.shape[0] != after.shape[0] or (kept.sum(axis=1) != after.shape[1]).any():
            raise self.stuck("splits its channels into blocks that are no longer equal")
        left = before[kept].reshape(after.shape)
        if not np.array_equal(np.sort(left, axis=1), np.sort(after, axis=1)):
            raise self.stuck("splits its channels into blocks that some of them left")

    def rewrite(self, i: int, wanted: Array) -> None:
        value = self.node.inputs[i]
        assert value is not None
        if not self.graph.is_constant(value):
            self._origins.rewrite(i, wanted)
        elif not np.array_equal(self.graph.array(value), wanted):
            self.edits.replaced[self.index, i] = wanted.astype(self.graph.array(value).dtype)

    def rewrite_attr(self, name: str, wanted: Any) -> None:
        if self.attr(name, None) != wanted:
            self.edits.attributes[self.index, name] = wanted

    def insert_input(self, i: int, array: Array) -> None:
        self.edits.replaced[self.index, i] = array

    def steady(self, i: int) -> None:
        value = self.node.inputs[i]
        assert value is not None
        name = str(value.name)
        if name not in self.values or np.array_equal(self.values[name], self.trace.values[name]):
            return
        if not self._origins.fixed(value):
            raise self.stuck("computes with a size that the cut changes")
        # a size of channels that entered the arithmetic, like the square root of a head's width: it keeps
        # its old value, or the model would compute something else
        self.edits.replaced[self.index, i] = self.trace.values[name]

    def source(self, value: ir.Value) -> None:
        self.marks[str(value.name)] = self.trace.marks[str(value.name)]

    def opaque(self, why: str, k: int | None = None) -> None:
        for value in self.node.outputs if k is None else [self.node.outputs[k]]:
            self.source(value)


def _lines(x: Marked, axes: Sequence[int], axis: int) -> Ints:
    """Return the labels along one axis, one line for every position along the others, [lines, extent]."""
    return np.moveaxis(x.full(axes), axis, -1).reshape(-1, x.shape[axis])


def _gathered(ids: Ints, axes: tuple[int, ...], at: Ints, extents: tuple[int, ...], shape: Sequence[int]) -> Ints:
    """Apply one step of a gather to another factor of the same constant."""
    if not any(ids.shape[a] > 1 for a in axes):
        return ids
    full = np.broadcast_to(ids, tuple(shape[a] if a in axes else n for a, n in enumerate(ids.shape)))
    return gather_step(full, axes, at, extents)


def follow(trace: Trace, keep: Mask) -> Edits:
    """Return the edits that remove the labels not kept. keep: [labels]. Raises Stuck."""
    follower = Follower(trace, keep)
    follower.run()
    return follower.edits
