"""Every operator that has a rule, in small graphs around it: layer -> operator -> layer, cut at random.

A case says what the operator's attributes and inputs are; `HOSTS` make the tensor that it works on, in every layout,
and `finish` reads the result with a layer along the axis where the host's channels lie. An operator cannot be
registered without a case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from networks import Net, feeds
from onnx import ModelProto, TensorProto, helper
from support import counts, reasons, run, settle_model, worst_equivalence

from pfa_onnx.graph.ops import RULES

Build = Callable[[Net, str], "str | ModelProto"]
BOUND = 1e-4
LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Case:
    """`free`: whether channels of any layer may go. A rule that is too careful fails as one that is too bold does.

    `through`: whether channels may go once normalisations may run over the kept ones only.
    """

    op: str
    label: str
    host: str
    build: Build
    opset: int
    free: bool
    through: bool


CASES: list[Case] = []


def case(
    op: str,
    build: Build,
    label: str = "",
    *,
    host: str = "map",
    opset: int = 17,
    free: bool = True,
    through: bool = False,
) -> None:
    CASES.append(Case(op, label or "default", host, build, opset, free, through))


# --- what the operator works on, and what reads it ----------------------------------------------------------------


def _map(net: Net) -> str:
    """[N, 8, 6, 6]"""
    return net.conv(net.image(size=6), 3, 8)


def _nhwc(net: Net) -> str:
    """[N, 6, 6, 8]"""
    return net.op("Transpose", _map(net), perm=[0, 2, 3, 1])


def _line(net: Net) -> str:
    """[N, 8, 10]"""
    return net.conv(net.input(["N", 3, 10], "signal"), 3, 8, dims=1)


def _volume(net: Net) -> str:
    """[N, 8, 3, 4, 4]"""
    return net.conv(net.input(["N", 2, 3, 4, 4], "volume"), 2, 8, dims=3)


def _tokens(net: Net) -> str:
    """[N, 5, 12]"""
    return net.op("MatMul", net.input(["N", 5, 7], "tokens"), net.const(net.weights(7, 12, fan_in=7)))


def _vector(net: Net) -> str:
    """[N, 12]"""
    return net.linear(net.input(["N", 7], "x"), 7, 12)


HOSTS: dict[str, Callable[[Net], str]] = {
    "map": _map, "nhwc": _nhwc, "line": _line, "volume": _volume, "tokens": _tokens, "vector": _vector,
}  # fmt: skip
CHANNELS_LAST = {"nhwc", "tokens", "vector"}


def inferred(net: Net, x: str) -> onnx.TypeProto.Tensor:
    """The type and shape of a tensor that is being built."""
    graph = helper.make_graph(net.nodes, "part", net.inputs, [onnx.ValueInfoProto(name=x)], net.initializers)
    imports = [helper.make_opsetid("", net.opset), *(helper.make_opsetid(*item) for item in net.domains.items())]
    model = helper.make_model(graph, opset_imports=imports)
    return onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type


def shape_of(net: Net, x: str) -> tuple[int, ...]:
    """The extents of a tensor that is being built: old operators and computed sizes have no shape inference."""
    model = net.model(x)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    sized = with_initializers_among_inputs(model) if net.ir < 4 else model
    return run(sized, feeds(sized, np.random.default_rng(0), n=2))[x].shape


def finish(net: Net, x: str, *, last: bool) -> ModelProto:
    """Read a tensor with a layer, along its last axis or along axis 1."""
    kind = inferred(net, x)
    if kind.elem_type not in {TensorProto.FLOAT, TensorProto.UNDEFINED}:
        x = net.op("Cast", x, to=TensorProto.FLOAT)
    shape = tuple(d.dim_value for d in kind.shape.dim)
    if 0 in shape[1:] or not shape:
        shape = shape_of(net, x)
    if last or len(shape) == 2:
        return net.model(net.op("MatMul", x, net.const(net.weights(shape[-1], 5, fan_in=shape[-1])), out="y"))
    return net.model(net.conv(x, shape[1], 5, 1, dims=len(shape) - 2))


def with_initializers_among_inputs(model: ModelProto) -> ModelProto:
    values = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(values)
    return model


def built(item: Case) -> ModelProto:
    ir_version = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7}.get(item.opset, 8 if item.opset < 19 else 10)
    net = Net(np.random.default_rng(len(item.label)), opset=item.opset, ir=ir_version)
    x = item.build(net, HOSTS[item.host](net))
    model = x if isinstance(x, ModelProto) else finish(net, x, last=item.host in CHANNELS_LAST)
    for value in model.graph.output:
        if not value.type.tensor_type.shape.dim:  # behind an operator that has no shape inference
            value.type.tensor_type.ClearField("shape")
    return with_initializers_among_inputs(model) if ir_version < 4 else model


# --- element-wise ---------------------------------------------------------------------------------------------------


def plain(net: Net, x: str) -> str:
    return x


def unit(net: Net, x: str) -> str:
    return net.op("Mul", net.op("Tanh", x), net.const(0.9))


def positive(net: Net, x: str) -> str:
    return net.op("Add", net.op("Abs", x), net.const(0.5))


def above_one(net: Net, x: str) -> str:
    return net.op("Add", net.op("Abs", x), net.const(1.1))


def yes_or_no(net: Net, x: str) -> str:
    return net.op("Greater", x, net.const(0.1))


def whole(net: Net, x: str) -> str:
    return net.op("Cast", net.op("Mul", net.op("Abs", x), net.const(8.0)), to=TensorProto.INT32)


def natural(net: Net, x: str) -> str:
    return net.op("Cast", net.op("Mul", net.op("Abs", x), net.const(8.0)), to=TensorProto.UINT32)


DOMAINS = {"Acos": unit, "Asin": unit, "Atanh": unit, "Acosh": above_one, "Log": positive, "Sqrt": positive, "Reciprocal": positive,
           "Not": yes_or_no, "BitwiseNot": whole}  # fmt: skip
NEWER = {"BitwiseNot": 18, "Mish": 18, "Gelu": 20, "Swish": 24}
ATTRIBUTES: dict[str, dict[str, object]] = {
    "Cast": {"to": TensorProto.DOUBLE}, "Celu": {"alpha": 0.7}, "Elu": {"alpha": 0.6}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "IsInf": {"detect_negative": 0}, "LeakyRelu": {"alpha": 0.3}, "Selu": {"alpha": 1.2, "gamma": 0.8},
    "Shrink": {"lambd": 0.2, "bias": 0.1}, "ThresholdedRelu": {"alpha": 0.2}, "Gelu": {"approximate": "tanh"}, "Swish": {"alpha": 0.5},
}  # fmt: skip
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip


def _unary(kind: str, host: str) -> None:
    def build(net: Net, x: str) -> str:
        inner = DOMAINS.get(kind, plain)(net, x)
        y = net.op(kind, inner, **ATTRIBUTES.get(kind, {}))
        if kind in {"IsInf", "IsNaN"}:  # all false: let something else through as well
            return net.op("Add", x, net.op("Cast", y, to=TensorProto.FLOAT))
        return y

    case(kind, build, host, host=host, opset=NEWER.get(kind, 17))


for _place, _kind in enumerate(UNARY):
    _unary(_kind, "map")
    _unary(_kind, ("nhwc", "line", "tokens", "vector", "volume")[_place % 5])

# (domain of the operands, opset, attributes)
BINARY: dict[str, tuple[Callable[[Net, str], str], int, dict[str, object]]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (plain, 17, {})),
    **dict.fromkeys(("Div", "Pow"), (positive, 17, {})),
    "Equal": (whole, 17, {}),
    **dict.fromkeys(("And", "Or", "Xor"), (yes_or_no, 17, {})),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), (whole, 18, {})),
    "BitShift": (natural, 17, {"direction": "LEFT"}),
    "Mod": (positive, 17, {"fmod": 1}),
}  # fmt: skip


def _another(net: Net, x: str, *, channels: int | None = None, host: str = "map") -> str:
    """A second tensor beside the host's, from a layer that reads the same input."""
    if host == "vector":
        return net.linear("x", 7, channels or 12)
    return net.conv("image", 3, channels or 8)


def _constant(net: Net, like: str, *shape: int) -> str:
    kind = inferred(net, like).elem_type
    array = net.rng.uniform(0.5, 1.5, shape)
    if kind == TensorProto.BOOL:
        return net.const(array > 1, dtype=np.bool_)
    if kind in {TensorProto.INT32, TensorProto.UINT32}:
        return net.const(np.rint(array * 3), dtype=helper.tensor_dtype_to_np_dtype(kind))
    return net.const(array)


def _binary(kind: str) -> None:
    domain, opset, attributes = BINARY[kind]

    def two(net: Net, x: str) -> str:
        return net.op(kind, domain(net, x), domain(net, _another(net, x)), **attributes)

    def constant(*shape: int, left: bool = False) -> Build:
        def build(net: Net, x: str) -> str:
            a = domain(net, x)
            pair = a, _constant(net, a, *shape)
            return net.op(kind, *(pair[::-1] if left else pair), **attributes)

        return build

    def gate(net: Net, x: str) -> str:
        small = net.op("GlobalAveragePool", _another(net, x))
        return net.op(kind, domain(net, small), domain(net, x), **attributes)

    case(kind, two, "two layers", opset=opset)
    case(kind, constant(8, 1, 1), "one constant a channel", opset=opset)
    case(kind, constant(8), "one constant a channel, last", host="nhwc", opset=opset)
    case(kind, constant(1, 8, 6, 6, left=True), "a constant for every position, first", opset=opset)
    case(kind, constant(6), "one constant a column", opset=opset)
    case(kind, constant(left=True), "a number", opset=opset)
    case(kind, gate, "a stretched operand, first", opset=opset)


for _kind in BINARY:
    _binary(_kind)

case(
    "Add",
    lambda n, x: n.op("ReduceMax", n.op("Add", x, _constant(n, x, 3, 1, 8, 1, 1)), axes=[0], keepdims=0),
    "a constant that adds an axis",
)
case("Add", lambda n, x: n.op("Add", x, n.conv("image", 3, 1)), "one channel stretched over all")
case("Mul", lambda n, x: n.op("Mul", x, x), "itself")
case("Add", lambda n, x: n.op("Add", n.op("Reshape", x, n.const([-1, 12, 1])), n.op("Reshape", n.linear("x", 7, 12), n.const([-1, 1, 12]))),
     "an outer sum", host="vector", free=False)  # fmt: skip


