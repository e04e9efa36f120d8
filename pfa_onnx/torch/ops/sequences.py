"""Sequences of tensors, as Python lists that nobody changes."""

from __future__ import annotations

import torch
from torch import Tensor

from pfa_onnx.torch.ops.operands import numbers, some
from pfa_onnx.torch.registry import Function, Node, operator


@operator("SequenceEmpty")
def sequence_empty(n: Node) -> Function:
    del n
    return list


@operator("SequenceConstruct")
def sequence_construct(n: Node) -> Function:
    del n
    return lambda *xs: list(xs)


@operator("SequenceInsert", host=(2,))
def sequence_insert(n: Node) -> Function:
    position_of = numbers(n, 2)

    def run(xs: list[Tensor], x: Tensor, position: Tensor | None = None) -> list[Tensor]:
        at = (position_of(position) or [len(xs)])[0]
        return [*xs[:at], x, *xs[at:]]

    return run


@operator("SequenceErase", host=(1,))
def sequence_erase(n: Node) -> Function:
    position_of = numbers(n, 1)

    def run(xs: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
        at = (position_of(position) or [-1])[0] % len(xs)
        return [*xs[:at], *xs[at + 1 :]]

    return run


@operator("SequenceAt", host=(1,))
def sequence_at(n: Node) -> Function:
    position_of = numbers(n, 1)
    return lambda xs, position: xs[some(position_of(position))[0]]


@operator("SequenceLength")
def sequence_length(n: Node) -> Function:
    del n
    return lambda xs: torch.tensor(len(xs))


@operator("SplitToSequence", host=(1,))
def split_to_sequence(n: Node) -> Function:
    """Read a single number, not a list of one, as the size of every part; without any, a part is one element."""
    axis, keep, sizes_of = int(n.attribute("axis", 0)), bool(n.attribute("keepdims", 1)), numbers(n, 1)

    def run(x: Tensor, given: Tensor | None = None) -> list[Tensor]:
        sizes = sizes_of(given)
        if sizes is None or given is None:
            return list(torch.split(x, 1, axis) if keep else torch.unbind(x, axis))
        return list(torch.split(x, sizes if given.ndim else sizes[0], axis))

    return run


@operator("ConcatFromSequence")
def concat_from_sequence(n: Node) -> Function:
    axis, join = int(n.attribute("axis")), torch.stack if n.attribute("new_axis", 0) else torch.cat
    return lambda xs: join(xs, axis)
