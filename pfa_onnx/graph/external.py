"""External data is input too: where a tensor may lie, checked before anything opens it.

Loaders have followed `../`, absolute paths, symbolic and hard links out of the model's folder (CVE-2022-25882,
CVE-2024-27318, CVE-2026-27489, CVE-2026-34446); onnxruntime still follows some of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir

from pfa_onnx.errors import ModelError


def check_external(model: ir.Model, folder: Path) -> None:
    """Check every external tensor of the model, subgraphs included.

    Raises ModelError when one is missing, too short, or lies outside `folder`.
    """
    for tensor in _external_tensors(model):
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
            raise ModelError(f"external data is missing: {name!r}", fix=f"put {name} beside the model") from None
        found[name] = status.st_size, status.st_mtime_ns
    return found


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


def _check(tensor: ir.ExternalTensor, folder: Path) -> None:
    location = str(tensor.location)
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
        found = file.lstat()
    except OSError:
        raise ModelError(
            f"external data is missing: {location!r}", at=str(tensor.name), fix=f"put {location} beside the model"
        ) from None
    inside = os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep)
    if not inside or not stat.S_ISREG(file.stat().st_mode) or found.st_nlink > 1:
        raise _refuse(tensor, f"external data is a link out of the model's folder or no plain file: {location!r}")
    offset, length = tensor.offset or 0, tensor.nbytes
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ModelError(
            f"external data is too short: {location!r} has {file.stat().st_size:,} bytes, "
            f"this tensor needs bytes {offset:,} to {offset + length:,}",
            at=str(tensor.name),
            fix="copy the data file again",
        )


def _refuse(tensor: ir.ExternalTensor, what: str) -> ModelError:
    return ModelError(what, at=str(tensor.name), fix="save the model with its data file beside it")
