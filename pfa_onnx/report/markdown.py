"""Results as GitHub-flavoured Markdown: the verdict first, then the tables; made for a job summary."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pfa_onnx.report import tables, words
from pfa_onnx.report.tables import Table
from pfa_onnx.results import CheckReport, Report

_CHANGED = 50


def render(report: Report | CheckReport) -> str:
    """Return the whole report."""
    parts = _check(report) if isinstance(report, CheckReport) else _report(report)
    return joined(parts)


def joined(parts: Iterable[str | Table]) -> str:
    """Return Markdown and tables, one below the other."""
    return "\n\n".join(_table(part) if isinstance(part, Table) else part for part in parts) + "\n"


def _report(report: Report) -> list[str | Table]:
    pruned = report.output is not None
    parts: list[str | Table] = [f"**{escape(words.kept(report))}**", escape(words.model_line(report.model, ", "))]
    if report.data is not None:
        parts.append(escape(words.data_line(report.data, ", ")))
    parts.append(tables.size_table(report))
    if pruned:
        parts += [escape(f"{words.tally(report)}. {words.proof(report)}.")]
        parts += [escape(f"{words.repair(report.repair)}.")] if report.repair else []
    parts += ["### Layers", tables.group_table(report)]
    frozen = tables.frozen_table(report)
    if frozen.rows:
        parts += ["### Frozen", frozen]
    return [*parts, *_warnings(report)]


def _check(report: CheckReport) -> list[str | Table]:
    original, pruned = escape(report.original.path), escape(report.pruned.path)
    parts: list[str | Table] = [
        f"**{escape(words.verdict(report))}**",
        f"{original} against {pruned}, {escape(words.data_line(report.data, ', '))}",
        tables.metric_table(report),
        tables.compared_table(report),
    ]
    accuracy = words.accuracy(report)
    if accuracy:
        parts.append(escape(accuracy))
    if len(report.outputs) > 1:
        parts += ["### Outputs", tables.output_table(report)]
    return [*parts, *_failures(report), *_warnings(report)]


def _failures(report: CheckReport) -> list[str | Table]:
    """Return what did not go well, with the names of files: what somebody looks for who finds a red cross."""
    parts: list[str | Table] = []
    broken = [f"- {escape(words.broken(gate))}" for gate in report.gates if not gate.passed]
    if broken:
        parts += ["### Limits that do not hold", "\n".join(broken)]
    if report.changed:
        changed = tables.changed_table(report, _CHANGED)
        parts += [f"### {len(report.changed):,} of {report.data.samples:,} predictions changed", changed]
    skipped = report.data.skipped
    if skipped:
        listed = [f"- {_code(words.clean(name))}: {escape(why)}" for name, why in skipped[:_CHANGED]]
        more = [f"\n... {len(skipped) - _CHANGED:,} more"] if len(skipped) > _CHANGED else []
        title = f"### {len(skipped):,} input{'s' * (len(skipped) != 1)} could not be read"
        parts += [title, "\n".join([*listed, *more])]
    return parts


def _warnings(report: Report | CheckReport) -> list[str]:
    return ["\n".join(f"- warning: {escape(text)}" for text in report.warnings)] if report.warnings else []


def _table(table: Table) -> str:
    head = [escape(column.title) for column in table.columns]
    rule = ["---:" if column.right else ":---" for column in table.columns]
    rows = [
        [_code(cell) if column.name else escape(cell) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    if table.more:
        lines.append(f"\n... {table.more} more")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no cell border, no mention of anybody."""
    escaped = words.clean(text).replace("&", "&amp;").replace("@", "&#64;")
    return re.sub(r"([\\`*_\[\]<>|~]|(?<!&)#)", r"\\\1", escaped)


def _code(name: str) -> str:
    """Return a name as a code span; its fence is longer than any run of backticks inside."""
    fence = "`" * (max((len(run) for run in re.findall("`+", name)), default=0) + 1)
    space = " " if name.startswith("`") or name.endswith("`") else ""
    escaped = name.replace("|", "\\|")
    return f"{fence}{space}{escaped}{space}{fence}" if name else ""
