"""Make an array fit a model input, or say why it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pfa_onnx.recipe import InputSpec

Array = npt.NDArray[Any]


def conform(array: Array, spec: InputSpec, *, at: str, rows: Sequence[int] | None = None) -> Array:
    """Return the array [samples, ...] with the input's dtype; raises DataError when shape or values do not fit.

    rows: which samples these are, None for the one that `at` names.
    """
    at = f"{at} -> input {spec.name!r}"
    shape = spec.shape
    if shape and (
        array.ndim != len(shape)
        or any(want not in (None, have) for want, have in zip(shape[1:], array.shape[1:], strict=True))
    ):
        raise DataError(
            f"samples are {_by(array.shape[1:])} but input {spec.name!r} is {_by(shape[1:])}",
            at=at,
            fix="give arrays whose first axis counts the samples and whose other axes are the input's",
        )
    return _refuse_nan(_cast(array, spec, at), at, rows)


def _cast(array: Array, spec: InputSpec, at: str) -> Array:
    """Convert where no value changes beyond rounding; a float for an integer input must be whole."""
    array = np.asarray(array)  # a slice of a mapped file would stay a mapping
    have, want = array.dtype, spec.dtype
    if have == want:
        result = array
    elif want.kind == "O" and have.kind in "US":  # a model of strings
        result = array.astype(object)
    elif have.kind not in "biuf" or want.kind not in "biufV":
        raise DataError(f"values are {have} but input {spec.name!r} is {want}", at=at, fix=f"give {want} values")
    else:
        with np.errstate(all="ignore"):  # judged below
            result = array.astype(want)
        exact = want.kind not in "biu" or bool(np.array_equal(result, array))
        if not exact or (want.kind == "f" and np.isinf(result).sum() > np.isinf(array).sum()):
            raise DataError(
                f"{have} values do not fit input {spec.name!r}, which is {want}",
                at=at,
                fix=f"give {want} values",
            )
    return result


def _refuse_nan(array: Array, at: str, rows: Sequence[int] | None) -> Array:
    if array.dtype.kind == "f" and np.isnan(array).any():
        broken = int(np.isnan(array.reshape(len(array), -1)).any(axis=1).argmax()) if array.ndim else 0
        which = "it" if rows is None else f"sample {rows[broken]}"
        raise DataError(f"{which} has NaN in it", at=at, fix="leave it out, or repair it")
    return array


def _by(shape: Sequence[int | None]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "one number"
