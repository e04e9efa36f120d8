"""Pieces of HTML: every text that comes from a model or from data goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pfa_onnx.report import words
from pfa_onnx.report.tables import Column, Table


def text(plain: str) -> str:
    """Return plain text as HTML that shows it, and does nothing else."""
    return escape(words.clean(plain))


def header(verb: str, title: str, verdict: str, facts: Iterable[str], *, kind: str = "") -> Iterator[str]:
    """Yield the top of a page: what was asked, of what, and the answer. kind: "passed" or "failed"."""
    yield "<header>"
    yield f'<p class="verb">pfa-onnx {text(verb)}</p>'
    yield f"<h1>{text(title).replace('/', '/<wbr>')}</h1>"
    yield f'<p class="verdict {kind}">{text(verdict)}</p>'
    for fact in facts:
        yield f'<p class="fact">{text(fact)}</p>'
    yield "</header>"


def section(title: str, *body: str, note: str = "") -> Iterator[str]:
    """Yield a section with its heading, and a sentence that says how to read it."""
    yield "<section>"
    yield f"<h2>{text(title)}</h2>"
    if note:
        yield f'<p class="note">{text(note)}</p>'
    yield from body
    yield "</section>"


@dataclass(frozen=True)
class Card:
    """One number. was: what it was before; share: how long its bar is, next to what it was (1 is as long)."""

    name: str
    value: str
    change: str = ""
    was: str = ""
    share: float | None = None
    kind: str = ""


def cards(shown: Iterable[Card]) -> str:
    """Return a row of cards, which wraps."""
    return '<dl class="cards">\n' + "\n".join(_card(one) for one in shown) + "\n</dl>"


def _card(card: Card) -> str:
    lines = [f'<div class="card {card.kind}"><dt>{text(card.name)}</dt>', f'<dd class="big">{text(card.value)}</dd>']
    if card.share is not None:
        width = 100 * min(max(card.share, 0.0), 1.0)
        lines.append(f'<dd class="meter" aria-hidden="true"><i style="width:{width:.1f}%"></i></dd>')
    small = [f"<b>{text(card.change)}</b>"] * bool(card.change) + [f"from {_whole(card.was)}"] * bool(card.was)
    lines += [f'<dd class="small">{" ".join(small)}</dd>'] * bool(small)
    return "".join(lines) + "</div>"


def _whole(number: str) -> str:
    """Return a number that does not part from its unit at the end of a line."""
    return text(number).replace(" ", "&nbsp;")


def warnings(found: Iterable[str]) -> Iterator[str]:
    """Yield a paragraph for each warning."""
    for warning in found:
        yield f'<p class="warning">warning: {text(warning)}</p>'


def table(shown: Table, caption: str, marks: Sequence[str] = (), rows: Sequence[str] = ()) -> str:
    """Return a table, in a box that scrolls by itself.

    caption: what it is, for those who do not see where it stands. marks: for each row, HTML that stands before its
    first cell; rows: for each row, its class.
    """
    kinds = [_kind(column) for column in shown.columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{text(column.title)}</th>'
        for kind, column in zip(kinds, shown.columns, strict=True)
    )
    none = [""] * len(shown.rows)
    body = "\n".join(
        f'<tr class="{row}">{_cells(cells, kinds, mark)}</tr>' if row else f"<tr>{_cells(cells, kinds, mark)}</tr>"
        for cells, mark, row in zip(shown.rows, marks or none, rows or none, strict=True)
    )
    more = f'<p class="note">... {shown.more:,} more</p>' if shown.more else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table></div>{more}"
    )


def folded(summary: str, content: str, *, printed: bool = False) -> str:
    """Return content that is there when it is asked for; printed: and on paper."""
    kind = "folded printed" if printed else "folded"
    return f'<details class="{kind}"><summary>{text(summary)}</summary>\n{content}\n</details>'


def _kind(column: Column) -> str:
    return "number" if column.right else "name" if column.name else "text"


def _cells(row: Iterable[str], kinds: Iterable[str], mark: str) -> str:
    cells = [f'<td class="{kind}">{text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True)]
    return "".join(cells).replace(">", f">{mark}", 1) if mark else "".join(cells)
