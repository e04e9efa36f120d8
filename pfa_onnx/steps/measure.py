"""Step 1: run the model over the data once, and learn every shape and every layer's statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.errors import DataError, ModelError, StatsError, UsageError
from pfa_onnx.graph.cost import macs, parameters
from pfa_onnx.graph.dtypes import computed_in
from pfa_onnx.graph.model import Graph, files_size
from pfa_onnx.graph.norms import operands_of
from pfa_onnx.graph.ops.refusals import way_out
from pfa_onnx.graph.streams import residual_sums
from pfa_onnx.graph.trace import Traced, Tracer
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.printable import in_one_line
from pfa_onnx.recipe import Reason, Size
from pfa_onnx.responses import Responses
from pfa_onnx.results import DataInfo, ModelInfo
from pfa_onnx.stats.data import Batch, Dataset, open_data, require_two
from pfa_onnx.stats.parts import WHOLE
from pfa_onnx.stats.pfa import spectra
from pfa_onnx.stats.preprocess import make_preprocess
from pfa_onnx.stats.session import batch_size_for, fixed_batch, prefetch
from pfa_onnx.stats.statsfile import StatsFile, load_stats, save_stats
from pfa_onnx.stats.store import Each, in_threads
from pfa_onnx.steps.calibration import Calibration
from pfa_onnx.steps.onepass import OnePass, keep
from pfa_onnx.steps.resume import (
    Checkpoints,
    refuse_other,
    refuse_other_channels,
    refuse_other_responses,
    refuse_unfit,
)
from pfa_onnx.steps.shapes import shape_learner, without_data

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """What one pass over the data measured.

    shapes: of every tensor, in a run on `probed` samples. unmeasured: layers without a usable response, and why.
    """

    graph: Graph
    shapes: dict[str, tuple[int, ...]]
    probed: int
    layers: tuple[Traced, ...]
    unmeasured: Mapping[str, Reason]
    stats: StatsFile
    data: DataInfo | None


def measure(graph: Graph, options: DataOptions, hooks: Hooks, checkpoints: Checkpoints | None = None) -> Measured:
    """Calibrate: one inference pass, every layer's response pooled in the graph (paper, section 3.1).

    checkpoints: where to save it from time to time, and perhaps to go on from.
    """
    dataset = open_dataset(graph, options)
    size = batch_size_for(graph.inputs, options.batch_size, options.providers)
    before = checkpoints.load() if checkpoints else None
    batches = dataset.batches(size, before.position if before else 0)
    first = next(batches, None)
    if before and checkpoints:  # only now: a stream knows itself from its first sample on
        refuse_other(before.stats, graph, dataset, prepared_by(dataset), options.responses, at=checkpoints.path)
        refuse_unfit(before.stats, graph, checkpoints.path)
    if first is None and before is None:
        raise DataError("there are no samples", at=dataset.source, fix="give --data some inputs")
    kept = before.stats.inputs if before else {} if first is None else keep(first)
    shapes, probed = learn_shapes(graph, kept)
    layers = find_layers(graph, shapes)
    report_refused(graph, hooks)
    operands = operands_of(graph, layers, shapes) if options.responses.inputs else {}
    sums = find_sums(graph, shapes) if options.responses.sums else ()
    calibration = Calibration(graph, (*layers, *sums), options, size, probed=probed, operands=operands)
    if calibration.without_cuda:
        hooks.warn(f"CUDA does not start ({calibration.without_cuda}); the CPU runs the model")
    run = OnePass(graph, dataset, calibration, kept, prepared_by(dataset), before=before)
    if before and checkpoints and not calibration.restore(before):
        raise StatsError("the checkpoint is of other layers", at=str(checkpoints.path), fix="leave --resume out")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for ready in prefetch(calibration.prepare(batch) for batch in _chain(first, batches)):
                run.take(ready)
                hooks.progress("calibrate", run.seen, dataset.count)
                if checkpoints and checkpoints.due:
                    checkpoints.save(run.checkpoint())
    except KeyboardInterrupt:
        if checkpoints:
            checkpoints.interrupted(hooks)
        raise
    skipped = run.skipped()
    report_skipped(skipped, hooks)
    if options.shard == WHOLE:
        require_two(dataset, run.seen)
    stats = run.stats(calibration.moments(), calibration.squares())
    info = DataInfo(dataset.source, run.seen, stats.preprocess, calibration.provider, size, skipped)
    return Measured(graph, shapes, probed, layers, calibration.unmeasured, stats, info)


def measure_or_recall(
    graph: Graph, data: DataOptions, stats: Path | None, hooks: Hooks, save: Path | None, *, resume: bool
) -> Measured:
    """Measure, or take what was measured before; save it, and on the way there save what there is."""
    checkpoints = None
    if stats is not None:
        measured = recall(graph, stats, data.responses)
    elif data.ray is not None:
        from pfa_onnx.steps.cluster import measure_on_ray  # noqa: PLC0415 - an extra

        measured = measure_on_ray(graph, data, hooks, data.ray)
    else:
        checkpoints = Checkpoints(save, resume=resume) if save is not None else None
        if (
            save is not None
            and checkpoints
            and resume
            and not checkpoints.path.exists()
            and finished(save, graph, data)
        ):
            return recall(graph, save)
        measured = measure(graph, data, hooks, checkpoints)
    if save is not None:
        if data.shard == WHOLE:  # a shard's own are of no use
            measured = with_eigenvalues(measured, hooks)
        save_stats(save, measured.stats)
    if checkpoints:
        checkpoints.done()
    return measured


def finished(target: Path, graph: Graph, options: DataOptions) -> bool:
    """Whether an earlier run finished these very statistics; raises StatsError when they are of something else."""
    if not target.exists():
        return False
    dataset = open_dataset(graph, options)
    next(dataset.batches(1), None)  # a stream knows itself from its first sample on
    refuse_other(load_stats(target), graph, dataset, prepared_by(dataset), options.responses, at=target)
    return True


def recall(graph: Graph, path: Path, responses: Responses | None = None) -> Measured:
    """Take the statistics from a file instead; only the shapes are learned, from an input that it keeps.

    responses: what must have been measured; None where nothing is decided.
    """
    stats = load_stats(path)
    if stats.model_sha256 != graph.sha256:
        raise StatsError(
            f"{path.name} was measured on a different model "
            f"(sha256 {stats.model_sha256[:8]}..., this one is {graph.sha256[:8]}...)",
            at=str(path),
            fix=f"run `pfa-onnx analyze {graph.path} --data DATA --save-stats {path}` again",
        )
    if responses is not None:
        refuse_other_responses(stats, responses, path)
    refuse_unfit(stats, graph, path)
    shapes, probed = learn_shapes(graph, stats.inputs)
    layers = find_layers(graph, shapes)
    read = {output: one.shape[one.axis] for output, one in operands_of(graph, layers, shapes).items()}
    refuse_other_channels(stats, [traced.layer for traced in layers], read, path)
    unmeasured = {t.layer.output: _without_samples(t) for t in layers if t.layer.output not in stats.moments}
    info = DataInfo(stats.source, stats.samples, stats.preprocess, stats.provider, 0)
    return Measured(graph, shapes, probed, layers, unmeasured, stats, info)


def with_eigenvalues(measured: Measured, hooks: Hooks) -> Measured:
    """Return what was measured with the eigenvalues of every layer: the arithmetic that takes longest."""
    stats = measured.stats
    if stats.eigenvalues:
        return measured
    found = spectra(stats.moments, lambda count: hooks.progress("spectra", count, len(stats.moments)))
    eigenvalues = {output: one.eigenvalues for output, one in found.items()}
    return replace(measured, stats=replace(stats, eigenvalues=eigenvalues))


def without_covariances(measured: Measured) -> Measured:
    """Return what was measured less what only the decision needs: of linear layers, it takes more than the weights."""
    none = np.empty((0, 0))
    moments = {output: replace(found, m2=none) for output, found in measured.stats.moments.items()}
    return replace(measured, stats=replace(measured.stats, moments=moments))


def glimpse(graph: Graph, options: DataOptions, hooks: Hooks) -> Measured:
    """Look at a few inputs only: enough to replay a recipe and to prove it.

    Without any data the shapes are learned from zeros; nothing is measured or proven with them.
    """
    if options.data is None:
        learned = without_data(graph)
        shapes, probed, info = learned.shapes, learned.samples, None
        kept: dict[str, Array] = {}
    else:
        dataset = open_dataset(graph, options)
        size = batch_size_for(graph.inputs, options.batch_size, options.providers)
        first = next(dataset.batches(size), None)
        if first is None:
            raise DataError("there are no samples", at=dataset.source, fix="give --data some inputs")
        report_skipped(dataset.skipped, hooks)
        kept = keep(first)
        info = DataInfo(dataset.source, len(next(iter(kept.values()))), prepared_by(dataset), "cpu", size)
        shapes, probed = learn_shapes(graph, kept)
    stats = StatsFile(graph.sha256, "", 0, "cpu", {}, kept, {})
    return Measured(graph, shapes, probed, find_layers(graph, shapes), {}, stats, info)


def open_dataset(graph: Graph, options: DataOptions, each: Each = in_threads) -> Dataset:
    """Open the data for this model; data is never invented. each: as in `open_data`."""
    if options.data is None:
        raise UsageError(
            "no data: PFA measures the model on real inputs, and none are ever invented",
            at="--data",
            fix="add --data FOLDER_OF_IMAGES, FILE.npz or loader.py:function",
        )
    chosen = options.preprocess
    if isinstance(chosen, str | Path) or options.overrides:
        chosen = make_preprocess(str(chosen), **options.overrides)
    given = options.data
    return open_data(given, graph.inputs, preprocess=chosen, limit=options.limit, shard=options.shard, each=each)


def prepared_by(dataset: Dataset) -> dict[str, Any]:
    """Return how inputs were made, as plain values; nothing for arrays, which come as they are."""
    return dict(dataset.describe().get("preprocess", {}))


def learn_shapes(graph: Graph, inputs: Mapping[str, Array]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Learn the concrete shape of every tensor from a real sample; they are never written to a file."""
    count = fixed_batch(graph.inputs) or 1
    try:
        return shape_learner(graph)({name: _rows(array, count) for name, array in inputs.items()}), count
    except ModelError as error:
        if ir.DataType.BFLOAT16 not in computed_in(graph):
            raise
        fix = "export it in float32: onnxruntime computes little in bfloat16, and on the CPU next to nothing"
        raise ModelError(error.what, at=error.at, fix=fix) from error


