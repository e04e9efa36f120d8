"""Reading and writing ONNX files: the only place that knows how a model lies on disk.

A `Graph` is a model that was read, in an order that can be executed, with the values that never
change (initializers, Constant nodes, and everything computed from them alone) told apart.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.errors import ModelError
from pfa_onnx.graph import protos
from pfa_onnx.graph.branches import write_out
from pfa_onnx.graph.evaluate import evaluate, is_pure
from pfa_onnx.graph.external import external_files, hold_small, stamps_of
from pfa_onnx.graph.inlining import inline
from pfa_onnx.graph.order import in_order, those_before
from pfa_onnx.graph.splice import bodies_of
from pfa_onnx.recipe import InputSpec, Taken

Array = npt.NDArray[Any]

# Protobuf cannot hold more than 2 GiB; a little room is left for the graph around the weights.
EMBED_LIMIT = 1_900_000_000


@dataclass
class Graph:
    """A model in memory. Weights stay lazy: an external tensor is mapped, not read.

    rewritten: functions or control flow were written out, so that this is not the file node by node.
    taken: of a cut model, what its constants are in the original, by name; those that are not there are the same.
    size: bytes on disk, external data included. stamps: of the files with external data, as they were when it was read.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    rewritten: bool = False
    nodes: list[ir.Node] = field(default_factory=list)
    taken: dict[str, Taken] = field(default_factory=dict)
    size: int = 0
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = _executable_order(self.model.graph)
        self._folded: dict[str, Array] = {}

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return self.model.opset_imports.get("", 1)

    @property
    def directory(self) -> Path | None:
        """The folder that external data is read from."""
        return self.path.parent if self.path else None

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs a caller must feed: files of IR < 4 list their initializers too, which are left out."""
        return tuple(_spec(value) for value in self.model.graph.inputs if not value.is_initializer())

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return tuple(str(value.name) for value in self.model.graph.outputs)

    @cached_property
    def constants(self) -> dict[str, ir.Value]:
        """Every value that is the same for every input, by name."""
        found = {str(v.name): v for v in self.model.graph.initializers.values()}
        for node in self.nodes:
            if is_pure(node) and all(v is None or v.name in found for v in node.inputs):
                found.update({str(v.name): v for v in node.outputs})
        return found

    def is_constant(self, value: ir.Value | None) -> bool:
        """Tell whether a value is the same for every input."""
        return value is not None and str(value.name) in self.constants

    def array(self, value: ir.Value) -> Array:
        """Return the content of a constant, folding what computes it.

        Raises ModelError when the data behind it cannot be read.
        """
        name = str(value.name)
        if name in self._folded:
            return self._folded[name]
        node = value.producer()
        if node is None:
            return read_tensor(value)
        if node.op_type == "Constant":
            return constant_of(node)
        for maker in those_before(node, self._unfolded):
            outputs = evaluate(maker, [None if v is None else self.array(v) for v in maker.inputs], self.opset)
            for out, result in zip(maker.outputs, outputs, strict=False):
                self._folded[str(out.name)] = result
        if name not in self._folded:
            raise ModelError(f"cannot compute {node.op_type} on constants", at=name, fix="export the model again")
        return self._folded[name]

    def _unfolded(self, node: ir.Node) -> Iterator[ir.Node]:
        """Yield the nodes that have to be folded before a constant one."""
        for value in node.inputs:
            maker = None if value is None or str(value.name) in self._folded else value.producer()
            if maker is not None and maker.op_type != "Constant":
                yield maker

    def forget(self) -> None:
        """Fold constants anew: one of them was changed."""
        self._folded.clear()
        self.__dict__.pop("constants", None)

    def shape_of(self, value: ir.Value, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return a constant's shape without reading its data where that is possible."""
        tensor = value.const_value
        if tensor is not None:
            return static_shape(tensor)
        known = shapes.get(str(value.name))
        return known if known is not None else self.array(value).shape

    def uses(self, value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
        """Yield (node, input index) of every reader in the main graph, in execution order."""
        for node in self.nodes:
            for index, read in enumerate(node.inputs):
                if read is value:
                    yield node, index


def load(path: Path) -> Graph:
    """Read a model.

    Raises ModelError when the file is missing, broken, empty, points outside its folder, or changes meanwhile.
    """
    try:
        with path.open("rb") as file:  # once: another process may put another file there
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            model = _parsed(file, path)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ModelError(
            f"cannot read the model: {error.strerror or error}", at=str(path), fix="check the path"
        ) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(path)
    if len(model.graph) == 0 or not model.graph.outputs:
        raise _not_onnx(path, None)
    stamps = stamps_of(sorted(external_files(model)), path.parent)
    hold_small(model)
    inlined = bool(model.functions)
    if inlined:
        model = inline(model)
    size = before.st_size + sum(size for size, _ in stamps.values())
    return Graph(model, path, digest, rewritten=_written_out(model, path) or inlined, size=size, stamps=stamps)


def refuse_changed(graph: Graph) -> None:
    """Raise ModelError when external data is no longer what it was: weights are read when they are needed."""
    if graph.path is not None and stamps_of(graph.stamps, graph.path.parent) != graph.stamps:
        raise _changed(graph.path)


def _parsed(file: IO[bytes], path: Path) -> ir.Model:
    try:
        return protos.read(file, path.parent)
    except (OSError, MemoryError, ModelError):
        raise
    except Exception as error:  # noqa: BLE001 - a broken file breaks protobuf or onnx-ir in many ways
        raise _not_onnx(path, error) from None


def _changed(path: Path) -> ModelError:
    return ModelError("the model changed while it was being read", at=str(path), fix="run again")


def _written_out(model: ir.Model, path: Path) -> bool:
    try:
        return write_out(model)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # bodies without what they must have
        raise _not_onnx(path, error) from error


def read_tensor(value: ir.Value) -> Array:
    """Return the content of an initializer."""
    tensor = value.const_value
    if tensor is None:
        raise ModelError("an initializer has no data", at=str(value.name), fix="export the model again")
    try:
        return np.asarray(tensor.numpy())
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"cannot read a weight: {error}", at=str(value.name), fix="put the external data file beside the model"
        ) from None


