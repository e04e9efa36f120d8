"""The samples that repair and reconstruction learn from: some of the calibration data, as often as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pfa_onnx.errors import UsageError
from pfa_onnx.graph.model import Graph
from pfa_onnx.options import DataOptions
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import batch_size_for, fixed_batch
from pfa_onnx.steps.measure import open_dataset

SAMPLES = 2048  # of the calibration data, evenly spaced
HELD = 8  # every so many batches, one decides and is not learned from
ROWS = 20  # output positions for each unknown of a layer
FEWEST = 4096  # output positions of a layer, if there are as many
CACHE = 1 << 28  # bytes of inputs that are read once and kept


class Samples:
    """Batches, the same ones every time. count: samples; blocks: batches; total: samples of the whole data, if known.

    Raises UsageError without data.
    """

    def __init__(self, graph: Graph, options: DataOptions, what: str) -> None:
        """Look at the data. what: who needs it, for messages."""
        if options.data is None:
            needed = f"{what} runs the model on inputs: statistics are not enough"
            raise UsageError(needed, at=what, fix="add --data")
        self.total = open_dataset(graph, options).count
        limit = min(SAMPLES, self.total or SAMPLES, options.limit or SAMPLES)
        self._dataset = open_dataset(graph, replace(options, limit=limit))
        self.source = self._dataset.source
        size = batch_size_for(graph.inputs, options.batch_size, options.providers)
        few = max(1, limit // (2 * HELD))  # so that some can be held back
        self.size = size if fixed_batch(graph.inputs) or options.batch_size else min(size, few)
        self.count = self.blocks = 0
        self._kept: list[Batch] = []
        self._look()

    def _look(self) -> None:
        room = CACHE
        for batch in self._dataset.batches(self.size):
            self.count, self.blocks = self.count + batch.count, self.blocks + 1
            room -= sum(array.nbytes for array in batch.feeds.values())
            if room >= 0:
                self._kept.append(batch)
        if room < 0:
            self._kept = []

    def batches(self) -> Iterator[tuple[Batch, bool]]:
        """Yield every batch, and whether it is held back."""
        for k, batch in enumerate(self._kept or self._dataset.batches(self.size)):
            yield batch, k % HELD == HELD - 1

    def rows(self, unknowns: int) -> int:
        """Return how many output positions of a layer with so many inputs to take of each batch."""
        return -(-max(ROWS * unknowns, FEWEST) // max(1, self.blocks * (HELD - 1) // HELD))
