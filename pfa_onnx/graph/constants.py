"""Putting other numbers into a constant, where it lies: an initializer, or a Constant node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.declarations import Array
from pfa_onnx.graph.model import Graph


def replace_constant(graph: Graph, value: ir.Value, array: Array) -> None:
    """Replace the content of an initializer or of a Constant node's output; its element type stays.

    Numbers that are too large for the type become the largest that it has.
    """
    node = value.producer()
    dtype = graph.array(value).dtype
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array).astype(dtype)
    if dtype.kind == "f" and not np.isfinite(stored).all():  # bfloat16 reaches as far as float32
        most = float(np.finfo(dtype).max)
        stored = np.clip(array, -most, most).astype(dtype)
    if node is None:
        value.const_value = tensor_like(stored, str(value.name), value.const_value)
        value.shape = ir.Shape(stored.shape)
    else:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor_like(stored, "", None))
    graph.forget()


def tensor_like(array: Array, name: str, like: ir.TensorProtocol | None) -> ir.Tensor[Any]:
    """Wrap an array; numpy has no name for bfloat16 and its kin, so the original's type is kept."""
    return ir.Tensor(
        array,
        name=name,
        dtype=like.dtype if like is not None else None,
        doc_string=like.doc_string if like is not None else None,
    )
