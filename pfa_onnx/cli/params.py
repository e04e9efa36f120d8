"""Every flag, once: what it is called, what it accepts, under which heading the help shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        del ctx
        with formatter.section("Example"):
            formatter.write(f"{'':>{formatter.current_indent}}{self.example}\n")


class Option(click.Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Number(click.ParamType):
    """A finite number in a range; `above` is an open lower end."""

    name = "number"

    def __init__(self, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> None:
        self.low, self.high, self.above = low, high, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the range."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        inside = self.low < number if self.above else self.low <= number
        if not (math.isfinite(number) and inside and number <= self.high):  # NaN is in no range
            self.fail(f"{value} is not {self._range()}", param, ctx)
        return number

    def _range(self) -> str:
        ends = [f"{'above' if self.above else 'at least'} {self.low:g}"] if math.isfinite(self.low) else []
        ends += [f"at most {self.high:g}"] if math.isfinite(self.high) else []
        return " and ".join(ends) or "finite"


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        return tuple(Number().convert(item, param, ctx) for item in str(value).split(","))


class Size(click.ParamType):
    """Pixels: one number for a square, or height and width."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        """Return one number, or two."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        found = re.fullmatch(r"\s*(\d+)\s*(?:[,x]\s*(\d+)\s*)?", value)
        if found is None or not all(int(number) for number in found.groups() if number):
            self.fail(f"{value!r} is not N or H,W", param, ctx)
        return (int(found[1]), int(found[2])) if found[2] else int(found[1])


RATIO = Number(0, 1, above=True)
POSITIVE = Number(0, above=True)


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

data = _together(
    _option(
        "--data", section=_DATA, metavar="DATA", help="Folder of images, FILE.npy, FILE.npz or loader.py:function."
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
        default="auto",
        show_default=True,
        help="auto, imagenet, inception, unit, raw, or a preprocessor_config.json.",
    ),
    _option("--mean", section=_PICTURES, type=Numbers(), metavar="N[,N...]", help="Subtracted, after the scale."),
    _option("--std", section=_PICTURES, type=Numbers(), metavar="N[,N...]", help="Divided by, after the mean."),
    _option("--scale", section=_PICTURES, type=Number(), metavar="N", help="Factor on the pixels 0..255."),
    _option("--size", section=_PICTURES, type=Size(), metavar="N|H,W", help="Height and width in pixels."),
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
        help="Filter of the resizing.",
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
        type=click.Choice(["pfa", "l1", "l2", "random"]),
        default="pfa",
        show_default=True,
        help="Which channels go: the most correlated, the smallest weights, or any.",
    ),
    _option("--seed", section=_LAYERS, type=int, default=0, show_default=True, metavar="N", help="For what is random."),
    _option("--include", section=_LAYERS, multiple=True, metavar="GLOB", help="Only these layers; repeatable."),
    _option("--exclude", section=_LAYERS, multiple=True, metavar="GLOB", help="Not these layers; repeatable."),
    _option("--round-to", section=_LAYERS, type=click.IntRange(1), default=1, metavar="N", help="Keep multiples of N."),
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
)

stats = _together(
    _option("--stats", section=_STATS, type=FILE, metavar="FILE", help="Take saved statistics instead of --data."),
    _option("--save-stats", section=_STATS, type=FILE, metavar="FILE", help="Save them: deciding again is then free."),
)

reports = _together(
    _option("--json", section=_REPORT, metavar="FILE", help="Write the report as JSON (- is standard output)."),
    _option("--markdown", section=_REPORT, metavar="FILE", help="Write it as Markdown."),
    _option("--html", section=_REPORT, metavar="FILE", help="Write it as one HTML page."),
    _option("-q", "--quiet", section=_REPORT, is_flag=True, help="One line, no progress."),
    _option("-v", "--verbose", section=_REPORT, is_flag=True, help="Every layer, full names, times."),
)

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
    _option("--no-proof", section="Output", is_flag=True, help="With --recipe alone: write without proving."),
)

gates = _together(
    _option("--min-agreement", section="Limits", type=Number(0, 1), metavar="F", help="Equal top-1 answers, at least."),
    _option("--min-cosine", section="Limits", type=Number(-1, 1), metavar="F", help="Worst cosine, at least."),
    _option(
        "--max-params", section="Limits", type=POSITIVE, metavar="F", help="Parameters over the original's, at most."
    ),
    _option("--max-macs", section="Limits", type=POSITIVE, metavar="F", help="MACs over the original's, at most."),
    _option(
        "--max-latency", section="Limits", type=POSITIVE, metavar="F", help="Run time over the original's, at most."
    ),
    _option("--no-latency", section="Limits", is_flag=True, help="Do not measure run times."),
)
