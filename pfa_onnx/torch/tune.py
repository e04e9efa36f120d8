"""Fine-tuning a pruned model: the story in order.

load both -> check that they belong together -> look at the data -> train -> write the best weights into the same graph
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pfa_onnx.errors import ModelError, PfaError, TrainingError, UsageError, is_out_of_memory
from pfa_onnx.graph.model import Graph, load, refuse_changed
from pfa_onnx.options import DataOptions, Hooks, Training
from pfa_onnx.replacing import remove_leftovers
from pfa_onnx.results import DataInfo, Tuned
from pfa_onnx.stats.data import Dataset
from pfa_onnx.stats.parts import digest
from pfa_onnx.steps.apply import write
from pfa_onnx.steps.embedded import content_of, read_embedded, store
from pfa_onnx.steps.measure import describe_model, learn_shapes, open_dataset, prepared_by, report_skipped
from pfa_onnx.torch.checkpoint import read_history
from pfa_onnx.torch.feed import Feed
from pfa_onnx.torch.files import refuse_not_finite, with_weights
from pfa_onnx.torch.module import OnnxModule
from pfa_onnx.torch.settings import (
    batch_size,
    device_of,
    method_of,
    objective_of,
    pictures_of,
    refuse_paths,
    refuse_teacher,
)
from pfa_onnx.torch.trainer import Progressed, Trainer

Shapes = tuple[Mapping[str, tuple[int, ...]], int]


def finetune(
    pruned: Path,
    data: DataOptions,
    chosen: Training,
    *,
    teacher: Path | None,
    output: Path,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> Tuned:
    """Train a pruned model to answer as its original does, or as labels say; writes the best weights to `output`.

    teacher: the original; None learns from labels alone. resume: go on where an interrupted run with this output
    stopped. Raises a PfaError; TrainingError when the loss is no longer a number. Whenever it ends early, and there is
    something better than the start, `output` holds it.
    """
    start, hooks = time.perf_counter(), hooks or Hooks()
    refuse_paths(pruned, teacher, output, labels=chosen.labels)
    run = _set_up(load(pruned), None if teacher is None else load(teacher), data, chosen, output=output, hooks=hooks)
    trainer = run.trainer
    ended = None
    if not (resume and _is_finished(trainer, output)):
        ended = _trained(trainer, resume=resume)
    result = _result(run, output, time.perf_counter() - start)
    if ended is None or result.best:
        refuse_changed(run.graph)
        write(_tuned(trainer, result), output)
    if ended is None or isinstance(ended, TrainingError):  # the same steps would lead to the same numbers
        trainer.checkpoint.unlink(missing_ok=True)
        remove_leftovers(trainer.checkpoint)
    if ended is not None:
        raise _told(ended, result, hooks)
    return result


@dataclass(frozen=True, eq=False)
class _Run:
    """All that a training needs. shapes: of the graph's tensors, and of how many samples."""

    graph: Graph
    original: Graph | None
    dataset: Dataset
    feed: Feed
    shapes: Shapes
    trainer: Trainer


def _set_up(
    graph: Graph, original: Graph | None, data: DataOptions, chosen: Training, *, output: Path, hooks: Hooks
) -> _Run:
    """Check that everything fits together, and put it together; nothing is trained or written."""
    recipe = read_embedded(graph)
    device = device_of(data.providers)
    student = OnnxModule(graph).to(device)
    if not list(student.parameters()):
        what = "there is nothing to train: no weight is a float"
        raise ModelError(what, at=str(graph.path), fix="fine-tune it before it is quantized")
    refuse_not_finite(student.state_dict(), fix="export the model again: nothing can be learned from there")
    if original is not None:
        refuse_teacher(graph, original, recipe, chosen, hooks)
    mentor = None if original is None else OnnxModule(original).to(device).requires_grad_(requires_grad=False)

    dataset = open_dataset(graph, data)
    feed = Feed(dataset, batch_size(graph, data, dataset), share=chosen.held, seed=chosen.seed)
    report_skipped(dataset.skipped, hooks)
    shapes = learn_shapes(graph, {name: array[:1] for name, array in next(feed.judged()).feeds.items()})
    objective, classes = objective_of(student, mentor, feed=feed, dataset=dataset, chosen=chosen, recipe=recipe)
    trainer = Trainer(
        student, mentor, feed, objective, chosen,
        classes=classes,
        pictures=pictures_of(graph, dataset, chosen),
        checkpoint=output.with_name(f"{output.name}.partial"),
        known=_known(graph, original, dataset, data, chosen),
        hooks=hooks,
    )  # fmt: skip
    return _Run(graph, original, dataset, feed, shapes, trainer)


