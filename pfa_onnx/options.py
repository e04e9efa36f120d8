"""What a user may choose, as immutable values; the command line fills them, and so may a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pfa_onnx.responses import PAPER, Responses


class Progress(Protocol):
    """Told how far a phase is: `progress("calibrate", 64, 512)`; total is None where it is not known."""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        """Take one step."""


def silent(phase: str, done: int, total: int | None) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class DataOptions:
    """Where inputs come from and how they run.

    preprocess: a preset's name, a path to a preprocessor_config.json, or a `stats.preprocess.Preprocess`.
    overrides: keyword arguments of `make_preprocess`, such as mean, std, scale, size, resize, layout.
    ray: the address of a Ray cluster that measures, "local" to start one here, None for this process alone.
    shard: (i, n), every n-th of the samples from the i-th on, for statistics that are merged later.
    responses: what is measured of every layer; statistics of an earlier run must be of the same.
    """

    data: Any = None
    preprocess: Any = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int | None = None
    providers: Literal["auto", "cpu", "cuda"] = "auto"
    shard: tuple[int, int] = (1, 1)
    ray: str | None = None
    responses: Responses = PAPER


@dataclass(frozen=True)
class PlanOptions:
    """Which layers may lose channels, and to what width.

    round_to: widths are multiples of it; "auto" takes the multiple that runs fastest on this machine.
    through_norm: channels that a normalisation runs over may go too; it then runs over the kept ones only, so that
    the result is no longer what the original computes without them, and wants fine-tuning.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    round_to: int | Literal["auto"] = 1
    min_channels: int = 1
    allow_few_samples: bool = False
    through_norm: bool = False


@dataclass(frozen=True)
class Training:
    """How a pruned model is fine-tuned. Where and on what it runs is said by `DataOptions`.

    rate: the highest learning rate, after a linear warm-up over the share `warmup` of all steps; from there it falls
    to 0 along a cosine. None is 5e-4 for adamw and 1e-2 for sgd (Nesterov momentum 0.9).
    labels: learn from the samples' labels, too; teaching: the weight of the teacher's outputs beside them.
    responses: the weight of the teacher's layer responses, at the channels that were kept.
    augment: of "flip" and "shift", what is done to pictures; None chooses by where they come from.
    held: the share of the samples that is held back to choose the best epoch; patience: so many epochs without a
    better one end the training. precision: "mixed" computes in half precision where that is safe; "auto" on CUDA only.
    any_teacher: the teacher need not be the model that was pruned.
    """

    epochs: int = 10
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.1
    labels: bool = False
    teaching: float = 0.5
    responses: float = 0.0
    augment: tuple[str, ...] | None = None
    held: float = 0.1
    patience: int = 5
    precision: Literal["auto", "full", "mixed"] = "auto"
    seed: int = 0
    any_teacher: bool = False

    @property
    def highest(self) -> float:
        """The highest learning rate."""
        return self.rate if self.rate is not None else {"adamw": 5e-4, "sgd": 1e-2}[self.optimizer]


@dataclass(frozen=True)
class Hooks:
    """How a run talks to its caller: progress while it works, warnings as they are found, notes for the curious."""

    progress: Progress = silent
    warn: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
