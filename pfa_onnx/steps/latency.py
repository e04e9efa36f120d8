"""Latency as a cost: cut, run, and time against the original, pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pfa_onnx.graph.edits import Edits
from pfa_onnx.options import DataOptions
from pfa_onnx.stats.compare import paired_latency
from pfa_onnx.stats.session import Runner, batch_size_for
from pfa_onnx.steps.apply import cut_copy
from pfa_onnx.steps.measure import Measured
from pfa_onnx.steps.serialized import load_runner

SECONDS = 1.0  # how long every candidate is timed


def latency_ratio(
    measured: Measured, options: DataOptions, *, repeats: int = 20, max_seconds: float = 60.0
) -> Callable[[Edits], float]:
    """Return a function that gives the run time of a cut model over the original's, on the provider in use.

    Both run the same inputs, those kept for the proof repeated up to the batch size, interleaved.
    repeats, max_seconds: as in `paired_latency`.
    """
    graph = measured.graph
    size = batch_size_for(graph.inputs, options.batch_size, options.providers)
    feeds = {name: np.resize(array, (size, *array.shape[1:])) for name, array in measured.stats.inputs.items()}
    assert graph.path is not None
    original = Runner(graph.path, providers=options.providers)

    def ratio(edits: Edits) -> float:
        small = cut_copy(graph, edits)
        pruned = load_runner(small.model, graph, options.providers)
        return paired_latency(
            lambda: original.run(feeds),
            lambda: pruned.run(feeds),
            repeats=repeats,
            min_seconds=SECONDS,
            max_seconds=max_seconds,
        ).ratio

    return ratio
