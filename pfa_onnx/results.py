"""What the verbs return: immutable values, printed by `report` and by nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pfa_onnx.recipe import Method, Proof, Reason, Size
from pfa_onnx.responses import PAPER, Responses


@dataclass(frozen=True)
class ModelInfo:
    """The model that was read."""

    path: str
    sha256: str
    opset: int
    size: Size


@dataclass(frozen=True)
class DataInfo:
    """The calibration data that was read.

    skipped: (file, why) of inputs that could not be read. provider: what really ran, "cpu" or "cuda".
    """

    source: str
    samples: int
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    provider: str = "cpu"
    batch_size: int = 1
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LayerResult:
    """One layer: what the data says (spectrum), what PFA asks for, what stays and what had to stay.

    eigenvalues: [C], descending, raw. asked: what the method alone would keep. keep: sorted original indices.
    frozen: the root causes that held channels of this layer back. held: how many channels they hold.
    weight_params: the parameters of its weight.
    """

    output: str
    node: str
    op: str
    weight: str
    channels: int
    samples: int
    eigenvalues: tuple[float, ...]
    kl: float
    gamma: float
    asked: int
    keep: tuple[int, ...]
    group: int | None
    frozen: tuple[Reason, ...] = ()
    held: int = 0
    weight_params: int = 0


@dataclass(frozen=True)
class LayerRepair:
    """What repair made of one layer, on held-back samples.

    before, after: mean square error of what it makes, over the variance of what it made in the original.
    how: "least squares", "bias", or "nothing" where neither came closer.
    """

    output: str
    node: str
    before: float
    after: float
    how: str


@dataclass(frozen=True)
class Repair:
    """What repair gained. before, after: the outputs' mean square error over their variance, on held-back samples.

    samples: it learned from, or held back; stages: in which layers were solved. applied: False where it gained nothing.
    """

    layers: tuple[LayerRepair, ...]
    samples: int
    stages: int
    before: float
    after: float
    applied: bool


@dataclass(frozen=True)
class Correlations:
    """The |correlation| of a layer's channels in its order of removal, made small enough to look at.

    side: how many cells the matrix has along each side; each is the mean over that many equal stretches of channels
    (of one channel each, where side is the number of channels).
    cells: its upper triangle with the diagonal, row by row, one byte each: 255 is a correlation of 1.
    """

    side: int
    cells: bytes


@dataclass(frozen=True)
class LayerDetails:
    """What a page about a layer shows beside its result.

    order: all channels: those that were removed, in the order in which they go; those that stay, the first that would
    go next first; those that may not go. kl: how many channels PFA-KL asks for, whatever the method was.
    """

    order: tuple[int, ...]
    kl: int
    correlations: Correlations | None = None


@dataclass(frozen=True)
class Cost:
    """What the model that keeps the share `tau` of every layer's energy would cost."""

    tau: float
    params: int
    macs: int


@dataclass(frozen=True)
class Details:
    """More about a decision, collected for those who look at it: by layer output, and over the energy, ascending."""

    layers: Mapping[str, LayerDetails]
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Report:
    """The outcome of `analyze` (nothing written, no proof) and of `prune`.

    redrawn: the seed by which all weights were drawn anew after the proof, None when they were kept.
    repair: what it gained, if it was asked for.
    through_norm: whether normalisations may run over the kept channels only. responses: what was measured of layers.
    round_to: the multiple of channels that was measured to run fastest, None when it was not measured.
    details: what only the HTML page shows, where it was asked for and the data decided.
    """

    model: ModelInfo
    data: DataInfo | None
    method: Method
    layers: tuple[LayerResult, ...]
    after: Size | None
    proof: Proof | None = None
    output: Path | None = None
    redrawn: int | None = None
    repair: Repair | None = None
    through_norm: bool = False
    responses: Responses = PAPER
    round_to: int | None = None
    details: Details | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """All channels of all layers."""
        return sum(layer.channels for layer in self.layers)

    @property
    def kept(self) -> int:
        """All channels that stay."""
        return sum(len(layer.keep) for layer in self.layers)


@dataclass(frozen=True)
class Merged:
    """The outcome of `merge`. missing: (i, n) of the shards that would complete the data."""

    output: Path
    files: int
    source: str
    samples: int
    layers: int
    provider: str
    missing: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Quality:
    """A model on the samples that fine-tuning holds back.

    loss: of training. agreement: the share of samples with the teacher's top-1 class; accuracy: with their label's.
    """

    loss: float
    agreement: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Tuned:
    """The outcome of `finetune`. history: after no epoch, one, two, ...; best: the epoch whose weights were written.

    data: what was learned from; held: samples that were held back. teacher: its path, None without one; its accuracy
    is teacher_accuracy. device: what it ran on. trained: how many weights may change.
    """

    model: ModelInfo
    teacher: str | None
    data: DataInfo
    held: int
    method: Mapping[str, Any]
    history: tuple[Quality, ...]
    best: int
    trained: int
    device: str
    output: Path
    teacher_accuracy: float | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def before(self) -> Quality:
        """The pruned model as it came."""
        return self.history[0]

    @property
    def after(self) -> Quality:
        """The model that was written."""
        return self.history[self.best]


@dataclass(frozen=True)
class Gate:
    """One bound of `check`: a minimum or a maximum, and whether it holds."""

    name: str
    value: float | None
    limit: float
    passed: bool


@dataclass(frozen=True)
class Changed:
    """A sample whose predicted class changed."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Picture:
    """A changed sample to look at: what both models call it and what its label says, and a small PNG of it."""

    name: str
    before: str
    after: str
    truth: str | None
    png: bytes


@dataclass(frozen=True)
class CheckReport:
    """The outcome of `check`.

    metrics: agreement, cosine_min, cosine_mean, max_abs_error, params_ratio, macs_ratio, bytes_ratio,
    latency_ratio, and with labels accuracy_original and accuracy_pruned; None where one does not apply.
    repair: what repair gained when the pruned model was made, without its layers.
    pictures: of some of the changed samples, where they were asked for and are pictures.
    """

    original: ModelInfo
    pruned: ModelInfo
    data: DataInfo
    metrics: Mapping[str, float | None]
    latency_ms: tuple[float, float] | None
    outputs: Mapping[str, Mapping[str, Any]]
    gates: tuple[Gate, ...]
    changed: Sequence[Changed] = ()
    repair: Repair | None = None
    pictures: tuple[Picture, ...] = ()
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)
