"""Pad, in every mode and at every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.torch.ops.operands import numbers, some
from pfa_onnx.torch.ops.padding import pad
from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

Ends = dict[int, tuple[int, int]]  # axis -> how much is added before and behind

_OWN = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}  # what torch calls them


@operator("Pad", host=(1, 2, 3))
def pads(n: Node) -> Function:
    """Cut first where a pad is negative, then pad."""
    mode = str(n.attribute("mode", "constant"))
    if mode != "constant" and mode not in _OWN:
        raise Untrainable(f"mode {mode}")
    pads_of, axes_of, value_of = numbers(n, 1, "pads" if n.opset > 1 else "paddings"), numbers(n, 3), _value(n)

    def run(
        x: Tensor, around: Tensor | None = None, value: Tensor | None = None, along: Tensor | None = None
    ) -> Tensor:
        wanted, axes = some(pads_of(around)), axes_of(along)
        if mode == "constant":
            return pad(x, _everywhere(wanted, axes, x.ndim), value_of(value))
        half = len(wanted) // 2
        places = [axis % x.ndim for axis in axes] if axes is not None else range(half)
        return _mirrored(x, dict(zip(places, zip(wanted[:half], wanted[half:], strict=True), strict=True)), mode)

    return run


def _value(n: Node) -> Callable[[Tensor | None], Any]:
    found = np.asarray(n.attribute("value", 0.0)) if n.opset < 11 else n.constant(2)
    if found is not None and found.size:
        fixed = found.item()
        return lambda _: fixed
    return lambda value: value.item() if value is not None and value.numel() else 0


def _everywhere(wanted: list[int], axes: list[int] | None, rank: int) -> list[int]:
    """Return pads for all axes."""
    if axes is None:
        return wanted
    found = [0] * (2 * rank)
    for k, axis in enumerate(axes):
        found[axis % rank], found[rank + axis % rank] = wanted[k], wanted[len(axes) + k]
    return found


def _mirrored(x: Tensor, ends: Ends, mode: str) -> Tensor:
    """Pad with what is in x already."""
    for axis, (before, after) in ends.items():
        if before < 0 or after < 0:
            first = max(0, -before)
            x = x.narrow(axis, first, x.shape[axis] - first - max(0, -after))
    ends = {axis: (max(0, before), max(0, after)) for axis, (before, after) in ends.items() if max(before, after) > 0}
    if _is_own(x, ends, mode):
        order = [amount for axis in range(x.ndim - 1, 1, -1) for amount in ends.get(axis, (0, 0))]
        return functional.pad(x, order, _OWN[mode])
    for axis, (before, after) in ends.items():
        x = x.index_select(axis, _positions(x.shape[axis], before, after, mode).to(x.device))
    return x


def _is_own(x: Tensor, ends: Ends, mode: str) -> bool:
    """Tell whether torch can: it pads images behind a batch and channels, by no more than they have."""
    spare = {"reflect": 1, "wrap": 0}.get(mode, -max(map(max, ends.values()), default=0))
    room = all(max(amounts) + spare <= x.shape[axis] for axis, amounts in ends.items())
    return x.is_floating_point() and 3 <= x.ndim <= 5 and all(axis > 1 for axis in ends) and room


def _positions(extent: int, before: int, after: int, mode: str) -> Tensor:
    """Return where along the axis every element of the padded axis comes from."""
    places = torch.arange(-before, extent + after)
    if mode == "edge":
        return places.clamp(0, extent - 1)
    if mode == "wrap":
        return places % extent
    places = places % max(1, 2 * (extent - 1))
    return torch.minimum(places, 2 * (extent - 1) - places).clamp(min=0)
