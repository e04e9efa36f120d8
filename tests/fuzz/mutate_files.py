"""Breaking what lies beside a model: external data, statistics, recipes and reports, checkpoints, arrays."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from fuzz.mutate_bytes import BYTES
from fuzz.mutate_model import EXTREMES, NAMES, Random, one_of

# --- external data ------------------------------------------------------------------------------------------------

LOCATIONS = (
    "../outside.bin", "a/../../outside.bin", "..\\outside.bin", "C:\\outside.bin", "/etc/passwd", "//server/share",
    "", ".", "./", "weights.bin/", "link.bin", "hard.bin", "folder/outside.bin", "folder", "pipe", "missing.bin",
    "weights.bin\0.txt", "file://weights.bin", "*/_ORT_MEM_ADDR_/*", "a" * 5000, "w\n.bin", "loop.bin", "inside.bin",
)  # fmt: skip
NUMBERS = ("0", "-1", "-8", "4", "64", str(1 << 40), str(1 << 60), str(1 << 63), str(1 << 70), "", "x", "1e3", "0x10", " 4", "4.0", "\u0664", "9" * 4000)


def external(random: Random, model: ModelProto, folder: Path) -> list[str]:
    """Move the weights into a file, or say that they lie somewhere else; `outside.bin` lies one folder above."""
    content, pieces = b"", []
    tensors = [tensor for tensor in model.graph.initializer if tensor.HasField("raw_data")]
    for tensor in tensors:
        pieces.append((len(content), len(tensor.raw_data)))
        content += tensor.raw_data + bytes(-len(tensor.raw_data) % 16)
    (folder / "weights.bin").write_bytes(content)
    _links(folder, content)
    for tensor, (offset, length) in zip(tensors, pieces, strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    if not tensors:
        return ["external: nothing"]
    done = []
    for _ in range(random.integers(0, 3)):
        tensor = one_of(random, tensors)
        how = one_of(random, ("location", "location", "offset", "length", "gone", "twice", "key", "extents", "both", "short"))
        done.append(f"external {how}")
        entries = {entry.key: entry for entry in tensor.external_data}
        if how in {"location", "offset", "length"} and how in entries:
            entries[how].value = one_of(random, LOCATIONS if how == "location" else NUMBERS)
        elif how == "gone":
            del tensor.external_data[int(random.integers(0, max(1, len(tensor.external_data)))) :]
        elif how in {"twice", "key"}:
            key = one_of(random, ("location", "offset", "length") if how == "twice" else ("checksum", "basepath", *NAMES))
            tensor.external_data.add(key=key, value=one_of(random, (*LOCATIONS, *NUMBERS)))
        elif how == "extents":
            tensor.dims[:] = [one_of(random, EXTREMES) for _ in range(random.integers(0, 3))]
        elif how == "both":
            tensor.raw_data = b"\0" * 64
        else:
            (folder / "weights.bin").write_bytes(content[: int(random.integers(0, max(1, len(content))))])
    return done or ["external: whole"]


def _links(folder: Path, content: bytes) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(content)
    (folder / "link.bin").symlink_to(outside)
    (folder / "inside.bin").symlink_to("weights.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    (folder / "folder").symlink_to(folder.parent)
    os.link(outside, folder / "hard.bin")
    os.mkfifo(folder / "pipe")


# --- archives of arrays: statistics, checkpoints, data -------------------------------------------------------------


def archive(random: Random, content: bytes) -> tuple[bytes, str]:
    """Break a .npz, mostly with checksums that hold."""
    if random.random() < 0.35:
        name = one_of(random, sorted(BYTES))
        return BYTES[name](random, content, []), name
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        entries = [[info.filename, old.read(info)] for info in old.infolist()]
    how = one_of(random, sorted(ENTRIES))
    kept = ENTRIES[how](random, entries)
    stream = io.BytesIO()
    compressed = how == "compressed" or random.random() < 0.02
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as new:
        for name, data in kept or entries:
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, new.compression)
    if random.random() < 0.7:
        return sealed(stream.getvalue()), how
    return stream.getvalue(), f"{how}, not sealed"


def sealed(content: bytes) -> bytes:
    """Say in the header that this very content is right, as far as it can be read."""
    from pfa_onnx.stats.archive import BROKEN, CHECKSUM, Archive

    changed = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file, zipfile.ZipFile(changed, "w") as new:
            old, archive = Archive(file), Archive(new)
            header = old.read_header()
            for name in sorted(old.names() - {"header"}):
                archive.write(name, old.read(name))
            header.pop(CHECKSUM, None)
            archive.write_header(header)
    except (*BROKEN, AttributeError, RecursionError):
        return content
    return changed.getvalue()


Entries = list[list[Any]]
ENTRIES: dict[str, Callable[[Random, Entries], Entries | None]] = {}


def entry(change: Callable[[Random, Entries], Entries | None]) -> Callable[[Random, Entries], Entries | None]:
    ENTRIES[change.__name__] = change
    return change


@entry
def header(random: Random, entries: Entries) -> None:
    """The header, which is JSON: one value of it is another one, is gone, or is called otherwise."""
    for item in entries:
        if item[0] == "header.npy":
            old = json.loads(np.load(io.BytesIO(item[1])).tobytes())
            item[1] = _saved(np.frombuffer(json.dumps(document(random, old)).encode(), np.uint8))


@entry
def array(random: Random, entries: Entries) -> None:
    item = one_of(random, [item for item in entries if item[0] != "header.npy"] or entries)
    found = np.load(io.BytesIO(item[1]))
    odd = found.astype(np.float64, copy=True) if found.dtype.kind == "f" else found.copy()
    if odd.size and odd.dtype.kind == "f":
        odd.reshape(-1)[int(random.integers(0, odd.size))] = one_of(random, (np.nan, np.inf, -1.0, 1e308, 0.0))
    changes = (odd, found[:-1], found[None], found.astype(np.float32), found.astype(np.complex128), found.T,
               np.concatenate([found, found]), np.zeros(0), np.array(1.0), found.astype(">f8"), found.astype("U5"))  # fmt: skip
    with np.errstate(all="ignore"):
        item[1] = _saved(np.array(one_of(random, changes)))


@entry
def claim(random: Random, entries: Entries) -> None:
    """An array that says that it is larger, of objects, or nothing that numpy could read."""
    stream = io.BytesIO()
    kind = one_of(random, ("<f8", "|O", "<i8", "V8", "<U9", "|S0", "<f8,<f8", "<M8[ns]", "x", "<f16"))
    shape = one_of(random, ((1 << 40,), (1 << 62, 4), (-1,), (3,), (0, 1 << 62), (1,) * 70, (True,)))
    text = repr({"descr": kind, "fortran_order": bool(random.random() < 0.5), "shape": shape}).encode()
    if random.random() < 0.2:
        text = one_of(random, (b"(" * 5000, b"{'descr': __import__('os').system('touch evil')}", b"\xff" * 50, b""))
    stream.write(b"\x93NUMPY" + bytes([int(random.integers(0, 4)), 0]) + len(text).to_bytes(2, "little") + text)
    one_of(random, entries)[1] = stream.getvalue() + bytes(int(random.integers(0, 200)))


@entry
def pickled(random: Random, entries: Entries) -> None:
    """What would run code if anybody unpickled it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([_Evil()], dtype=object), allow_pickle=True)
    one_of(random, entries)[1] = stream.getvalue()


