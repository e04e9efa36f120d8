"""The tapped model and one accumulator a layer: responses go in batch by batch, statistics come out."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.taps import tapped
from pfa_onnx.graph.trace import Traced
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Reason
from pfa_onnx.stats.checkpoint import Checkpoint
from pfa_onnx.stats.covariance import Accumulator, Moments
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import Runner, nvidia_device, run_padded
from pfa_onnx.steps.fusion import keep_fused
from pfa_onnx.steps.serialized import load_runner

Array = npt.NDArray[Any]


WIDEST = 8192  # channels of a layer: a covariance takes their square in memory, its eigenvalues their cube in time


class Calibration:
    """Feeds pooled responses to one accumulator a layer; memory does not grow with the number of samples."""

    def __init__(self, graph: Graph, layers: tuple[Traced, ...], options: DataOptions, size: int) -> None:
        self._size = size
        self.unmeasured = {t.layer.output: _too_wide(t) for t in layers if t.layer.channels > WIDEST}
        layers = tuple(t for t in layers if t.layer.output not in self.unmeasured)
        self._layers = {traced.layer.output: traced for traced in layers}
        self._sums = {t.layer.output: Accumulator(t.layer.channels, t.layer.node) for t in layers}
        self.provider = "cpu"
        self._runner: Runner | None = None
        self._taps: dict[str, str] = {}
        if layers:
            proto, self._taps = tapped(graph, layers)
            if options.providers == "cpu" or not nvidia_device():
                keep_fused(proto, layers)
            self._runner = load_runner(proto, graph, options.providers)
            self.provider = self._runner.provider

    def add(self, batch: Batch) -> None:
        """Run a batch and take in every layer's responses."""
        if self._runner is None:
            return
        found = run_padded(self._runner, batch, list(self._taps.values()), self._size)
        for output, tap in self._taps.items():
            rows = self._per_sample(output, found[tap], batch.count)
            if rows is not None:
                self._sums[output].add(rows)

    def _per_sample(self, output: str, rows: Array, count: int) -> Array | None:
        """Return one row a sample: windows and crops of one sample lie together, and are pooled too."""
        if output in self.unmeasured:
            return None
        if len(rows) == count:
            return rows
        if count and len(rows) % count == 0:
            pooled: Array = rows.reshape(count, -1, rows.shape[-1]).max(axis=1)
            return pooled
        self.unmeasured[output] = Reason(
            f"gives {len(rows)} rows for {count} samples, so that no row belongs to one sample",
            self._layers[output].layer.node,
        )
        return None

    def moments(self) -> dict[str, Moments]:
        """Return the statistics of every layer that could be measured."""
        return {output: sums.moments() for output, sums in self._sums.items() if output not in self.unmeasured}

    def states(self) -> dict[str, tuple[Moments, Array]]:
        """Return every layer's folded statistics and waiting rows, for a checkpoint."""
        return {output: sums.state() for output, sums in self._sums.items()}

    def restore(self, found: Checkpoint) -> bool:
        """Go on from a checkpoint; False when it is of other layers."""
        if {name: one.channels for name, one in found.stats.moments.items()} != {
            output: traced.layer.channels for output, traced in self._layers.items()
        }:
            return False
        for output, sums in self._sums.items():
            sums.restore(found.stats.moments[output], found.waiting[output])
        self.unmeasured.update(found.unmeasured or {})
        return True


def _too_wide(traced: Traced) -> Reason:
    return Reason(
        f"has {traced.layer.channels:,} channels, more than the {WIDEST:,} that are measured", traced.layer.node
    )
