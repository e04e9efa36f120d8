"""What `compare` and `sweep` return: smaller models of one original, what they cost and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pfa_onnx.recipe import Method, Proof, Size
from pfa_onnx.results import DataInfo, ModelInfo, Repair

Values = Mapping[str, float | None]

COSTS = ("params", "macs", "bytes", "latency")  # metrics[f"{cost}_ratio"]: over the original's
QUALITIES = ("agreement", "cosine_mean")  # the first one that the outputs define says which model is closer
ENOUGH = 0.99  # of the quality: a model that is this close is picked for its size


def front(points: Sequence[tuple[float | None, float | None]]) -> tuple[bool, ...]:
    """Return which (cost, quality) no other point beats, by being no worse in either and better in one."""

    def beaten(cost: float, quality: float) -> bool:
        others = ((c, q) for c, q in points if c is not None and q is not None and (c, q) != (cost, quality))
        return any(c <= cost and q >= quality for c, q in others)

    return tuple(cost is not None and quality is not None and not beaten(cost, quality) for cost, quality in points)


def quality_of(found: Iterable[Values]) -> str:
    """Return what these models are judged by: agreement, or the mean cosine where outputs are no class scores."""
    models = list(found)
    return next((name for name in QUALITIES if any(one.get(name) is not None for one in models)), QUALITIES[0])


def fronts(found: Sequence[Values], quality: str) -> tuple[tuple[str, ...], ...]:
    """Return for every model the costs by which it is on the Pareto front; the original is there, too."""
    on: list[list[str]] = [[] for _ in found]
    for cost in COSTS:
        points = [(one.get(f"{cost}_ratio"), one.get(quality)) for one in found]
        for index, there in enumerate(front([*points, (1.0, 1.0)])[:-1]):
            if there:
                on[index].append(cost)
    return tuple(map(tuple, on))


# --- compare ---


@dataclass(frozen=True)
class Made:
    """One step of how a model came about, as the recipe inside it says.

    kept of channels: in all layers. repair: the outputs' error before and after it. tuned: (the epoch whose weights
    were kept, epochs). redrawn: the seed by which the weights were drawn anew. method: None where only weights changed.
    """

    method: Method | None
    kept: int = 0
    channels: int = 0
    through_norm: bool = False
    variants: Mapping[str, str] = field(default_factory=dict)
    repair: tuple[float, float] | None = None
    tuned: tuple[int, int] | None = None
    redrawn: int | None = None


@dataclass(frozen=True)
class Candidate:
    """One of the models that `compare` compares. metrics: as in `CheckReport`; made: how it came about, in order."""

    model: ModelInfo
    metrics: Values
    latency_ms: tuple[float, float] | None
    outputs: Mapping[str, Mapping[str, Any]]
    made: tuple[Made, ...] = ()


@dataclass(frozen=True)
class ClassRow:
    """One class: of so many samples, how many each model gets right; None for a model without class scores.

    By "label", right is what the label says; by "answer", the class is the original's answer, and so is right.
    number: of the output that stands for it.
    """

    name: str
    number: int
    samples: int
    original: int
    models: tuple[int | None, ...]


@dataclass(frozen=True)
class ChangedInput:
    """An input that some model answers otherwise than the original: the class that each of them says."""

    name: str
    label: str | None
    original: int
    models: tuple[int | None, ...]

    @property
    def changes(self) -> int:
        """How many models answer otherwise."""
        return sum(answer is not None and answer != self.original for answer in self.models)


@dataclass(frozen=True)
class Compared:
    """The outcome of `compare`.

    by: whether classes are those of the labels or the original's answers, None where outputs are no class scores.
    changed: the inputs that most models answer otherwise first. pictures: small PNGs of some of them, by their place.
    """

    original: ModelInfo
    data: DataInfo
    models: tuple[Candidate, ...]
    by: Literal["label", "answer"] | None = None
    classes: tuple[ClassRow, ...] = ()
    changed: tuple[ChangedInput, ...] = ()
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def quality(self) -> str:
        """What the models are judged by."""
        return quality_of(one.metrics for one in self.models)

    @property
    def fronts(self) -> tuple[tuple[str, ...], ...]:
        """For every model, the costs by which it is on the Pareto front."""
        return fronts([one.metrics for one in self.models], self.quality)


# --- sweep ---


@dataclass(frozen=True)
class Point:
    """One recipe of a sweep: what its model costs, and how close it is to the original.

    kept: channels that stay. metrics: as in `CheckReport`, of the model that `prune` would write; unrepaired: the same
    before repair, None without one. output: where the model was written, if it was.
    """

    method: Method
    size: Size
    kept: int
    metrics: Values
    proof: Proof
    unrepaired: Values | None = None
    repair: Repair | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Missed:
    """A recipe that there is no point for, and why. broken: its cut was not the masked original, which is a bug."""

    method: Method
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class Swept:
    """The outcome of `sweep`: the points from the largest model to the smallest.

    data: what was measured; compared_on: what the models were compared on, of so many samples in all, if that is known.
    channels: of the original. repaired: whether repair was asked for. complete: False where points are still to come.
    """

    model: ModelInfo
    data: DataInfo | None
    compared_on: DataInfo
    of: int | None
    channels: int
    points: tuple[Point, ...]
    missed: tuple[Missed, ...] = ()
    repaired: bool = False
    complete: bool = True
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def quality(self) -> str:
        """What the points are judged by."""
        return quality_of(one.metrics for one in self.points)

    @property
    def fronts(self) -> tuple[tuple[str, ...], ...]:
        """For every point, the costs by which it is on the Pareto front."""
        return fronts([one.metrics for one in self.points], self.quality)

    def plus(self, one: Point | Missed) -> Swept:
        """Return this with one more point, or one that could not be had."""
        if isinstance(one, Missed):
            return replace(self, missed=(*self.missed, one))
        size = lambda point: (-point.size.params, -point.size.macs, -point.size.bytes)  # noqa: E731
        return replace(self, points=tuple(sorted((*self.points, one), key=size)))

    @property
    def pick(self) -> Point | None:
        """The smallest model that is close enough; else the closest one; None where none is smaller."""
        quality = self.quality
        found = [
            (one, worth)
            for one in self.points
            if one.size.params < self.model.size.params and (worth := one.metrics.get(quality)) is not None
        ]
        enough = [one for one, worth in found if worth >= ENOUGH]
        if enough:
            return min(enough, key=lambda one: (one.size.params, one.size.macs))
        return max(found, key=lambda item: (item[1], -item[0].size.params), default=(None, 0.0))[0]
