"""`--round-to auto`: which multiple of channels is fast is a fact about a machine, so it is measured.

Runtimes compute whole vectors of channels: on one machine 57 to 63 channels ran slower than 64, and 56 much faster.
The recipe is made legal for several multiples, every cut model is run against the original, and the fastest wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pfa_onnx.errors import TargetError
from pfa_onnx.graph.edits import Edits
from pfa_onnx.options import Hooks
from pfa_onnx.recipe import Method
from pfa_onnx.steps.decide import Decider, Decision

MULTIPLES = (1, 4, 8, 16, 32, 64)
ALIKE = 0.02  # less than this apart, run times are alike, and the finer multiple removes more
SLOWER = 1.01  # above this a model is slower than the original; below, it may be the clock


def decide_fastest(
    decider: Decider, method: Method, timed: Callable[[], Callable[[Edits], float]], hooks: Hooks
) -> Decision:
    """Return the decision for the multiple that runs fastest; `decider.round_to` says which it is.

    timed: gives the run time of a cut model over the original's. Raises TargetError when no multiple reaches the
    target. Warns when the fastest is still slower than the original.
    """
    probe = replace(method, name="macs") if method.name == "latency" else method  # to search run times takes minutes
    candidates = _candidates(decider, probe)
    ratio = timed()
    found: dict[int, float] = {}
    for step, (multiple, decision) in enumerate(candidates.items(), 1):
        found[multiple] = 1.0 if decision.keep.all() else ratio(decision.edits)
        hooks.progress("round-to", step, len(candidates))
        hooks.note(f"multiples of {multiple}: {found[multiple]:.3f} of the original's run time")
    best = choose(found)
    if found[best] > SLOWER:
        hooks.warn(f"--round-to auto: the fastest, {best}, still takes {found[best]:.2f} times as long as the original")
    decider.round_to = best
    return candidates[best] if probe is method else decider.decide(method)


def choose(ratios: dict[int, float]) -> int:
    """Return the finest multiple whose run time is that of the fastest, or alike and not above the original's."""
    fastest = min(ratios.values())
    alike = [k for k, ratio in ratios.items() if ratio <= max(fastest, min(fastest + ALIKE, SLOWER))]
    return min(alike)


def _candidates(decider: Decider, method: Method) -> dict[int, Decision]:
    """Return a decision for every multiple that gives a model of its own."""
    found: dict[int, Decision] = {}
    refused: TargetError | None = None
    for multiple in MULTIPLES:
        decider.round_to = multiple
        try:
            decision = decider.decide(method)
        except TargetError as error:
            refused = refused or error
            continue
        if not any(bytes(decision.keep) == bytes(other.keep) for other in found.values()):
            found[multiple] = decision
    if not found:
        assert refused is not None
        raise refused
    return found
