"""Statistics on disk: measure once, decide many times, and merge what was measured apart.

The file is an .npz that numpy opens: `header` (JSON as bytes), `mean/<i>` and `m2/<i>` for layer i of
the header (m2: its upper triangle, row by row), `input/<i>` for the few inputs kept for the proof.
Entries are stored, not deflated: the numbers do not compress, and a stored file cannot claim more
than its own size. The same statistics give the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import StatsError
from pfa_onnx.stats.covariance import Moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pfa_onnx.recipe import Floats

SCHEMA = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
_MEASURE_AGAIN = "measure again with `pfa-onnx analyze --save-stats`"
# What zipfile, json and numpy's header parser raise on bytes that are not what they seem.
_BROKEN = (
    zipfile.BadZipFile,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    SyntaxError,
    TokenError,
)


@dataclass(frozen=True, eq=False)
class StatsFile:
    """What one pass over some data measured.

    model_sha256: of the model's bytes. source: the data, in words. provider: what ran the model.
    moments: by layer output, in graph order. inputs: by input name, a few samples for the proof,
    first axis = samples. preprocess: how inputs were made, as plain JSON values.
    """

    model_sha256: str
    source: str
    samples: int
    provider: str
    moments: Mapping[str, Moments]
    inputs: Mapping[str, npt.NDArray[Any]]
    preprocess: Mapping[str, Any]


def save_stats(path: str | Path, stats: StatsFile) -> None:
    """Write the statistics: the old file or the new one is there at any time, never half of one."""
    header = {
        "schema": SCHEMA,
        "model_sha256": stats.model_sha256,
        "source": stats.source,
        "samples": stats.samples,
        "provider": stats.provider,
        "preprocess": dict(stats.preprocess),
        "layers": [{"output": output, "count": moments.count} for output, moments in stats.moments.items()],
        "inputs": list(stats.inputs),
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    with _replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w") as archive:
        _write(archive, "header", np.frombuffer(text.encode(), np.uint8))
        for index, moments in enumerate(stats.moments.values()):
            _write(archive, f"mean/{index}", moments.mean)
            _write(archive, f"m2/{index}", _upper_triangle(moments.m2))
        for index, (name, array) in enumerate(stats.inputs.items()):
            # "V" is bfloat16 and its kin: numpy would read raw bytes back.
            if array.dtype.hasobject or array.dtype.kind == "V":
                raise StatsError(f"input {name} of dtype {array.dtype} cannot be kept in a statistics file")
            _write(archive, f"input/{index}", array)


def load_stats(path: str | Path) -> StatsFile:
    """Read the statistics; anything that is not a whole statistics file is a StatsError."""
    path = Path(path)
    if not path.is_file():
        raise StatsError("there is no such statistics file", at=str(path), fix=_MEASURE_AGAIN)
    try:
        with zipfile.ZipFile(path) as archive:
            return _parse(archive)
    except StatsError as error:
        raise StatsError(error.what, at=str(path), fix=_MEASURE_AGAIN) from error
    except _BROKEN as error:
        what = f"the statistics file is broken ({str(error) or type(error).__name__})"
        raise StatsError(what, at=str(path), fix=_MEASURE_AGAIN) from error


def merge_stats(parts: Sequence[StatsFile]) -> StatsFile:
    """Return the statistics of all parts together, as if one pass had seen all of their data.

    The first part that has inputs gives the ones that are kept.
    """
    if not parts:
        raise StatsError("there are no statistics to merge", fix="name at least one statistics file")
    first = parts[0]
    for other in parts[1:]:
        _refuse_different(first, other)
    return StatsFile(
        model_sha256=first.model_sha256,
        source=" + ".join(dict.fromkeys(part.source for part in parts)),
        samples=sum(part.samples for part in parts),
        provider=" + ".join(dict.fromkeys(part.provider for part in parts)),
        moments={name: reduce(Moments.merge, [part.moments[name] for part in parts]) for name in first.moments},
        inputs=next((part.inputs for part in parts if part.inputs), {}),
        preprocess=first.preprocess,
    )


def _refuse_different(one: StatsFile, other: StatsFile) -> None:
    what = None
    if one.model_sha256 != other.model_sha256:
        what = f"different models: sha256 {one.model_sha256[:12]} and {other.model_sha256[:12]}"
    elif set(one.moments) != set(other.moments):
        name = min(set(one.moments) ^ set(other.moments))
        what = f"different layers: only one of them measured {name}"
    elif _canonical(one.preprocess) != _canonical(other.preprocess):
        what = f"different preprocessing: {_canonical(one.preprocess)} and {_canonical(other.preprocess)}"
    else:
        for name, moments in one.moments.items():
            if moments.channels != other.moments[name].channels:
                what = f"different layers: {name} has {moments.channels} and {other.moments[name].channels} channels"
    if what:
        at = f"{one.source} and {other.source}"
        raise StatsError(
            f"statistics of {what}", at=at, fix="merge only what one model and one set of options measured"
        )


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)


def _parse(archive: zipfile.ZipFile) -> StatsFile:
    header = json.loads(_read(archive, "header").tobytes())
    if header["schema"] != SCHEMA:
        raise StatsError(f"the statistics file has schema {header['schema']}, this version reads {SCHEMA}")
    layers = [(_typed(layer["output"], str), _typed(layer["count"], int)) for layer in header["layers"]]
    inputs = [_typed(name, str) for name in header["inputs"]]
    return StatsFile(
        model_sha256=_typed(header["model_sha256"], str),
        source=_typed(header["source"], str),
        samples=_typed(header["samples"], int),
        provider=_typed(header["provider"], str),
        moments={output: _read_moments(archive, index, count) for index, (output, count) in enumerate(layers)},
        inputs={name: _read(archive, f"input/{index}") for index, name in enumerate(inputs)},
        preprocess=_typed(header["preprocess"], dict),
    )


def _typed(value: Any, wanted: type) -> Any:
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is not of type {wanted.__name__}")
    return value


def _read_moments(archive: zipfile.ZipFile, index: int, count: int) -> Moments:
    mean, triangle = _read(archive, f"mean/{index}"), _read(archive, f"m2/{index}")
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


def _write(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    # Not np.savez: the date of its entries is up to the Python version.
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def _read(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Read one array, after its header's claim was found to match the bytes that are there."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(info) as stream:
        shape, dtype = _claim(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
            raise ValueError(f"{name} is not as large as it says")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _claim(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file beside `path` that takes its place when all went well, and vanishes when not."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as stream:
            yield stream
        beside.replace(path)
    except OSError as error:
        raise StatsError(
            f"the statistics file cannot be written ({error.strerror})", at=str(path), fix="choose another --save-stats"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