def _channel_count(net: Net, x: str) -> str:
    return net.op("Slice", net.op("Shape", x), net.const([1]), net.const([2]))


def _filled(net: Net, x: str) -> str:
    """zeros(C, 1, 1) and the like, as wide as the channels are."""
    value = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    shape = net.op("Concat", _channel_count(net, x), net.const([1, 1]), axis=0)
    return net.op("Add", x, net.op("ConstantOfShape", shape, value=value))


def _numbered(net: Net, x: str) -> str:
    """arange(C), added to the channels."""
    count = net.op("Squeeze", _channel_count(net, x), net.const([0]))
    numbers = net.op("Cast", net.op("Range", net.const(0), count, net.const(1)), to=TensorProto.FLOAT)
    return net.op("Add", x, net.op("Unsqueeze", numbers, net.const([1, 2])))


case("Add", _filled, "a constant as wide as the channels, computed", free=False)
case("Add", _numbered, "the channels' numbers, computed", free=False)
for _kind in ("Max", "Min", "Mean", "Sum"):
    case(
        _kind,
        lambda n, x, k=_kind: n.op(k, x, n.const(n.vector(8).reshape(8, 1, 1)), _another(n, x), n.const(0.1)),
        "four operands",
    )
    case(_kind, lambda n, x, k=_kind: n.op(k, x), "one operand")
case("PRelu", lambda n, x: n.op("PRelu", x, n.const(n.vector(8).reshape(8, 1, 1))), "a slope a channel")
case("PRelu", lambda n, x: n.op("PRelu", x, n.const(n.vector(1))), "one slope")
case("PRelu", lambda n, x: n.op("PRelu", x, n.const(n.vector(8 * 36).reshape(8, 6, 6))), "a slope a position")
case("PRelu", lambda n, x: n.op("PRelu", x, n.const(n.vector(12))), "a slope a channel, last", host="tokens")
case("PRelu", lambda n, x: n.op("PRelu", x, n.op("GlobalAveragePool", _another(n, x))), "computed slopes")
case("Where", lambda n, x: n.op("Where", yes_or_no(n, _another(n, x)), x, n.op("Neg", x)), "two layers")
case(
    "Where",
    lambda n, x: n.op("Where", n.const(np.arange(8).reshape(8, 1, 1) % 2 == 0, dtype=np.bool_), x, n.const(0.5)),
    "a constant choice",
)
case(
    "Where",
    lambda n, x: n.op("Where", yes_or_no(n, x), n.const(n.vector(12)), x),
    "a constant where yes",
    host="tokens",
)
case(
    "Where",
    lambda n, x: n.op("Where", yes_or_no(n, x), n.const(n.vector(8).reshape(1, 8, 1, 1)), n.const(2.0)),
    "a mask alone",
)
case("Clip", lambda n, x: n.op("Clip", x, n.const(-0.2), n.const(0.3)))
case("Clip", lambda n, x: n.op("Clip", x, "", n.const(0.3)), "no lower bound", host="tokens")
case("Clip", lambda n, x: n.op("Clip", x, max=0.4), "attributes", opset=8)
case("Dropout", lambda n, x: n.op("Dropout", x, n.const(0.5)))
case("Dropout", lambda n, x: n.op("Dropout", x, ratio=0.3), "an attribute", opset=8)
case(
    "Dropout",
    lambda n, x: (lambda y, mask: n.op("Where", mask, y, n.const(0.0)))(*n.multi("Dropout", x, outs=2)),
    "the mask is read",
)


# --- contractions ---------------------------------------------------------------------------------------------------

for _label, _more in {
    "default": {}, "no bias": {"bias": False}, "strides": {"strides": [2, 2]}, "dilations": {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    "no pads": {"pads": [0, 0, 0, 0]}, "1 x 1": {"k": 1}, "two groups": {"group": 2}, "four groups, no bias": {"group": 4, "bias": False},
    "depthwise": {"group": 8}, "asymmetric pads": {"pads": [0, 1, 2, 1]},
}.items():  # fmt: skip
    case("Conv", lambda n, x, m=_more: n.relu(n.conv(x, 8, 8, **m)), _label)
case("Conv", lambda n, x: n.relu(n.conv(x, 8, 24, group=8)), "depthwise, three a channel")
case("Conv", lambda n, x: n.relu(n.conv(x, 8, 12, group=2)), "groups that widen")
case("Conv", lambda n, x: n.relu(n.conv(x, 8, 4, group=4)), "groups that make one channel each")
case(
    "Conv",
    lambda n, x: n.relu(n.conv(n.relu(n.conv(x, 8, 12, group=4)), 12, 12, group=3)),
    "groups of another count in a row",
)
case("Conv", lambda n, x: n.relu(n.conv(x, 8, 6, dims=1, group=2)), "one dimension", host="line")
case("Conv", lambda n, x: n.relu(n.conv(x, 8, 6, dims=3)), "three dimensions", host="volume")
case(
    "Conv",
    lambda n, x: n.op("Conv", x, n.const(n.weights(6, 8, 3, 3)), auto_pad="SAME_LOWER", strides=[2, 2]),
    "auto_pad",
)
case("Conv", lambda n, x: n.op("Conv", x, n.op("Reshape", n.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0), n.const([1, 8, 1, 1]))), "a computed weight",
     free=False)  # fmt: skip


