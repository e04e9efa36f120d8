"""Reports on disk: checked before the long work, written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pfa_onnx.errors import UsageError
from pfa_onnx.replacing import replacing

STDOUT = "-"
_REPLACED = ("--output", "--save-stats")  # never written into: a device would become a file


def check_targets(written: Mapping[str, Path | str | None], read: Iterable[Path | str | None]) -> None:
    """Refuse, before any work, files that cannot be written or that would replace what is read.

    written: what the user typed (`--json`) -> where it goes. read: files that the run takes as input.
    """
    taken = [Path(path) for path in read if path is not None]
    if list(written.values()).count(STDOUT) > 1:
        flags = " and ".join(flag for flag, target in written.items() if target == STDOUT)
        raise UsageError("only one report can go to standard output", at=flags, fix="give the other one a file name")
    for flag, target in written.items():
        if target is None or target == STDOUT:
            continue
        path = Path(target)
        if any(_same(path, other) for other in taken):
            raise UsageError(
                f"{flag} would replace a file that is read or written too", at=str(path), fix=_another(flag)
            )
        taken.append(path)
        _require_writable(path, flag)


def _same(one: Path, other: Path) -> bool:
    try:
        if one.exists() and not one.is_file():  # /dev/null takes everything
            return False
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
    except (OSError, RuntimeError):  # a loop of links
        return False


def _require_writable(path: Path, flag: str) -> None:
    """Try it: permissions alone do not tell, least of all to root."""
    folder = path.resolve().parent
    if path.is_dir():
        raise UsageError(f"{flag} is a folder, not a file", at=str(path), fix=_another(flag))
    if not folder.is_dir():
        raise UsageError(f"the folder for {flag} does not exist", at=str(folder), fix=f"create it, or {_another(flag)}")
    if _is_special(path):
        if flag in _REPLACED:
            raise UsageError(f"{flag} is no plain file", at=str(path), fix=_another(flag))
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{flag} cannot be written ({error.strerror})", at=str(path), fix=_another(flag)) from None


def _another(flag: str) -> str:
    return f"choose another file for {flag}"


def _is_special(path: Path) -> bool:
    """Whether this is a device or a pipe, which must be written to and not replaced."""
    return path.exists() and not path.is_file()


def write(path: Path, text: str, flag: str) -> None:
    """Write the text: at any time the old file or the new one is there, never half of one."""
    # backslashreplace: a file name that is not Unicode is no reason to lose the report
    content = text.encode("utf-8", "backslashreplace")
    try:
        if _is_special(path):
            path.write_bytes(content)
        else:
            with replacing(path.resolve()) as stream:  # resolve: a link stays, its target changes
                stream.write(content)
    except OSError as error:
        raise UsageError(f"{flag} cannot be written ({error.strerror})", at=str(path), fix=_another(flag)) from None
