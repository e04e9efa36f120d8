"""What the baselines rank channels by: a number for every channel of every layer that may lose some.

`stats.selection.ORDERS` says how each choice of --select makes an order; those in SCORES order by such numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pfa_onnx.errors import UsageError
from pfa_onnx.graph.behind import batch_norm_scale
from pfa_onnx.graph.norms import filter_norms
from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.recipe import Coupling, Floats, Select
from pfa_onnx.stats.statsfile import StatsFile

Score = Callable[[Trace, Traced, StatsFile], Floats | None]
NAMED = 3  # layers that an error names


@dataclass(frozen=True)
class Scoring:
    """score: of a layer's channels, [C], None where it has none. lacking: what such layers lack, and what to do."""

    score: Score
    lacking: str = ""
    fix: str = ""


def _l1(trace: Trace, traced: Traced, _: StatsFile) -> Floats:
    return filter_norms(trace, traced, 1)


def _l2(trace: Trace, traced: Traced, _: StatsFile) -> Floats:
    return filter_norms(trace, traced, 2)


def _slimming(trace: Trace, traced: Traced, _: StatsFile) -> Floats | None:
    """Network slimming (Liu et al., 2017): |gamma| of the BatchNormalization behind the layer."""
    scale = batch_norm_scale(trace.graph, traced)
    return None if scale is None else np.abs(scale)


def _wanda(trace: Trace, traced: Traced, stats: StatsFile) -> Floats | None:
    """Wanda (Sun et al., 2024) of whole filters: the sum of |w| times the l2 norm of the input that w reads.

    The norm is divided by the root of how many numbers it is of: layers of unlike resolution then count alike.
    """
    output = traced.layer.output
    if output not in stats.squares:
        return None
    samples = max(stats.samples, 1)
    return filter_norms(trace, traced, 1, np.sqrt(stats.squares[output] / samples))


SCORES: Mapping[Select, Scoring] = {
    "l1": Scoring(_l1),
    "l2": Scoring(_l2),
    "bn": Scoring(
        _slimming,
        "no BatchNormalization directly behind them",
        "leave them out with --exclude, choose another --select, or export the model with its normalisations unfolded",
    ),
    "wanda": Scoring(
        _wanda,
        "inputs of which no channels could be measured",
        "leave them out with --exclude, or choose another --select",
    ),
}


def scores(select: Select, trace: Trace, coupling: Coupling, stats: StatsFile) -> dict[str, Floats] | None:
    """Return what `select` ranks by, by layer output; None where it ranks by something else.

    Raises UsageError where a layer that may lose channels has no score.
    """
    scoring = SCORES.get(select)
    if scoring is None:
        return None
    known = {layer.output for layer in coupling.layers}
    found: dict[str, Floats] = {}
    without = []
    for traced in trace.layers:
        layer = traced.layer
        if layer.output in known and any(k > 0 and k not in trace.frozen for k in layer.labels.tolist()):
            score = scoring.score(trace, traced, stats)
            if score is None:
                without.append(layer.node)
            else:
                found[layer.output] = score
    if without:
        names = ", ".join(f"'{name}'" for name in without[:NAMED]) + (", ..." if len(without) > NAMED else "")
        count = f"{len(without)} layer{'s' if len(without) > 1 else ''} that may lose channels"
        verb = "have" if len(without) > 1 else "has"
        raise UsageError(f"{count} {verb} {scoring.lacking}: {names}", at=f"--select {select}", fix=scoring.fix)
    return found