def _transposed(cin: int = 8, cout: int = 6, group: int = 1, bias: bool = True, dims: int = 2, **more: object) -> Build:
    def build(net: Net, x: str) -> str:
        weight = net.const(net.weights(cin, cout // group, *[2] * dims, fan_in=cin))
        return net.relu(
            net.op("ConvTranspose", x, weight, *([net.const(net.vector(cout))] if bias else []), group=group, **more)
        )

    return build


case("ConvTranspose", _transposed())
case("ConvTranspose", _transposed(strides=[2, 2]), "strides")
case(
    "ConvTranspose",
    _transposed(bias=False, strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 1]),
    "pads and output_padding",
)
case("ConvTranspose", _transposed(group=2), "two groups")
case("ConvTranspose", _transposed(cout=4, group=4), "groups that make one channel each")
case("ConvTranspose", _transposed(cout=8, group=8), "depthwise")
case("ConvTranspose", _transposed(cout=16, group=8), "depthwise, two a channel")
case("ConvTranspose", _transposed(dims=1, strides=[2]), "one dimension", host="line")
case("ConvTranspose", _transposed(dims=3), "three dimensions", host="volume")


def _gemm(
    *,
    flip_b: bool = False,
    flip_a: bool = False,
    first: bool = False,
    third: Callable[[Net], str] | None = None,
    **more: object,
) -> Build:
    def build(net: Net, x: str) -> ModelProto:
        if flip_a or first:  # as the operator wants it: [K, N]
            x = net.op("Transpose", x, perm=[1, 0])
        shape = (9, 12) if (first and not flip_a) or (flip_b and not first) else (12, 9)
        pair = [x, net.const(net.weights(*shape, fan_in=12))]
        if first:
            pair = pair[::-1]
        x = net.op("Gemm", *pair, *([third(net)] if third else []), transA=int(flip_a), transB=int(flip_b), **more)
        if first:
            x = net.op("Transpose", x, perm=[1, 0])
        return net.model(net.linear(net.relu(x), 9, 4, out="y"))

    return build


case("Gemm", _gemm(), host="vector")
case(
    "Gemm",
    _gemm(flip_b=True, alpha=0.5, beta=3.0, third=lambda n: n.const(n.vector(9))),
    "transB, alpha, beta",
    host="vector",
)
case(
    "Gemm",
    _gemm(flip_a=True, third=lambda n: n.const(n.vector(9).reshape(1, 9))),
    "transA, a bias of two axes",
    host="vector",
)
case(
    "Gemm",
    _gemm(flip_a=True, flip_b=True, third=lambda n: n.const(n.vector(1))),
    "transA, transB, a bias of one number",
    host="vector",
)
case("Gemm", _gemm(third=lambda n: n.const(0.25)), "a bias without axes", host="vector")
case("Gemm", _gemm(third=lambda n: n.op("Relu", n.linear("x", 7, 9))), "an activation is added", host="vector")
case(
    "Gemm",
    _gemm(first=True, third=lambda n: n.const(n.vector(9).reshape(9, 1))),
    "the weight first",
    host="vector",
    free=True,
)
case("Gemm", _gemm(first=True, flip_a=True), "the weight first, transposed", host="vector")
case("Gemm", lambda n, x: n.op("Gemm", x, n.linear("x", 7, 12), transB=1), "two activations", host="vector", free=False)
case("Gemm", lambda n, x: n.linear(n.op("Flatten", x), 8 * 36, 5), "behind Flatten")

case(
    "MatMul",
    lambda n, x: n.op("MatMul", n.relu(n.op("MatMul", x, n.const(n.weights(12, 9)))), n.const(n.weights(9, 6))),
    host="vector",
)
case("MatMul", lambda n, x: n.op("MatMul", x, n.const(n.weights(12, 9))), "tokens", host="tokens")
case("MatMul", lambda n, x: n.op("MatMul", x, n.const(n.weights(1, 12, 9))), "a weight of three axes", host="tokens")
case("MatMul", lambda n, x: n.op("MatMul", x, n.const(n.weights(8, 9))), "a weight of two axes for four", host="nhwc")
case("MatMul", lambda n, x: n.op("MatMul", n.const(n.weights(6, 8)), x), "the weight first", host="line")
case("MatMul", lambda n, x: n.op("MatMul", x, n.const(n.weights(10, 7))), "over the positions", host="line")
case(
    "MatMul",
    lambda n, x: n.op("MatMul", x, n.const(n.weights(3, 12, 9)[:, None])),
    "a batch of weights",
    host="tokens",
    free=False,
)
case("MatMul", lambda n, x: n.op("MatMul", x, n.const(n.weights(12))), "a vector", host="tokens", free=False)


def _projected(net: Net, cout: int = 12) -> str:
    return net.op("MatMul", "tokens", net.const(net.weights(7, cout, fan_in=7)))


def _scores(net: Net, x: str) -> ModelProto:
    scores = net.op("MatMul", x, net.op("Transpose", _projected(net), perm=[0, 2, 1]))
    return net.model(net.op("Softmax", scores, axis=-1))


def _values(net: Net, x: str) -> str:
    weights = net.op("Softmax", net.op("MatMul", "tokens", net.op("Transpose", "tokens", perm=[0, 2, 1])), axis=-1)
    return net.op("MatMul", weights, x)


def _values_weighted_by_a_layer(net: Net, x: str) -> str:
    return net.op("MatMul", net.op("Softmax", _projected(net, 5), axis=-1), x)


def _heads(net: Net, x: str) -> str:
    q, k, v = (net.op("Reshape", y, net.const([0, 0, 3, 4])) for y in (x, _projected(net), _projected(net)))
    q, v = (net.op("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    return net.op("Reshape", y, net.const([0, 0, 12]))


def _heads_with_batch_merged(net: Net, x: str) -> str:
    q, k, v = (
        net.op("Transpose", net.op("Reshape", y, net.const([0, 5, 3, 4])), perm=[0, 2, 1, 3])
        for y in (x, _projected(net), _projected(net))
    )
    q, k, v = (net.op("Reshape", y, net.const([-1, 5, 4])) for y in (q, k, v))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net.op("Reshape", net.op("MatMul", scores, v), net.const([-1, 3, 5, 4]))
    return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([-1, 5, 12]))


def _channel_attention(net: Net, x: str) -> str:
    """[N, C, T] . [N, T, C] mixes all channels."""
    gram = net.op("Softmax", net.op("MatMul", net.op("Transpose", x, perm=[0, 2, 1]), x), axis=-1)
    return net.op("MatMul", x, gram)


case("MatMul", _scores, "Q K^T", host="tokens")
case("MatMul", _values, "attention V", host="tokens")
case("MatMul", _values_weighted_by_a_layer, "positions mixed by a layer", host="tokens")
case("MatMul", _heads, "heads", host="tokens")
case("MatMul", _heads_with_batch_merged, "heads merged with the batch", host="tokens")
case("MatMul", _channel_attention, "attention over channels", host="tokens", free=False)


# --- joining and choosing -------------------------------------------------------------------------------------------

case("Concat", lambda n, x: n.op("Concat", x, _another(n, x, channels=5), axis=1))
case("Concat", lambda n, x: n.op("Concat", x, x, _another(n, x, channels=3), x, axis=-3), "the same thrice")
case("Concat", lambda n, x: n.op("Concat", x, axis=1), "one part")
case("Concat", lambda n, x: n.op("Concat", x, n.op("Neg", _another(n, x)), axis=2), "over rows")
case("Concat", lambda n, x: n.op("Concat", x, n.op("Neg", _another(n, x)), axis=0), "over samples")
case("Concat", lambda n, x: n.op("Concat", n.op("Flatten", x), n.op("Flatten", n.op("Abs", x)), axis=1), "flattened")
case("Concat", lambda n, x: n.op("Concat", *[n.op("Unsqueeze", y, n.const([1])) for y in (x, _another(n, x))], axis=1), "stacked, read along the stack",
     free=False)  # fmt: skip
case("Concat", lambda n, x: n.op("Concat", x, "tokens", axis=-1), "an input", host="tokens")
case("Concat", lambda n, x: n.op("Concat", n.op("Expand", n.const(n.vector(12).reshape(1, 1, 12)), n.const([2, 1, 1])), x, axis=1), "a class token",
     host="tokens")  # fmt: skip

SPLITS: dict[str, tuple[int, dict[str, object], list[int] | None, int]] = {
    "sizes as an attribute": (11, {"axis": 1, "split": [3, 5]}, None, 2),
    "equal, opset 11": (11, {"axis": 1}, None, 2),
    "equal, opset 13": (13, {"axis": 1}, None, 4),
    "sizes as an input": (17, {"axis": 1}, [1, 2, 5], 3),
    "negative axis": (17, {"axis": -3}, [6, 2], 2),
    "num_outputs": (18, {"axis": 1, "num_outputs": 2}, None, 2),
    "num_outputs that do not divide": (18, {"axis": 1, "num_outputs": 3}, None, 3),
    "one piece": (18, {"axis": 1, "num_outputs": 1}, None, 1),
    "over rows": (17, {"axis": 2}, [3, 3], 2),
}


def _split(attributes: dict[str, object], sizes: list[int] | None, outs: int) -> Build:
    def build(net: Net, x: str) -> str:
        parts = net.multi("Split", x, *([net.const(sizes)] if sizes else []), outs=outs, **attributes)
        parts[0] = net.op("Sigmoid", parts[0])
        return net.op("Concat", *parts[1:], parts[0], axis=1)

    return build


for _label, (_opset, _attributes, _sizes, _outs) in SPLITS.items():
    case("Split", _split(_attributes, _sizes, _outs), _label, opset=_opset)
case("Split", lambda n, x: n.multi("Split", x, n.const([2, 4, 2]), outs=3, axis=1)[1], "two pieces unread")
case(
    "Split",
    lambda n, x: (lambda a, b: n.op("Mul", a, n.op("Sigmoid", b)))(*n.multi("Split", x, outs=2, axis=-1)),
    "gated",
    host="tokens",
)
case("Split", lambda n, x: (lambda a, b: n.op("Add", a, n.op("Tanh", b)))(*n.multi("Split", n.relu(n.conv(x, 8, 8, group=4)), outs=2, axis=1)),
     "halves of a grouped layer")  # fmt: skip


def _slices(net: Net, x: str, *ranges: tuple[int, ...]) -> str:
    """Slices (axis, start, end[, step]), one after the other."""
    for axis, start, end, *step in ranges:
        x = net.op("Slice", x, net.const([start]), net.const([end]), net.const([axis]), *[net.const(step)] * bool(step))
    return x


case("Slice", lambda n, x: _slices(n, x, (1, 2, 7)))
case("Slice", lambda n, x: _slices(n, x, (1, 0, LAST)), "everything")
case("Slice", lambda n, x: _slices(n, x, (1, -5, -1)), "counted from the end")
case("Slice", lambda n, x: _slices(n, x, (-1, 3, 10_000)), "beyond the end, negative axis", host="tokens")
case(
    "Slice",
    lambda n, x: n.op("Concat", _slices(n, x, (1, 4, LAST)), n.op("Tanh", _slices(n, x, (1, 0, 4))), axis=1),
    "halves",
)
case("Slice", lambda n, x: n.op("Slice", x, n.const([0, 1]), n.const([9, 6])), "no axes")
case(
    "Slice",
    lambda n, x: n.op("Slice", x, n.const([1, 0]), n.const([7, 4]), n.const([1, 3]), n.const([1, 2])),
    "two axes, a step over columns",
)
case("Slice", lambda n, x: n.op("Slice", x, axes=[1], starts=[1], ends=[-2]), "attributes", opset=9)
case("Slice", lambda n, x: n.op("Slice", x, starts=[0, 2], ends=[100, 5]), "attributes without axes", opset=9)
case("Slice", lambda n, x: _slices(n, x, (1, 0, LAST, 2)), "every second channel")
case("Slice", lambda n, x: _slices(n, x, (1, LAST, -LAST, -1)), "backwards", free=False)
case("Slice", lambda n, x: _slices(n, x, (3, LAST, -LAST, -1)), "columns backwards")
case("Slice", lambda n, x: _slices(n, n.op("Flatten", x), (1, 36, 8 * 36)), "flattened, less the first channel")
case("Slice", lambda n, x: _slices(n, n.op("Flatten", x), (1, 17, 8 * 36)), "flattened, less half a channel")
case("Slice", lambda n, x: n.op("Slice", x, n.const([0]), n.op("Div", n.op("Slice", n.op("Shape", x), n.const([1]), n.const([2])), n.const([2])),
     n.const([1])), "half of the extent, computed")  # fmt: skip

case("Gather", lambda n, x: n.op("Gather", x, n.const([3, 1, 7, 0, 5, 2, 6, 4]), axis=1), "a permutation")
case("Gather", lambda n, x: n.op("Gather", x, n.const([2, 2, -1, 5]), axis=1), "some, some twice, from the end")
case("Gather", lambda n, x: n.op("Gather", x, n.const([4, 0, 11]), axis=-1), "negative axis", host="tokens")
case("Gather", lambda n, x: n.op("Gather", x, n.const(3), axis=1), "one channel", host="nhwc")
case("Gather", lambda n, x: n.op("Gather", x, n.const(0), axis=1), "one position", host="tokens")
case("Gather", lambda n, x: n.op("Gather", x, n.const([5]), axis=1), "one channel, the axis stays")
case("Gather", lambda n, x: n.op("Gather", x, n.const([[0, 1], [4, 5]]), axis=2), "rows in pairs")
case(
    "Gather",
    lambda n, x: n.op("Reshape", n.op("Gather", x, n.const([[0, 1, 4], [6, 3, 2]]), axis=1), n.const([0, 6, 6, 6])),
    "channels in two rows",
    free=False,
)
case(
    "Gather",
    lambda n, x: n.op(
        "Gather", x, n.op("ArgMax", n.op("ReduceMean", "image", axes=[1, 2, 3], keepdims=0), axis=0), axis=0
    ),
    "samples, chosen by data",
)
case("Gather", lambda n, x: n.op("Gather", x, n.op("ArgMax", n.op("ReduceMean", x, axes=[0], keepdims=0), axis=0, keepdims=0), axis=1),
     "channels, chosen by data", host="line", free=False)  # fmt: skip


def _embedding(net: Net, x: str) -> str:
    ids = net.input(["N", 5], "ids", np.int64)
    return net.op("Add", x, net.op("Gather", net.const(net.weights(16, 12, fan_in=2)), ids, axis=0))


def _tied_embedding(net: Net, x: str) -> ModelProto:
    """A language model's first and last layer share one table."""
    table = net.const(net.weights(16, 12, fan_in=2), "table")
    y = net.op("Add", x, net.op("Gather", table, net.input(["N", 5], "ids", np.int64), axis=0))
    return net.model(net.op("MatMul", y, net.op("Transpose", table, perm=[1, 0]), out="y"))


case("Gather", _tied_embedding, "a table that the last layer reads too", host="tokens")
case("Gather", _embedding, "an embedding is added", host="tokens")
case("Gather", lambda n, x: n.op("Add", x, n.op("Gather", n.const(n.weights(16, 12, fan_in=2)), n.const([3, 0, 9, 9, 2]))), "rows of a constant",
     host="tokens")  # fmt: skip

case("Pad", lambda n, x: n.op("Pad", x, n.const([0, 2, 0, 0, 0, 3, 0, 0]), n.const(0.0)), "channels on both sides")
case("Pad", lambda n, x: n.op("Pad", x, n.const([0, 0, 0, 0, 0, 3, 0, 0]), n.const(1.5)), "channels of a number")
case("Pad", lambda n, x: n.op("Pad", x, pads=[0, 1, 0, 0, 0, 1, 2, 0], value=0.5), "an attribute", opset=10)
case("Pad", lambda n, x: n.op("Pad", x, n.const([1, 2]), "", n.const([1])), "listed axes", opset=18)
case("Pad", lambda n, x: n.op("Pad", x, n.const([1, 2, 0, 1]), "", n.const([-1, 1])), "listed negative axes", opset=18)
case("Pad", lambda n, x: n.op("Pad", x, n.const([0, 0, 1, 2, 0, 0, 0, 3])), "space")
case("Pad", lambda n, x: n.op("Pad", x, n.const([0, 0, 1, 2, 0, 0, 0, 3]), mode="reflect"), "space, reflected")
case("Pad", lambda n, x: n.op("Pad", x, n.const([0, 0, -1, 2, 0, 0, 0, -2])), "space, cropped")
case(
    "Pad", lambda n, x: n.op("Pad", x, n.const([0, 1, 0, 0, 0, 1, 0, 0]), mode="edge"), "channels repeated", free=False
)
for _mode in ("edge", "reflect", "wrap"):
    case("Pad", lambda n, x, m=_mode: n.op("Add", n.op("Pad", x, n.const([0, 3, 0, 0, 0, 2, 0, 0]), mode=m), n.conv("image", 3, 13)),
         f"channels repeated ({_mode}), then added", opset=19, free=False)  # fmt: skip
case("Pad", lambda n, x: n.op("Pad", x, n.const([0, -1, 0, 0, 0, -2, 0, 0])), "channels cropped", free=False)
case("Pad", lambda n, x: n.op("Pad", x, n.const([0] * 8)), "nothing")
case(
    "Pad",
    lambda n, x: n.op("Add", n.op("Pad", x, n.const([0, 0, 0, 4])), n.linear("x", 7, 16)),
    "a vector, then added",
    host="vector",
)


# --- normalisation ----------------------------------------------------------------------------------------------------

case("BatchNormalization", lambda n, x: n.bn(x, 8))
case("BatchNormalization", lambda n, x: n.bn(x, 8), "opset 8", opset=8)
case("BatchNormalization", lambda n, x: n.bn(x, 8), "one dimension", host="line", opset=14)
case("BatchNormalization", lambda n, x: n.bn(x, 12), "a vector", host="vector", opset=9)
case("BatchNormalization", lambda n, x: n.bn(n.relu(n.conv(x, 8, 8, group=4)), 8), "behind groups")
case("InstanceNormalization", lambda n, x: n.op("InstanceNormalization", x, n.const(n.vector(8)), n.const(n.vector(8))))
case("InstanceNormalization", lambda n, x: n.op("InstanceNormalization", x, n.const(n.vector(8)), n.const(n.vector(8)), epsilon=0.1), "one dimension",
     host="line")  # fmt: skip
case("InstanceNormalization", lambda n, x: n.op("Reshape", n.op("InstanceNormalization", n.op("Reshape", x, n.const([0, 4, -1])), n.const(n.vector(4)),
     n.const(n.vector(4))), n.const([0, 8, 6, 6])), "over pairs of channels")  # fmt: skip


def _norm(kind: str, *shape: int, **attributes: object) -> Build:
    return lambda n, x: n.op(kind, x, n.const(n.rng.uniform(0.5, 1.5, shape)), **attributes)


for _kind, _opset in (("LayerNormalization", 17), ("RMSNormalization", 23)):
    case(_kind, _norm(_kind, 12, axis=-1), "over channels", host="tokens", opset=_opset, free=False, through=True)
    case(_kind, _norm(_kind, 8, 6, 6, axis=1), "over everything", opset=_opset, free=False, through=True)
    case(_kind, _norm(_kind, 6, 6, axis=2), "over space", opset=_opset)
    case(_kind, _norm(_kind, 6), "over columns, by default", opset=_opset)
for _kind in ("Softmax", "LogSoftmax", "Hardmax"):
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=1), "over channels", free=False)
    case(_kind, lambda n, x, k=_kind: n.op(k, x), "over the last axis", opset=13)
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=2), "over rows")
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=2), "flattened behind channels", opset=11)
    case(_kind, lambda n, x, k=_kind: n.op(k, x), "flattened, channels included", opset=11, free=False)
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=-1), "the channels are last", host="nhwc", free=False)
case("LpNormalization", lambda n, x: n.op("LpNormalization", x, axis=1, p=2), "over channels")
case("LpNormalization", lambda n, x: n.op("LpNormalization", x, axis=2, p=1), "over rows")
case("LpNormalization", lambda n, x: n.op("LpNormalization", x), "over the last axis", host="tokens")
case("LRN", lambda n, x: n.op("LRN", x, size=3, alpha=0.5), free=False)
case(
    "GroupNormalization",
    lambda n, x: n.op("GroupNormalization", x, n.const(n.vector(8)), n.const(n.vector(8)), num_groups=2),
    opset=21,
)
case("GroupNormalization", lambda n, x: n.op("GroupNormalization", x, n.const(n.vector(8)), n.const(n.vector(8)), num_groups=8), "a group a channel",
     opset=21)  # fmt: skip
