"""What of a model could go, and why the rest could not: of the graph alone, without data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.graph.folded import batch_norms
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.graph.plan import removable, settle
from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.inspection import BatchNorms, InspectedInput, InspectedLayer, Inspection
from pfa_onnx.options import Hooks
from pfa_onnx.stats.imageplan import fit
from pfa_onnx.stats.preprocess import make_preprocess
from pfa_onnx.steps.measure import describe_model, find_layers, report_refused
from pfa_onnx.steps.shapes import Learned, extents, without_data

Found = TypeVar("Found")

_OUTPUT = "is the graph output"  # how the reason of a channel that is one begins


def inspect_model(
    model: Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    through_norm: bool = False,
    hooks: Hooks | None = None,
) -> Inspection:
    """Load the model, learn its shapes from nothing, and settle what may go: no data is read, nothing is written.

    shapes: of inputs whose extents the file leaves open, by name; "" is the only one. through_norm: as in
    `PlanOptions`. Raises ModelError where there is no layer, or the model does not run; UsageError for other shapes.
    """
    hooks = hooks or Hooks()
    seconds: dict[str, float] = {}
    graph = _timed(seconds, "load", lambda: load(model))
    learned = _timed(seconds, "shapes", lambda: without_data(graph, shapes))
    find_layers(graph, learned.shapes)  # or it raises
    report_refused(graph, hooks)
    hooks.progress("settle", 0, None)
    trace = _timed(seconds, "settle", lambda: settle(graph, learned.shapes, through_norm=through_norm))
    wider = None
    if not through_norm and _asks_for_through_norm(trace):
        wider = _timed(seconds, "settle", lambda: _free(settle(graph, learned.shapes, through_norm=True)))
        wider = None if wider == _free(trace) else wider
    return Inspection(
        model=describe_model(graph, learned.shapes, learned.samples),
        inputs=_inputs(graph, learned),
        layers=tuple(_layer(trace, traced) for traced in trace.layers),
        batch_norms=BatchNorms(*batch_norms(graph)),
        pictures=_takes_pictures(graph),
        through_norm=through_norm,
        wider=wider,
        timings=seconds,
    )


def _timed(seconds: dict[str, float], phase: str, work: Callable[[], Found]) -> Found:
    start = time.perf_counter()
    found = work()
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
    return found


def _inputs(graph: Graph, learned: Learned) -> tuple[InspectedInput, ...]:
    declared = extents(graph)
    return tuple(
        InspectedInput(spec.name, declared[spec.name], str(spec.dtype), learned.taken[spec.name])
        for spec in graph.inputs
    )


def _layer(trace: Trace, traced: Traced) -> InspectedLayer:
    layer, graph = traced.layer, trace.graph
    value = graph.nodes[traced.use[0]].inputs[traced.use[1]]
    assert value is not None
    reasons = [trace.frozen.get(label, ()) for label in layer.labels.tolist()]
    return InspectedLayer(
        output=layer.output,
        node=layer.node,
        op=layer.op,
        weight=layer.weight,
        channels=layer.channels,
        group=layer.group,
        frozen=tuple(dict.fromkeys(one for why in reasons for one in why)),
        held=sum(bool(why) for why in reasons),
        outputs=sum(any(one.reason.startswith(_OUTPUT) for one in why) for why in reasons),
        weight_params=int(np.prod(graph.shape_of(value, dict(trace.shapes)))),
    )


def _asks_for_through_norm(trace: Trace) -> bool:
    labels = {label for traced in trace.layers for label in traced.layer.labels.tolist()}
    return any("--through-norm" in one.reason for label in labels for one in trace.frozen.get(label, ()))


def _free(trace: Trace) -> int:
    may_go = removable(trace)
    return sum(int(np.isin(traced.layer.labels, may_go).sum()) for traced in trace.layers)


def _takes_pictures(graph: Graph) -> bool:
    """Whether a folder of images can be the data, as the defaults have it; a size may have to be said."""
    if len(graph.inputs) != 1:
        return False
    try:
        fit(make_preprocess("auto"), graph.inputs[0])
    except DataError:
        return False
    except UsageError:
        return True
    return True
