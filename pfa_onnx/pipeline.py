"""The verbs: the story in order, nothing else.

inspect: load -> learn shapes from zeros -> settle what may go
analyze: load -> measure -> decide -> report
prune:   load -> measure -> decide -> cut -> prove -> write -> report
check:   run both models -> compare -> gates
compare: run all models -> compare each with the original
sweep:   load -> measure -> decide many times -> cut, prove and compare each
finetune: train -> write the best weights into the same graph
merge:   statistics measured apart -> statistics of all
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pfa_onnx.errors import UsageError
from pfa_onnx.graph.model import load
from pfa_onnx.graph.scratch import redraw
from pfa_onnx.options import DataOptions, Hooks, PlanOptions, Training
from pfa_onnx.recipe import Method, Proof, Size
from pfa_onnx.results import CheckReport, LayerResult, Merged, Report, Tuned
from pfa_onnx.stats.merge import merge_files
from pfa_onnx.stats.parts import WHOLE, missing
from pfa_onnx.stats.statsfile import save_stats as write_stats
from pfa_onnx.steps.apply import check_target, cut_copy, size_after, write
from pfa_onnx.steps.compare import compare
from pfa_onnx.steps.decide import Decider, Decision
from pfa_onnx.steps.details import details as collect_details
from pfa_onnx.steps.embedded import embed_recipe
from pfa_onnx.steps.inspect import inspect_model
from pfa_onnx.steps.judge import Judge
from pfa_onnx.steps.latency import latency_ratio
from pfa_onnx.steps.measure import (
    Measured,
    describe_model,
    glimpse,
    measure_or_recall,
    recall,
    without_covariances,
)
from pfa_onnx.steps.nothing import refuse_if_nothing_can_go, warn_if_nothing_goes
from pfa_onnx.steps.prove import prove as prove_cut
from pfa_onnx.steps.repair import repaired_copy
from pfa_onnx.steps.replay import read_recipe
from pfa_onnx.steps.rounding import decide_fastest
from pfa_onnx.steps.several import compare_several
from pfa_onnx.steps.sweep import Sweeper, decide_all, default_grid, prepare_folder, refuse_grid
from pfa_onnx.steps.variants import with_what_is_needed
from pfa_onnx.tradeoff import Compared, Swept

KL = Method("kl")

inspect = inspect_model  # it is one step


def analyze(
    model: Path,
    data: DataOptions,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: Path | None = None,
    save_stats: Path | None = None,
    resume: bool = False,
    details: bool = False,
    hooks: Hooks | None = None,
) -> Report:
    """Measure every layer and say what pruning would do. Nothing is written but the statistics, if asked for.

    method: PFA-KL when None. stats: statistics of an earlier run, in place of the inference. resume: go on where
    an interrupted run with the same save_stats stopped. details: collect what only the HTML page shows, too.
    Raises a PfaError for anything that is wrong with the model, the data or the options.
    """
    clock, hooks = _Clock(), hooks or Hooks()
    data = with_what_is_needed(data, method or KL)
    with clock("load"):
        graph = load(model)
    with clock("measure"):
        measured = measure_or_recall(graph, data, stats, hooks, save_stats, resume=resume)
    if data.shard != WHOLE:
        hooks.warn(f"shard {data.shard[0]}/{data.shard[1]}: this is about its samples alone; merge before you decide")
    with clock("decide"):
        timed = lambda: latency_ratio(measured, data)  # noqa: E731 - the original is loaded only if it is timed
        decider = Decider(measured, plan or PlanOptions(), hooks, timed=timed, data=data)
        decision = _decide(decider, method or KL, data)
        found = collect_details(decider, decision, hooks) if details else None
    with clock("cut"):
        small = cut_copy(graph, decision.edits)
        embed_recipe(small, decision, graph.sha256)  # it takes room in the file, too
        after = size_after(small, decision, measured.probed, None)
    return replace(_report(measured, decision, after, clock), round_to=_measured_multiple(decider), details=found)


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
    details: bool = False,
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
        raise UsageError(
            "a recipe alone cannot be proven: there are no inputs", at="--recipe", fix="add --data, or --no-proof"
        )
    with clock("load"):
        graph = load(model)
    with clock("measure"):
        if recipe and stats and not save_stats:  # nothing is decided: whatever was measured will do
            measured = recall(graph, stats)
        elif recipe and not save_stats:
            measured = glimpse(graph, data, hooks)
        else:
            measured = measure_or_recall(graph, data, stats, hooks, save_stats, resume=resume)
    with clock("decide"):
        timed = lambda: latency_ratio(measured, data)  # noqa: E731 - the original is loaded only if it is timed
        replayed = read_recipe(recipe) if recipe else None
        if replayed is not None:
            plan = replace(plan or PlanOptions(), through_norm=replayed.through_norm)
        decider = Decider(measured, plan or PlanOptions(), hooks, timed=timed, data=data, replays=recipe is not None)
        decision = decider.replay(replayed) if replayed else _decide(decider, method or KL, data)
        round_to = _measured_multiple(decider)
        found = collect_details(decider, decision, hooks) if details else None
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
            small, repaired = repaired_copy(small, decision, data, hooks)
        hooks.note(f"repair took {clock.seconds['repair'] / clock.seconds['measure']:.1f} times the calibration")
    if init == "scratch":
        redraw(small, seed)
        embed_recipe(small, decision, graph.sha256, redrawn=seed)
    with clock("write"):
        written = write(small, output, unchanged=unchanged and init == "keep")
    after = size_after(small, decision, measured.probed, written)
    redrawn = seed if init == "scratch" else None
    report = _report(measured, decision, after, clock, proof)
    return replace(report, output=output, redrawn=redrawn, repair=repaired, round_to=round_to, details=found)


def check(
    original: Path,
    pruned: Path,
    data: DataOptions,
    gates: Mapping[str, float] | None = None,
    *,
    latency: bool = True,
    pictures: int = 0,
    hooks: Hooks | None = None,
) -> CheckReport:
    """Compare two models on data. gates: any of min_agreement, min_cosine, max_params, max_macs, max_latency.

    pictures: of how many changed samples to keep a small picture.
    """
    return compare(original, pruned, data, gates or {}, hooks or Hooks(), latency=latency, pictures=pictures)


def compare_models(
    original: Path,
    models: Sequence[Path],
    data: DataOptions,
    *,
    latency: bool = True,
    pictures: int = 0,
    hooks: Hooks | None = None,
) -> Compared:
    """Compare several smaller models with their original, on the same data. pictures: as in `check`."""
    return compare_several(original, models, data, hooks or Hooks(), latency=latency, pictures=pictures)


def sweep(
    model: Path,
    data: DataOptions,
    methods: Sequence[Method] | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: Path | None = None,
    save_stats: Path | None = None,
    resume: bool = False,
    check_data: Any = None,
    check_limit: int | None = None,
    repair: bool = False,
    latency: bool = True,
    save_to: Path | None = None,
    each: Callable[[Swept], None] | None = None,
    hooks: Hooks | None = None,
) -> Swept:
    """Measure once, and make a point of every method: the trade-off between size and answers.

    methods: `steps.sweep.default_grid` when None. check_data: what to compare on, in place of the data; at most
    check_limit samples of it, 1,024 unless said. save_to: a folder for the models. each: told what there is after
    every point. Raises a PfaError; TargetError where no point can be reached.
    """
    clock, hooks, plan = _Clock(), hooks or Hooks(), plan or PlanOptions()
    methods = default_grid(repair=repair) if methods is None else tuple(methods)
    data = refuse_grid(methods, plan, data, check_data)
    with clock("load"):
        graph = load(model)
    if save_to is not None:
        prepare_folder(save_to, graph, methods, repair=repair)
    with clock("measure"):
        measured = measure_or_recall(graph, data, stats, hooks, save_stats, resume=resume)
    with clock("decide"):
        decided = decide_all(measured, methods, plan, data, hooks)
    with clock("original"):
        other = data if check_data is None else replace(data, data=check_data, limit=None)
        judge = Judge(graph, other, check_limit, hooks)
    found = Sweeper(decided.measured, judge, data, repair, latency, save_to, hooks, clock).run(decided, each)
    return replace(found, timings=clock.seconds)


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


def _decide(decider: Decider, method: Method, data: DataOptions) -> Decision:
    if decider.options.round_to != "auto":
        return decider.decide(method)
    timed = partial(latency_ratio, decider.measured, data, repeats=7, max_seconds=10.0)
    return decide_fastest(decider, method, timed, decider.hooks)


def _measured_multiple(decider: Decider) -> int | None:
    return decider.round_to if decider.options.round_to == "auto" else None


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