case("GroupNormalization", lambda n, x: n.op("GroupNormalization", x, n.const(n.vector(8)), n.const(n.vector(8)), num_groups=1), "one group",
     opset=21, free=False, through=True)  # fmt: skip
case("GroupNormalization", lambda n, x: n.op("GroupNormalization", x, n.const(n.vector(4)), n.const(n.vector(4)), num_groups=4), "a scale a group",
     opset=18)  # fmt: skip
case("InstanceNormalization", lambda n, x: n.op("Reshape", n.op("InstanceNormalization", n.op("Reshape", x, n.const([0, 1, -1])), n.const(n.vector(1)),
     n.const(n.vector(1))), n.const([0, 8, 6, 6])), "over all channels", free=False, through=True)  # fmt: skip
case("MeanVarianceNormalization", lambda n, x: n.op("MeanVarianceNormalization", x))
case(
    "MeanVarianceNormalization",
    lambda n, x: n.op("MeanVarianceNormalization", x, axes=[1]),
    "over channels",
    free=False,
    through=True,
)


# --- pooling and resizing -----------------------------------------------------------------------------------------------

for _kind in ("AveragePool", "LpPool", "MaxPool"):
    case(_kind, lambda n, x, k=_kind: n.op(k, x, kernel_shape=[2, 2], strides=[2, 2]))
    case(_kind, lambda n, x, k=_kind: n.op(k, x, kernel_shape=[3], pads=[1, 1]), "one dimension", host="line")
    case(_kind, lambda n, x, k=_kind: n.op(k, x, kernel_shape=[3, 3], auto_pad="SAME_UPPER"), "auto_pad")
    case(
        _kind,
        lambda n, x, k=_kind: n.op(k, x, kernel_shape=[1, 2], strides=[1, 2]),
        "over the channels",
        host="nhwc",
        free=False,
    )
case(
    "AveragePool",
    lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1),
    "padding counts",
)
case(
    "MaxPool",
    lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 3], dilations=[2, 2], ceil_mode=1, strides=[2, 2]),
    "dilations, ceil_mode",
)
case("MaxPool", lambda n, x: (lambda top, at: n.op("Add", top, n.op("Mul", n.op("Cast", at, to=TensorProto.FLOAT), n.const(0.01))))(
     *n.multi("MaxPool", x, outs=2, kernel_shape=[2, 2], strides=[2, 2])), "the indices are read", free=False)  # fmt: skip
for _kind in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"):
    case(_kind, lambda n, x, k=_kind: n.op(k, x))
    case(
        _kind,
        lambda n, x, k=_kind: n.linear(n.op("Flatten", n.op(k, x)), 8, 5),
        "one dimension, then linear",
        host="line",
    )

case("Resize", lambda n, x: n.op("Resize", x, "", n.const([1.0, 1.0, 2.0, 1.5]), mode="linear"), "scales")
case("Resize", lambda n, x: n.op("Resize", x, n.const([1.0, 1.0, 2.0, 2.0])), "scales, opset 10", opset=10)
case(
    "Resize",
    lambda n, x: n.op("Resize", x, n.const(np.zeros(0)), n.const([1.0, 1.0, 0.5, 2.0])),
    "scales, an empty region",
    opset=11,
)
case(
    "Resize",
    lambda n, x: n.op("Resize", x, "", "", n.const([2, 8, 9, 4]), mode="cubic"),
    "sizes that restate the channels",
)
case("Resize", lambda n, x: n.op("Resize", x, "", "", n.const([9, 4]), axes=[2, 3]), "sizes of listed axes", opset=18)
case("Resize", lambda n, x: n.op("Resize", x, "", n.const([1.0, 0.5, 1.0, 1.0])), "over channels", free=False)
case("Resize", lambda n, x: n.op("Resize", x, "", "", n.op("Concat", n.op("Slice", n.op("Shape", x), n.const([0]), n.const([2])), n.const([9, 9]), axis=0)),
     "sizes computed from the extent")  # fmt: skip
case("Resize", lambda n, x: n.op("Resize", x, n.const([0.0, 0.0, 0.1, 0.2, 1.0, 1.0, 0.8, 0.9]), "", n.const([2, 8, 5, 5]),
     coordinate_transformation_mode="tf_crop_and_resize"), "a region of interest")  # fmt: skip
