"""Which operators pool fastest on a GPU: a fact about its libraries, so it is measured, once for every shape.

A maximum is exact in any order: whatever is chosen here changes no number. On the CPU there is nothing to choose, its
global pooling runs on the blocked layout.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.taps import TILE, Pooling, pool_nodes
from pfa_onnx.graph.trace import Traced
from pfa_onnx.stats.session import Providers, Runner

OPSET = 17
ROUNDS = 5  # of which the fastest counts; one more warms up
SMALL = 4 * TILE  # on a side: below, there is nothing to tile


def fastest_poolings(layers: Sequence[Traced], samples: int, providers: Providers) -> dict[str, Pooling]:
    """Return by which operators to pool each layer's output; layers that can be pooled in one way only are left out.

    samples: of a batch, over those that the shapes are of.
    """
    shapes = {t.layer.output: (t.shape[0] * samples, *t.shape[1:]) for t in layers if t.axis == 1 and len(t.shape) > 2}
    best = {shape: _fastest(shape, providers) for shape in dict.fromkeys(shapes.values())}
    return {output: best[shape] for output, shape in shapes.items()}


def _fastest(shape: tuple[int, ...], providers: Providers) -> Pooling:
    ways: list[Pooling] = ["global", "reduce"]
    if len(shape) == 4 and min(shape[2:]) >= SMALL:
        ways.append("tiled")
    return min(ways, key=lambda way: _seconds(shape, way, providers))


def _seconds(shape: tuple[int, ...], way: Pooling, providers: Providers) -> float:
    """Return how long one pooling takes where the model would run; forever, if it does not run there."""
    try:
        runner = Runner(_model(shape, way).SerializeToString(), providers=providers)
        values = runner.upload({"x": np.zeros(shape, np.float32)})
        times = []
        for _ in range(1 + ROUNDS):
            start = time.perf_counter()
            runner.run_there(values)
            times.append(time.perf_counter() - start)
    except ModelError:
        return float("inf")
    return min(times[1:])


def _model(shape: tuple[int, ...], way: Pooling) -> onnx.ModelProto:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(pool_nodes("x", "y", len(shape), 1, OPSET, pooling=way), "pool", [source], [result])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", OPSET)])
