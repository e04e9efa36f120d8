"""Moments and their accumulation, against numpy's two-pass covariance in float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfa_onnx.errors import DataError
from pfa_onnx.stats.covariance import BLOCK, Accumulator, Moments

examples = settings(derandomize=True, max_examples=40, deadline=None)


def responses(rows=200, channels=7, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels)) + mean


def assert_same(one, other, rtol=1e-12):
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=rtol, atol=rtol * np.abs(other.mean).max())
    np.testing.assert_allclose(one.m2, other.m2, rtol=rtol, atol=rtol * np.abs(other.m2).max())


def test_moments_are_those_of_numpy():
    rows = responses()
    found = Moments.of(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T), rtol=1e-12)
    np.testing.assert_allclose(found.variances, rows.var(axis=0, ddof=1), rtol=1e-12)


def test_moments_are_exactly_symmetric_even_when_merged():
    a, b = Moments.of(responses(seed=1)), Moments.of(responses(seed=2, mean=3.0))
    for found in (a, Moments.merge(a, b)):
        assert (found.m2 == found.m2.T).all()


@pytest.mark.parametrize("mean", [100.0, 1000.0, 1e4])
def test_a_large_mean_in_float32_costs_no_accuracy(mean):
    """The rows are float32, so the oracle subtracts the mean from exactly those numbers."""
    rows = responses(rows=2000, mean=mean).astype(np.float32)
    oracle = np.cov(rows.astype(np.float64).T - mean)
    accumulator = Accumulator(7)
    accumulator.add(rows)
    np.testing.assert_allclose(accumulator.moments().covariance, oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_])
def test_any_real_dtype_is_measured_in_float64(dtype):
    rows = (responses(mean=2.0) * 10).astype(dtype)
    accumulator = Accumulator(7)
    accumulator.add(rows)
    for found in (Moments.of(rows), accumulator.moments()):
        np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-11, atol=1e-13)


def test_a_wider_type_after_float32_is_not_rounded():
    rows = responses() * (1 + 1e-12)
    accumulator = Accumulator(7)
    accumulator.add(rows[:50].astype(np.float32))
    accumulator.add(rows[50:])
    merged = Moments.merge(Moments.of(rows[:50].astype(np.float32)), Moments.of(rows[50:]))
    assert_same(accumulator.moments(), merged, rtol=1e-14)


@pytest.mark.parametrize("value", [2.5, 1000.1, -1e-20, 1e30])
def test_a_constant_channel_has_a_variance_of_exactly_zero(value):
    """Across blocks and merges too: a mean that is off by one bit would make it look alive."""
    rows = np.column_stack([np.full(3 * BLOCK + 5, value), responses(rows=3 * BLOCK + 5, channels=2)])
    accumulator = Accumulator(3)
    accumulator.add(rows.astype(np.float32))
    found = Moments.merge(accumulator.moments(), accumulator.moments())
    assert not found.m2[0].any()
    assert found.variances[1] > 0


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_have_no_covariance(count):
    assert not Moments.of(responses(rows=count)).covariance.any()


def test_merging_with_nothing_changes_nothing():
    found, nothing = Moments.of(responses()), Moments.empty(7)
    assert_same(Moments.merge(found, nothing), found, rtol=0)
    assert_same(Moments.merge(nothing, found), found, rtol=0)
    assert Moments.merge(nothing, nothing).count == 0


def test_merging_is_order_independent_up_to_rounding():
    rows = responses(rows=300, mean=50.0)
    parts = [Moments.of(part) for part in np.split(rows, [10, 11, 150])]
    for order in itertools.permutations(parts):
        merged = Moments.empty(7)
        for part in order:
            merged = Moments.merge(merged, part)
        assert_same(merged, Moments.of(rows))


@examples
@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.integers(0, 99))
def test_how_rows_are_batched_does_not_matter(sizes, seed):
    rows = responses(rows=sum(sizes), channels=3, seed=seed, mean=20.0)
    accumulator = Accumulator(3)
    for batch in np.split(rows, np.cumsum(sizes)[:-1]):
        accumulator.add(batch)
    assert accumulator.count == len(rows)
    if len(rows):
        assert_same(accumulator.moments(), Moments.of(rows))


def test_rows_are_folded_only_every_block(monkeypatch):
    """The product per row is 16 times cheaper in blocks; single samples must not pay for it."""
    folds = []
    original = Accumulator._flush
    monkeypatch.setattr(Accumulator, "_flush", lambda self: (folds.append(self._filled), original(self))[1])
    accumulator = Accumulator(7)
    for row in responses(rows=2 * BLOCK + 3):
        accumulator.add(row[None].astype(np.float32))
    assert folds == [BLOCK, BLOCK]


def test_the_caller_may_reuse_its_array():
    rows = responses()
    oracle = Moments.of(rows)
    accumulator = Accumulator(7)
    accumulator.add(rows)
    rows[:] = 0
    assert_same(accumulator.moments(), oracle)


def test_moments_handed_out_do_not_change_when_more_rows_come():
    rows = responses()
    accumulator = Accumulator(7)
    accumulator.add(rows[:100])
    early = accumulator.moments()
    before = early.m2.copy()
    accumulator.add(rows[100:])
    assert_same(accumulator.moments(), Moments.of(rows))
    assert (early.m2 == before).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_names_the_layer_and_the_channel(bad):
    rows = responses()
    rows[3, 5] = bad
    with pytest.raises(DataError) as caught:
        Accumulator(7, "conv3_out").add(rows)
    assert str(caught.value).startswith("error: a response is NaN or infinite (channel 5)\n  at: conv3_out\n  fix: ")


@pytest.mark.parametrize("shape", [(4, 8), (4,), (4, 7, 1)])
def test_rows_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(DataError, match="7 channels"):
        Accumulator(7).add(np.zeros(shape))
