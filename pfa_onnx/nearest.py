"""What somebody may have meant: the names that are most like one that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

ALIKE = 0.6  # of two names, from 0 to 1
BESIDE = 0.1  # what is this much less alike than the best is not named beside it


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names that are most like this one, the best first; parts of a path count as names, too.

    '/layr1/conv*' is like '/net/layer1/conv2/Conv', because of its middle. Wildcards and case are left out of account.
    """
    wanted = _bare(name)
    parts = wanted.count("/") + 1
    pieces: dict[str, list[str]] = {}
    for one in known:
        for piece in {_bare(one), *_windows(_bare(one), parts)}:
            pieces.setdefault(piece, []).append(one)
    close = get_close_matches(wanted, pieces, n=count, cutoff=ALIKE)
    if close:
        best = _likeness(wanted, close[0])
        close = [piece for piece in close if _likeness(wanted, piece) >= best - BESIDE]
    return list(dict.fromkeys(one for piece in close for one in pieces[piece]))[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the question with the names that are most like this one, or None where none is."""
    close = nearest(name, known)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else None


def _likeness(wanted: str, piece: str) -> float:
    return SequenceMatcher(None, piece, wanted).ratio()


def _bare(name: str) -> str:
    return re.sub(r"[*?\[\]]", "", name).strip("/").lower()


def _windows(path: str, parts: int) -> Iterable[str]:
    """Yield every run of so many parts of a path."""
    words = path.split("/")
    for start in range(len(words) - parts + 1):
        yield "/".join(words[start : start + parts])
