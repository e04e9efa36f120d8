"""The page of `compare`: what each model costs and is worth, how it was made, which classes and inputs change."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from pfa_onnx.report import words
from pfa_onnx.report.compared import changed_table, class_note, class_table, line, made_table, model_table
from pfa_onnx.report.html.page import page
from pfa_onnx.report.html.parts import folded, header, section, table, text, warnings
from pfa_onnx.report.html.tradeoffs import Mark, chart, data_of, sizes
from pfa_onnx.report.tradeoffs import legend, made
from pfa_onnx.tradeoff import Candidate, ChangedInput, Compared

LISTED = 500  # rows of inputs: who wants the others, wants the JSON
CLASSES = 24  # in the chart: those that change most


def render(found: Compared) -> str:
    """Return the page."""
    marks = [_mark(str(number), one) for number, one in enumerate(found.models, 1)]
    first = next((index for index, on in enumerate(found.fronts) if on), 0)
    data = {"tradeoff": data_of(marks, found.quality, first, numbered=True), "classes": _classes(found)}
    scripts = ("tradeoff.js", "classes.js") if found.classes else ("tradeoff.js",)
    return page(f"{len(marks)} models of {found.original.path}", _body(found), data, *scripts)


def _body(found: Compared) -> Iterator[str]:
    facts = [" · ".join([f"opset {found.original.opset}", *words.costs(found.original.size)])]
    yield from header(
        "compare", found.original.path, line(found).rstrip(), [*facts, words.data_line(found.data, " · ")]
    )
    yield from warnings(found.warnings)
    yield from chart(model_table(found), "All models", [legend(found.quality)])
    yield from section(
        "How they were made", table(made_table(found), "Recipes"), note="What the recipes inside them say."
    )
    if found.classes:
        choices = '<fieldset class="choices" id="choices" data-script hidden></fieldset>'
        content = folded("All classes in a table", table(class_table(found), "Classes"))
        yield from section(
            "Classes", choices, '<div class="chart" id="classes"></div>', content, note=_class_note(found)
        )
    if found.changed:
        title = f"{len(found.changed):,} of {found.data.samples:,} inputs are answered otherwise"
        listed = folded("Inputs in a table", table(changed_table(found, LISTED), "Inputs that change"))
        yield from section(title, *_pictures(found), listed, note="Those that most models answer otherwise come first.")


def _mark(number: str, one: Candidate) -> Mark:
    facts = [("made by", made(one.made))]
    if one.latency_ms is not None:
        facts.append(("run time", f"{one.latency_ms[1]:.3g} ms, the original {one.latency_ms[0]:.3g} ms"))
    name = f"{number} · {words.clean(one.model.path)}"
    return Mark(number, name, one.metrics, sizes(one.model.size), tuple(facts))


# --- classes ---


def _class_note(found: Compared) -> str:
    more = f" The chart has the {CLASSES} that change most." if len(found.classes) > CLASSES else ""
    return f"{class_note(found).capitalize()}. The chart shows how much each model gains or loses.{more}"


def _classes(found: Compared) -> dict[str, Any]:
    """Return the change of every model's share of right answers, class by class."""
    return {
        "most": CLASSES,
        "names": [words.clean(one.model.path) for one in found.models],
        "rows": [
            {
                "name": words.clean(row.name),
                "samples": row.samples,
                "original": round(row.original / row.samples, 5),
                "change": [
                    None if right is None else round((right - row.original) / row.samples, 5) for right in row.models
                ],
            }
            for row in found.classes
        ],
    }


# --- inputs ---


def _pictures(found: Compared) -> Iterator[str]:
    """Yield the pictures of inputs, with what every model says of them."""
    if not found.pictures:
        return
    names = {row.number: row.name for row in found.classes} if found.by == "label" else {}
    yield '<ul class="answers">'
    for place, png in sorted(found.pictures.items()):
        yield _picture(found.changed[place], png, names)
    yield "</ul>"


def _picture(row: ChangedInput, png: bytes, names: dict[int, str]) -> str:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    said = [_said("original", row.original, row, names)]
    by_answer: dict[int, list[str]] = {}
    for number, answer in enumerate(row.models, 1):
        if answer is not None:
            by_answer.setdefault(answer, []).append(str(number))
    said += [_said(", ".join(numbers), answer, row, names) for answer, numbers in by_answer.items()]
    return (
        f'<li><img alt="" loading="lazy" src="{source}"><p class="name">{text(row.name)}</p>'
        f"<ol>{''.join(said)}</ol></li>"
    )


def _said(by: str, answer: int, row: ChangedInput, names: dict[int, str]) -> str:
    called = names.get(answer, str(answer))
    kind = "" if row.label is None or not names else "right" if called == row.label else "wrong"
    return f'<li><span class="by">{by}:</span> <span class="{kind}">{text(called)}</span></li>'
