"""Contractions: what arrives along the summed axis is the weight's input axis; its output axis is born.

A constant weight makes the node a layer. A contraction between two activations makes the two summed axes the same.
"""

from __future__ import annotations

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops import refuse_inputs, rule
from pfa_onnx.graph.ops.einsum import Letters, contract_constant
from pfa_onnx.recipe import Ints

# --- convolutions -------------------------------------------------------------------------------------


@rule("Conv")
def conv(c: Context) -> None:
    """Weight [O, C/groups, k...]: axis 1 is read, axis 0 is made."""
    _convolve(c, made_axis=0, read_axis=1)


@rule("ConvTranspose")
def conv_transpose(c: Context) -> None:
    """Weight [C, O/groups, k...]: axis 0 is read, axis 1 is made."""
    _convolve(c, made_axis=1, read_axis=0)


@rule("DeformConv")
def deform_conv(c: Context) -> None:
    """A convolution that reads where the offsets say, scaled by a mask: both are the same for all channels."""
    if int(c.attr("group", 1)) > 1 or int(c.attr("offset_group", 1)) > 1:
        refuse_inputs(c, "in groups")
        return
    for i in c.activations():
        if i in {2, 4}:
            c.freeze(c.mark(i).ids, "chooses where DeformConv reads")
    _convolve(c, made_axis=0, read_axis=1, bias=3)


def _convolve(c: Context, made_axis: int, read_axis: int, bias: int = 2) -> None:
    if not c.is_constant(1) or (c.has(bias) and not c.is_constant(bias)):
        refuse_inputs(c, "with a computed weight")
        return
    if c.is_constant(0):
        refuse_inputs(c, "on a constant input")
        return
    arriving = c.channels(c.mark(0), 1)
    shape = c.operand_shape(1)
    groups = int(c.attr("group", 1))
    rank = len(shape)
    factors: tuple[Factor, ...]
    if groups == 1:
        read = arriving
        made = c.born(1, made_axis)
        factors = Factor(along(made, made_axis, rank), "made"), Factor(along(read, read_axis, rank), "read")
    elif _is_depthwise(c, groups):
        made = _depthwise(c, arriving, shape, groups, transposed=read_axis == 0)
        factors = _depthwise_factors(made, arriving, rank, transposed=read_axis == 0)
    else:
        made, factors = _grouped(c, arriving, groups, transposed=read_axis == 0)
    c.bind(1, *factors)
    if c.has(bias):
        c.bind(bias, Factor(made))
    c.layer(1, made, axis=1)
    c.vector_out(made, 1)


def _is_depthwise(c: Context, groups: int) -> bool:
    value = c.input(0)
    assert value is not None
    return c.shapes[str(value.name)][1] == groups


def _depthwise(c: Context, arriving: Ints, shape: tuple[int, ...], groups: int, *, transposed: bool) -> Ints:
    """One input channel a group: a group leaves as a whole, and what it makes carries its input's label."""
    multiplier = shape[1] if transposed else shape[0] // groups
    c.rewrite_attr("group", len(arriving))
    return np.repeat(arriving, multiplier)


def _depthwise_factors(made: Ints, arriving: Ints, rank: int, *, transposed: bool) -> tuple[Factor, ...]:
    # the weight is never summed over more than its own channel: zeroing it is zeroing the channel
    return (Factor(along(arriving if transposed else made, 0, rank), "made"),)


def _grouped(c: Context, arriving: Ints, groups: int, *, transposed: bool) -> tuple[Ints, tuple[Factor, ...]]:
    """Every group keeps equally many of what it reads and of what it makes; which ones is free in each.

    Conv: weight [groups * m, n], transposed: [groups * n, m] - n channels read, m made, by every group.
    """
    rank = len(c.operand_shape(1))
    read = arriving.reshape(groups, -1)
    c.blocks(read, grouped=True)
    if not transposed:
        made = c.born(1, 0)
        rows = made.reshape(groups, -1)
        c.blocks(rows, grouped=True)
        inner = np.repeat(read, rows.shape[1], axis=0)
        whole = inner.reshape(inner.shape + (1,) * (rank - 2))
        return made, (Factor(along(made, 0, rank), "made"), Factor(whole, "read"))
    made = c.grown("made", groups * c.operand_shape(1)[1])
    rows = made.reshape(groups, -1)
    c.blocks(rows, grouped=True)
    inner = np.repeat(rows, read.shape[1], axis=0)
    whole = inner.reshape(inner.shape + (1,) * (rank - 2))
    return made, (Factor(along(arriving, 0, rank), "read"), Factor(whole, "made"))


# --- Gemm and MatMul ----------------------------------------------------------------------------------


@rule("Gemm")
def gemm(c: Context) -> None:
    """Multiply matrices: alpha A B + beta C with A [M, K] and B [K, N], either of them transposed."""
    flipped = [bool(c.attr("transA", 0)), bool(c.attr("transB", 0))]
    constant = [c.is_constant(0), c.is_constant(1)]
    if constant == [False, True]:
        _weighted(c, x=0, read_axis=0 if flipped[0] else 1, w=1, w_read=1 if flipped[1] else 0, free_axis=1)
    elif constant == [True, False]:
        _weighted(c, x=1, read_axis=1 if flipped[1] else 0, w=0, w_read=0 if flipped[0] else 1, free_axis=0)
    else:
        refuse_inputs(c, "of two activations")
        return
    c.out(c.plus(2, c.marks[str(c.node.outputs[0].name)]))


