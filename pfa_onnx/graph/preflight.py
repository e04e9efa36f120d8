"""A file is looked at before anything works with it: what protobuf can read may still be no model.

Everything is refused here that would make what comes after it fail without saying why, run without end, take memory
without bounds, or read what is not its own: names that lead nowhere or are there twice, circles, tensors that are not
as large as they say, nodes that their operators do not know, functions that call themselves or grow without bounds,
inputs that cannot be fed. The checks read the file's structure once; no tensor's numbers are touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.claims import called, check_tensor
from pfa_onnx.graph.external import check_external
from pfa_onnx.graph.order import in_order
from pfa_onnx.graph.signatures import broken, check_node, operators_of
from pfa_onnx.graph.sizes import Constants, check_size
from pfa_onnx.graph.texts import check_texts
from pfa_onnx.graph.traps import check_traps

DEEPEST = 32  # bodies in bodies; protobuf reads no more of them
FEEDS = 1 << 28  # numbers of one input: a file that declares more of them is never meant
ROOM = 10_000  # nodes that functions may become anyway ...
GROWTH = 100  # ... and for each node that is in the file
CALLS = 2048  # of one function: every one needs new names, which take longer to find each time

_EXPORT = "export the model again"
_UNROLL = "export the model without functions"
_FEEDABLE = "give the model tensors as inputs: what makes them of other things goes before it"


def check_model(model: ModelProto, folder: Path) -> None:
    """Raise ModelError unless the file is a model that can be worked with; folder: where its external data lies."""
    check_texts(model)
    versions = operators_of(model)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError("a sparse constant is nothing that can be cut", at=called(name), fix="store it as a dense one")
    for value in model.graph.input:
        _check_input(value, {tensor.name for tensor in model.graph.initializer})
    _Scope(versions).check(model.graph, [])
    for function in model.functions:
        _check_function(function)
    _check_growth(model)
    check_external(_outside(model), folder)


def _check_input(value: onnx.ValueInfoProto, constants: set[str]) -> None:
    if value.name in constants:
        return
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or value.type.tensor_type.elem_type not in TensorProto.DataType.values()[1:]:
        what = "has no type" if kind in {None, "tensor_type"} else f"is a {kind.removesuffix('_type')}, and no tensor"
        raise ModelError(f"an input {what}", at=called(value.name), fix=_FEEDABLE)
    extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
    if prod(extents) > FEEDS:
        raise ModelError(
            f"an input is declared with {prod(extents):,} numbers, more than can be fed",
            at=called(value.name),
            fix=_EXPORT,
        )


# --- graphs ---


@dataclass(frozen=True)
class _Scope:
    """Checks a graph and the bodies in it. versions: of every domain; inside: a function."""

    versions: Mapping[str, int]
    inside: bool = False

    def check(self, graph: GraphProto, outer: list[set[str]], constants: Constants = ()) -> None:
        """Check one graph. outer: the names that it sees around it; constants: those of them that are constants."""
        if len(outer) > DEEPEST:
            raise ModelError(f"there are more than {DEEPEST} bodies in one another", at=called(graph.name), fix=_EXPORT)
        for tensor in graph.initializer:
            if not tensor.name:
                raise ModelError("a constant has no name", at=called(graph.name), fix=_EXPORT)
            check_tensor(tensor)
        known = self._given(graph)
        constants = [*constants, _constants(graph.initializer, graph.node)]
        _refuse_twice((name for node in graph.node for name in node.output if name), known, "is made")
        self.check_nodes(graph.node, known, outer, constants)
        for value in graph.output:
            if not any(value.name in names for names in (known, *outer)):
                raise ModelError("an output of the graph is made by nothing", at=called(value.name), fix=_EXPORT)

    def check_nodes(
        self, nodes: Sequence[NodeProto], known: set[str], outer: list[set[str]], constants: Constants
    ) -> None:
        """Check nodes that see these names; `known` then has what they make, too."""
        known.update(name for node in nodes for name in node.output if name)
        for node in nodes:
            check_node(node, self.versions.get("" if node.domain == "ai.onnx" else node.domain), inside=self.inside)
            if not node.output:
                raise broken(node, "makes nothing")
            for name in node.input:
                if name and not any(name in names for names in (known, *outer)):
                    raise broken(node, f"reads {called(name)!r}, which nothing makes")
            for tensor in _held(node):
                check_tensor(tensor)
        _refuse_circles(nodes)
        for node in nodes:
            check_size(node, constants)
            check_traps(node, constants)
            for body in _bodies(node):
                self.check(body, [*outer, known], constants)

    def _given(self, graph: GraphProto) -> set[str]:
        """Return the names that a graph begins with; constants may be inputs, too."""
        found: set[str] = set()
        for values, what in ((graph.input, "an input is there"), (graph.initializer, "a constant is there")):
            names: set[str] = set()
            _refuse_twice((value.name for value in values), names, what)
            found |= names
        if "" in found:
            raise ModelError("an input has no name", at=called(graph.name), fix=_EXPORT)
        return found


def _constants(tensors: Iterable[TensorProto], nodes: Iterable[NodeProto]) -> dict[str, TensorProto]:
    """Return the tensors that the file gives a name, in Constant nodes, too."""
    found = {tensor.name: tensor for tensor in tensors}
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            found.update((node.output[0], one.t) for one in node.attribute if one.type == AttributeProto.TENSOR)
    return found


def _refuse_twice(names: Iterable[str], known: set[str], what: str) -> None:
    """Collect names, and raise ModelError for one that was known."""
    for name in names:
        if name in known:
            raise ModelError(f"{what} twice under one name", at=called(name), fix=_EXPORT)
        known.add(name)


def _refuse_circles(nodes: Sequence[NodeProto]) -> None:
    maker = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    waits = [[maker[name] for name in reads(node) if name in maker] for node in nodes]
    left = in_order(waits)[1]
    if left:
        node = nodes[left[0]]
        raise ModelError("the graph has a cycle", at=called(node.name or node.output[0]), fix=_EXPORT)


def reads(node: NodeProto) -> Iterator[str]:
    """Yield every name that a node may read, those in its bodies included, less what these make themselves."""
    yield from node.input
    for body in _bodies(node):
        own = {name for inner in body.node for name in inner.output} | {value.name for value in body.input}
        for name in chain(*map(reads, body.node), (value.name for value in body.output)):
            if name not in own:
                yield name


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _held(node: NodeProto) -> Iterator[TensorProto]:
    """Yield the tensors in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.TENSORS:
            yield from attribute.tensors
        elif attribute.type in {AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS}:
            raise broken(node, "holds a sparse tensor, which is nothing that can be cut")


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield all nodes, those of bodies included."""
    for node in nodes:
        yield node
        for body in _bodies(node):
            yield from _nodes(body.node)


def _outside(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor whose numbers lie in another file."""
    tensors: list[Iterable[TensorProto]] = [model.graph.initializer]
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in _nodes(nodes):
            tensors.append(_held(node))
            tensors += [body.initializer for body in _bodies(node)]
    return (tensor for tensor in chain(*tensors) if tensor.data_location == TensorProto.EXTERNAL)


