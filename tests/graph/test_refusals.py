"""Operators that stay as they are say what the user can do about it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from networks import NETWORKS, feeds
from support import reasons, saved, settle_model

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.model import load
from pfa_onnx.graph.ops import RULES
from pfa_onnx.graph.ops.refusals import BLOCKED, CHOSEN, FUSED, NO_RULE, QUANTISED, REFUSALS, refusal
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.steps.measure import measure


def test_an_operator_has_a_rule_or_a_refusal_but_not_both():
    assert not set(RULES) & set(REFUSALS)


@pytest.mark.parametrize(
    ("domain", "op", "why"),
    [
        ("", "QLinearConv", QUANTISED),
        ("ai.onnx", "MatMulInteger", QUANTISED),
        ("com.microsoft", "QLinearAdd", QUANTISED),
        ("com.microsoft", "MatMulNBits", QUANTISED),
        ("com.microsoft", "GroupQueryAttention", FUSED),
        ("com.microsoft.nchwc", "Conv", BLOCKED),
        ("com.microsoft.nchwc", "ReorderOutput", BLOCKED),
        ("", "NonZero", CHOSEN),
        ("", "Det", NO_RULE),
        ("com.microsoft", "Inverse", NO_RULE),
        ("org.example", "QLinearConv", NO_RULE),
    ],
)
def test_refusal(domain, op, why):
    assert refusal(ir.node(op, [], domain=domain)) == why


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("conv_integer", "is made by ConvInteger, a quantised operator: prune the float model, then quantise it"),
        ("scatter_channels", "is read by ScatterElements along its channels"),
    ],
)
def test_reason_says_what_to_do(name, why):
    model = NETWORKS[name](np.random.default_rng(0))
    trace = settle_model(model, feeds(model, np.random.default_rng(0), n=2))
    told = {reason.reason for reasons in trace.frozen.values() for reason in reasons}
    assert why in told | reasons(trace)


def calibrated(path, warn):
    inputs = feeds(NETWORKS["plain"](np.random.default_rng(0)), np.random.default_rng(0), n=4)
    return measure(load(path), DataOptions(data=inputs), Hooks(warn=warn))


def test_model_without_layers_is_an_error_that_says_why():
    with pytest.raises(ModelError) as caught:
        calibrated(saved(NETWORKS["all_quantised"](np.random.default_rng(0))), print)
    assert caught.value.what == "there is no layer to prune: all it computes with are quantised operators (QLinearConv)"
    assert caught.value.fix == "prune the float model, then quantise it"


def test_model_without_anything_is_an_error_too(tmp_path):
    net = NETWORKS["all_quantised"](np.random.default_rng(0))
    del net.graph.node[1:3]
    net.graph.node[-1].input[0] = "image"
    with pytest.raises(ModelError, match="no layer to prune: it has no Conv, Gemm or MatMul"):
        calibrated(saved(net), print)


def test_model_optimised_for_a_device_is_warned_of(tmp_path):
    """onnxruntime writes convolutions in a layout of its own on some processors, and as they are on others."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    source = str(saved(NETWORKS["plain"](np.random.default_rng(0))))
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    path, told = tmp_path / "optimised.onnx", []
    blocked = any(node.domain == "com.microsoft.nchwc" for node in load(path).nodes)
    calibrated(path, told.append)
    assert any("onnxruntime's own layout" in line and "prune the model before" in line for line in told) == blocked