@rule("MatMul")
def matmul(c: Context) -> None:
    """Batched matrix product, numpy rules."""
    multiply(c)


def multiply(c: Context, flip_left: bool = False, flip_right: bool = False) -> None:
    """Multiply matrices, numpy rules; an operand may have its last two axes the other way round."""
    left, right = c.operand_shape(0), c.operand_shape(1)
    if len(left) < 2 or len(right) < 2:
        refuse_inputs(c, "with a vector operand")
        return
    read = len(left) - (2 if flip_left else 1), len(right) - (1 if flip_right else 2)
    if c.is_constant(1) and not c.is_constant(0) and _plain_matrix(right):
        _weighted(c, x=0, read_axis=read[0], w=1, w_read=read[1], free_axis=-1)
    elif c.is_constant(0) and not c.is_constant(1) and _plain_matrix(left):
        _weighted(c, x=1, read_axis=read[1], w=0, w_read=read[0], free_axis=-2)
    elif not c.is_constant(0) and not c.is_constant(1):
        _product(c, _turned(c.mark(0), flip_left), _turned(c.mark(1), flip_right))
    else:
        _batched(c, ("km" if flip_left else "mk"), ("nk" if flip_right else "kn"))


def _turned(x: Marked, flip: bool) -> Marked:
    return movement.transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2]) if flip else x


def _batched(c: Context, left: str, right: str) -> None:
    """One constant matrix for every index of the leading axes, as per-head weights are written."""
    ranks = [len(c.operand_shape(i)) for i in (0, 1)]
    batch = "abcdefgh"[: max(ranks) - 2]
    letters = [batch[max(ranks) - rank :] + own for rank, own in zip(ranks, (left, right), strict=True)]
    if c.is_constant(1):
        contract_constant(c, Letters(letters[0], letters[1], batch + "mn"), x=0, w=1)
    else:
        contract_constant(c, Letters(letters[1], letters[0], batch + "mn"), x=1, w=0)


def _plain_matrix(shape: tuple[int, ...]) -> bool:
    return all(n == 1 for n in shape[:-2])


def _weighted(c: Context, *, x: int, read_axis: int, w: int, w_read: int, free_axis: int) -> None:
    """Multiply activation `x` by constant matrix `w`. Output axis `free_axis` is born from the weight."""
    mark = c.mark(x)
    shape = c.operand_shape(w)
    rank = len(shape)
    w_made = 2 * rank - 3 - w_read  # the other one of the last two axes
    free = [a for a in mark.axes if a != read_axis]
    if free and not mark.varies(read_axis):
        # labels along an axis that is not summed pass: every output row has its own
        _pass_free(c, mark, read_axis, free_axis)
        return
    read = c.channels(mark, read_axis)
    made = c.born(w, w_made)
    c.bind(w, Factor(along(made, w_made, rank), "made"), Factor(along(read, w_read, rank), "read"))
    c.layer(w, made, axis=free_axis % len(c.out_shape()))
    c.vector_out(made, free_axis)


def _pass_free(c: Context, mark: Marked, read_axis: int, free_axis: int) -> None:
    shape = c.out_shape()
    lifted = movement.lift(mark, len(shape))
    summed, made = read_axis + len(shape) - mark.rank, free_axis % len(shape)
    if summed != made:
        refuse_inputs(c, "along a transposed axis")
        return
    extents = tuple(shape[a] if a == made else n for a, n in enumerate(lifted.shape))
    c.out(Marked(lifted.ids, extents, lifted.axes))


def _product(c: Context, one: Marked, other: Marked) -> None:
    """Two activations, as in Q.K^T and attention.V: the two summed axes are the same."""
    rank = max(one.rank, other.rank)
    one, other = movement.lift(one, rank), movement.lift(other, rank)
    k_one, k_other = rank - 1, rank - 2
    if one.varies(k_one) or other.varies(k_other):
        c.freeze_along(one, [rank - 2], "is summed over by a MatMul of two activations that both vary")
        c.freeze_along(other, [rank - 1], "is summed over by a MatMul of two activations that both vary")
        turned = movement.transpose(other, [*range(rank - 2), rank - 1, rank - 2])
        joined = c.join([_rowless(one, rank - 2), _rowless(turned, rank - 2)])
        c.blocks(np.moveaxis(joined.ids, k_one, -1))
        c.summed(0)
        c.opaque("is a product of two activations")
        return
    left = Marked(one.ids, (*one.shape[:-1], 1), one.axes)
    right = Marked(other.ids, (*other.shape[:-2], 1, other.shape[-1]), other.axes)
    if not left.axes and not right.axes:
        c.opaque("is a product of two activations")
        return
    c.out(c.join([left, right]))


def _rowless(x: Marked, axis: int) -> Marked:
    """Look at one row only: labels frozen along it, or the same in all of it."""
    ids = np.take(x.ids, [0], axis=axis)
    shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    return Marked(ids, shape, tuple(a for a in x.axes if a != axis))
