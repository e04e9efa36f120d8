"""Text for a terminal of so many columns: names lose their middle, sentences and commands go on below.

Nothing heavy is imported: `--help` needs it, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_APART = "   "  # between the facts of one line
_HANG = "  "
_COMMAND = re.compile(r"^(next: )?(?=pfa-onnx )")
_SHORTEST = 8  # columns that are left for a word, however narrow the terminal
_ROOM = 32  # columns in which a name may be shortened, rather than on a line of its own


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters take two, marks on others none."""
    if text.isascii():
        return len(text)
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return the text with spaces behind it, or before it, so that it takes so many columns."""
    space = " " * (width - columns(text))
    return space + text if right else text + space


def shorten(name: str, width: int) -> str:
    """Return the name with its middle left out: the end tells layers apart, so it gets the larger part."""
    if columns(name) <= width:
        return name
    head = max(0, width - 3) // 3
    tail = max(0, width - 3 - head)
    return f"{_start(name, head)}...{_start(name[::-1], tail)[::-1]}"


def _start(name: str, width: int) -> str:
    """Return as much of the name as takes so many columns."""
    taken = 0
    for index, char in enumerate(name):
        taken += _width(char)
        if taken > width:
            return name[:index]
    return name


def fitted(text: str, width: int | None, hang: str = _HANG) -> str:
    """Return lines of text that fit; what a line has too much goes on below it, behind `hang`."""
    if width is None:
        return text
    lines = (line if columns(line) <= width else _lines(line, width, hang) for line in text.split("\n"))
    return "\n".join(lines)


def _lines(line: str, width: int, hang: str) -> str:
    command = _COMMAND.match(line)
    if command is not None:
        return continued(line[command.end() :], width, command[0])
    body = line.lstrip(" ")
    indent = line[: len(line) - len(body)]
    pieces = body.split(_APART) if _APART in body else [body]
    return "\n".join(_filled(_pieces(pieces, width - len(indent + hang)), width, indent, indent + hang))


def _pieces(fields: Iterable[str], room: int) -> Iterator[tuple[str, str]]:
    """Yield what may not be broken, each with what stands before it on the same line."""
    for field in fields:
        before = _APART
        for word in [field] if columns(field) <= room else words_of(field, room):
            yield before, word
            before = " "


def words_of(text: str, room: int) -> Iterator[str]:
    """Yield the words of a sentence; a command between backticks is one, where it fits."""
    for part in re.findall(r"`[^`]*`\S*|\S+", text):
        if columns(part) <= room:
            yield part
        else:
            yield from part.split()


def _filled(pieces: Iterable[tuple[str, str]], width: int, indent: str, hang: str) -> Iterator[str]:
    line = ""
    for before, piece in pieces:
        if not line:
            line = indent + shorten(piece, max(width - len(indent), _SHORTEST))
            continue
        left, room = width - columns(line + before), max(width - len(hang), _SHORTEST)
        if columns(piece) <= left or (room < columns(piece) and left >= _ROOM):  # no line is long enough for it
            line += before + shorten(piece, left)
        else:
            yield line
            line = hang + shorten(piece, room)
    yield line


def continued(command: str, width: int | None, before: str = "") -> str:
    r"""Return a command on lines that end with \, as a shell reads it; words stay whole, to be copied."""
    if width is None or columns(before + command) <= width:
        return before + command
    lines, line = [], before.rstrip()
    for word in re.findall(r"(?:'[^']*'|[^ '])+", command):
        if line and columns(f"{line} {word}") > width - len(" \\"):
            lines.append(line + " \\")
            line = _HANG + word
        else:
            line = f"{line} {word}" if line.strip() else before + word
    return "\n".join([*lines, line])
