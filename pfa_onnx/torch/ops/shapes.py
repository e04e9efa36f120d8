"""Shapes and what is made of them. They stay in the host's memory, where Python reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfa_onnx.graph.model import constant_of
from pfa_onnx.torch.dtypes import dtype_of, tensor_of
from pfa_onnx.torch.ops.operands import numbers, some
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator


@operator("Shape")
def shape(n: Node) -> Function:
    part = slice(n.attribute("start", 0), n.attribute("end"))
    return lambda x: torch.tensor(x.shape[part], dtype=torch.int64)


@operator("Size")
def size(n: Node) -> Function:
    del n
    return lambda x: torch.tensor(x.numel())


@operator("Range", host=(0, 1, 2))
def ranges(n: Node) -> Function:
    del n

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, last, step = start.item(), limit.item(), delta.item()
        count = max(0, math.ceil((last - first) / step))
        return first + torch.arange(count, dtype=start.dtype) * step

    return run


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(n: Node) -> Function:
    shape_of = numbers(n, 0)
    value = tensor_of(np.asarray(n.attribute("value", np.zeros(1, np.float32)))).reshape(())
    return lambda given: value.repeat(some(shape_of(given)))


@operator("EyeLike")
def eye_like(n: Node) -> Function:
    shift, kind = int(n.attribute("k", 0)), n.attribute("dtype")
    wanted = None if kind is None else dtype_of(int(kind))

    def run(x: Tensor) -> Tensor:
        rows, columns = (torch.arange(extent, device=x.device) for extent in x.shape)
        return (columns - rows[:, None] == shift).to(wanted or x.dtype)

    return run


@operator("Constant")
def constant(n: Node) -> Function:
    """Make what was not folded."""
    if str(n.node.outputs[0].name) in n.trained:
        raise Untrainable("weights in it")
    made: Any = tensor_of(constant_of(n.node))
    return lambda: made
