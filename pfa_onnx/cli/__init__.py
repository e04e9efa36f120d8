"""The command line: flags -> one pipeline call -> exit code; the only package that prints.

params (flags) -> collect (flags to options, and what does not go together) -> app (the verbs)
-> terminal (progress, warnings, colours) and files (reports on disk).

Exit codes: 0 fine, 1 the answer is no, 2 could not run, 130 interrupted. Nothing heavy is imported before a verb
runs, so that `--help` is instant.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from pfa_onnx.cli import compare as _compare  # noqa: F401 - it registers its verb
from pfa_onnx.cli import finetune as _finetune  # noqa: F401
from pfa_onnx.cli import inspect as _inspect  # noqa: F401
from pfa_onnx.cli import sweep as _sweep  # noqa: F401
from pfa_onnx.cli.app import app
from pfa_onnx.cli.suggestions import usage
from pfa_onnx.cli.terminal import complain, forgive_encodings, show, width_of_help
from pfa_onnx.errors import BUG, InternalError, PfaError, is_out_of_memory

# what a disk, a path or the system says no to is no bug
_REFUSALS = (
    "EACCES", "EAGAIN", "EBUSY", "EDQUOT", "EFBIG", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE",
    "ENOENT", "ENOMEM", "ENOSPC", "ENOTDIR", "EPERM", "EROFS", "ESTALE",
)  # fmt: skip
_NO_THREAD = "can't start new thread"  # all that Python says
_HERE = "this machine"


@dataclass
class State:
    """What a verb tells `main`: whether to show tracebacks of bugs."""

    verbose: bool = False


def main(argv: Sequence[str] | None = None, *, interrupted: Callable[[], bool] = bool) -> int:
    """Run one command and return its exit code.

    interrupted: whether Ctrl-C was pressed; libraries make other errors of it.
    """
    forgive_encodings()
    state = State()
    try:
        code = app.main(
            args=argv if argv is None else list(argv),
            prog_name="pfa-onnx",
            standalone_mode=False,
            # a glob is for layers here, not for files
            windows_expand_args=False,
            terminal_width=width_of_help(),
            obj=state,
        )
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except click.ClickException as error:
        complain(usage(error, app, sys.argv[1:] if argv is None else argv))
        return 2
    except Exception as error:  # noqa: BLE001  Python's own exit code for a traceback is 1, which would read as "no"
        if interrupted():
            complain("interrupted")
            return 130
        return _failed(error, verbose=state.verbose)
    return code if isinstance(code, int) else 0


def _failed(error: Exception, *, verbose: bool) -> int:
    if isinstance(error, PfaError) and not isinstance(error, InternalError):
        complain(str(error))
        return error.exit_code
    if verbose:
        show("".join(traceback.format_exception(error)), sys.stderr)
    refused = _refused(error)
    if refused is not None:
        complain(str(refused))
        return 2
    complain(str(error if isinstance(error, InternalError) else _bug(error)))
    return 2


def _bug(error: Exception) -> InternalError:
    """Return what to say of an error that nobody expected: where it was raised is in the code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return InternalError(what, at=f"{last.filename}:{last.lineno} in {last.name}", fix=BUG)


def _refused(error: Exception) -> PfaError | None:
    """Return what to say of an error that is the machine's and not ours; None of a bug."""
    if is_out_of_memory(error):
        return PfaError("out of memory", at=_HERE, fix="use a smaller --batch-size")
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return PfaError(
            "the system gives no more threads", at=_HERE, fix="allow more memory or processes, see `ulimit -a`"
        )
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _REFUSALS:
        at = _HERE if error.filename is None else str(error.filename)
        what = str(error.strerror)
        return PfaError(what[:1].lower() + what[1:], at=at, fix="check the path, its permissions, and the room there")
    return None


if __name__ == "__main__":
    sys.exit(main())
