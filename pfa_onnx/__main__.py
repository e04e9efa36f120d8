"""`pfa-onnx` and `python -m pfa_onnx`: a process around the command line, which Ctrl-C ends at any time in one way."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

_INTERRUPTED = 130
_AGAIN = 0.1  # seconds after which an interrupt that nobody noticed is sent again

_seen: list[int] = []


def run() -> int:
    """Run the command of this process and return its exit code."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unnoticed
    code = _INTERRUPTED
    try:
        try:
            code = _run()
        finally:  # what is left is to end, and to end with this code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # too early or too late for the command line
        sys.stderr.write("interrupted\n")
    return code


def _run() -> int:
    if not sys.warnoptions:  # they are about the code of libraries; what users are told is told by hooks
        import warnings  # noqa: PLC0415

        warnings.simplefilter("ignore")
    from pfa_onnx.cli import main  # noqa: PLC0415 - an interrupt may come before it is there

    return main(interrupted=lambda: bool(_seen))


def _interrupt(number: int, frame: FrameType | None) -> None:
    _seen.append(number)
    signal.default_int_handler(number, frame)


def _unnoticed(found: Any) -> None:
    """Send an interrupt again that came while Python cleaned up, where exceptions end in a message."""
    if not isinstance(found.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(found)
        return
    import _thread  # noqa: PLC0415
    import threading  # noqa: PLC0415

    again = threading.Timer(_AGAIN, _thread.interrupt_main)
    if sys.platform != "win32":  # it wakes one who sleeps, too
        again = threading.Timer(_AGAIN, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


if __name__ == "__main__":
    sys.exit(run())
