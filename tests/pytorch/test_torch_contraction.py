"""Convolutions, matrix products and what works on every element: as onnxruntime computes them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import pytest

torch = pytest.importorskip("torch", minversion="2.4")

from torch_support import Row, each_way, has_slope, module_of, runs_elsewhere, same  # noqa: E402

from pfa_onnx.errors import ModelError  # noqa: E402

RNG = np.random.default_rng(0)


def x(*shape, dtype=np.float32):
    return RNG.normal(0, 1, shape).astype(dtype)


def i(*shape, low=-9, high=9, dtype=np.int64):
    return RNG.integers(low, high, shape).astype(dtype)


def conv(opset, image, weight, bias=True, **attributes):
    operands = [x(2, *image), x(*weight)] + ([x(weight[0])] if bias else [])
    return Row("Conv", opset, operands, attributes)


def transposed(opset, image, weight, bias=True, **attributes):
    outs = weight[1] * attributes.get("group", 1)
    return Row("ConvTranspose", opset, [x(2, *image), x(*weight)] + ([x(outs)] if bias else []), attributes)


CONVOLUTIONS = [
    conv(11, (3, 7), (4, 3, 3)),
    conv(7, (3, 7), (4, 3, 3), pads=[1, 2], strides=[2]),
    conv(22, (4, 8), (6, 2, 2), group=2, auto_pad="SAME_UPPER", strides=[3]),
    conv(11, (3, 7, 8), (4, 3, 3, 2), False),
    conv(11, (3, 7, 8), (4, 3, 3, 2), pads=[1, 1, 1, 1], kernel_shape=[3, 2]),
    conv(7, (3, 7, 8), (4, 3, 3, 3), pads=[0, 1, 2, 1], dilations=[1, 2]),
    conv(11, (4, 9, 8), (4, 1, 3, 3), group=4, pads=[2, 2, 2, 2], dilations=[2, 2]),
    conv(11, (6, 7, 8), (4, 3, 3, 3), False, group=2, strides=[2, 1]),
    conv(11, (3, 7, 8), (4, 3, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv(22, (3, 7, 8), (4, 3, 2, 4), auto_pad="SAME_LOWER", strides=[1, 2]),
    conv(11, (3, 7, 8), (4, 3, 3, 3), auto_pad="VALID"),
    conv(11, (3, 8, 7), (4, 3, 1, 1), auto_pad="SAME_LOWER", strides=[3, 2]),
    conv(11, (2, 5, 6, 7), (3, 2, 2, 3, 2), pads=[1, 0, 1, 1, 0, 1]),
    conv(11, (2, 5, 6, 7), (4, 1, 3, 3, 3), group=2, auto_pad="SAME_LOWER", strides=[2, 2, 2]),
    conv(22, (2, 5, 6, 7), (3, 2, 2, 3, 2), pads=[1, 0, 1, 0, 2, 1], strides=[1, 2, 1]),
    transposed(11, (3, 5), (3, 2, 3)),
    transposed(11, (4, 5), (4, 2, 4), group=2, strides=[2], pads=[1, 1]),
    transposed(1, (3, 5), (3, 2, 3), False, strides=[2], output_padding=[1], pads=[1, 1]),
    transposed(11, (3, 5, 4), (3, 2, 3, 2), pads=[0, 1, 2, 0]),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    transposed(22, (3, 5, 4), (3, 2, 3, 3), strides=[3, 2], pads=[1, 1, 0, 2], output_padding=[2, 0]),
    transposed(11, (4, 5, 4), (4, 1, 3, 2), False, group=4, dilations=[2, 1]),
    transposed(11, (4, 5, 4), (4, 2, 4, 4), group=2, auto_pad="SAME_UPPER", strides=[2, 2]),
    transposed(11, (3, 5, 4), (3, 2, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    transposed(11, (3, 5, 4), (3, 2, 2, 1), auto_pad="SAME_UPPER", strides=[3, 2]),
    transposed(11, (3, 5, 4), (3, 2, 2, 2), auto_pad="VALID", strides=[2, 1]),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), output_shape=[10, 7], strides=[2, 2]),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), output_shape=[10, 8], strides=[2, 2], auto_pad="SAME_UPPER"),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), output_shape=[10, 8], strides=[2, 2], auto_pad="SAME_LOWER"),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), output_shape=[12, 10], strides=[2, 2]),
    transposed(11, (3, 5, 4), (3, 2, 3, 3), output_shape=[6, 5]),
    transposed(11, (2, 3, 4, 3), (2, 3, 2, 3, 2), strides=[2, 1, 2], pads=[1, 0, 1, 0, 1, 1]),
    transposed(22, (2, 3, 4, 3), (2, 3, 2, 3, 2), strides=[2, 2, 2], output_padding=[1, 0, 1]),
]

PRODUCTS = [
    Row("MatMul", opset, [x(*a), x(*b)])
    for opset, a, b in [
        (13, (3,), (3,)),
        (13, (3,), (3, 4)),
        (9, (2, 3), (3,)),
        (1, (2, 3), (3, 4)),
        (13, (5, 2, 3), (3, 4)),
        (13, (1, 2, 3), (5, 3, 4)),
        (9, (2, 1, 2, 3), (4, 3, 2)),
    ]
]
PRODUCTS += [
    Row("Einsum", 12, [x(*shape) for shape in shapes], {"equation": equation})
    for equation, *shapes in [
        ("ij,jk->ik", (2, 3), (3, 4)),
        ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("...ij,...jk", (2, 3, 4), (2, 4, 5)),
        ("ii->i", (3, 3)),
        ("A b, b C -> C A", (2, 3), (3, 4)),
        ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ]
]


def gemms():
    for flip_a, flip_b, alpha, beta in itertools.product((0, 1), (0, 1), (1.0, 0.5), (1.0, 2.0)):
        attributes = {"transA": flip_a, "transB": flip_b, "alpha": alpha, "beta": beta}
        a, b = x(*((5, 3) if flip_a else (3, 5))), x(*((4, 5) if flip_b else (5, 4)))
        for opset, added in [(7, (4,)), (9, (3, 1)), (11, ()), (13, (1,)), (13, (3, 4)), (11, None)]:
            yield Row("Gemm", opset, [a, b] if added is None else [a, b, x(*added)], attributes)


def unary():
    wide = np.concatenate([x(20) * 3, np.array([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -2.5, 30, -30], np.float32)])
    for op, *opsets in [
        *(("Abs", 6, 13), ("Atan", 7), ("Ceil", 6, 13), ("Celu", 12), ("Cos", 7), ("Cosh", 9), ("Asinh", 9)),
        *(("Elu", 6, 22), ("Erf", 9, 13), ("Exp", 6, 13), ("Floor", 6, 13), ("HardSigmoid", 6), ("HardSwish", 14)),
        *(("Identity", 1, 14), ("LeakyRelu", 6, 16), ("Mish", 18), ("Neg", 6, 13), ("Relu", 6, 14), ("Round", 11, 22)),
        *(("Selu", 6, 22), ("Sigmoid", 6, 13), ("Sign", 9, 13), ("Sin", 7), ("Sinh", 9), ("Softplus", 1, 22)),
        *(("Softsign", 1), ("Tan", 7), ("Tanh", 6, 13), ("ThresholdedRelu", 10), ("Gelu", 20), ("Swish", 24)),
        *(("Dropout", 7, 10, 13), ("IsNaN", 9, 20), ("IsInf", 10, 20), ("Shrink", 9)),
    ]:
        for opset in opsets:
            yield Row(op, opset, [np.clip(wide, -3, 3) if op in {"Cosh", "Sinh", "Tan"} else wide])
    for op, opset in [("Sqrt", 6), ("Sqrt", 13), ("Log", 6), ("Log", 13), ("Reciprocal", 6), ("Reciprocal", 13)]:
        yield Row(op, opset, [abs(x(9)) + np.float32(0.1)])
    for op, opset in [("Acos", 7), ("Asin", 7), ("Atanh", 9)]:
        yield Row(op, opset, [np.tanh(x(9))])
    yield Row("Acosh", 9, [abs(x(9)) + 1])
    for op, opset, attributes in [
        ("HardSigmoid", 6, {"alpha": 0.3, "beta": 0.4}),
        ("Elu", 6, {"alpha": 0.5}),
        ("Selu", 6, {"alpha": 1.2, "gamma": 0.9}),
        ("Celu", 12, {"alpha": 0.5}),
        ("LeakyRelu", 16, {"alpha": 0.3}),
        ("ThresholdedRelu", 22, {"alpha": 0.5}),
        ("Shrink", 9, {"bias": 0.3, "lambd": 0.7}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("Swish", 24, {"alpha": 0.5}),
        ("Clip", 6, {"min": -0.5, "max": 0.7}),
        ("Clip", 6, {"min": 0.0}),
        ("Clip", 6, {}),
        ("Dropout", 10, {"ratio": 0.3}),
        *(("IsInf", 10, {"detect_positive": p, "detect_negative": n}) for p in (0, 1) for n in (0, 1)),
    ]:
        yield Row(op, opset, [np.append(x(9), np.float32([np.inf, -np.inf]))], attributes)
    yield Row("IsNaN", 13, [np.float32([1, np.nan, np.inf])])
    yield Row("Not", 1, [x(9) > 0])
    for opset in (7, 10, 13):
        yield Row("Dropout", opset, [x(9)], outputs=2)


def several():
    a, p, n, d = x(3, 4), abs(x(3, 4)) + np.float32(0.1), i(3, 4), np.where(x(3, 4) > 0, 2, -3)
    u, b = i(3, 4, low=1, high=250, dtype=np.uint8), x(3, 4) > 0
    for op in ("Add", "Sub", "Mul", "Div"):
        yield from (Row(op, opset, [a, p[:1]]) for opset in (7, 13, 14))
        yield from (Row(op, 14, operands) for operands in ([a, np.float32(2)], [n, d], [u, u[::-1]], [a[0], p]))
        yield Row(op, 7, [n.astype(np.int32), d[:, :1].astype(np.int32)])
        yield Row(op, 14, [a.astype(np.float64), p.astype(np.float64)])
    for op, kind in [("Sum", 0), ("Mean", 0), ("Max", 1), ("Min", 1)]:
        yield from (Row(op, opset, [a, a[:1], a[:, :1], np.float32(0.3)]) for opset in (8, 13))
        yield Row(op, 13, [a])
        if kind:
            yield from (Row(op, 13, operands) for operands in ([n, d], [u, u[:1]], [a * np.float32(np.nan), a]))
    for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
        yield Row(op, 13, [a.round(), a[:1].round()])
        yield Row(op, 13, [n, d[:1]])
    yield from (Row("Equal", opset, operands) for opset, operands in [(7, [n, d]), (7, [b, b[:1]]), (11, [a, a])])
    yield from (Row(op, 7, [b, b[:, :1]]) for op in ("And", "Or", "Xor"))
    yield from (Row(op, 18, [n, d]) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"))
    yield Row("BitwiseNot", 18, [n])
    for direction, kind in itertools.product(("LEFT", "RIGHT"), (np.uint8, np.uint32)):
        yield Row("BitShift", 11, [i(4, low=0, dtype=kind), np.array([0, 1, 3, 7], kind)], {"direction": direction})
    for exponent, shape in itertools.product((2.0, 0.5, -1.0, 0.0), ((), (1,), (1, 1, 1))):
        yield Row("Pow", 7, [p, np.full(shape, exponent, np.float32)])
    yield Row("Pow", 13, [np.float32(2), np.float32([3])])
    yield from (Row("Pow", 15, pair) for pair in ([p, a], [p, np.int64(2)], [n, np.float32(2)], [abs(n), p]))
    yield from (Row("Mod", 10, pair) for pair in ([n, d], [u, u[::-1]]))
    yield from (Row("Mod", 13, pair, {"fmod": 1}) for pair in ([n, d], [a, p], [a, -p]))
    yield from (Row("Where", opset, pair) for opset, pair in [(9, [b, a, p]), (16, [b[:1], a, np.float32(0)])])
    yield from (Row("Where", 16, [b, n, d[:1]]) for _ in range(1))
    low, high = np.float32(-0.5), np.float32(0.7)
    for opset, ends in itertools.product((11, 12, 13), ([low, high], [low], [None, high], [high, low], [])):
        yield Row("Clip", opset, [a, *ends])
    yield Row("Clip", 13, [n, np.int64(-2), np.int64(3)])
    for shape in [(4,), (1,), (3, 1), (3, 4)]:
        yield from (Row("PRelu", opset, [a, x(*shape)]) for opset in (7, 16))
    kinds = [1, 2, 3, 4, 5, 6, 7, 9, 11, 12]
    yield from (Row("Cast", 13, [v], {"to": kind}) for kind, v in itertools.product(kinds, (abs(a) * 9, abs(n), b)))
    yield from (Row("Cast", opset, [n * 100], {"to": kind}) for opset, kind in [(9, 1), (19, 3), (21, 6)])
    yield from (Row("CastLike", 15, pair) for pair in ([a, n], [n, a], [a, b]))


@pytest.mark.parametrize(("row", "fixed"), each_way([*CONVOLUTIONS, *PRODUCTS, *gemms()]))
def test_products_are_onnxruntimes(row, fixed):
    same(*row.model(fixed=fixed), atol=2e-5)


@pytest.mark.parametrize(("row", "fixed"), each_way([*unary(), *several()]))
def test_elements_are_onnxruntimes(row, fixed):
    same(*row.model(fixed=fixed))


@pytest.mark.parametrize("row", [*CONVOLUTIONS[::3], *PRODUCTS[::2], *itertools.islice(gemms(), 0, None, 7)], ids=str)
def test_products_have_slopes(row):
    has_slope(*row.model(fixed=True))


SMOOTH = {"Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu", "Softplus", "HardSwish", "Mish", "Erf", "PRelu", "Swish"}


@pytest.mark.parametrize("row", [r for r in (*unary(), *several()) if r.op in SMOOTH], ids=str)
def test_elements_have_slopes(row):
    model, feeds = row.model(fixed=False)
    has_slope(model, {name: np.clip(a, -2, 2) for name, a in feeds.items()})


@pytest.mark.parametrize(("row", "fixed"), each_way([*CONVOLUTIONS[::4], *PRODUCTS[::3], *list(several())[::4]]))
def test_they_run_elsewhere(row, fixed):
    runs_elsewhere(row, fixed=fixed)


@pytest.mark.parametrize(
    "row", [conv(11, (3, 7), (4, 3, 3)), transposed(11, (3, 5), (3, 2, 3)), next(gemms())], ids=str
)
def test_weights_are_parameters(row):
    model, _ = row.model(fixed=True)
    assert list(module_of(model).state_dict()) == ["x1", "x2"]


def test_dropout_drops_in_training():
    model, feeds = Row("Dropout", 13, [np.ones(4000, np.float32), np.float32(0.25)], outputs=2).model(fixed=True)
    made, kept = module_of(model).train()(**feeds)
    assert torch.equal(made, kept / 0.75)
    assert 0.7 < kept.float().mean() < 0.8


def test_a_square_has_a_slope_at_nought():
    model, feeds = Row("Pow", 13, [np.zeros(3, np.float32), np.float32(2)]).model(fixed=True)
    given = torch.zeros(3, requires_grad=True)
    module_of(model)(given).sum().backward()
    assert torch.equal(given.grad, torch.zeros(3)), feeds


def test_a_ratio_that_is_computed_is_named():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        one (float[3] x, float r) => (float[3] y) { y = Dropout(x, r) }"""
    )
    with pytest.raises(ModelError, match="Dropout with a ratio that is computed"):
        module_of(model)
