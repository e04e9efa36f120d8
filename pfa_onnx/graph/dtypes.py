"""Which element types tensors have, as far as the file says: what is stored as float16 may well be computed in float32.

Types in between are hints that exporters may leave out, so that they are followed from node to node: a Cast says what
it gives, and nearly everything else gives the floating-point type that it reads first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.splice import bodies_of

_FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}
_CASTS = {"Cast", "CastLike"}
_SIZES = {"Shape", "Size"}
_SAID = {"to", "dtype", "output_dtype"}  # attributes that say what a node gives
_HELD = {"value", "value_float", "value_floats"}  # ... and what it gives itself


def tensor_types(graph: Graph) -> dict[str, ir.DataType]:
    """Return the types of tensors by name; those that nothing says anything about are left out."""
    values = [*graph.model.graph.inputs, *graph.model.graph.initializers.values()]
    found = {str(value.name): value.dtype for value in values if value.dtype is not None}
    for node in graph.nodes:
        made = _made(node, found)
        for value in node.outputs:
            dtype = value.dtype or made
            if dtype is not None:
                found[str(value.name)] = dtype
    return found


def computed_in(graph: Graph) -> set[ir.DataType]:
    """Return the floating-point types that a model computes in; casts, and what is computed from constants, aside."""
    types = tensor_types(graph)
    return {
        dtype
        for node in graph.nodes
        if node.op_type not in _CASTS | _SIZES and not graph.is_constant(node.outputs[0] if node.outputs else None)
        for dtype in (*_floats(node.inputs, types), *_inside(node))
    }


def _made(node: ir.Node, types: Mapping[str, ir.DataType]) -> ir.DataType | None:
    for attribute in node.attributes.values():
        if attribute.name in _SAID and attribute.type == ir.AttributeType.INT and attribute.value:
            return ir.DataType(attribute.value)
        if attribute.name in _HELD:
            dtype = getattr(attribute.value, "dtype", ir.DataType.FLOAT)
            return dtype if isinstance(dtype, ir.DataType) else None
    read = node.inputs[1:] if node.op_type == "CastLike" else node.inputs
    return next(_floats(read, types), None)


def _floats(values: Iterable[ir.Value | None], types: Mapping[str, ir.DataType]) -> Iterator[ir.DataType]:
    for value in values:
        dtype = None if value is None else types.get(str(value.name))
        if dtype in _FLOATS:
            assert dtype is not None
            yield dtype


def _inside(node: ir.Node) -> Iterator[ir.DataType]:
    """Yield what the bodies of a node say about their own tensors."""
    for body in bodies_of(node):
        for inner in body.all_nodes():
            made = _made(inner, {})
            if made in _FLOATS:
                assert made is not None
                yield made
