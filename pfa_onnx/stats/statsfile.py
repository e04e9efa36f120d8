"""Statistics on disk: measure once, decide many times.

The file is an .npz that numpy opens: `header` (JSON as bytes), `mean/<i>` and `m2/<i>` for layer i of
the header (m2: its upper triangle, row by row), `eigenvalues/<i>` if they were computed, `squares/<i>` if
the mean squares of its input were, `input/<i>` for the few inputs kept for the proof. The header has the digest of
all of it. The same statistics give the same bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import StatsError
from pfa_onnx.responses import PAPER, Responses
from pfa_onnx.stats.archive import BROKEN, Archive, replacing_stats, typed
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.parts import MOST_SHARDS, Part

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats

SCHEMA = 1
CHECKPOINT = "checkpoint"  # the schema of a file that holds a calibration that is not finished
_MEASURE_AGAIN = "measure again with `pfa-onnx analyze --save-stats`"


@dataclass(frozen=True, eq=False)
class StatsFile:
    """What one pass over some data measured.

    model_sha256: of the model's bytes. source: the data, in words. provider: what ran the model.
    moments: by layer output, in graph order. inputs: by input name, a few samples for the proof,
    first axis = samples. preprocess: how inputs were made, as plain JSON values.
    parts: which samples were seen, sorted; empty where nobody wrote it down.
    eigenvalues: of the covariances, [C] descending and not below 0, where they were computed: all or none.
    responses: what was measured of every layer. squares: by layer output, [C of its input], the sum over the samples
    of the mean square of each channel that it reads, where that was asked for and could be measured.
    """

    model_sha256: str
    source: str
    samples: int
    provider: str
    moments: Mapping[str, Moments]
    inputs: Mapping[str, npt.NDArray[Any]]
    preprocess: Mapping[str, Any]
    parts: tuple[Part, ...] = ()
    eigenvalues: Mapping[str, Floats] = field(default_factory=dict)
    responses: Responses = PAPER
    squares: Mapping[str, Floats] = field(default_factory=dict)


def save_stats(path: str | Path, stats: StatsFile) -> None:
    """Write the statistics: the old file or the new one is there at any time, never half of one."""
    with replacing_stats(Path(path)) as stream, zipfile.ZipFile(stream, "w") as file:
        archive = Archive(file)
        write_contents(archive, stats)
        archive.write_header(header_of(stats))


def header_of(stats: StatsFile) -> dict[str, Any]:
    """Return all that is not an array, as plain JSON values."""
    return {
        "schema": SCHEMA,
        "model_sha256": stats.model_sha256,
        "source": stats.source,
        "samples": stats.samples,
        "provider": stats.provider,
        "preprocess": dict(stats.preprocess),
        "parts": [asdict(part) for part in stats.parts],
        "layers": [{"output": output, "count": moments.count} for output, moments in stats.moments.items()],
        "inputs": list(stats.inputs),
        **({"eigenvalues": True} if stats.eigenvalues else {}),
        **({"responses": stats.responses.variants} if stats.responses != PAPER else {}),
    }


def write_contents(archive: Archive, stats: StatsFile) -> None:
    """Add the arrays; raises StatsError for an input that only a pickle could hold."""
    for index, (output, moments) in enumerate(stats.moments.items()):
        archive.write(f"mean/{index}", moments.mean)
        archive.write(f"m2/{index}", _upper_triangle(moments.m2))
        if stats.eigenvalues:
            archive.write(f"eigenvalues/{index}", stats.eigenvalues[output])
        if output in stats.squares:
            archive.write(f"squares/{index}", stats.squares[output])
    for index, (name, array) in enumerate(stats.inputs.items()):
        # "V" is bfloat16 and its kin: numpy would read raw bytes back.
        if array.dtype.hasobject or array.dtype.kind == "V":
            what = f"input {name} of dtype {array.dtype} cannot be kept in a statistics file"
            raise StatsError(what, at=f"input {name!r}", fix="leave --save-stats out")
        archive.write(f"input/{index}", array)


def load_stats(path: str | Path) -> StatsFile:
    """Read the statistics; anything that is not a whole statistics file is a StatsError."""
    with opened(path) as archive:
        header = archive.read_header()
        stats = parse(archive, header)
        archive.verify(header)
    return stats


@dataclass(frozen=True)
class Glance:
    """What a file says without its arrays being read. sums: the name and the checksum of every moment, sorted."""

    path: Path
    parts: tuple[Part, ...]
    sums: tuple[tuple[str, int], ...]


def glance(path: Path) -> Glance:
    """Look at a statistics file; raises StatsError when it is none."""
    with opened(path) as archive:
        parts = _parts(archive.read_header())
        sums = [(entry.filename, entry.CRC) for entry in archive.file.infolist()]
    return Glance(path, parts, tuple(sorted(item for item in sums if item[0].startswith(("mean/", "m2/")))))


@contextmanager
def opened(path: str | Path, fix: str = _MEASURE_AGAIN) -> Iterator[Archive]:
    """Open a statistics file for reading; whatever is wrong with it becomes a StatsError that names it."""
    path = Path(path)
    if not path.is_file():
        raise StatsError("there is no such statistics file", at=str(path), fix=fix)
    try:
        with zipfile.ZipFile(path) as file:
            yield Archive(file)
    except BROKEN as error:
        what = f"the statistics file is broken ({str(error) or type(error).__name__})"
        raise StatsError(what, at=str(path), fix=fix) from error


def parse(archive: Archive, header: Any, fix: str = _MEASURE_AGAIN) -> StatsFile:
    """Return the statistics that a header announces; raises StatsError, or one of BROKEN."""
    at = str(archive.file.filename)
    if header["schema"] == CHECKPOINT:
        what = "this is an analysis that did not end"
        raise StatsError(what, at=at, fix="run it again with --resume, then use its result")
    if header["schema"] != SCHEMA:
        what = f"the statistics file has schema {header['schema']}, this version reads {SCHEMA}"
        raise StatsError(what, at=at, fix=fix)
    layers = [(typed(layer["output"], str), typed(layer["count"], int)) for layer in header["layers"]]
    inputs = [typed(name, str) for name in header["inputs"]]
    moments = {output: _read_moments(archive, index, count) for index, (output, count) in enumerate(layers)}
    spectra = enumerate(moments.items()) if header.get("eigenvalues") else ()
    return StatsFile(
        model_sha256=typed(header["model_sha256"], str),
        source=typed(header["source"], str),
        samples=_count(header["samples"]),
        provider=typed(header["provider"], str),
        moments=moments,
        inputs={name: archive.read(f"input/{index}") for index, name in enumerate(inputs)},
        preprocess=typed(header["preprocess"], dict),
        parts=_parts(header),
        eigenvalues={output: _read_eigenvalues(archive, index, one.channels) for index, (output, one) in spectra},
        responses=_responses(header.get("responses", {}), at, fix),
        squares=_read_squares(archive, list(moments)),
    )


def _responses(found: Any, at: str, fix: str) -> Responses:
    """Return what was measured; a file of a later version may know ways that this one does not."""
    try:
        return Responses.of(found)
    except (TypeError, ValueError) as error:
        what = f"the statistics were measured in a way that this version does not know ({error})"
        raise StatsError(what, at=at, fix=fix) from None


def _parts(header: Any) -> tuple[Part, ...]:
    return tuple(_part(part) for part in header.get("parts", ()))  # old files have none


def _part(found: Any) -> Part:
    limit = None if found["limit"] is None else typed(found["limit"], int)
    total, index, count = (typed(found[name], int) for name in ("total", "index", "count"))
    stretch = found.get("stretch", False)  # old files know none
    within = total >= 0 and (limit is None or limit >= 1) and 1 <= index <= count <= MOST_SHARDS
    if not within or not isinstance(stretch, bool):
        raise ValueError("a part of the data is not one")
    return Part(typed(found["data"], str), total, limit, index, count, stretch)


def _count(found: Any) -> int:
    if typed(found, int) < 0:
        raise ValueError("there are fewer samples than none")
    return int(found)


def _read_moments(archive: Archive, index: int, count: int) -> Moments:
    mean, triangle = archive.read(f"mean/{index}"), archive.read(f"m2/{index}")
    for array, dimensions in ((mean, len(mean)), (triangle, len(mean) * (len(mean) + 1) // 2)):
        if array.dtype != np.float64 or array.shape != (dimensions,) or not dimensions or count < 0:
            raise ValueError(f"layer {index} has the wrong shape")
        if not np.isfinite(array).all():
            raise ValueError(f"layer {index} holds NaN or infinity")
    return Moments(count, mean, _from_upper_triangle(triangle, len(mean)))


def _read_eigenvalues(archive: Archive, index: int, channels: int) -> Floats:
    found = archive.read(f"eigenvalues/{index}")
    if found.dtype != np.float64 or found.shape != (channels,):
        raise ValueError(f"layer {index} has eigenvalues of the wrong shape")
    if not np.isfinite(found).all() or (found < 0).any() or (np.diff(found) > 0).any():
        raise ValueError(f"layer {index} has eigenvalues that are none")
    return found


def _read_squares(archive: Archive, layers: Sequence[str]) -> dict[str, Floats]:
    there = archive.names()
    indices = {output: index for index, output in enumerate(layers) if f"squares/{index}" in there}
    found = {output: archive.read(f"squares/{index}") for output, index in indices.items()}
    if any(one.dtype != np.float64 or one.ndim != 1 or not (one >= 0).all() for one in found.values()):
        raise ValueError("the mean squares of an input are none")
    return found


def _upper_triangle(square: Floats) -> Floats:
    return np.concatenate([row[index:] for index, row in enumerate(square)])


def _from_upper_triangle(triangle: Floats, size: int) -> Floats:
    square = np.empty((size, size))
    start = 0
    for index in range(size):
        row = triangle[start : start + size - index]
        square[index, index:] = row
        square[index:, index] = row
        start += len(row)
    if (np.diagonal(square) < 0).any():
        raise ValueError("a sum of squares is negative")
    return square
