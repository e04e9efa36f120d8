"""Compare what two models answer: streaming, in float64, one batch at a time.

Which output holds class scores is read off its shape: the first float output [N, K] or [N, K, 1, 1] with
K >= 2. Labels count as classes when they are whole numbers below K, or when the label names are exactly K:
then the k-th name in sorted order is class k, which is how folder data sets number their classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.stats.latency import Latency, paired_latency

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "Answer",
    "Change",
    "Comparison",
    "Latency",
    "Metrics",
    "OutputMetrics",
    "as_tensors",
    "class_numbers",
    "paired_latency",
    "relative_error",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutputMetrics:
    """One output: cosines over samples, largest absolute error, share of equal integers, or why none of these."""

    cosine_min: float | None = None
    cosine_mean: float | None = None
    max_abs_error: float | None = None
    agreement: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Change:
    """A sample whose predicted class is another one now."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Answer:
    """What both models say of a sample: the class with the highest score. truth: the class that its label names."""

    name: str
    label: str | None
    truth: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Metrics:
    """How close the pruned model's answers are; None where the outputs or labels do not define a number.

    agreement: share of samples with the same top-1 class; without class scores, the share of equal elements
    of the first integer output. cosines: of each sample's flattened float outputs, over samples and outputs.
    """

    samples: int
    agreement: float | None
    cosine_min: float | None
    cosine_mean: float | None
    max_abs_error: float | None
    accuracy_original: float | None
    accuracy_pruned: float | None
    per_output: Mapping[str, OutputMetrics]
    changed: tuple[Change, ...]


@dataclass
class _Tally:
    """The running sums of one output."""

    cosine_min: float = np.inf
    cosine_sum: float = 0.0
    cosines: int = 0
    error: float | None = None
    equal: int = 0
    elements: int = 0
    note: str | None = None

    def metrics(self) -> OutputMetrics:
        return OutputMetrics(
            self.cosine_min if self.cosines else None,
            self.cosine_sum / self.cosines if self.cosines else None,
            self.error,
            self.equal / self.elements if self.elements else None,
            self.note,
        )


@dataclass
class Comparison:
    """Feed both models' outputs batch by batch, then ask for the result.

    classes: all label names of the data set (`Dataset.classes`), to number labels that are names.
    """

    classes: Sequence[str] = ()
    _tallies: dict[str, _Tally] = field(default_factory=dict)
    _scores: str | None = None
    _width: int = 0
    _tops: list[tuple[str, str | None, int, int]] = field(default_factory=list)
    _samples: int = 0

    def add(
        self,
        original: Mapping[str, Any],
        pruned: Mapping[str, Any],
        names: Sequence[str],
        labels: Sequence[str | None] = (),
    ) -> list[int]:
        """Add the outputs of one batch, by output name; `names` and `labels` have one entry for each sample.

        Return the positions in the batch of the samples whose predicted class changed.
        """
        first = not self._tallies
        known = len(self._tops)
        self._samples += len(names)
        for output, value in original.items():
            tally = self._tallies.setdefault(output, _Tally())
            before, after = as_tensors(value, pruned.get(output))
            note = _mismatch(before, after)
            if after is None or note:
                tally.note = tally.note or note
                continue
            _measure(tally, before, after, len(names))
            if first and self._scores is None and _looks_like_scores(before, len(names)):
                self._scores, self._width = output, before.shape[1]
            if output == self._scores and before.shape[:2] == (len(names), self._width):
                tops = (np.reshape(value, (len(names), -1)).argmax(1).tolist() for value in (before, after))
                self._tops += zip(names, labels or [None] * len(names), *tops, strict=True)
        return [k for k, (_, _, before, after) in enumerate(self._tops[known:]) if before != after]

    def result(self) -> Metrics:
        """Return the metrics of all batches so far."""
        per_output = {name: tally.metrics() for name, tally in self._tallies.items()}
        cosines = [tally for tally in self._tallies.values() if tally.cosines]
        errors = [tally.error for tally in self._tallies.values() if tally.error is not None]
        original, pruned = self._accuracy()
        return Metrics(
            samples=self._samples,
            agreement=self._agreement(per_output),
            cosine_min=min((tally.cosine_min for tally in cosines), default=None),
            cosine_mean=sum(t.cosine_sum for t in cosines) / sum(t.cosines for t in cosines) if cosines else None,
            max_abs_error=max(errors, default=None),
            accuracy_original=original,
            accuracy_pruned=pruned,
            per_output=per_output,
            changed=tuple(Change(name, before, after) for name, _, before, after in self._tops if before != after),
        )

    def answers(self) -> tuple[Answer, ...]:
        """Return the classes of all samples so far; nothing where no output holds class scores."""
        index = self._numbers() or {}
        return tuple(
            Answer(name, label, None if label is None else index.get(label), before, after)
            for name, label, before, after in self._tops
        )

    def _numbers(self) -> dict[str, int] | None:
        """Return which class each label is, if something says so."""
        found = {label for _, label, _, _ in self._tops if label is not None}
        return class_numbers({*self.classes, *found}, self._width)

    def _agreement(self, per_output: Mapping[str, OutputMetrics]) -> float | None:
        if self._tops:
            return sum(before == after for _, _, before, after in self._tops) / len(self._tops)
        return next((metrics.agreement for metrics in per_output.values() if metrics.agreement is not None), None)

    def _accuracy(self) -> tuple[float | None, float | None]:
        labelled = [(label, before, after) for _, label, before, after in self._tops if label is not None]
        index = self._numbers()
        if not labelled or index is None:
            return None, None
        truth = [index[label] for label, _, _ in labelled]
        original = sum(before == true for (_, before, _), true in zip(labelled, truth, strict=True))
        pruned = sum(after == true for (_, _, after), true in zip(labelled, truth, strict=True))
        return original / len(truth), pruned / len(truth)