case(
    "Resize",
    lambda n, x: n.op("Resize", x, "", "", n.const([9, 12]), axes=[3, 2], keep_aspect_ratio_policy="not_larger"),
    "the aspect is kept",
    opset=18,
)
case("Upsample", lambda n, x: n.op("Upsample", x, n.const([1.0, 1.0, 2.0, 2.0]), mode="nearest"), opset=9)
case("Upsample", lambda n, x: n.op("Upsample", x, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"), "an attribute", opset=8)


# --- reductions ---------------------------------------------------------------------------------------------------------

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def _reduce(kind: str, axes: list[int] | None, *, as_input: bool, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        x = positive(net, x) if kind == "ReduceLogSum" else unit(net, x)
        if axes is None:
            return net.op(kind, x, **attributes)
        return (
            net.op(kind, x, net.const(axes, dtype=np.int64), **attributes)
            if as_input
            else net.op(kind, x, axes=axes, **attributes)
        )

    return build


SUMS = {"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}
for _kind in (f"Reduce{kind}" for kind in REDUCTIONS):
    _input = _kind == "ReduceSum"
    case(_kind, _reduce(_kind, [2, 3], as_input=_input), "over space")
    case(_kind, _reduce(_kind, [2, 3], as_input=_input, keepdims=0), "over space, axes gone")
    case(_kind, _reduce(_kind, [2, 3], as_input=False), "over space, opset 11", opset=11)
    case(_kind, _reduce(_kind, [-1, -2], as_input=True, keepdims=0), "over negative axes, opset 18", opset=18)
    case(_kind, _reduce(_kind, [1], as_input=_input), "over channels", free=_kind in SUMS, through=True)
    case(_kind, _reduce(_kind, [1], as_input=True, keepdims=0), "over tokens", host="tokens", opset=18)
    case(_kind, _reduce(_kind, [0], as_input=True), "over samples", opset=18)
    case(_kind, _reduce(_kind, None, as_input=_input), "over everything", free=_kind in SUMS, through=True)
case("ReduceSum", _reduce("ReduceSum", None, as_input=True, noop_with_empty_axes=1), "over nothing", opset=13)
case(
    "ReduceSum",
    _reduce("ReduceSum", [], as_input=True, noop_with_empty_axes=0),
    "over everything, by empty axes",
    opset=13,
)
case(
    "ReduceMean", _reduce("ReduceMean", None, as_input=True, noop_with_empty_axes=1), "over nothing, opset 18", opset=18
)
for _kind in ("ArgMax", "ArgMin"):
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=2), "over rows")
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=-1, keepdims=0), "over columns, the axis gone")
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=1), "over channels", free=False)
    case(_kind, lambda n, x, k=_kind: n.op(k, x, axis=-1), "the channels are last", host="tokens", free=False)
case("CumSum", lambda n, x: n.op("CumSum", x, n.const(2)), "over rows")
case("CumSum", lambda n, x: n.op("CumSum", x, n.const([-1]), exclusive=1, reverse=1), "over columns")
case("CumSum", lambda n, x: n.op("CumSum", x, n.const(1)), "over channels", free=False)
case("TopK", lambda n, x: n.multi("TopK", x, n.const([3]), outs=2, axis=-1)[0], "over columns")
case("TopK", lambda n, x: (lambda top, at: n.op("Add", top, n.op("Cast", at, to=TensorProto.FLOAT)))(*n.multi("TopK", x, n.const([4]), outs=2, axis=2)),
     "over rows, the indices are read")  # fmt: skip
case("TopK", lambda n, x: n.multi("TopK", x, outs=2, k=2, axis=2)[0], "an attribute", opset=9)
case("TopK", lambda n, x: n.multi("TopK", x, n.const([3]), outs=2, axis=1)[0], "over channels", free=False)


# --- moving -------------------------------------------------------------------------------------------------------------

case("Transpose", lambda n, x: n.op("Transpose", n.op("Transpose", x, perm=[2, 1, 0, 3]), perm=[2, 1, 0, 3]))
case("Transpose", lambda n, x: n.op("Transpose", n.op("Neg", n.op("Transpose", x))), "reversed by default")
case(
    "Transpose",
    lambda n, x: n.model(n.op("MatMul", n.op("Transpose", x, perm=[0, 2, 3, 1]), n.const(n.weights(8, 5)), out="y")),
    "channels last",
)

RESHAPES: dict[str, tuple[list[int], int]] = {
    "flattened, -1": ([0, -1], 288), "flattened, counted": ([-1, 288], 288), "flattened rows": ([0, 8, -1], 0),
    "restated": ([-1, 8, 6, 6], 0), "zeros": ([0, 0, 0, 0], 0), "zeros and -1": ([0, -1, 0, 0], 0),
    "a new axis": ([0, 8, 1, 6, 6], 0), "space merged, channels -1": ([0, -1, 36], 0),
}  # fmt: skip
for _label, (_target, _) in RESHAPES.items():
    case("Reshape", lambda n, x, t=_target: n.op("Reshape", x, n.const(t)), _label)
case(
    "Reshape",
    lambda n, x: n.op("Reshape", n.op("Reshape", x, n.const([0, 2, 4, 36])), n.const([0, 8, 6, 6])),
    "blocks and back",
)
case("Reshape", lambda n, x: n.op("Reshape", n.op("Transpose", n.op("Reshape", x, n.const([0, 2, 4, 36])), perm=[0, 2, 1, 3]), n.const([0, -1, 6, 6])),
     "shuffled")  # fmt: skip
case("Reshape", lambda n, x: n.op("Reshape", n.op("Transpose", n.op("Reshape", n.relu(n.conv(x, 8, 12, group=4)), n.const([0, 4, 3, 36])),
     perm=[0, 2, 1, 3]), n.const([0, 12, 6, 6])), "shuffled behind groups")  # fmt: skip
case("Reshape", lambda n, x: n.op("Reshape", n.op("ReduceSum", n.op("Reshape", x, n.const([0, 4, 2, 36])), n.const([2]), keepdims=0), n.const([0, 4, 6, 6])),
     "pairs added")  # fmt: skip
case("Reshape", lambda n, x: n.op("Reshape", x, n.const([-1, 4, 12, 6])), "channels in the rows")
case("Reshape", lambda n, x: n.op("Reshape", x, n.const([-1, 8])), "channels into the batch", host="line", free=False)
case("Reshape", lambda n, x: n.op("Reshape", n.op("MatMul", n.op("Reshape", x, n.const([-1, 6, 6])), n.const(n.weights(6, 4))), n.const([-1, 8, 6, 4])),
     "channels into the batch and back")  # fmt: skip
case("Reshape", lambda n, x: n.op("Reshape", x, n.const([-1, 3, 4])), "heads, read within", host="tokens", free=True)
case("Reshape", lambda n, x: n.op("Reshape", x, n.const([0, -1]), allowzero=0), "a vector stays", host="vector")
case("Reshape", lambda n, x: n.op("Reshape", x, n.op("Concat", n.op("Slice", n.op("Shape", x), n.const([0]), n.const([1])), n.const([8, 36]), axis=0)),
     "a computed batch, channels written")  # fmt: skip
case(
    "Reshape",
    lambda n, x: n.op("Reshape", n.op("Reshape", x, n.const([0, -1])), n.op("Shape", x)),
    "flattened and back by Shape",
)
case("Flatten", lambda n, x: n.op("Flatten", x))
case("Flatten", lambda n, x: n.op("Flatten", x), "channels last", host="nhwc")
case("Flatten", lambda n, x: n.op("Flatten", x, axis=-3), "negative axis", opset=11)
case("Flatten", lambda n, x: n.op("Flatten", x, axis=1), "a vector", host="vector")
case(
    "Flatten",
    lambda n, x: n.op("Flatten", n.op("Transpose", x, perm=[1, 0, 2]), axis=2),
    "channels in the rows",
    host="line",
    free=False,
)
case("Flatten", lambda n, x: n.op("Flatten", x, axis=2), "tokens in the rows", host="tokens")

case("Squeeze", lambda n, x: n.op("Squeeze", n.op("GlobalMaxPool", x), n.const([2, 3])))
case("Squeeze", lambda n, x: n.op("Squeeze", n.op("GlobalMaxPool", x), axes=[-1, 2]), "attributes", opset=11)
case("Squeeze", lambda n, x: n.op("Squeeze", n.op("GlobalMaxPool", x), n.const([-1])), "one axis")
case("Squeeze", lambda n, x: n.op("Squeeze", n.op("Unsqueeze", x, n.const([1, 3]))), "all of them", host="vector")
case(
    "Squeeze",
    lambda n, x: n.op("Squeeze", n.op("Gather", x, n.const([0]), axis=1), n.const([1])),
    "the class token",
    host="tokens",
)
case("Unsqueeze", lambda n, x: n.op("Unsqueeze", x, n.const([-1])), host="line")
case("Unsqueeze", lambda n, x: n.op("Unsqueeze", x, n.const([2, -1])), "two axes", host="line")
case("Unsqueeze", lambda n, x: n.op("Unsqueeze", x, axes=[1]), "attributes", host="tokens", opset=12)
case(
    "Unsqueeze",
    lambda n, x: n.model(n.conv(n.op("Unsqueeze", x, n.const([2, 3])), 12, 5)),
    "a vector becomes a map",
    host="vector",
    opset=13,
)

case("DepthToSpace", lambda n, x: n.op("DepthToSpace", x, blocksize=2))
case(
    "DepthToSpace",
    lambda n, x: n.op("DepthToSpace", n.relu(n.conv(x, 8, 12)), blocksize=2, mode="DCR"),
    "DCR",
    opset=11,
)
case(
    "DepthToSpace",
    lambda n, x: n.op("DepthToSpace", n.relu(n.conv(x, 8, 12)), blocksize=2, mode="CRD"),
    "CRD",
    opset=13,
)
case(
    "DepthToSpace",
    lambda n, x: n.op("DepthToSpace", n.relu(n.conv(x, 8, 12, group=4)), blocksize=2, mode="CRD"),
    "CRD behind groups",
)
case(
    "DepthToSpace",
    lambda n, x: n.op("DepthToSpace", n.relu(n.conv(x, 8, 16, group=2)), blocksize=2),
    "DCR behind groups",
)
case("SpaceToDepth", lambda n, x: n.op("SpaceToDepth", x, blocksize=2))
case("SpaceToDepth", lambda n, x: n.op("DepthToSpace", n.op("SpaceToDepth", x, blocksize=3), blocksize=3), "and back")

