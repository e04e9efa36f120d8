"""Step 4: two models on the same data - what the smaller one is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.recipe import Size
from pfa_onnx.results import Changed, CheckReport, DataInfo, Gate
from pfa_onnx.stats.compare import Comparison, Metrics
from pfa_onnx.stats.data import Batch, Dataset
from pfa_onnx.stats.latency import Latency, paired_latency
from pfa_onnx.stats.session import Runner, batch_size_for, prefetch, run_padded
from pfa_onnx.steps.embedded import embedded_repair
from pfa_onnx.steps.measure import describe_model, learn_shapes, open_dataset, prepared_by
from pfa_onnx.steps.pictures import Gallery

# gate -> (metric, whether it is a minimum)
GATES = {
    "min_agreement": ("agreement", True),
    "min_cosine": ("cosine_min", True),
    "max_params": ("params_ratio", False),
    "max_macs": ("macs_ratio", False),
    "max_latency": ("latency_ratio", False),
}


def compare(
    original: Path,
    pruned: Path,
    options: DataOptions,
    gates: Mapping[str, float],
    hooks: Hooks,
    *,
    latency: bool,
    pictures: int = 0,
) -> CheckReport:
    """Run both models on all samples; raises ModelError when they do not take the same inputs.

    pictures: of how many changed samples to keep one.
    """
    one, other = load(original), load(pruned)
    require_same_interface(one, other)
    dataset = open_dataset(one, options)
    size = batch_size_for(one.inputs, options.batch_size, options.providers)
    runners = [Runner(path, providers=options.providers) for path in (original, pruned)]
    gallery = Gallery(pictures, prepared_by(dataset))
    first, (comparison,), seen = run_all(dataset, runners, size, hooks, gallery.add)
    metrics = comparison.result()
    timed = paired(runners[0], runners[1], first, size) if latency else None
    provider = runners[0].provider
    del runners  # learning the shapes loads each model once more
    before = describe_model(one, *learn_shapes(one, first.feeds))
    after = describe_model(other, *learn_shapes(other, first.feeds))
    values = all_metrics(metrics, before.size, after.size, timed)
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
        pictures=gallery.pictures(comparison.answers()) if pictures else (),
    )


def paired(one: Runner, other: Runner, batch: Batch, size: int, *, repeats: int = 20, seconds: float = 60.0) -> Latency:
    """Time two models on one batch; repeats, seconds: as in `paired_latency`."""
    return paired_latency(
        lambda: run_padded(one, batch, None, size),
        lambda: run_padded(other, batch, None, size),
        repeats=repeats,
        max_seconds=seconds,
    )


def run_all(
    dataset: Dataset,
    runners: Sequence[Runner],
    size: int,
    hooks: Hooks,
    watch: Callable[[Batch, Sequence[int]], None] = lambda *_: None,
) -> tuple[Batch, list[Comparison], int]:
    """Run the first model and the others on all samples.

    watch: shown every batch, and where in it the predictions of the first model and another differ.

    Returns the first batch, how each of the others compares with the first, and the number of samples; raises
    UsageError where there are none.
    """
    comparisons = [Comparison(dataset.classes) for _ in runners[1:]]
    first: Batch | None = None
    seen = 0
    for batch in prefetch(dataset.batches(size)):
        first = first or batch
        original = run_padded(runners[0], batch, None, size)
        for runner, comparison in zip(runners[1:], comparisons, strict=True):
            watch(batch, comparison.add(original, run_padded(runner, batch, None, size), batch.names, batch.labels))
        seen += batch.count
        hooks.progress("compare", seen, dataset.count)
    if first is None:
        raise UsageError("there are no samples to compare on", at=dataset.source, fix="give --data some inputs")
    for name, why in dataset.skipped:
        hooks.warn(f"input skipped: {name} ({why})")
    return first, comparisons, seen


def all_metrics(found: Metrics, before: Size, after: Size, timed: Latency | None) -> dict[str, float | None]:
    """Return what is said of a model beside its original: how close its answers are, and what it costs."""
    return {
        "agreement": found.agreement,
        "cosine_min": found.cosine_min,
        "cosine_mean": found.cosine_mean,
        "max_abs_error": found.max_abs_error,
        "params_ratio": _ratio(after.params, before.params),
        "macs_ratio": _ratio(after.macs, before.macs),
        "bytes_ratio": _ratio(after.bytes, before.bytes),
        "latency_ratio": None if timed is None else timed.ratio,
        "accuracy_original": found.accuracy_original,
        "accuracy_pruned": found.accuracy_pruned,
    }


def _gate(name: str, limit: float, values: Mapping[str, Any]) -> Gate:
    metric, minimum = GATES[name]
    value = values[metric]
    if value is None or not np.isfinite(value):
        return Gate(metric, value, limit, passed=False)
    return Gate(metric, value, limit, passed=value >= limit if minimum else value <= limit)


def _ratio(after: int, before: int) -> float | None:
    return after / before if before else None


def require_same_interface(one: Graph, other: Graph) -> None:
    """Raise ModelError where two models cannot be run on the same inputs and compared output by output."""
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
