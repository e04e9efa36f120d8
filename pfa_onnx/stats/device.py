"""Streaming covariance on the device: responses never leave it, and the host is never waited for.

A fast GPU gives responses faster than a host core multiplies them in float64: ResNet-50 asks for 29 million
multiply-adds an image. Here the product is a graph of its own, run by the same provider on responses that stay where
they were made. It is float64 there too, and centred on the mean of a first batch, so that nothing cancels: its sums
differ from the host's in the last bits only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import ModelError
from pfa_onnx.responses import Pool
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.session import Providers, Runner, Values

if TYPE_CHECKING:
    import onnx

    from pfa_onnx.recipe import Floats

Array = npt.NDArray[Any]

QUEUE = 16  # batches that are multiplied at once: launching kernels for each of them would cost more than they do
CHUNK = 1 << 26  # numbers of m2 that one run replaces: old and new are there together


@dataclass(frozen=True, eq=False)
class Stream:
    """What every batch brings of one layer.

    rows: how many, a multiple of the samples; origin: [C], near the mean; pool: what becomes of the rows of one sample.
    """

    rows: int
    dtype: npt.DTypeLike
    origin: Floats
    pool: Pool = "max"


class DeviceSums:
    """The sums of full batches of responses, by layer, where the model runs.

    What does not fill a queue, and what the device has no room for, is left to the caller: `take` and `rest` return it.
    """

    def __init__(self, streams: Mapping[str, Stream], samples: int, providers: Providers) -> None:
        """Start with no rows. samples: of a full batch; each becomes one row, unless its positions are samples."""
        self._queue: list[Values] = []
        self._chunks = [_Chunk(dict(part), samples, providers) for part in _chunks(streams)]

    def take(self, responses: Values) -> list[tuple[str, Array]]:
        """Take in a full batch's responses [rows, C] by layer; return those that must be added up elsewhere."""
        self._queue.append(responses)
        if len(self._queue) < QUEUE:
            return []
        queue, self._queue = self._queue, []
        refused = [chunk for chunk in self._chunks if not chunk.fold(queue)]
        return [(layer, one[layer].numpy()) for chunk in refused for layer in chunk.streams for one in queue]

    def rest(self) -> list[tuple[str, Array]]:
        """Return, and forget, the responses that wait."""
        queue, self._queue = self._queue, []
        return [(layer, value.numpy()) for one in queue for layer, value in one.items()]

    def moments(self) -> dict[str, Moments]:
        """Return, and forget, the moments of all rows that were added up here: responses that wait are not."""
        return {layer: found for chunk in self._chunks for layer, found in chunk.moments().items()}


@dataclass(eq=False)
class _Chunk:
    """Layers whose sums one run replaces."""

    streams: dict[str, Stream]
    samples: int
    providers: Providers
    runner: Runner | None = None
    sums: Values = field(default_factory=dict)
    batches: int = 0
    full: bool = False  # the device has no room: the host takes over

    def fold(self, queue: Sequence[Values]) -> bool:
        """Add the rows of some batches; False, with nothing added, when the device cannot."""
        if self.full:
            return False
        try:
            if self.runner is None:
                self.runner = Runner(_adder(self.streams, self.samples).SerializeToString(), providers=self.providers)
            if not self.sums:
                self.sums = self.runner.upload(_zeros(self.streams))
            rows = {f"{layer}/{k}": one[layer] for k, one in enumerate(queue) for layer in self.streams}
            found = self.runner.run_there({**rows, **self.sums})
        except ModelError:
            self.full = True
            return False
        self.sums = {name.removesuffix("/new"): value for name, value in found.items()}
        self.batches += len(queue)
        return True

    def moments(self) -> dict[str, Moments]:
        """Return the moments, by layer, and forget them."""
        sums, self.sums = self.sums, {}
        batches, self.batches = self.batches, 0
        if not batches:
            return {}
        found = {}
        for layer, stream in self.streams.items():
            count = batches * (stream.rows if stream.pool == "positions" else self.samples)
            total, squares = sums.pop(f"{layer}/sum").numpy(), sums.pop(f"{layer}/m2").numpy()
            found[layer] = _moments(count, stream.origin, total, squares)
        return found


