"""Attention as one operator, and the rotation of its queries and keys.

Q's and K's channels are summed over, head by head: they leave in pairs, others in every head. V's pass to the
output. Heads stay. Q, K and V are [N, heads, tokens, D] or [N, tokens, heads * D]; rules work on the former.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import refuse_inputs, rule
from pfa_onnx.recipe import Ints

_MICROSOFT = "com.microsoft"
_TURNED = (0, 2, 1, 3)  # from tokens before heads to heads before tokens, and back


@dataclass(frozen=True)
class Operands:
    """Q, K and V with their heads apart, as they arrive: [N, heads, tokens, D]."""

    query: Marked
    key: Marked
    value: Marked

    @property
    def shared(self) -> int:
        """How many heads of Q read one head of K and V."""
        return self.query.shape[1] // self.key.shape[1]


@rule("Attention")
def attention(c: Context) -> None:
    """Without a scale, 1 / sqrt(D) is meant."""
    if any(c.is_constant(i) for i in range(3)):
        refuse_inputs(c, "with a constant operand")
        return
    flat = len(c.operand_shape(0)) == 3
    heads = [int(c.attr(name, 1)) if flat else c.operand_shape(i)[1] for i, name in enumerate(_HEADS)]
    x = Operands(*(_heads(c, i, n) for i, n in zip(range(3), (*heads, heads[1]), strict=True)))
    _attend(c, x, past=(4, 5), unscaled=c.attr("scale", None) is None)


_HEADS = ("q_num_heads", "kv_num_heads")


@rule("MultiHeadAttention", domain=_MICROSOFT)
def multi_head_attention(c: Context) -> None:
    """The same with a bias, [Q's, K's, V's channels], which is added before; a scale of 0 is none."""
    if not (c.has(1) and c.has(2)) or any(c.is_constant(i) for i in range(3)):
        refuse_inputs(c, "of packed or constant operands: prune the model before it is optimised")
        return
    if c.has(3) and (not c.is_constant(3) or len(c.operand_shape(1)) != 3):
        refuse_inputs(c, "with a computed bias")
        return
    x = Operands(*(_heads(c, i, int(c.attr("num_heads", 1))) for i in range(3)))
    if c.has(3):
        # it is read: a removed channel of Q is zero only if its bias is zero, too
        labels = [part.full([1, 3]).ravel() for part in (x.query, x.key, x.value)]
        c.bind(3, Factor(np.concatenate(labels), "read"))
    _attend(c, x, past=(6, 7), unscaled=not c.attr("scale", 0.0))


# --- heads --------------------------------------------------------------------------------------------


def _heads(c: Context, i: int, count: int) -> Marked:
    """Return the labels of Q, K or V as [N, heads, tokens, D]: all heads lose equally many, and each its own."""
    x = c.mark(i)
    if x.rank == 3:
        ends = c.bounds(i, 2, _every(c.operand_shape(i)[2], count))
        x = movement.reshape(x, (*x.shape[:2], count, _one_size(ends)))
        x = movement.transpose(x, _TURNED)
    if 3 in x.axes and 0 not in x.axes and 2 not in x.axes:
        c.blocks(np.moveaxis(x.ids, 3, -1))
        return x
    if x.axes:
        c.freeze(x.ids, f"lies along the heads or tokens of {c.node.op_type}, which stay")
    return Marked(x.ids[:1, :1, :1, :1], x.shape, ())  # all of them stay: one stands for them


def _every(extent: int, count: int) -> list[int]:
    return list(range(0, extent + 1, extent // count))


def _one_size(ends: Sequence[int]) -> int:
    sizes = set(np.diff(ends).tolist())
    if len(sizes) != 1:
        msg = "its heads no longer have one size"
        raise ValueError(msg)
    return int(sizes.pop())


def _spread(x: Marked, times: int) -> Marked:
    """Return labels of K's or V's heads as Q's heads read them: `times` in a row the same one."""
    ids = np.repeat(x.ids, times, axis=1) if x.varies(1) else x.ids
    return Marked(ids, (x.shape[0], x.shape[1] * times, *x.shape[2:]), x.axes)


# --- what attention does ------------------------------------------------------------------------------


def _attend(c: Context, x: Operands, past: tuple[int, int], *, unscaled: bool) -> None:
    for i in c.activations():
        if i > 2 and i not in past:
            c.freeze(c.mark(i).ids, f"steers {c.node.op_type}")
    for i, part in zip(past, (x.key, x.value), strict=True):
        _continue(c, i, part)
    _contract(c, x)
    if unscaled:
        _keep_scale(c, x.query)
    _result(c, x)
    for k, part in ((1, x.key), (2, x.value)):
        if _is_made(c, k):
            c.out(Marked(part.ids, (*c.out_shape(k)[:3], part.shape[3]), part.axes), k)
    if _is_made(c, 3):
        c.opaque("is a product of two activations", 3)


def _is_made(c: Context, k: int) -> bool:
    return k < len(c.node.outputs) and bool(c.node.outputs[k].name)


def _continue(c: Context, i: int, x: Marked) -> None:
    """Say that what an earlier run left, along the tokens, has the same channels."""
    if c.has(i) and c.is_constant(i):
        c.freeze(x.ids, f"is joined with a constant by {c.node.op_type}")
    elif c.has(i):
        c.join([_one_token(x), _one_token(c.mark(i))])


def _one_token(x: Marked) -> Marked:
    return Marked(np.take(x.ids, [0], axis=2), (*x.shape[:2], 1, x.shape[3]), tuple(a for a in x.axes if a != 2))


def _contract(c: Context, x: Operands) -> None:
    """Q's and K's channels are the same, head by head."""
    joined = c.join([_one_token(x.query), _one_token(_spread(x.key, x.shared))])
    if joined.varies(3):
        c.blocks(np.moveaxis(joined.ids, 3, -1))
        c.summed(0)


def _keep_scale(c: Context, query: Marked) -> None:
    """Write down the scale that the original width stands for."""
    shape = c.operand_shape(0)
    before = shape[3] if len(shape) == 4 else shape[2] // query.shape[1]
    if before != query.shape[3]:
        c.rewrite_attr("scale", float(before) ** -0.5)


def _result(c: Context, x: Operands) -> None:
    """Every head of Q brings the channels of the head of V that it reads."""
    shape, value = c.out_shape(), _spread(x.value, x.shared)
    flat = len(shape) == 3
    y = Marked(value.ids, (shape[0], value.shape[1], shape[1 if flat else 2], value.shape[3]), value.axes)
    if flat:
        y = movement.transpose(y, _TURNED)
        y = movement.reshape(y, (*y.shape[:2], y.shape[2] * y.shape[3]))
    c.out(y)


# --- rotary embedding ---------------------------------------------------------------------------------


@rule("RotaryEmbedding")
def rotary(c: Context) -> None:
    """X, cosines, sines, positions."""
    _rotate(c, caches=(1, 2))


@rule("RotaryEmbedding", domain=_MICROSOFT)
def fused_rotary(c: Context) -> None:
    """X, positions, cosines, sines."""
    _rotate(c, caches=(2, 3))


def _rotate(c: Context, caches: tuple[int, int]) -> None:
    """Two channels turn by one angle, and leave together, in all heads at once: there is one cosine for all."""
    x, shape = c.mark(0), c.operand_shape(0)
    for i in c.activations():
        if i > 0 and i not in caches:
            c.freeze(c.mark(i).ids, f"steers {c.node.op_type}")
    axis = len(shape) - 1
    width = c.operand_shape(caches[0])[-1] * 2
    if not x.varies(axis):
        for i in caches:
            if not c.is_constant(i):
                c.freeze(c.mark(i).ids, f"turns what stays, in {c.node.op_type}")
        c.out(x)
        return
    labels = c.channels(x, axis) if axis == 2 else c.uniform(x, [a for a in x.axes if a != axis]).ravel()
    head = shape[3] if axis == 3 else shape[2] // (int(c.attr("num_heads", 0)) or shape[2] // width)
    starts = range(0, shape[axis], head)
    ends = c.bounds(0, axis, sorted({*(s for s in starts), *(s + width for s in starts), shape[axis]}))
    half = _pairs(c, labels, ends[1], ends[1 if width == head else 2])
    for i in caches:
        _turn_with(c, i, half)
    if c.attr("rotary_embedding_dim", 0):
        c.rewrite_attr("rotary_embedding_dim", ends[1])
    c.out(x)


def _pairs(c: Context, labels: Ints, turned: int, head: int) -> Ints:
    """Tie the heads, and in them what turns together; return the labels of the angles."""
    heads = labels.reshape(-1, head)
    c.same(heads, heads[:1])
    first: Ints = heads[0, :turned]
    one, other = first.reshape(-1, 2).T if c.attr("interleaved", 0) else first.reshape(2, -1)
    c.same(one, other)
    return np.asarray(one)


def _turn_with(c: Context, i: int, labels: Ints) -> None:
    """Cosines and sines have one column an angle."""
    rank = len(c.operand_shape(i))
    if c.is_constant(i):
        c.bind(i, Factor(movement.along(labels, rank - 1, rank)))
        return
    cache = c.mark(i)
    c.same(labels, c.channels(cache, rank - 1) if cache.varies(rank - 1) else c.uniform(cache, cache.axes).ravel())
