"""Pictures of samples whose prediction changed, with what both models say."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

from pfa_onnx.report.html.parts import text
from pfa_onnx.results import CheckReport, Picture

_KINDS = {"lost": "was right", "gained": "is right now", "other": "wrong before and after", "": ""}


def pictures(report: CheckReport) -> Iterator[str]:
    """Yield the pictures, if there are any."""
    if not report.pictures:
        return
    if len(report.pictures) < len(report.changed):
        yield f'<p class="note">{len(report.pictures)} of them, evenly spread over the data.</p>'
    yield '<ul class="gallery">'
    for picture in report.pictures:
        yield _picture(picture)
    yield "</ul>"


def kind_of(picture: Picture) -> str:
    """Return what the change was worth: lost, gained, other, or nothing where there is no label."""
    if picture.truth is None:
        return ""
    return {picture.before: "lost", picture.after: "gained"}.get(picture.truth, "other")


def _picture(picture: Picture) -> str:
    kind = kind_of(picture)
    worth = f'<span class="worth">{_KINDS[kind]}</span>' if kind else ""
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    said = f'<span class="was">{text(picture.before)} →</span> {text(picture.after)}'
    return (
        f'<li class="{kind}"><figure><img alt="{text(picture.name)}" src="{source}">'
        f'<figcaption><span class="name">{text(picture.name)}</span><span class="said">{said}</span>{worth}'
        "</figcaption></figure></li>"
    )
