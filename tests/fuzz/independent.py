"""A second opinion on a cut: the masked original, made from the recipe in the file with nothing but onnx and numpy.

It knows convolutions of one group and matrix products only. Where something else reads what was removed, and where
the original's weights are not finite, it has no opinion.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

CLOSE = 1e-3


def agrees(original: Path, cut: Path, report: Path, data: Path) -> tuple[str, bool]:
    """Return what is wrong with a cut model, or nothing, and whether its outputs were compared."""
    proof = json.loads(report.read_text())["proof"]
    if not proof or not proof["passed"]:
        return f"a model was written without a proof: {proof}", False
    if original.read_bytes() == cut.read_bytes():
        return "", False
    try:
        _session(str(cut))
    except Exception as error:  # noqa: BLE001
        return f"onnxruntime refuses what was written: {str(error)[:300]}", False
    try:
        onnx.checker.check_model(original, full_check=True)
    except Exception:  # noqa: BLE001 - what is wrong with the original may be wrong with its cut
        return "", False
    try:
        onnx.checker.check_model(cut, full_check=True)
    except Exception as error:  # noqa: BLE001
        return f"the checker refuses what was written: {str(error)[:300]}", False
    try:
        masked = _masked(onnx.load(original), onnx.load(cut))
        session = None if masked is None else _session(masked.SerializeToString())
    except Exception:  # noqa: BLE001 - of external data without a length, onnx reads all of the file
        return "", False
    wrong = None if session is None else _compared(masked, session, _session(str(cut)), data)
    return wrong or "", wrong is not None


def _session(model: str | bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _masked(model: onnx.ModelProto, cut: onnx.ModelProto) -> onnx.ModelProto | None:
    """Zero every input slice that the recipe removed from a weight."""
    recipe = next((item.value for item in cut.metadata_props if item.key == "pfa_onnx.recipe"), None)
    content = {} if recipe is None else json.loads(recipe)
    if "constants" not in content or "repair" in content or "through_norm" in content:
        return None
    taken, indices = content["constants"]["taken"], content["constants"]["indices"]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = _readers(model)
    for name, one in taken.items():
        if name not in weights or one.get("source", name) != name or len(readers.get(name, ())) != 1:
            return None
        node, place = readers[name][0]
        axis = _axis_read(node, place)
        if axis is None:
            continue
        array = numpy_helper.to_array(weights[name]).copy()
        for axes, which, extents in one["steps"]:
            if axes == [axis] and len(indices[which]) == extents[0]:
                gone = np.setdiff1d(np.arange(array.shape[axis]), indices[which])
                array[tuple(gone if k == axis else slice(None) for k in range(array.ndim))] = 0
            elif axis in axes:
                return None
        weights[name].CopyFrom(numpy_helper.from_array(array, name))
    return model


def _readers(model: onnx.ModelProto) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            found.setdefault(name, []).append((node, place))
    return found


_PASSES = {"BatchNormalization", "PRelu", "Add", "Mul", "Sub", "Div", "Conv", "Gemm", "MatMul"}


def _axis_read(node: onnx.NodeProto, place: int) -> int | None:
    """The axis of a weight along which it is summed, None where nothing has to be zeroed."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv" and place == 1 and ("group" not in attributes or attributes["group"].i == 1):
        return 1
    if node.op_type == "Gemm" and place == 1:
        return 1 if "transB" in attributes and attributes["transB"].i else 0
    return 0 if node.op_type == "MatMul" and place == 1 else None


def _compared(masked: onnx.ModelProto, original, cut, data: Path) -> str | None:
    """Run both, and compare what they give; None where that says nothing."""
    kinds = {node.op_type for node in masked.graph.node}
    simple = {"Relu", "Flatten", "GlobalAveragePool", "MaxPool", "AveragePool", "Identity", "Concat", "Sigmoid", "Clip", "Constant"}
    if not kinds <= _PASSES | simple or _is_grouped(masked):
        return None
    with np.load(data) as archive:
        feeds = {name: _batch(masked, name, archive[name]) for name in archive.files}
    answers = [session.run(None, feeds) for session in (original, cut)]
    for one, other in zip(*answers, strict=True):
        if one.shape != other.shape:
            return f"shapes {one.shape} and {other.shape}"
        if not np.isfinite(one).all():
            return None
        scale = max(float(np.abs(one).max(initial=0.0)), 1e-12)
        error = float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / scale
        if error > (3e-2 if one.dtype == np.float16 else CLOSE):
            return f"an independently masked original differs by {error:.3g} of the output's scale"
    return ""


def _is_grouped(model: onnx.ModelProto) -> bool:
    return any(a.name == "group" and a.i != 1 for node in model.graph.node for a in node.attribute)


def _batch(model: onnx.ModelProto, name: str, array: np.ndarray) -> np.ndarray:
    """As many samples as the model takes."""
    dims = next(value.type.tensor_type.shape.dim for value in model.graph.input if value.name == name)
    return array[np.arange(dims[0].dim_value) % len(array)] if len(dims) and dims[0].dim_value > 0 else array
