"""onnxruntime's own operators, those of optimised models among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.errors import ModelError
from pfa_onnx.torch.ops.attention import attend, heads, joined
from pfa_onnx.torch.ops.contraction import conv, gemm
from pfa_onnx.torch.ops.normalization import layer_norm, rms_norm
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

DOMAIN = "com.microsoft"

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "Relu": functional.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Tanh": torch.tanh,
}


def _activation(name: str, given: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Return an activation that was fused into another operator."""
    a, b = (float(v) for v in (*given, 0.0, 0.0)[:2])
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "LeakyRelu":
        return lambda x: functional.leaky_relu(x, a)
    if name == "Elu":
        return lambda x: functional.elu(x, a)
    if name == "Clip":
        return lambda x: torch.clamp(x, a, b)
    if name == "HardSigmoid":
        return lambda x: torch.clamp(a * x + b, 0, 1)
    raise Untrainable(f"activation {name}")


@operator("FusedConv", domain=DOMAIN, trains=(1, 2))
def fused_conv(n: Node) -> Function:
    run, activate = conv(n), _activation(str(n.attribute("activation", "")), n.attribute("activation_params", []))

    def added(x: Tensor, w: Tensor, bias: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        y = run(x, w, bias)
        return activate(y if z is None else y + z)

    return added


@operator("FusedGemm", domain=DOMAIN, trains=(0, 1, 2))
def fused_gemm(n: Node) -> Function:
    given = [n.attribute("activation_alpha", 0.0), n.attribute("activation_beta", 0.0)]
    run, activate = gemm(n), _activation(str(n.attribute("activation", "")), given)
    return lambda *operands: activate(run(*operands))


@operator("FusedMatMul", "TransposeMatMul", domain=DOMAIN, trains=(0, 1))
def fused_matmul(n: Node) -> Function:
    """Transpose before; transBatch takes the first axis behind the others of the stack."""
    alpha = float(n.attribute("alpha", 1.0))
    turns = [(bool(n.attribute(f"trans{k}", 0)), bool(n.attribute(f"transBatch{k}", 0))) for k in "AB"]

    def turned(x: Tensor, flip: bool, batch: bool) -> Tensor:
        if x.ndim < 2:
            return x
        x = x.movedim(0, -2) if batch else x
        return x.transpose(-1, -2) if flip else x

    def run(a: Tensor, b: Tensor) -> Tensor:
        y = turned(a, *turns[0]) @ turned(b, *turns[1])
        return y if alpha == 1 else alpha * y

    return run


@operator("Gelu", domain=DOMAIN)
def gelu(n: Node) -> Function:
    del n
    return functional.gelu


@operator("BiasGelu", domain=DOMAIN, trains=(1,))
def bias_gelu(n: Node) -> Function:
    del n
    return lambda x, bias: functional.gelu(x + bias)


@operator("FastGelu", domain=DOMAIN, trains=(1,))
def fast_gelu(n: Node) -> Function:
    del n
    return lambda x, bias=None: functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=DOMAIN)
def quick_gelu(n: Node) -> Function:
    alpha = float(n.attribute("alpha", 1.702))
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("SkipLayerNormalization", domain=DOMAIN, trains=(2, 3, 4))
def skip_layer_normalization(n: Node) -> Function:
    eps, summed = float(n.attribute("epsilon", 1e-12)), _wants_sum(n)

    def run(x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None) -> Any:
        x = x + skip if bias is None else x + skip + bias
        y = layer_norm(x, scale, shift, -1, eps)
        return (y, None, None, x) if summed else y

    return run


