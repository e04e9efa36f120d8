"""Flags of `finetune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from pfa_onnx.cli import params
from pfa_onnx.cli.params import Option, number
from pfa_onnx.errors import UsageError
from pfa_onnx.options import Training

F = TypeVar("F", bound=Callable[..., Any])

_KINDS = ("flip", "shift")


def _kinds(text: str) -> tuple[str, ...] | None:
    """Read auto, none, or kinds with commas between them."""
    if text == "auto":
        return None
    kinds = () if text == "none" else tuple(text.split(","))
    if not set(kinds) <= set(_KINDS):
        raise click.BadParameter(f"{text!r} is neither auto nor none nor some of {', '.join(_KINDS)}")
    return kinds


_WHAT, _HOW, _OUT = "What to learn from", "How to train", "Output"
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--teacher",), {
        "section": _WHAT, "type": params.FILE, "metavar": "ORIGINAL",
        "help": "The model that PRUNED was made of: learn to give its outputs; no labels needed.",
    }),
    (("--labels",), {
        "section": _WHAT, "is_flag": True, "help": "Learn from labels too: a folder for each class, or labels.csv.",
    }),
    (("--teaching",), {
        "section": _WHAT, "type": number(0), "default": 0.5, "show_default": True, "metavar": "W",
        "help": "With --labels: the weight of the teacher's outputs.",
    }),
    (("--responses",), {
        "section": _WHAT, "type": number(0), "default": 0.0, "show_default": True, "metavar": "W",
        "help": "The weight of the teacher's layer responses, at the kept channels.",
    }),
    (("--any-teacher",), {
        "section": _WHAT, "is_flag": True, "help": "Take a teacher that PRUNED was not made of.",
    }),
    (("--epochs",), {
        "section": _HOW, "type": click.IntRange(1), "default": 10, "show_default": True, "metavar": "N",
        "help": "Passes over the data.",
    }),
    (("--optimizer",), {
        "section": _HOW, "type": click.Choice(["adamw", "sgd"]), "default": "adamw", "show_default": True,
        "help": "With warm-up and a cosine.",
    }),
    (("--rate",), {
        "section": _HOW, "type": number(0, above=True), "metavar": "F",
        "help": "Highest learning rate [adamw 5e-4, sgd 1e-2].",
    }),
    (("--weight-decay",), {
        "section": _HOW, "type": number(0), "default": 1e-4, "show_default": True, "metavar": "F",
        "help": "Of matrices and kernels.",
    }),
    (("--warmup",), {
        "section": _HOW, "type": number(0, 1), "default": 0.1, "show_default": True, "metavar": "R",
        "help": "The share of all steps in which the rate rises.",
    }),
    (("--augment",), {
        "section": _HOW, "type": _kinds, "default": "auto", "show_default": True, "metavar": "KINDS",
        "help": "flip, shift, both with a comma, or none; auto: pictures only, no flip with --labels.",
    }),
    (("--held",), {
        "section": _HOW, "type": number(0, 0.5, above=True), "default": 0.1, "show_default": True, "metavar": "R",
        "help": "The share of the samples that chooses the best epoch.",
    }),
    (("--patience",), {
        "section": _HOW, "type": click.IntRange(1), "default": 5, "show_default": True, "metavar": "N",
        "help": "Stop after N epochs without a better one.",
    }),
    (("--precision",), {
        "section": _HOW, "type": click.Choice(["auto", "full", "mixed"]), "default": "auto", "show_default": True,
        "help": "mixed: half precision where that is safe; auto: on CUDA only.",
    }),
    (("--seed",), {
        "section": _HOW, "type": int, "default": 0, "show_default": True, "metavar": "N", "help": "For what is random.",
    }),
    (("-o", "--output"), {
        "section": _OUT, "type": params.FILE, "metavar": "FILE",
        "help": "Where to write it [PRUNED's stem + .tuned.onnx].",
    }),
    (("--resume",), {
        "section": _OUT, "is_flag": True, "help": "Go on where an interrupted run with this output stopped.",
    }),
    (("--json",), {
        "section": _OUT, "metavar": "FILE", "help": "Write the report as JSON (- is standard output).",
    }),
    (("-q", "--quiet"), {"section": _OUT, "is_flag": True, "help": "One line, no progress."}),
    (("-v", "--verbose"), {"section": _OUT, "is_flag": True, "help": "Every epoch, times."}),
)  # fmt: skip

_FIELDS = (
    "epochs", "optimizer", "rate", "weight_decay", "warmup", "labels", "teaching", "responses", "augment", "held",
    "patience", "precision", "seed", "any_teacher",
)  # fmt: skip


def training_flags(command: F) -> F:
    """Add the flags to a command."""
    for names, settings in reversed(_FLAGS):
        command = click.option(*names, cls=Option, **settings)(command)
    return command


def training_options(given: Mapping[str, Any]) -> Training:
    """Return how to train; raises UsageError for flags that do nothing without another."""
    if given["teacher"] is None:
        if not given["labels"]:
            raise UsageError(
                "there is nothing to learn from: neither a teacher nor labels",
                at="--teacher",
                fix="give --teacher ORIGINAL, or --labels with data that has them",
            )
        if given["responses"] or given["any_teacher"]:
            flag = "--responses" if given["responses"] else "--any-teacher"
            raise UsageError(f"{flag} is about a teacher, and there is none", at=flag, fix="give --teacher ORIGINAL")
    return Training(**{name: given[name] for name in _FIELDS})
