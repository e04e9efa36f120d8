"""Step 3: cut, and write what was proven. Nothing is written unless the proof holds, and never half of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph import protos
from pfa_onnx.graph.cost import macs, parameters
from pfa_onnx.graph.cut import cut
from pfa_onnx.graph.edits import Edits
from pfa_onnx.graph.external import unmap_all
from pfa_onnx.graph.model import EMBED_LIMIT, Graph, load, refuse_changed
from pfa_onnx.recipe import Size
from pfa_onnx.replacing import replacing, scratch_folder
from pfa_onnx.steps.decide import Decision

Array = npt.NDArray[Any]


def cut_copy(graph: Graph, edits: Edits) -> Graph:
    """Read the model again and cut the copy; the original graph stays as it is."""
    assert graph.path is not None
    fresh = load(graph.path)
    if (fresh.sha256, fresh.stamps) != (graph.sha256, graph.stamps):
        raise _changed(graph)
    cut(fresh, edits)
    unmap_all(fresh.model)
    return Graph(fresh.model, graph.path, graph.sha256, taken=fresh.taken, stamps=graph.stamps)


def serialized(small: Graph) -> onnx.ModelProto:
    """Return the cut model as it will be written: weights inside the file where they fit."""
    proto = protos.to_proto(small.model)
    if small.directory is not None and _total(small) < EMBED_LIMIT:
        try:
            onnx.load_external_data_for_model(proto, str(small.directory))
        except (OSError, ValueError, onnx.checker.ValidationError):
            raise _changed(small) from None
    return proto


def _total(small: Graph) -> int:
    return sum(v.const_value.nbytes for v in small.model.graph.initializers.values() if v.const_value is not None)


def model_bytes(small: Graph) -> int:
    """Return how many bytes the cut model takes."""
    return _total(small) if _total(small) >= EMBED_LIMIT else serialized(small).ByteSize()


def size_after(small: Graph, decision: Decision, samples: int, written: int | None) -> Size:
    """Return what the cut model costs. samples: those of the traced run; written: its bytes on disk, if it is there."""
    shapes = {**decision.trace.shapes, **decision.edits.shapes}
    kept = {str(v.name) for node in small.nodes for v in node.outputs if not small.is_constant(v)}
    kept |= {spec.name for spec in small.inputs}  # constants are as wide as they now are, wherever they are made
    shapes = {name: shape for name, shape in shapes.items() if name in kept}
    return Size(parameters(small), macs(small, shapes, samples), model_bytes(small) if written is None else written)


def check_target(output: Path, model: Path) -> None:
    """Refuse, before any work is done, an output that cannot or must not be written; raises UsageError."""
    if output.exists() and (output.samefile(model) or not output.is_file()):
        special = "is a folder" if output.is_dir() else "is no plain file"
        what = "is the model itself" if output.is_file() else special
        raise UsageError(f"the output {what}: {output}", at="--output", fix="choose another file")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", at="--output", fix=f"mkdir -p {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"cannot write into {output.parent}", at="--output", fix="choose another folder")


def write(small: Graph, output: Path, *, unchanged: bool = False) -> int:
    """Write the model: at any moment there is the old file or the new one. Returns its bytes on disk.

    unchanged: nothing was cut, so that the file that was read says all of it, unless its weights lie elsewhere.
    Raises UsageError when there is no room for it, or it may not be written, ModelError when the original has changed.
    """
    if unchanged and small.path is not None and not small.stamps:
        content = _read(small)
    elif _total(small) >= EMBED_LIMIT:
        with _blamed(output):
            return _write_external(small, output)
    else:
        content = serialized(small).SerializeToString(deterministic=True)
    refuse_changed(small)
    with _blamed(output), replacing(output) as stream:
        stream.write(content)
    return len(content)


def _read(graph: Graph) -> bytes:
    assert graph.path is not None
    try:
        content = graph.path.read_bytes()
    except OSError:
        raise _changed(graph) from None
    if hashlib.sha256(content).hexdigest() != graph.sha256:
        raise _changed(graph)
    return content


def _changed(graph: Graph) -> ModelError:
    return ModelError("the model changed while it was being analysed", at=str(graph.path), fix="run again")


@contextmanager
def _blamed(output: Path) -> Iterator[None]:
    """Turn what goes wrong with the file into a UsageError."""
    try:
        yield
    except OSError as error:
        fix = "free some space, or choose another folder"
        raise UsageError(f"cannot write the model: {error.strerror or error}", at=str(output), fix=fix) from None


def _write_external(small: Graph, output: Path) -> int:
    """Protobuf cannot hold it: the weights lie beside the model, in a file that is named by what is in it.

    So the data of a model that is there already is never overwritten by other data. The model comes last.
    """
    data = output.with_name(f"{output.name}.{_digest(small)[:16]}.data")
    with scratch_folder(output) as folder:
        temporary = folder / output.name
        protos.save(small.model, temporary, data.name)
        size = 0
        moves = ((folder / data.name, data), (temporary, output))
        for made, _ in moves:
            size += made.stat().st_size
            _flush(made)
        refuse_changed(small)
        for made, target in moves:
            made.replace(target)
    return size


def _digest(small: Graph) -> str:
    digest = hashlib.sha256(str(sorted(small.model.metadata_props.items())).encode())
    for value in small.model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.StringTensor):  # it has no bytes, and stays in the model's file
            digest.update(str(tensor.string_data()).encode())
        elif tensor is not None:
            digest.update(tensor.tobytes())
    unmap_all(small.model)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
