"""The proof where rounding is no small thing: quantised activations turn one part in a million into a whole step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import Net, feeds

from pfa_onnx import pipeline
from pfa_onnx.errors import ProofError
from pfa_onnx.graph import cut as cut_module
from pfa_onnx.graph.model import load
from pfa_onnx.graph.quantisers import rounds, unrounded
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.report import as_json, words

STEP = 0.05


def on_the_edge(*, quantised: bool = True, read_between: bool = False) -> onnx.ModelProto:
    """Two equal sums, taken in other orders, are subtracted: a quantiser with an edge at zero makes noise of that."""
    net = Net(np.random.default_rng(0))
    x = net.relu(net.conv(net.image(size=8), 3, 32))
    weight, half = net.weights(16, 32, 1, 1), net.const(np.float32(STEP / 2))
    whole = net.op("Conv", x, net.const(weight))
    parts = [net.op("Slice", x, *(net.const([n]) for n in (16 * k, 16 * k + 16, 1))) for k in (0, 1)]
    parts = [net.op("Conv", part, net.const(weight[:, 16 * k : 16 * k + 16])) for k, part in enumerate(parts)]
    y = net.op("Add", net.op("Sub", net.op("Add", *parts), whole), half)
    if quantised:
        scale, zero = net.const(np.float32(STEP)), net.const(0, dtype=np.int8)
        y = net.op("QuantizeLinear", y, scale, zero)
        y = net.op("MaxPool", y, kernel_shape=[1, 1]) if read_between else y
        y = net.op("DequantizeLinear", y, scale, zero)
    return net.model(net.op("Add", y, whole, out="y"))


def pruned(tmp_path, proto):
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds(proto, np.random.default_rng(0), n=40))
    options = DataOptions(data=str(tmp_path / "data.npz"), providers="cpu")
    method, out = Method("uniform", ratio=0.5), tmp_path / "small.onnx"
    return pipeline.prune(tmp_path / "model.onnx", options, method, PlanOptions(), output=out)


def wrong_channels(monkeypatch):
    gather = cut_module.gather_step

    def shifted(array, axes, at, extents):
        return gather(array, axes, (at + 1) % array.shape[axes[0]], extents) if len(axes) == 1 else None

    monkeypatch.setattr(cut_module, "gather_step", shifted)


def test_the_limit_is_measured_where_activations_are_quantised(tmp_path):
    report = pruned(tmp_path, on_the_edge())
    proof = report.proof
    assert proof.passed
    assert 1e-4 < proof.max_relative_error <= proof.limit < 0.5
    assert proof.without_rounding < 1e-4
    assert "its quantised activations round: limit" in words.proof(report)
    assert '"without_rounding"' in as_json.render(report)


def test_the_limit_is_measured_where_no_quantiser_can_be_taken_out(tmp_path):
    proof = pruned(tmp_path, on_the_edge(read_between=True)).proof
    assert proof.passed
    assert proof.without_rounding is None
    assert proof.max_relative_error <= proof.limit < 0.5


@pytest.mark.parametrize("read_between", [False, True])
def test_wrong_channels_are_refused_all_the_same(tmp_path, monkeypatch, read_between):
    wrong_channels(monkeypatch)
    with pytest.raises(ProofError) as caught:
        pruned(tmp_path, on_the_edge(read_between=read_between))
    assert ("without the quantisers" in caught.value.what) != read_between
    assert not (tmp_path / "small.onnx").exists()


def test_one_wrong_channel_is_less_than_rounding_and_refused(tmp_path, monkeypatch):
    """What the measured limit would let pass, the models without their quantisers do not."""
    monkeypatch.setattr("pfa_onnx.steps.prove._FACTOR", 1e9)
    wrong_channels(monkeypatch)
    with pytest.raises(ProofError, match="without the quantisers"):
        pruned(tmp_path, on_the_edge())


def test_the_limit_is_fixed_elsewhere(tmp_path):
    proof = pruned(tmp_path, on_the_edge(quantised=False)).proof
    assert (proof.passed, proof.limit, proof.without_rounding) == (True, None, None)


def test_the_same_inputs_give_the_same_limit(tmp_path):
    assert pruned(tmp_path, on_the_edge()).proof == pruned(tmp_path, on_the_edge()).proof


def test_quantised_weights_do_not_round(tmp_path):
    """A quantiser of a constant is no part of the data's way."""
    net = Net(np.random.default_rng(0))
    scale, zero = net.const(np.float32(0.01)), net.const(0, dtype=np.int8)
    weight = net.op(
        "DequantizeLinear", net.op("QuantizeLinear", net.const(net.weights(8, 3, 1, 1)), scale, zero), scale, zero
    )
    onnx.save(net.model(net.op("Conv", net.image(), weight, out="y")), tmp_path / "model.onnx")
    graph = load(tmp_path / "model.onnx")
    assert not rounds(graph)
    assert unrounded(graph, graph.model) is not None
