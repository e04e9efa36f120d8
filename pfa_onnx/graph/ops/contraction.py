"""Contractions: what arrives along the summed axis is the weight's input axis; its output axis is born.

A constant weight makes the node a layer. A contraction between two activations makes the two summed axes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops import refuse_inputs, rule
from pfa_onnx.graph.ops.einsum import Letters, contract_constant
from pfa_onnx.recipe import Ints

WIDEST = 65536  # numbers that a matrix makes; beyond it they are no channels

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
    shape = c.operand_shape(1)
    groups = int(c.attr("group", 1))
    rank = len(shape)
    factors: tuple[Factor, ...]
    if groups == 1 and _is_pointwise(c, c.before(0)):
        _pass_space(c, made_axis, bias)
        return
    arriving = c.channels(c.mark(0), 1)
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


def _is_pointwise(c: Context, x: Marked) -> bool:
    """Tell whether channels lie along axes of space, of which the kernel sees one position at a time."""
    space = [a for a in x.axes if a >= 2] if c.node.op_type != "DeformConv" else []  # which looks anywhere
    if not space or x.varies(0) or len(np.unique(x.vector(1))) > len(np.unique(x.vector(space[-1]))):
        return False
    kernel = c.operand_shape(1)[2:]
    strides, pads = c.attr("strides", [1] * len(kernel)), c.attr("pads", [0] * 2 * len(kernel))
    return all(kernel[a - 2] == strides[a - 2] == 1 and pads[a - 2] == pads[a - 2 + len(kernel)] == 0 for a in space)


def _pass_space(c: Context, made_axis: int, bias: int) -> None:
    """Make channels of positions: what lies along space passes, across what is made."""
    x, made = c.mark(0), c.born(1, made_axis)
    c.bind(1, Factor(along(made, made_axis, len(c.operand_shape(1))), "made"))
    if c.has(bias):
        c.bind(bias, Factor(made))
    c.layer(1, made, axis=1)
    _beside(c, [Marked(c.uniform(x, [1]), x.shape, tuple(a for a in x.axes if a != 1))], made, 1)


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
    add_to_made(c, 2)


def add_to_made(c: Context, i: int) -> None:
    """Add operand `i`, if it is given, to what the rule has made so far."""
    made = str(c.node.outputs[0].name)
    across = c.across.get(made)
    if across is not None and c.has(i):
        c.freeze(across.ids, "lies across other channels, and a bias is added to both")
    c.out(c.plus(i, c.marks[made]), across=across)


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
        _product(c, *([_turned(x, flip) for x in c.layers(i)] for i, flip in enumerate((flip_left, flip_right))))
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
    layers = c.layers(x)
    rank = len(c.operand_shape(w))
    w_made, axis = 2 * rank - 3 - w_read, free_axis % len(c.out_shape())  # the other one of the last two axes
    passing = [m for m in layers if m.axes and not m.varies(read_axis)]
    if passing and read_axis + len(c.out_shape()) - layers[0].rank != axis:
        refuse_inputs(c, "along a transposed axis")
        return
    read = [c.channels(m, read_axis) for m in layers if m.varies(read_axis) or not m.axes]
    if c.operand_shape(w)[w_made] > WIDEST:
        _tabulate(c, w, [Factor(along(r, w_read, rank), "read") for r in read], passing)
        return
    made = c.born(w, w_made)
    c.bind(w, Factor(along(made, w_made, rank), "made"), *(Factor(along(r, w_read, rank), "read") for r in read))
    c.layer(w, made, axis=axis)
    _beside(c, passing, made, axis)


def _tabulate(c: Context, w: int, read: Sequence[Factor], passing: Sequence[Marked]) -> None:
    """A matrix so wide makes whole weights, as experts that are mixed by their inputs are, and no channels."""
    for x in passing:
        c.freeze(x.ids, f"is read by {c.node.op_type}, which makes more than {WIDEST:,} numbers")
    c.bind(w, *read)
    c.opaque(f"is made by {c.node.op_type}, which makes more than {WIDEST:,} numbers")


def _beside(c: Context, passing: Sequence[Marked], made: Ints, axis: int) -> None:
    """Set the output of a layer: what it makes, across labels of its input that lie along an axis it does not sum."""
    for x in passing[1:]:
        c.freeze(x.ids, f"lies across other channels, and {c.node.op_type} makes more of them")
    if not passing:
        c.vector_out(made, axis)
        return
    x = movement.lift(passing[0], len(c.out_shape()))
    shape = tuple(len(made) if a == axis else x.shape[a] if x.varies(a) else n for a, n in enumerate(c.out_shape()))
    c.out(Marked(x.ids, shape, x.axes), across=Marked(along(made, axis, len(shape)), shape, (axis,)))


def _product(c: Context, one: Sequence[Marked], other: Sequence[Marked]) -> None:
    """Two activations, as in Q.K^T and attention.V: the two summed axes are the same, all other labels pass.

    Where both operands have labels that pass, the result is their outer product, as K^T.V of a linear attention is.
    """
    rank = max(one[0].rank, other[0].rank)
    left, right = [movement.lift(x, rank) for x in one], [movement.lift(x, rank) for x in other]
    summed = [x for x in left if x.varies(rank - 1)], [x for x in right if x.varies(rank - 2)]
    for side, free in zip(summed, (rank - 2, rank - 1), strict=True):
        for x in side:
            c.freeze_along(x, [free], "is summed over by a MatMul along one axis and lies along another")
    if summed[0] or summed[1]:
        turned = movement.transpose((summed[1] or right)[0], [*range(rank - 2), rank - 1, rank - 2])
        joined = c.join([_rowless((summed[0] or left)[0], rank - 2), _rowless(turned, rank - 2)])
        c.blocks(np.moveaxis(joined.ids, rank - 1, -1))
        c.summed(0)
    passing = [
        *(Marked(x.ids, (*x.shape[:-1], 1), x.axes) for x in left if x.axes and not x.varies(rank - 1)),
        *(Marked(x.ids, (*x.shape[:-2], 1, x.shape[-1]), x.axes) for x in right if x.axes and not x.varies(rank - 2)),
    ]
    batch = movement.broadcast_shape([left[0].shape[:-2], right[0].shape[:-2]])
    _out_product(c, passing, (*batch, left[0].shape[-2], right[0].shape[-1]))


def _out_product(c: Context, passing: Sequence[Marked], shape: tuple[int, ...]) -> None:
    """Set the result of a product: no labels pass, or those of one operand, or both across each other."""
    if not passing:
        c.opaque("is a product of two activations")
        return
    fine = [x for x in passing if x.axes[-1] >= len(shape) - 2]
    if not fine:
        joined = c.join(passing)
        c.out(Marked(joined.ids, shape, joined.axes))
        return
    for x in passing:
        if x.axes[-1] < len(shape) - 2:
            c.freeze(x.ids, "weighs whole heads, of which channels go one by one")
    for x in fine[2:]:
        c.freeze(x.ids, "is combined with other channels in an outer product")
    c.out_layers([Marked(x.ids, shape, x.axes) for x in fine[:2]])


def _rowless(x: Marked, axis: int) -> Marked:
    """Look at one row only: labels frozen along it, or the same in all of it."""
    ids = np.take(x.ids, [0], axis=axis)
    shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    return Marked(ids, shape, tuple(a for a in x.axes if a != axis))
