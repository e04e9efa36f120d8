"""Operators that move data without choosing any of it: they do to the labels what they do to the tensor."""

from __future__ import annotations

from math import prod

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops import is_learned, met_along, rule, unknown


@rule("Transpose")
def transpose(c: Context) -> None:
    """Permute the axes; reversed by default."""
    perm = c.attr("perm", None) or list(range(c.layers(0)[0].rank))[::-1]
    c.pass_on(lambda x: movement.transpose(x, perm))


@rule("Reshape")
def reshape(c: Context) -> None:
    """The target may restate channel extents: those that change are rewritten, all others stay as they are."""
    target = c.attr("shape", None) if not c.has(1) else c.original(1)
    if target is None:
        unknown(c)
        return
    shape = c.out_shape()
    result = c.reshaped(0, shape)
    written = np.asarray(target, dtype=np.int64).ravel()
    wanted = written.copy()
    copies = not c.attr("allowzero", 0)
    arriving = c.mark(0).shape
    for axis, (was, now) in enumerate(zip(shape, result.shape, strict=True)):
        if written[axis] == -1:
            continue  # what is left over: right by itself, once all the others are
        if written[axis] == 0 and copies:
            if arriving[axis] != now:
                wanted[axis] = now
        elif was != now:
            wanted[axis] = now
    if c.has(1):
        c.rewrite(1, wanted)
    elif not np.array_equal(wanted, written):
        c.rewrite_attr("shape", wanted.tolist())
    c.out(result)


@rule("Flatten")
def flatten(c: Context) -> None:
    """Two axes are left: those before `axis`, and those from it on."""
    before = c.operand_shape(0)
    axis = int(c.attr("axis", 1))
    axis += len(before) if axis < 0 else 0
    c.out(c.reshaped(0, (prod(before[:axis]), prod(before[axis:]))))


@rule("Squeeze", "Unsqueeze")
def squeeze(c: Context) -> None:
    """Only extents of 1 come and go, so no size is restated."""
    x, shape, before = c.mark(0), c.out_shape(), c.operand_shape(0)
    if c.node.op_type == "Squeeze" and c.attr("axes", None) is None and not c.has(1) and x.shape != before:
        # without axes it drops every extent of 1: those it dropped so far, not a last channel that is left
        axes = np.flatnonzero(np.array(before) == 1)
        if c.graph.opset < 13:
            c.rewrite_attr("axes", axes.tolist())
        else:
            c.insert_input(1, axes.astype(np.int64))
    c.out(movement.reshape(x, _resized(before, x, shape)))


