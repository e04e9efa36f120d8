"""The verbs for scripts: paths may be strings, and data anything that `--data` or Python can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pfa_onnx import pipeline
from pfa_onnx.inspection import Inspection
from pfa_onnx.options import DataOptions, Hooks, PlanOptions, Training
from pfa_onnx.recipe import Method
from pfa_onnx.results import CheckReport, Merged, Report, Tuned
from pfa_onnx.steps.embedded import Embedded, read_embedded
from pfa_onnx.tradeoff import Compared, Swept


def inspect(
    model: str | Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    through_norm: bool = False,
    hooks: Hooks | None = None,
) -> Inspection:
    """Say what of a model could go, and why the rest could not: no data is needed, nothing is written.

    shapes: of inputs whose extents the file leaves open, by name. Raises PfaError.
    """
    return pipeline.inspect(Path(model), shapes, through_norm=through_norm, hooks=hooks)


def analyze(
    model: str | Path,
    data: Any = None,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: str | Path | None = None,
    save_stats: str | Path | None = None,
    resume: bool = False,
    details: bool = False,
    hooks: Hooks | None = None,
) -> Report:
    """Measure every layer and say what pruning would do.

    data: `DataOptions`, or what `DataOptions.data` takes: a folder of images, .tar or .parquet files or
    their address, a .npy or .npz file, "loader.py:function", a mapping of input names to arrays [samples, ...], an
    array, or a callable that yields them. stats: a statistics file, in place of data. method: PFA-KL when None.
    resume: go on where an interrupted run with the same save_stats stopped. details: collect what only the HTML page
    shows, too. Raises PfaError.
    """
    return pipeline.analyze(
        Path(model),
        _options(data),
        method,
        plan,
        stats=_path(stats),
        save_stats=_path(save_stats),
        resume=resume,
        details=details,
        hooks=hooks,
    )


def prune(
    model: str | Path,
    data: Any = None,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    output: str | Path | None = None,
    stats: str | Path | None = None,
    recipe: str | Path | None = None,
    save_stats: str | Path | None = None,
    resume: bool = False,
    init: Literal["keep", "scratch"] = "keep",
    seed: int = 0,
    repair: bool = False,
    details: bool = False,
    hooks: Hooks | None = None,
) -> Report:
    """Cut the model, prove the cut on real inputs, and write it to `output` (default: MODEL's stem + .pruned.onnx).

    recipe: a JSON report of an earlier run, replayed. repair: solve the surviving weights anew from the data; best
    with a method of select="reconstruct". details: as of `analyze`. Raises PfaError; then nothing was written.
    """
    model = Path(model)
    return pipeline.prune(
        model,
        _options(data),
        method,
        plan,
        output=Path(output) if output is not None else model.with_name(f"{model.stem}.pruned.onnx"),
        stats=_path(stats),
        recipe=_path(recipe),
        save_stats=_path(save_stats),
        resume=resume,
        init=init,
        seed=seed,
        repair=repair,
        details=details,
        hooks=hooks,
    )


def check(
    original: str | Path,
    pruned: str | Path,
    data: Any,
    gates: Mapping[str, float] | None = None,
    *,
    latency: bool = True,
    pictures: int = 0,
    hooks: Hooks | None = None,
) -> CheckReport:
    """Compare two models on data. gates: any of min_agreement, min_cosine, max_params, max_macs, max_latency.

    pictures: of how many changed samples to keep a small picture, for the HTML page.
    Raises PfaError. A gate that does not hold is no error: see `CheckReport.passed`.
    """
    return pipeline.check(
        Path(original), Path(pruned), _options(data), gates, latency=latency, pictures=pictures, hooks=hooks
    )


def compare(
    original: str | Path,
    models: Iterable[str | Path],
    data: Any,
    *,
    latency: bool = True,
    pictures: int = 0,
    hooks: Hooks | None = None,
) -> Compared:
    """Compare several smaller models with their original: cost, closeness, how each was made, what changed where.

    pictures: of how many of the inputs that change to keep a small picture.
    Raises PfaError: UsageError where a model is given twice, ModelError where one has other inputs or outputs.
    """
    paths = [Path(model) for model in models]
    return pipeline.compare_models(
        Path(original), paths, _options(data), latency=latency, pictures=pictures, hooks=hooks
    )


def sweep(
    model: str | Path,
    data: Any = None,
    methods: Sequence[Method] | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: str | Path | None = None,
    check_data: Any = None,
    check_limit: int | None = None,
    repair: bool = False,
    latency: bool = True,
    save_to: str | Path | None = None,
    each: Callable[[Swept], None] | None = None,
    hooks: Hooks | None = None,
) -> Swept:
    """Measure once, and prune in many ways: what each costs, and how close it stays to the original.

    methods: PFA-KL, six energies and three sizes when None. check_data: what to compare on, in place of the data, at
    most check_limit samples (1,024 unless said). repair: each point, too. save_to: a folder for the models.
    each: told what there is after every point. Raises PfaError.
    """
    return pipeline.sweep(
        Path(model),
        _options(data),
        methods,
        plan,
        stats=_path(stats),
        check_data=check_data,
        check_limit=check_limit,
        repair=repair,
        latency=latency,
        save_to=_path(save_to),
        each=each,
        hooks=hooks,
    )


def finetune(
    pruned: str | Path,
    data: Any,
    training: Training | None = None,
    *,
    teacher: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Tuned:
    """Train a pruned model, and write its graph with the best weights to `output` (default: its stem + .tuned.onnx).

    teacher: the model that it was pruned from, whose outputs it learns to give; None learns from labels alone, with
    `Training(labels=True)`. Needs PyTorch. Raises PfaError; when an interrupted run got better, `output` has it.
    """
    pruned = Path(pruned)
    return pipeline.finetune(
        pruned,
        _options(data),
        training,
        teacher=_path(teacher),
        output=Path(output) if output is not None else pruned.with_name(f"{pruned.stem}.tuned.onnx"),
        resume=resume,
        hooks=hooks,
    )


def recipe_of(model: str | Path) -> Embedded | None:
    """Return the recipe inside a pruned model: what stays of every layer and of every constant; None without one.

    Raises StatsError when it is broken, ModelError when the file cannot be read.
    """
    return read_embedded(model)


def merge(files: Iterable[str | Path], output: str | Path, *, hooks: Hooks | None = None) -> Merged:
    """Merge statistics files, such as those of shards, into `output`: as if one pass had seen all of their data.

    Raises StatsError, and writes nothing, when they do not belong together or share samples.
    """
    return pipeline.merge([Path(file) for file in files], Path(output), hooks=hooks)


def _options(data: Any) -> DataOptions:
    return data if isinstance(data, DataOptions) else replace(DataOptions(), data=data)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
