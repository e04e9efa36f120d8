"""What training makes small: the distance to the teacher's outputs and responses, and to the labels.

Class scores are compared as Hinton, Vinyals and Dean do (2015): the divergence of softened distributions. All other
outputs, and responses of layers, by their mean square error over the variance of what the teacher makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pfa_onnx.recipe import Ints

Tensors = Mapping[str, Tensor]

TEMPERATURE = 4.0
_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """How far a student is from what it shall be.

    scores: the output that holds class scores, if one does; probabilities: it holds probabilities, not logits.
    outputs: those that are compared with the teacher's. responses: layer output -> (its channel axis, which of the
    teacher's channels it has); weight: of these. labels: whether samples have classes that count; teaching: the weight
    of the teacher's outputs.
    """

    outputs: tuple[str, ...]
    scores: str | None = None
    probabilities: bool = False
    responses: Mapping[str, tuple[int, Ints]] | None = None
    weight: float = 0.0
    labels: bool = False
    teaching: float = 1.0

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tensors that it compares."""
        return tuple(dict.fromkeys((*self.outputs, *(self.responses or ()))))

    def loss(self, student: Tensors, teacher: Tensors | None, classes: Tensor | None) -> Tensor:
        """Return a number. classes: [N], of every sample."""
        total = torch.zeros((), device=student[self.wanted[0]].device)
        if classes is not None:
            assert self.scores is not None
            total = total + functional.cross_entropy(self._logits(student), classes)
        if teacher is not None:
            total = total + self.teaching * sum(self._apart(name, student, teacher) for name in self.outputs)
            if self.responses:
                apart = [self._response(name, student, teacher) for name in self.responses]
                total = total + self.weight * sum(apart) / len(apart)
        return total

    def _logits(self, found: Tensors) -> Tensor:
        assert self.scores is not None
        values = found[self.scores].flatten(1).float()
        return torch.log(values.clamp_min(1e-8)) if self.probabilities else values

    def _apart(self, name: str, student: Tensors, teacher: Tensors) -> Tensor:
        if name != self.scores:
            return relative(student[name], teacher[name])
        one, other = (functional.log_softmax(self._logits(t) / TEMPERATURE, 1) for t in (student, teacher))
        return functional.kl_div(one, other, reduction="batchmean", log_target=True) * TEMPERATURE**2

    def _response(self, name: str, student: Tensors, teacher: Tensors) -> Tensor:
        assert self.responses is not None
        axis, kept = self.responses[name]
        whole = teacher[name]
        return relative(student[name], whole.index_select(axis, torch.as_tensor(kept, device=whole.device)))

    def tops(self, found: Tensors) -> Tensor | None:
        """Return the top-1 classes [N], None where no output holds class scores."""
        return None if self.scores is None else found[self.scores].flatten(1).argmax(1)


def relative(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean square error over the variance of what is wanted."""
    wanted = wanted.float()
    return functional.mse_loss(made.float(), wanted) / (wanted.var(correction=0) + _TINY)


def score_output(outputs: Tensors, names: Sequence[str], samples: int) -> str | None:
    """Return the first output that looks like class scores: floats [N, K] or [N, K, 1, 1] with K >= 2."""
    for name in names:
        value = outputs[name]
        if value.is_floating_point() and value.ndim >= 2 and value.shape[0] == samples and value.shape[1] >= 2:
            return name if value.numel() == samples * value.shape[1] else None
    return None


def are_probabilities(values: Tensor) -> bool:
    """Tell whether rows are distributions."""
    rows = values.flatten(1).float()
    return bool((rows >= 0).all() and torch.allclose(rows.sum(1), torch.ones(len(rows), device=rows.device), atol=1e-3))
