"""A run over the graph, node by node: what arrives at each of them, and which rule is to say what leaves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph import movement
from pfa_onnx.graph.declarations import Array, Declarations
from pfa_onnx.graph.evaluate import evaluate, is_pure
from pfa_onnx.graph.model import Graph, captured
from pfa_onnx.graph.movement import Marked

# Shapes and indices computed inside the graph are small; anything larger is data.
SMALL = 4096
MOST_SCALES = 5  # numbers of a Resize: one for each axis


class Walk(Declarations):
    """One run of all rules over a graph. `node` is the one whose rule is running."""

    def __init__(
        self,
        graph: Graph,
        shapes: dict[str, tuple[int, ...]],
        blunt: frozenset[int] = frozenset(),
        *,
        through_norm: bool = False,
    ) -> None:
        self.graph = graph
        self.blunt = blunt  # nodes to be treated as if they had no rule
        self.through_norm = through_norm  # normalisations may run over the kept channels only
        self.shapes = shapes
        self.marks: dict[str, Marked] = {}
        self.across: dict[str, Marked] = {}  # the second labels of outer products
        self.values: dict[str, Array] = {}
        self.node: ir.Node = graph.nodes[0]
        self.index = 0

    # --- the run -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Apply every node's rule, in execution order."""
        from pfa_onnx.graph.ops import rule_for, unknown  # noqa: PLC0415 - the rules are written against this module
        from pfa_onnx.graph.ops.refusals import refusal  # noqa: PLC0415

        for value in self.graph.model.graph.inputs:
            if not value.is_initializer():
                self.source(value)
        for index, node in enumerate(self.graph.nodes):
            self.index, self.node = index, node
            if all(self.graph.is_constant(out) for out in self.node.outputs):
                continue
            if self._compute():
                continue
            known = self.index not in self.blunt and self._measured()
            self.apply(rule_for(self.node) if known else unknown)
            for value in captured(self.node):
                for found in self.known_labels(str(value.name)):
                    why = f"is read in the body of {self.node.op_type}, {refusal(self.node)}"
                    self.freeze(found.ids, why)

    def known_labels(self, name: str) -> list[Marked]:
        """Return the labels that a tensor has so far."""
        return [labels[name] for labels in (self.marks, self.across) if name in labels]

    def apply(self, rule: Callable[[Any], None]) -> None:
        """Run one rule on the current node."""
        rule(self)

    def _measured(self) -> bool:
        """Tell whether every shape around the node is known: sequences and untaken branches have none."""
        reads = [v for i, v in enumerate(self.node.inputs) if v is not None and i in self.activations()]
        return all(str(v.name) in self.shapes or v.is_graph_input() for v in (*reads, self.node.outputs[0]))

    def _compute(self) -> bool:
        """Follow shape arithmetic: values computed from shapes and small constants alone."""
        node = self.node
        if node.op_type in {"Shape", "Size"} and node.domain in {"", "ai.onnx"} and node.inputs[0] is not None:
            self.values[str(node.outputs[0].name)] = self._measure(node, self.shape_of(node.inputs[0]))
            return True
        if not is_pure(node) or not node.inputs or self._spreads_parameters():
            return False
        inputs = [None if v is None else self.known_value(v) for v in node.inputs]
        if any(found is None and v is not None for found, v in zip(inputs, node.inputs, strict=True)):
            return False
        if any(movement.size(self.shapes.get(str(out.name), ())) > SMALL for out in node.outputs):
            return False
        for out, result in zip(node.outputs, self.evaluated(inputs), strict=False):
            self.values[str(out.name)] = result
        return True

    def _spreads_parameters(self) -> bool:
        """Tell whether a learned constant meets computed shapes and positions, as tokens, tables and frequencies do."""
        if self.node.op_type in {"Add", "Div", "Mul", "Pow", "Sub"}:
            return any(self._is_vector(value) for value in self.node.inputs)
        first = self.node.inputs[0]
        if first is None or not self.graph.is_constant(first):
            return False
        shape = self.graph.shape_of(first, self.shapes)
        if self.node.op_type in {"Expand", "Tile"}:
            return movement.size(shape) > 1
        picks = self.node.op_type in {"Gather", "Slice", "GatherND", "GatherElements", "Resize"}
        return picks and len(shape) > 1 and self.graph.array(first).dtype.kind == "f"

    def _is_vector(self, value: ir.Value | None) -> bool:
        """Tell numbers that were learned or chosen one a channel from the scales of a Resize."""
        if value is None or not self.graph.is_constant(value):
            return False
        long = max(self.graph.shape_of(value, self.shapes), default=1) > MOST_SCALES
        return long and self.graph.array(value).dtype.kind == "f"

    def evaluated(self, inputs: Sequence[Array | None]) -> list[Array]:
        """Compute the current node on the host."""
        return evaluate(self.node, inputs, self.graph.opset)

    def _measure(self, node: ir.Node, shape: tuple[int, ...]) -> Array:
        if node.op_type == "Size":
            return np.array(movement.size(shape), dtype=np.int64)
        end = self.attr("end", None)
        return np.array(shape[self.attr("start", 0) : end], dtype=np.int64)

    # --- what arrives --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The node's name, or that of its first output."""
        return str(self.node.name or self.node.outputs[0].name)

    def attr(self, name: str, default: Any) -> Any:
        """Return an attribute's value."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.type == ir.AttributeType.INTS:
            return [int(x) for x in attribute.value]
        return attribute.value

    def input(self, i: int) -> ir.Value | None:
        """Return input `i`, or None where it is left out."""
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def has(self, i: int) -> bool:
        """Tell whether input `i` is given."""
        return self.input(i) is not None

    def is_constant(self, i: int) -> bool:
        """Tell whether input `i` is the same for every sample."""
        return self.graph.is_constant(self.input(i))

    def known(self, i: int) -> Array | None:
        """Return the content of input `i` where it is a small constant or computed from shapes alone."""
        value = self.input(i)
        return None if value is None else self.known_value(value)

    def known_value(self, value: ir.Value) -> Array | None:
        """Return the content of a small constant, or of what is computed from shapes alone."""
        if str(value.name) in self.values:
            return self.values[str(value.name)]
        if self.graph.is_constant(value) and movement.size(self.graph.shape_of(value, self.shapes)) <= SMALL:
            return self.graph.array(value)
        return None

    def original(self, i: int) -> Array | None:
        """Return what `known` was before anything was removed."""
        return self.known(i)

    def operand_shape(self, i: int) -> tuple[int, ...]:
        """Return the original shape of input `i`."""
        value = self.node.inputs[i]
        assert value is not None
        if self.graph.is_constant(value):
            return self.graph.shape_of(value, self.shapes)
        return self.shapes.get(str(value.name), ())

    def shape_of(self, value: ir.Value) -> tuple[int, ...]:
        """Return a tensor's shape in this run: what was removed is not counted."""
        name = str(value.name)
        if name in self.marks:
            return self.marks[name].shape
        if name in self.values:
            return self.values[name].shape
        return self.graph.shape_of(value, self.shapes)

    def mark(self, i: int) -> Marked:
        """Return the labels of activation `i`; one frozen label where nothing is known of it.

        Of an outer product these are the first ones; the second ones stay, for only `layers` shows them.
        """
        first, *second = self.layers(i)
        for marked in second:
            self.freeze(marked.ids, f"lies across other channels, and {self.node.op_type} reads both")
        return first

    def layers(self, i: int) -> list[Marked]:
        """Return the labels of activation `i`: two of them where it is an outer product of channels."""
        value = self.node.inputs[i]
        assert value is not None
        name = str(value.name)
        if name not in self.marks:
            self.source(value)
        return [self.marks[name], *([self.across[name]] if name in self.across else [])]

    def before(self, i: int) -> Marked:
        """Return what the (first) labels of activation `i` were before anything was removed."""
        return self.layers(i)[0]

    def pass_on(self, change: Callable[[Marked], Marked] = lambda x: x, k: int = 0) -> None:
        """Set output `k`: the labels of the first input, moved as `change` says."""
        self.out_layers([change(x) for x in self.layers(0)], k)

    def out_layers(self, layers: Sequence[Marked], k: int = 0) -> None:
        """Set output `k`, which may be an outer product of channels."""
        self.out(layers[0], k, layers[1] if len(layers) > 1 else None)

    def activations(self) -> list[int]:
        """Return the inputs that change from sample to sample."""
        return [
            i
            for i, v in enumerate(self.node.inputs)
            if v is not None and not self.graph.is_constant(v) and str(v.name) not in self.values
        ]

    def out_shape(self, k: int = 0) -> tuple[int, ...]:
        """Return the original shape of output `k`."""
        return self.shapes.get(str(self.node.outputs[k].name), ())
