"""What follows a layer, what it reads and where layers are added up, on small networks with known tensors."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS, Net, feeds
from onnx import numpy_helper
from support import settle_model

from pfa_onnx.graph.behind import batch_norm_scale, tap_points
from pfa_onnx.graph.norms import filter_norms, operands_of
from pfa_onnx.graph.pools import POSITIONS, positions_of
from pfa_onnx.graph.streams import residual_sums

RNG = np.random.default_rng


def settled(name):
    model = NETWORKS[name](RNG(0))
    return settle_model(model, feeds(model, RNG(1)))


def kind(trace, tensor):
    """The operator that makes a tensor."""
    return next(node.op_type for node in trace.graph.nodes for out in node.outputs if out.name == tensor)


POINTS = [  # network, what the taps of all layers are the outputs of: at bn, at activation
    ("plain", "BatchNormalization BatchNormalization Gemm", "Relu Relu Gemm"),
    ("residual_sum", "BatchNormalization Conv Conv BatchNormalization Gemm", "Relu Conv Conv Relu Gemm"),
    ("bn_as_sub_mul_add", "Add Add Gemm", "Relu Relu Gemm"),
    ("bn_as_mul_add_unsqueezed", "Add Add Gemm", "Relu Relu Gemm"),
    ("bn_after_relu", "Conv Conv Gemm", "Relu Relu Gemm"),
    ("bn_before_conv", "Conv BatchNormalization Conv BatchNormalization Conv Gemm", "Conv Relu Conv Relu Conv Gemm"),
    ("swish_and_gelu_spelled_out", "Conv Conv Gemm", "Mul Mul Gemm"),
    ("prelu", "Conv Conv Gemm", "PRelu PRelu Gemm"),
    ("activations", "Conv " * 10 + "Gemm", "LeakyRelu Elu Selu HardSwish HardSigmoid Softplus Mish Gelu Tanh Erf Gemm"),
    ("clip_inputs", None, None),
    ("matmul_bias", "Add Add Gemm", None),
]


@pytest.mark.parametrize(("name", "bn", "activation"), POINTS, ids=[row[0] for row in POINTS])
def test_taps_lie_behind_what_directly_follows(name, bn, activation):
    trace = settled(name)
    for tap, wanted in (("layer", None), ("bn", bn), ("activation", activation)):
        points = tap_points(trace.graph, trace.layers, tap)
        assert list(points) == [t.layer.output for t in trace.layers]
        if tap == "layer":
            assert all(output == point for output, point in points.items())
        elif wanted is not None:
            assert [kind(trace, point) for point in points.values()] == wanted.split()
        assert all(trace.shapes[point] == t.shape for point, t in zip(points.values(), trace.layers, strict=True))


def test_what_others_read_too_is_not_directly_followed():
    net = Net(RNG(0))
    x = net.conv(net.image(), 3, 8)
    y = net.bn(x, 8)
    trace_of = net.model(net.head(net.op("Add", net.relu(y), x), 8))
    trace = settle_model(trace_of, feeds(trace_of, RNG(1)))
    assert tap_points(trace.graph, trace.layers, "activation")[x] == x
    assert batch_norm_scale(trace.graph, trace.layers[0]) is None


def test_the_scale_of_the_batch_normalization():
    model = NETWORKS["plain"](RNG(0))
    trace = settle_model(model, feeds(model, RNG(1)))
    scales = [batch_norm_scale(trace.graph, traced) for traced in trace.layers]
    gammas = [numpy_helper.to_array(one) for one in model.graph.initializer if one.name.startswith("bn")][::4]
    assert scales[2] is None, "the classifier has none"
    for scale, gamma in zip(scales[:2], gammas, strict=True):
        np.testing.assert_array_equal(scale, gamma)


def test_a_bias_before_the_normalisation_is_passed():
    net = Net(RNG(0))
    x = net.op("MatMul", net.input(["N", 5], "x"), net.const(net.weights(5, 7)))
    x = net.relu(net.bn(net.op("Add", x, net.const(net.vector(7))), 7))
    model = net.model(net.linear(x, 7, 3))
    trace = settle_model(model, feeds(model, RNG(1)))
    assert batch_norm_scale(trace.graph, trace.layers[0]).shape == (7,)


# --- what layers read, and Wanda's score by hand ------------------------------------------------------


def wanda(weight, norms):
    """sum |w| * ||x||, filter by filter: the weight as [filters, inputs, kernel], the norms by input."""
    return (np.abs(weight) * norms[None, :, None]).sum(axis=(1, 2))


def scores_of(model, inputs):
    trace = settle_model(model, feeds(model, RNG(1)))
    traced = trace.layers[0]
    return filter_norms(trace, traced, 1, inputs), trace, traced


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_convolution(groups):
    net = Net(RNG(0))
    weight = net.weights(6, 4 // groups, 3, 3)
    x = net.op("Conv", net.image(4), net.const(weight), pads=[1, 1, 1, 1], group=groups)
    norms = np.array([1.0, 10.0, 100.0, 1000.0])
    found, trace, traced = scores_of(net.model(net.head(net.relu(x), 6)), norms)
    halves = np.split(weight.reshape(6, 4 // groups, 9), groups), np.split(norms, groups)
    np.testing.assert_allclose(found, np.concatenate([wanda(*pair) for pair in zip(*halves, strict=True)]))
    operand = operands_of(trace.graph, [traced], trace.shapes)[traced.layer.output]
    assert (operand.tensor, operand.axis, operand.shape) == ("image", 1, (4, 4, 16, 16))


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_transposed_convolution(groups):
    net = Net(RNG(0))
    weight = net.weights(4, 6 // groups, 3, 3)
    x = net.op("ConvTranspose", net.image(4), net.const(weight), pads=[1, 1, 1, 1], group=groups)
    norms = np.array([1.0, 10.0, 100.0, 1000.0])
    found, *_ = scores_of(net.model(net.head(net.relu(x), 6)), norms)
    parts = np.split(weight.reshape(4, -1, 9), groups), np.split(norms, groups)
    wanted = [wanda(part.swapaxes(0, 1), some) for part, some in zip(*parts, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(wanted))


def test_wanda_of_a_depthwise_convolution():
    net = Net(RNG(0))
    weight = net.weights(4, 1, 3, 3)
    x = net.conv(net.image(), 3, 4)
    x = net.op("Conv", net.relu(x), net.const(weight), pads=[1, 1, 1, 1], group=4)
    model = net.model(net.head(net.relu(x), 4))
    trace = settle_model(model, feeds(model, RNG(1)))
    norms = np.array([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_allclose(
        filter_norms(trace, trace.layers[1], 1, norms), np.abs(weight).sum(axis=(1, 2, 3)) * norms, rtol=1e-6
    )


@pytest.mark.parametrize("kinds", ["MatMul", "Gemm", "GemmB", "GemmA", "left"])
def test_wanda_of_matrices(kinds):
    net = Net(RNG(0))
    weight = net.weights(5, 7)  # inputs, outputs
    x = net.input(["N", 5], "x") if kinds != "left" else net.input(["N", 5, 3], "x")
    if kinds == "MatMul":
        y = net.op("MatMul", x, net.const(weight))
    elif kinds == "left":
        y = net.op("MatMul", net.const(weight.T), x)
        y = net.op("ReduceMean", y, axes=[2], keepdims=0)
    elif kinds == "GemmA":
        y = net.op("Gemm", net.op("Transpose", x, perm=[1, 0]), net.const(weight), transA=1)
    else:
        flipped = kinds == "GemmB"
        y = net.op("Gemm", x, net.const(weight.T if flipped else weight), transB=int(flipped))
    norms = 10.0 ** np.arange(5)
    model = net.model(net.linear(net.relu(y), 7, 3))
    found, trace, traced = scores_of(model, norms)
    np.testing.assert_allclose(found, norms @ np.abs(weight), rtol=1e-6)
    operands = operands_of(trace.graph, [traced], trace.shapes)
    if kinds == "GemmA":
        assert operands == {}, "its channels lie where samples are expected"
    else:
        assert operands[traced.layer.output].shape[operands[traced.layer.output].axis] == 5


# --- residual sums and positions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "widths"),
    [("plain", []), ("residual_add", [8, 8, 16]), ("residual_sum", [8]), ("bn_before_conv", [8, 8]), ("concat", [])],
)
def test_residual_sums_are_found(name, widths):
    trace = settled(name)
    found = residual_sums(trace)
    assert [traced.layer.channels for traced in found] == widths
    for traced in found:
        assert kind(trace, traced.layer.output) in {"Add", "Sum"}
        assert traced.axis == 1
        makers = [t for t in trace.layers if np.isin(t.layer.labels, traced.layer.labels).all()]
        assert len(makers) >= 2
    assert residual_sums(trace, only=()) == ()
    assert [t.layer.output for t in residual_sums(trace, [found[0].layer.output] if found else [])] == [
        t.layer.output for t in found[:1]
    ]


def test_a_sum_of_what_may_not_go_is_none():
    net = Net(RNG(0))
    image = net.image()
    model = net.model(net.op("Add", net.conv(image, 3, 8), net.conv(image, 3, 8), out="y"))
    trace = settle_model(model, feeds(model, RNG(1)))
    assert len(trace.layers) == 2
    assert residual_sums(trace) == ()


@pytest.mark.parametrize("extent", [1, 2, 15, 16, 17, 31, 49, 100, 784, 4096, 12544])
@pytest.mark.parametrize("count", [1, 7, POSITIONS])
def test_positions_are_spread_distinct_and_ascending(extent, count):
    found = positions_of(extent, count)
    assert len(found) == min(extent, count)
    assert sorted(set(found)) == found
    assert found[0] >= 0
    assert found[-1] < extent
    for k, position in enumerate(found):  # one of every stretch
        assert k * extent // len(found) <= position < (k + 1) * extent // len(found)


def test_positions_do_not_line_up_with_the_columns_of_an_image():
    assert len({position % 64 for position in positions_of(64 * 64, POSITIONS)}) > POSITIONS // 2
