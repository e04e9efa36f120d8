"""Least squares from second moments, and backward elimination: against plain numpy on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from pfa_onnx.stats import reconstruct
from pfa_onnx.stats.reconstruct import RIDGE, Read, reconstruction_order
from pfa_onnx.stats.regression import BLOCK, JointSums, matched, solve

RNG = np.random.default_rng(0)


def rows(count=900, groups=2, d=5, n=3):
    x = RNG.standard_normal((count, groups, d)) @ RNG.standard_normal((d, d)) + 7
    w = RNG.standard_normal((groups, d, n))
    return x, np.einsum("rgd,gdn->rgn", x, w) + 2 + 0.3 * RNG.standard_normal((count, groups, n)), w


def joint(x, y, pieces=7):
    sums = JointSums()
    for a, b in zip(np.array_split(x, pieces), np.array_split(y, pieces), strict=True):
        sums.add(a, b)
    assert sums.count == len(x)
    return sums.moments()


def test_moments_are_those_of_all_rows():
    x, y, _ = rows(2 * BLOCK + 100)
    found = joint(x, y, 30)
    for g in range(2):
        np.testing.assert_allclose(found.xx[g], np.cov(x[:, g].T, bias=True), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.yy[g], y[:, g].var(axis=0), rtol=1e-9)
        cross = (x[:, g] - x[:, g].mean(0)).T @ (y[:, g] - y[:, g].mean(0)) / len(x)
        np.testing.assert_allclose(found.xy[g], cross, rtol=1e-9, atol=1e-9)


def test_without_a_ridge_it_is_ordinary_least_squares():
    x, y, before = rows()
    found = joint(x, y)
    weights = solve(found, before * 0, 0.0)
    bias = found.intercept(weights)
    for g in range(2):
        wanted, *_ = np.linalg.lstsq(np.concatenate([x[:, g], np.ones((len(x), 1))], axis=1), y[:, g])
        np.testing.assert_allclose(weights[g], wanted[:-1], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(bias[g], wanted[-1], rtol=1e-6, atol=1e-6)


def test_the_error_is_that_of_the_rows():
    x, y, w = rows()
    bias = RNG.standard_normal((2, 3))
    wanted = ((np.einsum("rgd,gdn->rgn", x, w) + bias - y) ** 2).mean(axis=0)
    np.testing.assert_allclose(joint(x, y).error(w, bias), wanted, rtol=1e-9)
    about = joint(x, y).about_zero()
    np.testing.assert_allclose(about.error(w, bias * 0), ((np.einsum("rgd,gdn->rgn", x, w) - y) ** 2).mean(0), rtol=1e-9)


def test_a_ridge_pulls_toward_the_old_weights():
    x, y, w = rows()
    found = joint(x, y)
    distance = [np.abs(solve(found, w + 1, ridge) - (w + 1)).max() for ridge in (0.0, 1e-2, 1.0, 1e6)]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-4


def test_a_channel_that_never_varies_breaks_nothing():
    x, y, w = rows()
    x[:, :, 1] = 3.0
    x[:, 1] = 3.0  # a whole group
    weights = solve(joint(x, y), w, 1e-3)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights[:, 1], w[:, 1]), "it says nothing about its weight"


def test_matched_outputs_vary_as_they_did():
    x, y, w = rows()
    found = joint(x, y)
    made = np.einsum("rgd,gdn->rgn", x, matched(found, 0.2 * w))
    np.testing.assert_allclose(made.var(axis=0), y.var(axis=0), rtol=1e-9)


def test_rows_that_are_not_finite_say_nothing():
    x, y, w = rows()
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[3, 0, 0], bad_y[7, 0, 0] = np.inf, np.nan
    sums = JointSums()
    sums.add(bad_x, bad_y)
    found, wanted = sums.moments(), joint(np.delete(x, [3, 7], axis=0), np.delete(y, [3, 7], axis=0))
    assert found.count == len(x) - 2
    np.testing.assert_allclose(found.xx, wanted.xx, atol=1e-12)


# --- backward elimination ---


def loss(covariance, weights, left):
    """The mean square error that is left when the weights of the inputs that are left are solved anew."""
    ridged = covariance + RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whole = np.trace(weights.T @ ridged @ weights)
    if not len(left):
        return whole
    part = np.linalg.solve(ridged[np.ix_(left, left)], ridged[left] @ weights)
    return whole - np.trace(part.T @ ridged[np.ix_(left, left)] @ part)


def greedy(reads, labels):
    """The same by brute force: every candidate tried, every system solved from scratch."""
    left, order = list(labels), []
    while left:
        costs = []
        for label in left:
            rest = {*left} - {label}
            total = 0.0
            for read in reads:
                free = np.isin(read.labels, labels)
                at, now = (np.flatnonzero(~free | np.isin(read.labels, list(kept))) for kept in (rest, left))
                made = np.trace(read.weights.T @ read.covariance @ read.weights)
                total += (loss(read.covariance, read.weights, at) - loss(read.covariance, read.weights, now)) / made
            costs.append(total)
        order.append(left.pop(int(np.argmin(costs))))
    return order


def read(labels, n=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, len(labels))) @ rng.standard_normal((len(labels), len(labels)))
    return Read(np.cov(x.T), rng.standard_normal((len(labels), n)), np.asarray(labels))


@pytest.mark.parametrize(
    "layout",
    [
        [[1, 2, 3, 4, 5, 6]],
        [[1, 1, 2, 2, 3, 3, 4, 4]],
        [[1, 2, 2, 3, 1, 4, 4, 4]],
        [[9, 1, 2, 8, 3, 4]],
        [[1, 2, 3, 4, 5], [5, 5, 4, 4, 3, 3, 2, 2, 1, 1], [2, 4]],
    ],
    ids=["one input each", "kernels", "uneven", "others stay", "several readers"],
)
def test_the_order_is_that_of_brute_force(layout):
    reads = [read(labels, seed=k) for k, labels in enumerate(layout)]
    labels = sorted({label for one in layout for label in one if label < 8})
    assert reconstruction_order(reads, labels).tolist() == greedy(reads, labels)


def test_the_order_does_not_depend_on_how_long_eliminations_wait(monkeypatch):
    labels = np.repeat(np.arange(1, 21), 3)
    orders = []
    for waiting in (1, 7, 128):
        monkeypatch.setattr(reconstruct, "WAITING", waiting)
        orders.append(reconstruction_order([read(labels), read(np.arange(21, 0, -1), seed=1)], range(1, 21)).tolist())
    assert orders[0] == orders[1] == orders[2]


def test_a_copy_goes_first_and_then_the_other_stays():
    x = RNG.standard_normal((500, 5))
    x[:, 3] = x[:, 1]
    order = reconstruction_order([Read(np.cov(x.T), RNG.standard_normal((5, 3)), np.arange(1, 6))], range(1, 6)).tolist()
    assert order[0] in {2, 4}


def test_dead_inputs_cost_nothing():
    order = reconstruction_order([Read(np.zeros((3, 3)), np.full((3, 2), 1e3), np.array([1, 2, 3]))], [1, 2, 3])
    assert sorted(order.tolist()) == [1, 2, 3]
