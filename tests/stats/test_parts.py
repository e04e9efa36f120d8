"""Which samples a shard takes, and what tells that two statistics share some."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.data import open_data
from pfa_onnx.stats.parts import Part, choose, missing, overlap

ROW = InputSpec("x", (None, 4), np.dtype("float32"))
PICTURE = InputSpec("x", (None, 3, 8, 8), np.dtype("float32"))
ROWS = np.arange(92, dtype=np.float32).reshape(23, 4)


def folder(path, count=11, value=0):
    path.mkdir()
    for k in range(count):
        Image.new("RGB", (8, 8), (k, value, 0)).save(path / f"{k:02}.png")
    return path


def rows_of(dataset, batch_size=4, start=0):
    return [row for batch in dataset.batches(batch_size, start) for row in batch.feeds["x"].reshape(batch.count, -1)]


def sources(tmp_path):
    """The same kinds of data as the command line takes, opened with any options."""
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "load.py").write_text(
        "import numpy as np\nROWS = np.arange(92, dtype='f4').reshape(23, 4)\n"
        "def pieces():\n    yield from (ROWS[:1], ROWS[1:8], ROWS[8:10], ROWS[10:])\n"
        "def singles():\n    yield from ROWS\n"
    )
    pictures = folder(tmp_path / "pictures")
    (pictures / "05.png").write_text("no picture")
    return {
        "array": lambda **options: open_data(ROWS, [ROW], **options),
        "file": lambda **options: open_data(tmp_path / "a.npy", [ROW], **options),
        "pieces": lambda **options: open_data(f"{tmp_path}/load.py:pieces", [ROW], **options),
        "singles": lambda **options: open_data(f"{tmp_path}/load.py:singles", [ROW], **options),
        "pictures": lambda **options: open_data(pictures, [PICTURE], preprocess="raw", **options),
    }


KINDS = ("array", "file", "pieces", "singles", "pictures")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 7])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_are_the_whole_evenly(tmp_path, kind, limit, count):
    """Every sample is in exactly one shard, neighbours in different ones, and no shard is larger by two."""
    make = sources(tmp_path)[kind]
    whole = rows_of(make(limit=limit))
    shards = [rows_of(make(limit=limit, shard=(index, count))) for index in range(1, count + 1)]
    assert sorted(row.tolist() for rows in shards for row in rows) == sorted(row.tolist() for row in whole)
    if kind != "pictures":  # where one is skipped
        for index, rows in enumerate(shards):
            np.testing.assert_array_equal(rows, whole[index::count])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
def test_any_batch_is_a_place_to_go_on_from(tmp_path, kind, shard):
    make = sources(tmp_path)[kind]
    whole = make(shard=shard)
    batches, seen = list(whole.batches(3)), 0
    for k, batch in enumerate(batches):
        seen += batch.count
        again = list(make(shard=shard).batches(3, whole.position(seen, batch.names[-1])))
        assert [b.feeds["x"].tolist() for b in again] == [b.feeds["x"].tolist() for b in batches[k + 1 :]]


@pytest.mark.parametrize("kind", KINDS)
def test_more_shards_than_samples_is_an_error(tmp_path, kind):
    make = sources(tmp_path)[kind]
    with pytest.raises(DataError, match="fewer samples than shards"):
        rows_of(make(shard=(30, 30)))
    with pytest.raises(UsageError, match="--shard is 3/2"):
        make(shard=(3, 2))


def part_of(dataset):
    rows_of(dataset)
    return dataset.part()


@pytest.mark.parametrize("kind", KINDS)
def test_data_is_known_by_what_it_holds(tmp_path, kind):
    make = sources(tmp_path)[kind]
    one, other, whole = part_of(make(shard=(1, 2))), part_of(make(shard=(2, 2))), part_of(make())
    assert one.data == other.data == whole.data
    assert overlap([one, other]) is None
    assert overlap([one, other, whole]) == (one, whole)
    assert missing([one]) == [(2, 2)]
    assert missing([one, other]) == missing([whole]) == []


def test_equal_names_are_not_equal_data(tmp_path):
    one, other = folder(tmp_path / "a"), folder(tmp_path / "b", value=9)
    moved = tmp_path / "c"
    parts = [part_of(open_data(place, [PICTURE], preprocess="raw")) for place in (one, other)]
    assert overlap(parts) is None
    one.rename(moved)
    assert part_of(open_data(moved, [PICTURE], preprocess="raw")) == parts[0], "a path says nothing"
    assert part_of(open_data(ROWS, [ROW])).data != part_of(open_data(ROWS + 1, [ROW])).data


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(1, 70), st.integers(1, 6), st.integers(0, 5)), max_size=6))
def test_overlap_is_that_of_the_samples(total, wanted):
    parts = [Part("d", total, limit, k % n + 1, n) for limit, n, k in wanted]
    sets = [set(choose(total, part.limit, (part.index, part.count))) for part in parts]
    shares = any(sets[i] & sets[k] for k in range(len(sets)) for i in range(k))
    assert (overlap(parts) is not None) == shares


def test_a_stream_that_was_read_further_overlaps_too():
    assert overlap([Part("d", 5, None, 1, 2), Part("d", 90, None, 2, 2)]) is None
    assert overlap([Part("d", 5, None, 1, 1), Part("d", 90, None, 1, 1)]) is not None
