"""Several models of one original on the same data, in one pass over it: what each is worth beside the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Literal

from pfa_onnx.errors import StatsError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.results import DataInfo
from pfa_onnx.stats.compare import Answer, Comparison
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import Runner, batch_size_for
from pfa_onnx.steps.compare import all_metrics, paired, require_same_interface, run_all
from pfa_onnx.steps.measure import describe_model, learn_shapes, open_dataset, prepared_by
from pfa_onnx.steps.pictures import thumbnail
from pfa_onnx.steps.provenance import Provenance, provenance
from pfa_onnx.tradeoff import Candidate, ChangedInput, ClassRow, Compared

Answers = Sequence[tuple[Answer, ...]]


def compare_several(
    original: Path, models: Sequence[Path], options: DataOptions, hooks: Hooks, *, latency: bool, pictures: int = 0
) -> Compared:
    """Run the original and all models on all samples. pictures: of how many of those that change to keep one.

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
    album = Album(pictures, prepared_by(dataset))
    first, comparisons, seen = run_all(dataset, runners, size, hooks, album.look)
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
    kept = album.pictures()
    shown = {place: kept[at] for place, (at, _) in enumerate(changed) if at in kept}
    info = DataInfo(dataset.source, seen, prepared_by(dataset), provider, size, tuple(dataset.skipped))
    rows = tuple(row for _, row in changed)
    return Compared(before, info, tuple(found), by, classes, rows, shown, tuple(warnings))


def refuse_twins(original: Path, models: Sequence[Path]) -> None:
    """Raise UsageError where a file is given twice, by whatever name, or none is."""
    if not models:
        raise UsageError("there is no model to compare with the original", at="MODEL...", fix="give one or more")
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
) -> tuple[Literal["label", "answer"] | None, tuple[ClassRow, ...], tuple[tuple[int, ChangedInput], ...]]:
    """Return what the classes are, how each model does on each of them, and the inputs that change their answer.

    Each of these with its number among all samples.
    """
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
            want,
            total[want],
            original[want],
            tuple(None if model is None else model[want] for model in models),
        )
        for want in sorted(total)
    )


def _changed(
    samples: Sequence[Answer], known: Sequence[tuple[Answer, ...] | None]
) -> tuple[tuple[int, ChangedInput], ...]:
    rows = (
        (k, ChangedInput(one.name, one.label, one.before, tuple(found[k].after if found else None for found in known)))
        for k, one in enumerate(samples)
    )
    # the first ones first among equals: an album holds the same ones
    return tuple(sorted(((k, row) for k, row in rows if row.changes), key=lambda item: (-item[1].changes, item[0])))


class Album:
    """Small pictures of the inputs that most models answer otherwise; of equals, the first ones."""

    def __init__(self, most: int, prepared: Mapping[str, Any]) -> None:
        """most: how many to keep; prepared: how pictures became inputs, to be undone."""
        self._most, self._prepared = most, prepared
        self._batch: Batch | None = None
        self._start = 0  # of the batch, among all samples
        self._changes: Counter[int] = Counter()  # of its samples
        self._kept: list[tuple[int, int, bytes]] = []  # a heap: (changes, -number, picture)

    def look(self, batch: Batch, changed: Sequence[int]) -> None:
        """See where in a batch a model answers otherwise; the models come one after the other, then the next batch."""
        if not self._most:
            return
        if batch is not self._batch:
            self._turn()
            self._batch = batch
        self._changes.update(changed)

    def _turn(self) -> None:
        """Keep the best of the batch that was seen."""
        if self._batch is None:
            return
        for position, changes in sorted(self._changes.items()):
            rank = (changes, -(self._start + position))
            if len(self._kept) >= self._most and rank < self._kept[0][:2]:
                continue
            png = thumbnail({name: array[position] for name, array in self._batch.feeds.items()}, self._prepared)
            if png is not None:
                heappush(self._kept, (*rank, png))
            if len(self._kept) > self._most:
                heappop(self._kept)
        self._start += self._batch.count
        self._batch = None
        self._changes.clear()

    def pictures(self) -> dict[int, bytes]:
        """Return the pictures by the number of their sample."""
        self._turn()
        return {-minus: png for _, minus, png in self._kept}
