"""Layers as matrices: unfolded inputs times the matrix are what onnxruntime makes, and a matrix is written back exactly."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pfa_onnx.graph import protos
from pfa_onnx.graph.model import load
from pfa_onnx.graph.readers import add_bias, has_bias, matrix, own_bias, readers, replace_matrix
from pfa_onnx.stats.unfold import unfold

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def conv(x, w, **attributes):
    return helper.make_node("Conv", ["x", "w"], ["y"], **attributes), x, w


def transposed(x, w, **attributes):
    return helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes), x, w


def gemm(*, first, a, b):
    inputs = ["x", "w"] if first else ["w", "x"]
    x, w = array(5, 7), array(5, 3)
    left, right = (x, w) if first else (w, x)  # [5, .]: summed over axis 0 of both
    node = helper.make_node("Gemm", inputs, ["y"], transA=a, transB=b, alpha=0.5)
    turn = lambda m, flipped: m if flipped else m.T  # noqa: E731
    left, right = turn(left, a), turn(right, not b)
    return (node, left, right) if first else (node, right, left)


CASES = {
    "strides, pads, dilations": conv(array(2, 4, 9, 11), array(6, 4, 3, 2), pads=[1, 2, 0, 1], strides=[2, 1], dilations=[1, 2]),
    "groups, SAME_UPPER": conv(array(2, 4, 9, 12), array(6, 2, 3, 4), group=2, auto_pad="SAME_UPPER", strides=[2, 2]),
    "depthwise, SAME_LOWER": conv(array(2, 4, 10, 12), array(8, 1, 3, 4), group=4, auto_pad="SAME_LOWER", strides=[2, 2]),
    "VALID": conv(array(2, 4, 10, 12), array(8, 4, 3, 4), auto_pad="VALID", strides=[2, 2]),
    "one dimension": conv(array(2, 4, 10), array(8, 4, 3)),
    "three dimensions": conv(array(2, 3, 5, 6, 7), array(4, 3, 2, 3, 2), pads=[1, 0, 1, 0, 1, 0]),
    "transposed": transposed(array(2, 4, 5, 6), array(4, 6, 3, 4), strides=[2, 3], pads=[1, 0, 1, 1], dilations=[2, 1], output_padding=[1, 0]),
    "transposed in groups": transposed(array(2, 4, 5, 6), array(4, 3, 2, 2), strides=[2, 2], group=2),
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), array(2, 7, 5), array(5, 3)),
    "MatMul, weight first": (helper.make_node("MatMul", ["w", "x"], ["y"]), array(2, 5, 7), array(3, 5)),
    **{f"Gemm {first}{a}{b}": gemm(first=first, a=a, b=b) for first in (True, False) for a in (0, 1) for b in (0, 1)},
}  # fmt: skip


def graph_of(tmp_path, nodes, weights, x):
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(content, name) for name, content in weights.items()],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(proto, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return load(path)


def outputs(graph, x):
    session = ort.InferenceSession(protos.to_proto(graph.model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", CASES)
def test_rows_times_the_matrix_are_the_outputs(tmp_path, name):
    node, x, w = CASES[name]
    graph = graph_of(tmp_path, [node], {"w": w}, x)
    (reader,) = readers(graph)
    y = outputs(graph, x)
    for count in (40, 10**6):
        rows, made = unfold(reader.geometry, x, y, count, np.random.default_rng(1))
        assert len(rows) == min(count, y.size // (made.shape[1] * made.shape[2]))
        np.testing.assert_allclose(np.einsum("rgd,gdn->rgn", rows, matrix(graph, reader)), made, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_matrix_and_a_bias_are_written_where_they_belong(tmp_path, name):
    node, x, w = CASES[name]
    graph = graph_of(tmp_path, [node], {"w": w}, x)
    (reader,) = readers(graph)
    y, wanted = outputs(graph, x), 2 * matrix(graph, reader)
    replace_matrix(graph, reader, wanted)
    np.testing.assert_allclose(matrix(graph, reader), wanted, rtol=1e-6)
    np.testing.assert_allclose(outputs(graph, x), 2 * y, rtol=1e-4, atol=1e-5)
    place = has_bias(graph, reader)
    assert place == (node.op_type != "MatMul" and not (node.op_type == "Gemm" and node.input[0] == "w"))
    if place:
        more = np.arange(wanted.shape[0] * wanted.shape[2], dtype=float)
        add_bias(graph, reader, more)
        along = [1, -1] + [1] * (y.ndim - 2)
        np.testing.assert_allclose(outputs(graph, x), 2 * y + more.reshape(along), rtol=1e-4, atol=1e-4)
        (again,) = readers(graph)
        add_bias(graph, again, more)
        np.testing.assert_allclose(outputs(graph, x), 2 * y + 2 * more.reshape(along), rtol=1e-4, atol=1e-4)


def behind(kind, x, width=3):
    """What follows a layer of `width` outputs, and holds its bias."""
    if kind == "Add":
        return [helper.make_node("Add", ["b", "y"], ["z"])], {"b": array(width)}
    if kind == "Add over space":
        return [helper.make_node("Add", ["y", "b"], ["z"])], {"b": array(width, 1, 1)}
    names = ["scale", "bias", "mean", "var"]
    weights = dict.fromkeys(names) | {name: np.abs(array(width)) + 0.5 for name in names}
    return [helper.make_node("BatchNormalization", ["y", *names], ["z"])], weights


@pytest.mark.parametrize("kind", ["Add", "Add over space", "BatchNormalization"])
def test_the_bias_may_lie_behind_the_layer(tmp_path, kind):
    if kind == "Add":
        x, w, first = array(2, 7, 5), array(5, 3), helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        x, w, first = array(2, 5, 6, 6), array(3, 5, 3, 3), helper.make_node("Conv", ["x", "w"], ["y"])
    nodes, weights = behind(kind, x)
    graph = graph_of(tmp_path, [first, *nodes], {"w": w, **weights}, x)
    (reader,) = readers(graph)
    before, more = outputs(graph, x), np.array([1.0, -2.0, 3.0])
    add_bias(graph, reader, more)
    moved = outputs(graph, x) - before
    if kind == "BatchNormalization":
        more = more * weights["scale"] / np.sqrt(weights["var"] + 1e-5)
    along = [1, -1, 1, 1] if x.ndim == 4 else [1, 1, -1]
    np.testing.assert_allclose(moved, np.broadcast_to(more.reshape(along), moved.shape), rtol=1e-4, atol=1e-5)
    assert len(list(reader.node.inputs)) == 2, "no new bias"


def test_weights_behind_a_transpose_and_a_cast(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["c"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    x = array(4, 5)
    graph = graph_of(tmp_path, nodes, {"w": array(3, 5).astype(np.float16)}, x)
    (reader,) = readers(graph)
    y = outputs(graph, x)
    replace_matrix(graph, reader, 2 * matrix(graph, reader))
    np.testing.assert_allclose(outputs(graph, x), 2 * y, rtol=1e-3)
    assert graph.model.graph.initializers["w"].const_value.dtype.name == "FLOAT16"


def test_shared_and_computed_weights_are_left_alone(tmp_path):
    x = array(5, 5)
    shared = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    assert list(readers(graph_of(tmp_path, shared, {"w": array(5, 5)}, x))) == []
    computed = [helper.make_node("Relu", ["w"], ["r"]), helper.make_node("MatMul", ["x", "r"], ["y"])]
    assert list(readers(graph_of(tmp_path, computed, {"w": array(5, 5)}, x))) == []


def test_a_bias_that_others_read_is_replaced_by_one_of_its_own(tmp_path):
    x = array(2, 3, 5, 5)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "v", "b"], ["y"], name="two"),
    ]
    graph = graph_of(tmp_path, nodes, {"w": array(3, 3, 1, 1), "v": array(3, 3, 1, 1), "b": array(3)}, x)
    _, second = readers(graph)
    before, more = outputs(graph, x), np.array([1.0, -2.0, 3.0])
    add_bias(graph, second, more)
    np.testing.assert_allclose(outputs(graph, x) - before, np.broadcast_to(more[:, None, None], before.shape), atol=1e-5)


def test_files_of_old_list_a_new_bias_among_their_inputs(tmp_path):
    x = array(2, 3, 5, 5)
    graph = graph_of(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": array(4, 3, 1, 1)}, x)
    graph.model.ir_version = 3
    (reader,) = readers(graph)
    add_bias(graph, reader, np.ones(4))
    assert [value.name for value in graph.model.graph.inputs] == ["x", reader.node.inputs[2].name]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()])
def test_a_bias_of_gemm_is_scaled_and_broadcast(tmp_path, shape):
    x, bias = array(5, 7), array(*shape)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=0.5)
    graph = graph_of(tmp_path, [node], {"w": array(7, 3), "b": np.asarray(bias, np.float32)}, x)
    (reader,) = readers(graph)
    np.testing.assert_allclose(own_bias(graph, reader), np.broadcast_to(0.5 * bias, (1, 3)), rtol=1e-6)
    before, more = outputs(graph, x), np.array([1.0, -2.0, 3.0])
    add_bias(graph, reader, more)
    np.testing.assert_allclose(outputs(graph, x) - before, np.broadcast_to(more, before.shape), atol=1e-5)


@pytest.mark.parametrize("bias", ["a number for each row", "computed"])
def test_what_adds_other_numbers_at_other_positions_is_left_alone(tmp_path, bias):
    x, nodes, weights = array(3, 3), [], {"w": array(3, 3)}
    if bias == "computed":
        nodes.append(helper.make_node("Relu", ["x"], ["b"]))
    else:
        weights["b"] = array(3, 1)
    nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["y"]))
    assert list(readers(graph_of(tmp_path, nodes, weights, x))) == []


def test_one_output_has_a_bias_too(tmp_path):
    x = array(2, 3, 5, 5)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    graph = graph_of(tmp_path, [node], {"w": array(1, 3, 1, 1), "b": array(1)}, x)
    (reader,) = readers(graph)
    before = outputs(graph, x)
    add_bias(graph, reader, np.array([2.0]))
    np.testing.assert_allclose(outputs(graph, x), before + 2, atol=1e-5)
    assert reader.node.inputs[2].name == "b"


def test_a_normalisation_that_trains_takes_no_bias(tmp_path):
    nodes, weights = behind("BatchNormalization", None)
    nodes[0].attribute.append(helper.make_attribute("training_mode", 1))
    nodes[0].output.extend(["m", "v"])
    x, conv = array(2, 5, 6, 6), helper.make_node("Conv", ["x", "w"], ["y"])
    graph = graph_of(tmp_path, [conv, *nodes], {"w": array(3, 5, 3, 3), **weights}, x)
    (reader,) = readers(graph)
    add_bias(graph, reader, np.ones(3))
    assert len(list(reader.node.inputs)) == 3


@pytest.mark.parametrize("cast", [False, True])
def test_what_is_written_does_not_overflow(tmp_path, cast):
    x = array(4, 5).astype(np.float32 if cast else np.float16)
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT)] if cast else []
    nodes.append(helper.make_node("MatMul", ["x", "c" if cast else "w"], ["y"]))
    graph = graph_of(tmp_path, nodes, {"w": array(5, 3).astype(np.float16)}, x)
    (reader,) = readers(graph)
    replace_matrix(graph, reader, 1e9 * matrix(graph, reader))
    assert np.isfinite(matrix(graph, reader)).all()


def test_weights_that_are_stored_as_integers_are_left_alone(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "c"], ["y"]),
    ]
    assert list(readers(graph_of(tmp_path, nodes, {"w": np.ones((5, 3), np.int8)}, array(4, 5)))) == []


def test_levels_count_the_readers_before(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("MatMul", ["p", "b"], ["q"]),
        helper.make_node("MatMul", ["x", "c"], ["r"]),
        helper.make_node("Add", ["q", "r"], ["s"]),
        helper.make_node("MatMul", ["s", "d"], ["y"]),
    ]
    graph = graph_of(tmp_path, nodes, {name: array(5, 5) for name in "abcd"}, array(5, 5))
    assert [reader.level for reader in readers(graph)] == [0, 1, 0, 2]
