"""What people see: the report on standard output; progress, warnings and errors on standard error."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from pfa_onnx.options import Hooks
from pfa_onnx.printable import printable
from pfa_onnx.report.fitting import fitted

if TYPE_CHECKING:
    from pfa_onnx.cli.progress import Bars

_PIPED = 80  # columns of a help text that goes to a file
_NARROWEST = 60  # columns that are needed; on a narrower terminal, lines are broken where it breaks them
_HANG = "    "  # deeper than `at:` and `fix:`
_BLOCKS = str.maketrans("▁▂▃▄▅▆▇█", ".:-=+*%#")
_COLOURS = (
    (re.compile(r"^(internal error:|error:|FAILED.*)", re.MULTILINE), "1;31"),
    (re.compile(r"( FAIL)$", re.MULTILINE), "31"),
    (re.compile(r"^(warning:)", re.MULTILINE), "33"),
    (re.compile(r"^(PASSED.*)", re.MULTILINE), "1;32"),
    (re.compile(r"^(next: |  fix: )", re.MULTILINE), "2"),
)


def forgive_encodings() -> None:
    """Let a name that the terminal cannot show be replaced, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def complain(text: str) -> None:
    """Print on standard error; on a terminal, what a line has too much goes on below it."""
    show(fitted(text, width_of(sys.stderr), _HANG) + "\n", sys.stderr)


def show(text: str, stream: TextIO) -> None:
    """Print a text; a reader that has gone away is no error."""
    text = printable(text)
    if _has_colours(stream):
        for pattern, colour in _COLOURS:
            text = pattern.sub(f"\033[{colour}m\\1\033[0m", text)
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except BrokenPipeError:
        # what is left in the buffer must not fail again when Python ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encodable(text: str, stream: TextIO) -> str:
    try:
        "█".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return text.translate(_BLOCKS)
    return text


def _has_colours(stream: TextIO) -> bool:
    return stream.isatty() and not colourless()


def colourless() -> bool:
    """Whether colours are not wanted (https://no-color.org) or not understood."""
    return bool(os.environ.get("NO_COLOR")) or _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM") == "dumb"


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal, None where lines may be as long as they are."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    columns = int(given) if given.isdecimal() else 0
    with contextlib.suppress(AttributeError, ValueError, OSError):
        columns = columns or os.get_terminal_size(stream.fileno()).columns
    return max(_NARROWEST, columns or _PIPED)


def width_of_help() -> int:
    """Return the columns of a help text: those of the terminal it goes to, and always as many in a file."""
    return min(100, width_of(sys.stdout) or _PIPED) - 2


class Terminal:
    """One run's voice: progress bars while it works, warnings as they come, each one once."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self.verbose = verbose
        self._live = sys.stderr.isatty() and not quiet and not _is_dumb()
        self._bars: Bars | None = None
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.close()

    @property
    def hooks(self) -> Hooks:
        """What the pipeline calls."""
        return Hooks(progress=self._progress, warn=self.warn, note=self._note)

    def _progress(self, phase: str, done: int, total: int | None) -> None:
        if not self._live:
            return
        if self._bars is None:
            from pfa_onnx.cli.progress import Bars  # noqa: PLC0415  rich is for people who watch

            self._bars = Bars(width_of(sys.stderr) or _PIPED, colours=not colourless())
        self._bars.show(phase, done, total)

    def warn(self, text: str) -> None:
        """Print a warning, unless it was printed before."""
        if text in self._warned:
            return
        self._warned.add(text)
        self._print(f"warning: {text}")

    def _note(self, text: str) -> None:
        if self.verbose:
            self._print(f"note: {text}")

    def _print(self, text: str) -> None:
        if self._bars is not None:
            self._bars.print(fitted(printable(text), self._bars.width, _HANG))
        else:
            complain(text)

    def times(self, timings: Mapping[str, float]) -> None:
        """Print how long each phase took, when asked to be verbose."""
        if self.verbose and timings:
            widest = max(map(len, timings))
            complain("\n".join(f"time: {phase:<{widest}} {seconds:9.3f} s" for phase, seconds in timings.items()))
