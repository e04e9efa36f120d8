"""What is measured of every layer: a choice that the command line, the graph half and the data half all know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Pool = Literal["max", "mean", "positions"]
Tap = Literal["layer", "bn", "activation"]


@dataclass(frozen=True)
class Responses:
    """What is measured of every layer.

    pool: what becomes of space, "positions" makes some of its positions samples of their own. tap: where, "bn" behind
    the BatchNormalization that directly follows, "activation" behind that and the activation that directly follows.
    inputs: the mean squares of the input channels too (select=wanda). sums: residual sums too (couple=stream).
    """

    pool: Pool = "max"
    tap: Tap = "layer"
    inputs: bool = False
    sums: bool = False

    @property
    def variants(self) -> dict[str, Any]:
        """The choices that differ from the paper's, by name."""
        return {name: value for name, value in vars(self).items() if value != getattr(Responses, name)}

    @classmethod
    def of(cls, variants: Mapping[str, Any]) -> Responses:
        """Return what these variants say, as a file holds them; raises TypeError or ValueError."""
        found = cls(**variants)
        if found.pool not in get_args(Pool) or found.tap not in get_args(Tap):
            raise ValueError(found.flags)
        if not isinstance(found.inputs, bool) or not isinstance(found.sums, bool):
            raise TypeError("neither true nor false")
        return found

    @property
    def flags(self) -> str:
        """How this is typed on the command line."""
        more = (" --select wanda" if self.inputs else "") + (" --couple stream" if self.sums else "")
        return f"--pool {self.pool} --tap {self.tap}{more}"


PAPER = Responses()
