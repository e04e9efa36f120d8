"""Handing a model in memory to onnxruntime: as bytes, or through a temporary folder when it is large."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from pfa_onnx.errors import UsageError
from pfa_onnx.graph import protos
from pfa_onnx.graph.external import unmap_all
from pfa_onnx.graph.model import Graph
from pfa_onnx.replacing import scratch_folder
from pfa_onnx.stats.session import Providers, Runner

# While a session starts, a model that is given as bytes is in memory three times: as bytes, parsed, and prepared.
IN_MEMORY = 256_000_000


def load_runner(
    model: onnx.ModelProto | ir.Model, graph: Graph, providers: Providers = "auto", *, early_shapes: bool = False
) -> Runner:
    """Load a model that was made of a graph.

    Nothing of it is held here while the session starts: where the caller holds nothing either, it is in memory once.
    """
    with _source(model, graph) as source:
        del model
        unmap_all(graph.model)
        # onnxruntime would look there for the data of a file, too
        folder = graph.directory if isinstance(source, bytes) else None
        return Runner(source, providers=providers, external_dir=folder, early_shapes=early_shapes, at=graph.path)


@contextmanager
def _source(model: onnx.ModelProto | ir.Model, graph: Graph) -> Iterator[bytes | Path]:
    """Give what a session can be made from while the context lasts: bytes, or a file of a large model.

    The external data of what travels as bytes is read from the original's folder.
    """
    if _carried(model) < IN_MEMORY:
        content = (model if isinstance(model, onnx.ModelProto) else protos.to_proto(model)).SerializeToString()
        del model
        yield content
        return
    written = protos.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    del model
    if graph.directory is not None:
        ir.external_data.set_base_dir(written.graph, graph.directory)
    with ExitStack() as stack:
        try:
            path = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()) / "pfa-onnx")) / "model.onnx"
            protos.save(written, path, "model.data")
        except OSError as error:
            raise UsageError(
                f"cannot write a temporary copy of the model: {error.strerror or error}",
                at=tempfile.tempdir or "TMPDIR",
                fix="free some space there, or set TMPDIR to a folder with more",
            ) from None
        del written
        yield path


def _carried(model: onnx.ModelProto | ir.Model) -> int:
    """Return the bytes that a model holds itself, not in files."""
    if isinstance(model, onnx.ModelProto):
        return int(model.ByteSize())
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and not isinstance(t, ir.ExternalTensor))
