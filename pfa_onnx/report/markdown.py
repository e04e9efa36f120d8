"""Results as GitHub-flavoured Markdown: the verdict first, then the tables; made for a job summary."""

from __future__ import annotations

import re

from pfa_onnx.report import tables, words
from pfa_onnx.report.tables import Table
from pfa_onnx.results import CheckReport, Report

_CHANGED = 50


def render(report: Report | CheckReport) -> str:
    """Return the whole report."""
    parts = _check(report) if isinstance(report, CheckReport) else _report(report)
    return "\n\n".join(_table(part) if isinstance(part, Table) else part for part in parts) + "\n"


def _report(report: Report) -> list[str | Table]:
    pruned = report.output is not None
    parts: list[str | Table] = [f"**{_escape(words.kept(report))}**", _escape(words.model_line(report.model, ", "))]
    if report.data is not None:
        parts.append(_escape(words.data_line(report.data, ", ")))
    parts.append(tables.size_table(report))
    if pruned:
        parts += [_escape(f"{words.tally(report)}. {words.proof(report)}.")]
        parts += [_escape(f"{words.repair(report.repair)}.")] if report.repair else []
    parts += ["### Layers", tables.group_table(report)]
    frozen = tables.frozen_table(report)
    if frozen.rows:
        parts += ["### Frozen", frozen]
    return [*parts, *_warnings(report)]


def _check(report: CheckReport) -> list[str | Table]:
    original, pruned = _escape(report.original.path), _escape(report.pruned.path)
    parts: list[str | Table] = [
        f"**{_escape(words.verdict(report))}**",
        f"{original} against {pruned}, {_escape(words.data_line(report.data, ', '))}",
        tables.metric_table(report),
        tables.compared_table(report),
    ]
    accuracy = words.accuracy(report)
    if accuracy:
        parts.append(_escape(accuracy))
    if len(report.outputs) > 1:
        parts += ["### Outputs", tables.output_table(report)]
    if report.changed:
        changed = tables.changed_table(report, _CHANGED)
        parts += [f"### {len(report.changed):,} of {report.data.samples:,} predictions changed", changed]
    return [*parts, *_warnings(report)]


def _warnings(report: Report | CheckReport) -> list[str]:
    return ["\n".join(f"- warning: {_escape(text)}" for text in report.warnings)] if report.warnings else []


def _table(table: Table) -> str:
    head = [_escape(column.title) for column in table.columns]
    rule = ["---:" if column.right else ":---" for column in table.columns]
    rows = [
        [_code(cell) if column.name else _escape(cell) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    if table.more:
        lines.append(f"\n... {table.more} more")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no cell border, no mention of anybody."""
    escaped = words.clean(text).replace("&", "&amp;").replace("@", "&#64;")
    return re.sub(r"([\\`*_\[\]<>|~]|(?<!&)#)", r"\\\1", escaped)


def _code(name: str) -> str:
    """Return a name as a code span; its fence is longer than any run of backticks inside."""
    fence = "`" * (max((len(run) for run in re.findall("`+", name)), default=0) + 1)
    space = " " if name.startswith("`") or name.endswith("`") else ""
    escaped = name.replace("|", "\\|")
    return f"{fence}{space}{escaped}{space}{fence}" if name else ""