def _resized(before: tuple[int, ...], x: Marked, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the output's extents in this run: axes that are not 1 keep their order."""
    now = iter(n for was, n in zip(before, x.shape, strict=True) if was != 1)
    return tuple(next(now) if n != 1 else 1 for n in shape)


@rule("DepthToSpace")
def depth_to_space(c: Context) -> None:
    """DCR reads the channels as [b, b, C/b^2], CRD as [C/b^2, b, b]."""
    n, channels, height, width = c.operand_shape(0)
    b = int(c.attr("blocksize", 1))
    depth = channels // (b * b)
    if c.attr("mode", b"DCR") in {b"CRD", "CRD"}:
        split, perm, axis = (n, depth, b, b, height, width), (0, 1, 4, 2, 5, 3), 1
    else:
        split, perm, axis = (n, b, b, depth, height, width), (0, 3, 4, 1, 5, 2), 3
    labels = c.channels(c.mark(0), 1)
    x = Marked(along(labels, 1, 4), (n, len(labels), height, width), (1,))
    now = x.shape[1] // (b * b)
    if x.shape[1] % (b * b):
        msg = "channels are no multiple of the block"
        raise ValueError(msg)
    # the blocks leave together: what was one channel after the operator stays one channel
    parts = movement.reshape(x, tuple(now if a == axis else extent for a, extent in enumerate(split)))
    c.uniform(parts, [a for a in ((1, 2) if axis == 3 else (2, 3)) if parts.varies(a)])
    turned = movement.transpose(parts, perm)
    c.vector_out(turned.vector(1), 1)


@rule("Col2Im")
def col_to_im(c: Context) -> None:
    """[N, C * block, L] becomes [N, C, image...]: all positions of a channel's block leave together."""
    labels, block = c.channels(c.mark(0), 1), c.known(2)
    if block is None:
        unknown(c)
        return
    rows = labels.reshape(-1, prod(int(n) for n in block.ravel()))
    c.same(rows, rows[:, :1])
    c.vector_out(rows[:, 0], 1)


@rule("SpaceToDepth")
def space_to_depth(c: Context) -> None:
    """[N, C, H, W] becomes [N, b*b*C, H/b, W/b]: every channel comes back b*b times."""
    labels = c.channels(c.mark(0), 1)
    b = int(c.attr("blocksize", 1))
    c.vector_out(np.tile(labels, b * b), 1)


@rule("Expand")
def expand(c: Context) -> None:
    """Stretch; a target that restates a channel extent is rewritten."""
    shape, written = c.out_shape(), c.original(1)
    if written is None:
        unknown(c)
        return
    before = movement.lift_shape(c.operand_shape(0), len(shape))
    stretched = [a for a, n in enumerate(before) if n == 1 and shape[a] > 1]
    axis = met_along(c, stretched)
    if c.is_constant(0) and (axis is None or not _are_places(c)):
        spread(c)
        return
    lifted = movement.lift(c.mark(0), len(shape))
    if axis is None and len(stretched) == 1:
        axis = stretched[0]
    if axis is not None and not lifted.axes:
        # one position becomes many, all alike: as many of them may go as what they meet loses
        labels = c.grown("stretched", shape[axis])
        lifted = Marked(along(labels, axis, len(shape)), lifted.shape, (axis,))
        extents = tuple(len(labels) if a == axis else n for a, n in enumerate(shape))
    else:
        extents = tuple(wide if was == 1 else n for n, was, wide in zip(lifted.shape, before, shape, strict=True))
    target = np.asarray(written, dtype=np.int64).copy()
    offset = len(shape) - len(target)
    for k in range(len(target)):
        if lifted.varies(k + offset) and target[k] != 1:
            target[k] = extents[k + offset]
    c.rewrite(1, target)
    c.out(Marked(lifted.ids, extents, lifted.axes))


def _are_places(c: Context) -> bool:
    """Tell whether a constant holds whole numbers, as positions are: nothing that was learned."""
    value = c.input(0)
    return value is not None and c.graph.array(value).dtype.kind in "iu"


def spread(c: Context) -> None:
    """Spread learned numbers, as class tokens and queries are: they are born with labels of their own."""
    own, more = c.operand_shape(0), len(c.out_shape()) - len(c.operand_shape(0))
    wide = [a for a, n in enumerate(own) if n > 1]
    stays = [a for a in wide if own[a] == c.out_shape()[a + more]]
    if not stays or (len(wide) > 1 and not is_learned(c)):
        c.opaque(f"is a constant spread by {c.node.op_type}")
        return
    met = met_along(c, [a + more for a in stays]) if len(stays) > 1 else None
    axis = stays[-1] if met is None else met - more
    labels = c.born(0, axis)
    c.bind(0, Factor(along(labels, axis, len(own))))
    if c.node.op_type == "Expand":
        target = c.original(1)
        assert target is not None
        wanted = np.asarray(target, dtype=np.int64).copy()
        if axis - len(own) >= -len(wanted) and wanted[axis - len(own)] > 1:
            wanted[axis - len(own)] = len(labels)
        c.rewrite(1, wanted)
    c.vector_out(labels, axis - len(own))


@rule("Tile")
def tile(c: Context) -> None:
    """Repeat along every axis."""
    repeats = c.known(1)
    if repeats is None:
        unknown(c)
        return
    if c.is_constant(0):
        spread(c)
        return
    x = c.mark(0)
    counts = [int(n) for n in repeats]
    ids = np.tile(x.ids, [n if x.varies(a) else 1 for a, n in enumerate(counts)])
    c.out(Marked(ids, tuple(n * k for n, k in zip(x.shape, counts, strict=True)), x.axes))