@operator("SkipSimplifiedLayerNormalization", domain=DOMAIN, trains=(2, 3))
def skip_simplified_layer_normalization(n: Node) -> Function:
    eps, summed = float(n.attribute("epsilon", 1e-12)), _wants_sum(n)

    def run(x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
        x = x + skip if bias is None else x + skip + bias
        y = rms_norm(x, scale, -1, eps)
        return (y, None, None, x) if summed else y

    return run


def _wants_sum(n: Node) -> bool:
    """Tell whether there is the last of four outputs; raises Untrainable for those in between."""
    if any(value.name for value in n.node.outputs[1:3]):
        raise Untrainable("the mean or the deviation as an output")
    return n.outputs > 3


@operator("EmbedLayerNormalization", domain=DOMAIN, trains=(2, 3, 4, 5, 6))
def embed_layer_normalization(n: Node) -> Function:
    """Add up to three embeddings; the second output is how long each sequence is."""
    eps, counted = float(n.attribute("epsilon", 1e-12)), bool(n.attribute("mask_index_type", 1))

    def run(ids: Tensor, segments: Tensor | None, words: Tensor, places: Tensor, *rest: Tensor | None) -> Any:
        kinds, scale, shift, mask, positions = (*rest, None, None)[:5]
        where = torch.arange(ids.shape[1], device=words.device) if positions is None else positions
        x = functional.embedding(ids, words) + functional.embedding(where, places)
        if segments is not None and kinds is not None:
            x = x + functional.embedding(segments, kinds)
        assert scale is not None
        lengths = torch.zeros(ids.shape[0], dtype=torch.int32, device=words.device)
        if counted and mask is not None:
            lengths = mask.sum(1, dtype=torch.int32)
        return layer_norm(x, scale, shift, -1, eps), lengths, x

    return run


@operator("Attention", domain=DOMAIN, trains=(1, 2))
def attention(n: Node) -> Function:
    """Make queries, keys and values of one input."""
    if any(n.given(k) for k in (4, 6)) or n.outputs > 1:
        raise Untrainable("a cache of keys and values, or more than one output")
    if n.attribute("do_rotary", 0):
        raise Untrainable("rotary embedding")
    count, sizes, mix = int(n.attribute("num_heads")), n.attribute("qkv_hidden_sizes"), _mix(n)

    def run(x: Tensor, w: Tensor, bias: Tensor | None = None, mask: Tensor | None = None, *rest: Tensor | None) -> Any:
        each = sizes or [w.shape[1] // 3] * 3
        y = functional.linear(x, w.t(), bias)
        q, k, v = (heads(part, count) for part in y.split(each, 2))
        return mix(q, k, v, mask, rest[1] if len(rest) > 1 else None)

    return run


@operator("MultiHeadAttention", domain=DOMAIN, trains=(3,))
def multi_head_attention(n: Node) -> Function:
    """Take queries, keys and values apart, or keys and values with their heads already."""
    if any(n.given(k) for k in (6, 7, 8, 9)) or n.outputs > 1:
        raise Untrainable("a cache of keys and values, or more than one output")
    if not (n.given(1) and n.given(2)):
        raise Untrainable("queries, keys and values in one")
    count, mix = int(n.attribute("num_heads")), _mix(n)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *rest: Tensor | None) -> Tensor:
        if bias is not None:
            hidden = q.shape[2]
            q, k, v = q + bias[:hidden], k + bias[hidden : 2 * hidden], v + bias[2 * hidden :]
        mask, extra = (*rest, None, None)[:2]
        q, k, v = (x if x.ndim == 4 else heads(x, count) for x in (q, k, v))
        return mix(q, k, v, mask, extra)

    return run


def _mix(n: Node) -> Callable[..., Tensor]:
    """Return attention with onnxruntime's masks: which keys of each sequence there are."""
    causal, scale = bool(n.attribute("unidirectional", 0)), float(n.attribute("scale", 0.0)) or None
    barred = float(n.attribute("mask_filter_value", -10000.0))

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, extra: Tensor | None) -> Tensor:
        if causal and q.shape[2] != k.shape[2]:
            raise ModelError(
                f"causal attention of {q.shape[2]} queries over {k.shape[2]} keys is not made here",
                at=str(n.node.name or n.node.outputs[0].name),
                fix="fine-tune in the framework that the model came from",
            )
        if mask is not None:
            allowed = _allowed(mask, q.shape[0], k.shape[2])
            bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, barred)
            extra = bias if extra is None else extra + bias
        return joined(attend(q, k, v, extra, scale=scale, causal=causal))

    return run


def _allowed(mask: Tensor, batch: int, keys: int) -> Tensor:
    """Return [batch, 1, queries or 1, keys] of where each sequence ends, or of ones and zeros."""
    if mask.ndim == 1:
        places = torch.arange(keys, device=mask.device)
        within = places < mask[:batch, None]
        if mask.numel() == 2 * batch:  # and where it starts
            within &= places >= mask[batch:, None]
        return within[:, None, None]
    return (mask[:, None, None] if mask.ndim == 2 else mask[:, None]) > 0
