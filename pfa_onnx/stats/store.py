"""Where files lie: a folder of this machine, or an object store by its address (s3://, gs://, hdfs://, abfs://).

Files are known by their names below it, so that data is the same wherever it lies. Object stores are read by
pyarrow, an extra: `pip install 'pfa-onnx[parquet]'`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from pfa_onnx.errors import DataError, UsageError

SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "file")

Each = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]  # how many files are looked into

_THREADS = 8
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SECRET = re.compile(r"(//[^/:@]*):[^/@]*@")


@dataclass(frozen=True)
class Store:
    """A folder: the absolute path of one on this machine, or an address. It travels to other processes."""

    root: str

    @property
    def remote(self) -> bool:
        """Whether it is an address."""
        return is_address(self.root)

    def place(self, name: str) -> str:
        """Return where a file lies, to be shown."""
        return f"{shown(self.root).rstrip('/')}/{name}" if self.remote else str(Path(self.root) / name)

    def open(self, name: str) -> BinaryIO:
        """Open a file to read from anywhere in it; raises OSError."""
        if not self.remote:
            return plain_file(Path(self.root) / name).open("rb")
        system, path = _connect(self.root)
        return cast("BinaryIO", system.open_input_file(f"{path}/{name}" if path else name))

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Return a file's bytes, or some of them; raises OSError, and EOFError where they end too early."""
        with self.open(name) as file:
            if offset:
                file.seek(offset)
            found = file.read(size) if size >= 0 else file.read()
        if len(found) < size:
            raise EOFError(f"{len(found)} of {size} bytes are there")
        return found

    def files(self, endings: Collection[str]) -> list[str]:
        """Return the names (with /) of all files with these endings, sorted; hidden ones are left out."""
        found = self._remote_files() if self.remote else _walk(Path(self.root))
        return sorted(name for name in found if _ending(name) in endings)

    def _remote_files(self) -> list[str]:
        from pyarrow import fs  # noqa: PLC0415 - an extra

        system, path = _connect(self.root)
        try:
            infos = system.get_file_info(fs.FileSelector(path, recursive=True))
        except OSError as error:
            raise _unreadable(self.root, error) from error
        start = len(path) + 1 if path else 0
        names = (info.path[start:] for info in infos if info.type == fs.FileType.File)
        return [name for name in names if not any(_hidden(part) for part in name.split("/"))]


def locate(data: str) -> tuple[Store, str | None]:
    """Return the folder that `data` is, or the folder that it lies in and its name there.

    Raises DataError when there is nothing, UsageError for an address that cannot be read here.
    """
    if not is_address(data):
        path = Path(data)
        if path.is_file():
            return Store(str(path.absolute().parent)), path.name
        return Store(str(path.absolute())), None
    from_uri, options = data.partition("?")[::2]
    system, path_there = _connect(data)
    try:
        info = system.get_file_info(path_there)
    except OSError as error:
        raise _unreadable(data, error) from error
    if info.is_file:
        folder, _, name = from_uri.rpartition("/")
        return Store(f"{folder}?{options}" if options else folder), name
    if info.type.name == "NotFound":
        raise DataError(
            f"no such file or folder: {shown(data)}", at="--data", fix="list the bucket, and correct the path"
        )
    return Store(data), None


def is_address(data: str) -> bool:
    """Whether this is an address, and no path."""
    return _ADDRESS.match(data) is not None


def shown(data: str) -> str:
    """Return an address without its password and its options: reports are passed on. A path stays as it is."""
    return _SECRET.sub(r"\1@", data.partition("?")[0]) if is_address(data) else data


@lru_cache(maxsize=64)
def _connect(address: str) -> tuple[Any, str]:
    """Return the file system, and the path in it."""
    scheme = address.partition("://")[0]
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"cannot read {scheme}:// addresses", at=shown(address), fix=f"use a path, or one of {known}")
    fs = require("pyarrow.fs", f"{scheme}:// is read by pyarrow")
    try:
        system, path = fs.FileSystem.from_uri(address)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _unreadable(address, error) from error
    return system, path.rstrip("/")


def require(module: str, why: str) -> Any:
    """Import a part of pyarrow, or raise UsageError saying what to install."""
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"{why}, which is not there ({error})"
        raise UsageError(what, at="--data", fix="pip install 'pfa-onnx[parquet]'") from None


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return what the function makes of every item, in order: most of the time is spent waiting for files."""
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(pool.map(function, items))


def _unreadable(address: str, error: Exception) -> DataError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    fix = "check the address, and the credentials in the environment"
    return DataError(f"cannot read {shown(address)}: {why}", at="--data", fix=fix)


def plain_file(path: Path) -> Path:
    """Return the path; raises OSError when it is no plain file: to open a pipe is to wait for who writes into it."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("this is no plain file")
    return path


def _walk(folder: Path) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        inside = "" if Path(root) == folder else f"{Path(root).relative_to(folder).as_posix()}/"
        found += [f"{inside}{name}" for name in files if not _hidden(name)]
    return found


def _refuse_folder(error: OSError) -> None:
    """Raise DataError: samples that nobody counts must not be missing without a word."""
    if not isinstance(error, FileNotFoundError):  # it went while others were listed
        fix = "let it be read, or move it out of the data"
        raise DataError(f"cannot list a folder: {error.strerror}", at=str(error.filename), fix=fix) from error


def _ending(name: str) -> str:
    """Return the suffix of a name, in lower case: of many names, far sooner than pathlib."""
    base = name.rpartition("/")[2]
    stem, dot, ending = base.rpartition(".")
    return f".{ending}".lower() if stem and dot and ending else ""


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
