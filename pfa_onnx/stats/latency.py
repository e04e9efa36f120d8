"""Compare how long two models run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Latency:
    """Paired run times: median of pruned / original within a pair, and the two medians in milliseconds."""

    ratio: float
    original_ms: float
    pruned_ms: float
    pairs: int


def paired_latency(
    original: Callable[[], object],
    pruned: Callable[[], object],
    *,
    repeats: int = 20,
    min_seconds: float = 1.0,
    max_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time both, alternating, and compare within pairs: a busy machine slows both halves of a pair alike.

    At least `repeats` pairs and `min_seconds`, but after three pairs no more than `max_seconds`. Two warm-up
    runs of each are not counted. Which one goes first changes from pair to pair.
    """
    for run in (original, pruned) * 2:
        run()
    times: list[tuple[float, float]] = []
    start = clock()
    while len(times) < repeats or clock() - start < min_seconds:
        if len(times) >= 3 and clock() - start > max_seconds:
            break
        if len(times) % 2:
            after, before = _time(pruned, clock), _time(original, clock)
        else:
            before, after = _time(original, clock), _time(pruned, clock)
        times.append((before, after))
    return Latency(
        ratio=statistics.median(after / max(before, 1e-9) for before, after in times),
        original_ms=1000 * statistics.median(before for before, _ in times),
        pruned_ms=1000 * statistics.median(after for _, after in times),
        pairs=len(times),
    )


def _time(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start
