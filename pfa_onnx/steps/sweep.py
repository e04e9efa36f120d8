"""Many recipes of one measurement: each is decided, cut, proven, perhaps repaired, and held against the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pfa_onnx.errors import ProofError, TargetError, UsageError
from pfa_onnx.graph.model import Graph, files_size
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Method, Select, Size
from pfa_onnx.results import ModelInfo, Repair
from pfa_onnx.steps.apply import check_target, cut_copy, size_after, write
from pfa_onnx.steps.compare import all_metrics
from pfa_onnx.steps.decide import Decider, Decision
from pfa_onnx.steps.embedded import embed_recipe
from pfa_onnx.steps.judge import Judge
from pfa_onnx.steps.measure import Measured, describe_model, with_eigenvalues, without_covariances
from pfa_onnx.steps.nothing import refuse_if_nothing_can_go, warn_if_nothing_goes
from pfa_onnx.steps.prove import prove as prove_cut
from pfa_onnx.steps.repair import repaired_copy
from pfa_onnx.steps.serialized import load_runner
from pfa_onnx.steps.variants import with_what_is_needed
from pfa_onnx.tradeoff import Missed, Point, Swept, Values

GRID: tuple[tuple[str, float | None], ...] = (
    ("kl", None),
    *(("energy", tau) for tau in (0.99, 0.98, 0.95, 0.9, 0.85, 0.8)),
    *(("params", target) for target in (0.75, 0.5, 0.35)),
)

NUMBER = {"kl": None, "energy": "tau", "uniform": "ratio"}  # which field of a method its number is; else its target

Clock = Callable[[str], AbstractContextManager[None]]


def of(name: str, number: float | None, select: Select = "pfa", seed: int = 0) -> Method:
    """Return a method by its name and its one number."""
    field = NUMBER.get(name, "target")
    return Method(name=name, select=select, seed=seed, **({field: number} if field else {}))  # type: ignore[arg-type]


def default_grid(*, repair: bool = False) -> tuple[Method, ...]:
    """Return what is tried unless something else is asked for; repair: with the channels that it can best make up."""
    return tuple(of(name, number, "reconstruct" if repair else "pfa") for name, number in GRID)


def short(method: Method) -> str:
    """Return a method as a part of a file's name: energy-0.95."""
    field = NUMBER.get(method.name, "target")
    return method.name if field is None else f"{method.name}-{getattr(method, field):g}"


def refuse_grid(
    methods: Sequence[Method], plan: PlanOptions, data: DataOptions, check_data: object = None
) -> DataOptions:
    """Return the options that measure what all methods decide by; raises UsageError for what cannot be swept."""
    if data.data is None and check_data is None:
        raise UsageError(
            "the points are compared on inputs, which statistics do not hold",
            at="--data",
            fix="add --data, or --check-data",
        )
    if not methods:
        raise UsageError(
            "there is nothing to sweep", at="methods", fix="name some methods, or none for the default grid"
        )
    twins = {method for method in methods if methods.count(method) > 1}
    if twins:
        twin = next(iter(twins))
        raise UsageError(f"{short(twin)} is asked for twice", at=f"--{twin.name}", fix="name every point once")
    if plan.round_to == "auto":
        raise UsageError(
            "--round-to auto would time every multiple for every point",
            at="--round-to",
            fix="find the multiple with `pfa-onnx analyze --round-to auto`, and give that number",
        )
    for method in methods:
        data = with_what_is_needed(data, method)
    return data


@dataclass(frozen=True, eq=False)
class Decided:
    """Every recipe, in the order in which they were asked for; and those that cannot be, with the reason."""

    recipes: tuple[tuple[Method, Decision], ...]
    missed: tuple[Missed, ...]
    measured: Measured


def decide_all(
    measured: Measured, methods: Sequence[Method], plan: PlanOptions, data: DataOptions, hooks: Hooks
) -> Decided:
    """Decide them all, so that what only deciding needs can go before the models run.

    Raises TargetError where not one channel may go, or no recipe reaches its target.
    """
    measured = with_eigenvalues(measured, hooks)
    decider = Decider(measured, plan, hooks, data=data)
    settled = decider.trace
    recipes: list[tuple[Method, Decision]] = []
    missed: list[Missed] = []
    first: TargetError | None = None
    for number, method in enumerate(methods, 1):
        if decider.trace is not settled:  # a cut could not be followed and froze more: that is for its recipe alone
            decider = Decider(measured, plan, hooks, data=data)
            settled = decider.trace
        try:
            decision = decider.decide(method)
        except TargetError as error:
            first = first or error
            missed.append(Missed(method, error.what))
            continue
        refuse_if_nothing_can_go(decision)
        recipes.append((method, decision))
        hooks.progress("decide", number, len(methods))
    if first is not None and not recipes:
        raise first
    return Decided(tuple(recipes), tuple(missed), without_covariances(measured))


