"""Names that others chose, made fit for a terminal: nothing in them moves the cursor or turns the text."""

from __future__ import annotations

import re
from pathlib import Path

# controls but tab and line feed, what turns the direction of text, and halves of characters: bytes that are no UTF-8
_STRANGE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text of several lines with escapes in the place of what must not reach a terminal."""
    return _STRANGE.sub(_escaped, text)


def in_one_line(name: str) -> str:
    """Return a name as `printable` does, without line feeds and tabs too."""
    return printable(name).replace("\n", r"\n").replace("\t", r"\t")


def is_text(path: Path) -> bool:
    """Whether a path is UTF-8: names of files are bytes, and not every library takes them all."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
