"""Where the elements of a computed shape come from.

A Reshape may read its target from Shape -> Gather -> Concat; where one element of it is a constant that
restates a number of channels, that constant is rewritten. Elements taken from Shape follow by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.evaluate import evaluate
from pfa_onnx.graph.order import those_before
from pfa_onnx.recipe import Ints

if TYPE_CHECKING:
    from pfa_onnx.graph.follow import Follower

CHANNELS = -1  # an extent that labels vary along: the weights fix it
OTHER = -2  # a batch or spatial extent, which may differ at run time
MIXED = -3  # computed from channel extents and constants alone

_FIRST_INPUT_MOVES = {"Gather", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity", "Transpose", "Flatten"}


class Origins:
    """The origins of small computed values, found on demand, by walking back from the reader."""

    def __init__(self, run: Follower) -> None:
        self._run = run
        self._found: dict[str, Ints] = {}
        self._constants: list[tuple[int, int, int]] = []  # (node, input, flat element)
        self._demands: dict[tuple[int, int, int], int] = {}  # what readers so far want there
        self._index = {id(node): k for k, node in enumerate(run.graph.nodes)}

    def fixed(self, value: ir.Value) -> bool:
        """Tell whether no element depends on a batch or spatial extent."""
        return bool((self._of(value) != OTHER).all())

    def rewrite(self, i: int, wanted: npt.NDArray[Any]) -> None:
        """See to it that computed operand `i` reads `wanted`; raises Stuck.

        The constants behind it are rewritten where that suits every reader; a reader that wants what it gets is noted
        too. Otherwise this reader alone reads the numbers that the file fixes, beside those that the input decides.
        """
        run = self._run
        value = run.node.inputs[i]
        assert value is not None
        now, origins = run.values[str(value.name)], self._of(value)
        if now.shape != wanted.shape:
            raise run.stuck("computes a size of another rank")
        changed = origins[now != wanted]
        if (changed == OTHER).any():
            raise run.stuck("computes a size that does not follow the cut")
        demands = {
            self._constants[int(origin)]: number
            for number, origin in zip(wanted.ravel().tolist(), origins.ravel().tolist(), strict=True)
            if origin >= 0
        }
        agreed = all(self._demands.get(place, number) == number for place, number in demands.items())
        if agreed and (changed >= 0).all():
            self._demands |= demands
            for place, number in demands.items():
                self._patch(*place, number)
        elif (origins != OTHER).all():
            run.edits.replaced[run.index, i] = wanted.astype(now.dtype)
        elif run.graph.opset < 9:
            raise run.stuck("shares a size with a reader that needs another")
        else:
            run.edits.overridden[run.index, i] = origins != OTHER, wanted.astype(now.dtype)

    def _patch(self, index: int, k: int, element: int, number: int) -> None:
        """Rewrite one element of a constant, for all that read it."""
        edits = self._run.edits
        before = self._constant(index, k)
        array = edits.replaced.get((index, k), before)
        if array.ravel()[element] != number:
            edits.replaced[index, k] = array = array.copy()
            array.reshape(-1)[element] = number

    def _constant(self, index: int, k: int) -> npt.NDArray[Any]:
        """Return what a node reads as input `k` before it is rewritten."""
        run = self._run
        value = run.graph.nodes[index].inputs[k]
        assert value is not None
        return run.graph.array(value) if run.graph.is_constant(value) else run.values[str(value.name)]

    def _of(self, value: ir.Value) -> Ints:
        if str(value.name) not in self._found:
            for one in those_before(value, self._unfound):
                node = one.producer()
                assert node is not None
                self._found[str(one.name)] = self._through(node, one)
        return self._found[str(value.name)]

    def _unfound(self, value: ir.Value) -> list[ir.Value]:
        """Return what a value is computed of whose origins have to be found first."""
        node = value.producer()
        if node is None or node.op_type == "Shape":
            return []
        computed = (v for v in node.inputs if v is not None and not self._run.graph.is_constant(v))
        return [v for v in computed if str(v.name) not in self._found]

    def _through(self, node: ir.Node, value: ir.Value) -> Ints:
        run = self._run
        if node.op_type == "Shape":
            source = node.inputs[0]
            assert source is not None
            old = run.trace.marks.get(str(source.name))
            extents = [
                CHANNELS if old is not None and old.varies(a) else OTHER for a in range(len(run.shape_of(source)))
            ]
            start, end = node.attributes.get("start"), node.attributes.get("end")
            return np.array(extents[start.value if start else 0 : end.value if end else None], dtype=np.int64)
        result = run.values[str(value.name)]
        moves = node.op_type == "Concat" or node.op_type in _FIRST_INPUT_MOVES
        operands = [self._operand(node, k) for k in range(len(node.inputs))]
        if moves:
            inputs = [
                o if node.op_type == "Concat" or k == 0 else (None if v is None else run.known_value(v))
                for k, (o, v) in enumerate(zip(operands, node.inputs, strict=True))
            ]
            if node.op_type in {"Cast", "Identity"}:
                assert inputs[0] is not None
                return np.asarray(inputs[0], dtype=np.int64)
            return np.asarray(evaluate(node, inputs, run.graph.opset)[0], dtype=np.int64)
        fixed = all(o is None or bool((o != OTHER).all()) for o in operands)
        return np.full(result.shape, MIXED if fixed else OTHER, dtype=np.int64)

    def _operand(self, node: ir.Node, k: int) -> Ints | None:
        """Return the origins of one operand; where it can be replaced by a constant, they say where."""
        value = node.inputs[k]
        if value is None:
            return None
        if self._run.graph.is_constant(value):
            return self._replaceable(node, k, self._run.graph.array(value).shape)
        found = self._of(value)
        if node.op_type == "Concat" and bool((found != OTHER).all()):
            # one part of a shape, computed from channel extents alone, like a head's width: a constant says it as well
            return self._replaceable(node, k, found.shape)
        return found

    def _replaceable(self, node: ir.Node, k: int, shape: tuple[int, ...]) -> Ints:
        start, count = len(self._constants), int(np.prod(shape, dtype=np.int64))
        self._constants += [(self._index[id(node)], k, e) for e in range(count)]
        return np.arange(start, start + count, dtype=np.int64).reshape(shape)