def _result(run: _Run, output: Path, seconds: float) -> Tuned:
    trainer, dataset, feed, found = run.trainer, run.dataset, run.feed, run.trainer.found
    device = next(trainer.student.parameters()).device.type
    return Tuned(
        model=describe_model(run.graph, *run.shapes),
        teacher=None if run.original is None else str(run.original.path),
        data=DataInfo(dataset.source, feed.train, prepared_by(dataset), device, feed.size, tuple(dataset.skipped)),
        held=feed.held,
        method=method_of(trainer.chosen, trainer.pictures, taught=run.original is not None),
        history=tuple(found.history),
        best=found.best,
        trained=sum(weight.numel() for weight in trainer.student.parameters()),
        device=device,
        output=output,
        teacher_accuracy=found.teacher_accuracy,
        timings={"train": seconds},
    )


def _trained(trainer: Trainer, *, resume: bool) -> KeyboardInterrupt | PfaError | None:
    """Train; return what ended it early: an interrupt, a loss that is no number, a full disk or memory."""
    try:
        trainer.run(resume=resume)
    except (KeyboardInterrupt, TrainingError, UsageError) as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = "out of memory while the model is trained"
        return ModelError(what, at=str(trainer.student.path), fix="use a smaller --batch-size")
    return None


def _told(ended: KeyboardInterrupt | PfaError, result: Tuned, hooks: Hooks) -> KeyboardInterrupt | PfaError:
    """Say what is left of a run that ended early."""
    left = (
        f"{result.output} holds the best so far, after epoch {result.best}"
        if result.best
        else "no epoch was better than the start, and nothing was written"
    )
    if isinstance(ended, PfaError):
        return type(ended)(f"{ended.what}; {left}", at=ended.at, fix=ended.fix)
    hooks.warn(f"interrupted: {left}; the same command with --resume goes on")
    return ended


def _tuned(trainer: Trainer, result: Tuned) -> Graph:
    """Return the graph with the best weights; its recipe says how it was trained."""
    found = trainer.found
    graph = with_weights(trainer.student, found.weights)
    content = {
        "best": found.best,
        "history": [asdict(one) for one in found.history],
        "known": trainer.known,
        "method": dict(result.method),
        "samples": result.data.samples,
        "teacher_accuracy": found.teacher_accuracy,
    }
    store(graph, {**content_of(graph), "finetune": content})
    return graph


def _is_finished(trainer: Trainer, output: Path) -> bool:
    """Take the outcome of the very same run from its output, if it ended there."""
    if trainer.checkpoint.exists() or not output.exists():
        return False
    graph = load(output)
    found = content_of(graph).get("finetune", {})
    if not isinstance(found, dict) or found.get("known") != trainer.known:
        return False
    try:
        told = read_history(found)
    except (KeyError, TypeError, ValueError):
        return False
    before = trainer.found
    trainer.found = Progressed(list(told.qualities), told.best, {}, told.teacher_accuracy)
    if not trainer.is_over:  # the best of a run that ended before its first checkpoint
        trainer.found = before
        return False
    trainer.student.load_state_dict(OnnxModule(graph).state_dict())
    trainer.found.weights = {name: tensor.detach().cpu() for name, tensor in trainer.student.state_dict().items()}
    return True


def _known(graph: Graph, original: Graph | None, dataset: Dataset, data: DataOptions, chosen: Training) -> str:
    """Return what tells this run from all others."""
    what = [
        graph.sha256,
        "" if original is None else original.sha256,
        str(dataset.part()),
        json.dumps(prepared_by(dataset), sort_keys=True, default=str),
        f"{data.batch_size} {data.limit}",
        json.dumps(asdict(chosen), sort_keys=True),
    ]
    return digest(*(piece.encode() for piece in what))
