"""What an interrupted training left behind. It is input like any other file: everything in it is checked.

PyTorch reads it without running anything (`weights_only`); what it then holds is compared with the module and the
optimizer that it is to go on with.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pfa_onnx.errors import StatsError
from pfa_onnx.results import Quality

State = Mapping[str, Tensor]

_KEYS = {"known", "history", "best", "teacher_accuracy", "weights", "student", "optimizer", "scaler"}
_WITHOUT = "leave --resume out"


@dataclass(frozen=True)
class History:
    """How a training went. qualities: after no epoch, one, two, ...; best: the epoch that was the best of them."""

    qualities: tuple[Quality, ...]
    best: int
    teacher_accuracy: float | None


@dataclass(frozen=True)
class Saved:
    """A training that is not finished. weights: the best so far; student, optimizer, scaler: their states."""

    history: History
    weights: State
    student: State
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def read_checkpoint(path: Path, known: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> Saved:
    """Read a checkpoint.

    known: what it must be a run of. module, optimizer: what is to go on with it. Raises StatsError when it is broken,
    or of another run.
    """
    own = module.state_dict()
    device = next(iter(own.values())).device
    try:
        content = _content(path, device)
    except Exception as error:  # noqa: BLE001 - torch raises anything on a broken file
        raise _broken(path, error) from None
    if not isinstance(content["known"], str) or content["known"] != known:
        raise StatsError(
            "the checkpoint is of another run: models, data or options differ",
            at=str(path),
            fix="give the same command as then, or leave --resume out",
        )
    try:
        _check_optimizer(content["optimizer"], optimizer)
        return Saved(
            history=read_history(content),
            weights={name: tensor.cpu() for name, tensor in _state(content["weights"], own).items()},
            student=_state(content["student"], own),
            optimizer=content["optimizer"],
            scaler=_numbers(content["scaler"]),
        )
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise _broken(path, error) from None


def _content(path: Path, device: torch.device) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:  # else PyTorch would try what it wrote years ago
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise ValueError("it is compressed")
    content = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(content, dict) or not set(content) >= _KEYS:
        raise ValueError("it has not what a checkpoint has")
    return content


def read_history(content: Mapping[str, Any]) -> History:
    """Return how a training went, as a file says it; raises KeyError, TypeError or ValueError for nonsense."""
    qualities = tuple(_quality(one) for one in content["history"])
    best, accuracy = content["best"], content["teacher_accuracy"]
    if type(best) is not int or not 0 <= best < len(qualities):
        raise ValueError("the best epoch is none")
    if accuracy is not None and not _is_share(accuracy):
        raise ValueError("the teacher's accuracy is none")
    return History(qualities, best, accuracy)


def _quality(found: Mapping[str, Any]) -> Quality:
    one = Quality(**found)
    right = isinstance(one.loss, float | int) and not math.isnan(one.loss)
    if not right or not all(share is None or _is_share(share) for share in (one.agreement, one.accuracy)):
        raise ValueError("an epoch has no numbers")
    return one


def _is_share(found: Any) -> bool:
    return _is_number(found) and 0 <= found <= 1


def _state(found: Any, own: State) -> State:
    """Return the state of a module, which has to be made of the same tensors as its own."""
    if not isinstance(found, dict) or set(found) != set(own):
        raise ValueError("it has other weights than the model")
    for name, tensor in found.items():
        _check_alike(tensor, own[name], name)
    return found


def _check_alike(found: Any, own: Tensor, name: str) -> None:
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (own.shape, own.dtype):
        raise ValueError(f"{name} is of another shape or type")
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise ValueError(f"{name} is not finite")


def _check_optimizer(found: Any, own: torch.optim.Optimizer) -> None:
    """Raise ValueError or its kin unless this is the state of such an optimizer, of the same weights."""
    groups, mine = found["param_groups"], own.state_dict()["param_groups"]
    if [_without_rate(group) for group in groups] != [_without_rate(group) for group in mine]:
        raise ValueError("its optimizer is another one")
    if not all(_is_number(group["lr"]) for group in groups):
        raise ValueError("its rate is none")
    weights = [weight for group in own.param_groups for weight in group["params"]]
    kept = {"step", "exp_avg", "exp_avg_sq"} if "betas" in mine[0] else {"momentum_buffer"}
    for number, state in found["state"].items():
        if set(state) != kept:
            raise ValueError("the state of its optimizer is that of another one")
        for name, tensor in state.items():
            wanted = torch.Size(()) if name == "step" else weights[number].shape
            if not isinstance(tensor, Tensor) or tensor.shape != wanted or not torch.isfinite(tensor).all():
                raise ValueError("the state of its optimizer is none")


def _without_rate(group: Mapping[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, Tensor) for value in group.values()):
        raise TypeError("its optimizer is another one")
    return {key: value for key, value in group.items() if key != "lr"}


def _is_number(found: Any) -> bool:
    return isinstance(found, float | int) and not isinstance(found, bool) and math.isfinite(found)


def _numbers(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(_is_number(number) for number in found.values()):
        raise ValueError("the state of its scaler is none")
    return dict(found)


def _broken(path: Path, error: Exception) -> StatsError:
    why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return StatsError(f"the checkpoint is broken ({why})", at=str(path), fix=_WITHOUT)