case("Expand", lambda n, x: n.op("Expand", n.op("GlobalMaxPool", x), n.const([1, 8, 4, 5])), "the channels restated")
case("Expand", lambda n, x: n.op("Expand", n.op("GlobalMaxPool", x), n.const([4, 5])), "a shorter shape")
case("Expand", lambda n, x: n.op("Expand", n.op("GlobalMaxPool", x), n.const([1, 1, 4, 1])), "ones")
case("Expand", lambda n, x: n.op("Expand", n.op("GlobalMaxPool", x), n.op("Shape", x)), "a computed shape")
case(
    "Expand",
    lambda n, x: n.op("Mul", x, n.op("Expand", n.conv("image", 3, 1), n.const([1, 8, 1, 1]))),
    "one channel to all",
    free=True,
)
case(
    "Expand",
    lambda n, x: n.op("Add", x, n.op("Expand", n.const(n.vector(12).reshape(1, 12)), n.const([5, 12]))),
    "a constant",
    host="tokens",
)
case("Tile", lambda n, x: n.op("Tile", x, n.const([1, 3, 1, 1])), "channels")
case("Tile", lambda n, x: n.op("Tile", x, n.const([1, 1, 2, 1])), "rows")
case("Tile", lambda n, x: n.op("Tile", x, n.const([2, 1, 2])), "channels last", host="tokens")
case(
    "Tile",
    lambda n, x: n.op("Mul", x, n.op("Tile", n.op("ReduceMean", x, axes=[1], keepdims=1), n.const([1, 8, 1, 1]))),
    "one channel to all",
    free=False,
)


# --- contractions by letters, recurrent layers, sampling, quantization, onnxruntime's own ---------------------------------


def _einsum(equation: str, *shape: int, first: bool = False) -> Build:
    def build(net: Net, x: str) -> str:
        pair = [x, net.const(net.weights(*shape, fan_in=8))]
        return net.op("Einsum", *(pair[::-1] if first else pair), equation=equation)

    return build


case("Einsum", _einsum("nchw,dc->ndhw", 9, 8))
case("Einsum", _einsum("btc, cd -> btd", 12, 9), "spaces", host="tokens")
case("Einsum", _einsum("dc,ncl->ndl", 9, 8, first=True), "the weight first", host="line")
case("Einsum", _einsum("ncl,lk->nck", 10, 7), "over the positions", host="line")
case("Einsum", _einsum("nchw,c->nchw", 8), "a scale a channel")
case(
    "Einsum",
    lambda n, x: n.model(n.op("MatMul", _einsum("nchw,cd->nhwd", 8, 9)(n, x), n.const(n.weights(9, 4)))),
    "the layout changes",
)
case("Einsum", _einsum("ncl,cld->ncd", 8, 10, 3), "a matrix for every channel", host="line")
case("Einsum", _einsum("...c,cd->...d", 12, 9), "an ellipsis", host="tokens", free=False)
case("Einsum", lambda n, x: n.op("Einsum", x, _projected(n), equation="btc,bsc->bts"), "two activations", host="tokens")
case("Einsum", lambda n, x: n.op("Einsum", n.op("Softmax", n.op("Einsum", "tokens", "tokens", equation="btc,bsc->bts"), axis=-1), x, equation="bts,bsc->btc"),
     "attention V", host="tokens")  # fmt: skip


def _letters_for_heads(net: Net, x: str) -> str:
    q, k, v = (net.op("Reshape", y, net.const([0, 0, 3, 4])) for y in (x, _projected(net), _projected(net)))
    scores = net.op("Softmax", net.op("Einsum", q, k, equation="bthd,bshd->bhts"), axis=-1)
    y = net.op("Reshape", net.op("Einsum", scores, v, equation="bhts,bshd->bthd"), net.const([0, 0, 12]))
    return y


case("Einsum", _letters_for_heads, "heads", host="tokens")


def _recurrent(kind: str, gates: int, directions: int = 1, *, bias: bool = True, state: bool = False) -> Build:
    def build(net: Net, x: str) -> str:
        x = net.op("Transpose", x, perm=[1, 0, 2])  # [T, N, C]
        w, r = (
            net.const(net.weights(directions, 6 * gates, 12, fan_in=12)),
            net.const(net.weights(directions, 6 * gates, 6, fan_in=6)),
        )
        b = net.const(net.vector(12 * gates * directions).reshape(directions, -1)) if bias else ""
        start = net.op(
            "Unsqueeze",
            net.op("ReduceMean", net.op("MatMul", "tokens", net.const(net.weights(7, 6))), axes=[1], keepdims=0),
            net.const([0]),
        )
        more = [b, "", start] if state else [b] if bias else []
        direction = "bidirectional" if directions == 2 else "forward"
        y = net.op(kind, x, w, r, *more, hidden_size=6, direction=direction)
        return net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), net.const([0, 5, 6 * directions]))

    return build


for _kind, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    case(_kind, _recurrent(_kind, _gates), host="tokens")
    case(_kind, _recurrent(_kind, _gates, 2, bias=False), "both directions, no bias", host="tokens")
    case(_kind, _recurrent(_kind, _gates, state=True), "a first state", host="tokens")


def _grid(net: Net) -> str:
    return net.op("Transpose", net.op("Tanh", net.conv("image", 3, 2)), perm=[0, 2, 3, 1])


case("GridSample", lambda n, x: n.op("GridSample", x, _grid(n)))
case(
    "GridSample",
    lambda n, x: n.op("GridSample", x, n.const(n.rng.uniform(-1, 1, (2, 4, 5, 2))), mode="nearest"),
    "a constant grid",
)
_BOXES = [[0.0, 0.0, 4.0, 3.0], [1.0, 2.0, 5.0, 5.0], [0.5, 0.5, 3.0, 4.0]]
case(
    "RoiAlign",
    lambda n, x: n.op("RoiAlign", x, n.const(np.array(_BOXES)), n.const([0, 1, 0]), output_height=3, output_width=2),
)
case(
    "MaxRoiPool",
    lambda n, x: n.op(
        "MaxRoiPool", x, n.const(np.array([[k % 2, *box] for k, box in enumerate(_BOXES)])), pooled_shape=[2, 2]
    ),
)


def _quantized(net: Net, x: str, *, size: int | None = None, domain: str = "", **attributes: object) -> str:
    scale = net.const(net.vector(size, 0.02, 0.05) if size else np.float32(0.03))
    zero = net.const(np.full(size or (), 120), dtype=np.uint8)
    q = net.op("QuantizeLinear", x, scale, zero, domain=domain, **attributes)
    return net.op("DequantizeLinear", q, scale, zero, domain=domain, **attributes)


def _quantized_of_its_own(net: Net, x: str) -> str:
    """A weight too, so that it has to be computed on the host."""
    net.domains[MICROSOFT] = 1
    x = _quantized(net, x, domain=MICROSOFT)
    scale, zero = net.const(net.vector(9, 0.02, 0.05)), net.const(np.zeros(9, np.int16), dtype=np.int16)
    weight = net.const(net.rng.integers(-100, 100, (9, 8, 1, 1)), dtype=np.int16)
    weight = net.op("DequantizeLinear", weight, scale, zero, axis=0, domain=MICROSOFT)
    return net.op("Conv", x, weight)


MICROSOFT = "com.microsoft"
for _kind in ("QuantizeLinear", "DequantizeLinear"):
    case(f"com.microsoft.{_kind}", _quantized_of_its_own)
    case(_kind, lambda n, x: _quantized(n, x), "one scale")
    case(_kind, lambda n, x: _quantized(n, x, size=8), "a scale a channel")
    case(_kind, lambda n, x: _quantized(n, x, size=12, axis=-1), "a scale a channel, last", host="tokens")
    case(_kind, lambda n, x: _quantized(n, x, size=6, axis=2), "a scale a row")
case("DequantizeLinear", lambda n, x: n.op("DequantizeLinear", n.op("Cast", n.op("Mul", n.op("Abs", x), n.const(30.0)), to=TensorProto.UINT8), n.const(0.05)),
     "no zero point", opset=10)  # fmt: skip


