"""Every number against one worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from pfa_onnx.stats.compare import Change, Comparison, paired_latency, relative_error


def compare(before, after, labels=(), classes=()):
    comparison = Comparison(classes)
    before, after = ({"y": value} if isinstance(value, np.ndarray) else value for value in (before, after))
    count = len(next(iter(before.values())))
    comparison.add(before, after, [f"s{index}" for index in range(count)], labels)
    return comparison.result()


def scores(*tops, width=3, dtype=np.float32):
    return np.eye(width, dtype=dtype)[list(tops)]


def test_equal_outputs():
    result = compare(scores(0, 1, 2), scores(0, 1, 2))
    assert (result.agreement, result.cosine_min, result.cosine_mean, result.max_abs_error) == (1, 1, 1, 0)
    assert result.changed == ()
    assert result.samples == 3
    json.dumps(asdict(result))


def test_changed_samples_are_named():
    result = compare(scores(0, 1, 2), scores(0, 2, 2))
    assert result.agreement == 2 / 3
    assert result.changed == (Change("s1", 1, 2),)
    assert result.max_abs_error == 1
    assert (result.cosine_min, result.cosine_mean) == (0, pytest.approx(2 / 3))


def test_batches_add_up():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 10, 5)).astype(np.float32)
    whole = compare(a, b)
    parts = Comparison()
    for start in range(0, 10, 3):
        rows = slice(start, start + 3)
        parts.add({"y": a[rows]}, {"y": b[rows]}, [f"s{index}" for index in range(10)[rows]])
    result = parts.result()
    assert result.cosine_mean == pytest.approx(whole.cosine_mean)
    assert (result.agreement, result.cosine_min, result.changed) == (whole.agreement, whole.cosine_min, whole.changed)
    wide = a.astype(float), b.astype(float)
    cosine = (wide[0] * wide[1]).sum(1) / np.linalg.norm(wide[0], axis=1) / np.linalg.norm(wide[1], axis=1)
    assert whole.cosine_min == pytest.approx(cosine.min())
    assert whole.max_abs_error == np.abs(wide[0] - wide[1]).max()


@pytest.mark.parametrize(
    ("shape", "has"),
    [((4, 5), True), ((4, 5, 1, 1), True), ((4, 1), False), ((4,), False), ((4, 5, 2, 2), False), ((4, 5, 7), False)],
)
def test_what_looks_like_class_scores(shape, has):
    value = np.random.default_rng(0).standard_normal(shape)
    assert (compare(value, value).agreement is not None) == has


def test_the_first_scores_count():
    boxes, first, second = np.zeros((2, 3, 4)), scores(0, 1), scores(2, 2)
    result = compare({"b": boxes, "y": first, "z": second}, {"b": boxes, "y": first, "z": scores(0, 0)})
    assert result.agreement == 1
    assert result.per_output["z"].cosine_min == 0


def test_cosine_of_zero_vectors_and_extremes():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert compare(zero, zero).cosine_min == 1
    assert compare(zero, one).cosine_min == 0
    assert compare(one, -one).cosine_min == pytest.approx(-1)
    assert compare(one * 1e-200, one * 1e-200).cosine_min == pytest.approx(1)
    assert compare(one * 1e200, one * 2e200).cosine_min == pytest.approx(1)


def test_half_precision_is_compared_in_float64():
    big = np.full((2, 4096), 200, np.float16)  # the sum of squares is beyond float16
    assert compare(big, big).cosine_min == pytest.approx(1)
    assert compare(big, -big).max_abs_error == 400


def test_nan_and_inf():
    a = np.array([[np.nan, 1, np.inf]])
    same = compare(a, a.copy())
    assert (same.cosine_min, same.max_abs_error) == (1, 0)
    other = compare(np.ones((1, 3)), a)
    assert (other.cosine_min, other.max_abs_error) == (0, np.inf)


def test_integers_agree_by_share():
    result = compare(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]))
    assert result.agreement == 0.75
    assert (result.cosine_min, result.max_abs_error) == (None, None)
    both = compare({"ids": np.array([1, 2]), "y": scores(0, 1)}, {"ids": np.array([0, 0]), "y": scores(0, 1)})
    assert both.agreement == 1  # class scores come first
    assert both.per_output["ids"].agreement == 0


def test_outputs_that_cannot_be_compared():
    before = {"y": scores(0, 1), "dets": np.zeros((5, 4)), "gone": np.zeros((2, 2)), "seq": [1, 2]}
    result = compare(before, {"y": scores(0, 1), "dets": np.zeros((3, 4)), "seq": [1, 2]})
    assert result.agreement == 1
    assert result.per_output["dets"].note == "shapes differ: [5, 4] and [3, 4]"
    assert "no such output" in result.per_output["gone"].note
    assert "not a tensor" in result.per_output["seq"].note
    alone = compare(np.zeros((2, 4)), np.zeros((2, 5)))
    assert (alone.agreement, alone.cosine_min, alone.max_abs_error) == (None, None, None)


def test_scalar_and_empty_outputs():
    result = compare(
        {"y": scores(0, 1), "loss": np.float32([2]).reshape(()), "none": np.zeros((0, 4))},
        {"y": scores(0, 1), "loss": np.float32([2]).reshape(()), "none": np.zeros((0, 4))},
    )
    assert result.per_output["loss"].cosine_min == 1
    assert result.per_output["none"].max_abs_error == 0


@pytest.mark.parametrize(
    ("labels", "classes", "accuracy"),
    [
        (["0", "1", "1"], (), (2 / 3, 1 / 3)),
        (["cat", "dog", "dog"], ("cat", "dog", "eel"), (2 / 3, 1 / 3)),
        (["cat", "dog", "dog"], (), (None, None)),  # two names for three classes: which?
        (["cat", None, None], ("cat", "dog", "eel"), (1, 1)),
        (["0", "1", "9"], (), (None, None)),
        ((), (), (None, None)),
        ([None] * 3, ("a", "b", "c"), (None, None)),
    ],
)
def test_accuracy(labels, classes, accuracy):
    result = compare(scores(0, 1, 2), scores(0, 2, 2), labels, classes)
    assert (result.accuracy_original, result.accuracy_pruned) == accuracy


def test_number_names_sort_as_numbers():
    labels = [str(index) for index in range(11)]
    result = compare(scores(*range(11), width=11), scores(*range(11), width=11), labels, sorted(labels))
    assert result.accuracy_original == 1


# --- the proof's distance ---


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1, -4], [1, -3], 0.25),
        ([0, 0], [0, 0], 0),
        ([np.nan, 2], [np.nan, 2], 0),
        ([np.nan, 2], [1, 2], np.inf),
        ([1, 2], [np.nan, 2], np.inf),
        ([np.inf, 2], [np.inf, 1], 0.5),
        ([np.inf, 2], [-np.inf, 2], np.inf),
        ([], [], 0),
        ([1, 2], [1, 2, 3], np.inf),
    ],
)
def test_relative_error(a, b, error):
    assert relative_error(np.array(a, float), np.array(b, float)) == error


def test_relative_error_of_other_types():
    assert relative_error(np.array([1, 2]), np.array([1, 2])) == 0
    assert relative_error(np.array([True]), np.array([False])) == 1
    assert relative_error(np.array(["a"]), np.array(["b"])) == np.inf
    assert relative_error(np.float16([60000]), np.float16([-60000])) == 2
    assert relative_error(np.array([2**62 + 1]), np.array([2**62 + 1])) == 0
    assert relative_error(np.zeros(2), np.full(2, 1e-3)) > 1


# --- latency ---


class Clock:
    def __init__(self):
        self.now = 0.0
        self.load = 1.0
        self.calls = []

    def __call__(self):
        return self.now

    def runner(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds * self.load

        return run


def test_latency_is_a_median_of_pairs():
    clock = Clock()

    def noisy():  # the machine becomes ever slower: unpaired means would blame the second model
        clock.load *= 1.01
        clock.runner("a", 0.010)()

    result = paired_latency(noisy, clock.runner("b", 0.005), repeats=9, min_seconds=0, clock=clock)
    assert result.ratio == pytest.approx(0.5, rel=0.03)
    assert result.pairs == 9
    assert result.pruned_ms > 5


def test_latency_alternates_and_respects_its_limits():
    clock = Clock()
    result = paired_latency(clock.runner("a", 0.1), clock.runner("b", 0.1), repeats=2, min_seconds=1.0, clock=clock)
    assert result.pairs == 5
    assert clock.calls[:8] == ["a", "b", "a", "b", "a", "b", "b", "a"]
    slow = Clock()
    assert paired_latency(slow.runner("a", 30), slow.runner("b", 30), repeats=50, clock=slow).pairs == 3


def test_latency_with_the_real_clock():
    result = paired_latency(lambda: sum(range(20000)), lambda: sum(range(1000)), repeats=5, min_seconds=0.0)
    assert result.ratio < 0.6
    assert result.original_ms > result.pruned_ms
