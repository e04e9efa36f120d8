"""Breaking a file without knowing what it means, or knowing no more than where its numbers lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Random = np.random.Generator
Mutate = Callable[[Random, bytes, list[tuple[int, int]]], bytes]

BYTES: dict[str, Mutate] = {}


def mutation(mutate: Mutate) -> Mutate:
    BYTES[mutate.__name__] = mutate
    return mutate


def spans_of(content: bytes, numbers: list[bytes]) -> list[tuple[int, int]]:
    """Where the numbers of tensors lie in a file: everything else is structure."""
    found, at = [], 0
    for piece in numbers:
        start = content.find(piece, at) if len(piece) >= 32 else -1
        if start >= 0:
            found.append((start, start + len(piece)))
            at = start + len(piece)
    return found


def _structure(random: Random, content: bytes, spans: list[tuple[int, int]]) -> int:
    """A position outside of all numbers."""
    for _ in range(64):
        at = int(random.integers(0, len(content)))
        if not any(start <= at < end for start, end in spans):
            return at
    return 0


def _flipped(random: Random, content: bytes, positions: list[int]) -> bytes:
    broken = bytearray(content)
    for at in positions:
        broken[at] ^= 1 << int(random.integers(0, 8))
    return bytes(broken)


@mutation
def cut_off(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    """At every class of offset: nothing, one byte, the header, inside a varint, inside a tensor, the last byte."""
    varints = [k for k in range(len(content) - 1) if content[k] & 0x80][:2000]
    inside = [int(random.integers(start, end)) for start, end in spans]
    ends = [0, 1, int(random.integers(2, 24)), len(content) - 1, int(random.integers(0, len(content)))]
    ends += [int(random.choice(varints)) + 1] if varints else []
    ends += [int(random.choice(inside))] if inside else []
    return content[: ends[int(random.integers(0, len(ends)))]]


@mutation
def flip_structure(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    return _flipped(random, content, [_structure(random, content, spans) for _ in range(random.integers(1, 4))])


@mutation
def flip_numbers(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    if not spans:
        return flip_structure(random, content, spans)
    start, end = spans[int(random.integers(0, len(spans)))]
    return _flipped(random, content, random.integers(start, end, random.integers(1, 9)).tolist())


@mutation
def leave_out(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = _structure(random, content, spans)
    return content[:at] + content[at + int(random.integers(1, 40)) :]


@mutation
def repeat(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = _structure(random, content, spans)
    piece = content[at : at + int(random.integers(1, 200))]
    return content[:at] + piece * int(random.integers(2, 5)) + content[at:]


@mutation
def put_in(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = _structure(random, content, spans)
    return content[:at] + random.bytes(int(random.integers(1, 16))) + content[at:]


@mutation
def zero_out(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    at = _structure(random, content, spans)
    count = min(int(random.integers(1, 64)), len(content) - at)
    return content[:at] + bytes(count) + content[at + count :]


@mutation
def lie_about_a_length(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    """A varint of the greatest value where a small one was: lengths, sizes and numbers of fields are varints."""
    at = _structure(random, content, spans)
    most = b"\xff" * int(random.integers(1, 10)) + b"\x7f"
    return content[:at] + most + content[at + 1 :]


@mutation
def append(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    return content + random.bytes(int(random.integers(1, 64)))


@mutation
def twice(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    """Two messages in one file are merged by protobuf: every list is there twice."""
    at = int(random.integers(0, len(content)))
    return content + (content if random.random() < 0.5 else content[:at])


@mutation
def something_else(random: Random, content: bytes, spans: list[tuple[int, int]]) -> bytes:
    kinds = [
        b"", b"\0" * 64, b"PK\x03\x04" + bytes(60), b"\x93NUMPY\x01\x00", b"{}", b"[]", b"null",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x1f\x8b" + bytes(40),
        b"\x80\x04\x95", b"[" * 100_000, b"\x0a" * 4096, b"\x3a\xff\xff\xff\xff\x07", random.bytes(512),
    ]  # fmt: skip
    return kinds[int(random.integers(0, len(kinds)))]
