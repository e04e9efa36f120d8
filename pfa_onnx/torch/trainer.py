"""The loop: epochs of steps, the best weights kept, everything saved after every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pfa_onnx.errors import TrainingError, UsageError
from pfa_onnx.options import Hooks, Training
from pfa_onnx.replacing import replacing
from pfa_onnx.results import Quality
from pfa_onnx.stats.data import Batch
from pfa_onnx.torch.augment import augment
from pfa_onnx.torch.checkpoint import read_checkpoint
from pfa_onnx.torch.feed import Feed
from pfa_onnx.torch.module import OnnxModule
from pfa_onnx.torch.objective import Objective

State = dict[str, Tensor]

CLIP = 1.0  # the longest gradient, over all weights
FEWEST = 4  # of fewer samples in a batch, BatchNormalization learns nothing


@dataclass
class Progressed:
    """How far training is. history: after no epoch, one, two, ...; best: the epoch of `weights`."""

    history: list[Quality] = field(default_factory=list)
    best: int = 0
    weights: State = field(default_factory=dict)
    teacher_accuracy: float | None = None


class Trainer:
    """Trains a module in place.

    classes: label -> class, where labels count. pictures: of one input, its name, whether its channels come last, and
    what may be done to it. checkpoint: the file that the run is saved in; known: what it must be a run of.
    """

    def __init__(
        self,
        student: OnnxModule,
        teacher: OnnxModule | None,
        feed: Feed,
        objective: Objective,
        chosen: Training,
        *,
        classes: dict[str, int] | None = None,
        pictures: tuple[str, bool, tuple[str, ...]] | None = None,
        checkpoint: Path,
        known: str,
        hooks: Hooks,
    ) -> None:
        self.student, self.teacher, self.feed, self.objective, self.chosen = student, teacher, feed, objective, chosen
        self.classes, self.pictures, self.hooks = classes, pictures, hooks
        self.checkpoint, self.known = checkpoint, known
        self.device = next(student.parameters()).device
        for module in (student, teacher):
            if module is not None:
                _put_channels_last(module)
        self.found = Progressed()
        self.optimizer = _optimizer(student, chosen)
        mixed = chosen.precision == "mixed" or (chosen.precision == "auto" and self.device.type == "cuda")
        narrow = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self._half = (torch.float16 if narrow else torch.bfloat16) if mixed else None
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=mixed and narrow)

    # --- epochs -------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Progressed:
        """Train until the epochs are over or the last few brought nothing.

        Raises TrainingError when the loss is no longer a number; `found` then holds the best so far.
        """
        if not (resume and self._restore()):
            self._judge()
        while not self.is_over:
            with _seeded(self.chosen.seed, len(self.found.history)):
                self._epoch(len(self.found.history))
            self._judge()
            self._save()
        return self.found

    @property
    def is_over(self) -> bool:
        """Whether all epochs are behind, or the last ones were no better than one before."""
        epochs = len(self.found.history) - 1
        return epochs >= self.chosen.epochs or epochs - self.found.best >= self.chosen.patience

    def _epoch(self, number: int) -> None:
        self.student.train(self.feed.size >= FEWEST)
        first = (number - 1) * self.feed.steps
        for k, batch in enumerate(self.feed.epoch(number)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.chosen.highest * self._share(first + k)
            self._step(batch, f"epoch {number}, step {k + 1}")
            self.hooks.progress(f"epoch {number} of {self.chosen.epochs}", k + 1, self.feed.steps)
        self.student.eval()

    def _share(self, step: int) -> float:
        """Return the share of the highest rate: up a line, down a cosine."""
        total = self.chosen.epochs * self.feed.steps
        warm = max(1, round(self.chosen.warmup * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def _step(self, batch: Batch, at: str) -> None:
        feeds = self._inputs(batch)
        loss = self._loss(feeds, batch)
        if not torch.isfinite(loss):
            where = self.student.first_not_finite(feeds) or "the loss itself"
            raise TrainingError(
                f"the loss is {loss.item():g} in {at}",
                at=where,
                fix=f"train with a lower --rate than {self.chosen.highest:g}",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    # --- one batch ----------------------------------------------------------------------------------------

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        feeds = {name: torch.from_numpy(array) for name, array in batch.feeds.items()}
        if self.pictures is not None and self.pictures[2]:
            name, channels_last, kinds = self.pictures
            feeds[name] = augment(feeds[name], kinds, torch.default_generator, channels_last=channels_last)
        return self._placed(feeds)

    def _placed(self, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring inputs to where the model is, in the order of elements that convolutions like."""
        orders = {name: torch.channels_last if t.ndim == 4 else torch.preserve_format for name, t in feeds.items()}
        return {name: tensor.to(self.device, memory_format=orders[name]) for name, tensor in feeds.items()}

    def _loss(self, feeds: dict[str, Tensor], batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
            taught = self._taught(feeds)
            made = self.student.compute(feeds, self.objective.wanted)
        return self.objective.loss(made, taught, self._numbers(batch))

    def _taught(self, feeds: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher.compute(feeds, self.objective.wanted)

    def _numbers(self, batch: Batch) -> Tensor | None:
        if not self.objective.labels:
            return None
        assert self.classes is not None
        return torch.tensor([self.classes[str(label)] for label in batch.labels], device=self.device)

    def _judge(self) -> None:
        """Measure the student on what is held back, and keep its weights if there were none better."""
        tally = _Tally()
        with torch.no_grad():
            for k, batch in enumerate(self.feed.judged()):
                feeds = self._placed({name: torch.from_numpy(array) for name, array in batch.feeds.items()})
                made, taught = self.student.compute(feeds, self.objective.wanted), self._taught(feeds)
                tally.add(float(self.objective.loss(made, taught, self._numbers(batch))), batch.count)
                tops = None if taught is None else self.objective.tops(taught)
                tally.compare(self.objective.tops(made), tops, self._truth(batch))
                self.hooks.progress("judge", k + 1, None)
        found, history = tally.quality, self.found.history
        self.found.teacher_accuracy = tally.teacher_accuracy
        history.append(found)
        if len(history) == 1 or found.loss < history[self.found.best].loss:
            weights = {name: t.detach().cpu().clone() for name, t in self.student.state_dict().items()}
            self.found.best, self.found.weights = len(history) - 1, weights  # an interrupt does not come between

    def _truth(self, batch: Batch) -> Tensor | None:
        if self.classes is None or any(label is None for label in batch.labels):
            return None
        return torch.tensor([self.classes[str(label)] for label in batch.labels], device=self.device)

    # --- files --------------------------------------------------------------------------------------------

    def _save(self) -> None:
        content = {
            "known": self.known,
            "history": [asdict(one) for one in self.found.history],
            "best": self.found.best,
            "teacher_accuracy": self.found.teacher_accuracy,
            "weights": self.found.weights,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        try:
            with replacing(self.checkpoint) as stream:
                torch.save(content, stream)
        except (OSError, RuntimeError) as error:  # torch makes the second of the first
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            fix = "free some space there, then give the same command with --resume"
            raise UsageError(
                f"cannot save the checkpoint: {cause.strerror}", at=str(self.checkpoint), fix=fix
            ) from None

    def _restore(self) -> bool:
        """Go on from a checkpoint, if there is one; raises StatsError when it is broken or of another run."""
        if not self.checkpoint.exists():
            return False
        saved = read_checkpoint(self.checkpoint, self.known, self.student, self.optimizer)
        self.student.load_state_dict(saved.student)
        self.optimizer.load_state_dict(saved.optimizer)
        self._scaler.load_state_dict(saved.scaler)
        told = saved.history
        self.found = Progressed(list(told.qualities), told.best, dict(saved.weights), told.teacher_accuracy)
        return True


@dataclass
class _Tally:
    """Sums over what is held back."""

    loss: float = 0.0
    samples: int = 0
    agreeing: int = 0
    compared: int = 0
    right: int = 0
    teacher_right: int = 0
    labelled: int = 0

    def add(self, loss: float, samples: int) -> None:
        self.loss, self.samples = self.loss + loss * samples, self.samples + samples

    def compare(self, made: Tensor | None, taught: Tensor | None, truth: Tensor | None) -> None:
        if made is not None and taught is not None:
            self.agreeing, self.compared = self.agreeing + int((made == taught).sum()), self.compared + len(made)
        if made is not None and truth is not None:
            self.right, self.labelled = self.right + int((made == truth).sum()), self.labelled + len(made)
            self.teacher_right += 0 if taught is None else int((taught == truth).sum())

    @property
    def quality(self) -> Quality:
        loss = self.loss / self.samples
        return Quality(loss if math.isfinite(loss) else math.inf, _ratio(self.agreeing, self.compared), self.accuracy)

    @property
    def accuracy(self) -> float | None:
        return _ratio(self.right, self.labelled)

    @property
    def teacher_accuracy(self) -> float | None:
        return _ratio(self.teacher_right, self.labelled) if self.compared else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _put_channels_last(module: nn.Module) -> None:
    """Convolutions of pictures run a third faster so, on the CPU too."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:  # what torch itself would do refuses a module with kernels of five axes
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _optimizer(student: OnnxModule, chosen: Training) -> torch.optim.Optimizer:
    """Decay matrices and kernels, but not biases and the scales of normalisations."""
    weights = list(student.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": chosen.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if chosen.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=chosen.highest, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=chosen.highest)


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[None]:
    """Draw the same numbers in this epoch whenever it runs, and leave the caller's random numbers alone."""
    with torch.random.fork_rng():
        torch.manual_seed((seed << 20) + epoch)
        yield
