"""The tapped model and one accumulator a layer: responses go in batch by batch, statistics come out.

On CUDA the inputs are uploaded by the thread that reads them, while the batch before runs; responses are added up on
the device (stats/device.py). Only a first batch, and what does not fill a batch or a queue, comes to the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.behind import tap_points
from pfa_onnx.graph.dtypes import tensor_types
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.norms import Operand
from pfa_onnx.graph.taps import POOLED, Tapping, tapped
from pfa_onnx.graph.trace import Traced
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Floats, Reason
from pfa_onnx.stats.checkpoint import Checkpoint
from pfa_onnx.stats.covariance import Accumulator, Moments, NoNumberError
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.device import DeviceSums, Stream
from pfa_onnx.stats.session import Providers, Runner, Values, expects_cuda, pad, run_padded, unpadded
from pfa_onnx.steps.blame import blamed
from pfa_onnx.steps.fusion import keep_fused
from pfa_onnx.steps.poolings import fastest_poolings
from pfa_onnx.steps.serialized import load_runner
from pfa_onnx.steps.squares import InputSquares

Array = npt.NDArray[Any]


WIDEST = 8192  # channels of a layer: a covariance takes their square in memory, its eigenvalues their cube in time


@dataclass(frozen=True, eq=False)
class Ready:
    """A batch, and its inputs where the model runs, unless that is the host."""

    batch: Batch
    values: Values | None


class Calibration:
    """Feeds pooled responses to one accumulator a layer; memory does not grow with the number of samples.

    provider: what runs. without_cuda: why that is not the CUDA device which is there.
    """

    def __init__(
        self,
        graph: Graph,
        layers: tuple[Traced, ...],
        options: DataOptions,
        size: int,
        *,
        probed: int = 1,
        operands: Mapping[str, Operand] = MappingProxyType({}),
    ) -> None:
        """size: samples of a full batch; probed: samples that the layers' shapes are of.

        operands: what layers read, of which the mean squares are measured too.
        """
        self._size = size
        self.unmeasured = {t.layer.output: _too_wide(t) for t in layers if t.layer.channels > WIDEST}
        layers = tuple(t for t in layers if t.layer.output not in self.unmeasured)
        self._layers = {traced.layer.output: traced for traced in layers}
        self._sums = {t.layer.output: Accumulator(t.layer.channels, t.layer.node) for t in layers}
        self.provider = "cpu"
        self.without_cuda: str | None = None
        self._runner: Runner | None = None
        self._taps: dict[str, str] = {}
        self.responses = options.responses
        self._pool = options.responses.pool
        operands = {output: one for output, one in operands.items() if output not in self.unmeasured}
        self._providers: Providers = options.providers
        self._graph = graph
        if layers:
            self._how = self._tapping(options, probed, operands)
            self._load()
        self._squares = InputSquares(operands, self._taps)
        self._on_device = self.provider == "cuda"
        self._device: DeviceSums | None = None

    def _tapping(self, options: DataOptions, probed: int, operands: Mapping[str, Operand]) -> Tapping:
        layers = tuple(self._layers.values())
        choose = expects_cuda(options.providers) and self._pool == "max"
        ways = fastest_poolings(layers, max(1, self._size // probed), options.providers) if choose else {}
        points = tap_points(self._graph, layers, options.responses.tap)
        types = tensor_types(self._graph)
        odd = [output for output, point in points.items() if types.get(point, ir.DataType.FLOAT) not in POOLED]
        return Tapping({**ways, **dict.fromkeys(odd, "reduce")}, self._pool, points, operands, samples=probed)

    def _load(self) -> None:
        """Load the model with its taps."""
        layers, points = tuple(self._layers.values()), self._how.points
        proto, self._taps = tapped(self._graph, layers, self._how)
        if not expects_cuda(self._providers):
            keep_fused(proto, [t for t in layers if points[t.layer.output] == t.layer.output])
        self._runner = None  # of two models, one is in memory
        self._runner = load_runner(proto, self._graph, self._providers)
        self.provider, self.without_cuda = self._runner.provider, self._runner.without_cuda

    def prepare(self, batch: Batch) -> Ready:
        """Bring a batch to where the model runs; another thread may do that while a batch runs."""
        runner = self._runner
        if not self._on_device or runner is None:
            return Ready(batch, None)
        return Ready(batch, runner.upload(pad(batch, self._size)))

    def add(self, ready: Ready) -> None:
        """Run a batch and take in every layer's responses; raises DataError where one is NaN or infinite."""
        while self._layers and not self._measured(ready):
            pass

    def _measured(self, ready: Ready) -> bool:
        """Take in a batch; False, with nothing taken in, where squares need another precision than they have."""
        assert self._runner is not None
        batch, taps = ready.batch, [*self._taps.values(), *self._squares.taps.values()]
        if ready.values is None:
            found = run_padded(self._runner, batch, taps, self._size)
            if self._widened(found):
                return False
            self._take_batch({output: found[tap] for output, tap in self._taps.items()}, batch)
            self._squares.add(found, batch.count)
            return True
        values = self._runner.run_there(ready.values, taps)
        squares = {tap: unpadded(values[tap].numpy(), batch.count, self._size) for tap in self._squares.taps.values()}
        if self._widened(squares):
            return False
        self._squares.add(squares, batch.count)
        there = {output: values[tap] for output, tap in self._taps.items() if output not in self.unmeasured}
        if self._device is not None and batch.count == self._size:
            for output, rows in self._device.take(there):
                self._take({output: rows}, self._size)
            return True
        here = {output: unpadded(value.numpy(), batch.count, self._size) for output, value in there.items()}
        self._take_batch(here, batch)
        if batch.count == self._size:  # later ones are added up there, about the mean of this one
            self._device = DeviceSums(self._streams(there), self._size, self._providers)
        return True

    def _widened(self, squares: Mapping[str, Array]) -> bool:
        """Have squares that single precision does not hold taken in double from now on; tell whether there are any.

        It takes a quarter longer, for what no ordinary model needs.
        """
        more = set(self._squares.doubtful(squares))
        if more:
            self._how = replace(self._how, double={*self._how.double, *more})
            self._load()
        return bool(more)

    def _take_batch(self, found: dict[str, Array], batch: Batch) -> None:
        try:
            self._take(found, batch.count)
        except NoNumberError as error:
            raise blamed(error, self._graph, tuple(self._layers.values()), batch, self._size) from None

    def _take(self, found: dict[str, Array], count: int) -> None:
        """Add responses up on the host."""
        for output, values in found.items():
            rows = self._per_sample(output, values, count)
            if rows is not None:
                self._sums[output].add(rows)

    def _streams(self, values: Values) -> dict[str, Stream]:
        """Say what every full batch will bring, if it is like this one."""
        return {
            output: Stream(value.shape()[0], value.numpy().dtype, self._sums[output].moments().mean, self._pool)
            for output, value in values.items()
            if output not in self.unmeasured
        }

    def _per_sample(self, output: str, rows: Array, count: int) -> Array | None:
        """Return one row a sample: windows and crops of one sample lie together, and are pooled too.

        Where positions are samples, all rows are.
        """
        if output in self.unmeasured:
            return None
        if rows.ndim == 2 and len(rows) == count:
            return rows
        if rows.ndim == 2 and count and len(rows) % count == 0:
            grouped: Array = rows.reshape(count, -1, rows.shape[-1])
            if self._pool == "positions":
                return rows
            pooled: Array = grouped.mean(axis=1) if self._pool == "mean" else grouped.max(axis=1)
            return pooled
        self.unmeasured[output] = Reason(
            f"gives {len(rows)} rows for {count} samples, so that no row belongs to one sample",
            self._layers[output].layer.node,
        )
        return None

    def _fetch(self) -> None:
        """Take over what the device has added up, and what waits there."""
        if self._device is not None:
            for output, rows in self._device.rest():
                self._take({output: rows}, self._size)
            for output, moments in self._device.moments().items():
                self._sums[output].absorb(moments)

    def moments(self) -> dict[str, Moments]:
        """Return the statistics of every layer that could be measured."""
        self._fetch()
        return {output: sums.moments() for output, sums in self._sums.items() if output not in self.unmeasured}

    def squares(self) -> dict[str, Floats]:
        """Return the sums of the mean squares of what each layer reads, [C of its input], if they are measured."""
        return {output: found.copy() for output, found in self._squares.sums.items() if output not in self.unmeasured}

    def states(self) -> dict[str, tuple[Moments, Array]]:
        """Return every layer's folded statistics and waiting rows, for a checkpoint."""
        self._fetch()
        return {output: sums.state() for output, sums in self._sums.items()}

    def restore(self, found: Checkpoint) -> bool:
        """Go on from a checkpoint; False when it is of other layers."""
        if {name: one.channels for name, one in found.stats.moments.items()} != {
            output: traced.layer.channels for output, traced in self._layers.items()
        }:
            return False
        for output, sums in self._sums.items():
            sums.restore(found.stats.moments[output], found.waiting[output])
        self._squares.restore(found.stats.squares)
        self.unmeasured.update(found.unmeasured or {})
        return True


def _too_wide(traced: Traced) -> Reason:
    return Reason(
        f"has {traced.layer.channels:,} channels, more than the {WIDEST:,} that are measured", traced.layer.node
    )
