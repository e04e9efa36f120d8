"""`--select reconstruct`: what the readers of every channel read, measured on the original model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pfa_onnx.graph.readers import Reader, extents, matrix, readers
from pfa_onnx.graph.taps import showing
from pfa_onnx.graph.trace import Trace
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.recipe import Ints
from pfa_onnx.stats.reconstruct import Read
from pfa_onnx.stats.regression import CONSTANT, JointSums
from pfa_onnx.stats.session import run_padded
from pfa_onnx.stats.unfold import unfolded
from pfa_onnx.steps.samples import Samples
from pfa_onnx.steps.serialized import load_runner

WIDEST = 6144  # inputs of a reader: the covariance has their square
MEMORY = 1 << 27  # numbers in all covariances that one pass over the samples measures


@dataclass(frozen=True, eq=False)
class _Known:
    """A reader, and the label of every channel that it reads."""

    reader: Reader
    labels: Ints
    inputs: int


class Reads:
    """Gives, for some labels, what each of their readers reads; measures as many readers at a time as memory allows."""

    def __init__(self, trace: Trace, options: DataOptions, hooks: Hooks) -> None:
        self._graph, self._hooks, self._providers = trace.graph, hooks, options.providers
        self._samples = Samples(trace.graph, options, "--select reconstruct")
        self._known = [found for reader in readers(trace.graph) if (found := _known(trace, reader)) is not None]
        self._measured: dict[str, list[Read]] = {}
        self._done = 0

    def __call__(self, labels: Collection[int]) -> list[Read]:
        """Return what the readers of these labels read; nothing where no reader is known."""
        wanted = [k for k, known in enumerate(self._known) if np.isin(known.labels, list(labels)).any()]
        missing = [k for k in wanted if self._known[k].reader.output not in self._measured]
        if missing:
            self._measured = {
                self._known[k].reader.output: self._measured[self._known[k].reader.output]
                for k in wanted
                if k not in missing
            }
            self._measure(self._worth(missing))
        return [read for k in wanted for read in self._measured[self._known[k].reader.output]]

    def _worth(self, missing: Sequence[int]) -> list[_Known]:
        """Return the missing readers, and those behind them that there is room for: they are asked for next."""
        found = [self._known[k] for k in missing]
        room = MEMORY - sum(known.inputs**2 for known in found)
        for known in self._known[max(missing) + 1 :]:
            room -= known.inputs**2
            if room < 0:
                break
            found.append(known)
        return found

    def _measure(self, wanted: Sequence[_Known]) -> None:
        names = list(dict.fromkeys(n for known in wanted for n in (known.reader.source, known.reader.output)))
        runner = load_runner(showing(self._graph.model, names), self._graph, self._providers)
        sums = [JointSums() for _ in wanted]
        random = np.random.default_rng(0)
        for batch, _ in self._samples.batches():
            found = run_padded(runner, batch, names, self._samples.size)
            for known, total in zip(wanted, sums, strict=True):
                reader = known.reader
                count = self._samples.rows(known.inputs)
                for x, y in unfolded(reader.geometry, found[reader.source], found[reader.output], count, random):
                    total.add(x, y[:, :, :0])
        sums.reverse()
        for known in wanted:
            self._measured[known.reader.output] = list(self._reads(known, sums.pop()))  # each in memory once
            self._done += 1
            self._hooks.progress("reconstruct", self._done, len(self._known))

    def _reads(self, known: _Known, total: JointSums) -> Iterable[Read]:
        """Yield a group each."""
        if not total.count:
            return
        moments, weights = total.moments(), matrix(self._graph, known.reader)
        groups, d = weights.shape[:2]
        labels, covariances = known.labels.reshape(groups, -1), moments.xx
        rounding = np.trace(covariances, axis1=1, axis2=2) <= CONSTANT * np.sum(moments.x**2, axis=1)
        covariances[rounding] = 0.0  # what never varies is made up for by a bias
        for k in range(groups):
            yield Read(covariances[k], weights[k], np.repeat(labels[k], d // labels.shape[1]))


def _known(trace: Trace, reader: Reader) -> _Known | None:
    """Return a reader with the labels that it reads; None where they do not lie along one axis, or go with its own."""
    found = trace.along_one(reader.source, reader.geometry.read)
    if found is None:
        return None
    _, labels = found
    _, inputs, _ = extents(trace.graph, reader)
    depthwise = reader.geometry.groups > 1 and len(labels) == reader.geometry.groups
    return None if inputs > WIDEST or depthwise else _Known(reader, labels, inputs)
