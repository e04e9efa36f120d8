"""Operators that take and put elements by index, sort them, and read regions: as onnxruntime does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.4")

from torch_support import Row, each_way, has_slope, module_of, operator_model, runs_elsewhere, same  # noqa: E402

RNG = np.random.default_rng(1)


def x(*shape, dtype=np.float32):
    return RNG.normal(0, 3, shape).astype(dtype)


def i(*values, dtype=np.int64):
    return np.array(values, dtype)


def few(*shape):
    """Whole numbers with many ties."""
    return RNG.integers(-2, 3, shape).astype(np.float32)


TAKE = [
    Row("Gather", 13, [x(5, 3), i(0, 4, 4, 1)]),
    Row("Gather", 11, [x(5, 3), i(-1, 0, -5)]),
    Row("Gather", 1, [x(5, 3), i(2, 0, dtype=np.int32)], {"axis": 1}),
    Row("Gather", 13, [x(5, 3, 2), np.int64(-2)], {"axis": 1}),
    Row("Gather", 13, [x(5, 3, 2), np.int64(1)], {"axis": -1}),
    Row("Gather", 13, [x(5, 3, 2), i([0, 1, 2], [2, -1, 0])], {"axis": 1}),
    Row("Gather", 13, [x(5, 3, 2), np.zeros((0, 2), np.int64)], {"axis": -2}),
    Row("Gather", 13, [i(3, 4, 5), np.int64(-1)]),
    Row("GatherElements", 11, [x(3, 4), i([0, 2, 1, 1], [-1, 0, -3, 2])]),
    Row("GatherElements", 13, [x(3, 4), i([0, 3], [-1, 2], [-4, 0], dtype=np.int32)], {"axis": -1}),
    Row("GatherND", 11, [x(3, 4, 2), i([0, 1], [-1, -2])]),
    Row("GatherND", 12, [x(3, 4, 2), i([[0]], [[2]])]),
    Row("GatherND", 13, [x(3, 4, 2), i([1], [-1], [3])], {"batch_dims": 1}),
    Row("GatherND", 13, [x(2, 3, 4, 2), i([[[1], [-1]]] * 3, [[[0], [2]]] * 3)], {"batch_dims": 2}),
    Row("GatherND", 13, [x(2, 3, 4), i([[1, 0], [-1, 3]], [[0, -1], [2, 2]])], {"batch_dims": 1}),
    Row("Compress", 11, [x(3, 4), np.array([True, False, True])], {"axis": 0}),
    Row("Compress", 9, [x(3, 4), np.array([False, True])], {"axis": -1}),
    Row("Compress", 11, [x(3, 4), np.array([False, True, True, False, True])]),
    Row("NonZero", 13, [few(3, 4)]),
    Row("NonZero", 9, [np.float32(2)]),
    Row("NonZero", 13, [few(5) > 0]),
    Row("OneHot", 11, [i(0, 2, -1, 5), np.int64(4), np.float32([-1, 3])]),
    Row("OneHot", 9, [i([0, 1, 2], [3, 4, -5]), i(5), i(0, 7)], {"axis": 1}),
    Row("OneHot", 11, [np.float32([[0, 1]]), np.float32(2), np.float32([0, 1])], {"axis": 0}),
]

PUT = [
    Row("ScatterND", 11, [x(4, 3), i([0], [-1]), x(2, 3)]),
    Row("ScatterND", 13, [x(4, 3, 2), i([[0, 1]], [[3, -1]]), x(2, 1, 2)]),
    *[
        Row("ScatterND", 18, [few(4, 3, 2), index, updates], {"reduction": how})
        for how in ("none", "add", "mul", "max", "min")
        for index, updates in (
            (i([0], [2]), few(2, 3, 2)),
            (i([0, 1, 1], [-1, -2, 0], [3, 0, 0]), few(3)),
        )
    ],
    Row("ScatterND", 16, [x(4, 3), i([1], [1], [-3]), x(3, 3)], {"reduction": "add"}),
    Row("ScatterND", 18, [x(4, 3), i([1], [1], [-3]), x(3, 3)], {"reduction": "max"}),
    Row("ScatterND", 18, [i(1, 2, 3, 4), i([1], [1], [-1]), i(5, 7, 2)], {"reduction": "mul"}),
    Row("Scatter", 9, [x(3, 4), i([0, 2, 1, 1]), x(1, 4)]),
    Row("ScatterElements", 11, [x(3, 4), i([0, -1], [3, 1]), x(2, 2)], {"axis": 1}),
    *[
        Row("ScatterElements", 18, [few(3, 4), i([0, -1], [2, 2], [1, 0]), few(3, 2)], {"axis": -1, "reduction": how})
        for how in ("add", "mul", "max", "min")
    ],
    Row("ScatterElements", 16, [few(3, 4), i([0, -1, 0, 1]), few(1, 4)], {"reduction": "mul"}),
]

ORDER = [
    Row("TopK", 1, [x(3, 5)], {"k": 2}, 2),
    Row("TopK", 10, [few(3, 7), i(4)], {"axis": -1}, 2),
    Row("TopK", 11, [few(6, 2), i(3)], {"axis": 0, "largest": 0}, 2),
    Row("TopK", 11, [RNG.integers(0, 4, (2, 9)), i(9)], {}, 2),
    Row("TopK", 11, [few(2, 3, 8), i(5)], {"largest": 1, "sorted": 1}, 2),
    *[
        Row(op, 13, [few(4, 6)], {"axis": axis, "keepdims": keep, "select_last_index": last})
        for op, axis, keep, last in itertools.product(("ArgMax", "ArgMin"), (0, -1), (0, 1), (0, 1))
    ],
    Row("ArgMax", 11, [few(4, 6)]),
    Row("ArgMin", 1, [few(4, 6)], {"axis": 1}),
    *[
        Row("CumSum", 14, [x(3, 4), np.int64(axis)], {"exclusive": exclusive, "reverse": reverse})
        for axis, exclusive, reverse in itertools.product((0, -1), (0, 1), (0, 1))
    ],
    Row("CumSum", 11, [i([1, 2, 3], dtype=np.int32), i(1)]),
    *[
        Row("Unique", 11, [few(3, 4)], {"sorted": ordered} | axis, 4)
        for ordered, axis in itertools.product((0, 1), ({}, {"axis": 0}, {"axis": -1}))
    ],
    Row("Unique", 11, [np.float32([[1, 0], [0, 2], [1, 0], [0, 1]])], {"axis": 0}, 3),
    Row("Unique", 11, [i(4, 4, 1)], {"sorted": 0}),
]


def boxes(batch, count):
    corners = RNG.uniform(0, 10, (batch, count, 2, 2))
    return corners.reshape(batch, count, 4).astype(np.float32)  # either corner may be the lower one


def scores(*shape):
    return RNG.permutation(np.prod(shape)).reshape(shape).astype(np.float32) / np.float32(np.prod(shape))


def regions(count):
    start = RNG.uniform(-2, 4, (count, 2))
    return np.concatenate([start, start + RNG.uniform(0.2, 9, (count, 2))], 1).astype(np.float32)


BOXES = [
    Row("NonMaxSuppression", 11, [boxes(2, 9), scores(2, 3, 9), i(4), np.float32([0.3])]),
    Row("NonMaxSuppression", 10, [boxes(1, 20), scores(1, 1, 20), i(20), np.float32([0.1]), np.float32([0.4])]),
    Row("NonMaxSuppression", 11, [boxes(1, 8), scores(1, 2, 8), i(3)]),
    Row("NonMaxSuppression", 11, [boxes(1, 8), scores(1, 2, 8)]),
    Row("NonMaxSuppression", 11, [boxes(1, 8), np.ones((1, 1, 8), np.float32), i(8), np.float32(0.9)]),
    Row("NonMaxSuppression", 11, [boxes(1, 8), scores(1, 1, 8), i(8), np.float32(0.2), np.float32(2)]),
    Row(
        "NonMaxSuppression",
        11,
        [np.abs(boxes(2, 12)), scores(2, 1, 12), i(6), np.float32(0.2)],
        {"center_point_box": 1},
    ),
    *[
        Row(
            "RoiAlign",
            16,
            [x(2, 3, 8, 9), regions(5), i(0, 1, 1, 0, 1)],
            {
                "mode": mode,
                "output_height": 3,
                "output_width": 2,
                "sampling_ratio": samples,
                "spatial_scale": 0.7,
                "coordinate_transformation_mode": where,
            },
        )
        for mode, samples, where in itertools.product(("avg", "max"), (0, 2), ("half_pixel", "output_half_pixel"))
    ],
    Row("RoiAlign", 10, [x(1, 2, 6, 6), regions(4), i(0, 0, 0, 0)], {"output_height": 2, "output_width": 2}),
    Row("RoiAlign", 16, [x(1, 2, 6, 6), regions(3), i(0, 0, 0)], {"output_height": 2, "output_width": 3}),
]

GRIDS = [
    *[
        Row(
            "GridSample",
            16,
            [x(2, 3, 5, 6), RNG.uniform(-1.4, 1.4, (2, 4, 3, 2)).astype(np.float32)],
            {"mode": mode, "padding_mode": padding, "align_corners": corners},
        )
        for mode, padding, corners in itertools.product(
            ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (0, 1)
        )
    ],
    *[
        Row(
            "GridSample",
            20,
            [x(2, 3, 5, 6), RNG.uniform(-1.4, 1.4, (2, 4, 3, 2)).astype(np.float32)],
            {"mode": mode, "padding_mode": padding, "align_corners": 1},
        )
        for mode, padding in itertools.product(("linear", "nearest", "cubic"), ("zeros", "border"))
    ],
    Row("GridSample", 20, [x(1, 2, 3, 4, 5), RNG.uniform(-1.2, 1.2, (1, 2, 3, 4, 3)).astype(np.float32)]),
    Row("GridSample", 16, [x(1, 1, 3, 3), RNG.uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32)]),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(TAKE + PUT + ORDER + BOXES + GRIDS))
def test_as_onnxruntime(row, fixed):
    same(*row.model(fixed=fixed))


def test_no_region_at_all():
    model, feeds = operator_model(
        "RoiAlign", [x(1, 2, 6, 6), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)], opset=16, output_height=2
    )
    same(model, feeds)


DIFFERENTIABLE = [
    Row("Gather", 13, [x(5, 3), i(0, 4, 4, -1)]),
    Row("GatherElements", 13, [x(3, 4), i([0, 3], [-1, 2], [-4, 0])], {"axis": -1}),
    Row("GatherND", 13, [x(3, 4, 2), i([1], [-1], [3])], {"batch_dims": 1}),
    Row("ScatterND", 18, [x(4, 3), i([1], [2]), x(2, 3)], {"reduction": "mul"}),
    Row("ScatterND", 18, [x(4, 3), i([1], [2]), x(2, 3)]),
    Row("ScatterElements", 16, [x(3, 4), i([0, -1, 0, 1]), x(1, 4)], {"reduction": "add"}),
    Row("TopK", 11, [x(3, 5), i(2)], {}, 2),
    Row("CumSum", 14, [x(3, 4), np.int64(1)], {"exclusive": 1, "reverse": 1}),
    Row("Unique", 11, [x(3, 4)], {}, 1),
    Row("Compress", 11, [x(3, 4), np.array([True, False, True])], {"axis": 0}),
    Row("RoiAlign", 16, [x(1, 2, 6, 6), regions(3), i(0, 0, 0)], {"output_height": 2, "sampling_ratio": 2}),
    Row("GridSample", 16, [x(1, 2, 5, 6), RNG.uniform(-1, 1, (1, 4, 3, 2)).astype(np.float32)]),
]


@pytest.mark.parametrize(("row", "fixed"), each_way(DIFFERENTIABLE))
def test_the_derivative_is_the_slope(row, fixed):
    has_slope(*row.model(fixed=fixed))


READS_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "RoiAlign", "Unique"}  # its shape, or its work, needs them


@pytest.mark.parametrize(
    ("row", "fixed"), each_way([r for r in TAKE + PUT + ORDER + GRIDS if r.op not in READS_VALUES])
)
def test_on_another_device(row, fixed):
    runs_elsewhere(row, fixed=fixed)


def test_a_table_of_embeddings_is_trained():
    model, feeds = operator_model("Gather", [x(7, 4), i([1, 2], [-1, 1])], opset=13, fixed=[0])
    module = module_of(model)
    module(**feeds).sum().backward()
    (table,) = module.parameters()
    assert table.grad.sum(1).tolist() == [0, 8, 4, 0, 0, 0, 4]
