"""The verbs: analyze, merge, prune, check, doctor."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pfa_onnx import __version__
from pfa_onnx.cli import collect, files, params
from pfa_onnx.cli.files import check_targets as refuse_targets
from pfa_onnx.cli.terminal import Terminal, show, width_of
from pfa_onnx.cli.variants import variants
from pfa_onnx.errors import PfaError, UsageError
from pfa_onnx.report.fitting import fitted

if TYPE_CHECKING:
    from pfa_onnx.results import CheckReport, Report

_REPORTS = ("json", "markdown", "html", "junit")
_PICTURES = 48  # of samples whose prediction changed, on the HTML page
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=params.Verbs, context_settings=_SETTINGS, invoke_without_command=True)
@click.version_option(__version__, prog_name="pfa-onnx", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> int:
    """Make trained ONNX models smaller by removing channels that their own responses show to be redundant."""
    if ctx.invoked_subcommand is None:
        show(ctx.get_help() + "\n", sys.stderr)
        return 2
    return 0


class Run:
    """What all verbs share: targets checked first, a voice while it works, reports at the end."""

    def __init__(self, ctx: click.Context, *, reads: tuple[Path | None, ...], output: Path | None = None) -> None:
        given = ctx.params
        if given["quiet"] and given["verbose"]:
            raise UsageError("--quiet and --verbose are opposites", at="--quiet and --verbose", fix="give one of them")
        self.targets: dict[str, str] = {name: given[name] for name in _REPORTS if given.get(name) is not None}
        self.quiet: bool = given["quiet"]
        self.verbose: bool = given["verbose"]
        if ctx.obj is not None:
            ctx.obj.verbose = self.verbose
        self.terminal = Terminal(quiet=self.quiet, verbose=self.verbose)
        data = str(given.get("data") or "")
        written: dict[str, Path | str | None] = {"--output": output, "--save-stats": given.get("save_stats")}
        written |= {f"--{name}": target for name, target in self.targets.items()}
        sources = [data, data.rpartition(":")[0]]  # a file, or the file of loader.py:function
        files.check_targets(written, [*reads, *(path for path in sources if path and Path(path).is_file())])

    def finish(self, report: Report | CheckReport, next_step: str | None) -> int:
        """Write the reports, print one, and return the exit code."""
        from pfa_onnx.report import as_json, html, junit, markdown, text  # noqa: PLC0415
        from pfa_onnx.results import CheckReport  # noqa: PLC0415

        renderers: dict[str, Callable[[Any], str]] = {
            "json": as_json.render, "markdown": markdown.render, "html": html.render, "junit": junit.render
        }  # fmt: skip
        self.deliver(report, renderers, partial(text.render, next_step=next_step), text.line)
        if isinstance(report, CheckReport):
            return 0 if report.passed else 1
        return 1 if report.proof is not None and not report.proof.passed else 0

    def deliver(
        self,
        report: Any,
        renderers: Mapping[str, Callable[[Any], str]],
        text: Callable[..., str],
        line: Callable[[Any], str],
    ) -> None:
        """Write the reports and print one. renderers: by format; text: the report to read, line: in one line."""
        for warning in report.warnings:
            self.terminal.warn(warning)
        unwritten: PfaError | None = None
        stream = sys.stdout
        for name, target in self.targets.items():
            content = renderers[name](report)
            if target == files.STDOUT:
                show(content, sys.stdout)
                stream = sys.stderr
                continue
            try:
                files.write(Path(target), content, f"--{name}")
            except PfaError as error:  # the work is done: one bad file must not take the rest of it away
                unwritten = unwritten or error
        width = width_of(stream)
        show(line(report) if self.quiet else text(report, verbose=self.verbose, width=width), stream)
        self.terminal.times(report.timings)
        if unwritten is not None:
            raise unwritten


def default_output(model: Path) -> Path:
    """Return MODEL's stem + .pruned.onnx, beside it."""
    return model.with_name(f"{model.stem}.pruned.onnx")


@app.command(
    cls=params.Verb,
    short_help="Measure every layer: what would go, what is frozen.",
    example="pfa-onnx analyze model.onnx --data photos/ --kl",
)
@click.argument("model", type=params.FILE)
@params.data
@params.pictures
@params.method
@params.layers
@variants
@params.stats
@params.shard
@params.ray
@params.reports
@click.pass_context
def analyze(ctx: click.Context, /, model: Path, **given: Any) -> int:
    """Measure every layer of MODEL: its spectrum, what would go, and what is frozen and why.

    Without a method it shows what --kl would do. Nothing is written but the reports.
    """
    collect.require_data(given, also=("stats",))
    collect.refuse_idle_flags(ctx, given)
    method = collect.chosen_method(given)
    run = Run(ctx, reads=(model, given["stats"]))
    from pfa_onnx import pipeline  # noqa: PLC0415

    with run.terminal as terminal:
        report = pipeline.analyze(
            model,
            collect.data_options(given),
            method,
            collect.plan_options(given),
            stats=given["stats"],
            save_stats=given["save_stats"],
            resume=given["resume"],
            details="html" in run.targets,
            hooks=terminal.hooks,
        )
    if given["shard"]:
        return run.finish(report, shlex.join(["pfa-onnx", "merge", str(given["save_stats"])]) + " FILE... -o ALL")
    return run.finish(
        report, collect.next_command(ctx, prune, (model,), extra="" if collect.methods(given) else " --kl")
    )


