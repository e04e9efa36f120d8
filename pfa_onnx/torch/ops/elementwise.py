"""Operators that work on every element by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.dtypes import dtype_of
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

_MOST = float(np.finfo(np.float32).max)

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": functional.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Mish": functional.mish,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}


@operator(*_UNARY)
def unary(n: Node) -> Function:
    return _UNARY[n.op]


@operator(*_BINARY)
def binary(n: Node) -> Function:
    return _BINARY[n.op]


@operator("Add", "Sub", "Mul", trains="vectors")
def arithmetic(n: Node) -> Function:
    return {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}[n.op]


@operator("Div", trains="vectors")
def div(n: Node) -> Function:
    del n

    def run(a: Tensor, b: Tensor) -> Tensor:
        whole = not (a.is_floating_point() or b.is_floating_point())
        return torch.div(a, b, rounding_mode="trunc" if whole else None)

    return run


@operator("Pow")
def power(n: Node) -> Function:
    """Take a constant exponent as a number: a square has a faster, and at 0 a finite, derivative."""
    exponent = n.constant(1)
    if exponent is None or exponent.size != 1:
        return lambda a, b: torch.pow(a, b).to(a.dtype)
    number: Any = exponent.item()
    number = int(number) if float(number).is_integer() else number
    rank = exponent.ndim

    def run(a: Tensor, _: Tensor) -> Tensor:
        y = torch.pow(a, number).to(a.dtype)
        return y[(None,) * (rank - y.ndim)] if y.ndim < rank else y

    return run


@operator("Mod")
def mod(n: Node) -> Function:
    return torch.fmod if n.attribute("fmod", 0) else torch.remainder


@operator("BitShift")
def shift(n: Node) -> Function:
    return torch.bitwise_left_shift if n.attribute("direction") == "LEFT" else torch.bitwise_right_shift


@operator("Sum", "Max", "Min", "Mean")
def several(n: Node) -> Function:
    join = {"Sum": torch.add, "Mean": torch.add, "Max": torch.maximum, "Min": torch.minimum}[n.op]
    if n.op == "Mean":
        return lambda *xs: reduce(join, xs) / len(xs)
    return lambda *xs: reduce(join, xs)


@operator("Where")
def where(n: Node) -> Function:
    del n
    return torch.where


@operator("Clip")
def clip(n: Node) -> Function:
    if n.opset < 11:
        low, high = n.attribute("min", -_MOST), n.attribute("max", _MOST)
        return lambda x: torch.clamp(x, low, high)
    ends = [None if (c := n.constant(k)) is None else c.item() for k in (1, 2)]
    if all(end is not None or not n.given(k) for k, end in enumerate(ends, start=1)):
        return lambda x, *_: torch.clamp(x, *ends) if ends != [None, None] else x
    return lambda x, low=None, high=None: torch.clamp(x, low, high)


@operator("Cast")
def cast(n: Node) -> Function:
    wanted = dtype_of(int(n.attribute("to")))
    return lambda x: x.to(wanted)


@operator("CastLike")
def cast_like(n: Node) -> Function:
    del n
    return lambda x, like: x.to(like.dtype)


@operator("LeakyRelu")
def leaky_relu(n: Node) -> Function:
    slope = float(n.attribute("alpha", 0.01))
    return lambda x: functional.leaky_relu(x, slope)


@operator("PRelu", trains=(1,))
def prelu(n: Node) -> Function:
    del n
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@operator("Elu", "Celu", "Selu", "ThresholdedRelu")
def elu(n: Node) -> Function:
    alpha = float(n.attribute("alpha", 1.67326319217681884765625 if n.op == "Selu" else 1.0))
    if n.op == "Elu":
        return lambda x: functional.elu(x, alpha)
    if n.op == "Celu":
        return lambda x: functional.celu(x, alpha)
    if n.op == "Selu":
        gamma = float(n.attribute("gamma", 1.05070102214813232421875))
        return lambda x: gamma * functional.elu(x, alpha)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("HardSigmoid")
def hard_sigmoid(n: Node) -> Function:
    alpha, beta = float(n.attribute("alpha", 0.2)), float(n.attribute("beta", 0.5))
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@operator("Gelu")
def gelu(n: Node) -> Function:
    how = str(n.attribute("approximate", "none"))
    return lambda x: functional.gelu(x, approximate=how)


@operator("Swish")
def swish(n: Node) -> Function:
    alpha = float(n.attribute("alpha", 1.0))
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("Shrink")
def shrink(n: Node) -> Function:
    bias, limit = float(n.attribute("bias", 0.0)), float(n.attribute("lambd", 0.5))
    return lambda x: torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


@operator("IsInf")
def is_inf(n: Node) -> Function:
    signs = [s for s, name in ((1, "detect_positive"), (-1, "detect_negative")) if n.attribute(name, 1)]
    return lambda x: torch.isinf(x) & torch.isin(torch.sign(x), torch.tensor(signs, dtype=x.dtype, device=x.device))


@operator("Dropout", modal=True)
def dropout(n: Node) -> Function:
    """Drop in training only. The mask was a number at first, and empty where nothing is dropped."""
    ratio = n.constant(1) if n.opset >= 12 else np.asarray(n.attribute("ratio", 0.5))
    share = 0.5 if ratio is None else float(ratio)
    if n.opset >= 12 and n.given(1) and ratio is None:
        raise Untrainable("a ratio that is computed")
    masked, full = n.outputs > 1, n.opset >= 12

    def run(x: Tensor, *_: Any, training: bool) -> Any:
        if not masked:
            return functional.dropout(x, share, training)
        kept = torch.rand_like(x) >= share if training else torch.full_like(x, full, dtype=torch.bool)
        y = torch.where(kept, x / (1 - share), torch.zeros_like(x)) if training else x
        return y, kept if n.opset >= 10 else kept.to(x.dtype)

    return run
