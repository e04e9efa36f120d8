"""The trade-off curve of a sweep, as text, JSON and Markdown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pfa_onnx import __version__
from pfa_onnx.recipe import Method
from pfa_onnx.report import markdown as md
from pfa_onnx.report import words
from pfa_onnx.report.as_json import SCHEMA, data_fields, method_fields, model_fields, written
from pfa_onnx.report.numbers import fraction
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.report.text import joined
from pfa_onnx.report.tradeoffs import (
    COST_NAMES,
    QUALITY_NAMES,
    cost_cells,
    legend,
    number_columns,
    quality_cells,
    shown,
    star,
)
from pfa_onnx.tradeoff import ENOUGH, Missed, Point, Swept

_FIELD = {"energy": "tau", "uniform": "ratio"}


def render(found: Swept, *, verbose: bool = False, width: int | None = None, next_step: str | None = None) -> str:
    """Return the curve as plain text."""
    parts: list[str | Table] = [
        *_head(found, "   "),
        point_table(found),
        legend(found.quality),
        *notes(found),
        *(f"wrote {len(_outputs(found))} models to {words.clean(folder)}" for folder in _folders(found)),
        pick(found),
        *([f"next: {next_step}"] if next_step else []),
    ]
    return joined(parts, None if verbose else width)


def line(found: Swept) -> str:
    """Return the outcome in one line."""
    return pick(found) + "\n"


def markdown(found: Swept) -> str:
    """Return the curve as Markdown: what to pick first."""
    head = [md.escape(text) for text in _head(found, ", ")]
    below = [legend(found.quality), *notes(found), *(f"warning: {text}" for text in found.warnings)]
    return md.joined([f"**{md.escape(pick(found))}**", *head, point_table(found), *map(md.escape, below)])


def as_json(found: Swept) -> str:
    """Return the curve as JSON, schema 1."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "model": model_fields(found.model),
        "channels": found.channels,
        "data": None if found.data is None else data_fields(found.data),
        "compared_on": {**data_fields(found.compared_on), "of": found.of},
        "quality": found.quality,
        "repair": found.repaired,
        "points": [_fields(one, on) for one, on in zip(found.points, found.fronts, strict=True)],
        "missed": [{"method": method_fields(one.method), "reason": one.reason} for one in found.missed],
        "pick": None if found.pick is None else found.points.index(found.pick),
        "complete": found.complete,
        "warnings": list(found.warnings),
    }
    return written(content)


def _fields(one: Point, on: tuple[str, ...]) -> dict[str, Any]:
    gained = one.repair
    return {
        "method": method_fields(one.method),
        "kept": one.kept,
        **asdict(one.size),
        "metrics": dict(one.metrics),
        "unrepaired": None if one.unrepaired is None else dict(one.unrepaired),
        "repair": None
        if gained is None
        else {k: getattr(gained, k) for k in ("applied", "before", "after", "samples")},
        "proof": {key: value for key, value in asdict(one.proof).items() if value is not None},
        "front": list(on),
        "output": None if one.output is None else str(one.output),
    }


# --- words ---


def name(method: Method) -> str:
    """Return how much a point removes, as it is typed; which channels go is the same for all of them."""
    value = getattr(method, _FIELD.get(method.name, "target"))
    return f"--{method.name}" if value is None else f"--{method.name} {value:g}"


def names(found: Swept) -> list[str]:
    """Return what the points are called: with all of their method where they differ in more than how much goes."""
    alike = len(_rests(found)) == 1
    return [name(one.method) if alike else words.flags(one.method) for one in found.points]


def pick(found: Swept) -> str:
    """Say which point a user would pick, and why."""
    if not found.complete:
        return f"interrupted: {len(found.points)} point{'s' * (len(found.points) != 1)} so far"
    chosen, quality = found.pick, QUALITY_NAMES[found.quality]
    if chosen is None:
        return "no point is smaller than the original"
    called = names(found)[found.points.index(chosen)]
    value = chosen.metrics[found.quality]
    assert value is not None
    if value >= ENOUGH:
        return f"{called} is the smallest with {quality} of {ENOUGH:g} or more ({value:.4f})"
    hint = "" if found.repaired else "; try --repair"
    return f"{called} is the closest ({quality} {value:.4f}): none reaches {ENOUGH:g}{hint}"


