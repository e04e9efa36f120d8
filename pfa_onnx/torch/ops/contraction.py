"""Convolutions and matrix products."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.ops.padding import pad, same_pads
from pfa_onnx.torch.registry import Function, Node, operator

Extents = tuple[int, ...]

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def _each(given: list[int] | None, rank: int, default: int) -> Extents:
    """Return an attribute that has one number for each spatial axis."""
    return tuple(given) if given else (default,) * rank


@operator("Conv", trains=(1, 2))
def conv(n: Node) -> Function:
    """Pad by itself what torch cannot: more at one end than at the other."""
    groups, auto = int(n.attribute("group", 1)), str(n.attribute("auto_pad", "NOTSET"))
    strides, dilations, pads = n.attribute("strides"), n.attribute("dilations"), n.attribute("pads")

    @cache
    def settled(rank: int) -> tuple[Extents, ...]:
        wanted = _each(pads, 2 * rank, 0)
        return _each(strides, rank, 1), _each(dilations, rank, 1), wanted, wanted[:rank], wanted[rank:]

    def run(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        stride, dilation, around, before, after = settled(w.ndim - 2)
        if auto.startswith("SAME"):
            around = same_pads(x.shape[2:], w.shape[2:], stride, dilation, upper=auto == "SAME_UPPER")
            before, after = around[: len(stride)], around[len(stride) :]
        if before != after:
            x, before = pad(x, around), (0,) * len(stride)
        return _CONV[len(stride) - 1](x, w, bias, stride, before, dilation, groups)

    return run


@operator("ConvTranspose", trains=(1, 2))
def conv_transpose(n: Node) -> Function:
    """Cut off by itself what torch cannot: it pads alike at both ends, and adds at the end."""
    groups, auto = int(n.attribute("group", 1)), str(n.attribute("auto_pad", "NOTSET"))
    wanted, added = n.attribute("output_shape"), n.attribute("output_padding")
    strides, dilations, pads = n.attribute("strides"), n.attribute("dilations"), n.attribute("pads")

    @lru_cache(maxsize=64)
    def settled(extents: Extents, sizes: Extents) -> tuple[Extents, ...]:
        """Return the strides, the dilations, and what is cut off before and added behind."""
        rank = len(sizes)
        stride, dilation, more = _each(strides, rank, 1), _each(dilations, rank, 1), _each(added, rank, 0)
        before, after = _each(pads, 2 * rank, 0)[:rank], _each(pads, 2 * rank, 0)[rank:]
        if wanted or auto.startswith("SAME"):
            kernel = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
            full = [s * (e - 1) + m + k for e, s, m, k in zip(extents, stride, more, kernel, strict=True)]
            if wanted:
                more = tuple(m + max(0, t - f) for m, t, f in zip(more, wanted[-rank:], full, strict=True))
            target = wanted[-rank:] if wanted else [e * s for e, s in zip(extents, stride, strict=True)]
            spare = [max(0, f - t) for f, t in zip(full, target, strict=True)]  # SAME only cuts off
            halves = tuple(s // 2 for s in spare)
            rest = tuple(s - h for s, h in zip(spare, halves, strict=True))
            before, after = (halves, rest) if auto == "SAME_UPPER" else (rest, halves)
        return stride, dilation, before, tuple(m - a for m, a in zip(more, after, strict=True))

    def run(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        stride, dilation, before, behind = settled(tuple(x.shape[2:]), tuple(w.shape[2:]))
        extra = tuple(e + b for e, b in zip(behind, before, strict=True))
        transposed = _TRANSPOSED[len(stride) - 1]
        if all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
            return transposed(x, w, bias, stride, before, extra, groups, dilation)
        y = pad(transposed(x, w, None, stride, 0, 0, groups, dilation), (*(-b for b in before), *behind))
        return y if bias is None else y + bias.view(-1, *[1] * len(stride))

    return run


@operator("Gemm", trains=(0, 1, 2))
def gemm(n: Node) -> Function:
    """Use torch's own where the graph's form is torch's."""
    alpha, beta = float(n.attribute("alpha", 1.0)), float(n.attribute("beta", 1.0))
    flip_a, flip_b = bool(n.attribute("transA", 0)), bool(n.attribute("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if flip_a else a
        if flip_b and alpha == 1 and (c is None or (beta == 1 and c.ndim == 1)):
            return functional.linear(a, b, c)
        y = a @ (b.t() if flip_b else b)
        y = y if alpha == 1 else alpha * y
        return y if c is None else y + (c if beta == 1 else beta * c)

    return run


@operator("MatMul", trains=(0, 1))
def matmul(n: Node) -> Function:
    """Multiply matrices, stacks of them too."""
    del n
    return torch.matmul


@operator("Einsum", trains=(0, 1))
def einsum(n: Node) -> Function:
    """Sum products as an equation says."""
    equation = str(n.attribute("equation"))
    return lambda *operands: torch.einsum(equation, *operands)
