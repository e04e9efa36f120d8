"""Arrays in an .npz that numpy opens: written whole or not at all, and read without trusting a byte of it.

Entries are stored, not deflated: the numbers do not compress, and a stored file cannot claim more than its own
size. The same arrays give the same bytes.
"""

from __future__ import annotations

import hashlib
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

CHECKSUM = "sha256"  # of the header

_LARGEST = 1 << 62
_DENSEST = 1032  # bytes that a byte of a deflated stream can become
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


def typed(value: Any, wanted: type) -> Any:
    """Return the value, or raise TypeError: a header may hold anything."""
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not of type {wanted.__name__}")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise ValueError("a number is larger than any that is counted")
    return value


class Archive:
    """The entries of a file. sums: the digests of those that were written or read, by name.

    The header is one of them, JSON as bytes. It holds the digest of everything, its own content included: a file
    whose parts were exchanged, or changed by what mends the zip's own checksums, is not taken for whole.
    """

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file
        self.sums: dict[str, str] = {}

    def names(self) -> set[str]:
        """Return the names of all entries."""
        return {name.removesuffix(".npy") for name in self.file.namelist()}

    def write(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add one array; not np.savez, whose dates are up to the Python version."""
        array = np.asanyarray(array)
        with self.file.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)
        self.sums[name] = _digest(array)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Read one array, after its header's claim was found to match the bytes; raises one of BROKEN."""
        info = self.file.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        with self.file.open(info) as stream:
            shape, dtype = _claim(stream)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
                raise ValueError(f"{name} is not as large as it says")
        with self.file.open(info) as stream:
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        self.sums[name] = _digest(array)
        return array

    def write_header(self, header: Mapping[str, Any]) -> None:
        """Add the header, behind everything else."""
        text = _text({**header, CHECKSUM: self._sum(header)})
        self.write("header", np.frombuffer(text.encode(), np.uint8))

    def read_header(self) -> Any:
        """Return the header; raises one of BROKEN."""
        header = typed(json.loads(self.read("header").tobytes()), dict)
        del self.sums["header"]
        return header

    def verify(self, header: Any) -> None:
        """Raise ValueError unless what was read is what was written; old files do not say it."""
        if CHECKSUM in header and header[CHECKSUM] != self._sum(header):
            raise ValueError("its checksum is that of another content")

    def _sum(self, header: Mapping[str, Any]) -> str:
        content = {name: value for name, value in header.items() if name != CHECKSUM}
        return hashlib.sha256(_text({"header": content, "entries": self.sums}).encode()).hexdigest()


def refuse_claims(path: Path) -> None:
    """Look at the arrays of anybody's .npz; raises ValueError for one that claims to be larger than it can be."""
    with zipfile.ZipFile(path) as file:
        for info in (one for one in file.infolist() if one.filename.endswith(".npy")):
            with file.open(info) as stream:
                shape, dtype = _claim(stream)
                room = min(info.file_size, info.compress_size * _DENSEST) - stream.tell()
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize > room:
                raise ValueError(f"{info.filename} is not as large as it says")


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(content), sort_keys=True, allow_nan=False)


def _digest(array: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    plain = array.dtype.kind in "biufc" and array.size > 0
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if plain else array.tobytes())
    return digest.hexdigest()


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
