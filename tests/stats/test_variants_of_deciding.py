"""What may be decided otherwise than in the paper: divergences, mappings, shrinkage, coupling; by hand and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfa_onnx.recipe import Coupling, Layer, Method, Reason, Select
from pfa_onnx.stats.coupling import mean_counts, with_streams
from pfa_onnx.stats.divergence import CURVES, DIVERGENCES, chi2, emd, kl
from pfa_onnx.stats.pfa import Spectrum, asked
from pfa_onnx.stats.selection import ORDERS, removal_orders, wish
from pfa_onnx.stats.shrinkage import oas, oas_weight

examples = settings(derandomize=True, max_examples=40, deadline=None)
BY_HAND = np.array([0.5, 0.25, 0.125, 0.125])


def layer(output, labels):
    return Layer(output, f"node_{output}", "Conv", f"w_{output}", np.array(labels, np.int64))


def count(values, **choices):
    return asked({"y": Spectrum(np.array(values, float))}, Method("kl", **choices))["y"]


# --- divergences and mappings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distance", "gamma", "keep"),
    [
        ("kl", np.log(4) - 1.75 * np.log(2), 0.875, 4),  # an entropy of 1.75 bits, of 2
        ("chi2", 4 * (0.25 + 0.0625 + 2 * 0.015625) - 1, 1 - 0.375 / 3, 4),
        ("emd", 0.25 + 0.25 + 0.125, 1 - 0.625 / 1.5, 3),  # cumulated: .5 .75 .875 1 over .25 .5 .75 1
    ],
)
def test_divergences_by_hand(name, distance, gamma, keep):
    assert DIVERGENCES[name].distance(BY_HAND) == pytest.approx(distance, abs=1e-15)
    assert Spectrum(BY_HAND * 7).gamma_by(name, "linear") == pytest.approx(gamma, abs=1e-15)
    assert count(BY_HAND, divergence=name) == keep


@pytest.mark.parametrize("k", [1, 2, 3, 7, 32])
@pytest.mark.parametrize("channels", [2, 8, 32, 100])
def test_divergences_of_k_equal_eigenvalues(k, channels):
    if k > channels:
        return
    shares = np.r_[np.full(k, 1 / k), np.zeros(channels - k)]
    assert kl(shares) == pytest.approx(np.log(channels / k))
    assert chi2(shares) == pytest.approx(channels / k - 1)
    assert emd(shares) == pytest.approx((channels - k) / 2)  # every unit of mass moves by the difference of the means


@pytest.mark.parametrize("channels", [2, 3, 64])
@pytest.mark.parametrize("mapping", CURVES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_flat_spectrum_keeps_everything_and_a_dirac_one(divergence, mapping, channels):
    choices = {"divergence": divergence, "mapping": mapping}
    assert count(np.full(channels, 3.0), **choices) == channels
    assert count(np.r_[5.0, np.zeros(channels - 1)], **choices) == 1
    assert count(np.zeros(channels), **choices) == 1, "nothing varies"
    assert count([2.0], **choices) == 1


@examples
@given(st.integers(0, 1000))
def test_the_bound_is_the_distance_of_a_dirac_and_nothing_is_farther(seed):
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(2, 40))
    shares = np.sort(rng.dirichlet(np.full(channels, 0.3)))[::-1]
    for measure in DIVERGENCES.values():
        dirac = np.r_[1.0, np.zeros(channels - 1)]
        assert measure.distance(dirac) == pytest.approx(measure.bound(channels))
        assert 0 <= measure.distance(shares) <= measure.bound(channels) * (1 + 1e-12)


@examples
@given(st.integers(0, 1000))
def test_the_earth_movers_distance_is_that_of_moving_mass_greedily(seed):
    rng = np.random.default_rng(seed)
    shares = np.sort(rng.dirichlet(np.ones(9)))[::-1]
    have, want, work = shares.copy(), np.full(9, 1 / 9), 0.0
    for source in range(9):  # on a line, the first piles go to the first holes
        for target in range(9):
            moved = min(have[source], want[target])
            have[source] -= moved
            want[target] -= moved
            work += moved * abs(source - target)
    assert emd(shares) == pytest.approx(work, abs=1e-12)


def test_mappings_by_hand():
    """A divergence of 3/4 of its bound, of 16 channels."""
    wanted = {"linear": 0.25, "sqrt": 0.5, "square": 0.0625, "exp": 1 / 8}
    assert {name: curve(0.75, 16) for name, curve in CURVES.items()} == pytest.approx(wanted)


def test_the_exponential_of_kl_is_the_effective_rank():
    entropy = -float(np.sum(BY_HAND * np.log(BY_HAND)))
    assert Spectrum(BY_HAND).gamma_by("kl", "exp") * 4 == pytest.approx(np.exp(entropy))


def test_the_default_is_the_paper():
    found = Spectrum(np.sort(np.random.default_rng(0).random(33))[::-1])
    assert found.gamma == found.gamma_by("kl", "linear")
    assert asked({"y": found}, Method("kl"))["y"] == found.keep_kl()


# --- shrinkage ------------------------------------------------------------------------------------


def published(covariance, samples):
    """Equation (23) of Chen et al. (2010), by matrices; they know the mean, which costs a sample here."""
    size, n = len(covariance), samples - 1
    square, trace = np.trace(covariance @ covariance), np.trace(covariance)
    above = (1 - 2 / size) * square + trace**2
    below = (n + 1 - 2 / size) * (square - trace**2 / size)
    rho = min(above / below, 1.0)
    return rho, (1 - rho) * covariance + rho * trace / size * np.eye(size)


@pytest.mark.parametrize("samples", [3, 8, 30, 1000])
@pytest.mark.parametrize("channels", [2, 8, 20])
def test_oas_is_the_published_formula(samples, channels):
    rng = np.random.default_rng(samples * channels)
    covariance = np.cov(
        rng.standard_normal((samples, channels)) @ rng.standard_normal((channels, channels)), rowvar=False
    )
    raw = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    rho, shrunk = published(covariance, samples)
    assert oas_weight(raw, samples - 1) == pytest.approx(rho)
    np.testing.assert_allclose(oas(raw, samples), np.linalg.eigvalsh(shrunk)[::-1], rtol=1e-9, atol=1e-9 * raw[0])
    np.testing.assert_allclose(Spectrum(raw).shrunk(samples).eigenvalues, oas(raw, samples))


def test_shrinkage_keeps_the_trace_and_vanishes_with_many_samples():
    raw = np.array([9.0, 3.0, 1.0, 0.0])
    weights = [oas_weight(raw, n) for n in (1, 4, 20, 200, 10**9)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 1.0
    assert weights[-1] < 1e-8
    for samples in (2, 20, 200):
        assert oas(raw, samples).sum() == pytest.approx(raw.sum())
        assert (np.diff(oas(raw, samples)) <= 0).all()
    tiny = raw * 1e-300
    assert oas_weight(tiny, 20) == pytest.approx(oas_weight(raw, 20))
    assert oas(np.zeros(3), 5).tolist() == [0, 0, 0], "nothing varies, and still does not"
    assert oas(np.array([4.0]), 5).tolist() == [4.0]


def test_few_samples_keep_more_of_a_flat_spectrum_with_shrinkage():
    rows = np.random.default_rng(0).standard_normal((80, 64))
    raw = Spectrum(np.maximum(np.linalg.eigvalsh(np.cov(rows, rowvar=False))[::-1], 0))
    assert raw.keep_kl() < 60
    assert raw.shrunk(80).keep_kl() >= 63


# --- layers that go together ----------------------------------------------------------------------

SPINE = (layer("a", [1, 2, 3, 4]), layer("b", [1, 2, 3, 4]), layer("c", [5, 6]))


def test_the_mean_of_what_members_ask_for():
    coupling = Coupling(SPINE, {})
    counts = mean_counts(coupling, {"a": 1, "b": 4, "c": 2})
    assert counts == {"a": 3, "b": 3, "c": 2}  # 2.5, rounded up
    order = [np.array([1, 2, 3, 4]), np.array([5, 6])]
    assert wish(coupling, counts, order).remove == {1}
    assert wish(coupling, {"a": 1, "b": 4, "c": 2}, order).remove == frozenset(), "the most that any asks for"


def test_members_of_unlike_widths_agree_on_a_share():
    coupling = Coupling((layer("a", [1, 2]), layer("b", [1, 2, 3, 4])), {})
    assert mean_counts(coupling, {"a": 2, "b": 1}) == {"a": 2, "b": 3}  # 5 / 8 of 2 and of 4


def test_frozen_channels_couple_nothing():
    coupling = Coupling((layer("a", [1, 2]), layer("b", [1, 3])), {1: (Reason("why", "n"),)})
    assert mean_counts(coupling, {"a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_a_sum_answers_for_what_it_adds_up():
    found = with_streams(Coupling(SPINE, {}), [layer("s", [1, 2, 3, 4]), layer("other", [9])])
    assert [one.output for one in found.layers] == ["c", "s"]
    remove = wish(found, {"a": 4, "b": 4, "c": 2, "s": 1}, [np.array([4, 3, 2, 1])]).remove
    assert remove == {4, 3, 2}


def test_a_layer_that_is_only_partly_in_a_sum_answers_for_itself():
    wide = layer("w", [1, 2, 3, 4, 7])
    found = with_streams(Coupling((*SPINE, wide), {}), [layer("s", [1, 2, 3, 4])])
    assert [one.output for one in found.layers] == ["c", "w", "s"]
    frozen = with_streams(Coupling((*SPINE, wide), {7: (Reason("why", "n"),)}), [layer("s", [1, 2, 3, 4])])
    assert [one.output for one in frozen.layers] == ["c", "s"], "what is left of it goes by the sum"


# --- the table of selections ----------------------------------------------------------------------


def test_every_choice_of_select_has_a_row():
    assert set(ORDERS) == set(Select.__args__)


@pytest.mark.parametrize("select", ["l1", "l2", "bn", "wanda"])
def test_scores_are_ranked_smallest_first(select):
    coupling = Coupling((layer("a", [1, 2, 3]),), {})
    order = removal_orders(coupling, Method("kl", select=select), {}, {"a": np.array([2.0, 0.5, 1.0])})
    assert [each.tolist() for each in order] == [[2, 3, 1]]
