"""Arrays in an .npz that numpy opens: written whole or not at all, and read without trusting a byte of it.

Entries are stored, not deflated: the numbers do not compress, and a stored file cannot claim more than its own
size. The same arrays give the same bytes.
"""

from __future__ import annotations

import json
import math
import zipfile
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import StatsError
from pfa_onnx.replacing import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold
# What zipfile, json and numpy's header parser raise on bytes that are not what they seem.
BROKEN = (
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


def write_header(archive: zipfile.ZipFile, header: Mapping[str, Any]) -> None:
    """Add the header: JSON as bytes."""
    text = json.dumps(dict(header), sort_keys=True, allow_nan=False)
    write_array(archive, "header", np.frombuffer(text.encode(), np.uint8))


def read_header(archive: zipfile.ZipFile) -> Any:
    """Return the header; raises one of BROKEN."""
    return json.loads(read_array(archive, "header").tobytes())


def typed(value: Any, wanted: type) -> Any:
    """Return the value, or raise TypeError: a header may hold anything."""
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is not of type {wanted.__name__}")
    return value


def write_array(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    """Add one array; not np.savez, whose dates are up to the Python version."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
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
def replacing_stats(path: Path) -> Iterator[IO[bytes]]:
    """Replace a statistics file, see `replacing`; raises StatsError when it cannot be written."""
    try:
        with replacing(path) as stream:
            yield stream
    except OSError as error:
        raise StatsError(
            f"the statistics file cannot be written ({error.strerror})", at=str(path), fix="choose another file"
        ) from error
