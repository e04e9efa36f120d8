"""Merge what was measured apart: on other machines, on other days.

Centred sums merge exactly up to rounding. Files are merged in an order of their own, not in the order in which they
are named, so that the same files give the same bytes; and one after the other, so that memory does not grow with
their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from pfa_onnx.errors import StatsError
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.parts import overlap
from pfa_onnx.stats.statsfile import Glance, StatsFile, glance, load_stats

_ONE_SET = "merge only what one model and one set of options measured"
_ONCE = "name every shard once"


def merge_files(paths: Sequence[Path], progress: Callable[[int], None] = lambda _: None) -> StatsFile:
    """Return the statistics of all files together; raises StatsError when they do not belong together.

    progress: told how many files have been read.
    """
    files = sorted((glance(path) for path in paths), key=_order)
    _refuse_twice(files)
    merged: StatsFile | None = None
    for done, file in enumerate(files, 1):
        stats = load_stats(file.path)
        merged = stats if merged is None else merge_two(merged, stats, at=str(file.path))
        progress(done)
    return merge_stats([] if merged is None else [merged])


def _order(file: Glance) -> tuple[Any, ...]:
    return [part.key for part in file.parts], file.sums


def merge_stats(parts: Sequence[StatsFile]) -> StatsFile:
    """Return the statistics of all parts together, as if one pass had seen all of their data.

    The first part that has inputs gives the ones that are kept. Raises StatsError when they do not belong together.
    """
    if not parts:
        raise StatsError("there are no statistics to merge", at="FILE...", fix="name at least one statistics file")
    return reduce(merge_two, parts)


def merge_two(one: StatsFile, other: StatsFile, at: str | None = None) -> StatsFile:
    """Return the statistics of both; raises StatsError. at: where the other one lies, for messages."""
    _refuse_different(one, other, at)
    return replace(
        one,
        source=" + ".join(_names(one.source, other.source)),
        samples=one.samples + other.samples,
        provider=" + ".join(_names(one.provider, other.provider)),
        moments={name: Moments.merge(moments, other.moments[name]) for name, moments in one.moments.items()},
        inputs=one.inputs or other.inputs,
        parts=tuple(sorted((*one.parts, *other.parts), key=lambda part: part.key)) if one.parts and other.parts else (),
        eigenvalues={},
        squares={name: squares + other.squares[name] for name, squares in one.squares.items() if name in other.squares},
    )


def _names(*joined: str) -> list[str]:
    """Return what was joined by plus signs, each once."""
    return list(dict.fromkeys(name for names in joined for name in names.split(" + ")))


# --- what does not belong together ---


def _refuse_twice(files: Sequence[Glance]) -> None:
    """Refuse shards that overlap, and the same statistics under two names."""
    shared = overlap(part for file in files for part in file.parts)
    if shared is not None:
        one, other = shared
        what = f"shard {one.index}/{one.count} and shard {other.index}/{other.count} share samples"
        if one == other:
            what = f"{'the same data' if one.count == 1 else f'shard {one.index}/{one.count}'} is there twice"
        paths = dict.fromkeys(str(file.path) for file in files if {one, other} & set(file.parts))
        raise StatsError(what, at=" and ".join(paths), fix=_ONCE)
    seen: dict[tuple[tuple[str, int], ...], Path] = {}
    for file in files:
        if file.sums and file.sums in seen:
            raise StatsError("the same statistics are there twice", at=f"{seen[file.sums]} and {file.path}", fix=_ONCE)
        seen[file.sums] = file.path


def _refuse_different(one: StatsFile, other: StatsFile, at: str | None) -> None:
    for what in _differences(one, other):
        raise StatsError(f"statistics of {what}", at=at or f"{one.source} and {other.source}", fix=_ONE_SET)


def _differences(one: StatsFile, other: StatsFile) -> Iterator[str]:
    if one.model_sha256 != other.model_sha256:
        yield f"different models: sha256 {one.model_sha256[:12]} and {other.model_sha256[:12]}"
    if one.responses != other.responses:
        yield f"different responses: {one.responses.flags} and {other.responses.flags}"
    if set(one.moments) != set(other.moments):
        name = min(set(one.moments) ^ set(other.moments))
        yield f"different layers: only one of them measured {name}"
    if _canonical(one.preprocess) != _canonical(other.preprocess):
        yield f"different preprocessing: {_canonical(one.preprocess)} and {_canonical(other.preprocess)}"
    for name, moments in one.moments.items():
        if moments.channels != other.moments[name].channels:
            yield f"different layers: {name} has {moments.channels} and {other.moments[name].channels} channels"


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)
