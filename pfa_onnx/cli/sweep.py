"""The verb sweep."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfa_onnx.cli import collect, params
from pfa_onnx.cli.app import Run, app
from pfa_onnx.cli.sweeping import check_sources, methods_of, next_step, select_of, sweeping
from pfa_onnx.cli.variants import variants
from pfa_onnx.errors import PfaError

if TYPE_CHECKING:
    from pfa_onnx.tradeoff import Swept


@app.command(
    cls=params.Verb,
    short_help="Try many sizes at once: the whole trade-off curve.",
    example="pfa-onnx sweep model.onnx --data photos/ --params 0.75,0.5,0.35 --repair --html curve.html",
)
@click.argument("model", type=params.FILE)
@params.data
@params.pictures
@sweeping
@params.layers
@variants
@params.stats
@params.reports
@click.pass_context
def sweep(ctx: click.Context, /, model: Path, **given: Any) -> int:
    """Measure MODEL once, prune it in many ways, and say what each costs and how close it stays to MODEL.

    --data and --stats may both be given: the statistics decide, the data compares. An interrupted sweep reports the
    points that it has.
    """
    check_sources(ctx, given)
    methods = methods_of(given, select_of(ctx, given))
    other = given["check_data"]
    run = Run(ctx, reads=(model, given["stats"], Path(other) if other and Path(other).is_file() else None))
    from pfa_onnx import pipeline  # noqa: PLC0415

    so_far: list[Swept] = []
    try:
        with run.terminal as terminal:
            found = pipeline.sweep(
                model,
                collect.data_options(given),
                methods,
                collect.plan_options(given),
                stats=given["stats"],
                save_stats=given["save_stats"],
                resume=given["resume"],
                check_data=other,
                check_limit=given["check_limit"],
                repair=given["repair"],
                latency=not given["no_latency"],
                save_to=given["save_to"],
                each=so_far.append,
                hooks=terminal.hooks,
            )
    except (KeyboardInterrupt, PfaError):
        if so_far:
            _deliver(run, so_far[-1], None)
        raise
    _deliver(run, found, next_step(ctx, model, found.pick, app))
    return 1 if any(one.broken for one in found.missed) else 0


def _deliver(run: Run, found: Swept, following: str | None) -> None:
    from pfa_onnx.report import swept  # noqa: PLC0415

    renderers = {"json": swept.as_json, "markdown": swept.markdown, "html": _page}
    run.deliver(found, renderers, partial(swept.render, next_step=following), swept.line)


def _page(found: Swept) -> str:
    from pfa_onnx.report.html.swept import render  # noqa: PLC0415 - half a megabyte of charts

    return render(found)
