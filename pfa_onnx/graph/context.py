"""What a rule may say about its node.

A rule is one function `rule(c)`: it reads the labels that arrive, declares what is the same, what must
stay, what is cut along with what, and sets the labels of its outputs. It runs twice, unchanged:

- `trace.Tracer`: over the whole model. "The same" merges labels; nothing has been removed yet.
- `follow.Follower`: over labels only, with the removed ones gone. "The same" is checked; constants are
  gathered by the labels that arrive, and sizes written in the graph are rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.declarations import Array, Factor, Use
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.walk import Walk
from pfa_onnx.recipe import Ints

__all__ = ["Array", "Context", "Factor", "Use"]

Taking = Literal["all", "sums", "statistics"]


class Context(Walk):
    """A run, with the phrases that rules are made of."""

    def channels(self, x: Marked, axis: int) -> Ints:
        """Return labels along one axis, [extent], after saying that they do not depend on the other axes."""
        if x.axes and axis not in x.axes:
            self.freeze(x.ids, f"is mixed over its channels by {self.node.op_type}")
        self.uniform(x, [a for a in x.axes if a != axis])
        return x.vector(axis)

    def uniform(self, x: Marked, axes: Sequence[int]) -> Ints:
        """Say that labels do not vary along these axes; returns them with extent 1 there."""
        first = x.ids
        for axis in axes:
            first = np.take(first, [0], axis=axis)
        if axes:
            self.same(x.ids, first)
        return first

    def mixed(self, x: Marked, axes: Sequence[int], how: str, taking: Taking = "all") -> Marked:
        """Say that positions along these axes enter each other's results; returns the labels as they then are.

        Where labels vary along another axis too, what lies along these leaves together, as the branches of a
        split attention do. Otherwise it depends on what the operator does with its first input's positions, `taking`:
        it needs "all" of them; "sums" them, so that a removed one is a zero like any other that a contraction reads;
        or takes "statistics" of them, which may run over the kept ones only where the user allows that.
        """
        along = [a for a in x.axes if a in axes]
        if not along:
            return x
        last = x.axes[-1]
        if last not in along:
            return Marked(self.uniform(x, along), x.shape, tuple(a for a in x.axes if a not in along))
        if taking == "all" or (taking == "statistics" and not self.through_norm):
            hint = " (--through-norm prunes it)" if taking == "statistics" else ""
            self.freeze(x.ids, f"is {how} over its channels by {self.node.op_type}{hint}")
            return x
        self.blocks(np.moveaxis(x.ids, last, -1))
        self.summed(0) if taking == "sums" else self.narrowed(0)
        return x

    def freeze_along(self, x: Marked, axes: Sequence[int], why: str) -> None:
        """Freeze the labels of a tensor if they vary along any of the axes."""
        if any(x.varies(axis) for axis in axes):
            self.freeze(x.ids, why)

    def vector_out(self, labels: Ints, axis: int, k: int = 0) -> None:
        """Set output `k`: labels vary along one axis, [extent]; all other extents are the original ones."""
        shape = self.out_shape(k)
        if not shape:
            self.opaque("has an output of unknown shape", k)
            return
        axis %= len(shape)
        extents = (*shape[:axis], len(labels), *shape[axis + 1 :])
        self.out(Marked(movement.along(labels, axis, len(shape)), extents, (axis,)), k)

    def follow(self, i: int, *layers: Marked) -> None:
        """Let constant operand `i` be cut along with an activation that it is broadcast against.

        Where it has one entry for several positions, these positions go together.
        """
        factors = [factor for x in layers if (factor := self._factor(i, x)) is not None]
        if factors:
            self.bind(i, *factors)

    def _factor(self, i: int, x: Marked) -> Factor | None:
        shape = self.operand_shape(i)
        lifted = movement.lift(x, max(x.rank, len(shape)))
        missing = lifted.rank - len(shape)
        padded = (1,) * missing + tuple(shape)
        if not lifted.axes or padded[lifted.axes[-1]] == 1:  # blocks shrink along their last axis: one entry serves all
            movement.require_fit(padded, lifted)
            return None
        ids = self.uniform(lifted, [a for a in lifted.axes if padded[a] == 1])
        return Factor(ids.reshape(ids.shape[missing:]))

    def plus(self, i: int, x: Marked) -> Marked:
        """Return `x` combined with operand `i`, if it is given: a constant follows, an activation joins."""
        if not self.has(i):
            return x
        if self.is_constant(i):
            self.follow(i, x)
            return x
        return self.join([x, self.mark(i)])

    def join(self, marks: Sequence[Marked]) -> Marked:
        """Return the labels of an element-wise result: aligned labels are the same.

        Where one operand is stretched along an axis, it has no say there.
        """
        rank = max(x.rank for x in marks)
        result, *others = [movement.lift(x, rank) for x in marks]
        for other in others:
            result = self._joined(result, other)
        return result

    def _joined(self, one: Marked, other: Marked) -> Marked:
        stretched = [[a for a in x.axes if self._is_stretched(y, a)] for x, y in ((one, other), (other, one))]
        shape = movement.broadcast_shape([one.shape, other.shape])
        if stretched[1] and not stretched[0]:
            one, other, stretched = other, one, stretched[::-1]
        alone = tuple(stretched[0]) == one.axes
        if not other.axes and one.axes and one.axes[-1] in stretched[0]:
            movement.require_fit(other.shape, one)
            return Marked(one.ids, shape, one.axes)  # blocks shrink along their last axis: one entry serves all
        if stretched[1] or (stretched[0] and alone and other.axes):
            # an outer product: a position would carry two labels, so only one of the two may go
            self.freeze(other.ids, "is combined with other channels in an outer product")
            return Marked(one.ids, shape, one.axes)
        self.same(self.uniform(one, stretched[0]), other.ids)
        axes = tuple(sorted({*one.axes, *other.axes}))
        return Marked(one.ids if stretched[0] else np.broadcast_arrays(one.ids, other.ids)[0], shape, axes)

    @staticmethod
    def _is_stretched(x: Marked, axis: int) -> bool:
        """Tell whether an operand has one position along an axis and none of its labels vary there."""
        return x.shape[axis] == 1 and not x.varies(axis)
