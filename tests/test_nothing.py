"""A run that removes nothing says so, and why; it never leaves a file that is larger than the original."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import NETWORKS, Net, feeds
from onnx import helper

from pfa_onnx import pipeline
from pfa_onnx.errors import TargetError
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Method


def prune(tmp_path, proto, method, plan=None, samples=40):
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds(proto, np.random.default_rng(0), n=samples))
    options, told = DataOptions(data=str(tmp_path / "data.npz"), providers="cpu"), []
    out = tmp_path / "small.onnx"
    report = pipeline.prune(
        tmp_path / "model.onnx", options, method, plan or PlanOptions(), output=out, hooks=Hooks(warn=told.append)
    )
    return report, [line for line in told if "nothing" in line]


HALF = Method("uniform", ratio=0.5)


def blocked() -> onnx.ModelProto:
    """A convolution in onnxruntime's own layout, which has no rule, before the one layer that gives the output."""
    net = Net(np.random.default_rng(0))
    x = net.op("Flatten", net.image(16, 4))
    proto = net.model(net.linear(x, 256, 5, out="y"))
    node = helper.make_node("ReorderOutput", ["image"], ["other"], "reorder", domain="com.microsoft.nchwc", channels=16)
    proto.graph.node.append(node)
    proto.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["N", 16, 4, 4]))
    proto.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    return proto


def one_layer() -> onnx.ModelProto:
    net = Net(np.random.default_rng(0))
    return net.model(net.linear(net.op("Flatten", net.image(size=4)), 48, 5, out="y"))


def test_nothing_may_go(tmp_path):
    with pytest.raises(TargetError, match="nothing can be removed: all 5 channels have to stay") as caught:
        prune(tmp_path, one_layer(), HALF)
    assert "is the graph output 'y'" in caught.value.what
    assert caught.value.exit_code == 1
    assert caught.value.fix
    assert not (tmp_path / "small.onnx").exists()


def test_what_is_left_alone_is_named(tmp_path):
    with pytest.raises(TargetError, match="nothing can be removed") as caught:
        prune(tmp_path, blocked(), HALF)
    assert "onnxruntime's own layout are left alone (ReorderOutput)" in caught.value.what
    assert "before it is optimised" in caught.value.fix


def test_a_flag_that_helps_is_named(tmp_path):
    with pytest.raises(TargetError, match="3 samples cannot describe") as caught:
        prune(tmp_path, NETWORKS["plain"](np.random.default_rng(0)), HALF, samples=3)
    assert "--allow-few-samples" in caught.value.fix


@pytest.mark.parametrize(
    ("method", "plan", "why"),
    [
        (Method("uniform", ratio=1.0), PlanOptions(), "the method asks to keep every channel"),
        (HALF, PlanOptions(round_to=64), "put them back"),
        (HALF, PlanOptions(min_channels=64), "most of them (10) because: is the graph output 'logits'"),
    ],
)
def test_nothing_went(tmp_path, method, plan, why):
    report, told = prune(tmp_path, NETWORKS["plain"](np.random.default_rng(0)), method, plan)
    assert len(told) == 1
    assert told[0].startswith("nothing was removed")
    assert why in told[0]
    assert report.kept == report.channels
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    assert report.after.bytes == report.model.size.bytes


def test_something_went(tmp_path):
    report, told = prune(tmp_path, NETWORKS["plain"](np.random.default_rng(0)), HALF)
    assert report.kept < report.channels
    assert told == []
