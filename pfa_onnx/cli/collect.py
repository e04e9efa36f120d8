"""Flags -> options: what belongs together, and what does not go together."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pfa_onnx.errors import UsageError
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.responses import Responses

if TYPE_CHECKING:
    from pfa_onnx.recipe import Method

_METHODS = ("kl", "energy", "params", "macs", "latency", "uniform")
_PICTURES = ("mean", "std", "scale", "size", "resize", "crop_pct", "channel_order", "layout", "interpolation")
_LAYERS = ("include", "exclude", "round_to", "min_channels", "allow_few_samples", "through_norm")
_VARIANTS = ("pool", "tap", "divergence", "mapping", "couple", "shrink")
_GATES = ("min_agreement", "min_cosine", "max_params", "max_macs", "max_latency")
_KINDS = "--data with a folder of images, .tar or .parquet files, FILE.npy, FILE.npz or loader.py:function"

Given = Mapping[str, Any]


def typed(name: str) -> str:
    """Return a parameter's name as it is typed."""
    return f"--{name.replace('_', '-')}"


def data_options(given: Given) -> DataOptions:
    """Return where the inputs come from."""
    overrides = {name: given[name] for name in _PICTURES if given[name] is not None}
    if "channel_order" in overrides:
        overrides["order"] = overrides.pop("channel_order")
    return DataOptions(
        data=given["data"],
        preprocess=given["preprocess"],
        overrides=overrides,
        limit=given["limit"],
        batch_size=given["batch_size"],
        providers=given["providers"],
        shard=given.get("shard") or (1, 1),
        ray=given.get("ray"),
        responses=Responses(pool=given.get("pool", "max"), tap=given.get("tap", "layer")),
    )


def plan_options(given: Given) -> PlanOptions:
    """Return which layers may lose channels."""
    return PlanOptions(**{name: given[name] for name in _LAYERS})


def methods(given: Given) -> list[str]:
    """Return the names of the methods that were asked for."""
    return [name for name in _METHODS if given[name] not in (None, False)]


def chosen_method(given: Given) -> Method | None:
    """Return the one method that was asked for, or None; --select and its kin alone go with what KL asks for."""
    asked = methods(given)
    if len(asked) > 1:
        flags = " and ".join(map(typed, asked))
        raise UsageError(f"{flags} are different methods", at=flags, fix="give one of them")
    from pfa_onnx.recipe import VARIANTS, Method  # noqa: PLC0415  it imports numpy, and --help must not wait for that

    variants = {name: given[name] for name in VARIANTS}
    if not asked and given["select"] == "pfa" and not Method("kl", **variants).variants:
        return None
    name: Any = asked[0] if asked else "kl"
    field = {"kl": None, "energy": "tau", "uniform": "ratio"}.get(name, "target")
    number = {field: given[name]} if field else {}
    return Method(name=name, select=given["select"], seed=given["seed"], **number, **variants)


def gates(given: Given) -> dict[str, float]:
    """Return the limits that were set."""
    if given["no_latency"] and given["max_latency"] is not None:
        raise UsageError(
            "--max-latency needs what --no-latency leaves out",
            at="--max-latency and --no-latency",
            fix="give one of them",
        )
    return {name: given[name] for name in _GATES if given[name] is not None}


# --- what does not go together ---


def require_data(given: Given, *, also: tuple[str, ...] = ()) -> None:
    """Refuse to go on without inputs, or with two sources of them."""
    if given["data"] is None and not any(given[name] for name in also):
        others = "".join(f", or {typed(name)} FILE" for name in also)
        raise UsageError(
            "no data: the answer comes from how the model responds to real inputs, and those are never invented",
            at="--data",
            fix=f"give {_KINDS}{others}",
        )
    if given.get("stats") and given["data"] is not None and not reads_again(given):
        raise UsageError("--stats takes the place of --data", at="--stats and --data", fix="give one of them")


def refuse_idle_flags(ctx: click.Context, given: Given) -> None:
    """Refuse flags that would do nothing, because the inputs that they are about are not read or nothing is saved."""
    if given["data"] is not None:
        _refuse_pictures(ctx, given)
        _refuse_unsaved(given)
        return
    for name in ("limit", "preprocess", *_PICTURES, "save_stats", "resume", "shard", "ray"):
        if name in ctx.params and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{typed(name)} does nothing without --data",
                at=typed(name),
                fix=f"leave {typed(name)} out, or give --data",
            )


