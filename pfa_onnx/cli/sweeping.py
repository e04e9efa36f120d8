"""Flags of `sweep`: many numbers where other verbs take one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pfa_onnx.cli import collect, params
from pfa_onnx.cli.params import RATIO, Option
from pfa_onnx.errors import UsageError

if TYPE_CHECKING:
    from pfa_onnx.recipe import Method
    from pfa_onnx.tradeoff import Point

F = TypeVar("F", bound=Callable[..., Any])
Given = Mapping[str, Any]

_LISTS = ("energy", "params", "macs", "uniform")
_NAMES = ("kl", *_LISTS)


def ratios(text: str) -> tuple[float, ...]:
    """Read shares with commas between them, each once."""
    found = tuple(RATIO(item.strip()) for item in text.split(","))
    twice = [item for item in found if found.count(item) > 1]
    if twice:
        raise click.BadParameter(f"{twice[0]:g} is there twice")
    return found


_WHAT, _HOW, _OUT = "What to try (kl, six energies and three sizes unless said)", "How to compare", "Output"
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--kl",), {"section": _WHAT, "is_flag": True, "help": "PFA-KL: as many as the spectrum's spread."}),
    (("--energy",), {
        "section": _WHAT, "type": ratios, "metavar": "T[,T...]", "help": "PFA-En: keep the share T of the energy.",
    }),
    (("--params",), {
        "section": _WHAT, "type": ratios, "metavar": "R[,R...]", "help": "At most R times the parameters.",
    }),
    (("--macs",), {
        "section": _WHAT, "type": ratios, "metavar": "R[,R...]", "help": "At most R times the multiply-accumulates.",
    }),
    (("--uniform",), {
        "section": _WHAT, "type": ratios, "metavar": "R[,R...]", "help": "The share R of every layer: the baseline.",
    }),
    (("--repair",), {
        "section": _WHAT, "is_flag": True,
        "help": "Repair every point, too: takes a few times as long; goes with --select reconstruct.",
    }),
    (("--check-data",), {
        "section": _HOW, "metavar": "DATA", "help": "Compare on these inputs, in place of --data.",
    }),
    (("--check-limit",), {
        "section": _HOW, "type": click.IntRange(1), "metavar": "N",
        "help": "Compare on at most N of them, evenly spaced [1024].",
    }),
    (("--no-latency",), {"section": _HOW, "is_flag": True, "help": "Do not measure run times."}),
    (("--save-to",), {"section": _OUT, "type": params.FILE, "metavar": "FOLDER", "help": "Write the models there."}),
)  # fmt: skip


def sweeping(command: F) -> F:
    """Add the flags to a command."""
    for names, settings in reversed(_FLAGS):
        command = click.option(*names, cls=Option, **settings)(command)
    return command


no_latency = click.option("--no-latency", cls=Option, section=_HOW, is_flag=True, help="Do not measure run times.")


def check_sources(ctx: click.Context, given: Given) -> None:
    """Refuse a sweep without inputs: statistics say what goes, and nothing of what that is worth."""
    if given["data"] is None and given["stats"] is None:
        collect.require_data(given)
    if given["stats"] is not None and given["save_stats"] is not None:
        raise UsageError(
            "--save-stats would save what --stats holds", at="--save-stats and --stats", fix="give one of them"
        )
    collect.refuse_idle_flags(ctx, {**given, "data": given["data"] or given["check_data"]})


def select_of(ctx: click.Context, given: Given) -> str:
    """Return which channels go; with --repair, those that it can best make up for, unless told otherwise."""
    asked = {**given, "init": "keep", "recipe": None}
    collect.check_repair(ctx, asked)
    return str(asked["select"])


def methods_of(given: Given, select: str) -> tuple[Method, ...]:
    """Return a method for every point; what is about --kl alone goes with it alone."""
    from pfa_onnx.recipe import Method  # noqa: PLC0415 - it imports numpy
    from pfa_onnx.steps.sweep import GRID, of  # noqa: PLC0415

    asked: list[tuple[str, float | None]] = [("kl", None)] if given["kl"] else []
    asked += [(name, number) for name in _LISTS for number in given[name] or ()]
    chosen: Any = select
    found = tuple(of(name, number, chosen, given["seed"]) for name, number in asked or GRID)
    spectral = {name: given[name] for name in ("couple", "shrink")}
    how = {name: given[name] for name in ("divergence", "mapping")}
    variants = Method("kl", **how).variants
    if variants and all(method.name != "kl" for method in found):
        name = next(iter(variants))
        raise UsageError(
            f"--{name} is about what --kl asks for", at=f"--{name}", fix=f"add --kl, or leave --{name} out"
        )
    return tuple(_with(method, spectral, how) for method in found)


def _with(method: Method, spectral: Mapping[str, Any], how: Mapping[str, Any]) -> Method:
    from dataclasses import replace  # noqa: PLC0415 - beside the type that it needs

    if method.name == "uniform":  # it does not look at the spectrum
        return replace(method, couple=spectral["couple"])
    return replace(method, **spectral, **(how if method.name == "kl" else {}))


def next_step(ctx: click.Context, model: Path, picked: Point | None, app: click.Group) -> str | None:
    """Return the command for the point that a user would pick: check it where it was written, else prune."""
    if picked is None:
        return None
    given = ctx.params
    if picked.output is not None:
        other = given["check_data"]
        without = {"data", "limit"} if other is not None else set()
        extra = "" if other is None else f" --data {shlex.quote(str(other))}"
        return collect.next_command(ctx, app.commands["check"], (model, picked.output), extra, without)
    method = picked.method
    without = {*_NAMES, *(() if method.name == "kl" else ("divergence", "mapping"))}
    without |= {"shrink"} if method.name == "uniform" else set()
    if given["stats"] is not None and not collect.reads_again(given):  # prune takes one of them
        without |= collect.SOURCE
    number = {"kl": None, "energy": method.tau, "uniform": method.ratio}.get(method.name, method.target)
    flag = f" --{method.name}" + ("" if number is None else f" {number:g}")
    return collect.next_command(ctx, app.commands["prune"], (model,), flag, without)
