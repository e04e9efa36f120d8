"""What a file alone fixes: values that are the same whatever is fed, found without running anything.

Constants, and what is computed from them and from extents that the weights or the declared inputs fix. A shape
may be known in part: [?, 64, ?, ?] answers a question about its second element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.evaluate import evaluate, is_pure
from pfa_onnx.graph.order import those_before

Array = npt.NDArray[Any]

SMALL = 4096  # elements; anything larger is data, and no trip count, index or condition

# They only move elements of their first input (Concat: of all), so they move what is known of them alike.
_MOVES = {"Gather", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Identity", "Flatten", "Concat"}


@dataclass(frozen=True)
class Partly:
    """A value, and where it is known; elsewhere its content means nothing."""

    array: Array
    known: npt.NDArray[np.bool_]


class Static:
    """Answers for one state of a model: ask for the `next` after a change, which keeps what was found.

    inferring: whether shapes may be inferred, which takes a while; otherwise only constants are known.
    """

    def __init__(self, model: ir.Model, *, inferring: bool = False) -> None:
        self._model = model
        self._whole: dict[ir.Value, Partly] = {}  # known for good: changes to the model do not change what it computes
        self._found: dict[ir.Value, Partly | None] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        self._inferred = not inferring

    def next(self, *, inferring: bool) -> Static:
        """Return the answers for what the model has become."""
        following = Static(self._model, inferring=inferring)
        following._whole = self._whole
        return following

    def value(self, value: ir.Value | None) -> Array | None:
        """Return a value's content where the file fixes all of it."""
        self._infer()
        found = None if value is None else self._partly(value)
        return found.array if found is not None and found.known.all() else None

    def extents(self, value: ir.Value) -> tuple[int | None, ...] | None:
        """Return a tensor's shape, None where an extent is open; None where not even its rank is fixed."""
        self._infer()
        return self._extents(value)

    # --- values ----------------------------------------------------------------------------------------

    def _partly(self, value: ir.Value) -> Partly | None:
        if value not in self._whole and value not in self._found:
            for one in those_before(value, self._unknown_operands):
                self._found[one] = found = self._look(one)
                if found is not None and found.known.all():
                    self._whole[one] = found
        return self._whole.get(value) or self._found[value]

    def _unknown_operands(self, value: ir.Value) -> list[ir.Value]:
        """Return what has to be looked at before a value that is computed."""
        node = value.producer()
        if node is None or node.op_type in {"Constant", "Shape", "Size"} or not is_pure(node) or len(node.outputs) != 1:
            return []
        return [v for v in node.inputs if v is not None and v not in self._whole and v not in self._found]

    def _look(self, value: ir.Value) -> Partly | None:
        node = value.producer()
        if node is None:
            return self._initializer(value)
        if node.op_type == "Constant" and "value" in node.attributes:
            tensor = node.attributes["value"].value
            return _whole(np.asarray(tensor.numpy())) if tensor.size <= SMALL else None
        if node.op_type in {"Shape", "Size"} and node.domain == "":
            return self._shape(node)
        if is_pure(node) and len(node.outputs) == 1:
            found = self._computed(node)
            if found is not None:
                return found
        return self._unknown(value)

    def _initializer(self, value: ir.Value) -> Partly | None:
        # since IR version 4 an initializer that is also an input is a default, which a caller may override
        tensor = value.const_value
        overridable = value.is_graph_input() and (self._model.ir_version or 0) >= 4
        if tensor is None or overridable or not value.is_initializer() or tensor.size > SMALL:
            return None
        return _whole(np.asarray(tensor.numpy()))

    def _shape(self, node: ir.Node) -> Partly | None:
        source = node.inputs[0] if node.inputs else None
        extents = None if source is None else self._extents(source)
        if extents is None:
            return None
        if node.op_type == "Size":
            whole = None not in extents
            return Partly(np.array(np.prod([n or 0 for n in extents], dtype=np.int64)), np.array(whole))
        start, end = (node.attributes[name].value if name in node.attributes else None for name in ("start", "end"))
        extents = extents[start:end]
        known = np.array([n is not None for n in extents], dtype=np.bool_)
        return Partly(np.array([n or 0 for n in extents], dtype=np.int64), known)

    def _computed(self, node: ir.Node) -> Partly | None:
        given = [None if v is None else self._partly(v) for v in node.inputs]
        if any(found is None and v is not None for found, v in zip(given, node.inputs, strict=True)):
            return None
        moved = range(len(given)) if node.op_type == "Concat" else range(1)
        partial = [k for k, found in enumerate(given) if found is not None and not found.known.all()]
        if partial and not (node.op_type in _MOVES and set(partial) <= set(moved)):
            return None
        try:
            result = evaluate(node, [None if g is None else g.array for g in given], self._opset)[0]
            if not partial or result.dtype.kind not in "biuf":
                return None if partial else _whole(result)
            masks = [None if g is None else g.known if k in moved else g.array for k, g in enumerate(given)]
            known = [None if m is None else m.astype(np.int64) for m in masks]
            return Partly(result, evaluate(node, known, self._opset)[0].astype(np.bool_))
        except ModelError:
            return None

    def _unknown(self, value: ir.Value) -> Partly | None:
        """Return a value of which only the shape is known: parts of it may not matter to a reader."""
        extents = self._extents(value)
        if extents is None or None in extents or np.prod([n or 0 for n in extents], dtype=np.int64) > SMALL:
            return None
        return Partly(np.zeros(extents, dtype=np.int64), np.zeros(extents, dtype=np.bool_))  # type: ignore[arg-type]

    @property
    def _opset(self) -> int:
        return self._model.opset_imports.get("", 1)

    # --- shapes ----------------------------------------------------------------------------------------

    def _extents(self, value: ir.Value) -> tuple[int | None, ...] | None:
        if value.const_value is not None:
            return tuple(int(n) for n in value.const_value.shape.numpy())
        return self._shapes.get(str(value.name))

    def _infer(self) -> None:
        """Infer all shapes from the inputs' and the weights': what the file notes on the way may be stale.

        Shapes tell values, and values, as those of a Pad or a Slice, tell further shapes.
        """
        before = -1
        while not self._inferred:
            self._found.clear()
            values = {str(v.name): p.array for v in self._made() if (p := self._partly(v)) and p.known.all()}
            self._inferred = len(values) == before
            if not self._inferred:
                self._shapes = _inferred(self._model, values)
                before = len(values)

    def _made(self) -> list[ir.Value]:
        return [n.outputs[0] for n in self._model.graph if is_pure(n) and n.op_type != "Constant" and n.outputs]


