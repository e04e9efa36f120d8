"""What `inspect` returns: what of a model could go, before any data says what should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pfa_onnx.recipe import Reason
from pfa_onnx.results import ModelInfo


@dataclass(frozen=True)
class InspectedInput:
    """One input. shape: numbers, the names of open extents, or None; taken: what its shape was taken to be."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    taken: tuple[int, ...]


@dataclass(frozen=True)
class InspectedLayer:
    """One layer. held: how many of its channels may not go, for the root causes in `frozen`.

    outputs: how many of them are outputs of the model. weight_params: the parameters of its weight.
    """

    output: str
    node: str
    op: str
    weight: str
    channels: int
    group: int | None
    frozen: tuple[Reason, ...]
    held: int
    outputs: int
    weight_params: int

    @property
    def free(self) -> int:
        """How many channels may go."""
        return self.channels - self.held


@dataclass(frozen=True)
class BatchNorms:
    """How many BatchNormalizations are there, and how many convolutions one was folded into.

    keep: how an export keeps them, None where none was folded.
    """

    there: int
    folded: int
    keep: str | None = None


@dataclass(frozen=True)
class Inspection:
    """The outcome of `inspect`.

    pictures: whether a folder of images can be its data; else arrays, one for each input.
    wider: how many channels may go where normalisations may run over the kept ones only, None where that is no
    question, or it is what was looked at (through_norm).
    """

    model: ModelInfo
    inputs: tuple[InspectedInput, ...]
    layers: tuple[InspectedLayer, ...]
    batch_norms: BatchNorms
    pictures: bool
    through_norm: bool = False
    wider: int | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """All channels of all layers, less those that are outputs of the model."""
        return sum(layer.channels - layer.outputs for layer in self.layers)

    @property
    def outputs(self) -> int:
        """All channels of layers that are outputs of the model."""
        return sum(layer.outputs for layer in self.layers)

    @property
    def free(self) -> int:
        """All channels that may go."""
        return sum(layer.free for layer in self.layers)

    @property
    def share(self) -> float:
        """The share of the channels that may go, of those that are no outputs of the model."""
        return self.free / self.channels if self.channels else 0.0
