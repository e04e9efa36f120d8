"""Every flag, once: what it is called, what it accepts, under which heading the help shows it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pfa_onnx.cli.terminal import width_of
from pfa_onnx.report.fitting import continued

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

FILE: Any = click.Path(path_type=Path)


class Verb(click.Command):
    """A command whose help shows its options under headings and ends with an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for option in sorted(options, key=lambda option: not isinstance(option, Option)):  # click's own come last
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "section", "Help"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example: on a terminal it goes on below, elsewhere it is one line."""
        del ctx
        with formatter.section("Example"):
            formatter.write(continued(self.example, width_of(sys.stdout), " " * formatter.current_indent) + "\n")


class Verbs(click.Group):
    """All verbs, in the order in which they are used; what is not named here comes last."""

    order = ("inspect", "analyze", "prune", "check", "compare", "sweep", "finetune", "merge", "doctor")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        del ctx
        return sorted(self.commands, key=lambda name: (name not in self.order, (*self.order, name).index(name), name))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what to try first."""
        del ctx
        with formatter.section("Example"):
            formatter.write("  pfa-onnx inspect model.onnx\n")


class Option(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files, for options that take more than these."""
    del ctx, param
    return [CompletionItem(incomplete, type="file")]


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Return a type: a finite number in a range; `above` is an open lower end."""
    ends = [f"{'above' if above else 'at least'} {low:g}"] if math.isfinite(low) else []
    ends += [f"at most {high:g}"] if math.isfinite(high) else []

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a number") from None
        inside = low < value if above else low <= value
        if not (math.isfinite(value) and inside and value <= high):  # NaN is in no range
            raise click.BadParameter(f"{text} is not {' and '.join(ends) or 'finite'}")
        return value

    return convert


def share(text: str) -> tuple[int, int]:
    """Read i/n, with i from 1 to n."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"{text!r} is not i/n with i from 1 to n")
    return int(found[1]), int(found[2])


def multiple(text: str) -> int | str:
    """Read a number of channels, or auto."""
    if text == "auto":
        return text
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise click.BadParameter(f"{text!r} is neither a number from 1 on nor auto")
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    return tuple(number()(item) for item in text.split(","))


def pixels(text: str) -> int | tuple[int, int]:
    """Read one number for a square, or height and width."""
    found = re.fullmatch(r"\s*0*([1-9]\d*)\s*(?:[,x]\s*0*([1-9]\d*)\s*)?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not N or H,W")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


RATIO = number(0, 1, above=True)
POSITIVE = number(0, above=True)


def _option(*names: str, section: str, **kwargs: Any) -> Decorator[Any]:
    return click.option(*names, cls=Option, section=section, **kwargs)


def _together(*decorators: Decorator[Any]) -> Decorator[Any]:
    def apply(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


_DATA, _PICTURES = "Data", "Pictures (what happens to them before the model)"
_METHOD, _LAYERS = "How much to remove (one of these)", "Which channels and layers"
_STATS, _REPORT = "Statistics", "Reports"


def _report(name: str, text: str) -> Decorator[Any]:
    return _option(name, section=_REPORT, metavar="FILE", shell_complete=paths, help=text)


def _presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    known = ("auto", "imagenet", "inception", "unit", "raw")
    return [CompletionItem(name) for name in known if name.startswith(incomplete)] or paths(ctx, param, incomplete)


data = _together(
    _option(
        "--data",
        section=_DATA,
        metavar="DATA",
        shell_complete=paths,
        help="Folder of images, .tar or .parquet files, FILE.npy, FILE.npz or loader.py:function; or s3://...",
    ),
    _option("--limit", section=_DATA, type=click.IntRange(1), metavar="N", help="Use N samples, evenly spaced."),
    _option("-b", "--batch-size", section=_DATA, type=click.IntRange(1), metavar="N", help="Samples in one run."),
    _option(
        "--providers",
        section=_DATA,
        type=click.Choice(["cpu", "cuda", "auto"], case_sensitive=False),
        default="auto",
        show_default=True,
        help="Where the model runs.",
    ),
)

pictures = _together(
    _option(
        "--preprocess",
        section=_PICTURES,
        metavar="NAME|FILE",
        shell_complete=_presets,
        default="auto",
        show_default=True,
        help="auto, imagenet, inception, unit, raw, or a preprocessor_config.json.",
    ),
    _option("--mean", section=_PICTURES, type=numbers, metavar="N[,N...]", help="Subtracted, after the scale."),
    _option("--std", section=_PICTURES, type=numbers, metavar="N[,N...]", help="Divided by, after the mean."),
    _option("--scale", section=_PICTURES, type=number(), metavar="N", help="Factor on the pixels 0..255."),
    _option("--size", section=_PICTURES, type=pixels, metavar="N|H,W", help="Height and width in pixels."),
    _option(
        "--resize", section=_PICTURES, type=click.Choice(["crop", "stretch", "pad", "none"]), help="How to resize."
    ),
    _option("--crop-pct", section=_PICTURES, type=RATIO, metavar="R", help="Share of the picture that a crop keeps."),
    _option("--layout", section=_PICTURES, type=click.Choice(["auto", "nchw", "nhwc"]), help="Order of the axes."),
    _option("--channel-order", section=_PICTURES, type=click.Choice(["rgb", "bgr"]), help="Order of the colours."),
    _option(
        "--interpolation",
        section=_PICTURES,
        type=click.Choice(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
        metavar="FILTER",
        help="Of the resizing: nearest, box, bilinear, hamming, bicubic or lanczos.",
    ),
)

method = _together(
    _option("--kl", section=_METHOD, is_flag=True, help="PFA-KL: as many as the spectrum's spread; no parameter."),
    _option("--energy", section=_METHOD, type=RATIO, metavar="T", help="PFA-En: keep the share T of the energy."),
    _option("--params", section=_METHOD, type=RATIO, metavar="R", help="At most R times the parameters."),
    _option("--macs", section=_METHOD, type=RATIO, metavar="R", help="At most R times the multiply-accumulates."),
    _option("--latency", section=_METHOD, type=RATIO, metavar="R", help="At most R times the measured run time."),
    _option("--uniform", section=_METHOD, type=RATIO, metavar="R", help="The share R of every layer: the baseline."),
)

layers = _together(
    _option(
        "--select",
        section=_LAYERS,
        type=click.Choice(["pfa", "l1", "l2", "bn", "wanda", "reconstruct", "random"]),
        default="pfa",
        show_default=True,
        help="Which channels go: the most correlated, those of the smallest weights (l1, l2), BatchNormalization "
        "scales (bn) or weights times inputs (wanda), what others make up for (reconstruct), or any.",
    ),
    _option("--seed", section=_LAYERS, type=int, default=0, show_default=True, metavar="N", help="For what is random."),
    _option("--include", section=_LAYERS, multiple=True, metavar="GLOB", help="Only these layers; repeatable."),
    _option("--exclude", section=_LAYERS, multiple=True, metavar="GLOB", help="Not these layers; repeatable."),
    _option(
        "--round-to",
        section=_LAYERS,
        type=multiple,
        default="1",
        metavar="N|auto",
        help="Keep multiples of N; auto: of what runs fastest here.",
    ),
    _option(
        "--min-channels",
        section=_LAYERS,
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="Keep at least N a layer.",
    ),
    _option(
        "--allow-few-samples", section=_LAYERS, is_flag=True, help="Prune layers with more channels than samples too."
    ),
    _option(
        "--through-norm",
        section=_LAYERS,
        is_flag=True,
        help="Prune what LayerNorm and its kin run over too; fine-tune after it.",
    ),
)

stats = _together(
    _option("--stats", section=_STATS, type=FILE, metavar="FILE", help="Take saved statistics instead of --data."),
    _option("--save-stats", section=_STATS, type=FILE, metavar="FILE", help="Save them: deciding again is then free."),
    _option("--resume", section=_STATS, is_flag=True, help="Go on where an interrupted --save-stats stopped."),
)

ray = _option(
    "--ray",
    section=_STATS,
    metavar="ADDRESS",
    is_flag=False,
    flag_value="local",
    help="Measure on a Ray cluster; without an address, on this machine's cores.",
)

shard = _option(
    "--shard",
    section=_STATS,
    type=share,
    metavar="i/n",
    help="Measure every n-th sample from the i-th on; merge the files later.",
)

merged = _together(
    _option("-o", "--output", section="Output", type=FILE, metavar="FILE", required=True, help="Where to write it."),
    _option("-q", "--quiet", section="Output", is_flag=True, help="One line, no progress."),
)

reports = _together(
    _report("--json", "Write the report as JSON (- is standard output)."),
    _report("--markdown", "Write it as Markdown."),
    _report("--html", "Write it as one HTML page."),
    _option("-q", "--quiet", section=_REPORT, is_flag=True, help="One line, no progress."),
    _option("-v", "--verbose", section=_REPORT, is_flag=True, help="Every layer, full names, times."),
)

junit = _report("--junit", "Write the limits as JUnit XML, for CI to show.")

output = _together(
    _option(
        "-o",
        "--output",
        section="Output",
        type=FILE,
        metavar="FILE",
        help="Where to write it [MODEL's stem + .pruned.onnx].",
    ),
    _option(
        "--recipe",
        section="Output",
        type=FILE,
        metavar="REPORT.json",
        help="Replay a report's channels, without a method.",
    ),
    _option(
        "--init",
        section="Output",
        type=click.Choice(["keep", "scratch"]),
        default="keep",
        show_default=True,
        help="Keep the surviving weights, or draw new ones.",
    ),
    _option(
        "--repair",
        section="Output",
        is_flag=True,
        help="Solve the surviving weights anew, from the inputs alone; goes with --select reconstruct.",
    ),
    _option("--no-proof", section="Output", is_flag=True, help="With --recipe alone: write without proving."),
)

gates = _together(
    _option("--min-agreement", section="Limits", type=number(0, 1), metavar="F", help="Equal top-1 answers, at least."),
    _option("--min-cosine", section="Limits", type=number(-1, 1), metavar="F", help="Worst cosine, at least."),
    _option(
        "--max-params", section="Limits", type=POSITIVE, metavar="F", help="Parameters over the original's, at most."
    ),
    _option("--max-macs", section="Limits", type=POSITIVE, metavar="F", help="MACs over the original's, at most."),
    _option(
        "--max-latency", section="Limits", type=POSITIVE, metavar="F", help="Run time over the original's, at most."
    ),
    _option("--no-latency", section="Limits", is_flag=True, help="Do not measure run times."),
)