def _inferred(model: ir.Model, values: Mapping[str, Array]) -> dict[str, tuple[int | None, ...]]:
    try:
        graph = onnx.shape_inference.infer_shapes(_skeleton(model, values), data_prop=True).graph
    except Exception:  # noqa: BLE001 - a file that the inference rejects may still run: then nothing is known
        return {}
    return {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in (*graph.value_info, *graph.output, *graph.input)
        if v.type.tensor_type.HasField("shape")
    }


def _whole(array: Array) -> Partly:
    return Partly(array, np.ones(array.shape, dtype=np.bool_))


def _is_large(node: ir.Node) -> bool:
    held = node.attributes.get("value") if node.op_type == "Constant" else None
    return held is not None and held.type == ir.AttributeType.TENSOR and held.value.size > SMALL


def _skeleton(model: ir.Model, values: Mapping[str, Array]) -> onnx.ModelProto:
    """Return the model without its weights, of which only types and shapes are left; known values stand for nodes."""
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.name = "skeleton"
    for value in model.graph.inputs:
        if not value.is_initializer():
            graph.input.append(ir.serde.serialize_value(value))
    for value in model.graph.initializers.values():
        _add_constant(graph, str(value.name), value.const_value)
    for node in model.graph:
        if str(node.outputs[0].name) in values and len(node.outputs) == 1:
            _add_constant(graph, str(node.outputs[0].name), ir.Tensor(values[str(node.outputs[0].name)]))
        elif _is_large(node):
            _add_constant(graph, str(node.outputs[0].name), node.attributes["value"].value)
        else:
            graph.node.append(ir.serde.serialize_node(node))
    for value in model.graph.outputs:
        graph.output.append(onnx.ValueInfoProto(name=str(value.name)))
    return proto


def _add_constant(graph: onnx.GraphProto, name: str, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        return
    if tensor.size <= SMALL:
        small = ir.serde.serialize_tensor(tensor)
        if not isinstance(tensor, ir.ExternalTensor):
            small.name = name
            graph.initializer.append(small)
            return
    shape = [int(n) for n in tensor.shape.numpy()]
    graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), shape))
