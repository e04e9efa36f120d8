"""Everything that can go wrong, as one tree.

PfaError                    what is wrong / at: where / fix: one thing to do
├── UsageError         2    flags that do not go together, names that match nothing
├── ModelError         2    the model cannot be read, run or written
├── DataError          2    the calibration data cannot be read or does not fit the model
├── StatsError         2    a statistics or recipe file is broken or belongs to another model
├── InternalError      2    a bug in pfa-onnx: nothing was written
├── TargetError        1    no recipe reaches the target
├── TrainingError      1    fine-tuning went astray: the best model before that was written, if any was better
└── ProofError         1    the pruned model is not the masked original: nothing was written

The number is the exit code: 1 means "it ran, and the answer is no", 2 means "it could not run".
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar

from pfa_onnx.printable import in_one_line

BUG = "this is a bug in pfa-onnx; please report it with the model and the traceback that -v shows"


class PfaError(Exception):
    """An error with a place and a way out.

    what: what is wrong, with names and numbers, in lower case.
    at: the node, file, input or flag where it is wrong.
    fix: one thing to type or do.
    """

    exit_code: ClassVar[int] = 2
    title: ClassVar[str] = "error"

    def __init__(self, what: str, *, at: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.at = at
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with all three lines."""
        return partial(type(self), at=self.at, fix=self.fix), (self.what,)

    def __str__(self) -> str:
        return f"{self.title}: {self.what}\n  at: {in_one_line(self.at)}\n  fix: {self.fix}"


class UsageError(PfaError):
    """Flags that do not go together, or names that match nothing."""


class ModelError(PfaError):
    """The model cannot be read, run or written."""


class DataError(PfaError):
    """The calibration data cannot be read or does not fit the model."""


class StatsError(PfaError):
    """A statistics or recipe file is broken or belongs to another model."""


class InternalError(PfaError):
    """A bug in pfa-onnx; nothing was written."""

    title = "internal error"


class TargetError(PfaError):
    """No recipe reaches the target."""

    exit_code = 1


class TrainingError(PfaError):
    """Fine-tuning went astray; the best model before that was written, if any was better than the start."""

    exit_code = 1


class ProofError(PfaError):
    """The pruned model does not compute what the masked original computes; nothing was written."""

    exit_code = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether there was no room: PyTorch says so with a RuntimeError, of a device and of main memory."""
    told = isinstance(error, RuntimeError) and re.search("out of memory|allocate memory", str(error))
    return isinstance(error, MemoryError) or bool(told)
