"""The first run: give every channel position a label, and learn which labels move together.

`trace` returns a `Trace`: immutable label arrays for every tensor, how every constant is cut, the layers,
the rows that must lose equally many, and what is frozen and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Array, Context, Factor, Use
from pfa_onnx.graph.labels import Labels, pairs, unpaired, varying
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.movement import Marked
from pfa_onnx.recipe import Ints, Layer, Reason


@dataclass(frozen=True)
class Traced:
    """A layer as the graph sees it: `axis` is the channel axis of its output, `shape` the output's shape."""

    layer: Layer
    axis: int
    use: Use
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """An axis that is written as several: `ids` are the labels over the new axes, at node `index`.

    How it shrinks is free until the labels are final: along the last axis that they vary along.
    """

    ids: Ints
    index: int


@dataclass(frozen=True)
class Rows:
    """Rows that must keep equally many, and at least one: `ids` is [rows, n], said by node `index`.

    grouped: what is left of a row must stay in it.
    """

    ids: Ints
    index: int
    grouped: bool = False


@dataclass(frozen=True)
class Trace:
    """What the first run learned. All label arrays hold roots: equal numbers move together.

    raw: the same with a number of its own for every position that was ever labelled, for the second run, which must
    not take two channels for one another because they move together. In it, `roots` leads back, and `pairs` holds,
    by node, which positions a rule said are the same.
    """

    graph: Graph
    shapes: Mapping[str, tuple[int, ...]]
    marks: Mapping[str, Marked]
    across: Mapping[str, Marked]
    binds: Mapping[Use, tuple[Factor, ...]]
    births: Mapping[Any, Ints]
    rows: tuple[Rows, ...]
    splits: tuple[Split, ...]
    layers: tuple[Traced, ...]
    frozen: Mapping[int, tuple[Reason, ...]]
    values: Mapping[str, Array]
    count: int
    blunt: frozenset[int] = frozenset()
    through_norm: bool = False
    roots: Ints | None = None
    pairs: Mapping[int, Ints] | None = None
    raw: Trace | None = None

    def along_one(self, name: str, axis: int) -> tuple[int, Ints] | None:
        """Return an axis of a tensor, from the front, and its labels; None where they lie along another one (too)."""
        mark = self.marks.get(name)
        if mark is None or name in self.across:
            return None
        axis %= mark.rank
        return (axis, mark.vector(axis)) if mark.axes == (axis,) else None

    @cached_property
    def carriers(self) -> tuple[Ints, Ints]:
        """Which layers carry a label, and how often the first of them does, both [labels].

        Two labels have the same number, 1 and up, if the same layers carry them; 0 is carried by none.
        """
        users: dict[int, list[int]] = {}
        times = np.zeros(self.count, dtype=np.int64)
        for k, traced in enumerate(self.layers):
            labels, counts = np.unique(traced.layer.labels, return_counts=True)
            times[labels] = np.where(times[labels] == 0, counts, times[labels])
            for label in labels.tolist():
                users.setdefault(label, []).append(k)
        numbers: dict[tuple[int, ...], int] = {}
        which = np.zeros(self.count, dtype=np.int64)
        for label, layers in users.items():
            which[label] = numbers.setdefault(tuple(layers), len(numbers) + 1)
        return which, times

    @cached_property
    def lone_blocks(self) -> tuple[Rows, ...]:
        """Blocks whose labels no other block groups in another way, as one behind a shuffle does."""
        row_of: dict[int, bytes] = {}
        shared: set[int] = set()
        for block in self.blocks:
            for row in block.ids:
                key = np.unique(row).tobytes()
                shared.update(label for label in row.tolist() if row_of.setdefault(label, key) != key)
        return tuple(block for block in self.blocks if shared.isdisjoint(block.ids.ravel().tolist()))

    @cached_property
    def blocks(self) -> tuple[Rows, ...]:
        """All rows that must keep equally many, those of split axes included, each set once."""
        found: dict[bytes, Rows] = {}
        splits = [(split_rows(split.ids), split.index) for split in self.splits]
        for rows in [*self.rows, *(Rows(ids, index) for ids, index in splits if ids is not None)]:
            key = rows.ids.tobytes() + str((rows.ids.shape, rows.grouped)).encode()
            if key not in found:
                found[key] = replace(rows, ids=np.unique(rows.ids, axis=0))
        return tuple(found.values())


