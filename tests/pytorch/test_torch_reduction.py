"""Sums and extremes along axes, and shapes: as onnxruntime computes them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

torch = pytest.importorskip("torch", minversion="2.4")

from torch_support import Row, each_way, gradient, has_slope, module_of, operator_model, runs_elsewhere, same  # noqa: E402

RNG = np.random.default_rng(2)

REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


def x(*shape):
    return RNG.normal(0, 2, shape).astype(np.float32)


def positive(*shape):
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def i(*values, dtype=np.int64):
    return np.array(values, dtype)


def older(op):
    """The last version of the operator whose axes are an attribute, and the first whose axes are an operand."""
    return (11, 13) if op == "ReduceSum" else (13, 18)


REDUCE = [
    *[
        Row(op, older(op)[0], [positive(2, 3, 4)], attributes)
        for op in REDUCTIONS
        for attributes in ({}, {"axes": [1]}, {"axes": [-1, 0], "keepdims": 0}, {"keepdims": 0})
    ],
    *[
        Row(op, older(op)[1], [positive(2, 3, 4), *axes], attributes)
        for op in REDUCTIONS
        for axes, attributes in (
            ([], {}),
            ([i(1)], {"keepdims": 0}),
            ([i(-1, 0)], {}),
            ([i(2, 1, 0)], {"keepdims": 0}),
            ([np.zeros(0, np.int64)], {"keepdims": 0}),
        )
    ],
    *[
        Row(op, 18, [RNG.integers(-6, 7, (3, 4)).astype(kind), i(1)])
        for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceMean", "ReduceL1", "ReduceSumSquare")
        for kind in (np.int32, np.int64)
        if (op, kind) not in {("ReduceMean", np.int64), ("ReduceL1", np.int64), ("ReduceSumSquare", np.int64)}
    ],
    Row("ReduceL2", 18, [np.int32([[3, 4], [1, 1]]), i(1)]),
    Row("ReduceMax", 20, [x(3, 4) > 0, i(1)]),
    Row("ReduceMin", 20, [x(3, 4) > 0, i(0)], {"keepdims": 0}),
    *[
        Row(op, 18, [positive(2, 3) if op == "ReduceLogSum" else x(2, 3)], {"noop_with_empty_axes": 1})
        for op in REDUCTIONS
    ],
    Row("ReduceSum", 13, [x(2, 3), np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}),
    Row("ReduceSum", 13, [x(2, 3), i(0)], {"noop_with_empty_axes": 1}),
    Row("ReduceSum", 13, [np.float32(3)], {"keepdims": 0}),
]

NORMALISE = [
    *[
        Row(op, opset, [x(2, 3, 4)], attributes)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (7, 11, 13)
        for attributes in ({}, {"axis": 0}, {"axis": 1}, {"axis": 2})
    ],
    Row("Softmax", 12, [x(2, 3, 4)], {"axis": -2}),
    Row("Softmax", 13, [x(2, 3, 4)], {"axis": -2}),
    Row("Hardmax", 13, [np.float32([[1, 1, 0], [0, 2, 2]])]),
    Row("LpNormalization", 1, [x(3, 4)]),
    Row("LpNormalization", 1, [x(3, 4, 2)], {"p": 1, "axis": 1}),
    Row("LpNormalization", 1, [np.float32([[0, 0], [3, 4]])], {"axis": -1}),
    Row("MeanVarianceNormalization", 13, [x(2, 3, 4, 5)]),
    Row("MeanVarianceNormalization", 9, [x(2, 3, 4, 5)], {"axes": [0, 1, 2, 3]}),
]

SHAPES = [
    Row("Shape", 13, [x(2, 3, 4)]),
    Row("Shape", 1, [np.float32(1)]),
    *[
        Row("Shape", 15, [x(2, 3, 4)], attributes)
        for attributes in ({"start": 1}, {"end": 2}, {"start": -2, "end": -1}, {"start": 2, "end": 1}, {"end": 9})
    ],
    Row("Size", 13, [x(2, 3, 4)]),
    Row("Range", 11, [np.int64(2), np.int64(9), np.int64(3)]),
    Row("Range", 11, [np.int32(5), np.int32(-3), np.int32(-2)]),
    Row("Range", 11, [np.int64(5), np.int64(3), np.int64(1)]),
    Row("Range", 11, [np.float32(0.5), np.float32(3), np.float32(0.3)]),
    Row("ConstantOfShape", 9, [i(2, 3)]),
    Row("ConstantOfShape", 9, [i(2, 0)], {"value": onnx.numpy_helper.from_array(i(7))}),
    Row("ConstantOfShape", 20, [np.zeros(0, np.int64)], {"value": onnx.numpy_helper.from_array(np.array([True]))}),
    Row("EyeLike", 9, [x(3, 5)], {"k": 1}),
    Row("EyeLike", 9, [x(4, 3)], {"k": -2, "dtype": onnx.TensorProto.INT64}),
    Row("EyeLike", 9, [i([1, 2], [3, 4], dtype=np.int32)], {"dtype": onnx.TensorProto.FLOAT}),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(REDUCE + NORMALISE + SHAPES))
def test_as_onnxruntime(row, fixed):
    same(*row.model(fixed=fixed))


def test_an_operand_that_says_where_is_a_shape_of_the_graph():
    text = """
      <ir_version: 8, opset_import: ["" : 17]>
      agraph (float[N, 3, H] x) => (float[M] y, float[K, L] z) {
        all = Shape (x)
        n = Shape <start = 0, end = 1> (x)
        half = ConstantOfShape <value = float[1] {0.5}> (all)
        sum = Add (x, half)
        one = Constant <value_int: int = 1> ()
        zero = Constant <value_int: int = 0> ()
        size = Size (sum)
        y = Range (zero, size, one)
        three = Constant <value_ints: ints = [3]> ()
        both = Concat <axis = 0> (three, n)
        z = ConstantOfShape (both)
      }"""
    model = onnx.parser.parse_model(text.replace("float[M] y", "int64[M] y"))
    for batch in (1, 4):
        same(model, {"x": x(batch, 3, 2)})


@pytest.mark.parametrize("op", [op for op in REDUCTIONS if op not in {"ReduceLogSum", "ReduceProd"}])
@pytest.mark.parametrize("axes", [[1], [-1, 0], None])
def test_the_derivative_is_finite_at_nought(op, axes):
    model, feeds = operator_model(op, [np.zeros((2, 3), np.float32)], opset=11, **({"axes": axes} if axes else {}))
    assert np.isfinite(gradient(model, feeds)).all()


@pytest.mark.parametrize("op", ["LpNormalization", "MeanVarianceNormalization"])
def test_what_is_normalised_has_a_derivative_at_nought(op):
    model, feeds = operator_model(op, [np.zeros((1, 2, 2, 3), np.float32)], opset=13)
    assert np.isfinite(gradient(model, feeds)).all()


@pytest.mark.parametrize("op", REDUCTIONS)
def test_the_derivative_is_the_slope(op):
    has_slope(*Row(op, older(op)[1], [positive(3, 4), i(1)]).model(fixed=True))


RISING = [row for row in NORMALISE if "oftmax" in row.op or row.attributes.get("p") == 1]  # others: of length 1


@pytest.mark.parametrize("row", RISING, ids=str)
def test_the_derivative_of_what_is_normalised_is_the_slope(row):
    has_slope(*row.model(fixed=True))


@pytest.mark.parametrize(("row", "fixed"), each_way(REDUCE + NORMALISE))
def test_on_another_device(row, fixed):
    runs_elsewhere(row, fixed=fixed)


def test_a_shape_stays_in_the_memory_of_the_host():
    model, feeds = operator_model("Shape", [x(2, 3)], opset=13)
    module = module_of(model)
    values = {"x0": torch.empty(2, 3, device="meta")}
    module._run(module._steps[0], values)
    assert values["y0"].device.type == "cpu"
