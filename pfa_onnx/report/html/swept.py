"""The page of `sweep`: the whole trade-off curve, to pick from by looking."""

from __future__ import annotations

from collections.abc import Iterator

from pfa_onnx.report import words
from pfa_onnx.report.html.page import page
from pfa_onnx.report.html.parts import header, warnings
from pfa_onnx.report.html.tradeoffs import Mark, chart, data_of, sizes
from pfa_onnx.report.swept import compared_on, names, notes, pick, point_table, settings
from pfa_onnx.report.tradeoffs import legend
from pfa_onnx.tradeoff import Point, Swept

SCRIPTS = ("tradeoff.js",)


def render(found: Swept) -> str:
    """Return the page."""
    marks = [_mark(found, one, name) for one, name in zip(found.points, names(found), strict=True)]
    first = None if found.pick is None else found.points.index(found.pick)
    data = {"tradeoff": data_of(marks, found.quality, first, numbered=False)}
    return page(f"sweep of {found.model.path}", _body(found), data, *(SCRIPTS if marks else ()))


def _body(found: Swept) -> Iterator[str]:
    facts = [" · ".join([f"opset {found.model.opset}", *words.costs(found.model.size)])]
    facts += [words.data_line(found.data, " · ")] if found.data is not None else []
    yield from header("sweep", found.model.path, pick(found), [*facts, compared_on(found), *settings(found)])
    yield from warnings(found.warnings)
    yield from chart(point_table(found), "All points", [legend(found.quality), *notes(found)])


def _mark(found: Swept, one: Point, name: str) -> Mark:
    method = one.method
    facts = [("channels", f"{one.kept:,} of {found.channels:,} stay")]
    if method.name not in ("energy", "kl", "uniform") and method.tau is not None:
        facts.append(("energy found", f"{method.tau:.5g}"))
    if one.repair is not None:
        gain = f"error {one.repair.before:.3g} → {one.repair.after:.3g}"
        facts.append(("repair", gain if one.repair.applied else f"{gain}: left out"))
    facts.append(("proof", f"largest error {one.proof.max_relative_error:.1e} on {one.proof.samples:,} inputs"))
    if one.output is not None:
        facts.append(("written to", words.clean(str(one.output))))
    label = name.removeprefix("--").removeprefix("energy ")
    applied = one.repair is not None and one.repair.applied
    return Mark(label, name, one.metrics, sizes(one.size), tuple(facts), one.unrepaired if applied else None)
