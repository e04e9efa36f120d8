"""Operators that take elements, or put them, where indices say."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from pfa_onnx.torch.ops.operands import numbers, some, wrapped
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

_JOINS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # what torch calls them


@operator("Gather", trains=(0,))
def gather(n: Node) -> Function:
    """Drop the axis where there is a single index."""
    axis, fixed = int(n.attribute("axis", 0)), n.constant(1)
    if fixed is not None and fixed.ndim == 0:
        position = int(fixed)
        return lambda x, _: x.select(axis, position)
    counted = fixed is not None and bool((fixed >= 0).all())

    def run(x: Tensor, index: Tensor) -> Tensor:
        place = axis % x.ndim
        flat = index.reshape(-1) if counted else wrapped(index, x.shape[place]).reshape(-1)
        taken = x.index_select(place, flat)
        return taken.reshape((*x.shape[:place], *index.shape, *x.shape[place + 1 :]))

    return run


@operator("GatherElements")
def gather_elements(n: Node) -> Function:
    axis = int(n.attribute("axis", 0))
    return lambda x, index: torch.gather(x, axis, wrapped(index, x.shape[axis]))


@operator("GatherND")
def gather_nd(n: Node) -> Function:
    """Look into its own part of x for every element of a batch, which the first axes may be."""
    shared = int(n.attribute("batch_dims", 0))

    def run(x: Tensor, index: Tensor) -> Tensor:
        rank = index.ndim - 1
        batch = [
            torch.arange(x.shape[axis], device=x.device).view([-1 if k == axis else 1 for k in range(rank)])
            for axis in range(shared)
        ]
        return x[(*batch, *index.long().unbind(-1))]

    return run


def _reduction(n: Node) -> str:
    how = str(n.attribute("reduction", "none"))
    if how != "none" and how not in _JOINS:
        raise Untrainable(f"reduction {how}")
    return how


@operator("ScatterND")
def scatter_nd(n: Node) -> Function:
    how = _reduction(n)

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index = index.long()
        depth = index.shape[-1]
        if how in {"none", "add"}:
            return x.index_put(tuple(index.unbind(-1)), updates, accumulate=how == "add")
        rows = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
        for axis, position in enumerate(index.unbind(-1)):
            rows = rows * x.shape[axis] + wrapped(position, x.shape[axis])
        flat = x.reshape(prod(x.shape[:depth]), -1)
        news = updates.reshape(-1, flat.shape[1])
        return flat.scatter_reduce(0, rows.reshape(-1, 1).expand_as(news), news, _JOINS[how]).reshape(x.shape)

    return run


@operator("Scatter", "ScatterElements")
def scatter_elements(n: Node) -> Function:
    axis, how = int(n.attribute("axis", 0)), _reduction(n)

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index = wrapped(index, x.shape[axis])
        if how == "none":
            return x.scatter(axis, index, updates)
        return x.scatter_reduce(axis, index, updates, _JOINS[how])

    return run


@operator("OneHot", host=(1,))
def one_hot(n: Node) -> Function:
    """Be on nowhere for indices beyond the depth, at either end."""
    axis, depth_of = int(n.attribute("axis", -1)), numbers(n, 1)

    def run(index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        extent, place = some(depth_of(depth))[0], axis % (index.ndim + 1)
        classes = torch.arange(extent, device=index.device).view(-1, *[1] * (index.ndim - place))
        hot = wrapped(index, extent).unsqueeze(place) == classes
        return torch.where(hot, values[1], values[0])

    return run


@operator("Compress")
def compress(n: Node) -> Function:
    """Without an axis, x is one long line."""
    axis = n.attribute("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        kept = condition.nonzero().reshape(-1)
        return x.reshape(-1)[kept] if axis is None else x.index_select(axis, kept)

    return run


@operator("NonZero")
def non_zero(n: Node) -> Function:
    del n
    return lambda x: torch.atleast_1d(x).nonzero().t().contiguous()


@operator("TopK", host=(1,))
def top_k(n: Node) -> Function:
    """Sort all of it, since torch's own topk takes equal elements in any order: the first ones are meant."""
    axis, k_of, largest = int(n.attribute("axis", -1)), numbers(n, 1, "k"), bool(n.attribute("largest", 1))

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
        values, index = torch.sort(x, dim=axis, descending=largest, stable=True)
        count = some(k_of(k))[0]
        return values.narrow(axis, 0, count), index.narrow(axis, 0, count)

    return run


@operator("ArgMax", "ArgMin")
def arg_extreme(n: Node) -> Function:
    axis, keep = int(n.attribute("axis", 0)), bool(n.attribute("keepdims", 1))
    find, last = torch.argmax if n.op == "ArgMax" else torch.argmin, bool(n.attribute("select_last_index", 0))

    def run(x: Tensor) -> Tensor:
        if last:
            return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep)
        return find(x, axis, keepdim=keep)

    return run


@operator("CumSum", host=(1,))
def cum_sum(n: Node) -> Function:
    axis_of = numbers(n, 1)
    exclusive, backwards = bool(n.attribute("exclusive", 0)), bool(n.attribute("reverse", 0))

    def run(x: Tensor, given: Tensor) -> Tensor:
        axis = some(axis_of(given))[0]
        y = x.flip(axis) if backwards else x
        if exclusive:
            y = torch.cat([torch.zeros_like(y.narrow(axis, 0, 1)), y.narrow(axis, 0, y.shape[axis] - 1)], axis)
        y = y.cumsum(axis, dtype=x.dtype)
        return y.flip(axis) if backwards else y

    return run


@operator("Unique")
def unique(n: Node) -> Function:
    """Take the first of those that are alike, so that it stays differentiable."""
    axis, ordered = n.attribute("axis"), bool(n.attribute("sorted", 1))

    def run(x: Tensor) -> Any:
        x = x.reshape(-1) if axis is None else x
        place = axis or 0
        _, back, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=place)
        places = torch.arange(len(back), device=x.device)
        first = torch.full_like(counts, len(back)).scatter_reduce(0, back, places, "amin")
        if not ordered:
            order = first.argsort()
            first, counts, back = first[order], counts[order], order.argsort()[back]
        found = (x.index_select(place, first), first, back, counts)
        return found[: n.outputs] if n.outputs > 1 else found[0]

    return run
