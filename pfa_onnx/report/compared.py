"""Several models beside their original, as text, JSON and Markdown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pfa_onnx import __version__
from pfa_onnx.report import markdown as md
from pfa_onnx.report import words
from pfa_onnx.report.as_json import SCHEMA, data_fields, model_fields, written
from pfa_onnx.report.numbers import fraction
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.report.text import joined
from pfa_onnx.report.tradeoffs import (
    COST_NAMES,
    QUALITY_NAMES,
    cost_cells,
    legend,
    made,
    made_fields,
    number_columns,
    quality_cells,
    shown,
    star,
)
from pfa_onnx.tradeoff import Candidate, ChangedInput, ClassRow, Compared

_FEW = 6  # classes and inputs that are shown unless all are asked for
_MANY = 50  # of them in Markdown


def render(found: Compared, *, verbose: bool = False, width: int | None = None, next_step: str | None = None) -> str:
    """Return the comparison as plain text; verbose: every class and every input that changed."""
    few = None if verbose else _FEW
    parts: list[str | Table] = [
        words.model_line(found.original),
        words.data_line(found.data),
        model_table(found),
        legend(found.quality),
        made_table(found),
    ]
    if found.classes:
        parts += [class_note(found), class_table(found, few)]
    if found.changed:
        parts += [changed_table(found, few)]
    return joined(
        [*parts, line(found).rstrip(), *([f"next: {next_step}"] if next_step else [])], None if verbose else width
    )


def line(found: Compared) -> str:
    """Return the outcome in one line."""
    count = len(found.models)
    if found.by is None:
        return f"{count} model{'s' * (count != 1)} compared on {found.data.samples:,} samples\n"
    by = f"some of the {count} models" if count > 1 else "the model"
    return f"{len(found.changed):,} of {found.data.samples:,} samples are answered otherwise by {by}\n"


def markdown(found: Compared) -> str:
    """Return the comparison as Markdown."""
    parts: list[str | Table] = [
        f"**{md.escape(line(found).rstrip())}**",
        md.escape(words.model_line(found.original, ", ")),
        md.escape(words.data_line(found.data, ", ")),
        model_table(found),
        md.escape(legend(found.quality)),
        made_table(found),
    ]
    if found.classes:
        parts += ["### Classes", md.escape(class_note(found)), class_table(found, _MANY)]
    if found.changed:
        parts += ["### Inputs", changed_table(found, _MANY)]
    return md.joined([*parts, *(md.escape(f"warning: {text}") for text in found.warnings)])


def as_json(found: Compared) -> str:
    """Return the comparison as JSON, schema 1."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "original": model_fields(found.original),
        "data": data_fields(found.data),
        "quality": found.quality,
        "models": [_fields(one, on) for one, on in zip(found.models, found.fronts, strict=True)],
        "by": found.by,
        "classes": [asdict(row) for row in found.classes],
        "changed": [asdict(row) for row in found.changed],
        "warnings": list(found.warnings),
    }
    return written(content)


def _fields(one: Candidate, on: tuple[str, ...]) -> dict[str, Any]:
    latency = one.latency_ms
    return {
        **model_fields(one.model),
        "metrics": dict(one.metrics),
        "latency_ms": None if latency is None else {"original": latency[0], "pruned": latency[1]},
        "outputs": dict(one.outputs),
        "made": [made_fields(step) for step in one.made],
        "front": list(on),
    }


# --- tables: models are numbered, since their paths are too long for a column's title ---


def model_table(found: Compared) -> Table:
    """Return a row for each model, below the original."""
    costs, others = shown(found.quality, [one.metrics for one in found.models])
    qualities = (found.quality, *others)
    titles = [*(COST_NAMES[cost] for cost in costs), *(QUALITY_NAMES[name] for name in qualities)]
    accuracy = found.models[0].metrics.get("accuracy_original")
    whole = [fraction(accuracy, 4) if name == "accuracy_pruned" else "1" for name in qualities]
    rows = [("", "original", "", *["1"] * len(costs), *whole)]
    for number, (one, on) in enumerate(zip(found.models, found.fronts, strict=True), 1):
        cells = (*cost_cells(one.metrics, costs), *quality_cells(one.metrics, qualities))
        rows.append((str(number), words.clean(one.model.path), star(on), *cells))
    columns = (Column("", right=True), Column("model", name=True), Column(""), *number_columns(titles))
    return Table(columns, tuple(rows))


def made_table(found: Compared) -> Table:
    """Return how each model came about, as the recipe inside it says."""
    rows = ((str(number), made(one.made)) for number, one in enumerate(found.models, 1))
    return Table((Column("", right=True), Column("made by", wrap=True)), tuple(rows))


def class_note(found: Compared) -> str:
    """Say what the numbers of the classes are."""
    if found.by == "label":
        return "classes are the labels; the numbers are the share of each that is answered rightly"
    return "classes are the original's answers; the numbers are the share of each that a model answers alike"


def class_table(found: Compared, limit: int | None = None) -> Table:
    """Return a row for each class: those that change most, if not all."""
    rows = sorted(found.classes, key=_change, reverse=True)[:limit] if limit is not None else found.classes
    chosen = {row.name for row in rows}
    titles = ["samples", "original", *_numbers(found)] if found.by == "label" else ["samples", *_numbers(found)]
    cells = (
        (
            words.clean(row.name),
            f"{row.samples:,}",
            *([_share(row.original, row)] if found.by == "label" else []),
            *(_share(right, row) for right in row.models),
        )
        for row in found.classes
        if row.name in chosen
    )
    columns = (Column("class", name=True), *number_columns(titles))
    return Table(columns, tuple(cells), len(found.classes) - len(rows))


def _change(row: ClassRow) -> float:
    """Return the largest change of the share that any model makes."""
    return max((abs(right - row.original) for right in row.models if right is not None), default=0) / row.samples


def _share(right: int | None, row: ClassRow) -> str:
    return "-" if right is None else fraction(right / row.samples, 3)


def changed_table(found: Compared, limit: int | None = None) -> Table:
    """Return the inputs that some model answers otherwise; a dot is the original's answer."""
    rows = found.changed if limit is None else found.changed[:limit]
    labelled = any(row.label is not None for row in found.changed)
    columns = (
        Column("changed", name=True),
        *([Column("label", name=True)] if labelled else []),
        *number_columns(["original", *_numbers(found)]),
    )
    cells = (
        (
            words.clean(row.name),
            *([words.clean(row.label or "-")] if labelled else []),
            str(row.original),
            *_answers(row),
        )
        for row in rows
    )
    return Table(columns, tuple(cells), len(found.changed) - len(rows))


def _answers(row: ChangedInput) -> tuple[str, ...]:
    return tuple("-" if one is None else "." if one == row.original else str(one) for one in row.models)


def _numbers(found: Compared) -> list[str]:
    return [str(number) for number in range(1, len(found.models) + 1)]
