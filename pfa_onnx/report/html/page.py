"""The skeleton of every page: what is around the body. It holds all there is to a page, and fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files

from pfa_onnx import __version__
from pfa_onnx.report.html.parts import text

# no script and no style but those in the file, no picture but data: addresses, no connection at all
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
CHARTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "base.js")
STYLES = ("page.css", "charts.css", "tradeoff.css", "print.css")


def page(title: str, body: Iterable[str], data: Mapping[str, object] | None = None, *scripts: str) -> str:
    """Return a page.

    title: plain text, for the browser's tab. body: HTML, of which the first part holds the h1; see `parts`.
    data: what the scripts find in `pfa.data`, by name; plain JSON values. scripts: files of report/assets, in order;
    base.js and the chart library stand before them, and a page without scripts holds neither.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>pfa-onnx: {text(title)}</title>",
        *(f"<style>\n{asset(name)}</style>" for name in STYLES),
        "</head>",
        "<body>",
        "<main>",
        *body,
        "</main>",
        f"<footer>pfa-onnx {escape(__version__)}</footer>",
        *_scripts(data or {}, scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def asset(name: str) -> str:
    """Return a file of report/assets."""
    return (files("pfa_onnx.report") / "assets" / name).read_text(encoding="utf-8")


def _scripts(data: Mapping[str, object], names: Iterable[str]) -> Iterator[str]:
    chosen = tuple(names)
    if not chosen:
        return
    # "<" would end the script element from within a name; nothing else can
    content = json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    yield f'<script type="application/json" id="data">{content}</script>'
    for name in (*CHARTS, *chosen):
        yield f"<script>\n{asset(name)}</script>"