@entry
def left_out(random: Random, entries: Entries) -> Entries:
    at = int(random.integers(0, len(entries)))
    return [item for k, item in enumerate(entries) if k != at]


@entry
def called_otherwise(random: Random, entries: Entries) -> None:
    one_of(random, entries)[0] = one_of(random, ("../../evil.npy", "/evil.npy", "mean/0.npy", "header.npy", "m2/999.npy", "a" * 300))


@entry
def exchanged(random: Random, entries: Entries) -> None:
    one, other = one_of(random, entries), one_of(random, entries)
    one[1], other[1] = other[1], one[1]


@entry
def compressed(random: Random, entries: Entries) -> None:
    """A small file that unpacks to a large one."""
    if random.random() < 0.5:
        one_of(random, entries)[1] = _saved(np.zeros(4 << 20, np.float64))


class _Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def _saved(found: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(found) if found.ndim else found, allow_pickle=False)
    return stream.getvalue()


# --- JSON: reports, recipes, headers ------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, False, "", "text", [], {}, [[]], {"": 1}, 0, 1, -1, 0.5, 1e308, 1 << 70, -(1 << 63), "\0", "../x", [1, 1],
    [0, 99999], [-1], [0.5], ["0"], list(range(2000)), "a" * 2000, [None], {"pool": "max"}, "checkpoint", 99,
)  # fmt: skip


