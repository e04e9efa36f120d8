"""Sequences of tensors whose length the file fixes become the tensors themselves.

torch writes `x.split(...)[k]`, `unbind` and lists of tensors with sequences. Where every reader of a sequence only
picks from it, counts it or joins it, at places that the file fixes, ordinary operators say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.splice import Splicer
from pfa_onnx.graph.static import Static


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a tensor that a SplitToSequence makes: there is a tensor for it once a Split stands there."""

    node: ir.Node
    index: int


Members = list[ir.Value | Piece]

_READERS = {"SequenceAt", "SequenceLength", "ConcatFromSequence"}
_MAKERS = {"SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence"}
SEQUENCES = _READERS | _MAKERS


def dissolve(splicer: Splicer, static: Static) -> bool:
    """Replace the sequences that can be, in the main graph; tells whether there were any."""
    known = _Known(splicer.graph, static)
    members = known.dissolvable()
    rewriter = _Rewriter(splicer, static, members)
    readers = [n for n in splicer.graph if n.op_type in _READERS and n.inputs[0] is not None]
    for node in [n for n in readers if n.inputs[0] in members]:
        rewriter.rewrite(node)
    for node in [n for n in splicer.graph if n.outputs and n.outputs[0] in members]:
        splicer.pass_over(node)
    return bool(members)


class _Known:
    """The sequences whose members are known, by the id of their value."""

    def __init__(self, graph: ir.Graph, static: Static) -> None:
        self._graph = graph
        self._static = static
        self._members: dict[ir.Value, Members] = {}
        self._sources: dict[ir.Value, ir.Value] = {}  # the sequence that another one is made of
        for node in graph:
            found = self._made_by(node) if node.domain == "" else None
            if found is not None:
                self._members[node.outputs[0]] = found

    def dissolvable(self) -> dict[ir.Value, Members]:
        """Return those that nothing needs as a sequence, nor what they are made of or used for."""
        left = set(self._members)
        while True:
            kept = {key for key in left if self._source_in(key, left) and self._uses_in(key, left)}
            if kept == left:
                return {key: self._members[key] for key in left}
            left = kept

    def _source_in(self, value: ir.Value, left: set[ir.Value]) -> bool:
        source = self._sources.get(value)
        return source is None or source in left

    def _uses_in(self, value: ir.Value, left: set[ir.Value]) -> bool:
        return not value.is_graph_output() and all(self._dissolves(use.node, value, left) for use in value.uses())

    def _dissolves(self, node: ir.Node, value: ir.Value, left: set[ir.Value]) -> bool:
        if node.graph is not self._graph or node.domain != "":
            return False
        if node.op_type == "SequenceAt":
            return place(node, 1, len(self._members[value]), self._static) is not None
        if node.op_type == "ConcatFromSequence":
            return len(self._members[value]) > 0
        return node.op_type == "SequenceLength" or node.outputs[0] in left

    # --- what makes a sequence -------------------------------------------------------------------------

    def _made_by(self, node: ir.Node) -> Members | None:
        if node.op_type == "SequenceEmpty":
            return []
        if node.op_type == "SequenceConstruct":
            return None if None in node.inputs else [v for v in node.inputs if v is not None]
        if node.op_type == "SplitToSequence":
            sizes = piece_sizes(node, self._static)
            return None if sizes is None else [Piece(node, k) for k in range(len(sizes))]
        if node.op_type not in {"SequenceInsert", "SequenceErase", "Identity"} or node.inputs[0] is None:
            return None
        source = self._members.get(node.inputs[0])
        if source is None:
            return None
        self._sources[node.outputs[0]] = node.inputs[0]
        return self._changed(node, list(source))

    def _changed(self, node: ir.Node, members: Members) -> Members | None:
        if node.op_type == "SequenceInsert":
            # from the back, -1 is before the last: as Python's insert
            at = place(node, 2, len(members) + 1, self._static, wrap=len(members))
            if at is None or node.inputs[1] is None:
                return None
            members.insert(at, node.inputs[1])
        elif node.op_type == "SequenceErase":
            at = place(node, 1, len(members), self._static)
            if at is None:
                return None
            del members[at]
        return members