class Tracer(Context):
    """The run over the whole model; labels may still be merged and frozen after it."""

    def __init__(
        self,
        graph: Graph,
        shapes: dict[str, tuple[int, ...]],
        blunt: frozenset[int] = frozenset(),
        *,
        through_norm: bool = False,
    ) -> None:
        super().__init__(graph, shapes, blunt, through_norm=through_norm)
        self.labels = Labels()
        self.labels.fresh(1)
        self._binds: dict[Use, tuple[Factor, ...]] = {}
        self._births: dict[Any, Ints] = {}
        self._rows: list[Rows] = []
        self._pairs: dict[int, Ints] = {}
        self._splits: list[Split] = []
        self._layers: list[tuple[int, int, Ints, int]] = []

    def run(self) -> None:
        """Trace the graph; its outputs stay whole."""
        super().run()
        for value in self.graph.model.graph.outputs:
            for marked in self.known_labels(str(value.name)):
                reason = Reason(f"is the graph output '{value.name}'", str(value.name))
                self.labels.freeze(marked.ids, reason)

    def apply(self, rule: Callable[[Context], None]) -> None:
        """Run one rule; a node that it cannot read is treated as if it had none."""
        try:
            rule(self)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            self.blunt |= {self.index}
            self._binds = {use: factors for use, factors in self._binds.items() if use[0] != self.index}
            for i in self.activations():
                self.freeze(self.mark(i).ids, f"is read by {self.node.op_type} of unknown form ({error})")
            self.opaque(f"is made by {self.node.op_type} of unknown form")

    # --- what a rule declares ------------------------------------------------------------------------

    def same(self, one: Ints, other: Ints) -> None:
        codes = pairs(*np.broadcast_arrays(one, other))
        before = self._pairs.get(self.index)
        self._pairs[self.index] = codes if before is None else np.union1d(before, codes)
        self.labels.same(one, other)

    def freeze(self, ids: Ints, why: str) -> None:
        self.labels.freeze(ids, Reason(why, self.name))

    def blocks(self, rows: Ints, *, grouped: bool = False) -> None:
        self._rows.append(Rows(np.ascontiguousarray(rows.reshape(-1, rows.shape[-1])), self.index, grouped))

    def born(self, i: int, axis: int) -> Ints:
        return self._fresh((self.index, i, axis), self.operand_shape(i)[axis])

    def grown(self, key: str, count: int) -> Ints:
        return self._fresh((self.index, key), count)

    def _fresh(self, key: Any, count: int) -> Ints:
        self._births[key] = self.labels.fresh(count)
        return self._births[key]

    def bind(self, i: int, *factors: Factor) -> None:
        self._binds[self.index, i] = factors

    def summed(self, i: int) -> None:
        """Nothing has been removed: nothing is to be zeroed."""

    def narrowed(self, i: int) -> None:
        """Nothing has been removed: a statistic runs over all channels."""

    def layer(self, i: int, made: Ints, axis: int) -> None:
        if made.size:  # what makes no channels is no layer
            self._layers.append((self.index, i, made, axis))

    def out(self, marked: Marked, k: int = 0, across: Marked | None = None) -> None:
        if k >= len(self.node.outputs):
            return
        name = str(self.node.outputs[k].name)
        known = self.shapes.get(name)
        if across is not None and (across.axes == () or known != marked.shape):
            self.freeze(across.ids, "is combined with other channels in an outer product")
        elif across is not None:
            self.across[name] = Marked.of(movement.shrink(across.ids), across.shape)
        if known is not None and known != marked.shape:
            self.freeze(marked.ids, f"has an output of shape {list(known)} where {list(marked.shape)} was expected")
            self.opaque(f"is the output of {self.node.op_type}, of unexpected shape", k)
            return
        self.marks[name] = Marked.of(movement.shrink(marked.ids), marked.shape)

    def bounds(self, i: int, axis: int, positions: Sequence[int]) -> list[int]:
        x = self.mark(i)
        if x.axes and axis == x.axes[-1]:  # blocks shrink along their last axis: cutting another one asks for nothing
            rows = np.moveaxis(x.ids, axis, -1)
            for start, end in pairwise(positions):
                if end > start:
                    self.blocks(rows[..., start:end])
        return list(positions)

    def positions(self, i: int, axis: int, wanted: Ints) -> Ints:
        x = self.mark(i)
        if x.axes and axis == x.axes[-1] and wanted.size:
            self.blocks(np.take(np.moveaxis(x.ids, axis, -1), wanted.reshape(-1), axis=-1))
        return wanted

    def reshaped(self, i: int, shape: tuple[int, ...]) -> Marked:
        x = self.mark(i)
        result = movement.reshape(x, shape)
        for left, right in movement.regroup(x.shape, shape):
            if len(right) > 1 and any(x.varies(a) for a in left):
                self._splits.append(Split(result.full(right), self.index))
        return result

    def rewrite(self, i: int, wanted: Array) -> None:
        """Nothing has been removed: every size is right as it is."""

    def rewrite_attr(self, name: str, wanted: Any) -> None:
        """Nothing has been removed: every attribute is right as it is."""

    def insert_input(self, i: int, array: Array) -> None:
        """Nothing has been removed: every size is right as it is."""

    def steady(self, i: int) -> None:
        """Nothing has been removed: every computed value is right as it is."""

    def source(self, value: ir.Value) -> None:
        what = f"is the graph input '{value.name}'" if value.is_graph_input() else "carries no channels of a layer"
        producer = value.producer()
        self._opaque(value, Reason(what, str(producer.name if producer is not None else value.name)))

    def opaque(self, why: str, k: int | None = None) -> None:
        for value in self.node.outputs if k is None else [self.node.outputs[k]]:
            self._opaque(value, Reason(why, self.name))

    def _opaque(self, value: ir.Value, reason: Reason) -> None:
        constant = self.graph.is_constant(value)
        shape = self.graph.shape_of(value, self.shapes) if constant else self.shapes.get(str(value.name), ())
        label = self.labels.fresh(1)
        self.labels.freeze(label, reason)
        self.marks[str(value.name)] = Marked.of(label.reshape((1,) * len(shape)), shape)

    # --- what was learned ----------------------------------------------------------------------------

    def finish(self) -> Trace:
        """Return the trace as it stands: labels that move together are one number; in `raw` each keeps its own."""
        roots, frozen = self.labels.roots(), self.labels.frozen()
        layers = self._finished_layers(roots, frozen)
        said = {index: codes for index, codes in self._pairs.items() if not np.array_equal(*unpaired(codes))}
        raw = replace(self._as(lambda ids: ids, (), frozen), roots=roots, pairs=said)
        return replace(self._as(lambda ids: roots[ids], layers, frozen), raw=raw)

    def _as(
        self, to: Callable[[Ints], Ints], layers: tuple[Traced, ...], frozen: Mapping[int, tuple[Reason, ...]]
    ) -> Trace:
        return Trace(
            graph=self.graph,
            shapes=self.shapes,
            marks={name: replace(m, ids=to(m.ids)) for name, m in self.marks.items()},
            across={name: replace(m, ids=to(m.ids)) for name, m in self.across.items()},
            binds={use: tuple(replace(f, ids=to(f.ids)) for f in factors) for use, factors in self._binds.items()},
            births={key: to(ids) for key, ids in self._births.items()},
            rows=tuple(replace(r, ids=to(r.ids)) for r in self._rows),
            splits=tuple(replace(s, ids=to(s.ids)) for s in self._splits),
            layers=layers,
            frozen=frozen,
            values=dict(self.values),
            count=self.labels.count,
            blunt=self.blunt,
            through_norm=self.through_norm,
        )

    def _finished_layers(self, roots: Ints, frozen: Mapping[int, tuple[Reason, ...]]) -> tuple[Traced, ...]:
        labels = [roots[made] for _, _, made, _ in self._layers]
        groups = coupled_sets(labels, frozen)
        found = []
        for (index, i, _, axis), own, group in zip(self._layers, labels, groups, strict=True):
            node = self.graph.nodes[index]
            output, weight = str(node.outputs[0].name), node.inputs[i]
            assert weight is not None
            layer = Layer(output, str(node.name or output), node.op_type, str(weight.name), own, group)
            found.append(Traced(layer, axis, (index, i), self.shapes.get(output, ())))
        return tuple(found)


def coupled_sets(labels: Sequence[Ints], frozen: Mapping[int, object]) -> list[int | None]:
    """Return the number of the set that each layer shares free labels in; None for a layer that shares none."""
    sets = Labels()
    sets.fresh(len(labels))
    if labels:
        every = np.concatenate(labels)
        layer = np.repeat(np.arange(len(labels)), [len(own) for own in labels])
        free = ~np.isin(every, np.fromiter(frozen, np.int64, len(frozen)))
        _, first, which = np.unique(every[free], return_index=True, return_inverse=True)
        sets.same(layer[free][first][which], layer[free])
    roots = sets.roots().tolist()
    times = Counter(roots)
    numbers: dict[int, int] = {}
    for root in roots:
        if times[root] > 1:
            numbers.setdefault(root, len(numbers))
    return [numbers.get(root) for root in roots]


def split_rows(ids: Ints) -> Ints | None:
    """Return the rows of a split, [rows, n]: it shrinks along the last axis that labels vary along."""
    axes = varying(movement.shrink(ids))
    if not axes:
        return None
    moved = np.moveaxis(ids, axes[-1], -1)
    return np.ascontiguousarray(moved.reshape(-1, moved.shape[-1]))
