"""Handing a model in memory to onnxruntime: as bytes, or through a temporary folder when protobuf cannot hold it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from pfa_onnx.graph.model import EMBED_LIMIT, Graph


@contextmanager
def runnable(proto: onnx.ModelProto, graph: Graph) -> Iterator[bytes | Path]:
    """Give something that a session can be made from while the context lasts; a session keeps what it needs.

    Small models travel as bytes, their external data read from the original's folder.
    """
    if proto.ByteSize() < EMBED_LIMIT:
        yield proto.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        if graph.directory is not None:
            onnx.load_external_data_for_model(proto, str(graph.directory))
        onnx.save(proto, path, save_as_external_data=True, location="model.data")
        yield path
