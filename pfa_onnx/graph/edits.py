"""What the second run decides: every change to the graph, as data. The cut applies it and knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.graph.declarations import Array, Use
from pfa_onnx.recipe import Ints

Mask = npt.NDArray[np.bool_]


class Stuck(Exception):  # noqa: N818 - not an error: the plan is made again without these labels
    """A node cannot follow a cut.

    index: the node, in execution order. why: in words. ids: the labels it reads.
    """

    def __init__(self, index: int, why: str, ids: Ints) -> None:
        super().__init__(why)
        self.index = index
        self.why = why
        self.ids = ids


Steps = tuple[tuple[tuple[int, ...], Ints, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Gather:
    """Take positions of a constant, axes by axes: [(axes, flat positions over them, new extents)]."""

    steps: Steps


@dataclass(frozen=True)
class Narrowed:
    """A statistic that runs over the kept positions only.

    kept: which ones, broadcastable to the input's shape; along its last varying axis every row keeps equally many.
    passes: the output has these positions too, as a normalisation's has and a mean's has not.
    """

    kept: Mask
    passes: bool


@dataclass
class Edits:
    """All changes to the graph: what the cut applies, and nothing else.

    overridden: computed operands of which one reader reads some elements otherwise: (which ones, what it reads there).
    shapes: of changed tensors, in the traced run; extents: of these, the axes that changed.
    reads and sums are for the proof: what contractions read of removed channels, in constants and in activations;
    so is narrowed: which positions statistics are taken of.
    """

    gathers: dict[Use, Gather] = field(default_factory=dict)
    replaced: dict[Use, Array] = field(default_factory=dict)
    overridden: dict[Use, tuple[Mask, Array]] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    extents: dict[str, dict[int, int]] = field(default_factory=dict)
    reads: dict[Use, tuple[tuple[tuple[int, ...], Mask], ...]] = field(default_factory=dict)
    sums: dict[Use, Mask] = field(default_factory=dict)
    narrowed: dict[Use, Narrowed] = field(default_factory=dict)


def gather_step(array: Array, axes: tuple[int, ...], at: Ints, extents: tuple[int, ...]) -> Array:
    """Take flat positions `at` over `axes` of an array; these axes then have the given extents."""
    if len(axes) == 1:
        return np.take(array, at, axis=axes[0])
    front = np.moveaxis(array, axes, range(len(axes)))
    flat = front.reshape(-1, *front.shape[len(axes) :])
    taken = flat[at].reshape(*extents, *front.shape[len(axes) :])
    return np.moveaxis(taken, range(len(axes)), axes)
