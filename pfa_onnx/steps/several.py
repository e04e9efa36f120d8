"""Several models of one original on the same data, in one pass over it: what each is worth beside the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pfa_onnx.errors import StatsError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.results import DataInfo
from pfa_onnx.stats.compare import Answer, Comparison
from pfa_onnx.stats.session import Runner, batch_size_for
from pfa_onnx.steps.compare import all_metrics, paired, require_same_interface, run_all
from pfa_onnx.steps.measure import describe_model, learn_shapes, open_dataset, prepared_by
from pfa_onnx.steps.provenance import Provenance, provenance
from pfa_onnx.tradeoff import Candidate, ChangedInput, ClassRow, Compared

Answers = Sequence[tuple[Answer, ...]]


def compare_several(
    original: Path, models: Sequence[Path], options: DataOptions, hooks: Hooks, *, latency: bool
) -> Compared:
    """Run the original and all models on all samples.

    Raises UsageError where a model is given twice, ModelError where one does not take the original's inputs. A model
    that says it was made of something else is compared all the same, with a warning.
    """
    refuse_twins(original, models)
    one = load(original)
    warnings: list[str] = []
    histories = [_history(one, path, warnings) for path in models]
    dataset = open_dataset(one, options)
    size = batch_size_for(one.inputs, options.batch_size, options.providers)
    runners = [Runner(path, providers=options.providers) for path in (original, *models)]
    first, comparisons, seen = run_all(dataset, runners, size, hooks)
    timed = []
    for number, runner in enumerate(runners[1:], 1):
        timed.append(paired(runners[0], runner, first, size) if latency else None)
        hooks.progress("latency", number, len(models))
    provider = runners[0].provider
    del runners, runner  # learning the shapes loads each model once more
    before = describe_model(one, *learn_shapes(one, first.feeds))
    found = []
    for path, history, comparison, time in zip(models, histories, comparisons, timed, strict=True):
        graph = load(path)
        after = describe_model(graph, *learn_shapes(graph, first.feeds))
        metrics = comparison.result()
        found.append(
            Candidate(
                model=after,
                metrics=all_metrics(metrics, before.size, after.size, time),
                latency_ms=None if time is None else (time.original_ms, time.pruned_ms),
                outputs={name: dict(vars(output)) for name, output in metrics.per_output.items()},
                made=history.made,
            )
        )
    by, classes, changed = judged(comparisons)
    info = DataInfo(dataset.source, seen, prepared_by(dataset), provider, size, tuple(dataset.skipped))
    return Compared(before, info, tuple(found), by, classes, changed, tuple(warnings))


def refuse_twins(original: Path, models: Sequence[Path]) -> None:
    """Raise UsageError where a file is given twice, by whatever name."""
    seen: dict[Path, Path] = {original.resolve(): original}
    for path in models:
        twin = seen.setdefault(path.resolve(), path)
        if twin is path:
            continue
        what = "is the original" if twin == original else "is given twice"
        name = str(path) if str(path) == str(twin) else f"{path}, also called {twin},"
        raise UsageError(f"{name} {what}", at=str(path), fix="name the original once, then each smaller model once")


def _history(original: Graph, path: Path, warnings: list[str]) -> Provenance:
    """Return how a model came about; note where it came of another original, or does not say."""
    graph = load(path)
    require_same_interface(original, graph)
    try:
        found = provenance(graph)
    except StatsError as error:
        warnings.append(f"{path}: {error.what}")
        return Provenance()
    if found.originals and original.sha256 not in found.originals:
        made_of = f"sha256 {found.originals[0][:8]}..., this one is {original.sha256[:8]}..."
        warnings.append(f"{path} was made of another original, says the recipe inside it ({made_of})")
    return found


# --- classes and inputs ---


def judged(
    comparisons: Sequence[Comparison],
) -> tuple[Literal["label", "answer"] | None, tuple[ClassRow, ...], tuple[ChangedInput, ...]]:
    """Return what the classes are, how each model does on each of them, and the inputs that change their answer."""
    answers = [comparison.answers() for comparison in comparisons]
    samples = max(answers, key=len, default=())
    if not samples:
        return None, (), ()
    known = [found if len(found) == len(samples) else None for found in answers]  # None: other outputs
    labelled = any(answer.truth is not None for answer in samples)
    return "label" if labelled else "answer", _classes(samples, known, labelled=labelled), _changed(samples, known)


def _classes(
    samples: Sequence[Answer], known: Sequence[tuple[Answer, ...] | None], *, labelled: bool
) -> tuple[ClassRow, ...]:
    wanted = [answer.truth if labelled else answer.before for answer in samples]
    names = {want: answer.label for want, answer in zip(wanted, samples, strict=True) if labelled}
    total = Counter(want for want in wanted if want is not None)
    original = Counter(want for want, answer in zip(wanted, samples, strict=True) if answer.before == want)
    models = [
        None if found is None else Counter(w for w, answer in zip(wanted, found, strict=True) if answer.after == w)
        for found in known
    ]
    return tuple(
        ClassRow(
            names.get(want) or str(want),
            total[want],
            original[want],
            tuple(None if model is None else model[want] for model in models),
        )
        for want in sorted(total)
    )


def _changed(samples: Sequence[Answer], known: Sequence[tuple[Answer, ...] | None]) -> tuple[ChangedInput, ...]:
    rows = (
        ChangedInput(
            answer.name, answer.label, answer.before, tuple(None if one is None else one[k].after for one in known)
        )
        for k, answer in enumerate(samples)
    )
    return tuple(sorted((row for row in rows if row.changes), key=lambda row: (-row.changes, row.name)))
