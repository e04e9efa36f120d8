"""The outcome of fine-tuning, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pfa_onnx import __version__
from pfa_onnx.report import words
from pfa_onnx.report.as_json import SCHEMA, data_fields, model_fields, written
from pfa_onnx.report.numbers import fraction
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.report.text import joined
from pfa_onnx.results import Quality, Tuned

_COLUMNS = (Column(""), *(Column(title, right=True) for title in ("loss", "agreement", "accuracy")))


def render(found: Tuned, *, verbose: bool = False, width: int | None = None, next_step: str | None = None) -> str:
    """Return the outcome as plain text; verbose: every epoch."""
    parts: list[str | Table] = [
        words.model_line(found.model),
        words.data_line(found.data),
        _how(found),
        quality_table(found, verbose=verbose),
        _verdict(found),
        f"wrote {words.clean(str(found.output))}",
        *([f"next: {next_step}"] if next_step else []),
    ]
    return joined(parts, None if verbose else width)


def line(found: Tuned) -> str:
    """Return the outcome in one line."""
    return f"wrote {words.clean(str(found.output))}\n"


def as_json(found: Tuned) -> str:
    """Return the outcome as JSON, schema 1."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "model": model_fields(found.model),
        "teacher": found.teacher,
        "data": data_fields(found.data),
        "held": found.held,
        "method": dict(found.method),
        "trained": found.trained,
        "before": asdict(found.before),
        "after": asdict(found.after),
        "best": found.best,
        "history": [asdict(one) for one in found.history],
        "teacher_accuracy": found.teacher_accuracy,
        "output": str(found.output),
    }
    return written(content)


def quality_table(found: Tuned, *, verbose: bool) -> Table:
    """Return before and after, and with verbose every epoch, on what is held back."""
    rows = [("before", *_cells(found.before))]
    if verbose:
        rows += [(f"epoch {k}", *_cells(one)) for k, one in enumerate(found.history) if k]
    rows.append(("after", *_cells(found.after)))
    if found.teacher_accuracy is not None:
        rows.append(("teacher", "", "", fraction(found.teacher_accuracy, 4)))
    return Table(_COLUMNS, tuple(rows))


def _cells(one: Quality) -> tuple[str, str, str]:
    return f"{one.loss:.4g}", fraction(one.agreement, 4), fraction(one.accuracy, 4)


def _how(found: Tuned) -> str:
    method = found.method
    sources = [words.clean(found.teacher)] if found.teacher else []
    sources += ["labels"] if method["labels"] else []
    changed = f"   augmented: {', '.join(method['augment'])}" if method["augment"] else ""
    held = f"{found.held:,} more are held back, the best epoch on them is kept"
    return f"learns from {' and '.join(sources)}   {method['optimizer']}, rate {method['rate']:g}{changed}\n{held}"


def _verdict(found: Tuned) -> str:
    epochs = len(found.history) - 1
    if not found.best:
        return f"none of {epochs} epochs was better than the start: the weights are as they were"
    early = ", stopped early" if epochs < found.method["epochs"] else ""
    return f"the best of {epochs} epochs was number {found.best}{early}"
