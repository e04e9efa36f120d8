"""What a run of fine-tuning is made of, worked out from the models, the data and the options; and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfa_onnx.errors import DataError, ModelError, UsageError
from pfa_onnx.graph.model import Graph
from pfa_onnx.options import DataOptions, Hooks, Training
from pfa_onnx.recipe import Ints
from pfa_onnx.stats.compare import class_numbers
from pfa_onnx.stats.data import Dataset
from pfa_onnx.stats.session import fixed_batch
from pfa_onnx.steps.apply import check_target
from pfa_onnx.steps.embedded import Embedded
from pfa_onnx.steps.measure import prepared_by
from pfa_onnx.torch.augment import KINDS
from pfa_onnx.torch.feed import Feed
from pfa_onnx.torch.module import OnnxModule
from pfa_onnx.torch.objective import Objective, Tensors, are_probabilities, score_output

BATCH = 64
FEWEST_STEPS = 8  # in an epoch; batches are smaller where there are few samples

Pictures = tuple[str, bool, tuple[str, ...]]  # an input, whether its channels come last, what is done to it


# --- what is refused ----------------------------------------------------------------------------------------


def refuse_paths(pruned: Path, teacher: Path | None, output: Path, *, labels: bool) -> None:
    """Raise UsageError for an output that must not be written, or when there is nothing to learn from."""
    check_target(output, pruned)
    if teacher is None and not labels:
        raise UsageError(
            "there is nothing to learn from: neither a teacher nor labels",
            at="--teacher",
            fix="give --teacher ORIGINAL, or --labels with data that has them",
        )
    if teacher is not None and teacher.exists():
        check_target(output, teacher)


def refuse_teacher(graph: Graph, original: Graph, recipe: Embedded | None, chosen: Training, hooks: Hooks) -> None:
    """Raise ModelError when the teacher is not what the model was pruned from, or does not fit it."""
    for what, mine, others in (
        ("inputs", [spec.name for spec in graph.inputs], [spec.name for spec in original.inputs]),
        ("outputs", list(graph.outputs), list(original.outputs)),
    ):
        if set(mine) != set(others):
            raise ModelError(
                f"the teacher has the {what} {', '.join(others)}, the model {', '.join(mine)}",
                at=str(original.path),
                fix="give the model that this one was pruned from",
            )
    if chosen.any_teacher:
        return
    if recipe is None:
        hooks.warn("the model has no recipe inside: nothing says that this teacher is its original")
    elif recipe.kept_of(original.sha256) is None:
        raise ModelError(
            f"the teacher is not the model that this one was pruned from (sha256 {original.sha256[:8]}..., "
            f"that was {recipe.original_sha256[:8]}...)",
            at=str(original.path),
            fix="give the original, or accept any model with the same outputs with --any-teacher",
        )


# --- what it is made of -------------------------------------------------------------------------------------


def device_of(providers: str) -> torch.device:
    """Return where to train; raises UsageError when CUDA is asked for and is not there."""
    if providers == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "PyTorch finds no CUDA device", at="--providers cuda", fix="install a PyTorch with CUDA, or leave it out"
        )
    return torch.device("cuda" if providers != "cpu" and torch.cuda.is_available() else "cpu")


def batch_size(graph: Graph, data: DataOptions, dataset: Dataset) -> int:
    """Return how many samples to train on at once: the model's fixed batch, what is asked for, or a usual number."""
    bound = fixed_batch(graph.inputs)
    if bound is not None:
        return bound
    if data.batch_size is not None:
        return data.batch_size
    few = BATCH if dataset.count is None else max(2, dataset.count // FEWEST_STEPS)
    return min(BATCH, few)


def objective_of(
    student: OnnxModule,
    teacher: OnnxModule | None,
    *,
    feed: Feed,
    dataset: Dataset,
    chosen: Training,
    recipe: Embedded | None,
) -> tuple[Objective, dict[str, int] | None]:
    """Return what to make small, and the class of every label where labels are classes.

    Raises DataError or UsageError when labels are asked for and are not there, or say nothing.
    """
    first = next(feed.judged())
    with torch.no_grad():
        made = student.compute(first.feeds, student.output_names)
    scores = score_output(made, student.output_names, first.count)
    classes = _classes(made, scores, feed, dataset, needed=chosen.labels)
    floats = tuple(name for name in student.output_names if made[name].is_floating_point())
    if teacher is not None and not floats:
        names = ", ".join(student.output_names)
        raise UsageError("no output is a float: there is nothing to compare", at=names, fix="give --labels")
    if teacher is not None:
        _refuse_unlike(made, teacher, first.feeds, floats)
    objective = Objective(
        outputs=floats if teacher is not None else (scores,) if scores else (),
        scores=scores,
        probabilities=scores is not None and are_probabilities(made[scores]),
        responses=_responses(student, teacher, first.feeds, recipe) if chosen.responses else None,
        weight=chosen.responses,
        labels=chosen.labels,
        teaching=chosen.teaching if chosen.labels else 1.0,
    )
    return objective, classes


def _refuse_unlike(made: Tensors, teacher: OnnxModule, feeds: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise UsageError unless the teacher's outputs are of the same shapes."""
    with torch.no_grad():
        taught = teacher.compute(feeds, names)
    for name in names:
        mine, other = ("x".join(map(str, found[name].shape)) for found in (made, taught))
        if mine != other:
            what = f"output '{name}' is {mine} of the model, and {other} of the teacher"
            raise UsageError(what, at="--teacher", fix="give the model that it was pruned from")


def _classes(made: Tensors, scores: str | None, feed: Feed, dataset: Dataset, *, needed: bool) -> dict[str, int] | None:
    known = {label for label in (*feed.labels, *dataset.classes) if label is not None}
    width = 0 if scores is None else made[scores].shape[1]
    found = class_numbers(known, width) if known and None not in feed.labels else None
    if found is not None or not needed:
        return found
    if scores is None:
        raise UsageError("no output holds class scores", at="--labels", fix="learn from the teacher alone")
    if not known or None in feed.labels:
        what = "some samples have no label" if known else "the data has no labels"
        raise DataError(what, at=dataset.source, fix="put pictures into a folder for each class, or add a labels.csv")
    some = ", ".join(sorted(known)[:3])
    raise DataError(
        f"{len(known)} labels ({some}, ...) do not say which of the {width} classes they are",
        at=dataset.source,
        fix=f"name them by numbers from 0 to {width - 1}, for instance in labels.csv",
    )


def _responses(
    student: OnnxModule, teacher: OnnxModule | None, feeds: Mapping[str, Any], recipe: Embedded | None
) -> dict[str, tuple[int, Ints]]:
    """Return the layers whose responses can be compared: channel axis, and the teacher's channels that are left."""
    kept = recipe.kept_of(teacher.sha256) if recipe is not None and teacher is not None else None
    if kept is None or teacher is None:
        raise UsageError("responses are compared channel by channel", at="--responses", fix="give the original")
    there = [name for name in kept if student.makes(name) and teacher.makes(name)]
    with torch.no_grad():
        mine, others = (module.compute(feeds, there) for module in (student, teacher))
    found = {}
    for name in there:
        for axis in (1, -1):
            small, large = list(mine[name].shape), list(others[name].shape)
            if small[axis] == len(kept[name]) and large[axis] > max(kept[name], default=0):
                small[axis] = large[axis]
                if small == large:
                    found[name] = axis, np.array(kept[name], np.int64)
                    break
    return found


def pictures_of(graph: Graph, dataset: Dataset, chosen: Training) -> Pictures | None:
    """Return the input that takes pictures, if one does, and what is done to them.

    Raises UsageError when something shall be done to what are no pictures.
    """
    asked = chosen.augment
    inputs = graph.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        if asked:
            raise UsageError("the model does not take pictures alone", at="--augment", fix="leave --augment out")
        return None
    prepared = prepared_by(dataset)
    if asked is None:  # arrays may be anything, and labels of mirrored digits are wrong
        asked = () if not prepared else ("shift",) if chosen.labels else KINDS
    shape = inputs[0].shape
    last = prepared["layout"] == "nhwc" if prepared else shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return inputs[0].name, last, tuple(asked)


def method_of(chosen: Training, pictures: Pictures | None, *, taught: bool) -> dict[str, Any]:
    """Return how it was trained, as plain values for reports."""
    found: dict[str, Any] = {
        "augment": list(pictures[2]) if pictures else [],
        "epochs": chosen.epochs,
        "labels": chosen.labels,
        "optimizer": chosen.optimizer,
        "rate": chosen.highest,
        "seed": chosen.seed,
        "teacher": taught,
    }
    if taught and chosen.labels:
        found["teaching"] = chosen.teaching
    if chosen.responses:
        found["responses"] = chosen.responses
    return found
