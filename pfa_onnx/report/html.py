"""Results as one HTML page that opens offline: cards, a bar for each layer, its spectrum on a click.

Everything is inside the file: style, script and data. Names come from models, so every text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files

from pfa_onnx import __version__
from pfa_onnx.report import numbers, tables, words
from pfa_onnx.report.tables import Table
from pfa_onnx.results import CheckReport, LayerResult, Report

_POINTS = 128  # of a curve: more than a screen shows
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render(report: Report | CheckReport) -> str:
    """Return the page."""
    if isinstance(report, CheckReport):
        return _page(f"{report.pruned.path} against {report.original.path}", _check(report), [])
    return _page(report.model.path, _report(report), report.layers)


def _page(title: str, body: Iterable[str], layers: Iterable[LayerResult]) -> str:
    curves = {str(index): _curve(layer) for index, layer in enumerate(layers)}
    # "<" would end the script element from within a name; nothing else can
    data = json.dumps(curves, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>pfa-onnx: {_text(title)}</title>",
        f"<style>\n{_asset('page.css')}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{_text(title)}</h1>",
        *body,
        "</main>",
        f"<footer>pfa-onnx {escape(__version__)}</footer>",
        f'<script type="application/json" id="curves">{data}</script>',
        f"<script>\n{_asset('page.js')}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _asset(name: str) -> str:
    return (files("pfa_onnx.report") / name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    return escape(words.clean(text))


# --- analyze and prune ---


def _report(report: Report) -> Iterable[str]:
    yield f'<p class="verdict">{_text(words.kept(report))}</p>'
    yield f"<p>{_text(words.model_line(report.model, ', '))}</p>"
    if report.data is not None:
        yield f"<p>{_text(words.data_line(report.data, ', '))}</p>"
    yield from _cards(tables.size_table(report))
    if report.output is not None:
        yield f"<p>{_text(words.tally(report))}</p>"
        yield f"<p>{_text(words.proof(report))}</p>"
        if report.repair:
            yield f"<p>{_text(words.repair(report.repair))}</p>"
    yield from _warnings(report.warnings)
    yield "<h2>Layers</h2>"
    legend = (("kept", "stays"), ("held", "had to stay"), ("gone", "removed"))
    yield '<p class="legend">' + " ".join(f'<i class="{kind}"></i> {word}' for kind, word in legend) + "</p>"
    yield '<div class="layers">'
    widest = max((layer.channels for layer in report.layers), default=1)
    for index, layer in enumerate(report.layers):
        yield from _bar(index, layer, widest)
    yield "</div>"
    frozen = tables.frozen_table(report)
    if frozen.rows:
        yield "<h2>Frozen</h2>"
        yield _table(frozen)


def _cards(sizes: Table) -> Iterable[str]:
    """Yield a card for each row of before, after and change."""
    yield '<div class="cards">'
    for name, before, after, change in sizes.rows:
        yield (
            f'<div class="card"><b>{_text(name)}</b><span class="big">{_text(after)}</span>'
            f"<span>{_text(change)} from {_text(before)}</span></div>"
        )
    yield "</div>"


def _bar(index: int, layer: LayerResult, widest: int) -> Iterable[str]:
    """Yield a layer's bar, as long as the layer is wide, which opens its spectrum."""
    kept = len(layer.keep)
    held = min(layer.held, kept)
    parts = (("kept", kept - held), ("held", held), ("gone", layer.channels - kept))
    segments = "".join(f'<i class="{kind}" style="flex-grow:{number}"></i>' for kind, number in parts if number)
    share = 25 + 75 * layer.channels / widest  # narrow layers stay visible
    yield (
        f'<button type="button" class="layer" aria-expanded="false" aria-controls="spectrum-{index}" '
        f'data-layer="{index}"><span class="name">{_text(tables.name_of(layer))}</span>'
        f'<span class="counts">{kept:,} of {layer.channels:,}</span>'
        f'<span class="bar" style="width:{share:.1f}%">{segments}</span></button>'
    )
    facts = [f"{layer.op}, asked {layer.asked:,}, spread {numbers.fraction(layer.gamma)}, {layer.samples:,} samples"]
    facts += [f"{cause.reason} ({cause.node})" for cause in layer.frozen]
    listed = "".join(f"<li>{_text(fact)}</li>" for fact in facts)
    yield f'<div class="spectrum" id="spectrum-{index}" hidden><ul>{listed}</ul></div>'


def _curve(layer: LayerResult) -> dict[str, object]:
    """Return what the script draws: cumulative energy at some numbers of channels."""
    shares = numbers.cumulative(layer.eigenvalues)
    last = len(shares) - 1
    picks = sorted({round(last * step / (_POINTS - 1)) for step in range(_POINTS)}) if shares else []
    return {
        "points": [[pick + 1, round(shares[pick], 6)] for pick in picks],
        "channels": layer.channels,
        "keep": len(layer.keep),
        "asked": layer.asked,
    }


# --- check ---


def _check(report: CheckReport) -> Iterable[str]:
    kind = "passed" if report.passed else "failed"
    yield f'<p class="verdict {kind}">{_text(words.verdict(report))}</p>'
    yield f"<p>{_text(words.data_line(report.data, ', '))}</p>"
    yield from _cards(tables.compared_table(report))
    accuracy = words.accuracy(report)
    if accuracy:
        yield f"<p>{_text(accuracy)}</p>"
    yield from _warnings(report.warnings)
    yield "<h2>Metrics</h2>"
    yield _table(tables.metric_table(report))
    yield "<h2>Outputs</h2>"
    yield _table(tables.output_table(report))
    if report.changed:
        yield f"<h2>{len(report.changed):,} of {report.data.samples:,} predictions changed</h2>"
        yield _table(tables.changed_table(report))


# --- parts ---


def _warnings(warnings: Iterable[str]) -> Iterable[str]:
    for warning in warnings:
        yield f'<p class="warning">warning: {_text(warning)}</p>'


def _table(table: Table) -> str:
    kinds = ["number" if column.right else "name" if column.name else "text" for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{_text(column.title)}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    rows = (
        "".join(f'<td class="{kind}">{_text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        for row in table.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
