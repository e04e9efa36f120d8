"""Results as one HTML page that opens offline: everything is inside the file, and nothing is fetched.

page: the skeleton, for any report. parts: text, tables and cards as HTML. verbs: the sections of `analyze`, `prune`
and `check`; layers, causes and gallery: their bars, colours and pictures. curves: what the scripts draw, as data.
Style and scripts lie in report/assets.

Charts are drawn by Observable Plot (and D3, which it stands on): SVG, so that they print sharp, take their colours from
the page's style in light and dark, and their text is text; marks are put together instead of chosen from a list, so
that a cut is a rule over the curve and a matrix a raster, with the same axes; both are ISC, and kept by those
who made D3. It costs half a megabyte a page. Canvas libraries a tenth of the size (uPlot, Chart.js) print as pictures,
and draw no matrices.
"""

from __future__ import annotations

from pfa_onnx.report.html.page import page
from pfa_onnx.report.html.parts import cards, table, text, warnings
from pfa_onnx.report.html.verbs import render

__all__ = ["cards", "page", "render", "table", "text", "warnings"]
