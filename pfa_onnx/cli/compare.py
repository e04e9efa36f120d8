"""The verb compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfa_onnx.cli import collect, params
from pfa_onnx.cli.app import Run, app
from pfa_onnx.cli.sweeping import no_latency

if TYPE_CHECKING:
    from pfa_onnx.tradeoff import Compared

_PICTURES = 48  # of inputs that change, in a page


@app.command(
    cls=params.Verb,
    short_help="Compare several pruned models of one original.",
    example="pfa-onnx compare model.onnx small.onnx repaired.onnx --data photos/ --html compared.html",
)
@click.argument("original", type=params.FILE)
@click.argument("models", type=params.FILE, nargs=-1, required=True, metavar="MODEL...")
@params.data
@params.pictures
@no_latency
@params.reports
@click.pass_context
def compare(ctx: click.Context, /, original: Path, models: tuple[Path, ...], **given: Any) -> int:
    """Compare every MODEL with ORIGINAL on the same data: what each costs, how close it is, and how it was made.

    Which inputs change their answer, and which classes: of the labels where there are some.
    """
    collect.require_data(given)
    run = Run(ctx, reads=(original, *models))
    from pfa_onnx import pipeline  # noqa: PLC0415
    from pfa_onnx.report import compared  # noqa: PLC0415

    with run.terminal as terminal:
        found = pipeline.compare_models(
            original,
            models,
            collect.data_options(given),
            latency=not given["no_latency"],
            pictures=_PICTURES if "html" in run.targets else 0,
            hooks=terminal.hooks,
        )
    renderers = {"json": compared.as_json, "markdown": compared.markdown, "html": _page}
    run.deliver(found, renderers, compared.render, compared.line)
    return 0


def _page(found: Compared) -> str:
    from pfa_onnx.report.html.compared import render  # noqa: PLC0415 - half a megabyte of charts

    return render(found)
