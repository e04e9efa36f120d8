"""Operators that arrange elements anew: what PyTorch makes of them is what onnxruntime makes of them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

torch = pytest.importorskip("torch", minversion="2.4")

from torch_support import Row, each_way, gradient, operator_model, runs_elsewhere, same  # noqa: E402

import pfa_onnx.torch  # noqa: E402
from pfa_onnx.errors import ModelError  # noqa: E402

RNG = np.random.default_rng(0)
MOST, LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def x(*shape, dtype=np.float32):
    return RNG.normal(0, 3, shape).astype(dtype)


def i(*values, dtype=np.int64):
    return np.array(values, dtype)


ARRANGE = [
    Row("Reshape", 13, [x(2, 3, 4), i(0, -1)]),
    Row("Reshape", 5, [x(2, 3, 4), i(4, 0, 2)]),
    Row("Reshape", 14, [x(2, 3, 4), i(-1)]),
    Row("Reshape", 14, [x(0, 3), i(3, 0)], {"allowzero": 1}),
    Row("Reshape", 21, [x(1, 1), np.zeros(0, np.int64)]),
    Row("Reshape", 14, [i(1, 2, 3, 4), i(2, 2)]),
    Row("Flatten", 13, [x(2, 3, 4)]),
    Row("Flatten", 9, [x(2, 3, 4)], {"axis": 0}),
    Row("Flatten", 11, [x(2, 3, 4, 5)], {"axis": -2}),
    Row("Flatten", 13, [x(2, 3)], {"axis": 2}),
    Row("Flatten", 13, [x(0, 3, 4)]),
    Row("Transpose", 13, [x(2, 3, 4)]),
    Row("Transpose", 7, [x(2, 3, 4)], {"perm": [1, 2, 0]}),
    Row("Transpose", 13, [np.float32(3)]),
    Row("Squeeze", 11, [x(1, 3, 1, 2)], {"axes": [0, -2]}),
    Row("Squeeze", 7, [x(1, 3, 1, 2)]),
    Row("Squeeze", 13, [x(1, 3, 1, 2), i(2)]),
    Row("Squeeze", 13, [x(1, 3, 1, 2)]),
    Row("Squeeze", 21, [x(1, 3, 1, 2), i(-2, 0)]),
    Row("Unsqueeze", 11, [x(2, 3)], {"axes": [-1, 0]}),
    Row("Unsqueeze", 7, [x(2, 3)], {"axes": [3, 1]}),
    Row("Unsqueeze", 13, [x(2, 3), i(0, 3)]),
    Row("Unsqueeze", 21, [np.int64(3), i(0)]),
    Row("Expand", 8, [x(3, 1), i(2, 1, 4)]),
    Row("Expand", 13, [x(2, 3, 4), i(1)]),
    Row("Expand", 13, [i(5), i(3, 2)]),
    Row("Tile", 6, [x(2, 3), i(2, 1)]),
    Row("Tile", 13, [x(2, 3, 1), i(1, 2, 4)]),
    Row("SpaceToDepth", 13, [x(2, 3, 4, 6)], {"blocksize": 2}),
    Row("SpaceToDepth", 1, [x(1, 2, 6, 3)], {"blocksize": 3}),
    Row("DepthToSpace", 13, [x(2, 8, 3, 2)], {"blocksize": 2}),
    Row("DepthToSpace", 11, [x(2, 8, 3, 2)], {"blocksize": 2, "mode": "CRD"}),
    Row("DepthToSpace", 1, [x(1, 9, 3, 2)], {"blocksize": 3}),
    Row("Trilu", 14, [x(4, 5)]),
    Row("Trilu", 14, [x(2, 4, 4), np.int64(1)], {"upper": 0}),
    Row("Trilu", 14, [x(4, 4) > 0, np.int64(-2)]),
    Row("ReverseSequence", 10, [x(4, 3, 2), i(1, 4, 2)]),
    Row("ReverseSequence", 10, [x(3, 4, 2), i(4, 3, 1)], {"time_axis": 1, "batch_axis": 0}),
]

JOIN = [
    Row("Concat", 4, [x(2, 3), x(1, 3)], {"axis": 0}),
    Row("Concat", 13, [x(2, 3, 1), x(2, 3, 4), x(2, 3, 2)], {"axis": -1}),
    Row("Concat", 13, [i(1), i(2, 3)], {"axis": 0}),
    Row("Split", 2, [x(6, 4)], {"axis": 0, "split": [1, 3, 2]}, 3),
    Row("Split", 11, [x(2, 6)], {"axis": -1}, 3),
    Row("Split", 13, [x(2, 6), i(5, 1)], {"axis": 1}, 2),
    Row("Split", 13, [x(6, 2)], {}, 2),
    Row("Split", 18, [x(2, 7)], {"axis": 1, "num_outputs": 3}, 3),
    Row("Split", 18, [x(2, 7), i(7)], {"axis": 1}, 1),
    Row("Split", 18, [x(4, 2)], {"num_outputs": 2}, 2),
]

SLICE = [
    Row("Slice", 1, [x(5, 6)], {"starts": [1, -3], "ends": [3, MOST]}),
    Row("Slice", 9, [x(5, 6)], {"starts": [0], "ends": [-1], "axes": [1]}),
    Row("Slice", 10, [x(5, 6), i(1), i(1000), i(-1)]),
    Row("Slice", 13, [x(5, 6), i(1, 0), i(4, 6), i(0, 1), i(2, 3)]),
    Row("Slice", 13, [x(5, 6), i(-1), i(LEAST), i(1), i(-1)]),
    Row("Slice", 13, [x(5, 6), i(4, -2), i(0, -100), i(0, 1), i(-2, -3)]),
    Row("Slice", 13, [x(5, 6), i(100), i(2), i(0), i(-1)]),
    Row("Slice", 13, [x(5, 6), i(3), i(1), i(0)]),
    Row("Slice", 13, [x(5, 6), i(1), i(3), i(0), i(-1)]),
    Row("Slice", 13, [x(5, 6), i(1, 2), i(MOST, MOST), None, i(2, 1)]),
    Row("Slice", 13, [x(5, 6), i(1, dtype=np.int32), i(2**31 - 1, dtype=np.int32)]),
    Row("Slice", 13, [i(*range(9)), i(7), i(2), i(0), i(-2)]),
]

PAD = [
    Row("Pad", 2, [x(2, 3)], {"pads": [1, 0, 0, 2], "value": 1.5}),
    Row("Pad", 10, [x(1, 2, 5, 5)], {"pads": [0, 0, 1, 2, 0, 0, 3, 1], "mode": "reflect"}),
    Row("Pad", 11, [x(2, 3), i(0, 1, 2, 0), np.float32(-2)]),
    Row("Pad", 13, [x(2, 3), i(0, -1, 2, 0)]),
    Row("Pad", 13, [i(1, 2, 3), i(1, 2), np.int64(7)]),
    Row("Pad", 13, [x(2, 3) > 0, i(0, 1, 2, 0)]),
    Row("Pad", 18, [x(2, 3, 4), i(1, 2), np.float32(0.5), i(-1)]),
    Row("Pad", 18, [x(2, 3, 4), i(1, 0, 2, 1), None, i(2, 0)]),
    Row("Pad", 18, [x(2, 3, 4), i(1, 1, 2, 0), None, i(-1, 0)], {"mode": "edge"}),
    *[
        Row("Pad", 19, operands, {"mode": mode})
        for mode in ("reflect", "edge", "wrap")
        for operands in (
            [x(7), i(2, 3)],
            [x(4, 5), i(2, 1, 3, 0)],
            [x(2, 3, 4), i(0, 0, 3, 0, 0, 2)],
            [x(2, 3, 4), i(0, 2, 0, 0, 1, 3)],
            [x(2, 3, 5, 6), i(0, 0, 1, 2, 0, 0, 3, 4)],
            [x(2, 3, 3, 4, 3), i(0, 0, 1, 2, 0, 0, 0, 2, 3, 1)],
            [x(2, 2, 3, 3, 2, 3), i(0, 0, 1, 2, 1, 0, 1, 0, 2, 1, 0, 2)],
            [x(2, 3, 5, 6), i(0, 0, -1, 2, 0, 0, 2, -2)],
            [RNG.integers(-9, 9, (1, 1, 4, 4)), i(0, 0, 1, 2, 0, 0, 3, 1)],
        )
    ],
    Row("Pad", 19, [x(1, 2, 3, 3), i(0, 0, 5, 0, 0, 0, 0, 7)], {"mode": "edge"}),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(ARRANGE + JOIN + SLICE + PAD))
def test_as_onnxruntime(row, fixed):
    same(*row.model(fixed=fixed))


@pytest.mark.parametrize(("row", "fixed"), each_way(ARRANGE + JOIN + SLICE + PAD))
def test_on_another_device(row, fixed):
    runs_elsewhere(row, fixed=fixed)


GRAPHS = {
    "sequence": """
      <ir_version: 8, opset_import: ["" : 17]>
      agraph (float[2, 3] a, float[2, 3] b, int64 at) => (float[2, 3] y, float[2, 9] joined, float[2, 3, 3] stacked, int64 n) {
        s0 = SequenceEmpty <dtype = 1> ()
        s1 = SequenceInsert (s0, a)
        s2 = SequenceInsert (s1, b)
        zero = Constant <value_int: int = 0> ()
        s3 = SequenceInsert (s2, b, zero)
        y = SequenceAt (s3, at)
        joined = ConcatFromSequence <axis = 1> (s3)
        stacked = ConcatFromSequence <axis = -1, new_axis = 1> (s3)
        n = SequenceLength (s2)
      }""",
    "construct": """
      <ir_version: 8, opset_import: ["" : 13]>
      agraph (float[2, 3] a, float[2, 3] b, int64 at) => (float[2, 3] y, float[2, 3] z) {
        s = SequenceConstruct (a, b, a)
        t = SequenceErase (s, at)
        u = SequenceErase (t)
        last = Constant <value_int: int = -1> ()
        y = SequenceAt (u, last)
        z = SequenceAt (s, at)
      }""",
}


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("at", [0, 1, -1])
def test_sequences(text, at):
    same(onnx.parser.parse_model(text), {"a": x(2, 3), "b": x(2, 3), "at": np.array(at)})


SPLITS = [
    Row("SplitToSequence", 11, [x(3, 4)], {"axis": 1}),
    Row("SplitToSequence", 11, [x(3, 4)], {"axis": 1, "keepdims": 0}),
    Row("SplitToSequence", 11, [x(5, 4), np.int64(2)]),
    Row("SplitToSequence", 11, [x(5, 4), i(2, 3)], {"keepdims": 0}),
    Row("SplitToSequence", 11, [x(5, 4), i(5)]),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(SPLITS))
def test_a_sequence_is_an_output(row, fixed):
    same(*row.model(fixed=fixed))


def test_a_list_that_others_read_does_not_grow():
    text = """
      <ir_version: 8, opset_import: ["" : 17]>
      agraph (float[2] a) => (int64 n, int64 m) {
        s0 = SequenceConstruct (a)
        s1 = SequenceInsert (s0, a)
        n = SequenceLength (s0)
        m = SequenceLength (s1)
      }"""
    same(onnx.parser.parse_model(text), {"a": x(2)})


def test_shapes_that_the_graph_computes():
    text = """
      <ir_version: 8, opset_import: ["" : 17]>
      agraph (float[N, C, H, W] x) => (float[N, G, K, H, W] y, float[M, P] z) {
        shape = Shape (x)
        zero = Constant <value_ints: ints = [0]> ()
        two = Constant <value_ints: ints = [2]> ()
        rest = Constant <value_ints: ints = [-1]> ()
        n = Gather (shape, zero)
        end = Shape <start = 2> (x)
        wanted = Concat <axis = 0> (n, two, rest, end)
        y = Reshape (x, wanted)
        flat = Concat <axis = 0> (n, rest)
        z = Reshape (x, flat)
      }"""
    for batch in (1, 3):
        same(onnx.parser.parse_model(text), {"x": x(batch, 4, 2, 3)})


DIFFERENTIABLE = [
    Row("Slice", 13, [x(5, 6), i(4, -2), i(0, -100), i(0, 1), i(-2, -3)]),
    Row("Pad", 13, [x(4, 5), i(2, 1, 3, 0)], {"mode": "reflect"}),
    Row("Pad", 13, [x(1, 2, 4, 5), i(0, 0, 2, 1, 0, 0, 3, 0)], {"mode": "edge"}),
    Row("Expand", 13, [x(3, 1), i(2, 1, 4)]),
    Row("Tile", 13, [x(3, 2), i(2, 2)]),
    Row("Split", 13, [x(2, 6), i(4, 2)], {"axis": 1}, 2),
    Row("ReverseSequence", 10, [x(4, 3, 2), i(1, 4, 2)]),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(DIFFERENTIABLE))
def test_the_derivative_counts_how_often_an_element_is_taken(row, fixed):
    """Where elements are only moved, the derivative of the squares is 2 x, once for each time that x is there."""
    model, feeds = row.model(fixed=fixed)
    found = gradient(model, feeds) / (2 * feeds["x0"])
    ones = feeds | {"x0": np.ones_like(feeds["x0"])}
    np.testing.assert_allclose(found, np.round(found), atol=1e-3)
    assert found.sum() == pytest.approx(float(gradient(model, ones).sum()) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("Tile", 1, [x(2, 3), i(2), i(1)]), "opset 1"),
        (Row("Pad", 19, [x(2, 3), i(1, 0, 0, 0)], {"mode": "mirror"}), "mode mirror"),
    ],
    ids=str,
)
def test_a_form_that_there_is_none_of_is_refused(row, reason, tmp_path):
    model, _ = operator_model(row.op, row.operands, opset=row.opset, **row.attributes)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=reason):
        pfa_onnx.torch.load(path)
