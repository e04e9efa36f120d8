"""The verb inspect."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from pfa_onnx.cli import collect, params
from pfa_onnx.cli.app import Run, analyze, app
from pfa_onnx.cli.params import Option

_MODEL, _REPORT = "The model", "Reports"


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read NAME=1x3x224x224; the name may be left out where there is one input."""
    name, _, extents = text.rpartition("=")
    if not re.fullmatch(r"\d+([x,]\d+)*", extents) or "0" in re.split("[x,]", extents):
        raise click.BadParameter(f"{text!r} is not NAME=1x3x224x224")
    return name, tuple(int(extent) for extent in re.split("[x,]", extents))


@app.command(
    cls=params.Verb,
    short_help="Look at a model without data: what could go, and what not.",
    example="pfa-onnx inspect model.onnx --shape image=1x3x224x224",
)
@click.argument("model", type=params.FILE)
@click.option(
    "--shape", cls=Option, section=_MODEL, type=_shape, multiple=True, metavar="NAME=1x3x224x224",
    help="What an input is like whose shape is open; repeatable.",
)  # fmt: skip
@click.option(
    "--through-norm", cls=Option, section=_MODEL, is_flag=True,
    help="As if what LayerNorm and its kin run over may go too.",
)  # fmt: skip
@click.option("--json", cls=Option, section=_REPORT, metavar="FILE", help="Write it as JSON (- is standard output).")
@click.option("--markdown", cls=Option, section=_REPORT, metavar="FILE", help="Write it as Markdown.")
@click.option("-q", "--quiet", cls=Option, section=_REPORT, is_flag=True, help="One line, no progress.")
@click.option("-v", "--verbose", cls=Option, section=_REPORT, is_flag=True, help="Every layer, full names, times.")
@click.pass_context
def inspect(ctx: click.Context, /, model: Path, **given: Any) -> int:
    """Look at MODEL without any data: its layers, which go together, how many channels may go, and why others stay.

    Nothing is measured or written; what should go, analyze and prune learn from data.
    """
    run = Run(ctx, reads=(model,))
    from pfa_onnx import pipeline  # noqa: PLC0415
    from pfa_onnx.report import inspection  # noqa: PLC0415

    with run.terminal as terminal:
        found = pipeline.inspect(model, dict(given["shape"]), through_norm=given["through_norm"], hooks=terminal.hooks)
    following = None
    if found.free or found.wider:
        flags = "" if found.free else " --through-norm"
        data = "FOLDER_OF_IMAGES" if found.pictures else "FILE.npz"
        following = collect.next_command(ctx, analyze, (model,), f" --data {data}{flags}")
    renderers = {"json": inspection.as_json, "markdown": inspection.markdown}
    run.deliver(found, renderers, partial(inspection.render, next_step=following), inspection.line)
    return 0