def _head(found: Swept, between: str) -> list[str]:
    lines = [words.model_line(found.model, between)]
    if found.data is not None:
        lines.append(words.data_line(found.data, between))
    lines.append(compared_on(found))
    return [*lines, *settings(found)]


def settings(found: Swept) -> list[str]:
    """Say what all points have in common, if that is not the default."""
    rests = _rests(found)
    common = [*(rests if len(rests) == 1 else ()), *(["--repair"] if found.repaired else [])]
    return [f"all points: {' '.join(part for part in common if part)}"] if any(common) else []


def _rests(found: Swept) -> set[str]:
    """Return what the points say beside how much goes."""
    return {words.flags(one.method).removeprefix(name(one.method)).strip() for one in found.points}


def compared_on(found: Swept) -> str:
    """Say on how many samples the models were compared, and on which unless they are those that were measured."""
    on, data = found.compared_on, found.data
    share = f"all {on.samples:,}" if found.of == on.samples else f"{on.samples:,}"
    share += f" of {found.of:,}" if found.of is not None and found.of > on.samples else ""
    same = data is not None and data.source == on.source
    return f"compared on {share} samples" + ("" if same else f" from {words.clean(on.source)}")


def notes(found: Swept) -> list[str]:
    """Say what is measured when, and what there is no point for."""
    lines = []
    if found.repaired:
        _, others = shown(found.quality, [one.metrics for one in found.points])
        named = " and ".join(QUALITY_NAMES[other] for other in others)
        lines.append(f"cut and repaired: {QUALITY_NAMES[found.quality]} before and after repair; {named}: after it")
    return lines + [_missed(one) for one in found.missed]


def _missed(one: Missed) -> str:
    return f"left out: {name(one.method)}: {words.clean(one.reason)}"


def _outputs(found: Swept) -> list[str]:
    return [str(one.output) for one in found.points if one.output is not None]


def _folders(found: Swept) -> list[str]:
    return sorted({str(one.output.parent) for one in found.points if one.output is not None})


# --- the table ---


def point_table(found: Swept) -> Table:
    """Return a row for each point, from the largest model to the smallest, below the original."""
    quality = found.quality
    costs, others = shown(quality, [one.metrics for one in found.points])
    closer = QUALITY_NAMES[quality]
    before = ("cut", "repaired") if found.repaired else (closer,)
    columns = (
        Column("point", name=True),
        Column(""),
        *number_columns([*(COST_NAMES[cost] for cost in costs), *before, *(QUALITY_NAMES[other] for other in others)]),
    )
    return Table(columns, (_original(found, len(costs), len(before), others), *_rows(found, costs, others)))


def _original(found: Swept, costs: int, before: int, others: tuple[str, ...]) -> tuple[str, ...]:
    accuracy = next((one.metrics.get("accuracy_original") for one in found.points), None)
    last = [fraction(accuracy, 4) if other == "accuracy_pruned" else "1" for other in others]
    return ("original", "", *["1"] * (costs + before), *last)


def _rows(found: Swept, costs: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = []
    for one, called, on in zip(found.points, names(found), found.fronts, strict=True):
        closer = quality_cells(one.metrics, [found.quality])
        if found.repaired:
            cut = one.metrics if one.unrepaired is None else one.unrepaired
            applied = one.repair is not None and one.repair.applied
            closer = (*quality_cells(cut, [found.quality]), *(closer if applied else ("-",)))
        cells = (*cost_cells(one.metrics, costs), *closer, *quality_cells(one.metrics, others))
        rows.append((called, star(on), *cells))
    return rows