def find_layers(graph: Graph, shapes: dict[str, tuple[int, ...]]) -> tuple[Traced, ...]:
    """Return the model's layers, in graph order.

    Raises ModelError where there are none: an empty report would look as if everything had been looked at.
    """
    tracer = Tracer(graph, shapes)
    tracer.run()
    layers = tracer.finish().layers
    if not layers:
        raise _no_layers(graph)
    return layers


def find_sums(graph: Graph, shapes: dict[str, tuple[int, ...]]) -> tuple[Traced, ...]:
    """Return the sums of residual streams, which are measured like layers."""
    tracer = Tracer(graph, shapes)
    tracer.run()
    return residual_sums(tracer.finish())


def _no_layers(graph: Graph) -> ModelError:
    found = way_out(graph)
    if found is None:
        what, fix = "it has no Conv, Gemm or MatMul with a constant weight", "export the model with its weights inside"
    else:
        kinds, names, fix = found
        what = f"all it computes with are {kinds} ({names})"
    return ModelError(f"there is no layer to prune: {what}", at=str(graph.path), fix=fix)


def describe_model(graph: Graph, shapes: Mapping[str, tuple[int, ...]], samples: int) -> ModelInfo:
    """Say what a model is and costs."""
    size = Size(parameters(graph), macs(graph, shapes, samples), files_size(graph))
    return ModelInfo(str(graph.path), graph.sha256, graph.opset, size)


def _without_samples(traced: Traced) -> Reason:
    return Reason("has no statistics in the file", traced.layer.node)


def _rows(array: Array, count: int) -> Array:
    """Return exactly `count` samples: the first ones, the last of them repeated if need be."""
    if len(array) >= count:
        return array[:count]
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


def _chain(first: Batch | None, rest: Iterator[Batch]) -> Iterator[Batch]:
    if first is not None:
        yield first
    yield from rest


def report_refused(graph: Graph, hooks: Hooks) -> None:
    """Say that there is more in the model than layers that can be pruned: the table shows layers only."""
    found = way_out(graph)
    if found is not None:
        what, names, fix = found
        hooks.warn(f"{what} are left alone ({names}): {fix}")


def report_skipped(skipped: Sequence[tuple[str, str]], hooks: Hooks) -> None:
    """Name the first input that could not be read, and count the others."""
    if skipped:
        name, why = skipped[0]
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        text = in_one_line(f"{name} ({why})")
        hooks.warn(f"{len(skipped)} input{'s' if len(skipped) > 1 else ''} skipped: {text}{more}")