class _Rewriter:
    """Puts ordinary operators where sequences were read."""

    def __init__(self, splicer: Splicer, static: Static, members: Mapping[ir.Value, Members]) -> None:
        self._splicer = splicer
        self._static = static
        self._members = members
        self._pieces: dict[ir.Node, list[ir.Value]] = {}
        self._squeezed: dict[tuple[ir.Node, int], ir.Value] = {}

    def rewrite(self, node: ir.Node) -> None:
        """Let what reads a node that reads a sequence read a tensor instead."""
        source = node.inputs[0]
        assert source is not None
        members = self._members[source]
        result: dict[str, Callable[[ir.Node, Members], ir.Value]] = {
            "SequenceAt": self._pick, "SequenceLength": self._count, "ConcatFromSequence": self._join
        }  # fmt: skip
        self._splicer.replace(node, [result[node.op_type](node, members)])

    def _pick(self, node: ir.Node, members: Members) -> ir.Value:
        at = place(node, 1, len(members), self._static)
        assert at is not None
        return self._tensor(members[at])

    def _count(self, node: ir.Node, members: Members) -> ir.Value:
        return self._splicer.constant(np.array(len(members), dtype=np.int64), node, f"{node.outputs[0].name}")

    def _join(self, node: ir.Node, members: Members) -> ir.Value:
        axis = int(node.attributes["axis"].value)
        tensors = [self._tensor(member) for member in members]
        if "new_axis" in node.attributes and node.attributes["new_axis"].value:
            tensors = [self._with_axis("Unsqueeze", value, axis, node) for value in tensors]
        return self._splicer.make("Concat", tensors, node, [f"{node.outputs[0].name}"], instead=True, axis=axis)[0]

    def _tensor(self, member: ir.Value | Piece) -> ir.Value:
        if not isinstance(member, Piece):
            return member
        node = member.node
        if node not in self._pieces:
            self._pieces[node] = self._split(node)
        value = self._pieces[node][member.index]
        if _keeps_axis(node):
            return value
        key = (node, member.index)
        if key not in self._squeezed:
            self._squeezed[key] = self._with_axis("Squeeze", value, _axis(node), node)
        return self._squeezed[key]

    def _split(self, node: ir.Node) -> list[ir.Value]:
        sizes = piece_sizes(node, self._static)
        assert sizes is not None
        names = [f"{node.outputs[0].name}_{k}" for k in range(len(sizes))]
        if self._splicer.opset < 13:
            return self._splicer.make(
                "Split", [node.inputs[0]], node, names, instead=True, axis=_axis(node), split=sizes
            )
        lengths = self._splicer.constant(np.array(sizes, dtype=np.int64), node, f"{node.outputs[0].name}_sizes")
        return self._splicer.make("Split", [node.inputs[0], lengths], node, names, instead=True, axis=_axis(node))

    def _with_axis(self, operator: str, value: ir.Value, axis: int, at: ir.Node) -> ir.Value:
        names = [f"{value.name}_{operator.lower()}d"]
        if self._splicer.opset < 13:
            return self._splicer.make(operator, [value], at, names, axes=[axis])[0]
        axes = self._splicer.constant(np.array([axis], dtype=np.int64), at, f"{names[0]}_axes")
        return self._splicer.make(operator, [value, axes], at, names)[0]


def place(node: ir.Node, i: int, count: int, static: Static, *, wrap: int | None = None) -> int | None:
    """Return a position that input `i` names among `count`, the last one where it is left out; None if it is open."""
    given = node.inputs[i] if i < len(node.inputs) else None
    if given is None:
        return count - 1 if count else None
    found = static.value(given)
    if found is None or found.size != 1:
        return None
    at = int(found.item())
    at += (count if wrap is None else wrap) if at < 0 else 0
    return at if 0 <= at < count else None


def piece_sizes(node: ir.Node, static: Static) -> list[int] | None:
    """Return the extents that a SplitToSequence cuts its axis into, None where the file does not fix them."""
    source = node.inputs[0]
    shape = None if source is None else static.extents(source)
    whole = None if shape is None or not -len(shape) <= _axis(node) < len(shape) else shape[_axis(node)]
    given = node.inputs[1] if len(node.inputs) > 1 else None
    wanted = static.value(given)
    if given is not None and (wanted is None or not _keeps_axis(node)):
        return None  # the standard ignores keepdims where sizes are given, onnxruntime does not
    if wanted is not None and wanted.ndim == 1:
        return [int(n) for n in wanted] or None
    step = 1 if wanted is None else int(wanted.item())
    if not whole or step < 1:
        return None
    return [step] * (whole // step) + ([whole % step] if whole % step else [])


def _axis(node: ir.Node) -> int:
    return int(node.attributes["axis"].value) if "axis" in node.attributes else 0


def _keeps_axis(node: ir.Node) -> bool:
    return "keepdims" not in node.attributes or bool(node.attributes["keepdims"].value)
