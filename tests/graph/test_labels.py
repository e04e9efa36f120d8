"""Union-find with reasons, and finding labels again after a cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfa_onnx.graph.labels import Labels, match, occurrences, varying
from pfa_onnx.recipe import Reason

WHY = Reason("is an output", "node")
OTHER = Reason("is summed", "other node")

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def test_fresh_labels_are_new_and_consecutive():
    labels = Labels()
    assert labels.fresh(3).tolist() == [0, 1, 2]
    assert labels.fresh(2).tolist() == [3, 4]
    assert labels.roots().tolist() == [0, 1, 2, 3, 4]


def test_merged_labels_have_the_smallest_as_their_root():
    labels = Labels()
    labels.fresh(6)
    labels.same(np.array([5, 4]), np.array([1, 5]))
    assert labels.roots().tolist() == [0, 1, 2, 3, 1, 1]


def test_merging_broadcasts():
    labels = Labels()
    ids = labels.fresh(4)
    labels.same(ids.reshape(2, 2), ids[:1])
    assert labels.roots().tolist() == [0, 0, 0, 0]


def test_merging_frozen_labels_merges_their_reasons():
    labels = Labels()
    ids = labels.fresh(3)
    labels.freeze(ids[:1], WHY)
    labels.freeze(ids[2:], OTHER)
    labels.same(ids[:2], ids[1:])
    assert set(labels.frozen()) == {0}
    assert set(labels.frozen()[0]) == {WHY, OTHER}


def test_reason_is_kept_once():
    labels = Labels()
    ids = labels.fresh(2)
    labels.freeze(ids, WHY)
    labels.freeze(ids, WHY)
    assert labels.frozen() == {0: (WHY,), 1: (WHY,)}


@given(pairs, st.lists(st.integers(0, 9), max_size=4), st.randoms())
@settings(derandomize=True, deadline=None)
def test_result_does_not_depend_on_the_order_of_merging(merged, frozen, random):
    results = []
    for _ in range(2):
        labels = Labels()
        labels.fresh(10)
        steps = [("same", p) for p in merged] + [("freeze", f) for f in frozen]
        random.shuffle(steps)
        for what, value in steps:
            if what == "same":
                labels.same(np.array([value[0]]), np.array([value[1]]))
            else:
                labels.freeze(np.array([value]), Reason("why", str(value)))
        results.append((labels.roots().tolist(), {k: set(v) for k, v in labels.frozen().items()}))
    assert results[0] == results[1]


@given(pairs)
@settings(derandomize=True, deadline=None)
def test_roots_are_the_connected_components(merged):
    labels = Labels()
    labels.fresh(10)
    sets = [{x} for x in range(10)]
    for a, b in merged:
        labels.same(np.array([a]), np.array([b]))
        one, other = (next(s for s in sets if x in s) for x in (a, b))
        if one is not other:
            sets.remove(other)
            one |= other
    expected = [min(next(s for s in sets if x in s)) for x in range(10)]
    assert labels.roots().tolist() == expected


def test_occurrences_counts_what_came_before():
    assert occurrences([7, 3, 7, 7, 3]).tolist() == [0, 0, 1, 2, 1]
    assert occurrences([]).tolist() == []


def test_match_finds_labels_in_the_order_in_which_they_arrive():
    found = match(np.array([4, 5, 6, 7]), np.array([7, 4, 6]))
    assert found is not None
    assert found.tolist() == [3, 0, 2]


def test_match_pairs_equal_labels_by_their_count():
    found = match(np.array([4, 9, 4, 9]), np.array([9, 4, 9, 4]))
    assert found is not None
    assert found.tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize(("old", "new"), [([1, 2], [3]), ([1, 2], [1, 1]), ([], [1])])
def test_match_of_a_label_that_is_not_there_is_none(old, new):
    assert match(np.array(old, dtype=np.int64), np.array(new, dtype=np.int64)) is None


@given(st.lists(st.integers(0, 5), max_size=12), st.randoms())
@settings(derandomize=True, deadline=None)
def test_match_finds_every_rearrangement(old, random):
    new = old[: random.randint(0, len(old))]
    random.shuffle(new)
    found = match(np.array(old, dtype=np.int64), np.array(new, dtype=np.int64))
    assert found is not None
    assert [old[k] for k in found] == new
    assert len(set(found.tolist())) == len(new)


def test_varying_axes_are_those_with_more_than_one_entry():
    assert varying(np.zeros((1, 3, 1, 2), dtype=np.int64)) == (1, 3)
