"""The verb finetune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pfa_onnx.cli import collect, files, params
from pfa_onnx.cli.app import app
from pfa_onnx.cli.terminal import Terminal, show, width_of
from pfa_onnx.cli.training import training_flags, training_options
from pfa_onnx.errors import UsageError


@app.command(
    cls=params.Verb,
    short_help="Train a pruned model to answer as its original does.",
    example="pfa-onnx finetune model.pruned.onnx --teacher model.onnx --data photos/ -o tuned.onnx",
)
@click.argument("pruned", type=params.FILE)
@params.data
@params.pictures
@training_flags
@click.pass_context
def finetune(ctx: click.Context, /, pruned: Path, **given: Any) -> int:
    """Train PRUNED to give the outputs of the model that it was made of, from inputs without labels.

    The trained weights go back into the same graph. What is held back of the samples chooses the best epoch; an
    interrupted run keeps the best so far. Needs PyTorch: pip install 'pfa-onnx[torch]'.
    """
    collect.require_data(given)
    chosen = training_options(given)
    output = given["output"] or pruned.with_name(f"{pruned.stem}.tuned.onnx")
    if str(output) == "-":
        raise UsageError("a model is not written to standard output", at="--output -", fix="name a file")
    if given["quiet"] and given["verbose"]:
        raise UsageError("--quiet and --verbose are opposites", at="--quiet and --verbose", fix="give one of them")
    if ctx.obj is not None:
        ctx.obj.verbose = given["verbose"]
    files.check_targets({"--output": output, "--json": given["json"]}, [pruned, given["teacher"]])
    from pfa_onnx import pipeline  # noqa: PLC0415
    from pfa_onnx.report import tuned  # noqa: PLC0415

    with Terminal(quiet=given["quiet"], verbose=given["verbose"]) as terminal:
        found = pipeline.finetune(
            pruned,
            collect.data_options(given),
            chosen,
            teacher=given["teacher"],
            output=output,
            resume=given["resume"],
            hooks=terminal.hooks,
        )
    stream = sys.stdout
    if given["json"] == files.STDOUT:
        show(tuned.as_json(found), sys.stdout)
        stream = sys.stderr
    elif given["json"] is not None:
        files.write(Path(given["json"]), tuned.as_json(found), "--json")
    original = given["teacher"] or "ORIGINAL"
    check = app.commands["check"]
    step = collect.next_command(ctx, check, (original, output))
    whole = tuned.render(found, verbose=given["verbose"], width=width_of(stream), next_step=step)
    show(tuned.line(found) if given["quiet"] else whole, stream)
    terminal.times(found.timings)
    return 0
