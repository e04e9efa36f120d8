"""The immutable data that both halves share.

`graph` says which channels move together (`Coupling`), `stats` says what the data thinks of them
(`Wish`), and a `Recipe` is the decision: which channels of every layer stay. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MethodName = Literal["kl", "energy", "params", "macs", "latency", "uniform"]
Select = Literal["pfa", "l1", "l2", "bn", "wanda", "reconstruct", "random"]
Divergence = Literal["kl", "chi2", "emd"]
Curve = Literal["linear", "sqrt", "square", "exp"]
Couple = Literal["max", "mean", "stream"]
Shrink = Literal["none", "oas"]


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, its shape (None = dynamic) and its numpy dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Reason:
    """Why a channel may not go: what was found, and the node that said so."""

    reason: str
    node: str


@dataclass(frozen=True)
class Layer:
    """A node whose output channels PFA measures.

    output: the name of its output tensor, the layer's key everywhere.
    labels: [C], the removable thing that each channel belongs to; equal labels go together,
        within this layer and across layers.
    group: the set of layers that share labels with this one, or None when it stands alone.
    """

    output: str
    node: str
    op: str
    weight: str
    labels: Ints
    group: int | None = None

    @property
    def channels(self) -> int:
        """How many output channels the layer has."""
        return len(self.labels)


@dataclass(frozen=True)
class Coupling:
    """Which channels move together, and which may not move: all that the data half needs of the graph.

    frozen: label -> why it must stay. A label that is not in it may go.
    """

    layers: tuple[Layer, ...]
    frozen: Mapping[int, tuple[Reason, ...]]

    def layer(self, output: str) -> Layer:
        """Return the layer with this output tensor."""
        return next(layer for layer in self.layers if layer.output == output)


@dataclass(frozen=True)
class Geometry:
    """How a layer's output positions read its input: what unfolding needs.

    kind: "conv", "transposed" (a transposed convolution) or "matrix". read, made: the axis of the input that is summed
    over, and the axis of the output that is made. groups, kernel, strides, dilations: of a convolution.
    begins: padding before the first position of each spatial axis; auto_pad: the rule that decides it otherwise.
    """

    kind: Literal["conv", "transposed", "matrix"]
    read: int
    made: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"


@dataclass(frozen=True)
class Taken:
    """What a constant of a cut model is in the original: a constant's name there, and what was taken of it.

    steps: one after the other, (axes, positions in C order over these axes, their new extents).
    handed: it is computed, by an Identity or a Transpose say, from a constant that was cut in its place.
    """

    source: str
    steps: tuple[tuple[tuple[int, ...], Ints, tuple[int, ...]], ...] = ()
    handed: bool = False


@dataclass(frozen=True)
class Method:
    """How many channels stay, and which.

    tau: the energy (PFA-En). target: the ratio wanted by params, macs or latency. ratio: the share
    kept by uniform. select: which channels go; seed is for select=random.
    divergence, mapping: of name=kl, how far a spectrum is from a flat one, and what share that keeps (section 3.2.2).
    couple: what layers that share channels keep: the most or the mean of what they ask for, or what the responses of
    their residual sums ask for. shrink: "oas" shrinks covariances of few samples before their spectrum is taken.
    """

    name: MethodName
    tau: float | None = None
    target: float | None = None
    ratio: float | None = None
    select: Select = "pfa"
    seed: int = 0
    divergence: Divergence = "kl"
    mapping: Curve = "linear"
    couple: Couple = "max"
    shrink: Shrink = "none"

    @property
    def variants(self) -> dict[str, str]:
        """The choices that differ from the paper's, by name."""
        return {name: getattr(self, name) for name in VARIANTS if getattr(self, name) != getattr(Method, name)}


VARIANTS = ("divergence", "mapping", "couple", "shrink")


@dataclass(frozen=True)
class Wish:
    """What the data would remove, before the graph's constraints put channels back.

    asked: layer output -> how many channels the method alone asks to keep.
    order: labels, the first to go first; channels are put back from the end.
    remove: the labels that every layer agrees to lose.
    """

    asked: Mapping[str, int]
    order: Ints
    remove: frozenset[int]


@dataclass(frozen=True)
class Recipe:
    """The decision: for every layer, by output tensor, the sorted original indices that stay."""

    method: Method
    keep: Mapping[str, tuple[int, ...]]
    channels: Mapping[str, int]


@dataclass(frozen=True)
class Size:
    """What a model costs: stored parameters, multiply-accumulates of one sample, bytes on disk."""

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Proof:
    """The outcome of masked equivalence: the largest error relative to its output's scale.

    limit: what was measured as the limit, where activations are quantised and rounding alone is more than the fixed
    one; without_rounding: the largest error with these quantisers taken out, if they could be. before_choices: where
    near-equal candidates changed places, the largest error of what the model chooses by.
    """

    max_relative_error: float
    samples: int
    passed: bool
    outputs: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    without_rounding: float | None = None
    before_choices: float | None = None
