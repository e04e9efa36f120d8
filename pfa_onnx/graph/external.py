"""External data is input too: where a tensor may lie, checked before anything opens it.

Loaders have followed `../`, absolute paths, symbolic and hard links out of the model's folder (CVE-2022-25882,
CVE-2024-27318, CVE-2026-27489, CVE-2026-34446); onnxruntime still follows some of them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.external_data import convert_tensors_from_external

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.claims import byte_size, called

SMALL = 256  # bytes; what writers leave in the model's own file, as a rule
_KEYS = {"location", "offset", "length", "checksum", "basepath"}  # the last one is ignored by all readers


def check_external(tensors: Iterable[TensorProto], folder: Path) -> None:
    """Check where the numbers of these tensors lie, without opening anything.

    Where a file does not say how long they are, it says so afterwards: onnx would read all that follows.
    Raises ModelError when they are missing, not as many as the tensor has, or lie outside `folder`.
    """
    for tensor in tensors:
        _check(tensor, folder)


def external_files(model: ir.Model) -> set[str]:
    """Return the names of the files that hold weights."""
    return {str(tensor.location) for tensor in _external_tensors(model)}


def stamps_of(names: Iterable[str], folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size of every file with weights, and when it was last written; raises ModelError."""
    found = {}
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            raise ModelError(
                f"external data is missing: {name!r}", at=str(folder / name), fix=f"put {name} beside the model"
            ) from None
        found[name] = status.st_size, status.st_mtime_ns
    return found


def hold_small(model: ir.Model) -> None:
    """Take what is no weight out of its file: onnxruntime's shape inference reads no axes or extents there.

    It does not mind where it knows too little of a node anyway; so a model may run, and what is simpler may not.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= SMALL:
                try:
                    [value.const_value] = convert_tensors_from_external([tensor])
                except (OSError, ValueError) as error:
                    what, fix = f"cannot read a constant: {error}", "copy the data file again"
                    raise ModelError(what, at=called(str(value.name)), fix=fix) from None


def unmap_all(model: ir.Model) -> None:
    """Let go of the weights that were read from files; they are mapped again when they are asked for.

    Mapped pages count as the process's memory, and two graphs of one file map it twice.
    """
    for tensor in _external_tensors(model):
        unmap(tensor)


def unmap(tensor: ir.ExternalTensor) -> None:
    """Let go of one weight, unless somebody still holds a part of it."""
    with suppress(BufferError):
        tensor.release()


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    graphs = [model.graph, *model.graph.subgraphs()]
    for graph in graphs:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


def _check(tensor: TensorProto, folder: Path) -> None:
    location, offset, length = _said(tensor)
    parts = PurePosixPath(location).parts + PureWindowsPath(location).parts
    if (
        not location
        or ".." in parts
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).is_absolute()
    ):
        raise _refuse(tensor, f"external data lies outside the model's folder: {location!r}")
    file = folder / location
    try:
        file.lstat()
        found = file.stat()
    except FileNotFoundError:
        raise ModelError(
            f"external data is missing: {location!r}", at=called(tensor.name), fix=f"put {location} beside the model"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a name that no system takes
        raise _refuse(tensor, f"external data cannot be found: {location[:80]!r} ({error})"[:300]) from None
    inside = os.path.realpath(file).startswith(os.path.realpath(folder).removesuffix(os.sep) + os.sep)
    if not inside or not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise _refuse(tensor, f"external data is a link out of the model's folder or no plain file: {location!r}")
    needed = byte_size(tensor.data_type, prod(tensor.dims))
    if length is not None and length != needed:
        raise _refuse(tensor, f"external data is said to be {length:,} bytes, and this tensor has {needed:,}")
    if offset + needed > found.st_size:
        raise ModelError(
            f"external data is too short: {location!r} has {found.st_size:,} bytes, "
            f"this tensor needs bytes {offset:,} to {offset + needed:,}",
            at=called(tensor.name),
            fix="copy the data file again",
        )
    if length is None:
        tensor.external_data.add(key="length", value=str(needed))


def _said(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Return where a tensor says that its numbers lie: file, offset, and length if that is said."""
    said: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in said:
            raise _refuse(tensor, f"external data has two values of {called(entry.key)!r}")
        said[entry.key] = entry.value
    strange = sorted(set(said) - _KEYS)
    if strange:
        raise _refuse(tensor, f"external data has an unknown entry {called(strange[0])!r}")
    numbers: list[int | None] = []
    for key in ("offset", "length"):
        text = said.get(key)
        if text is not None and not re.fullmatch("[0-9]{1,18}", text):
            raise _refuse(tensor, f"external data has the {key} {called(text)!r}")
        numbers.append(None if text is None else int(text))
    return said.get("location", ""), numbers[0] or 0, numbers[1]


def _refuse(tensor: TensorProto, what: str) -> ModelError:
    return ModelError(what, at=called(tensor.name), fix="save the model with its data file beside it")