@dataclass(frozen=True, eq=False)
class Sweeper:
    """Makes a point of every decision. folder: where models are written, if anywhere."""

    measured: Measured
    judge: Judge
    data: DataOptions
    repair: bool
    latency: bool
    folder: Path | None
    hooks: Hooks
    clock: Clock

    def run(self, decided: Decided, each: Callable[[Swept], None] | None) -> Swept:
        """Return all points; each: told what there is after every one of them."""
        whole, channels = self._whole, sum(traced.layer.channels for traced in self.measured.layers)
        on, of = self.judge.data, self.judge.of
        found = Swept(whole, self.measured.data, on, of, channels, (), decided.missed, self.repair, complete=False)
        for one in self._points(decided.recipes):
            found = found.plus(one)
            if each is not None:
                each(found)
        return replace(found, complete=True)

    @cached_property
    def _whole(self) -> ModelInfo:
        return describe_model(self.measured.graph, self.measured.shapes, self.measured.probed)

    def _points(self, recipes: Sequence[tuple[Method, Decision]]) -> Iterator[Point | Missed]:
        """Yield a point for each recipe, or why there is none: a cut that is not proven is none."""
        for number, (method, decision) in enumerate(recipes, 1):
            try:
                yield self._point(method, decision)
            except ProofError as error:
                yield Missed(method, f"the proof failed: {error.what}", broken=True)
            self.hooks.progress("sweep", number, len(recipes))

    def _point(self, method: Method, decision: Decision) -> Point:
        graph = self.measured.graph
        with self.clock("cut"):
            small = cut_copy(graph, decision.edits)
            unchanged = warn_if_nothing_goes(decision, Hooks())
            if not unchanged:
                embed_recipe(small, decision, graph.sha256)
        with self.clock("prove"):
            proof = prove_cut(graph, small, decision.edits, self.measured.stats.inputs, self.data.providers)
        unrepaired, found = None, None
        if self.repair and not unchanged:
            unrepaired = self._metrics(small, self._size(small, decision), latency=False)
            with self.clock("repair"):
                small, found = self._repaired(small, method, decision)
        output, written = self._written(small, method, unchanged=unchanged)
        size = self._size(small, decision, files_size(graph) if unchanged and written is None else written)
        return Point(
            method=decision.method,
            size=size,
            kept=sum(int(decision.keep[traced.layer.labels].sum()) for traced in decision.trace.layers),
            metrics=self._metrics(small, size, latency=self.latency),
            proof=proof,
            unrepaired=unrepaired,
            repair=found,
            output=output,
        )

    def _repaired(self, small: Graph, method: Method, decision: Decision) -> tuple[Graph, Repair]:
        def warn(text: str) -> None:
            self.hooks.warn(f"{short(method)}: {text}")

        return repaired_copy(small, decision, self.data, replace(self.hooks, warn=warn))

    def _size(self, small: Graph, decision: Decision, written: int | None = None) -> Size:
        return size_after(small, decision, self.measured.probed, written)

    def _metrics(self, small: Graph, size: Size, *, latency: bool) -> Values:
        runner = load_runner(small.model, self.measured.graph, self.data.providers)
        with self.clock("compare"):
            found = self.judge.closeness(runner)
        with self.clock("latency"):
            timed = self.judge.timed(runner) if latency else None
        return all_metrics(found, self._whole.size, size, timed)

    def _written(self, small: Graph, method: Method, *, unchanged: bool) -> tuple[Path | None, int | None]:
        if self.folder is None:
            return None, None
        output = self.folder / file_name(self.measured.graph, method, repair=self.repair)
        with self.clock("write"):
            return output, write(small, output, unchanged=unchanged)


def file_name(graph: Graph, method: Method, *, repair: bool) -> str:
    """Return what a swept model is called: model.energy-0.95.repaired.onnx."""
    assert graph.path is not None
    usual = "reconstruct" if repair else "pfa"
    chosen = [*([method.select] if method.select != usual else []), *method.variants.values()]
    return ".".join([graph.path.stem, short(method), *chosen, *(["repaired"] if repair else []), "onnx"])


def prepare_folder(folder: Path, graph: Graph, methods: Sequence[Method], *, repair: bool) -> None:
    """Make the folder for the models, unless it is there; raises UsageError where they could not be written."""
    assert graph.path is not None
    if folder.exists() and not folder.is_dir():
        raise UsageError("--save-to is a file, not a folder", at=str(folder), fix="choose a folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        fix = f"mkdir -p {folder.parent}, or choose another folder"
        raise UsageError(f"--save-to cannot be made ({error.strerror})", at=str(folder), fix=fix) from None
    for method in methods:
        try:
            check_target(folder / file_name(graph, method, repair=repair), graph.path)
        except UsageError as error:
            raise UsageError(error.what, at="--save-to", fix="choose another folder") from None
