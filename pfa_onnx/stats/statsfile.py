"""Statistics on disk: measure once, decide many times.

The file is an .npz that numpy opens: `header` (JSON as bytes), `mean/<i>` and `m2/<i>` for layer i of
the header (m2: its upper triangle, row by row), `input/<i>` for the few inputs kept for the proof.
The same statistics give the same bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import StatsError
from pfa_onnx.stats.archive import BROKEN, read_array, read_header, replacing, typed, write_array, write_header
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.parts import Part

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
    """

    model_sha256: str
    source: str
    samples: int
    provider: str
    moments: Mapping[str, Moments]
    inputs: Mapping[str, npt.NDArray[Any]]
    preprocess: Mapping[str, Any]
    parts: tuple[Part, ...] = ()


def save_stats(path: str | Path, stats: StatsFile) -> None:
    """Write the statistics: the old file or the new one is there at any time, never half of one."""
    with replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w") as archive:
        write_header(archive, header_of(stats))
        write_contents(archive, stats)


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
    }


def write_contents(archive: zipfile.ZipFile, stats: StatsFile) -> None:
    """Add the arrays; raises StatsError for an input that only a pickle could hold."""
    for index, moments in enumerate(stats.moments.values()):
        write_array(archive, f"mean/{index}", moments.mean)
        write_array(archive, f"m2/{index}", _upper_triangle(moments.m2))
    for index, (name, array) in enumerate(stats.inputs.items()):
        # "V" is bfloat16 and its kin: numpy would read raw bytes back.
        if array.dtype.hasobject or array.dtype.kind == "V":
            raise StatsError(f"input {name} of dtype {array.dtype} cannot be kept in a statistics file")
        write_array(archive, f"input/{index}", array)


def load_stats(path: str | Path) -> StatsFile:
    """Read the statistics; anything that is not a whole statistics file is a StatsError."""
    with opened(path) as archive:
        return parse(archive, read_header(archive))


@dataclass(frozen=True)
class Glance:
    """What a file says without its arrays being read. sums: the name and the checksum of every moment, sorted."""

    path: Path
    parts: tuple[Part, ...]
    sums: tuple[tuple[str, int], ...]


def glance(path: Path) -> Glance:
    """Look at a statistics file; raises StatsError when it is none."""
    with opened(path) as archive:
        parts = _parts(read_header(archive))
        sums = [(entry.filename, entry.CRC) for entry in archive.infolist()]
    return Glance(path, parts, tuple(sorted(item for item in sums if item[0].startswith(("mean/", "m2/")))))


@contextmanager
def opened(path: str | Path, fix: str = _MEASURE_AGAIN) -> Iterator[zipfile.ZipFile]:
    """Open a statistics file for reading; whatever is wrong with it becomes a StatsError that names it."""
    path = Path(path)
    if not path.is_file():
        raise StatsError("there is no such statistics file", at=str(path), fix=fix)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except StatsError as error:
        raise StatsError(error.what, at=str(path), fix=error.fix or fix) from error
    except BROKEN as error:
        what = f"the statistics file is broken ({str(error) or type(error).__name__})"
        raise StatsError(what, at=str(path), fix=fix) from error


def parse(archive: zipfile.ZipFile, header: Any) -> StatsFile:
    """Return the statistics that a header announces; raises StatsError, or one of BROKEN."""
    if header["schema"] == CHECKPOINT:
        raise StatsError("this is an analysis that did not end", fix="run it again with --resume, then use its result")
    if header["schema"] != SCHEMA:
        raise StatsError(f"the statistics file has schema {header['schema']}, this version reads {SCHEMA}")
    layers = [(typed(layer["output"], str), typed(layer["count"], int)) for layer in header["layers"]]
    inputs = [typed(name, str) for name in header["inputs"]]
    return StatsFile(
        model_sha256=typed(header["model_sha256"], str),
        source=typed(header["source"], str),
        samples=typed(header["samples"], int),
        provider=typed(header["provider"], str),
        moments={output: _read_moments(archive, index, count) for index, (output, count) in enumerate(layers)},
        inputs={name: read_array(archive, f"input/{index}") for index, name in enumerate(inputs)},
        preprocess=typed(header["preprocess"], dict),
        parts=_parts(header),
    )


def _parts(header: Any) -> tuple[Part, ...]:
    return tuple(_part(part) for part in header.get("parts", ()))  # old files have none


def _part(found: Any) -> Part:
    limit = None if found["limit"] is None else typed(found["limit"], int)
    total, index, count = (typed(found[name], int) for name in ("total", "index", "count"))
    if total < 0 or (limit is not None and limit < 1) or not 1 <= index <= count:
        raise ValueError("a part of the data is not one")
    return Part(typed(found["data"], str), total, limit, index, count)


def _read_moments(archive: zipfile.ZipFile, index: int, count: int) -> Moments:
    mean, triangle = read_array(archive, f"mean/{index}"), read_array(archive, f"m2/{index}")
    for array, dimensions in ((mean, len(mean)), (triangle, len(mean) * (len(mean) + 1) // 2)):
        if array.dtype != np.float64 or array.shape != (dimensions,) or not dimensions or count < 0:
            raise ValueError(f"layer {index} has the wrong shape")
        if not np.isfinite(array).all():
            raise ValueError(f"layer {index} holds NaN or infinity")
    return Moments(count, mean, _from_upper_triangle(triangle, len(mean)))


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
