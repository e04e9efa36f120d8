"""Repair without training: surviving weights are solved anew, so that every layer makes what it made before the cut.

A layer that read removed channels gets the weights, and the bias, whose outputs on calibration data come closest to the
original's: ridge regression from streaming second moments. Layers are solved in order, each on what the already
repaired ones give it, in as many stages as the budget of inference passes allows; inside a stage, later layers
are solved on what they would read if the earlier ones were repaired perfectly. An eighth of the samples is held back,
and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.graph.choices import choices
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.readers import Reader, add_bias, extents, has_bias, matrix, own_bias, readers, replace_matrix
from pfa_onnx.graph.taps import showing
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.recipe import Floats, Ints
from pfa_onnx.results import LayerRepair, Repair
from pfa_onnx.stats.compare import as_tensors
from pfa_onnx.stats.regression import Joint, JointSums, matched, solve
from pfa_onnx.stats.session import run_padded
from pfa_onnx.stats.unfold import unfolded
from pfa_onnx.steps.apply import cut_copy
from pfa_onnx.steps.decide import Decision
from pfa_onnx.steps.embedded import embed_recipe
from pfa_onnx.steps.samples import HELD, Samples
from pfa_onnx.steps.serialized import load_runner

Array = npt.NDArray[Any]

PASSES = 8  # inference passes over the calibration data that repair may cost
STAGE = 0.75  # of an inference pass that a stage costs: half of the original, and half of a smaller model
WIDEST = 6144  # inputs of a layer that is solved: the matrix has their square, its solution takes their cube
MEMORY = 1 << 27  # numbers in the moments of a stage
RIDGES = (1e-3, 1e-2, 1e-1)
WIDE = 2048  # inputs from which on one ridge is tried, the middle one: a solution takes the cube of their number
CONSTANT = 1e-12  # an output's variance that is this share of its mean square is rounding


def repair(small: Graph, decision: Decision, options: DataOptions, hooks: Hooks) -> Repair:
    """Solve the layers of a cut model that read less than before, in place; return what it gained, if anything.

    Raises UsageError without data, DataError when there are too few samples to hold some back.
    """
    return _Repairer(small, decision, options, hooks).run()


def repaired_copy(small: Graph, decision: Decision, data: DataOptions, hooks: Hooks) -> tuple[Graph, Repair]:
    """Return the repaired model and what it gained; the model as it is where that is nothing."""
    tried = cut_copy(decision.trace.graph, decision.edits)
    found = repair(tried, decision, data, hooks)
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


@dataclass(eq=False)
class _Job:
    """One layer to solve. kept: which outputs of the original's layer are left; own: which of its inputs, if known."""

    reader: Reader
    unknowns: int
    axis: int
    kept: Ints
    own: tuple[int, Ints] | None
    train: JointSums
    held: JointSums


