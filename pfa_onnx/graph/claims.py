"""What a tensor of a file claims to be, and whether its data is as large as that.

Nothing is read and nothing is made that is larger than the file: the claims are compared first.
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir
from onnx import TensorProto, helper

from pfa_onnx.errors import ModelError
from pfa_onnx.printable import in_one_line

RANK = 32  # more axes than anybody has
MOST = 1 << 40  # numbers, if no axis were empty

_EXPORT = "export the model again"
ELEMENT_TYPES = {int(kind) for kind in ir.DataType} & set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_PACKED = {4: 2, 2: 4}  # bits -> numbers in one element of the field


def check_tensor(tensor: TensorProto) -> None:
    """Raise ModelError unless the data that a tensor holds is what its type and its extents say.

    Of external data only the claim is looked at here.
    """
    kind, dims = tensor.data_type, list(tensor.dims)
    if kind not in ELEMENT_TYPES:
        raise _broken(tensor, f"has the unknown element type {kind}")
    if any(extent < 0 for extent in dims):
        raise _broken(tensor, f"has a negative extent: {_short(dims)}")
    if len(dims) > RANK or prod(max(extent, 1) for extent in dims) > MOST:
        raise _broken(tensor, f"claims to be larger than any tensor: {_short(dims)}")
    if tensor.HasField("segment"):
        raise _broken(tensor, "is a segment of another one")
    fields = [name for name in _FIELDS if len(getattr(tensor, name))] + ["raw_data"] * tensor.HasField("raw_data")
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_outside(tensor, kind, fields)
        return
    if len(fields) > 1:
        raise _broken(tensor, f"has its data twice: in {' and '.join(fields)}")
    _check_size(tensor, kind, prod(dims), fields)


def byte_size(kind: int, numbers: int) -> int:
    """Return how many bytes so many numbers of a type take."""
    return (numbers * _bits(kind) + 7) // 8


def _check_outside(tensor: TensorProto, kind: int, fields: list[str]) -> None:
    if fields:
        raise _broken(tensor, f"has its data twice: in a file and in {' and '.join(fields)}")
    if kind == TensorProto.STRING:
        raise _broken(tensor, "keeps text in a file, where there are numbers only")


def _check_size(tensor: TensorProto, kind: int, numbers: int, fields: list[str]) -> None:
    if fields == ["raw_data"]:
        if kind == TensorProto.STRING:
            raise _broken(tensor, "has text as raw data")
        wanted, found, what = byte_size(kind, numbers), len(tensor.raw_data), "bytes"
    else:
        field = helper.tensor_dtype_to_field(kind)
        if fields and fields != [field]:
            raise _broken(tensor, f"has its data in {fields[0]}, where that of its type does not lie")
        wanted, found, what = _elements(kind, numbers), len(getattr(tensor, field)), "numbers"
    if wanted != found:
        raise _broken(tensor, f"of shape {_short(list(tensor.dims))} needs {wanted:,} {what} and has {found:,}")


def _elements(kind: int, numbers: int) -> int:
    """Return how many elements of its field so many numbers of a type take."""
    if kind in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        return 2 * numbers
    packed = _PACKED.get(_bits(kind), 1) if kind != TensorProto.STRING else 1
    return -(-numbers // packed)


def _bits(kind: int) -> int:
    return int(ir.DataType(kind).bitwidth)


def _short(dims: list[int]) -> str:
    shown = "x".join(map(str, dims[:8])) or "a single number"
    return f"{shown}x... ({len(dims)} axes)" if len(dims) > 8 else shown


def _broken(tensor: TensorProto, what: str) -> ModelError:
    return ModelError(f"a constant {what}", at=called(tensor.name), fix=_EXPORT)


def called(name: str) -> str:
    """Return a name as it can be shown: whole unless it is very long."""
    shown = in_one_line(name)
    if len(shown) > 120:
        return f"{shown[:100]}... ({len(shown)} characters)"
    return shown or "(without a name)"
