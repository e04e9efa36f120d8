"""Operators that arrange elements anew without computing: shapes, joins and repetitions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pfa_onnx.torch.ops.operands import numbers, some
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator


@operator("Reshape", host=(1,))
def reshape(n: Node) -> Function:
    """Copy the extent of x where the shape says 0, unless allowzero takes 0 at its word."""
    shape_of, literal = numbers(n, 1, "shape"), bool(n.attribute("allowzero", 0))

    def run(x: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = some(shape_of(shape))
        if literal or 0 not in wanted:
            return x.reshape(wanted)
        return x.reshape([extent or x.shape[axis] for axis, extent in enumerate(wanted)])

    return run


@operator("Flatten")
def flatten(n: Node) -> Function:
    axis = int(n.attribute("axis", 1))
    return lambda x: x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose")
def transpose(n: Node) -> Function:
    order = n.attribute("perm")
    return lambda x: x.permute(order or tuple(reversed(range(x.ndim))))


@operator("Squeeze", host=(1,))
def squeeze(n: Node) -> Function:
    axes_of = numbers(n, 1, "axes")

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(given)
        return x.squeeze(tuple(axes)) if axes else x.squeeze()

    return run


@operator("Unsqueeze", host=(1,))
def unsqueeze(n: Node) -> Function:
    """Count the axes in what is made."""
    axes_of = numbers(n, 1, "axes")

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = some(axes_of(given))
        for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("Concat")
def concat(n: Node) -> Function:
    axis = int(n.attribute("axis", 1))
    return lambda *xs: torch.cat(xs, axis)


@operator("Split", host=(1,))
def split(n: Node) -> Function:
    """Give each output as much where no sizes are given, the last one what is left."""
    axis, sizes_of = int(n.attribute("axis", 0)), numbers(n, 1, "split")
    parts = int(n.attribute("num_outputs", len(n.node.outputs)))

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = sizes_of(given)
        if sizes is None:
            extent = x.shape[axis]
            each = -(-extent // parts)
            sizes = [each] * (parts - 1) + [extent - each * (parts - 1)]
        return torch.split(x, sizes, axis)

    return run


@operator("Slice", host=(1, 2, 3, 4))
def slices(n: Node) -> Function:
    """Turn an axis round where the step is negative, which torch has no view for."""
    readers = [numbers(n, index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1)]

    def run(x: Tensor, *operands: Tensor | None) -> Tensor:
        given = (*operands, None, None, None, None)
        starts, ends, axes, steps = (read(operand) for read, operand in zip(readers, given, strict=False))
        index = [slice(None)] * x.ndim
        turned = []
        for k, (start, end) in enumerate(zip(some(starts), some(ends), strict=True)):
            axis, step = axes[k] % x.ndim if axes else k, steps[k] if steps else 1
            index[axis] = _forward(slice(start, end, step), x.shape[axis])
            turned += [axis] if step < 0 else []
        return (x.flip(turned) if turned else x)[tuple(index)]

    return run


def _forward(wanted: slice, extent: int) -> slice:
    """Return the slice that takes the same from the axis, or from the axis turned round if the step is negative."""
    start, stop, step = wanted.indices(extent)
    if step > 0:
        return slice(start, max(start, stop), step)
    first = extent - 1 - start
    return slice(first, first + max(0, start - stop), -step)


@operator("Expand", host=(1,))
def expand(n: Node) -> Function:
    shape_of = numbers(n, 1)
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, some(shape_of(shape))))


@operator("Tile", host=(1,))
def tile(n: Node) -> Function:
    if n.opset < 6:
        raise Untrainable("repetitions along one axis (opset 1)")
    repeats_of = numbers(n, 1)
    return lambda x, repeats: x.repeat(some(repeats_of(repeats)))


@operator("SpaceToDepth")
def space_to_depth(n: Node) -> Function:
    b = int(n.attribute("blocksize"))

    def run(x: Tensor) -> Tensor:
        batch, c, h, w = x.shape
        blocks = x.reshape(batch, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(batch, c * b * b, h // b, w // b)

    return run


@operator("DepthToSpace")
def depth_to_space(n: Node) -> Function:
    b, columns_first = int(n.attribute("blocksize")), n.attribute("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        batch, c, h, w = x.shape
        if columns_first:
            blocks = x.reshape(batch, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            blocks = x.reshape(batch, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(batch, c // (b * b), h * b, w * b)

    return run


@operator("Trilu", host=(1,))
def trilu(n: Node) -> Function:
    cut, diagonal_of = torch.triu if n.attribute("upper", 1) else torch.tril, numbers(n, 1)
    return lambda x, k=None: cut(x, (diagonal_of(k) or [0])[0])


@operator("ReverseSequence")
def reverse_sequence(n: Node) -> Function:
    """Turn the first elements of every sequence round, as many as it is long."""
    time, batch = int(n.attribute("time_axis", 0)), int(n.attribute("batch_axis", 1))

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        y = x.movedim((time, batch), (0, 1))
        steps = torch.arange(y.shape[0], device=x.device)[:, None]
        source = torch.where(steps < lengths, lengths - 1 - steps, steps)
        turned = y[source, torch.arange(y.shape[1], device=x.device)]
        return turned.movedim((0, 1), (time, batch))

    return run
