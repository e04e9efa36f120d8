"""Progress bars with rate and time left; only imported when somebody watches."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LONGEST, _SHORTEST = 40, 4  # columns of a bar
_NUMBERS = 56  # columns that the rest of its line may take


class _Done(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        """Return how much is done, and of how much where that is known."""
        return Text(f"{int(task.completed):,}") if task.total is None else super().render(task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return steps per second."""
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """Return the time left; the time it took where it is done, or nobody knows how much there is."""
        if task.total is None:
            return Text(str(timedelta(seconds=int(task.elapsed or 0))))
        return Text.assemble(super().render(task), "" if task.finished else " left")


class Bars:
    """A bar for each phase, on standard error, gone when the work is done. width: of the terminal."""

    def __init__(self, width: int, *, colours: bool) -> None:
        self.width = width  # asked for before rich stands in front of standard error
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(_SHORTEST, min(_LONGEST, width - _NUMBERS))),
            _Done(),
            _Rate(),
            _Left(elapsed_when_finished=True),
            console=Console(stderr=True, width=width, color_system="auto" if colours else None),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, phase: str, done: int, total: int | None) -> None:
        """Move the bar of a phase, or begin one."""
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total)
        self._progress.update(self._tasks[phase], completed=done, total=total)

    def print(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bars."""
        self._progress.stop()
