"""Sums, means and extremes along axes, and what is normalised by them alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from pfa_onnx.torch.ops.operands import numbers
from pfa_onnx.torch.registry import Function, Node, operator

Axes = tuple[int, ...]
Reduce = Callable[[Tensor, Axes, bool], Tensor]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _prod(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Multiply along one axis after the other, the last first: torch takes one at a time."""
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l2(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """Use torch's own norm for its derivative: it is finite at 0."""
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)
    return _sum(x * x, axes, keep).double().sqrt().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    real = x if x.is_floating_point() else x.double()
    return torch.logsumexp(real, axes, keepdim=keep).to(x.dtype)


_REDUCE: dict[str, Reduce] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": _l2,
    "ReduceLogSum": lambda x, axes, keep: _sum(x, axes, keep).log().to(x.dtype),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
}


@operator(*_REDUCE, host=(1,))
def reduction(n: Node) -> Function:
    reduce, axes_of = _REDUCE[n.op], numbers(n, 1, "axes")
    keep, noop = bool(n.attribute("keepdims", 1)), bool(n.attribute("noop_with_empty_axes", 0))

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(given)
        if not axes and noop:  # what is done to every element is done all the same
            return reduce(x.unsqueeze(-1), (-1,), False)
        return reduce(x, tuple(axes or range(x.ndim)), keep)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(n: Node) -> Function:
    """Before version 13, all axes from the given one on are one."""
    rescale: Callable[[Tensor, int], Tensor] = {
        "Softmax": torch.softmax,
        "LogSoftmax": torch.log_softmax,
        "Hardmax": _hardmax,
    }[n.op]
    if n.opset >= 13:
        axis = int(n.attribute("axis", -1))
        return lambda x: rescale(x, axis)
    first = int(n.attribute("axis", 1))

    def run(x: Tensor) -> Tensor:
        flat = x.reshape(prod(x.shape[:first]), prod(x.shape[first:]))
        return rescale(flat, 1).reshape(x.shape)

    return run


@operator("LpNormalization")
def lp_normalization(n: Node) -> Function:
    """Leave alone what has no length."""
    axis, p = int(n.attribute("axis", -1)), int(n.attribute("p", 2))

    def run(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / torch.where(length == 0, torch.ones_like(length), length)

    return run


@operator("MeanVarianceNormalization")
def mean_variance_normalization(n: Node) -> Function:
    axes = tuple(n.attribute("axes", [0, 2, 3]))

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        # The standard adds 1e-9 to the deviation; under the root it is as good, and has a derivative at 0.
        return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-18)

    return run