def static_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return a constant's shape."""
    return tuple(int(n) for n in tensor.shape.numpy())


def constant_of(node: ir.Node) -> Array:
    """Return the content of a Constant node, whichever attribute carries it."""
    for attribute in node.attributes.values():
        content = attribute.value
        if attribute.name == "value":
            return np.asarray(content.numpy())
        if attribute.name in {"value_int", "value_ints"}:
            return np.asarray(content, dtype=np.int64)
        if attribute.name in {"value_float", "value_floats"}:
            return np.asarray(content, dtype=np.float32)
        if attribute.name in {"value_string", "value_strings"}:
            return np.asarray(content, dtype=object)
    raise ModelError("a Constant node has no value", at=str(node.name), fix="export the model again")


def _executable_order(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes so that producers come before readers; the file's own order where it is one."""
    nodes = list(graph)
    maker = {out.name: k for k, node in enumerate(nodes) for out in node.outputs}
    given = {value.name for value in graph.inputs} | set(graph.initializers)
    order, left = in_order([[maker[n] for n in _reads(node) if n in maker and n not in given] for node in nodes])
    if left:
        raise ModelError("the graph has a cycle", at=str(nodes[left[0]].name), fix="export the model again")
    return [nodes[k] for k in order]


def _reads(node: ir.Node) -> set[str | None]:
    """Return the names a node reads, those its subgraphs take from outside included."""
    names = {value.name for value in node.inputs if value is not None}
    for value in captured(node):
        names.add(value.name)
    return names


def captured(node: ir.Node) -> list[ir.Value]:
    """Return the outer values that a node's subgraphs read."""
    found: list[ir.Value] = []
    for body in bodies_of(node):
        inner = [*body.all_nodes()]
        local = {id(v) for n in inner for v in n.outputs} | {id(v) for v in body.inputs}
        local |= {id(v) for v in body.initializers.values()}
        reads = [v for n in inner for v in n.inputs if v is not None] + list(body.outputs)
        found += [v for v in reads if id(v) not in local and v.graph is not body]
    return found


def _spec(value: ir.Value) -> InputSpec:
    # some exporters write -1 or 0 for an extent that is open
    dims = tuple(d if isinstance(d, int) and d > 0 else None for d in value.shape) if value.shape is not None else ()
    dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    return InputSpec(str(value.name), dims, dtype)


def _not_onnx(path: Path, error: Exception | None) -> ModelError:
    cause = f" ({str(error).splitlines()[0][:120]})" if error is not None and str(error) else ""
    return ModelError(
        f"this is not a complete ONNX model{cause}", at=str(path), fix="check that the file was fully written or copied"
    )


def files_size(graph: Graph) -> int:
    """Return the bytes that a model takes on disk, its external data included."""
    return graph.size
