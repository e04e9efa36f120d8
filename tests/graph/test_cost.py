"""Parameters and multiply-accumulates, worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import NETWORKS, Net, feeds
from support import cut_model, random_keeps, saved, settle_model, shapes_of

from pfa_onnx.graph import cost
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.graph.planned import Planned


def measured(model: onnx.ModelProto, n: int = 1) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one sample, learned from a run on n."""
    path = saved(model)
    shapes = shapes_of(path, feeds(model, np.random.default_rng(0), n=n))
    graph = load(path)
    return cost.parameters(graph), cost.macs(graph, shapes, n)


def net_of(build) -> onnx.ModelProto:
    net = Net(np.random.default_rng(0))
    return net.model(build(net))


def fused(net: Net, kind: str, *inputs: str, **attributes: object) -> str:
    net.domains["com.microsoft"] = 1
    return net.op(kind, *inputs, domain="com.microsoft", **attributes)


CONVOLUTIONS = {
    "dense": (lambda n: n.conv(n.image(4, 6), 4, 5, 3), 5 * 4 * 9 + 5, 6 * 6 * 5 * 4 * 9),
    "no bias": (lambda n: n.conv(n.image(4, 6), 4, 5, 3, bias=False), 5 * 4 * 9, 6 * 6 * 5 * 4 * 9),
    "strided": (lambda n: n.conv(n.image(4, 6), 4, 5, 3, strides=[2, 2]), 5 * 4 * 9 + 5, 3 * 3 * 5 * 4 * 9),
    "grouped": (lambda n: n.conv(n.image(4, 6), 4, 6, 3, group=2), 6 * 2 * 9 + 6, 6 * 6 * 6 * 2 * 9),
    "depthwise": (lambda n: n.conv(n.image(4, 6), 4, 4, 3, group=4), 4 * 9 + 4, 6 * 6 * 4 * 9),
    "one dimension": (lambda n: n.conv(n.input(["N", 4, 10]), 4, 5, 3, dims=1), 5 * 4 * 3 + 5, 10 * 5 * 4 * 3),
    "transposed": (lambda n: n.op("ConvTranspose", n.image(4, 6), n.const(n.weights(4, 5, 2, 2)), strides=[2, 2]), 4 * 5 * 4, 6 * 6 * 4 * 5 * 4),
    "transposed, grouped": (lambda n: n.op("ConvTranspose", n.image(4, 6), n.const(n.weights(4, 3, 2, 2)), group=2), 4 * 3 * 4, 6 * 6 * 4 * 3 * 4),
    "Gemm": (lambda n: n.linear(n.input(["N", 7]), 7, 5), 7 * 5 + 5, 7 * 5),
    "Gemm, transA": (lambda n: n.op("Gemm", n.op("Transpose", n.input(["N", 7])), n.const(n.weights(7, 5)), transA=1), 35, 35),
    "MatMul": (lambda n: n.op("MatMul", n.input(["N", 3, 7]), n.const(n.weights(7, 5))), 35, 3 * 7 * 5),
    "two activations": (lambda n: n.op("MatMul", n.input(["N", 3, 7]), n.op("Transpose", "image", perm=[0, 2, 1])), 0, 3 * 7 * 3),
    "fused convolution": (lambda n: fused(n, "FusedConv", n.image(4, 6), n.const(n.weights(5, 4, 3, 3))), 5 * 4 * 9, 4 * 4 * 5 * 4 * 9),
    "fused product, turned": (lambda n: fused(n, "FusedMatMul", n.input(["N", 7, 3]), n.const(n.weights(5, 7)), transA=1, transB=1), 35, 3 * 7 * 5),
    "activations and norms cost nothing": (lambda n: n.relu(n.bn(n.image(4, 6), 4)), 8, 0),
    "a number is no parameter": (lambda n: n.op("Mul", n.image(4, 6), n.const(2.0)), 0, 0),
    "indices are no parameters": (lambda n: n.op("Gather", n.image(4, 6), n.const([0, 2]), axis=1), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_cost(name):
    build, parameters, macs = CONVOLUTIONS[name]
    assert measured(net_of(build)) == (parameters, macs)


@pytest.mark.parametrize("name", ["dense", "grouped", "transposed", "Gemm", "MatMul", "two activations"])
def test_cost_of_one_sample_does_not_depend_on_the_batch(name):
    model = net_of(CONVOLUTIONS[name][0])
    assert measured(model, n=4) == measured(model, n=1)


def test_running_statistics_are_no_parameters():
    model = net_of(lambda n: n.bn(n.conv(n.image(3, 4), 3, 8, bias=False), 8))
    assert measured(model)[0] == 8 * 3 * 9 + 2 * 8


def test_running_statistics_behind_identities_are_no_parameters():
    net = Net(np.random.default_rng(0))
    params = [net.op("Identity", net.const(net.vector(8, 0.5, 1.5))) for _ in range(4)]
    model = net.model(net.op("BatchNormalization", net.conv(net.image(3, 4), 3, 8, bias=False), *params))
    assert measured(model)[0] == 8 * 3 * 9 + 2 * 8


def test_running_statistics_in_constant_nodes_are_no_parameters():
    assert (
        measured(NETWORKS["constant_nodes"](np.random.default_rng(0)))[0]
        == measured(NETWORKS["plain"](np.random.default_rng(0)))[0]
    )


def test_attention_costs_its_two_products():
    """6 queries, 4 keys; 4 heads of 5 channels, values of 3."""
    model = NETWORKS["attention_operator_heads_apart"](np.random.default_rng(0))
    projections = 6 * 7 * 20 + 4 * 7 * 10 + 4 * 7 * 6 + 6 * 12 * 5
    assert measured(model)[1] == projections + 6 * 4 * 4 * (5 + 3)


def test_shared_weight_counts_once_but_is_computed_with_twice():
    model = NETWORKS["shared_conv_weight"](np.random.default_rng(0))
    conv, linear = 8 * 3 * 9 + 8, 12 * 10 + 10
    assert measured(model)[0] == conv + (8 * 8 * 9 + 8) + (12 * 8 * 9 + 12) + linear
    assert measured(model)[1] == 256 * (8 * 3 * 9 + 2 * 8 * 8 * 9 + 12 * 8 * 9) + 120


@pytest.mark.parametrize("name", ["plain", "residual_add", "grouped_conv", "depthwise_multiplier", "flatten_gemm_nchw", "concat", "squeeze_excite_pool",
                                  "shared_conv_weight", "conv_transpose", "attention", "nhwc", "channel_shuffle", "mixer", "attention_operator", "attention_operator_heads_apart",
                                  "transformer_block_fused", "deformable"])  # fmt: skip
def test_cost_in_closed_form_is_the_cost_of_the_cut_model(name):
    model = NETWORKS[name](np.random.default_rng(0))
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs)
    planned = Planned(trace, samples=2)
    for keep in random_keeps(trace, seeds=[0]):
        after = cut_model(trace, keep)
        graph = Graph(ir.from_proto(after), None, "")
        assert planned.parameters(keep) == cost.parameters(graph)
        assert planned.macs(keep) == cost.macs(graph, shapes_of(saved(after), inputs), 2)
