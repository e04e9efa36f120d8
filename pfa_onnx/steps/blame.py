"""Where a number was lost: the first layer, in the order of the graph, that gives NaN or infinity, and the sample.

A maximum passes over NaN, and so may an activation: the response that is found to be no number may be that of a later
layer. The model runs once more on the batch where that happened.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pfa_onnx.errors import DataError, ModelError
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.taps import checked
from pfa_onnx.graph.trace import Traced
from pfa_onnx.stats.covariance import LOOK, NoNumberError
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import run_padded
from pfa_onnx.steps.serialized import load_runner


def blamed(error: NoNumberError, graph: Graph, layers: Sequence[Traced], batch: Batch, size: int) -> DataError:
    """Return the error of the layer and the sample where it begins; the one that was found, where that is not known."""
    proto, taps = checked(graph, layers)
    try:
        found = run_padded(load_runner(proto, graph, "cpu"), batch, list(taps.values()), size)
    except ModelError:
        return error
    for traced in layers:
        rows = found[taps[traced.layer.output]]
        odd = np.argwhere(np.isnan(rows)).tolist() if rows.ndim == 2 and rows.dtype.kind == "f" else []
        if odd:
            row, channel = odd[0]
            sample = batch.names[row * batch.count // len(rows)]
            what = f"a response is NaN or infinite (channel {channel}, for sample {sample})"
            return DataError(what, at=traced.layer.node, fix=LOOK)
    return error
