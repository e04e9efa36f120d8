"""Operands that Python reads: sizes, axes and indices, given as constants, as attributes, or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pfa_onnx.torch.registry import Node

Read = Callable[[Tensor | None], list[int] | None]


def numbers(n: Node, index: int, name: str = "") -> Read:
    """Return what reads an operand as whole numbers, or the attribute that it was in older versions.

    What the graph settles is read once, here; None stands for what is left out.
    """
    settled = n.attribute(name) if name in n.node.attributes else n.numbers(index)
    if settled is not None:
        fixed = [int(v) for v in settled] if isinstance(settled, Sequence) else [int(settled)]
        return lambda _: fixed
    if not n.given(index):
        return lambda _: None
    return _listed


def _listed(operand: Tensor | None) -> list[int] | None:
    return None if operand is None else [int(v) for v in operand.reshape(-1).tolist()]


def some(read: list[int] | None) -> list[int]:
    """Return what was read of an operand that the standard requires."""
    assert read is not None
    return read


def wrapped(index: Tensor, extent: int) -> Tensor:
    """Return indices as torch takes them: int64, and counted from the start where they count from the end."""
    index = index.long()
    return torch.where(index < 0, index + extent, index)
