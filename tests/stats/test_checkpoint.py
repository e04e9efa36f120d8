"""A calibration that stops and goes on is the one that never stopped, to the last bit."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from pfa_onnx.errors import StatsError
from pfa_onnx.recipe import Reason
from pfa_onnx.stats.archive import CHECKSUM, Archive
from pfa_onnx.stats.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfa_onnx.stats.covariance import Accumulator
from pfa_onnx.stats.parts import Part
from pfa_onnx.stats.statsfile import StatsFile, glance, load_stats, save_stats

ROWS = (np.random.default_rng(0).normal(size=(1500, 7)) * 3 + 100).astype(np.float32)


def checkpoint(accumulator, rows, **changes):
    seen, waiting = accumulator.state()
    stats = StatsFile(
        "ab" * 32, "val", rows, "cpu", {"y": seen}, {"x": ROWS[:2]}, {"size": 8}, (Part("d", 9, None, 1, 2),)
    )
    found = Checkpoint(stats, {"y": waiting}, rows, (("a.png", "broken"),), {"z": Reason("is odd", "node")})
    return replace(found, **changes)


@pytest.mark.parametrize("stop", [0, 1, 511, 512, 513, 1100])
def test_stopping_anywhere_changes_no_bit(tmp_path, stop):
    straight = Accumulator(7)
    for row in np.array_split(ROWS, 300):
        straight.add(row)
    first = Accumulator(7)
    first.add(ROWS[:stop])
    save_checkpoint(tmp_path / "c", checkpoint(first, stop))
    found = load_checkpoint(tmp_path / "c")
    second = Accumulator(7)
    second.restore(found.stats.moments["y"], found.waiting["y"])
    second.add(ROWS[stop:])
    assert second.count == 1500
    assert (second.moments().m2 == straight.moments().m2).all()
    assert (second.moments().mean == straight.moments().mean).all()


def test_everything_comes_back(tmp_path):
    accumulator = Accumulator(7)
    accumulator.add(ROWS[:600].astype(np.float64))
    saved = checkpoint(accumulator, 600)
    save_checkpoint(tmp_path / "c", saved)
    found = load_checkpoint(tmp_path / "c")
    assert (found.position, found.skipped, found.unmeasured) == (saved.position, saved.skipped, saved.unmeasured)
    assert found.stats.parts == saved.stats.parts
    assert found.waiting["y"].dtype == np.float64
    accumulator.add(ROWS[600:610])
    assert len(found.waiting["y"]) == 88, "a copy: later rows do not reach it"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_one_kind_of_file_is_not_the_other(tmp_path):
    found = checkpoint(Accumulator(7), 0)
    save_checkpoint(tmp_path / "c", found)
    save_stats(tmp_path / "s", found.stats)
    with pytest.raises(StatsError, match="did not end") as caught:
        load_stats(tmp_path / "c")
    assert "--resume" in caught.value.fix
    with pytest.raises(StatsError, match="no checkpoint"):
        load_checkpoint(tmp_path / "s")


def test_a_broken_checkpoint_says_so(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(Accumulator(7), 0))
    whole = (tmp_path / "c").read_bytes()
    for end in range(0, len(whole) - 1, 211):
        (tmp_path / "c").write_bytes(whole[:end])
        with pytest.raises(StatsError, match="broken") as caught:
            load_checkpoint(tmp_path / "c")
        assert "--resume" in caught.value.fix
    with zipfile.ZipFile(tmp_path / "c", "w") as archive:
        archive.writestr("header.npy", b"")
    with pytest.raises(StatsError, match="broken"):
        load_checkpoint(tmp_path / "c")


ODD = (None, True, -1, 1 << 70, 0.5, "", "text", [], [None], [[]], {}, {"a": None})


def paths(content, at=()):
    """Every place in a JSON document."""
    yield at
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from paths(value, (*at, key))


def with_header(path, change):
    """The same file with another header, and a checksum that holds where there can be one."""
    new = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as file:
        before, after = Archive(old), Archive(file)
        header = before.read_header()
        for name in sorted(before.names() - {"header"}):
            after.write(name, before.read(name))
        header.pop(CHECKSUM)
        header = change(header)
        if isinstance(header, dict):
            after.write_header(header)
        else:
            after.write("header", np.frombuffer(json.dumps(header).encode(), np.uint8))
    path.write_bytes(new.getvalue())


@pytest.mark.parametrize("read", [load_checkpoint, load_stats, glance])
def test_anything_anywhere_in_a_header_is_read_or_refused(tmp_path, read):
    accumulator = Accumulator(7)
    accumulator.add(ROWS[:200])
    found = checkpoint(accumulator, 200)
    whole = tmp_path / "whole"
    (save_checkpoint(whole, found) if read is load_checkpoint else save_stats(whole, found.stats))
    with zipfile.ZipFile(whole) as file:
        places = [at for at in paths(Archive(file).read_header()) if at != (CHECKSUM,)]
    refused = 0
    for at in places:
        for odd in ODD:

            def changed(header, at=at, odd=odd):
                if not at:
                    return odd
                holder = header
                for key in at[:-1]:
                    holder = holder[key]
                holder[at[-1]] = odd
                return header

            path = tmp_path / "odd"
            path.write_bytes(whole.read_bytes())
            with_header(path, changed)
            try:
                read(path)
            except StatsError as error:
                assert error.at == str(path)
                refused += 1
    assert refused > len(places)