def _moments(count: int, origin: Floats, total: Floats, squares: Floats) -> Moments:
    """Return the moments of rows whose deviations from an origin, and their products, have these sums."""
    drift = total / count
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused by whoever takes the moments
        m2 = squares - np.outer(drift, total)
        m2 += m2.T.copy()  # a product is symmetric up to rounding only
    m2 *= 0.5
    return Moments(count, origin + drift, m2)


def _chunks(streams: Mapping[str, Stream]) -> list[list[tuple[str, Stream]]]:
    """Return the layers in parts whose m2 have at most CHUNK numbers, or one layer."""
    parts: list[list[tuple[str, Stream]]] = []
    size = CHUNK + 1
    for item in streams.items():
        numbers = len(item[1].origin) ** 2
        if size + numbers > CHUNK:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += numbers
    return parts


def _zeros(streams: Mapping[str, Stream]) -> dict[str, Array]:
    widths = {layer: len(stream.origin) for layer, stream in streams.items()}
    return {f"{layer}/sum": np.zeros(width) for layer, width in widths.items()} | {
        f"{layer}/m2": np.zeros((width, width)) for layer, width in widths.items()
    }


def _adder(streams: Mapping[str, Stream], samples: int) -> onnx.ModelProto:
    """Return the model that adds QUEUE batches: LAYER/0 to LAYER/15, LAYER/sum and LAYER/m2 in, LAYER/sum/new ... out.

    Rows that belong to one sample (windows, crops) are pooled too, as the host does.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    nodes, inputs, outputs, constants = [], [], [], []
    for layer, stream in streams.items():
        width = len(stream.origin)
        names = [f"{layer}/{k}" for k in range(QUEUE)]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(stream.dtype))
        inputs += [helper.make_tensor_value_info(name, kind, [stream.rows, width]) for name in names]
        for name, shape in ((f"{layer}/sum", [width]), (f"{layer}/m2", [width, width])):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape))
            outputs.append(helper.make_tensor_value_info(f"{name}/new", TensorProto.DOUBLE, shape))
        constants.append(numpy_helper.from_array(np.asarray(stream.origin, np.float64), f"{layer}/origin"))
        nodes.append(helper.make_node("Concat", names, [f"{layer}/all"], axis=0))
        pooled = f"{layer}/all"
        if stream.rows != samples and stream.pool != "positions":
            grouped = np.array([QUEUE * samples, -1, width], np.int64)
            constants.append(numpy_helper.from_array(grouped, f"{layer}/shape"))
            nodes.append(helper.make_node("Reshape", [pooled, f"{layer}/shape"], [f"{layer}/grouped"]))
            pooled = f"{layer}/pooled"
            pool = "ReduceMean" if stream.pool == "mean" else "ReduceMax"
            nodes.append(helper.make_node(pool, [f"{layer}/grouped"], [pooled], axes=[1], keepdims=0))
        if kind == TensorProto.FLOAT:
            # of a map of nothing but NaN, a maximum pool gives the lowest number there is: twice that is infinite
            nodes.append(helper.make_node("Add", [pooled, pooled], [f"{layer}/twice"]))
            nodes.append(helper.make_node("Mul", [f"{layer}/twice", "half"], [f"{layer}/once"]))
            pooled = f"{layer}/once"
        nodes += [
            helper.make_node("Cast", [pooled], [f"{layer}/wide"], to=TensorProto.DOUBLE),
            helper.make_node("Sub", [f"{layer}/wide", f"{layer}/origin"], [f"{layer}/off"]),
            helper.make_node("Gemm", [f"{layer}/off", f"{layer}/off", f"{layer}/m2"], [f"{layer}/m2/new"], transA=1),
            helper.make_node("ReduceSum", [f"{layer}/off", "first"], [f"{layer}/more"], keepdims=0),
            helper.make_node("Add", [f"{layer}/sum", f"{layer}/more"], [f"{layer}/sum/new"]),
        ]
    constants.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    constants.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    graph = helper.make_graph(nodes, "sums", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
