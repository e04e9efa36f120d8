"""Between protobuf and onnx_ir, which has no maps: scikit-learn's classifiers give their scores as such.

The type of an output that onnx_ir cannot read waits in the model's own notes, which travel with it and are not
written, and is put back wherever a proto is made. (Hints about values in between, which nobody needs, are dropped.)
And onnx_ir says the shape of every initializer twice: what the file did not say is left out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import onnx
import onnx_ir as ir

from pfa_onnx.graph.preflight import check_model

_NOTE = "pfa_onnx.types"
_SAID = "pfa_onnx.said"  # initializers whose shape the file says twice


def read(file: IO[bytes], folder: Path) -> ir.Model:
    """Read an open file; external data stays in its folder.

    Raises ModelError for what is no model that can be worked with, and whatever a broken file makes onnx raise.
    """
    proto = onnx.load(file, load_external_data=False)
    check_model(proto, folder)
    model = from_proto(proto)
    ir.external_data.set_base_dir(model.graph, folder)
    return model


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Return a model; types that it cannot hold are left out of it, and of the proto."""
    types = {}
    for value in proto.graph.output:
        if not _is_readable(value.type):
            types[value.name] = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.ClearField("type")
    for k in reversed(range(len(proto.graph.value_info))):
        if not _is_readable(proto.graph.value_info[k].type):
            del proto.graph.value_info[k]
    model = ir.from_proto(proto)
    weights = {tensor.name for tensor in proto.graph.initializer}
    model.meta[_NOTE] = types
    model.meta[_SAID] = {value.name for value in proto.graph.value_info if value.name in weights}
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a proto, with the types that its outputs had."""
    proto = ir.to_proto(model)
    _restore(proto, model)
    return proto


def copied(model: ir.Model, directory: Path | None) -> ir.Model:
    """Return a copy. directory: where the model's external data lies."""
    copy = from_proto(to_proto(model))
    if directory is not None:
        ir.external_data.set_base_dir(copy.graph, directory)
    return copy


def save(model: ir.Model, path: Path, external_data: str) -> None:
    """Write a model with its weights in a file beside it."""
    ir.save(model, path, external_data=external_data)
    proto = onnx.load(path, load_external_data=False)
    _restore(proto, model)
    onnx.save(proto, path)


def _restore(proto: onnx.ModelProto, model: ir.Model) -> None:
    types: Mapping[str, Any] = model.meta.get(_NOTE, {})
    for value in proto.graph.output:
        if value.name in types:
            value.type.CopyFrom(types[value.name])
    weights = {tensor.name for tensor in proto.graph.initializer} - model.meta.get(_SAID, set())
    for k in reversed(range(len(proto.graph.value_info))):
        if proto.graph.value_info[k].name in weights:
            del proto.graph.value_info[k]


def _is_readable(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _is_readable(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return _is_readable(kind.optional_type.elem_type)
    return not kind.HasField("map_type")
