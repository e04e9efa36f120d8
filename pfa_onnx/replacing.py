"""Files that are written whole or not at all: at any moment, at any kill, there is the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path, scratch: str | None = None) -> Iterator[IO[bytes]]:
    """Give a file beside `path` that takes its place when all went well, and vanishes when not; raises OSError.

    scratch: its name; a fixed one leaves no more than one file behind, however often a run is killed. What killed
    runs on this machine left behind under other names is removed.
    """
    remove_leftovers(path)
    beside = path.with_name(scratch or f".{path.name}.{_own()}.tmp")
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove files of processes on this machine that were killed while they wrote this file."""
    pattern = re.compile(re.escape(f".{path.name}.{_host()}-") + r"(\d+)-\d+\.tmp")
    with contextlib.suppress(OSError):
        for beside in path.parent.iterdir():
            found = pattern.fullmatch(beside.name)
            if found and not _is_alive(int(found[1])):
                beside.unlink(missing_ok=True)


def _own() -> str:
    return f"{_host()}-{os.getpid()}-{threading.get_ident()}"


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
