"""Putting nodes in the place of others: names stay unique, and a reader finds what it read under the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class Splicer:
    """Changes one model's main graph, in place. What it has put there or passed over goes again if nothing reads it."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        nodes = list(self.graph.all_nodes())
        graphs = [self.graph, *self.graph.subgraphs()]
        # counted: two bodies may use one name, each for itself
        self._names = Counter(_values_of(nodes, graphs))
        self._nodes = Counter(str(n.name) for n in nodes if n.name)
        self._fresh: set[ir.Value] = set()
        self._loose: list[ir.Node] = []

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return self.model.opset_imports.get("", 1)

    # --- what is put in --------------------------------------------------------------------------------

    def make(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        at: ir.Node,
        outputs: Sequence[str],
        *,
        instead: bool = False,
        **attributes: Any,
    ) -> list[ir.Value]:
        """Put a node of the standard before another one, `instead` of it under its name.

        outputs: proposals for the names of its outputs.
        """
        given = [_attribute(key, content) for key, content in attributes.items()]
        node = ir.Node("", operator, inputs, given, num_outputs=len(outputs))
        for value, name in zip(node.outputs, outputs, strict=True):
            value.name = self._free(name, self._names)
        node.name = at.name if instead else self._free(outputs[0], self._nodes)
        self._insert([node], at)
        return list(node.outputs)

    def constant(self, array: npt.NDArray[Any], at: ir.Node, name: str) -> ir.Value:
        """Put a Constant node before another one: initializers would have to be inputs in old files."""
        return self.make("Constant", [], at, [name], value=ir.Tensor(np.asarray(array)))[0]

    def body(self, body: ir.Graph, feeds: Sequence[ir.Value], at: ir.Node) -> list[ir.Value]:
        """Move a body's nodes before a node, its inputs replaced; returns what its outputs are then."""
        given = dict(zip(body.inputs, feeds, strict=True))
        outputs = [given.get(value, value) for value in body.outputs]
        body.outputs.clear()
        for old, new in given.items():
            old.replace_all_uses_with(new)
        for value in list(body.initializers.values()):
            self._move_initializer(body, value)
        nodes = list(body)
        body.remove(nodes)
        for node in nodes:
            node.name = self._free(str(node.name), self._nodes) if node.name else None
            for value in node.outputs:
                value.name = self._free(str(value.name), self._names) if value.name else None
        self._insert(nodes, at)
        return outputs

    def forget(self, body: ir.Graph) -> None:
        """Let go of the names of a body that is about to be moved or dropped: its own nodes may keep them."""
        nodes = list(body.all_nodes())
        self._nodes.subtract(str(n.name) for n in nodes if n.name)
        self._names.subtract(_values_of(nodes, [body, *body.subgraphs()]))

    def _move_initializer(self, body: ir.Graph, value: ir.Value) -> None:
        body.initializers.pop(str(value.name))
        value.name = self._free(str(value.name), self._names)
        self.graph.register_initializer(value)
        if (self.model.ir_version or 0) < 4:  # until then initializers had to be inputs too
            self.graph.inputs.append(value)

    def _insert(self, nodes: Sequence[ir.Node], at: ir.Node) -> None:
        self.graph.insert_before(at, nodes)
        self._loose += nodes
        for node in nodes:
            self._fresh.update(node.outputs)

    def _free(self, name: str, taken: Counter[str]) -> str:
        free, k = name, 0
        while taken[free] > 0:
            k += 1
            free = f"{name}_{k}"
        taken[free] += 1
        return free

    # --- what is taken out -----------------------------------------------------------------------------

    def replace(self, node: ir.Node, results: Sequence[ir.Value]) -> None:
        """Let every reader of a node's outputs read other values. The node goes when `sweep` comes.

        What was put in takes over the name that it replaces; a value with a name of its own that must be known by
        another, as a graph's output, gets it through an Identity.
        """
        for old, new in zip(node.outputs, results, strict=False):
            found = new
            if not old.uses() and not old.is_graph_output():
                continue
            if found not in self._fresh and old.is_graph_output():
                found = self.make("Identity", [new], node, [f"{old.name}_out"], instead=True)[0]
            if found in self._fresh:
                self._fresh.discard(found)
                _take_over(found, old)
            old.replace_all_uses_with(found, replace_graph_outputs=True)
        self._loose.append(node)

    def pass_over(self, node: ir.Node) -> None:
        """Note that a node is no longer needed, once nothing reads it."""
        self._loose.append(node)

    def sweep(self) -> None:
        """Remove the nodes that are no longer read, those that were put in or passed over, and what only they read."""
        waiting = self._loose
        self._loose = []
        while waiting:
            node = waiting.pop()
            if node.graph is not self.graph or any(v.uses() or v.is_graph_output() for v in node.outputs):
                continue
            reads = {v for v in (*node.inputs, *_captured_by(node)) if v is not None}
            self.graph.remove(node, safe=True)
            for body in bodies_of(node):
                _detach(body)
            waiting += [maker for v in reads if (maker := v.producer()) is not None]
            for value in reads:
                self._drop_initializer(value)

    def _drop_initializer(self, value: ir.Value) -> None:
        name = str(value.name)
        if value.uses() or value.is_graph_output() or self.graph.initializers.get(name) is not value:
            return
        if value.is_graph_input():
            if (self.model.ir_version or 0) >= 4:
                return
            self.graph.inputs.remove(value)
        del self.graph.initializers[name]


def _attribute(name: str, content: Any) -> ir.Attr:
    return (
        ir.AttrTensor(name, content)
        if isinstance(content, ir.Tensor)
        else ir.convenience.convert_attribute(name, content)
    )


def _values_of(nodes: Iterable[ir.Node], graphs: Iterable[ir.Graph]) -> list[str]:
    made = [str(v.name) for n in nodes for v in n.outputs if v.name]
    return made + [str(v.name) for g in graphs for v in {*g.inputs, *g.initializers.values()}]


def _take_over(new: ir.Value, old: ir.Value) -> None:
    """Give a new value the name of an old one, and what the file notes about it."""
    name, old.name = old.name, f"{old.name}/replaced"
    new.name = name
    new.type = old.type if old.type is not None else new.type
    new.shape = old.shape if old.shape is not None or old.is_graph_output() else new.shape
    new.doc_string = old.doc_string or new.doc_string
    new.metadata_props.update(old.metadata_props)


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs in a node's attributes; those in their nodes are not among them."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.value


def _captured_by(node: ir.Node) -> list[ir.Value]:
    """Return everything that a node's bodies read."""
    return [v for body in bodies_of(node) for inner in body.all_nodes() for v in inner.inputs if v is not None]


def _detach(body: ir.Graph) -> None:
    """Let a body that is gone read nothing any more."""
    for node in body.all_nodes():
        for k in range(len(node.inputs)):
            node.replace_input_with(k, None)