# --- functions ---

_Key = tuple[str, str, str]


def _check_function(function: FunctionProto) -> None:
    if function.domain in {"", "ai.onnx"}:
        raise ModelError("a function takes the place of a standard operator", at=called(function.name), fix=_EXPORT)
    known: set[str] = set()
    _refuse_twice(function.input, known, "an input of a function is there")
    _refuse_twice((name for node in function.node for name in node.output if name), set(known), "is made")
    versions = operators_of(function)
    _Scope(versions, inside=True).check_nodes(function.node, known, [], [_constants((), function.node)])
    for name in function.output:
        if name not in known:
            raise ModelError("an output of a function is made by nothing", at=called(name), fix=_EXPORT)


def _check_growth(model: ModelProto) -> None:
    """Refuse functions that call themselves, and those that become far more nodes than there are."""
    keys = [(one.domain, one.name, one.overload) for one in model.functions]
    if not keys:
        return
    numbers = {key: k for k, key in enumerate(keys)}
    if len(numbers) < len(keys):
        raise ModelError("a function is there twice", at=called(model.functions[0].name), fix=_EXPORT)
    calls = [[numbers[_key(node)] for node in _nodes(one.node) if _key(node) in numbers] for one in model.functions]
    order, left = in_order(calls)
    if left:
        raise ModelError("a function calls itself", at=called(model.functions[left[0]].name), fix=_UNROLL)
    here = [numbers[_key(node)] for node in _nodes(model.graph.node) if _key(node) in numbers]
    depth: dict[int, int] = {}
    for k in order:
        depth[k] = 1 + max((depth[called_one] for called_one in calls[k]), default=0)
    times = Counter(here)
    for k in reversed(order):  # callers come first
        for called_one in calls[k]:
            times[called_one] += times[k]
    sizes = [sum(1 for _ in _nodes(one.node)) for one in model.functions]
    written = sum(sizes) + sum(1 for _ in _nodes(model.graph.node))
    grown = sum(sizes[k] * times[k] for k in order)
    most = max(order, key=times.__getitem__)
    for what, is_too_much in (
        (f"its functions become {grown:,} nodes, and the file has {written:,}", grown > ROOM + GROWTH * written),
        (f"a function is called {times[most]:,} times", times[most] > CALLS),
        (f"functions call each other {max(depth.values())} deep", max(depth.values()) > DEEPEST * 4),
    ):
        if is_too_much:
            raise ModelError(what, at=called(model.functions[most].name), fix=_UNROLL)


def _key(node: NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload
