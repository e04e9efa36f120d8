"""Step 4: two models on the same data - what the smaller one is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.results import Changed, CheckReport, DataInfo, Gate
from pfa_onnx.stats.compare import Comparison, Metrics
from pfa_onnx.stats.data import Batch, Dataset
from pfa_onnx.stats.latency import Latency, paired_latency
from pfa_onnx.stats.session import Runner, batch_size_for, prefetch, run_padded
from pfa_onnx.steps.embedded import embedded_repair
from pfa_onnx.steps.measure import describe_model, learn_shapes, open_dataset, prepared_by

# gate -> (metric, whether it is a minimum)
GATES = {
    "min_agreement": ("agreement", True),
    "min_cosine": ("cosine_min", True),
    "max_params": ("params_ratio", False),
    "max_macs": ("macs_ratio", False),
    "max_latency": ("latency_ratio", False),
}


def compare(
    original: Path, pruned: Path, options: DataOptions, gates: Mapping[str, float], hooks: Hooks, *, latency: bool
) -> CheckReport:
    """Run both models on all samples; raises ModelError when they do not take the same inputs."""
    one, other = load(original), load(pruned)
    _require_same_interface(one, other)
    dataset = open_dataset(one, options)
    size = batch_size_for(one.inputs, options.batch_size, options.providers)
    runners = (
        Runner(original, providers=options.providers),
        Runner(pruned, providers=options.providers),
    )
    first, metrics, seen = _run(dataset, runners, size, hooks)
    timed = _timed(runners, first, size) if latency else None
    provider = runners[0].provider
    del runners  # learning the shapes loads each model once more
    before = describe_model(one, *learn_shapes(one, first.feeds))
    after = describe_model(other, *learn_shapes(other, first.feeds))
    values: dict[str, float | None] = {
        "agreement": metrics.agreement,
        "cosine_min": metrics.cosine_min,
        "cosine_mean": metrics.cosine_mean,
        "max_abs_error": metrics.max_abs_error,
        "params_ratio": _ratio(after.size.params, before.size.params),
        "macs_ratio": _ratio(after.size.macs, before.size.macs),
        "bytes_ratio": _ratio(after.size.bytes, before.size.bytes),
        "latency_ratio": None if timed is None else timed.ratio,
        "accuracy_original": metrics.accuracy_original,
        "accuracy_pruned": metrics.accuracy_pruned,
    }
    info = DataInfo(dataset.source, seen, prepared_by(dataset), provider, size, tuple(dataset.skipped))
    return CheckReport(
        original=before,
        pruned=after,
        data=info,
        metrics=values,
        latency_ms=None if timed is None else (timed.original_ms, timed.pruned_ms),
        outputs={name: dict(vars(output)) for name, output in metrics.per_output.items()},
        gates=tuple(_gate(name, limit, values) for name, limit in gates.items()),
        repair=embedded_repair(other),
        changed=tuple(Changed(c.name, c.before, c.after) for c in metrics.changed),
    )


def _timed(runners: tuple[Runner, Runner], batch: Batch, size: int) -> Latency:
    one, other = runners
    return paired_latency(lambda: run_padded(one, batch, None, size), lambda: run_padded(other, batch, None, size))


def _run(dataset: Dataset, runners: tuple[Runner, Runner], size: int, hooks: Hooks) -> tuple[Batch, Metrics, int]:
    comparison = Comparison(dataset.classes)
    first: Batch | None = None
    seen = 0
    for batch in prefetch(dataset.batches(size)):
        first = first or batch
        found = [run_padded(runner, batch, None, size) for runner in runners]
        comparison.add(found[0], found[1], batch.names, batch.labels)
        seen += batch.count
        hooks.progress("compare", seen, dataset.count)
    if first is None:
        raise UsageError("there are no samples to compare on", at=dataset.source, fix="give --data some inputs")
    for name, why in dataset.skipped:
        hooks.warn(f"input skipped: {name} ({why})")
    return first, comparison.result(), seen


def _gate(name: str, limit: float, values: Mapping[str, Any]) -> Gate:
    metric, minimum = GATES[name]
    value = values[metric]
    if value is None or not np.isfinite(value):
        return Gate(metric, value, limit, passed=False)
    return Gate(metric, value, limit, passed=value >= limit if minimum else value <= limit)


def _ratio(after: int, before: int) -> float | None:
    return after / before if before else None


def _require_same_interface(one: Graph, other: Graph) -> None:
    names = [sorted(spec.name for spec in graph.inputs) for graph in (one, other)]
    if names[0] != names[1]:
        raise ModelError(
            f"the models take different inputs: {', '.join(names[0])} and {', '.join(names[1])}",
            at=str(other.path),
            fix="compare a model with its own pruned version",
        )
    if set(one.outputs) != set(other.outputs):
        raise ModelError(
            f"the models have different outputs: {', '.join(one.outputs)} and {', '.join(other.outputs)}",
            at=str(other.path),
            fix="compare a model with its own pruned version",
        )
