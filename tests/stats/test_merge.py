"""Merging files: the same result in any order, and nothing counted twice."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from pfa_onnx.errors import StatsError
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.merge import merge_files
from pfa_onnx.stats.parts import Part
from pfa_onnx.stats.statsfile import StatsFile, load_stats, save_stats

ROWS = np.random.default_rng(0).normal(size=(90, 6)) @ np.random.default_rng(1).normal(size=(6, 6)) + 20


def stats(rows, parts=(), **changes):
    fields = {"model_sha256": "ab" * 32, "source": "val", "samples": len(rows), "provider": "cpu", "preprocess": {}}
    fields |= {"moments": {"y": Moments.of(rows)}, "inputs": {"x": rows[:2].astype(np.float32)}, "parts": parts}
    return StatsFile(**(fields | changes))


def shards(tmp_path, count=4, rows=ROWS):
    paths = []
    for k in range(count):
        paths.append(tmp_path / f"{k}.npz")
        save_stats(paths[-1], stats(rows[k::count], (Part("d", len(rows), None, k + 1, count),)))
    return paths


def test_any_order_gives_the_same_bytes(tmp_path):
    paths = shards(tmp_path)
    found = set()
    for order in permutations(paths):
        save_stats(tmp_path / "all.npz", merge_files(order))
        found.add((tmp_path / "all.npz").read_bytes())
    assert len(found) == 1
    merged, whole = load_stats(tmp_path / "all.npz"), Moments.of(ROWS)
    assert (merged.samples, merged.source, merged.provider) == (90, "val", "cpu")
    assert [(part.index, part.count) for part in merged.parts] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_allclose(merged.moments["y"].m2, whole.m2, rtol=1e-13, atol=1e-13 * whole.m2.max())
    np.testing.assert_array_equal(merged.inputs["x"], ROWS[[0, 4]].astype(np.float32))


def test_merged_files_merge_again(tmp_path):
    paths = shards(tmp_path)
    save_stats(tmp_path / "a.npz", merge_files(paths[:2]))
    save_stats(tmp_path / "b.npz", merge_files(paths[2:]))
    merged = merge_files([tmp_path / "b.npz", tmp_path / "a.npz"])
    np.testing.assert_allclose(merged.moments["y"].m2, Moments.of(ROWS).m2, rtol=1e-12)
    assert len(merged.parts) == 4
    with pytest.raises(StatsError, match="shard 2/4 is there twice") as caught:
        merge_files([tmp_path / "b.npz", tmp_path / "a.npz", paths[1]])
    assert str(paths[1]) in caught.value.at
    assert caught.value.fix == "name every shard once"


def test_what_shares_samples_is_refused(tmp_path):
    paths = shards(tmp_path)
    save_stats(tmp_path / "half.npz", stats(ROWS[1::2], (Part("d", 90, None, 2, 2),)))
    with pytest.raises(StatsError, match="share samples") as caught:
        merge_files([paths[1], tmp_path / "half.npz"])
    assert str(paths[1]) in caught.value.at
    merge_files([paths[0], tmp_path / "half.npz"])  # these two do not
    save_stats(tmp_path / "some.npz", stats(ROWS[:45], (Part("d", 90, 45, 1, 1),)))
    with pytest.raises(StatsError, match="share samples"):
        merge_files([paths[0], tmp_path / "some.npz"])


def test_the_same_numbers_twice_are_refused_even_of_unknown_data(tmp_path):
    for name in "ab":
        save_stats(tmp_path / name, stats(ROWS, source=name))
    save_stats(tmp_path / "c", stats(ROWS + 1, (Part("d", 90, None, 1, 1),)))
    with pytest.raises(StatsError, match="the same statistics are there twice"):
        merge_files([tmp_path / "a", tmp_path / "b"])
    merged = merge_files([tmp_path / "c", tmp_path / "a"])
    assert merged.parts == (), "of one it is not known what it saw"
    assert merged.source == "a + val"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_sha256": "cd" * 32}, "different models"),
        ({"preprocess": {"size": 8}}, "different preprocessing"),
        ({"moments": {"z": Moments.of(ROWS)}}, "different layers"),
        ({"moments": {"y": Moments.of(ROWS[:, :3])}}, "6 and 3 channels|3 and 6 channels"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, changes, what):
    save_stats(tmp_path / "a", stats(ROWS[:40]))
    save_stats(tmp_path / "b", stats(ROWS[40:], **changes))
    with pytest.raises(StatsError, match=what) as caught:
        merge_files([tmp_path / "a", tmp_path / "b"])
    assert caught.value.at in {str(tmp_path / "a"), str(tmp_path / "b")}


def test_broken_and_missing_files_are_named(tmp_path):
    save_stats(tmp_path / "a", stats(ROWS))
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-40])
    for name, what in (("b", "broken"), ("c", "no such")):
        with pytest.raises(StatsError, match=what) as caught:
            merge_files([tmp_path / "a", tmp_path / name])
        assert caught.value.at == str(tmp_path / name)
    with pytest.raises(StatsError, match="no statistics to merge"):
        merge_files([])
