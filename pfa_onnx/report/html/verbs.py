"""The page of `analyze` and `prune`, and that of `check`: sections, in the order in which people ask."""

from __future__ import annotations

from collections.abc import Iterator

from pfa_onnx.report import tables, words
from pfa_onnx.report.html import curves, gallery
from pfa_onnx.report.html.causes import Causes
from pfa_onnx.report.html.layers import layers
from pfa_onnx.report.html.page import page
from pfa_onnx.report.html.parts import Card, cards, folded, header, section, table, text, warnings
from pfa_onnx.report.tables import Table
from pfa_onnx.results import CheckReport, Report

LISTED = 500  # rows of samples: who wants the others, wants the JSON


def render(report: Report | CheckReport) -> str:
    """Return the page of a report."""
    if isinstance(report, CheckReport):
        return page(f"{report.pruned.path} against {report.original.path}", _check(report))
    data = {"layers": curves.of_layers(report), "costs": curves.of_costs(report)}
    scripts = ("spectrum.js", "matrix.js", "layers.js", "costs.js")
    return page(report.model.path, _report(report), data, *scripts)


# --- analyze and prune ---


def _report(report: Report) -> Iterator[str]:
    pruned = report.output is not None
    facts = [" · ".join([f"opset {report.model.opset}", *words.costs(report.model.size)])]
    facts += [words.data_line(report.data, " · ")] if report.data is not None else []
    if pruned:
        facts += [words.tally(report), words.proof(report)]
        facts += [words.repair(report.repair)] if report.repair else []
    yield from header("prune" if pruned else "analyze", report.model.path, words.kept(report), facts)
    yield from warnings(report.warnings)
    yield from section("Before and after" if pruned else "What it would become", cards(_sizes(report)))
    if report.details is not None and len(report.details.costs) > 1:
        yield from _costs(report)
    causes = Causes(report.layers)
    yield from layers(report, causes)
    frozen = tables.frozen_table(report)
    if frozen.rows:
        marks = [causes.mark(row[-1]) for row in frozen.rows]
        note = "What holds channels back, and how many parameters of weights are made by them: root causes only."
        yield from section("Frozen", table(frozen, "Frozen channels", marks), note=note)
    whole = table(tables.layer_table(report), "All layers")
    yield from section("All numbers", folded("Every layer in a table", whole, printed=True))


def _sizes(report: Report) -> Iterator[Card]:
    ratios: list[tuple[float, float]] = [(report.channels, report.kept)]
    if report.after is not None:
        before, after = report.model.size, report.after
        ratios += [(before.params, after.params), (before.macs, after.macs), (before.bytes, after.bytes)]
    yield from _cards(tables.size_table(report), ratios)


def _costs(report: Report) -> Iterator[str]:
    note = (
        "What the model would cost, next to the original, if every layer kept at least this share of its energy "
        "(PFA-En). The steeper the curve, the more redundancy that step removes."
    )
    content = folded("This curve as a table", table(curves.cost_table(report), "Size against energy"))
    figure = '<div class="chart" id="costs"></div>'
    yield from section("Size against energy", figure, _key(report), content, note=note)


def _key(report: Report) -> str:
    """Say what the curves are; without a script there are none."""
    chosen = "circles" if report.method.tau is not None else "broken lines"
    items = (("asked", "params"), ("second", "MACs"))
    keys = "".join(f'<li><i class="swatch {kind}"></i>{name}</li>' for kind, name in items)
    made = text(words.flags(report.method, report.responses))
    return f'<ul class="legend" data-script hidden>{keys}<li>{chosen}: {made}</li></ul>'


# --- check ---


def _check(report: CheckReport) -> Iterator[str]:
    facts = [
        f"original: {words.model_line(report.original, ' · ')}",
        f"pruned: {words.model_line(report.pruned, ' · ')}",
    ]
    facts.append(words.data_line(report.data, " · "))
    title = f"{report.pruned.path} against {report.original.path}"
    kind = "passed" if report.passed else "failed"
    yield from header("check", title, words.verdict(report), facts, kind=kind)
    yield from warnings(report.warnings)
    yield from section("Before and after", cards(_compared(report)))
    metrics = tables.metric_table(report)
    rows = [{"ok": "passed", "FAIL": "failed"}.get(row[-1], "") for row in metrics.rows]
    yield from section("Metrics and limits", table(metrics, "Metrics", rows=rows))
    yield from section("Outputs", table(tables.output_table(report), "Outputs"))
    if report.changed:
        title = f"{len(report.changed):,} of {report.data.samples:,} predictions changed"
        listed = table(tables.changed_table(report, LISTED), "Changed predictions")
        yield from section(title, *gallery.pictures(report), folded("All of them in a table", listed))


def _compared(report: CheckReport) -> Iterator[Card]:
    before, after = report.original.size, report.pruned.size
    ratios: list[tuple[float, float]] = [(before.params, after.params), (before.macs, after.macs)]
    ratios.append((before.bytes, after.bytes))
    if report.latency_ms is not None:
        ratios.append((1, report.metrics.get("latency_ratio") or 1))
    yield from _cards(tables.compared_table(report), ratios)
    agreement = report.metrics.get("agreement")
    if agreement is not None:
        note = f"{len(report.changed):,} predictions changed" if report.changed else ""
        yield Card("agreement", _percent(agreement), note, share=agreement, kind="quality")
    old, new = report.metrics.get("accuracy_original"), report.metrics.get("accuracy_pruned")
    if old is not None and new is not None:
        yield Card(
            "accuracy", _percent(new), f"{100 * (new - old):+.2f} points", _percent(old), share=new, kind="quality"
        )


def _cards(sizes: Table, ratios: list[tuple[float, float]]) -> Iterator[Card]:
    """Yield a card for each row of before, after and change."""
    for (name, before, after, change), (old, new) in zip(sizes.rows, ratios, strict=True):
        yield Card(name, after, change, before, share=new / old if old else None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
