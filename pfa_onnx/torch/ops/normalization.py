"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.registry import Function, Node, Untrainable, operator


@operator("BatchNormalization", trains=(1, 2), modal=True)
def batch_normalization(n: Node) -> Function:
    """Update the running statistics in training, if they are this node's own; ONNX's momentum is what stays of them."""
    eps, momentum = float(n.attribute("epsilon", 1e-5)), 1 - float(n.attribute("momentum", 0.9))
    updates, several = n.updates(3) and n.updates(4), n.outputs > 1
    if not n.attribute("spatial", 1):
        raise Untrainable("spatial 0")
    if n.attribute("training_mode", 0):
        return _always_by_batch(eps, momentum, updates, several)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, training: bool) -> Tensor:
        return functional.batch_norm(x, mean, var, scale, bias, training and updates, momentum, eps)

    return run


def _always_by_batch(eps: float, momentum: float, updates: bool, several: bool) -> Function:
    """Return what an export in training mode does: the batch counts at every run. Its variances are of the batch."""

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, training: bool) -> Any:
        y = functional.batch_norm(x, None, None, scale, bias, True, momentum, eps)
        if not several and not (training and updates):
            return y
        with torch.no_grad():
            new = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
            new_var, new_mean = (old.lerp(one, momentum) for old, one in zip((var, mean), new, strict=True))
            if training and updates:
                mean.copy_(new_mean)
                var.copy_(new_var)
        return (y, new_mean, new_var) if several else y

    return run


@operator("InstanceNormalization", trains=(1, 2))
def instance_normalization(n: Node) -> Function:
    """Take every channel as a group: torch's own refuses an image of one pixel."""
    eps = float(n.attribute("epsilon", 1e-5))
    return lambda x, scale, bias: torch.group_norm(x, x.shape[1], scale, bias, eps)


@operator("GroupNormalization", trains=(1, 2))
def group_normalization(n: Node) -> Function:
    """Before version 21, scale and bias have one number for each group."""
    groups, eps = int(n.attribute("num_groups")), float(n.attribute("epsilon", 1e-5))
    if n.opset >= 21:
        return lambda x, scale, bias: torch.group_norm(x, groups, scale, bias, eps)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        each = x.shape[1] // groups
        return torch.group_norm(x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), eps)

    return run


@operator("LayerNormalization", trains=(1, 2))
def layer_normalization(n: Node) -> Function:
    axis, eps = int(n.attribute("axis", -1)), float(n.attribute("epsilon", 1e-5))
    several = n.outputs > 1

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        if not several:
            return layer_norm(x, scale, bias, axis, eps)
        y, mean, inverse = standardized(x, axis, eps)
        y = y * scale
        return y if bias is None else y + bias, mean, inverse

    return run


@operator("RMSNormalization", trains=(1,))
def rms_normalization(n: Node) -> Function:
    axis, eps = int(n.attribute("axis", -1)), float(n.attribute("epsilon", 1e-5))
    return lambda x, scale: rms_norm(x, scale, axis, eps)


@operator("SimplifiedLayerNormalization", trains=(1,))  # onnxruntime's own, in the standard's domain
@operator("SimplifiedLayerNormalization", domain="com.microsoft", trains=(1,))
def simplified_layer_normalization(n: Node) -> Function:
    axis, eps = int(n.attribute("axis", -1)), float(n.attribute("epsilon", 1e-5))
    several = n.outputs > 1

    def run(x: Tensor, scale: Tensor) -> Any:
        if not several:
            return rms_norm(x, scale, axis, eps)
        inverse = torch.rsqrt(x.square().mean(_last(x, axis), keepdim=True) + eps)
        return x * inverse * scale, inverse

    return run


@operator("LRN")
def lrn(n: Node) -> Function:
    """Use torch's own, which has its window where ONNX has it if the size is odd."""
    size, alpha, beta = int(n.attribute("size")), float(n.attribute("alpha", 1e-4)), float(n.attribute("beta", 0.75))
    bias = float(n.attribute("bias", 1.0))
    if size % 2 == 0:
        raise Untrainable("an even size")
    return lambda x: functional.local_response_norm(x, size, alpha, beta, bias)


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float) -> Tensor:
    """Normalise all axes from one on; scale and bias may be shorter, as far as they broadcast."""
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, eps)
    y = functional.layer_norm(x, shape, None, None, eps) * scale
    return y if bias is None else y + bias


def rms_norm(x: Tensor, scale: Tensor, axis: int, eps: float) -> Tensor:
    """Divide by the root of the mean square over all axes from one on."""
    shape = x.shape[axis:]
    if scale.shape == shape:
        return functional.rms_norm(x, shape, scale, eps)
    return functional.rms_norm(x, shape, None, eps) * scale


def standardized(x: Tensor, axis: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return x with mean 0 and deviation 1 over all axes from one on, the mean, and what it was multiplied by."""
    mean = x.mean(_last(x, axis), keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(_last(x, axis), keepdim=True) + eps)
    return (x - mean) * inverse, mean, inverse


def _last(x: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(range(axis % x.ndim, x.ndim))
