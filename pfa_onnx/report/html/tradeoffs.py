"""What the pages of `compare` and `sweep` share: models by what they cost and how close they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pfa_onnx.recipe import Size
from pfa_onnx.report import numbers
from pfa_onnx.report.html.parts import section, table, text
from pfa_onnx.report.tables import Table
from pfa_onnx.report.tradeoffs import COST_NAMES
from pfa_onnx.tradeoff import QUALITIES, Values

_COSTS = {"params": "parameters", "macs": "multiply-accumulates", "bytes": "file size", "latency": "latency"}
_CLOSER = {"agreement": "agreement (top-1)", "accuracy_pruned": "accuracy", "cosine_mean": "cosine (mean)"}


@dataclass(frozen=True)
class Mark:
    """A model in the chart.

    label: beside its mark. values: its metrics; before: those before repair. costs: as people read them, by cost.
    facts: (what, value) that its panel shows beside these.
    """

    label: str
    name: str
    values: Values
    costs: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    before: Values | None = None


def data_of(marks: Sequence[Mark], quality: str, first: int | None, *, numbered: bool) -> dict[str, Any]:
    """Return what the script draws. first: whose panel is open; numbered: labels are numbers, inside the marks."""
    costs = [(f"{cost}_ratio", name) for cost, name in _COSTS.items()]
    closer = [(key, name) for key, name in sorted(_CLOSER.items(), key=lambda item: item[0] != quality)]
    accuracy = next((mark.values.get("accuracy_original") for mark in marks), None)
    return {
        "models": [_mark(mark) for mark in marks],
        "costs": [list(one) for one in costs if _known(marks, one[0])],
        "closer": [list(one) for one in closer if _known(marks, one[0])],
        "original": {**dict.fromkeys(QUALITIES, 1.0), "accuracy_pruned": accuracy},
        "first": first,
        "numbered": numbered,
        "repaired": any(mark.before is not None for mark in marks),
    }


def sizes(size: Size) -> dict[str, str]:
    """Return what a model costs, as people read it."""
    return {"params": numbers.count(size.params), "macs": numbers.count(size.macs), "bytes": numbers.size(size.bytes)}


def _known(marks: Sequence[Mark], key: str) -> bool:
    return any(mark.values.get(key) is not None for mark in marks)


def _mark(mark: Mark) -> dict[str, Any]:
    found: dict[str, Any] = {"label": mark.label, "name": mark.name, "values": _finite(mark.values)}
    found["costs"] = {f"{cost}_ratio": value for cost, value in mark.costs.items()}
    found["facts"] = [list(fact) for fact in mark.facts]
    if mark.before is not None:
        found["before"] = _finite(mark.before)
    return found


def _finite(values: Values) -> dict[str, float]:
    keys = {*(f"{cost}_ratio" for cost in COST_NAMES), *_CLOSER}
    known = ((key, value) for key, value in values.items() if key in keys and value is not None)
    return {key: round(value, 6) for key, value in known if math.isfinite(value)}


def chart(shown: Table, caption: str, notes: Sequence[str]) -> Iterator[str]:
    """Yield the section with the chart, the panel beside it, and the table below, whose first row is the original.

    notes: what there is to say below.
    """
    note = (
        "Every mark is one model. The line is the Pareto front: whatever lies below it is no closer to the original "
        "than a model that costs less. Hover, tap or tab to a mark to see more of it."
    )
    axes = (
        '<p class="axes" data-script hidden><label>cost <select id="cost"></select></label>'
        '<label>closeness <select id="closer"></select></label>'
        '<label id="before" hidden><input type="checkbox"> before repair, too</label></p>'
    )
    figure = (
        '<div class="tradeoff"><div><div class="chart" id="tradeoff"></div>'
        '<ul class="legend" id="key" data-script hidden></ul></div>'
        '<div class="panel" id="panel" aria-live="polite" data-script hidden></div></div>'
    )
    listed = f'<div id="models">{table(shown, caption)}</div>'
    below = (f'<p class="note">{text(one)}</p>' for one in notes)
    yield from section("Cost and closeness", axes, figure, listed, *below, note=note)
