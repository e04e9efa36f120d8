"""One original, many smaller models, one after the other, on the same samples: its answers are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pfa_onnx.errors import UsageError
from pfa_onnx.graph.model import Graph
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.results import DataInfo
from pfa_onnx.stats.compare import Comparison, Latency, Metrics
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import Runner, batch_size_for, prefetch, run_padded
from pfa_onnx.steps.compare import paired
from pfa_onnx.steps.measure import open_dataset, prepared_by, report_skipped

SAMPLES = 1024  # that every model is compared on, unless told otherwise: a share of 0.99 is then good to 0.003
CACHE = 1 << 28  # bytes of inputs, and of the original's answers, that are kept between models
REPEATS = 10  # pairs of timed runs
SECONDS = 20.0  # of timing one model


class Judge:
    """Says how close a model's answers are to the original's, and how fast it is beside it.

    data: what it compares on; of: how many samples there are in all, None where only reading tells.
    """

    def __init__(self, graph: Graph, options: DataOptions, limit: int | None, hooks: Hooks) -> None:
        """Run the original on at most `limit` samples, evenly spaced. Raises UsageError where there are none."""
        assert graph.path is not None
        limit = min(limit or SAMPLES, options.limit or limit or SAMPLES)
        self._dataset = open_dataset(graph, replace(options, limit=limit))
        self._size = batch_size_for(graph.inputs, options.batch_size, options.providers)
        self._original = Runner(graph.path, providers=options.providers)
        self._batches: list[Batch] = []
        self._answers: list[Mapping[str, Any]] = []
        self._first, seen = self._look(hooks)
        report_skipped(self._dataset.skipped, hooks)
        prepared, provider = prepared_by(self._dataset), self._original.provider
        skipped = tuple(self._dataset.skipped)
        self.data = DataInfo(self._dataset.source, seen, prepared, provider, self._size, skipped)
        self.of = open_dataset(graph, options).count if seen == limit else seen

    def _look(self, hooks: Hooks) -> tuple[Batch, int]:
        """Run the original once, and keep what fits."""
        first: Batch | None = None
        seen, inputs, answers = 0, CACHE, CACHE
        for batch in prefetch(self._dataset.batches(self._size)):
            first = first or batch
            found = run_padded(self._original, batch, None, self._size)
            inputs -= sum(array.nbytes for array in batch.feeds.values())
            answers -= sum(getattr(value, "nbytes", CACHE) for value in found.values())
            if inputs >= 0:
                self._batches.append(batch)
            if answers >= 0:
                self._answers.append(found)
            seen += batch.count
            hooks.progress("original", seen, self._dataset.count)
        if first is None:
            raise UsageError("there are no samples to compare on", at=self._dataset.source, fix="give some inputs")
        if inputs < 0:
            self._batches = []
        if answers < 0:
            self._answers = []
        return first, seen

    def _pairs(self) -> Iterator[tuple[Batch, Mapping[str, Any]]]:
        batches = iter(self._batches) if self._batches else prefetch(self._dataset.batches(self._size))
        for k, batch in enumerate(batches):
            yield batch, self._answers[k] if self._answers else run_padded(self._original, batch, None, self._size)

    def closeness(self, runner: Runner) -> Metrics:
        """Compare a model's answers with the original's."""
        comparison = Comparison(self._dataset.classes)
        for batch, answers in self._pairs():
            comparison.add(answers, run_padded(runner, batch, None, self._size), batch.names, batch.labels)
        return comparison.result()

    def timed(self, runner: Runner) -> Latency:
        """Time a model beside the original."""
        return paired(self._original, runner, self._first, self._size, repeats=REPEATS, seconds=SECONDS)
