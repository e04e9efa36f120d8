"""What the reports of `compare` and `sweep` share: a row for each model, with what it costs and how close it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pfa_onnx.report import words
from pfa_onnx.report.as_json import method_fields
from pfa_onnx.report.numbers import fraction
from pfa_onnx.report.tables import Column
from pfa_onnx.tradeoff import COSTS, Made, Values

STAR = "*"
FRONT_COST = "params"  # the cost by which a star is given; pages let the reader choose
COST_NAMES = {"params": "params", "macs": "MACs", "bytes": "file", "latency": "latency"}
QUALITY_NAMES = {
    "agreement": "agreement",
    "cosine_mean": "cosine",
    "cosine_min": "worst cosine",
    "accuracy_pruned": "accuracy",
}
_SPARE = {"MACs", "file", "latency", "worst cosine"}


def shown(quality: str, found: Sequence[Values]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the costs, and the metrics beside the quality, that some model has."""

    def known(name: str) -> bool:
        return any(one.get(name) is not None for one in found)

    others = ("cosine_mean", "accuracy_pruned") if quality == "agreement" else ("cosine_min", "accuracy_pruned")
    return tuple(cost for cost in COSTS if known(f"{cost}_ratio")), tuple(name for name in others if known(name))


def number_columns(titles: Sequence[str]) -> tuple[Column, ...]:
    """Return a column of numbers for each title; a narrow terminal does without some."""
    return tuple(Column(title, right=True, spare=title in _SPARE) for title in titles)


def cost_cells(values: Values, costs: Sequence[str]) -> tuple[str, ...]:
    """Return what a model costs, over the original's."""
    return tuple(fraction(values.get(f"{cost}_ratio"), 3) for cost in costs)


def quality_cells(values: Values, names: Sequence[str]) -> tuple[str, ...]:
    """Return how close a model is."""
    return tuple(fraction(values.get(name), 4) for name in names)


def star(on: Sequence[str]) -> str:
    """Return the mark of a model on the Pareto front."""
    return STAR if FRONT_COST in on else ""


def legend(quality: str) -> str:
    """Say how the table is read."""
    closer = QUALITY_NAMES[quality]
    return f"costs are over the original's   {STAR} no other has as few parameters and as high {closer}"


# --- how a model came about ---


def made(steps: Sequence[Made]) -> str:
    """Return how a model came about, in one line."""
    return "; then ".join(_step(one) for one in steps) or "it does not say"


def _step(one: Made) -> str:
    parts = []
    if one.method is not None:
        measured = "".join(f" --{name} {value}" for name, value in one.variants.items())
        through = " --through-norm" if one.through_norm else ""
        parts.append(f"{words.flags(one.method)}{measured}{through} keeps {one.kept:,} of {one.channels:,} channels")
    if one.repair is not None:
        parts.append(f"repaired (error {one.repair[0]:.3g} -> {one.repair[1]:.3g})")
    if one.redrawn is not None:
        parts.append(f"weights drawn anew (seed {one.redrawn})")
    if one.tuned is not None:
        parts.append(f"fine-tuned (epoch {one.tuned[0]} of {one.tuned[1]})")
    return words.clean(", ".join(parts))


def made_fields(one: Made) -> dict[str, Any]:
    """Return one step as JSON values."""
    fields: dict[str, Any] = {}
    if one.method is not None:
        fields |= {"method": method_fields(one.method), "kept": one.kept, "channels": one.channels}
    if one.through_norm:
        fields["through_norm"] = True
    if one.variants:
        fields["responses"] = dict(one.variants)
    if one.repair is not None:
        fields["repair"] = dict(zip(("before", "after"), one.repair, strict=True))
    if one.tuned is not None:
        fields["finetune"] = dict(zip(("best", "epochs"), one.tuned, strict=True))
    if one.redrawn is not None:
        fields["redrawn"] = one.redrawn
    return fields
