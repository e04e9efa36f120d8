"""Flags for what may be done otherwise than in the paper: how responses are measured, and how they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pfa_onnx.cli.params import Option

F = TypeVar("F", bound=Callable[..., Any])

# flag -> (what it accepts, the paper's way first; what it says)
_FLAGS = {
    "pool": (("max", "mean", "positions"), "What becomes of space: one number, or some positions as samples."),
    "tap": (("layer", "bn", "activation"), "Where to measure: at the layer, or behind what directly follows it."),
    "divergence": (("kl", "chi2", "emd"), "With --kl: how a spectrum is compared with a flat one."),
    "mapping": (("linear", "sqrt", "square", "exp"), "With --kl: from the divergence to the share that stays."),
    "couple": (("max", "mean", "stream"), "Who decides for layers that go together: all, their mean, or their sum."),
    "shrink": (("none", "oas"), "Correct the spectra for few samples (oracle approximating shrinkage)."),
}  # fmt: skip


def variants(command: F) -> F:
    """Add the flags to a command."""
    for name, (choices, text) in reversed(_FLAGS.items()):
        option = click.option(
            f"--{name}",
            cls=Option,
            section="Other than in the paper",
            type=click.Choice(choices),
            default=choices[0],
            show_default=True,
            help=text,
        )
        command = option(command)
    return command
