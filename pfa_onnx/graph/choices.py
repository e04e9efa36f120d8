"""Operators that choose: candidates that are all but equal change places when sums are taken in another order.

The best boxes of a detector are such a choice. Outputs behind it may differ although nothing is wrong; what the
first choices read may not.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from pfa_onnx.graph import protos
from pfa_onnx.graph.edits import Edits
from pfa_onnx.graph.model import Graph, captured

_CHOOSE = {
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression", "TopK",
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """What a model chooses by, and which of its outputs lie behind a choice, by name."""

    reads: list[str]
    outputs: frozenset[str]


def choices(graph: Graph, edits: Edits) -> Choices:
    """Return what the first choices on every way read, as far as the cut leaves its shape."""
    behind: set[int] = set()
    found: dict[str, None] = {}
    for node in graph.nodes:
        reads = [value for value in (*node.inputs, *captured(node)) if value is not None]
        chooses = node.op_type in _CHOOSE and not all(graph.is_constant(v) for v in reads)
        if chooses and not any(id(value) in behind for value in reads):
            found.update(dict.fromkeys(str(v.name) for v in reads if _is_made(graph, v)))
        if chooses or any(id(value) in behind for value in reads):
            behind.update(id(value) for value in node.outputs)
    outputs = frozenset(str(v.name) for v in graph.model.graph.outputs if id(v) in behind)
    return Choices([name for name in found if name not in edits.extents], outputs)


def _is_made(graph: Graph, value: ir.Value) -> bool:
    return value.producer() is not None and not graph.is_constant(value)


def shown(graph: Graph, model: ir.Model, names: list[str]) -> ir.Model:
    """Return a copy of which these tensors are the outputs. graph: where the copy's external data lies."""
    copy = protos.copied(model, graph.directory)
    made = {str(value.name): value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [made[name] for name in names if name in made]
    return copy
