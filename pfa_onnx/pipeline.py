"""The verbs: the story in order, nothing else.

analyze: load -> measure -> decide -> report
prune:   load -> measure -> decide -> cut -> prove -> write -> report
check:   run both models -> compare -> gates
finetune: train -> write the best weights into the same graph
merge:   statistics measured apart -> statistics of all
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from pfa_onnx.errors import UsageError
from pfa_onnx.graph.cost import macs, parameters
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.graph.scratch import redraw
from pfa_onnx.options import DataOptions, Hooks, PlanOptions, Training
from pfa_onnx.recipe import Method, Proof, Size
from pfa_onnx.results import CheckReport, LayerResult, Merged, Repair, Report, Tuned
from pfa_onnx.stats.merge import merge_files
from pfa_onnx.stats.parts import WHOLE, missing
from pfa_onnx.stats.statsfile import save_stats as write_stats
from pfa_onnx.steps.apply import check_target, cut_copy, model_bytes, write
from pfa_onnx.steps.compare import compare
from pfa_onnx.steps.decide import Decider, Decision
from pfa_onnx.steps.embedded import embed_recipe
from pfa_onnx.steps.latency import latency_ratio
from pfa_onnx.steps.measure import (
    Measured,
    describe_model,
    finished,
    glimpse,
    measure,
    recall,
    with_eigenvalues,
    without_covariances,
)
from pfa_onnx.steps.nothing import refuse_if_nothing_can_go, warn_if_nothing_goes
from pfa_onnx.steps.prove import prove as prove_cut
from pfa_onnx.steps.repair import repair as repair_cut
from pfa_onnx.steps.replay import read_recipe
from pfa_onnx.steps.resume import Checkpoints
from pfa_onnx.steps.rounding import decide_fastest
from pfa_onnx.steps.variants import with_what_is_needed

KL = Method("kl")


def analyze(
    model: Path,
    data: DataOptions,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: Path | None = None,
    save_stats: Path | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Report:
    """Measure every layer and say what pruning would do. Nothing is written but the statistics, if asked for.

    method: PFA-KL when None. stats: statistics of an earlier run, in place of the inference. resume: go on where
    an interrupted run with the same save_stats stopped.
    Raises a PfaError for anything that is wrong with the model, the data or the options.
    """
    clock, hooks = _Clock(), hooks or Hooks()
    data = with_what_is_needed(data, method or KL)
    with clock("load"):
        graph = load(model)
    with clock("measure"):
        measured = _measured(graph, data, stats, hooks, save_stats, resume=resume)
    if data.shard != WHOLE:
        hooks.warn(f"shard {data.shard[0]}/{data.shard[1]}: this is about its samples alone; merge before you decide")
    with clock("decide"):
        timed = lambda: latency_ratio(measured, data)  # noqa: E731 - the original is loaded only if it is timed
        decider = Decider(measured, plan or PlanOptions(), hooks, timed=timed, data=data)
        decision = _decide(decider, method or KL, data)
    with clock("cut"):
        small = cut_copy(graph, decision.edits)
        embed_recipe(small, decision, graph.sha256)  # it takes room in the file, too
        after = _size_after(small, decision, measured.probed, None)
    return replace(_report(measured, decision, after, clock), round_to=_measured_multiple(decider))


def prune(
    model: Path,
    data: DataOptions,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    output: Path,
    stats: Path | None = None,
    recipe: Path | None = None,
    save_stats: Path | None = None,
    resume: bool = False,
    init: Literal["keep", "scratch"] = "keep",
    seed: int = 0,
    prove: bool = True,
    repair: bool = False,
    hooks: Hooks | None = None,
) -> Report:
    """Cut the model, prove the cut on real inputs, write the result.

    recipe: a report of an earlier run, replayed on this model. init: "keep" the surviving filters' weights, or
    draw them anew from "scratch" (paper, section 3.2.3). Raises ProofError, and writes nothing, when the cut
    model does not compute what the masked original computes; TargetError where not one channel may go.
    """
    clock, hooks = _Clock(), hooks or Hooks()
    check_target(output, model)
    data = with_what_is_needed(data, method or KL)
    if recipe and prove and data.data is None and stats is None:
        raise UsageError("a recipe alone cannot be proven: there are no inputs", fix="add --data, or --no-proof")
    with clock("load"):
        graph = load(model)
    with clock("measure"):
        if recipe and stats and not save_stats:  # nothing is decided: whatever was measured will do
            measured = recall(graph, stats)
        elif recipe and not save_stats:
            measured = glimpse(graph, data, hooks)
        else:
            measured = _measured(graph, data, stats, hooks, save_stats, resume=resume)
    with clock("decide"):
        timed = lambda: latency_ratio(measured, data)  # noqa: E731 - the original is loaded only if it is timed
        replayed = read_recipe(recipe) if recipe else None
        if replayed is not None:
            plan = replace(plan or PlanOptions(), through_norm=replayed.through_norm)
        decider = Decider(measured, plan or PlanOptions(), hooks, timed=timed, data=data, replays=recipe is not None)
        decision = decider.replay(replayed) if replayed else _decide(decider, method or KL, data)
        round_to = _measured_multiple(decider)
        del decider
        measured = without_covariances(measured)  # the proof needs the room
        if replayed is None:
            refuse_if_nothing_can_go(decision)
        unchanged = warn_if_nothing_goes(decision, hooks)
    with clock("cut"):
        small = cut_copy(graph, decision.edits)
        if not unchanged:  # the file would only grow
            embed_recipe(small, decision, graph.sha256)
    proof = None
    if prove:
        with clock("prove"):
            proof = prove_cut(graph, small, decision.edits, measured.stats.inputs, data.providers)
    repaired = None
    if repair and not unchanged:
        with clock("repair"):
            small, repaired = _repaired(small, decision, data, hooks)
        hooks.note(f"repair took {clock.seconds['repair'] / clock.seconds['measure']:.1f} times the calibration")
    if init == "scratch":
        redraw(small, seed)
        embed_recipe(small, decision, graph.sha256, redrawn=seed)
    with clock("write"):
        written = write(small, output, unchanged=unchanged and init == "keep")
    after = _size_after(small, decision, measured.probed, written)
    redrawn = seed if init == "scratch" else None
    report = _report(measured, decision, after, clock, proof)
    return replace(report, output=output, redrawn=redrawn, repair=repaired, round_to=round_to)


def check(
    original: Path,
    pruned: Path,
    data: DataOptions,
    gates: Mapping[str, float] | None = None,
    *,
    latency: bool = True,
    hooks: Hooks | None = None,
) -> CheckReport:
    """Compare two models on data. gates: any of min_agreement, min_cosine, max_params, max_macs, max_latency."""
    return compare(original, pruned, data, gates or {}, hooks or Hooks(), latency=latency)


def finetune(
    pruned: Path,
    data: DataOptions,
    training: Training | None = None,
    *,
    teacher: Path | None,
    output: Path,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Tuned:
    """Train a pruned model to answer as its original does, or as labels say; see `pfa_onnx.torch.tune.finetune`."""
    from pfa_onnx.torch.tune import finetune as train  # noqa: PLC0415 - an extra

    return train(pruned, data, training or Training(), teacher=teacher, output=output, resume=resume, hooks=hooks)


def merge(files: Sequence[Path], output: Path, *, hooks: Hooks | None = None) -> Merged:
    """Merge statistics that were measured apart, as if one pass had seen all of their data; writes `output`.

    Raises StatsError, and writes nothing, when they are of different models, layers or preprocessing, or share samples.
    """
    hooks = hooks or Hooks()
    stats = merge_files(files, lambda done: hooks.progress("merge", done, len(files)))
    write_stats(output, stats)
    gaps = tuple(missing(stats.parts))
    if gaps:
        some = ", ".join(f"{index}/{count}" for index, count in gaps[:5])
        hooks.warn(f"shards are missing: {some}{', ...' if len(gaps) > 5 else ''}")
    return Merged(output, len(files), stats.source, stats.samples, len(stats.moments), stats.provider, gaps)


def _measured(
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
        write_stats(save, measured.stats)
    if checkpoints:
        checkpoints.done()
    return measured


def _repaired(small: Graph, decision: Decision, data: DataOptions, hooks: Hooks) -> tuple[Graph, Repair]:
    """Return the repaired model and what it gained; the model as it is where that is nothing."""
    tried = cut_copy(decision.trace.graph, decision.edits)
    found = repair_cut(tried, decision, data, hooks)
    if not found.layers:
        hooks.warn("repair has nothing to solve: weights that read removed channels are quantised, computed or shared")
    elif not found.applied:
        hooks.warn(
            f"repair brought the outputs no closer to the original's ({found.before:.3g} of their variance before, "
            f"{found.after:.3g} after): left out"
        )
    if not found.applied:
        return small, found
    embed_recipe(tried, decision, decision.trace.graph.sha256, repair=found)
    return tried, found


def _decide(decider: Decider, method: Method, data: DataOptions) -> Decision:
    if decider.options.round_to != "auto":
        return decider.decide(method)
    timed = partial(latency_ratio, decider.measured, data, repeats=7, max_seconds=10.0)
    return decide_fastest(decider, method, timed, decider.hooks)


def _measured_multiple(decider: Decider) -> int | None:
    return decider.round_to if decider.options.round_to == "auto" else None


def _size_after(small: Graph, decision: Decision, samples: int, written: int | None) -> Size:
    shapes = {**decision.trace.shapes, **decision.edits.shapes}
    kept = {str(v.name) for node in small.nodes for v in node.outputs if not small.is_constant(v)}
    kept |= {spec.name for spec in small.inputs}  # constants are as wide as they now are, wherever they are made
    shapes = {name: shape for name, shape in shapes.items() if name in kept}
    return Size(parameters(small), macs(small, shapes, samples), model_bytes(small) if written is None else written)


def _report(measured: Measured, decision: Decision, after: Size, clock: _Clock, proof: Proof | None = None) -> Report:
    return Report(
        model=describe_model(measured.graph, measured.shapes, measured.probed),
        data=measured.data,
        method=decision.method,
        layers=tuple(_layer_results(measured, decision)),
        after=after,
        proof=proof,
        through_norm=decision.trace.through_norm,
        responses=decision.responses,
        timings=clock.seconds,
    )


def _layer_results(measured: Measured, decision: Decision) -> Iterator[LayerResult]:
    moments = measured.stats.moments
    for traced in decision.trace.layers:
        layer = traced.layer
        found = decision.spectra.get(layer.output)
        why = dict.fromkeys(r for label in layer.labels.tolist() for r in decision.trace.frozen.get(label, ()))
        value = measured.graph.nodes[traced.use[0]].inputs[traced.use[1]]
        assert value is not None
        yield LayerResult(
            output=layer.output,
            node=layer.node,
            op=layer.op,
            weight=layer.weight,
            channels=layer.channels,
            samples=moments[layer.output].count if layer.output in moments else 0,
            eigenvalues=tuple(found.eigenvalues.tolist()) if found else (),
            kl=found.kl if found else 0.0,
            gamma=found.gamma_by(decision.method.divergence, decision.method.mapping) if found else 1.0,
            asked=decision.asked.get(layer.output, layer.channels),
            keep=tuple(np.flatnonzero(decision.keep[layer.labels]).tolist()),
            group=layer.group,
            frozen=tuple(why),
            held=sum(label in decision.trace.frozen for label in layer.labels.tolist()),
            weight_params=int(np.prod(measured.graph.shape_of(value, measured.shapes))),
        )


class _Clock:
    """Seconds per phase; they are shown with -v and never part of a report that must be reproducible."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