def _refuse_unsaved(given: Given) -> None:
    """Refuse what is about a statistics file without one, and what a cluster does in its own way."""
    for name in ("shard", "resume"):
        if given.get("ray") is not None and given.get(name):
            raise UsageError(
                f"--ray cuts the data into shards and repeats those that fail, {typed(name)} is for runs without it",
                at=f"--ray and {typed(name)}",
                fix="give one of them",
            )
    if given["save_stats"] is not None:
        return
    if given.get("shard"):
        raise UsageError(
            "a shard is measured to be merged with others, and nothing would be saved",
            at="--shard",
            fix="add --save-stats FILE, then `pfa-onnx merge`",
        )
    if given["resume"]:
        raise UsageError(
            "--resume goes on where --save-stats stopped", at="--resume", fix="add the --save-stats FILE of that run"
        )


def _refuse_pictures(ctx: click.Context, given: Given) -> None:
    """Refuse to prepare what comes as arrays: it is fed as it is."""
    data = str(given["data"])
    if not data.endswith((".npy", ".npz")) and ".py:" not in data:
        return
    for name in ("preprocess", *_PICTURES):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{typed(name)} is for pictures, and {data} gives arrays",
                at=typed(name),
                fix=f"leave {typed(name)} out, and prepare the arrays as the model takes them",
            )


def check_recipe(ctx: click.Context, given: Given) -> None:
    """Refuse a prune without a method, and a recipe with one, or without a proof unless told so."""
    asked = [typed(name) for name in methods(given)]
    source = given["data"] is not None or given["stats"] is not None
    if given["recipe"] is None:
        if given["no_proof"]:
            raise UsageError("--no-proof is for a --recipe without data", at="--no-proof", fix="leave --no-proof out")
        if not asked:
            raise UsageError(
                "how much to remove is not said",
                at="--kl, --energy, --params, --macs, --latency, --uniform",
                fix="give --kl, --energy T, --params R, --macs R, --latency R or --uniform R",
            )
        return
    if asked or given["select"] != "pfa":
        flag = (asked or ["--select"])[0]
        raise UsageError(
            f"--recipe says which channels stay, and so does {flag}", at=f"--recipe and {flag}", fix="give one of them"
        )
    for name in (*_LAYERS, *_VARIANTS):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--recipe says which channels stay, {typed(name)} cannot",
                at=f"--recipe and {typed(name)}",
                fix="give one of them",
            )
    if source and given["no_proof"]:
        raise UsageError(
            "--no-proof is for a --recipe without data", at="--no-proof", fix="leave --no-proof out: the proof is quick"
        )
    if not source and not given["no_proof"]:
        raise UsageError(
            "a recipe alone proves nothing: the proof needs inputs",
            at="--recipe",
            fix="give --data or --stats, or accept an unproven model with --no-proof",
        )


def check_repair(ctx: click.Context, given: dict[str, Any]) -> None:
    """Refuse a repair of weights that are drawn anew, or without inputs; it chooses channels by what it can make up."""
    if reads_again(given) and given["data"] is None:
        flag = "--repair" if given["repair"] else "--select reconstruct"
        raise UsageError(
            f"{flag} runs the model on inputs: what statistics hold is not enough", at=flag, fix="add --data"
        )
    if not given["repair"]:
        return
    if given["init"] == "scratch":
        raise UsageError(
            "--repair solves the weights that --init scratch throws away",
            at="--repair and --init",
            fix="give one of them",
        )
    if given["recipe"] is None and ctx.get_parameter_source("select") != ParameterSource.COMMANDLINE:
        given["select"] = "reconstruct"


def reads_again(given: Given) -> bool:
    """Whether more is asked for than the statistics hold."""
    return bool(given.get("repair")) or given.get("select") == "reconstruct"


# --- the command to type next ---

_REPORTS = {"json", "markdown", "html", "junit"}
_NOT_REPEATED = _REPORTS | {"quiet", "verbose", "save_stats", "output", "resume", "shard", "ray"}
SOURCE = {"data", "limit", "preprocess", *_PICTURES}


def next_command(
    ctx: click.Context,
    verb: click.Command,
    arguments: tuple[str | Path, ...],
    extra: str = "",
    without: Collection[str] = (),
) -> str:
    """Return the command line of another verb with the same choices, but for those that are named."""
    words = ["pfa-onnx", str(verb.name), *map(str, arguments)]
    saved = ctx.params.get("save_stats")
    known = {param.name for param in verb.params} - set(without)
    if saved and "stats" in known:
        words += ["--stats", str(saved)]
        known -= set() if reads_again(ctx.params) else SOURCE
    for param in ctx.command.params:
        name = param.name or ""
        if not isinstance(param, click.Option) or name in _NOT_REPEATED or name not in known:
            continue
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            words += _words(param, ctx.params[name])
    return shlex.join(words) + extra


def _words(option: click.Option, value: Any) -> list[str]:
    flag = option.opts[-1]
    if option.is_flag:
        return [flag]
    if option.multiple:
        return [word for item in value for word in (flag, str(item))]
    return [flag, ",".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)]