@app.command(
    cls=params.Verb,
    short_help="Merge statistics that were measured apart.",
    example="pfa-onnx merge part1.npz part2.npz part3.npz -o all.npz",
)
@click.argument("files", type=params.FILE, nargs=-1, required=True, metavar="FILE...")
@params.merged
def merge(files: tuple[Path, ...], output: Path, *, quiet: bool) -> int:
    """Merge the statistics FILE..., such as those of shards, as if one run had seen all of their data.

    The order of the files makes no difference. Files of different models, layers or preprocessing are refused, and
    files that share samples.
    """
    if str(output) == "-":
        raise UsageError("statistics are not written to standard output", at="--output -", fix="name a file")
    refuse_targets({"--output": output}, files)
    from pfa_onnx import pipeline  # noqa: PLC0415

    with Terminal(quiet=quiet, verbose=False) as terminal:
        merged = pipeline.merge(files, output, hooks=terminal.hooks)
    from pfa_onnx.report import text  # noqa: PLC0415

    command = shlex.join(["pfa-onnx", "analyze", "MODEL", "--stats", str(output)])
    show(text.merged(merged, None if quiet else command, width_of(sys.stdout)), sys.stdout)
    return 0


@app.command(
    cls=params.Verb,
    short_help="Remove channels, prove the cut, write the model.",
    example="pfa-onnx prune model.onnx --data photos/ --params 0.5 -o smaller.onnx",
)
@click.argument("model", type=params.FILE)
@params.data
@params.pictures
@params.method
@params.layers
@variants
@params.stats
@params.ray
@params.output
@params.reports
@click.pass_context
def prune(ctx: click.Context, /, model: Path, **given: Any) -> int:
    """Remove channels of MODEL, prove the cut on real inputs, and write the smaller model."""
    collect.require_data(given, also=("stats", "recipe"))
    collect.refuse_idle_flags(ctx, given)
    collect.check_recipe(ctx, given)
    collect.check_repair(ctx, given)
    method = collect.chosen_method(given)
    output = given["output"] or default_output(model)
    if str(output) == "-":
        raise UsageError("a model is not written to standard output", at="--output -", fix="name a file")
    run = Run(ctx, reads=(model, given["stats"], given["recipe"]), output=output)
    from pfa_onnx import pipeline  # noqa: PLC0415

    with run.terminal as terminal:
        report = pipeline.prune(
            model,
            collect.data_options(given),
            method,
            collect.plan_options(given),
            output=output,
            stats=given["stats"],
            recipe=given["recipe"],
            save_stats=given["save_stats"],
            resume=given["resume"],
            init=given["init"],
            seed=given["seed"],
            prove=not given["no_proof"],
            repair=given["repair"],
            details="html" in run.targets,
            hooks=terminal.hooks,
        )
    extra = "" if given["data"] is not None else f" --data {_source(report)}"
    if given["init"] == "scratch":  # there is nothing to compare before it is trained
        return run.finish(report, None)
    return run.finish(report, collect.next_command(ctx, check, (model, output), extra))


def _source(report: Report) -> str:
    """Return where the inputs in a statistics file came from, if they are there and came as arrays, without options."""
    source = report.data.source if report.data is not None else ""
    plain = report.data is not None and not report.data.preprocess
    return shlex.quote(source) if source and plain and Path(source).exists() else "DATA"


@app.command(
    cls=params.Verb,
    short_help="Compare two models on data, with limits.",
    example="pfa-onnx check model.onnx model.pruned.onnx --data photos/ --min-agreement 0.98 --max-params 0.75",
)
@click.argument("original", type=params.FILE)
@click.argument("pruned", type=params.FILE)
@params.data
@params.pictures
@params.gates
@params.reports
@params.junit
@click.pass_context
def check(ctx: click.Context, /, original: Path, pruned: Path, **given: Any) -> int:
    """Compare PRUNED with ORIGINAL on data; exit with 1 when a limit does not hold."""
    collect.require_data(given)
    gates = collect.gates(given)
    run = Run(ctx, reads=(original, pruned))
    from pfa_onnx import pipeline  # noqa: PLC0415

    with _errors_told(run.targets.get("junit"), original, pruned), run.terminal as terminal:
        report = pipeline.check(
            original,
            pruned,
            collect.data_options(given),
            gates,
            latency=not given["no_latency"],
            pictures=_PICTURES if "html" in run.targets else 0,
            hooks=terminal.hooks,
        )
    return run.finish(report, None)


@contextmanager
def _errors_told(target: str | None, original: Path, pruned: Path) -> Iterator[None]:
    """Say in the JUnit file, too, why there is nothing else in it."""
    try:
        yield
    except PfaError as error:
        from pfa_onnx.report import junit  # noqa: PLC0415

        content = junit.render_error(str(original), str(pruned), error)
        if target == files.STDOUT:
            show(content, sys.stdout)
        elif target is not None:
            with suppress(PfaError):  # that it cannot be written is the smaller trouble
                files.write(Path(target), content, "--junit")
        raise


@app.command(cls=params.Verb, short_help="Show what really runs, and how to repair it.", example="pfa-onnx doctor")
def doctor() -> int:
    """Show versions and what really runs, and say how to repair a broken installation."""
    from pfa_onnx.cli.doctor import examine  # noqa: PLC0415

    text, well = examine()
    show(fitted(text, width_of(sys.stdout)), sys.stdout)
    return 0 if well else 1
