"""Attention and what belongs to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.registry import Function, Node, Untrainable, operator


@operator("Attention")
def attention(n: Node) -> Function:
    if any(n.given(k) for k in (4, 5, 6)) or n.outputs > 1:
        raise Untrainable("a cache of keys and values, or more than one output")
    if max(n.attribute("left_window_size", -1), n.attribute("right_window_size", -1)) >= 0:
        raise Untrainable("a window that slides")
    q_heads, kv_heads, scale = n.attribute("q_num_heads"), n.attribute("kv_num_heads"), n.attribute("scale")
    causal, cap = bool(n.attribute("is_causal", 0)), float(n.attribute("softcap", 0.0))

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *_: Any) -> Tensor:
        if flat := q.ndim == 3:
            q, k, v = heads(q, q_heads), heads(k, kv_heads), heads(v, kv_heads)
        if mask is not None and mask.shape[-1] < k.shape[2]:
            nothing = 0.0 if mask.dtype == torch.bool else -torch.inf
            mask = functional.pad(mask, (0, k.shape[2] - mask.shape[-1]), value=nothing)
        y = attend(q, k, v, mask, scale=scale, causal=causal, cap=cap)
        return joined(y) if flat else y

    return run


def heads(x: Tensor, count: int) -> Tensor:
    """Turn [batch, sequence, hidden] into [batch, heads, sequence, hidden / heads]."""
    return x.unflatten(2, (count, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """Turn [batch, heads, sequence, size] into [batch, sequence, hidden]."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None = None,
    causal: bool = False,
    cap: float = 0.0,
) -> Tensor:
    """Mix values by how much their keys meet the queries; several heads of queries may share one of keys and values.

    mask: what is added, or which may be attended, broadcast to [batch, heads, queries, keys].
    """
    if (shared := q.shape[1] // k.shape[1]) > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    if causal and (mask is not None or cap):
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        mask = lower if mask is None else mask & lower if mask.dtype == torch.bool else _barred(mask, lower)
        causal = False
    if mask is not None and mask.ndim == 3:
        mask = mask[None]
    if not cap:
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
    met = (q @ k.transpose(2, 3)) * (q.shape[3] ** -0.5 if scale is None else scale)
    met = cap * torch.tanh(met / cap)
    if mask is not None:
        met = _barred(met, mask) if mask.dtype == torch.bool else met + mask
    idle = (met == -torch.inf).all(3, keepdim=True)  # queries that may attend nothing: 0, and no derivative
    return torch.softmax(met.masked_fill(idle, 0), 3).masked_fill(idle, 0) @ v


def _barred(x: Tensor, allowed: Tensor) -> Tensor:
    return x.masked_fill(~allowed, -torch.inf)


@operator("RotaryEmbedding")
def rotary_embedding(n: Node) -> Function:
    return _rotary(n, int(n.attribute("num_heads", 0)))


@operator("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding_of_onnxruntime(n: Node) -> Function:
    """Take the same operands in another order."""
    if float(n.attribute("scale", 1.0)) != 1:
        raise Untrainable("a scale")
    rotate = _rotary(n, int(n.attribute("num_heads", 0)))

    def run(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if positions.numel() == 1:  # of the first in every sequence
            steps = torch.arange(x.shape[-2], device=x.device)
            positions = (positions.reshape(1, 1) + steps).expand(x.shape[0], -1)
        return rotate(x, cos, sin, positions)

    return run


def _rotary(n: Node, count: int) -> Function:
    apart, part = not n.attribute("interleaved", 0), int(n.attribute("rotary_embedding_dim", 0))

    def run(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        y = x.transpose(1, 2) if x.ndim == 4 else x.unflatten(2, (count or x.shape[2] // (2 * cos.shape[-1]), -1))
        if positions is not None:
            cos, sin = (functional.embedding(positions, cache) for cache in (cos, sin))
        size = part or y.shape[3]
        a, b = y[..., :size].chunk(2, 3) if apart else (y[..., :size:2], y[..., 1:size:2])
        turned = (a * cos[:, :, None] - b * sin[:, :, None], a * sin[:, :, None] + b * cos[:, :, None])
        joint = torch.cat(turned, 3) if apart else torch.stack(turned, 4).flatten(3)
        joint = torch.cat([joint, y[..., size:]], 3)
        return joint.transpose(1, 2) if x.ndim == 4 else joint.flatten(2)

    return run
