"""Identities beside the taps: the same responses, and onnxruntime fuses what it fuses without taps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pfa_onnx.graph.model import load
from pfa_onnx.graph.taps import tapped
from pfa_onnx.options import DataOptions
from pfa_onnx.steps.calibration import Calibration
from pfa_onnx.steps.fusion import PREFIX, keep_fused
from pfa_onnx.steps.measure import find_layers, learn_shapes

X = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)


def network(path: Path, kind: str, width: int = 32, *, twice: bool = False) -> Path:
    """Conv, an activation, Conv, and a residual sum with a Conv on either side."""
    rng = np.random.default_rng(1)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    weights = [weight("w1", width, 3, 3, 3), weight("w2", width, width, 1, 1), weight("w3", width, width, 1, 1)]
    weights.append(weight("w4", width, width, 1, 1))
    weights += [numpy_helper.from_array(np.full((), n, np.float32), name) for name, n in (("low", 0), ("high", 6))]
    weights += [weight(name, width) for name in ("mean", "bias", "scale")]
    weights.append(numpy_helper.from_array(np.ones(width, np.float32), "var"))
    inputs = ["a", "low", "high"] if kind == "Clip" else ["a"]
    attributes = {"LeakyRelu": {"alpha": 0.1}}.get(kind, {})
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1])]
    if kind == "BN+Clip":
        nodes.append(helper.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "var"], ["n"]))
        kind, inputs = "Clip", ["n", "low", "high"]
    nodes += [
        helper.make_node(kind, inputs, ["b"], **attributes),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Conv", ["b", "w3"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "w4"], ["y"]),
    ]
    outputs = ["y"]
    if twice:
        nodes += [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Conv", ["s", "w2"], ["z"])]
        outputs.append("z")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width, 16, 16]) for name in outputs],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def both(path: Path):
    """The tapped copy without and with identities, and how many there are."""
    graph = load(path)
    shapes, _ = learn_shapes(graph, {"x": X})
    layers = find_layers(graph, shapes)
    plain, taps = tapped(graph, layers)
    fused, _ = tapped(graph, layers)
    return plain, fused, list(taps.values()), keep_fused(fused, layers)


def run(proto, names):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {"x": X})


@pytest.mark.parametrize(
    ("kind", "count"),
    [("Clip", 2), ("LeakyRelu", 2), ("HardSigmoid", 2), ("Relu", 1), ("Sigmoid", 1), ("BN+Clip", 2)],
)
def test_identities_change_no_response(tmp_path, kind, count):
    plain, fused, names, inserted = both(network(tmp_path / "m.onnx", kind))
    assert inserted == count, "one for the activation, one for the sum"
    for one, other in zip(run(plain, names), run(fused, names), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_where_they_would_only_cost_there_are_none(tmp_path):
    assert both(network(tmp_path / "m.onnx", "Clip", 24))[3] == 0


def test_what_was_not_fused_without_taps_stays(tmp_path):
    """Two readers: there is nothing to keep."""
    assert both(network(tmp_path / "m.onnx", "Clip", twice=True))[3] == 1


def test_the_runtime_fuses_it(tmp_path, monkeypatch):
    """This rests on onnxruntime's internals: it fails when identities are no longer worth their place."""
    monkeypatch.chdir(tmp_path)
    plain, fused, names, _ = both(network(tmp_path / "m.onnx", "Clip"))
    kinds = []
    for proto in (plain, fused):
        options = ort.SessionOptions()
        options.enable_profiling = True
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(names, {"x": X})
        events = json.loads(Path(session.end_profiling()).read_text())
        kinds.append([e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")])
    assert "Clip" in kinds[0]
    if "ReorderOutput" in kinds[0]:  # a processor whose convolutions are blocked
        assert "Clip" not in kinds[1]
        assert "ReorderInput" not in kinds[1][1:] or kinds[1].count("ReorderInput") < kinds[0].count("ReorderInput")


def test_calibration_uses_them_on_the_cpu(tmp_path, monkeypatch):
    path = network(tmp_path / "m.onnx", "Clip")
    graph = load(path)
    shapes, _ = learn_shapes(graph, {"x": X})
    seen = []
    module = sys.modules[Calibration.__module__]
    monkeypatch.setattr(module, "keep_fused", lambda proto, layers: seen.append(keep_fused(proto, layers)))
    Calibration(graph, find_layers(graph, shapes), DataOptions(providers="cpu"), 2)
    assert seen == [2]
    assert not any(PREFIX in str(node.name) for node in graph.nodes), "the model itself has none"


def test_names_never_meet(tmp_path):
    """Identity number 32 and the weight of identities with 32 channels."""
    _, fused, _, _ = both(network(tmp_path / "m.onnx", "Clip"))
    weights = {tensor.name for tensor in fused.graph.initializer}
    assert f"{PREFIX}/ones/32" in weights
    assert not weights & {f"{PREFIX}/{k}" for k in range(64)}
