"""Residual sums: where layers that share channels are added up, so that the sum may answer for all of them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.recipe import Ints, Layer

_SUMS = {"Add", "Sum"}


def residual_sums(trace: Trace, only: Collection[str] | None = None) -> tuple[Traced, ...]:
    """Return the sums of activations that add up two layers' channels or more, in execution order, as if layers.

    only: names of tensors, of which the others are left out.
    """
    found = []
    for index, node in enumerate(trace.graph.nodes):
        name = str(node.outputs[0].name) if node.outputs else ""
        if node.op_type in _SUMS and name in trace.marks and (only is None or name in only):
            traced = _sum(trace, node, index, name)
            if traced is not None:
                found.append(traced)
    return tuple(found)


def _sum(trace: Trace, node: ir.Node, index: int, name: str) -> Traced | None:
    mark = trace.marks[name]
    axes = mark.axes
    if len(axes) != 1 or axes[0] == 0 or mark.shape != trace.shapes.get(name):
        return None
    labels = mark.vector(axes[0])
    added = [v for v in node.inputs if v is not None and _carries(trace, v, labels)]
    makers = [t for t in trace.layers if np.isin(t.layer.labels, labels).any()]
    free = any(label > 0 and label not in trace.frozen for label in labels.tolist())
    if len(added) < 2 or len(makers) < 2 or not free:
        return None
    layer = Layer(name, str(node.name or name), node.op_type, "", labels)
    return Traced(layer, axes[0], (index, 0), mark.shape)


def _carries(trace: Trace, value: ir.Value, labels: Ints) -> bool:
    mark = trace.marks.get(str(value.name))
    return mark is not None and not trace.graph.is_constant(value) and bool(np.isin(labels, mark.ids).all())