class _Repairer:
    def __init__(self, small: Graph, decision: Decision, options: DataOptions, hooks: Hooks) -> None:
        self._small, self._decision, self._hooks = small, decision, hooks
        self._graph = decision.trace.graph
        self._providers = options.providers
        self._data = Samples(self._graph, options, "--repair")
        if self._data.blocks < HELD:
            raise DataError(
                f"--repair has {self._data.count} samples, too few to hold some back",
                at=self._data.source,
                fix=f"give {HELD} or more, or a smaller --batch-size",
            )

    def run(self) -> Repair:
        jobs = self._jobs()
        if not jobs:
            return Repair((), self._data.count, 0, 0.0, 0.0, applied=False)
        start = self._output_error()
        found: list[LayerRepair] = []
        stages = self._stages(jobs)
        for number, stage in enumerate(stages, 1):
            found += self._solve(stage)
            self._hooks.progress("repair", number, len(stages))
        end = self._output_error()
        return Repair(tuple(found), self._data.count, len(stages), start, end, applied=end < start)

    # --- what is solved, and when --------------------------------------------------------------------------

    def _jobs(self) -> list[_Job]:
        trace, keep = self._decision.trace, self._decision.keep
        layers = {traced.layer.output: traced for traced in trace.layers}
        found = []
        for reader in readers(self._small):
            traced = layers.get(reader.output)
            if traced is None or reader.source not in self._decision.edits.extents:
                continue
            _, unknowns, _ = extents(self._small, reader)
            if unknowns > WIDEST:
                continue
            kept = np.flatnonzero(keep[traced.layer.labels])
            own = self._own_inputs(reader)
            found.append(_Job(reader, unknowns, traced.axis, kept, own, JointSums(), JointSums()))
        return found

    def _own_inputs(self, reader: Reader) -> tuple[int, Ints] | None:
        """Return the axis and the positions of the original's input that are left, where they lie along one axis."""
        found = self._decision.trace.along_one(reader.source, reader.geometry.read)
        return None if found is None else (found[0], np.flatnonzero(self._decision.keep[found[1]]))

    def _stages(self, jobs: Sequence[_Job]) -> list[list[_Job]]:
        """Cut the layers into stages along their levels: as many as the budget allows, and what fits into memory."""
        allowed = max(1, int(PASSES * (self._data.total or self._data.count) / (STAGE * self._data.count)))
        share = len(jobs) / allowed
        stages: list[list[_Job]] = []
        room = 0
        for job in sorted(jobs, key=lambda job: job.reader.level):
            groups, d, n = extents(self._small, job.reader)
            size = 2 * groups * d * (d + n)  # learned from, and held back
            alike = stages and stages[-1][-1].reader.level == job.reader.level
            if not stages or room < size or not (alike or len(stages[-1]) < share):
                stages.append([])
                room = MEMORY
            stages[-1].append(job)
            room -= size
        return stages

    # --- one stage -------------------------------------------------------------------------------------------

    def _solve(self, stage: list[_Job]) -> list[LayerRepair]:
        first = min(job.reader.level for job in stage)
        ahead = [job for job in stage if job.reader.level > first and job.own is not None]
        direct = [job for job in stage if job not in ahead]
        wanted = dict.fromkeys([*(job.reader.output for job in stage), *(job.reader.source for job in ahead)])
        original = load_runner(showing(self._graph.model, list(wanted)), self._graph, self._providers)
        read = list(dict.fromkeys(job.reader.source for job in direct))
        cut = load_runner(showing(self._small.model, read), self._graph, self._providers) if read else None
        random = np.random.default_rng(0)
        for batch, held in self._data.batches():
            made = run_padded(original, batch, list(wanted), self._data.size)
            seen = run_padded(cut, batch, read, self._data.size) if cut else {}
            for job in stage:
                x = seen[job.reader.source] if job in direct else _take(made[job.reader.source], job.own)
                y = np.take(made[job.reader.output], job.kept, axis=job.axis)
                sums = job.held if held else job.train
                for rows in unfolded(job.reader.geometry, x, y, self._data.rows(job.unknowns), random):
                    sums.add(*rows)
        return [self._settle(job) for job in stage]

    def _settle(self, job: _Job) -> LayerRepair:
        """Choose among the weights that were solved by the samples that were held back, and write them."""
        reader, old = job.reader, matrix(self._small, job.reader)
        none = LayerRepair(reader.output, reader.name, 1.0, 1.0, "nothing")
        if not job.train.count or not job.held.count:
            return none
        own, adds = own_bias(self._small, reader), has_bias(self._small, reader)
        train, held = (sums.moments().shifted(-own) for sums in (job.train, job.held))
        job.train, job.held = JointSums(), JointSums()
        scale = max(float(held.yy.sum()), np.finfo(np.float64).tiny)
        if not adds:
            train, held = train.about_zero(), held.about_zero()

        def error(weights: Floats) -> float:
            return float(held.error(weights, train.intercept(weights)).sum())

        start = float(held.error(old, np.zeros_like(own)).sum())
        how, weights = _best(train, old, error)
        if how == "least squares" and error(matched(train, weights)) < start:
            weights = matched(train, weights)
        replace_matrix(self._small, reader, weights)
        weights = matrix(self._small, reader)  # as their type holds them
        after = error(weights)
        if not after < start:
            replace_matrix(self._small, reader, old)
            return replace(none, before=start / scale, after=start / scale)
        if adds:
            add_bias(self._small, reader, train.intercept(weights))
        return LayerRepair(reader.output, reader.name, start / scale, after / scale, how)

    # --- the outputs -------------------------------------------------------------------------------------------

    def _output_error(self) -> float:
        """Return how far the outputs are from the original's on held-back samples, relative to their spread.

        Where a model chooses, as a detector does, what it chooses by counts too.
        """
        chosen = choices(self._graph, self._decision.edits)
        made = {str(value.name) for node in self._small.nodes for value in node.outputs}
        names = [name for name in dict.fromkeys([*self._graph.outputs, *chosen.reads]) if name in made]
        graphs = (self._graph, self._small)
        models = [load_runner(showing(graph.model, names), self._graph, self._providers) for graph in graphs]
        errors = []
        for batch, held in self._data.batches():
            if not held:
                continue
            one, other = (run_padded(model, batch, names, self._data.size) for model in models)
            for name in names:
                kinds = "f" if name in chosen.outputs else "fiu"  # the number of a class is no quantity
                errors.append(_distance(*as_tensors(one[name], other[name]), kinds))
        return float(np.mean([error for error in errors if error is not None] or [0.0]))


def _best(train: Joint, old: Floats, error: Callable[[Floats], float]) -> tuple[str, Floats]:
    """Return the weights with the smallest error, and how they came about."""
    ridges = RIDGES if old.shape[1] < WIDE else RIDGES[1:2]
    ways = [("bias", old), *(("least squares", solve(train, old, ridge)) for ridge in ridges)]
    errors = np.array([error(weights) for _, weights in ways])
    return ways[int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))]


def _take(whole: Array, own: tuple[int, Ints] | None) -> Array:
    assert own is not None
    return np.take(whole, own[1], axis=own[0])


def _distance(one: Any, other: Any, kinds: str) -> float | None:
    """Return the mean square difference over the variance; None for what cannot be compared.

    Numbers that are not finite in the original say nothing; new ones are worse than anything.
    """
    tensors = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    if not tensors or one.dtype.kind not in kinds or one.shape != other.shape:
        return None
    finite = np.isfinite(one)
    one, other = one[finite].astype(np.float64), other[finite].astype(np.float64)
    if not one.size:
        return None
    if not np.isfinite(other).all():
        return float("inf")
    scale = max(float(np.var(one)), CONSTANT * float(np.mean(one**2)), float(np.finfo(np.float64).tiny))
    return float(np.mean((one - other) ** 2)) / scale