def document(random: Random, content: Any) -> Any:
    """Return a JSON value in which one, two or three things are different."""
    content = json.loads(json.dumps(content))
    for _ in range(random.integers(1, 4)):
        places: list[tuple[Any, Any]] = []
        _places(content, places)
        if not places:
            return one_of(random, VALUES)
        where, key = one_of(random, places)
        if random.random() < 0.2:
            del where[key]
        elif random.random() < 0.1 and isinstance(where, dict):
            where[one_of(random, ("schema", "layers", "keep", "__class__", *NAMES))] = where.pop(key)
        else:
            where[key] = one_of(random, VALUES)
    return content


def _places(content: Any, found: list[tuple[Any, Any]]) -> None:
    """Collect every (container, key); of long lists a few."""
    if isinstance(content, dict):
        items: Any = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))[:4]
    else:
        return
    for key, value in items:
        found.append((content, key))
        _places(value, found)


def text(random: Random, content: bytes) -> tuple[bytes, str]:
    """Break a JSON file."""
    if random.random() < 0.3:
        name = one_of(random, sorted(BYTES))
        return BYTES[name](random, content, []), name
    if random.random() < 0.1:
        odd = (b"[" * 200_000, b'{"layers": ' * 5000, b"NaN", b"9" * 10_000, b'{"schema": 1, "schema": 1, "layers": []}',
               b"\xef\xbb\xbf" + content, content.decode().encode("utf-16"), b'{"layers": [' + b"{}," * 50_000 + b"{}]}")  # fmt: skip
        return one_of(random, odd), "odd JSON"
    return json.dumps(document(random, json.loads(content))).encode(), "document"


# --- PyTorch's checkpoints ----------------------------------------------------------------------------------------


def training(random: Random, content: bytes) -> tuple[bytes, str]:
    """Break the checkpoint of a training: its bytes, its pickle, or what is in it."""
    import torch

    if random.random() < 0.4:
        name = one_of(random, sorted(BYTES))
        return BYTES[name](random, content, []), name
    stream = io.BytesIO()
    if random.random() < 0.2:
        torch.save({"known": _Evil()}, stream) if random.random() < 0.5 else pickle.dump(_Evil(), stream)
        return stream.getvalue(), "pickled"
    found = torch.load(io.BytesIO(content), weights_only=True)
    places: list[tuple[Any, Any]] = []
    _tensors_too(found, places)
    for _ in range(random.integers(1, 3)):
        where, key = one_of(random, places)
        odd = (None, 1, -1, "x", [], {}, torch.zeros(0), torch.zeros(3, 3), torch.full((1,), float("nan")), 1 << 62, {"a": 1})
        if random.random() < 0.2:
            where.pop(key, None) if isinstance(where, dict) else None
        else:
            where[key] = one_of(random, odd)
    torch.save(found, stream)
    return stream.getvalue(), "content"


def _tensors_too(content: Any, found: list[tuple[Any, Any]]) -> None:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        if key != "known":
            found.append((content, key))
        _tensors_too(value, found)