def _fused(added: Callable[[Net], str] | None = None, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        net.domains[MICROSOFT] = 1
        constants = [net.const(net.weights(9, 8, 1, 1)), net.const(net.vector(9))]
        return net.op("FusedConv", x, *constants, *([added(net)] if added else []), domain=MICROSOFT, **attributes)

    return build


case("com.microsoft.FusedConv", _fused(activation="Relu"))
case(
    "com.microsoft.FusedConv",
    _fused(lambda n: n.conv("image", 3, 9), activation="LeakyRelu", activation_params=[0.1]),
    "something is added",
)


def _own(kind: str, *constants: int, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        net.domains[MICROSOFT] = 1
        return net.op(kind, x, *[net.const(net.vector(n)) for n in constants], domain=MICROSOFT, **attributes)

    return build


case("com.microsoft.BiasGelu", _own("BiasGelu", 12), host="tokens")
case("com.microsoft.FastGelu", _own("FastGelu"))
case("com.microsoft.FastGelu", _own("FastGelu", 12), "a bias", host="tokens")
case("com.microsoft.Gelu", _own("Gelu"), host="vector")
case("com.microsoft.QuickGelu", _own("QuickGelu", alpha=1.2), host="line")


# --- attention as one operator, and onnxruntime's fused operators -----------------------------------------------------------


def _fused_op(net: Net, kind: str, *inputs: str, **attributes: object) -> str:
    net.domains[MICROSOFT] = 1
    return net.op(kind, *inputs, domain=MICROSOFT, **attributes)


def _attending(
    heads: tuple[int, int], *more: str | np.ndarray, widths: tuple[int, int] = (12, 12), **attributes: object
) -> Build:
    """Q is the host; heads lie in the last axis."""

    def build(net: Net, x: str) -> str:
        k, v = (_projected(net, width) for width in widths)
        rest = [net.const(r) if isinstance(r, np.ndarray) else r for r in more]
        return net.op("Attention", x, k, v, *rest, q_num_heads=heads[0], kv_num_heads=heads[1], **attributes)

    return build


def _apart(net: Net, x: str, heads: int) -> str:
    return net.op("Transpose", net.op("Reshape", x, net.const([0, 0, heads, -1])), perm=[0, 2, 1, 3])


def _together(net: Net, x: str, width: int) -> str:
    return net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.const([0, 0, width]))


def _attending_apart(heads: tuple[int, int], *, width: int = 12, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        k, v = (_apart(net, _projected(net, width), heads[1]) for _ in range(2))
        y = net.op("Attention", _apart(net, x, heads[0]), k, v, **attributes)
        return _together(net, y, 12)

    return build


def _continued(net: Net, x: str) -> str:
    past = [net.input(["N", 3, 2, 4], name) for name in ("past_key", "past_value")]
    operands = x, _projected(net), _projected(net)
    y, *_ = net.multi("Attention", *operands, "", *past, outs=3, q_num_heads=3, kv_num_heads=3)
    return y


def _key_is_an_output(net: Net, x: str) -> ModelProto:
    y, key = net.multi("Attention", x, _projected(net), _projected(net), outs=2, q_num_heads=3, kv_num_heads=3)
    return net.model(net.op("MatMul", y, net.const(net.weights(12, 5)), out="y"), key)


def _present_is_read(net: Net, x: str) -> str:
    q, k, v = x, _projected(net), _projected(net)
    y, key, value, scores = net.multi("Attention", q, k, v, outs=4, q_num_heads=3, kv_num_heads=3)
    again = _together(net, net.op("Attention", _apart(net, y, 3), key, value), 12)
    largest = net.op("Unsqueeze", net.op("ReduceMax", scores, net.const([1, 3]), keepdims=0), net.const([2]))
    return net.op("Mul", again, largest)


def _tokens_as_channels(net: Net, x: str) -> str:
    k, v = (net.op("Transpose", y, perm=[0, 2, 1]) for y in (_projected(net), x))
    return net.op("Attention", _projected(net, 5), k, v, q_num_heads=1, kv_num_heads=1)


case("Attention", _attending((3, 3)), "heads in the last axis", host="tokens", opset=23)
case("Attention", _attending((4, 2), widths=(6, 6)), "grouped queries", host="tokens", opset=23)
case(
    "Attention",
    _attending((4, 1), widths=(3, 5)),
    "one key for all heads, values of another width",
    host="tokens",
    opset=24,
)
case("Attention", _attending((3, 3), scale=0.3), "a scale of its own", host="tokens", opset=23)
case(
    "Attention",
    _attending((3, 3), np.linspace(-1, 1, 25).reshape(5, 5), is_causal=1),
    "a mask, causal",
    host="tokens",
    opset=24,
)
case(
    "Attention",
    lambda n, x: _attending((3, 3), n.op("Unsqueeze", _projected(n, 5), n.const([1])))(n, x),
    "a layer makes the mask",
    host="tokens",
    opset=23,
)
case("Attention", _attending_apart((3, 3)), "heads apart", host="tokens", opset=23)
case(
    "Attention", _attending_apart((6, 2), width=4, softcap=2.0), "heads apart, grouped queries", host="tokens", opset=24
)
case("Attention", _continued, "a past", host="tokens", opset=23, free=False)
case("Attention", _key_is_an_output, "keys are an output", host="tokens", opset=23)
case("Attention", _present_is_read, "keys and values are read again", host="tokens", opset=23)
case("Attention", _tokens_as_channels, "channels in the tokens", host="tokens", opset=23, free=False)
case("Attention", lambda n, x: n.op("Attention", x, x, x), "channels are the heads", opset=23, free=False)
case(
    "Attention",
    lambda n, x: n.op("Attention", x, n.const(n.weights(2, 5, 12)), _projected(n), q_num_heads=3, kv_num_heads=3),
    "constant keys",
    host="tokens",
    opset=23,
    free=False,
)


def _multi_head(*, bias: bool = False, width: int = 12, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        more = [net.const(net.vector(24 + width))] if bias else []
        return _fused_op(
            net, "MultiHeadAttention", x, _projected(net), _projected(net, width), *more, num_heads=3, **attributes
        )

    return build


def _across(net: Net, x: str) -> str:
    k, v = (_apart(net, _projected(net), 3) for _ in range(2))
    return _fused_op(net, "MultiHeadAttention", x, k, v, num_heads=3)


case("com.microsoft.MultiHeadAttention", _multi_head(), host="tokens")
case(
    "com.microsoft.MultiHeadAttention",
    _multi_head(bias=True, width=15),
    "a bias, values of another width",
    host="tokens",
)
case(
    "com.microsoft.MultiHeadAttention",
    _multi_head(bias=True, scale=0.4, unidirectional=1),
    "a scale, causal",
    host="tokens",
)
case("com.microsoft.MultiHeadAttention", _across, "keys with their heads apart", host="tokens")


def _angles(net: Net, positions: int, half: int) -> list[str]:
    angles = np.arange(positions)[:, None] * (0.5 ** np.arange(half))
    return [net.const(np.cos(angles)), net.const(np.sin(angles))]


_FIVE = np.tile(np.arange(5), (2, 1))


def _rotated(half: int, *, apart: bool = False, domain: str = "", **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        if apart:
            x = _apart(net, x, 2)
        caches, positions = _angles(net, 9, half), net.const(_FIVE)
        order = [positions, *caches] if domain else [*caches, positions]
        if domain:
            net.domains[domain] = 1
        y = net.op("RotaryEmbedding", x, *order, domain=domain, **attributes)
        return _together(net, y, 12) if apart else y

    return build


def _rotated_by_computed_angles(net: Net, x: str) -> str:
    places = net.input(["N", 5, 1], "places")
    angles = net.op("MatMul", places, net.const(net.weights(1, 3)))
    return net.op("RotaryEmbedding", x, net.op("Cos", angles), net.op("Sin", angles), num_heads=2)


def _rotated_by_inputs(net: Net, x: str) -> str:
    caches = [net.input(["N", 5, 3], name) for name in ("cos", "sin")]
    return net.op("RotaryEmbedding", x, *caches, num_heads=2)


def _rotated_and_attended(net: Net, x: str) -> str:
    q, k = (
        net.op("RotaryEmbedding", y, *_angles(net, 9, 3), net.const(_FIVE), num_heads=heads)
        for y, heads in ((x, 2), (_projected(net, 6), 1))
    )
    return net.op("Attention", q, k, _projected(net, 6), q_num_heads=2, kv_num_heads=1)


case("RotaryEmbedding", _rotated(3, num_heads=2), host="tokens", opset=23)
case(
    "RotaryEmbedding",
    _rotated(3, apart=True, interleaved=1),
    "pairs side by side, heads apart",
    host="tokens",
    opset=23,
)
case(
    "RotaryEmbedding", _rotated(2, num_heads=2, rotary_embedding_dim=4), "a part of each head", host="tokens", opset=23
)
case(
    "RotaryEmbedding",
    _rotated(1, apart=True, rotary_embedding_dim=2),
    "a part of each head, heads apart",
    host="tokens",
    opset=23,
)
case("RotaryEmbedding", _rotated_by_computed_angles, "computed angles", host="tokens", opset=23)
case("RotaryEmbedding", _rotated_by_inputs, "angles that are inputs", host="tokens", opset=23, free=False)
case("RotaryEmbedding", _rotated_and_attended, "before attention", host="tokens", opset=23)
case("com.microsoft.RotaryEmbedding", _rotated(3, domain=MICROSOFT, num_heads=2), host="tokens")
case(
    "com.microsoft.RotaryEmbedding",
    _rotated(3, domain=MICROSOFT, interleaved=1),
    "the width of a head is not said",
    host="tokens",
)
case(
    "com.microsoft.RotaryEmbedding",
    _rotated(2, domain=MICROSOFT, num_heads=2, rotary_embedding_dim=4),
    "a part of each head",
    host="tokens",
)


def _fused_weight(kind: str, *shape: int, first: bool = False, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        pair = [x, net.const(net.weights(*shape, fan_in=12))]
        return _fused_op(net, kind, *(pair[::-1] if first else pair), **attributes)

    return build


def _turned_first(net: Net, x: str) -> str:
    y = _fused_op(net, "FusedMatMul", net.op("Transpose", x, perm=[0, 2, 1]), net.const(net.weights(12, 9)), transA=1)
    return y


def _fused_scores(net: Net, x: str) -> str:
    scores = _fused_op(net, "FusedMatMul", x, _projected(net), transB=1, alpha=0.3)
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), _projected(net))


def _batch_moved(net: Net, x: str) -> str:
    return _fused_op(
        net, "FusedMatMul", net.op("Transpose", x, perm=[1, 0, 2]), net.const(net.weights(1, 12, 9)), transBatchA=1
    )


case("com.microsoft.FusedMatMul", _fused_weight("FusedMatMul", 9, 12, transB=1, alpha=0.5), host="tokens")
case("com.microsoft.FusedMatMul", _turned_first, "the first one turned", host="tokens")
case(
    "com.microsoft.FusedMatMul",
    _fused_weight("FusedMatMul", 5, 9, first=True, transA=1),
    "a turned weight over the tokens",
    host="tokens",
)
case("com.microsoft.FusedMatMul", _fused_scores, "two activations", host="tokens")
case("com.microsoft.TransposeMatMul", _fused_weight("TransposeMatMul", 9, 12, transB=1), host="tokens")
case(
    "com.microsoft.FusedGemm",
    lambda n, x: _fused_op(
        n, "FusedGemm", x, n.const(n.weights(9, 12)), n.const(n.vector(9)), transB=1, activation="Relu"
    ),
    host="vector",
)
case(
    "com.microsoft.FusedGemm",
    lambda n, x: _fused_op(n, "FusedGemm", x, n.const(n.weights(12, 9)), activation="LeakyRelu", activation_alpha=0.1),
    "no bias",
    host="vector",
)


def _skip_norm(kind: str, width: int, *sizes: int, read: str = "normalised") -> Build:
    def build(net: Net, x: str) -> str:
        net.domains[MICROSOFT] = 1
        other = net.conv("signal", 3, 8, dims=1) if width == 10 else _projected(net)
        more = [net.const(net.vector(n, 0.5, 1.5)) for n in sizes]
        y, _, _, total = net.multi(
            kind, x, other, *more, outs=[net.unique("y"), "", "", net.unique("sum")], domain=MICROSOFT
        )
        return y if read == "normalised" else net.op("Add", y, total)

    return build


case(
    "com.microsoft.SkipLayerNormalization",
    _skip_norm("SkipLayerNormalization", 10, 10, 10, 10),
    "over positions",
    host="line",
)
case(
    "com.microsoft.SkipLayerNormalization",
    _skip_norm("SkipLayerNormalization", 10, 10, read="sum"),
    "the sum is read",
    host="line",
)
case(
    "com.microsoft.SkipLayerNormalization",
    _skip_norm("SkipLayerNormalization", 12, 12, 12),
    "over channels",
    host="tokens",
    free=False,
)
case(
    "com.microsoft.SkipSimplifiedLayerNormalization",
    _skip_norm("SkipSimplifiedLayerNormalization", 10, 10, 10),
    "over positions",
    host="line",
)
case(
    "com.microsoft.SkipSimplifiedLayerNormalization",
    _skip_norm("SkipSimplifiedLayerNormalization", 12, 12),
    "over channels",
    host="tokens",
    free=False,
)
case(
    "SimplifiedLayerNormalization",
    lambda n, x: n.op("SimplifiedLayerNormalization", x, n.const(n.vector(6, 0.5, 1.5))),
    "over positions",
)
case(
    "SimplifiedLayerNormalization",
    lambda n, x: n.op("SimplifiedLayerNormalization", x, n.const(n.vector(12, 0.5, 1.5))),
    "over channels",
    host="tokens",
    free=False,
    through=True,
)

# --- rarer operators of the standard ----------------------------------------------------------------------------------------


def _best_tokens(net: Net, x: str, *, wide: str = "Expand") -> str:
    """The tokens of the largest scores, as detection transformers choose their queries."""
    scores = net.op("ReduceMax", _projected(net), axes=[2], keepdims=0)
    best = net.op("Unsqueeze", net.multi("TopK", scores, net.const([3]), outs=2)[1], net.const([2]))
    repeats = [1, 1, 12] if wide == "Tile" else [2, 3, 12]
    return net.op("GatherElements", x, net.op(wide, best, net.const(repeats)), axis=1)


def _last_token(net: Net, x: str) -> str:
    """The token of the largest score of each sample, as CLIP pools a text."""
    place = net.op("ArgMax", net.op("ReduceMax", _projected(net), axes=[2], keepdims=0), axis=1)
    return net.op("GatherND", x, place, batch_dims=1)


case("GatherElements", _best_tokens, "tokens by score", host="tokens")
case(
    "GatherElements",
    lambda n, x: _best_tokens(n, x, wide="Tile"),
    "indices that are tiled",
    host="tokens",
    free=False,
    through=True,
)
case(
    "GatherElements",
    lambda n, x: n.op("GatherElements", x, n.op("ArgMax", _another(n, x), axis=2), axis=2),
    "another layer chooses the row",
)
case(
    "GatherElements",
    lambda n, x: n.op("GatherElements", x, n.op("ArgMax", _another(n, x), axis=2), axis=1),
    "over channels",
    free=False,
)


def _level(net: Net, x: str, *, wide: int = 1, by_number: bool = False) -> str:
    """Some samples, chosen by the data, are computed apart and written into zeros, as boxes are pooled by level."""
    x = net.op("Tile", x, net.const([1, 1, wide, wide]))
    score = net.op("ReduceMean", "image", axes=[1, 2, 3], keepdims=0)
    chosen = net.op("NonZero", net.op("GreaterOrEqual", score, net.op("ReduceMean", score, keepdims=1)))
    place = net.op("Squeeze", chosen, net.const([0]))
    part = net.relu(net.op("Gather", x, place, axis=0))
    target = net.op("Shape", part)
    if by_number:
        target = net.op("Concat", net.op("Shape", place), net.const([8, 6 * wide, 6 * wide]), axis=0)
    places = net.op("Expand", net.op("Reshape", place, net.const([-1, 1, 1, 1])), target)
    return net.op("ScatterElements", net.op("ConstantOfShape", net.op("Shape", x)), places, part, axis=0)


def _written_rows(net: Net, x: str, op: str = "ScatterElements") -> str:
    """Rows of another layer take places that the image chooses."""
    places = net.op("ArgMax", net.op("MatMul", _another(net, x), net.const(net.weights(6, 6))), axis=2)
    return net.op(op, x, places, net.op("Slice", _another(net, x), *(net.const([n]) for n in (2, 3, 2))), axis=2)


def _written_tokens(net: Net, x: str) -> str:
    """A learned vector takes the place of two tokens."""
    places = net.const(np.array([[0, 1], [1, 3]]))
    return net.op("ScatterND", x, places, net.const(net.weights(2, 12)))


def _written_computed_tokens(net: Net, x: str) -> str:
    """Another layer's tokens are written, one in each sample, where the scores are largest."""
    place = net.op("ArgMax", net.op("ReduceMax", _projected(net), axes=[2], keepdims=0), axis=1)
    place = net.op("Concat", net.const(np.array([[0], [1]])), place, axis=1)
    other = net.op("MatMul", net.op("ReduceMean", "tokens", axes=[1], keepdims=0), net.const(net.weights(7, 12)))
    return net.op("ScatterND", x, place, other)


for _wide in (1, 4):
    case("ScatterElements", lambda n, x, w=_wide: _level(n, x, wide=w), f"levels, {_wide}")
case("ConstantOfShape", lambda n, x: _level(n, x, wide=4), "zeros that are written into")
case("Expand", lambda n, x: _level(n, x, wide=4, by_number=True), "places for every element, a target with numbers")
case("ScatterElements", _written_rows, "rows of another layer")
case("Scatter", lambda n, x: _written_rows(n, x, "Scatter"), "rows of another layer", opset=10)
case("ScatterND", _written_tokens, "a constant", host="tokens")
case("ScatterND", _written_computed_tokens, "tokens of another layer", host="tokens")
case("GatherND", _last_token, "a token of each sample", host="tokens")
case(
    "GatherND",
    lambda n, x: n.op("GatherND", x, n.const(np.array([[0, 1], [1, 3], [1, 0]]))),
    "tokens by number",
    host="tokens",
)
case("GatherND", lambda n, x: n.op("GatherND", x, n.const(np.array([[1], [0]]))), "samples by number", host="vector")
case(
    "GatherND",
    lambda n, x: n.op("GatherND", x, n.const(np.array([[[3]], [[5]]])), batch_dims=1),
    "over channels",
    host="vector",
    free=False,
)

case("CastLike", lambda n, x: n.op("CastLike", x, n.const(0.0)))
case(
    "CastLike",
    lambda n, x: n.op("Add", x, n.op("CastLike", n.const(n.vector(12)), x)),
    "a constant made to fit",
    host="tokens",
)
case("CastLike", lambda n, x: n.op("Mul", x, n.op("CastLike", n.const(0.5), x)), "a number made to fit")
case("Trilu", lambda n, x: n.op("Trilu", x, n.const(np.array(1)), upper=0))
case("Trilu", lambda n, x: n.op("Trilu", x), "the channels are last", host="tokens", free=False)
case(
    "ReverseSequence",
    lambda n, x: n.op("ReverseSequence", x, n.const([3, 5]), batch_axis=0, time_axis=1),
    host="tokens",
)
case(
    "ReverseSequence",
    lambda n, x: n.op("ReverseSequence", x, n.const([3, 5]), batch_axis=0, time_axis=1),
    "over channels",
    free=False,
)
case("CenterCropPad", lambda n, x: n.op("CenterCropPad", x, n.const([4, 9]), axes=[2, -1]), opset=18)
case(
    "CenterCropPad",
    lambda n, x: n.op("CenterCropPad", x, n.const([5]), axes=[1]),
    "along channels",
    opset=18,
    free=False,
)
case("Col2Im", lambda n, x: n.op("Col2Im", x, n.const([3, 6]), n.const([2, 2])), host="line", opset=18)
case(
    "Col2Im",
    lambda n, x: n.op("Col2Im", n.relu(n.conv(x, 8, 12, dims=1, group=2)), n.const([3, 6]), n.const([2, 2])),
    "behind groups",
    host="line",
    opset=18,
)


def _deformed(*, mask: bool = False, bias: bool = True, offset_group: int = 1, **attributes: object) -> Build:
    def build(net: Net, x: str) -> str:
        offsets = net.conv("image", 3, 18 * offset_group)
        more = [
            net.const(net.vector(9)) if bias else "",
            *([net.op("Sigmoid", net.conv("image", 3, 9))] if mask else []),
        ]
        weight = net.const(net.weights(9, 8, 3, 3))
        return net.relu(
            net.op("DeformConv", x, weight, offsets, *more, pads=[1] * 4, offset_group=offset_group, **attributes)
        )

    return build


case("DeformConv", _deformed(), opset=19)
case("DeformConv", _deformed(mask=True), "a mask", opset=22)
case("DeformConv", _deformed(bias=False, offset_group=2), "groups of offsets", opset=19, free=False)


# --- the suite ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", CASES, ids=lambda c: f"{c.op}-{c.label.replace(' ', '_')}")
def test_operator_between_layers_can_be_cut(item):
    model = built(item)
    inputs = feeds(model, np.random.default_rng(0), n=2)
    for output in run(model, inputs).values():
        assert np.isfinite(output).all(), "a case should compute something"
        assert output.std() > 0, "a case should compute something"
    trace = settle_model(model, inputs)
    assert worst_equivalence(trace, inputs, shares=(0.5, 1.0)) <= BOUND, onnx.printer.to_text(model)
    found = counts(trace)
    assert (found[0] > 0) == item.free, f"{found[0]} of {found[1]} channels may go; {reasons(trace)}"


@pytest.mark.parametrize("item", [c for c in CASES if not c.free], ids=lambda c: f"{c.op}-{c.label.replace(' ', '_')}")
def test_normalisation_over_the_kept_channels_only(item):
    model = built(item)
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs, through_norm=True)
    assert worst_equivalence(trace, inputs, shares=(0.5, 1.0)) <= BOUND, onnx.printer.to_text(model)
    found = counts(trace)
    assert (found[0] > 0) == item.through, f"{found[0]} of {found[1]} channels may go; {reasons(trace)}"


def test_no_operator_has_a_rule_without_a_case():
    assert {f"{domain}.{op}" if domain else op for domain, op in RULES} == {item.op for item in CASES}


def test_cases_have_names_of_their_own():
    names = [(item.op, item.label) for item in CASES]
    assert len(names) == len(set(names))
