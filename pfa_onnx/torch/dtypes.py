"""Types of elements. Half precision is computed in float32: what is trained needs the digits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from pfa_onnx.graph.declarations import Array
from pfa_onnx.torch.registry import Untrainable

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float32,
    ir.DataType.BFLOAT16: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.BOOL: torch.bool,
}
_WIDER = {"float16": np.float32, "bfloat16": np.float32, "uint16": np.int32, "uint32": np.int64}


def dtype_of(number: int) -> torch.dtype:
    """Return what stands for an ONNX element type; raises Untrainable where nothing does."""
    kind = ir.DataType(number)
    if kind not in _TYPES:
        raise Untrainable(f"elements of type {kind.name}")
    return _TYPES[kind]


def tensor_of(array: Array) -> torch.Tensor:
    """Return a copy of an array as a tensor of its own; raises Untrainable for types that nothing stands for."""
    wider = _WIDER.get(array.dtype.name)
    try:
        return torch.from_numpy(np.array(array, dtype=wider, order="C"))  # a copy, never a view of a mapped file
    except TypeError:
        raise Untrainable(f"elements of type {array.dtype.name}") from None