def class_numbers(labels: Iterable[str], width: int) -> dict[str, int] | None:
    """Return which class each label is, of `width` classes; None where nothing says so."""
    known = sorted(set(labels))
    if all(label.isdecimal() for label in known):
        index = {label: int(label) for label in known}
        return index if max(index.values(), default=0) < width else None
    # fewer names are some of the classes, and nothing says which
    return {label: number for number, label in enumerate(known)} if len(known) == width else None


def relative_error(reference: Array, other: Array) -> float:
    """Return max|a - b| / max|a|: 0 for equal arrays, inf for other shapes or NaN and inf in other places."""
    if reference.shape != other.shape:
        return float("inf")
    if reference.dtype.kind not in "biuf" or other.dtype.kind not in "biuf":
        return 0.0 if np.array_equal(reference, other) else float("inf")
    if not reference.size:
        return 0.0
    a, b = reference.astype(np.float64), other.astype(np.float64)
    difference = _difference(a, b)
    finite = np.abs(a[np.isfinite(a)])
    smallest = np.finfo(reference.dtype if reference.dtype.kind == "f" else np.float32).tiny
    scale = max(float(finite.max(initial=0.0)), float(smallest))
    return float(difference.max()) / scale


# --- one output, one batch ---


def as_tensors(before: Any, after: Any) -> tuple[Any, Any]:
    """Return two outputs as arrays [samples, keys] if they are lists of maps, as scikit-learn's scores are.

    Maps of other keys cannot be compared, and stay what they are.
    """
    if not (_are_maps(before) and _are_maps(after)):
        return before, after
    keys = list(before[0])
    if any(list(one) != keys for one in (*before, *after)):
        return before, after
    one, other = (np.array([list(row.values()) for row in value]) for value in (before, after))
    return one, other


def _are_maps(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _mismatch(before: Any, after: Any) -> str | None:
    """Why two values cannot be compared, if they cannot."""
    if after is None:
        return "the pruned model has no such output"
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        return "not a tensor"
    if before.shape != after.shape:
        return f"shapes differ: {list(before.shape)} and {list(after.shape)}"
    return None


def _measure(tally: _Tally, before: Array, after: Array, samples: int) -> None:
    if before.dtype.kind != "f":
        tally.equal += int(np.count_nonzero(before == after))
        tally.elements += before.size
        return
    a, b = before.astype(np.float64), after.astype(np.float64)
    tally.error = max(tally.error or 0.0, float(_difference(a, b).max(initial=0.0)))
    rows = samples if a.ndim and len(a) == samples else 1  # else the output belongs to the batch as a whole
    cosines = _cosines(a.reshape(rows, -1), b.reshape(rows, -1))
    tally.cosine_min = min(tally.cosine_min, float(cosines.min(initial=np.inf)))
    tally.cosine_sum += float(cosines.sum())
    tally.cosines += len(cosines)


def _cosines(a: Floats, b: Floats) -> Floats:
    """Cosine of each row: two zero rows are alike (1), one is not (0); NaN or inf in other places: 0."""
    odd = ~(np.isfinite(a) & np.isfinite(b))
    broken = (odd & (_difference(a, b) > 0)).any(1)
    a, b = np.where(odd, 0.0, a), np.where(odd, 0.0, b)
    # each row by its largest number, so that squares neither vanish nor overflow
    tops = [np.abs(value).max(1, initial=0.0, keepdims=True) for value in (a, b)]
    a, b = (value / np.where(top > 0, top, 1.0) for value, top in zip((a, b), tops, strict=True))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1.0), 0.0)
    both_zero = (tops[0] == 0).ravel() & (tops[1] == 0).ravel()
    cosines = np.where(both_zero, 1.0, np.clip(cosines, -1.0, 1.0))
    return np.where(broken, 0.0, cosines)


def _difference(a: Floats, b: Floats) -> Floats:
    """Return |a - b|, where NaN equals NaN and inf equals inf, and either of them is infinitely far from the rest."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _looks_like_scores(value: Array, samples: int) -> bool:
    shape = value.shape
    return (
        value.dtype.kind == "f"
        and len(shape) >= 2
        and shape[0] == samples
        and shape[1] >= 2
        and shape[2:] in ((), (1, 1))
    )
