"""Files that are written whole or not at all: at any moment, at any kill, there is the old one or the new one.

What is being written lies beside its target under a name of its own, and its maker holds a lock on it. A lock goes
with the process that holds it, however that ends, so that what nobody holds was left behind by a run that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

fcntl: Any = None
if sys.platform != "win32":  # there, what is open cannot be removed, and needs no lock
    import fcntl

LONGEST = 150  # bytes of the target's name that are spelled out: file systems take 255
DAY = 86_400.0  # seconds after which what another machine left is nobody's: its locks may not be seen from here

_held: set[str] = set()  # what this process is writing: some network file systems give a process its own locks twice


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file beside `path` that takes its place when all went well, and vanishes when not; raises OSError.

    What killed runs left behind of the same file is removed first.
    """
    _refuse_special(path)
    remove_leftovers(path)
    beside, descriptor = _made(path, lambda scratch: os.open(scratch, _NEW_FILE, 0o666))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is not None:  # before the lock ends with the file
                beside.replace(path)
        if fcntl is None:
            beside.replace(path)
    finally:
        _held.discard(str(beside))
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` for files that are to become it, or to go; raises OSError.

    It is gone afterwards, and so is what killed runs left behind for the same path.
    """
    remove_leftovers(path)
    folder, descriptor = _made(path, _new_folder)
    try:
        yield folder
    finally:
        _clear(folder)
        _held.discard(str(folder))
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what runs that were killed left behind of this file: nobody holds it any more."""
    pattern = re.compile(re.escape(_stem(path)) + r"(\w+)-(\d+)-[0-9a-f]+\.tmp")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            beside = path.with_name(entry.name)
            if found and str(beside) not in _held:
                with contextlib.suppress(OSError):
                    _remove_if_left(beside, found[1], int(found[2]))


def _remove_if_left(beside: Path, host: str, process: int) -> None:
    found = beside.lstat()
    is_folder = stat.S_ISDIR(found.st_mode)
    if not is_folder and not stat.S_ISREG(found.st_mode):  # nothing that is made here
        return
    old = time.time() - found.st_mtime > DAY
    if fcntl is None:
        if old or not is_folder:  # a file that is open cannot be removed there
            _remove(beside, is_folder=is_folder)
        return
    descriptor = os.open(beside, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if (old or host == _host()) and not _is_held(descriptor, process):
            _remove(beside, is_folder=is_folder)
    finally:
        os.close(descriptor)


def _is_held(descriptor: int, process: int) -> bool:
    """Whether somebody holds the lock; where there are no locks, whether there is such a process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _is_alive(process)
    return False


def _clear(folder: Path) -> None:
    """Remove it, also when Ctrl-C comes just then."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(beside: Path, *, is_folder: bool) -> None:
    if is_folder:
        shutil.rmtree(beside)
    else:
        beside.unlink()


def _refuse_special(path: Path) -> None:
    """Raise OSError for a device or a pipe: the file would take its place for everybody."""
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder cannot be replaced, and says so itself
        raise OSError(errno.EINVAL, "this is no plain file", str(path))


# --- making ---

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def _made(path: Path, make: Any) -> tuple[Path, Any]:
    """Make something beside `path` under a new name, and hold it; returns it and its descriptor."""
    while True:
        beside = path.with_name(f"{_stem(path)}{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        _held.add(str(beside))
        try:
            descriptor = make(beside)
        except BaseException:
            _held.discard(str(beside))
            raise
        if descriptor is None or fcntl is None or _hold(beside, descriptor):
            return beside, descriptor
        os.close(descriptor)  # somebody took it for a leftover before it was held
        _held.discard(str(beside))


def _new_folder(folder: Path) -> int | None:
    try:
        folder.mkdir(mode=0o700)
        return os.open(folder, os.O_RDONLY) if fcntl is not None else None
    except KeyboardInterrupt:
        _clear(folder)
        raise


def _hold(beside: Path, descriptor: int) -> bool:
    """Take the lock, and see that what it is of is still there under its name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: whether the process is alive must do
        pass
    try:
        there, mine = beside.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _stem(path: Path) -> str:
    """Return what the names of all that is written for this path begin with."""
    name = os.fsencode(path.name)
    if len(name) <= LONGEST:
        return f".{path.name}."
    return f".{os.fsdecode(name[: LONGEST // 2])}.{hashlib.sha256(name).hexdigest()[:16]}."


def _host() -> str:
    return re.sub(r"\W", "_", platform.node(), flags=re.ASCII)[:40] or "_"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
