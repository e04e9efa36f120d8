"""Results as plain text: natural width for files and pipes, fitted to `width` columns for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pfa_onnx.report import tables, words
from pfa_onnx.report.fitting import columns, fitted, pad, shorten
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.results import CheckReport, Merged, Report

_GROUPS = 20  # rows that fit on a screen
_CAUSES = 10
_CHANGED = 6
_GAP = 2
# how narrow texts and names may become, before columns are left out for them and after
_NARROW = (("wrap", 24), ("name", 12))
_NARROWEST = (("wrap", 10), ("name", 4))


def render(
    report: Report | CheckReport, *, verbose: bool = False, width: int | None = None, next_step: str | None = None
) -> str:
    """Return the whole report.

    verbose: every row, and full names. width: columns to fit into, None = as wide as it is.
    next_step: the command to type next.
    """
    parts = _check(report, verbose=verbose) if isinstance(report, CheckReport) else _report(report, verbose=verbose)
    if next_step:  # before the verdict of a check, which stands last
        parts.insert(len(parts) - isinstance(report, CheckReport), f"next: {next_step}")
    return joined(parts, None if verbose else width)


def joined(parts: Sequence[str | Table], width: int | None) -> str:
    """Return sentences and tables below each other, fitted to so many columns."""
    lines: list[str] = []
    for before, part in pairwise(["", *parts]):
        # a table stands apart, sentences follow each other
        if lines and (isinstance(part, Table) or isinstance(before, Table)):
            lines.append("")
        lines.append(layout(part, width) if isinstance(part, Table) else fitted(part, width))
    return "\n".join(lines) + "\n"


def line(report: Report | CheckReport) -> str:
    """Return the outcome in one line."""
    if isinstance(report, CheckReport):
        return words.verdict(report) + "\n"
    if report.output is None:
        return words.kept(report) + "\n"
    return f"wrote {words.clean(str(report.output))}\n"


def merged(found: Merged, next_step: str | None, width: int | None = None) -> str:
    """Return what a merge gave; one line without a next step."""
    wrote = f"wrote {words.clean(str(found.output))}\n"
    if next_step is None:
        return wrote
    files = f"{found.files} file{'' if found.files == 1 else 's'}"
    source = words.clean(found.source)
    line = f"{files}   {found.samples:,} samples from {source}   {found.layers} layers   {found.provider}\n"
    return fitted(line + wrote + f"next: {next_step}\n", width)


def _report(report: Report, *, verbose: bool) -> list[str | Table]:
    head: list[str | Table] = [words.model_line(report.model)]
    if report.data is not None:
        head.append(words.data_line(report.data))
    return head + (_analyzed(report, verbose=verbose) if report.output is None else _pruned(report, verbose=verbose))


def _layers(report: Report, *, verbose: bool) -> list[str | Table]:
    groups = tables.layer_table(report) if verbose else tables.group_table(report, _GROUPS)
    frozen = tables.frozen_table(report, None if verbose else _CAUSES)
    return [groups, frozen] if frozen.rows else [groups]


def _analyzed(report: Report, *, verbose: bool) -> list[str | Table]:
    becomes = words.becomes(report)
    return [*_layers(report, verbose=verbose), words.kept(report), *([f"  {becomes}"] if becomes else [])]


def _pruned(report: Report, *, verbose: bool) -> list[str | Table]:
    hint = "" if verbose else " (-v lists them)"
    return [
        *(_layers(report, verbose=True) if verbose else []),
        tables.size_table(report),
        words.tally(report) + hint,
        words.proof(report),
        *([tables.repair_table(report.repair)] if verbose and report.repair else []),
        *([words.repair(report.repair)] if report.repair else []),
        f"wrote {words.clean(str(report.output))}",
    ]


def _check(report: CheckReport, *, verbose: bool) -> list[str | Table]:
    parts: list[str | Table] = [
        f"original   {words.clean(report.original.path)}",
        f"pruned     {words.clean(report.pruned.path)}",
        words.data_line(report.data),
        tables.compared_table(report),
        tables.metric_table(report),
        *([words.repair(report.repair)] if report.repair else []),
    ]
    if len(report.outputs) > 1 or verbose:
        parts.append(tables.output_table(report))
    accuracy = words.accuracy(report)
    if accuracy:
        parts.append(accuracy)
    if report.changed:
        parts.append(f"{len(report.changed):,} of {report.data.samples:,} predictions changed")
        parts.append(tables.changed_table(report, None if verbose else _CHANGED))
    return [*parts, words.verdict(report)]


# --- layout ---


def layout(table: Table, width: int | None = None) -> str:
    """Return the table as aligned lines.

    To fit `width`, texts are wrapped and names shortened; where that is not enough, spare columns are left out.
    """
    rows = [tuple(column.title for column in table.columns), *table.rows]
    widths = [max(columns(row[index]) for row in rows) for index in range(len(table.columns))]
    shown = list(range(len(widths))) if width is None else _fit(table.columns, widths, width)
    chosen, room = [table.columns[index] for index in shown], [widths[index] for index in shown]
    lines = [text for row in rows for text in _lines([row[index] for index in shown], chosen, room)]
    if table.more:
        lines.append(f"... {table.more} more (-v)")
    return "\n".join(lines)


def _fit(kinds: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """Take what is too much, in place; return the columns that are shown."""
    shown, natural = list(range(len(widths))), list(widths)
    while not _squeezed(kinds, widths, shown, width, _NARROW):
        spare = [index for index in shown if kinds[index].spare]
        if not spare:
            _squeezed(kinds, widths, shown, width, _NARROWEST)
            break
        shown.remove(spare[-1])
        widths[:] = natural
    return shown


def _squeezed(
    kinds: Sequence[Column], widths: list[int], shown: Sequence[int], width: int, least: tuple[tuple[str, int], ...]
) -> bool:
    """Narrow first the texts that may be wrapped, then the names; tell whether the table fits."""
    for kind, narrow in least:
        for index in shown:
            excess = _taken(widths, shown) - width
            if getattr(kinds[index], kind) and excess > 0:
                widths[index] = max(min(widths[index], narrow), widths[index] - excess)
    return _taken(widths, shown) <= width


def _taken(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[index] for index in shown) + _GAP * (len(shown) - 1)


def _lines(row: Sequence[str], kinds: Sequence[Column], widths: Sequence[int]) -> list[str]:
    cells: list[list[str]] = []
    for text, column, width in zip(row, kinds, widths, strict=True):
        if column.wrap:
            cells.append(fitted(text, width, "").split("\n"))
        else:
            cells.append([shorten(text, width) if column.name else text])
    height = max(len(cell) for cell in cells)
    lines = []
    for index in range(height):
        texts = (cell[index] if index < len(cell) else "" for cell in cells)
        padded = (
            pad(text, width, right=column.right) for text, column, width in zip(texts, kinds, widths, strict=True)
        )
        lines.append((" " * _GAP).join(padded).rstrip())
    return lines
