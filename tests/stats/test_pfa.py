"""PFA-En, PFA-KL and the filter selection, against hand-computed and brute-force oracles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfa_onnx.errors import InternalError
from pfa_onnx.recipe import Coupling, Layer, Method, Reason
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.greedy import removal_order
from pfa_onnx.stats.pfa import Spectrum, asked, spectrum
from pfa_onnx.stats.selection import (
    absolute_correlation,
    coupled_sets,
    group_order,
    magnitude_order,
    random_order,
    removal_orders,
    wish,
)

examples = settings(derandomize=True, max_examples=40, deadline=None)
KL = Method("kl")


def responses(rows=300, channels=12, seed=0):
    """Correlated responses of unlike scales: a few shared factors and some noise of each channel's own."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(rows, max(channels // 3, 1))) @ rng.normal(size=(max(channels // 3, 1), channels))
    return (factors + 0.5 * rng.normal(size=(rows, channels))) * rng.uniform(0.5, 2.0, channels)


def layer(output="y", labels=None, channels=None, group=None):
    labels = np.arange(1, channels + 1) if labels is None else np.array(labels, np.int64)
    return Layer(output, f"node_{output}", "Conv", f"w_{output}", labels, group)


def covariance(rows):
    return Moments.of(rows).covariance


def keep(rows, method=KL):
    """The kept channels of one layer of its own, all the way from its responses."""
    coupling = Coupling((layer(channels=rows.shape[1]),), {})
    matrix = covariance(rows)
    wished = wish(coupling, asked({"y": spectrum(matrix)}, method), removal_orders(coupling, method, {"y": matrix}))
    return tuple(index for index in range(rows.shape[1]) if index + 1 not in wished.remove)


def order_of(correlation):
    return removal_order(np.asarray(correlation, float), np.ones(len(correlation), bool)).tolist()


def symmetric(size, **pairs):
    """A correlation matrix from pairs: r01=.8."""
    matrix = np.zeros((size, size))
    for name, value in pairs.items():
        i, j = int(name[1]), int(name[2])
        matrix[i, j] = matrix[j, i] = value
    return matrix


def brute_force_order(correlation):
    """Section 3.2.3 word for word, in O(C^3): norms anew at each step, rows cut out of the matrix."""
    names, order = list(range(len(correlation))), []
    while names:
        rest = correlation[np.ix_(names, names)]
        norms = rest.sum(axis=1)
        tied = [i for i in range(len(names)) if norms[i] >= norms.max() * (1 - 1e-9)]
        highest = max(rest[i].max() for i in tied)
        pick = next(i for i in tied if rest[i].max() >= highest * (1 - 1e-9))
        order.append(names.pop(pick))
    return order


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, 33))
def test_k_equal_eigenvalues_of_k_squared_are_half_of_them(k):
    """KL = ln k and the bound is 2 ln k, so gamma is one half: exactly ceil(k^2 / 2), never one more."""
    for scale in (1.0, 1e-12, 3e17):
        found = Spectrum(np.r_[np.full(k, scale / k), np.zeros(k * k - k)])
        assert found.keep_kl() == (k * k + 1) // 2


def test_two_of_four_by_hand():
    found = Spectrum(np.array([0.5, 0.5, 0.0, 0.0]))
    assert found.kl == pytest.approx(np.log(2), abs=1e-15)
    assert found.gamma == pytest.approx(0.5, abs=1e-15)
    assert found.keep_kl() == 2
    assert [found.keep_energy(tau) for tau in (0.1, 0.5, 0.50001, 1.0)] == [1, 1, 2, 2]
    assert found.breakpoints().tolist() == [0.5, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 3, 64, 1000])
def test_a_flat_spectrum_keeps_everything(channels):
    found = Spectrum(np.full(channels, 0.1))
    assert found.gamma == pytest.approx(1.0)
    assert found.keep_kl() == channels
    assert found.keep_energy(1.0) == channels


@pytest.mark.parametrize("channels", [2, 3, 64, 1024])
def test_a_dirac_keeps_one(channels):
    found = Spectrum(np.r_[7.0, np.zeros(channels - 1)])
    assert found.gamma == pytest.approx(0.0, abs=1e-12)
    assert (found.keep_kl(), found.keep_energy(1.0)) == (1, 1)


@pytest.mark.parametrize("channels", [2, 5, 64])
def test_a_layer_in_which_nothing_varies_is_a_dirac(channels):
    for value in (0.0, 2.5):
        found = spectrum(covariance(np.full((50, channels), value)))
        assert (found.keep_kl(), found.keep_energy(0.98), found.gamma) == (1, 1, 0.0)
        assert found.breakpoints().tolist() == [1.0]
        assert keep(np.full((50, channels), value)) == (channels - 1,)


@pytest.mark.parametrize("eigenvalue", [0.0, 3.0])
def test_a_single_channel_is_kept(eigenvalue):
    found = Spectrum(np.array([eigenvalue]))
    assert (found.kl, found.gamma, found.keep_kl(), found.keep_energy(0.5)) == (0.0, 1.0, 1, 1)
    assert keep(responses(channels=1)) == (0,)


def test_kl_and_energy_by_hand():
    """lambda = (.5, .25, .125, .125): entropy 1.75 bits of 2, so gamma = .875 and 3.5 channels."""
    found = Spectrum(np.array([4.0, 2.0, 1.0, 1.0]))
    assert found.gamma == pytest.approx(0.875)
    assert found.keep_kl() == 4
    assert found.breakpoints().tolist() == [0.5, 0.75, 0.875, 1.0]
    assert [found.keep_energy(tau) for tau in (0.5, 0.75, 0.76, 0.875, 0.9)] == [1, 2, 3, 3, 4]


def test_apples_published_numbers_follow_from_their_divergences():
    """Apple's executed MobileNet notebook prints KL, ratio and count per layer."""
    table = [(32, 1.907966, 15), (64, 1.898266, 35), (128, 1.351204, 93), (256, 1.407504, 192), (1024, 1.506620, 802)]
    for channels, divergence, count in table:
        found = Spectrum(np.ones(channels))
        found.__dict__["kl"] = divergence
        assert found.keep_kl() == count


def test_the_spectrum_is_that_of_the_covariance_descending_and_never_negative():
    rows = responses(rows=8)  # rank 7 of 12: eigvalsh returns tiny negatives
    found = spectrum(covariance(rows))
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(found.eigenvalues[:7], singular[:7] ** 2 / 7, rtol=1e-10)
    assert (np.diff(found.eigenvalues) <= 0).all()
    assert (found.eigenvalues >= 0).all()
    assert found.keep_energy(1.0) <= 7


eigenvalues = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).map(lambda x: np.sort(np.array(x))[::-1])


@examples
@given(eigenvalues, st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=6))
def test_more_energy_never_keeps_fewer(values, taus):
    found = Spectrum(values)
    counts = [found.keep_energy(tau) for tau in sorted(taus)]
    assert counts == sorted(counts)
    assert all(1 <= count <= len(values) for count in (*counts, found.keep_kl()))


@examples
@given(eigenvalues, st.floats(1e-3, 1.0))
def test_energy_keeps_the_smallest_count_that_holds_tau(values, tau):
    found = Spectrum(values)
    count = found.keep_energy(tau)
    assert found.normalised[:count].sum() >= tau - 2e-12
    assert found.normalised[: count - 1].sum() < tau


@examples
@given(eigenvalues, st.floats(1e-3, 1.0))
def test_breakpoints_give_every_count_that_a_tau_can_give(values, tau):
    found = Spectrum(values)
    points = found.breakpoints()
    counts = [found.keep_energy(point) for point in points]
    assert (np.diff(points) > 0).all()
    assert (np.diff(counts) > 0).all()
    count = found.keep_energy(tau)
    nearest = max(other for other in counts if other <= count)
    assert found.normalised[nearest:count].sum() <= 2e-12  # nothing at all, but for energies within the slack


def test_asked_follows_the_method():
    spectra = {"a": Spectrum(np.array([4.0, 2.0, 1.0, 1.0])), "b": Spectrum(np.array([1.0, 0, 0]))}
    assert asked(spectra, KL) == {"a": 4, "b": 1}
    assert asked(spectra, Method("energy", tau=0.75)) == {"a": 2, "b": 1}
    assert asked(spectra, Method("params", target=0.5, tau=0.75)) == {"a": 2, "b": 1}
    assert asked(spectra, Method("uniform", ratio=0.5)) == {"a": 2, "b": 2}
    assert asked(spectra, Method("uniform", ratio=1e-6)) == {"a": 1, "b": 1}
    assert asked({"c": Spectrum(np.ones(10))}, Method("uniform", ratio=0.7)) == {"c": 7}  # .7 * 10 > 7 in floats
    for incomplete in (Method("macs", target=0.5), Method("uniform")):
        with pytest.raises(InternalError):
            asked(spectra, incomplete)


# --- which --------------------------------------------------------------------------------------


def test_a_tie_in_norm_goes_to_the_highest_single_coefficient():
    """Norms .9, 1.3, 1.3, .7: the paper removes 1 (.8); taking the partner of the highest would remove 0."""
    assert order_of(symmetric(4, r01=0.8, r12=0.5, r02=0.1, r23=0.7))[0] == 1


def test_full_ties_go_to_the_lowest_index():
    assert order_of(np.ones((4, 4)) - np.eye(4)) == [0, 1, 2, 3]
    assert order_of(np.zeros((3, 3))) == [0, 1, 2]
    assert order_of(symmetric(4, r01=0.5, r23=0.5)) == [0, 2, 1, 3]


def test_rounding_does_not_decide_a_tie():
    """Duplicates computed in another order differ in the last bits; the lowest index still goes."""
    rng = np.random.default_rng(3)
    jitter = rng.normal(size=(40, 40)) * 1e-14
    matrix = 0.5 * (np.ones((40, 40)) - np.eye(40)) + jitter + jitter.T
    np.fill_diagonal(matrix, 0)
    assert order_of(matrix) == list(range(40))


def test_a_near_tie_is_not_a_tie():
    """A gap of 1e-6 decides by the norm, though the other row has the higher coefficient."""
    assert order_of(symmetric(4, r01=0.8, r12=0.5, r02=0.1, r23=0.7 + 2e-6))[0] == 2


@examples
@given(st.integers(1, 40), st.integers(0, 10_000), st.booleans())
def test_the_order_is_that_of_the_brute_force(channels, seed, coarse):
    """On random data, and on a coarse grid of coefficients, where most steps tie."""
    matrix, _ = absolute_correlation(covariance(responses(channels=channels, seed=seed)))
    if coarse:
        matrix = np.round(matrix * 4) / 4
    order = group_order([layer(channels=channels)], {"y": covariance(responses(channels=channels, seed=seed))}, ())
    if not coarse:
        assert (order - 1).tolist() == brute_force_order(matrix)
    assert order_of(matrix) == brute_force_order(matrix)


def test_the_order_is_that_of_the_brute_force_on_a_wide_layer():
    matrix, _ = absolute_correlation(covariance(responses(rows=400, channels=150)))
    assert order_of(matrix) == brute_force_order(matrix)


def test_dead_channels_go_first_the_least_varying_one_first():
    rows = responses()
    rows[:, 7] = 1e-5 * rows[:, 2]
    rows[:, 3] = 4.0
    rows[:, 9] = 1e-6 * rows[:, 5]
    matrix, dead = absolute_correlation(covariance(rows))
    assert np.flatnonzero(dead).tolist() == [3, 7, 9]
    assert not matrix[[3, 7, 9]].any()
    assert not matrix[:, [3, 7, 9]].any()
    order = group_order([layer(channels=12)], {"y": covariance(rows)}, ())
    assert order[:3].tolist() == [4, 10, 8]


def test_dead_channels_do_not_change_the_order_of_the_others():
    rows = responses()
    with_dead = np.insert(rows, [2, 5], 1.0, axis=1)
    alive = [index for index in range(14) if index not in (2, 6)]
    order = group_order([layer(channels=14)], {"y": covariance(with_dead)}, ()) - 1
    plain = group_order([layer(channels=12)], {"y": covariance(rows)}, ()) - 1
    assert order.tolist() == [2, 6, *(alive[index] for index in plain)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_copies_go_before_anything_unlike(sign):
    """Ten independent channels and a copy (or its negative) of each of three: the copies' pairs lose one each."""
    rng = np.random.default_rng(5)
    rows = np.linalg.qr(rng.normal(size=(500, 10)))[0]
    rows = np.hstack([rows, sign * 3.0 * rows[:, :3]])
    gone = set((group_order([layer(channels=13)], {"y": covariance(rows)}, ())[:3] - 1).tolist())
    assert all(len(gone & {index, index + 10}) == 1 for index in range(3))


@pytest.mark.parametrize("method", [KL, Method("energy", tau=0.95)])
@pytest.mark.parametrize("scale", [1e-6, 2.0**-20, 1e30, 1e-30])
def test_the_recipe_is_scale_free(method, scale):
    rows = responses(channels=30)
    assert keep(rows * scale, method) == keep(rows, method)


def test_the_recipe_is_scale_free_in_float32():
    rows = responses(channels=30).astype(np.float32)
    for scale in (1e-6, 1e-30, 1e30):
        assert keep(rows * np.float32(scale)) == keep(rows)


def test_a_mean_of_1000_in_float32_does_not_change_the_recipe():
    """On a grid of 1/64, so that float32 holds the shifted responses exactly."""
    rows = np.round(responses(channels=30) * 64) / 64
    assert keep((rows + 1000).astype(np.float32)) == keep(rows.astype(np.float32))


@examples
@given(st.permutations(range(12)), st.integers(0, 50))
def test_permuting_channels_permutes_the_recipe(permutation, seed):
    rows = responses(seed=seed)
    permuted = keep(rows[:, permutation])
    assert sorted(permutation[index] for index in permuted) == list(keep(rows))


def test_fewer_samples_than_channels_still_gives_a_whole_recipe():
    rows = responses(rows=5, channels=20)
    assert 1 <= len(keep(rows)) <= 20
    assert sorted(group_order([layer(channels=20)], {"y": covariance(rows)}, ()).tolist()) == list(range(1, 21))


def test_frozen_labels_stay_but_count():
    """Label 2 repeats the frozen label 1, so it goes before 3 and 4, which repeat each other less."""
    matrix = symmetric(4, r01=0.9, r23=0.6) + np.eye(4)
    order = group_order([layer(channels=4)], {"y": matrix}, {1: ()})
    assert order.tolist() == [2, 3, 4]


def test_label_zero_is_frozen_and_joins_nothing():
    """Channels of label 0 are different things: their coefficients are counted one by one."""
    matrix = symmetric(5, r02=0.3, r12=0.3, r34=0.5) + np.eye(5)
    order = group_order([layer(labels=[0, 0, 5, 6, 7])], {"y": matrix}, ())
    assert order.tolist() == [5, 6, 7]
    a, b = layer("a", [0, 1]), layer("b", [0, 2])
    assert coupled_sets(Coupling((a, b), {})) == [(a,), (b,)]


# --- layers that share channels -----------------------------------------------------------------


def test_sets_are_the_layers_that_share_a_removable_label():
    a, b, c, d = layer("a", [1, 2]), layer("b", [3, 4]), layer("c", [5, 6]), layer("d", [4, 1])
    e, f = layer("e", [9, 7]), layer("f", [9, 8])
    coupling = Coupling((a, b, c, d, e, f), {9: (Reason("output", "n"),)})
    assert coupled_sets(coupling) == [(a, b, d), (c,), (e,), (f,)]


def test_members_of_a_spine_are_averaged():
    """Each layer alone would lose another channel first; their mean decides."""
    one = symmetric(3, r01=0.9, r02=0.2) + np.eye(3)
    two = symmetric(3, r12=0.9, r02=0.2) + np.eye(3)
    layers = [layer("a", [1, 2, 3]), layer("b", [1, 2, 3])]
    assert group_order(layers[:1], {"a": one}, ())[0] == 1
    assert group_order(layers[1:], {"b": two}, ())[0] == 3
    assert group_order(layers, {"a": one, "b": two}, ()).tolist() == [2, 1, 3]


def test_members_may_list_their_labels_in_another_order():
    rows = responses()
    shuffle = np.random.default_rng(1).permutation(12)
    alone = group_order([layer("a", channels=12)], {"a": covariance(rows)}, ())
    layers = [layer("a", channels=12), layer("b", shuffle + 1)]
    both = group_order(layers, {"a": covariance(rows), "b": covariance(rows[:, shuffle])}, ())
    assert both.tolist() == alone.tolist()


def test_the_mean_is_over_the_members_that_carry_both_labels():
    """1 and 2 meet only in a, 3 and 4 only in b, 2 and 3 in both."""
    a, b = layer("a", [1, 2, 3]), layer("b", [2, 3, 4])
    one = symmetric(3, r01=0.6, r12=0.2) + np.eye(3)
    two = symmetric(3, r01=0.6, r12=0.9) + np.eye(3)
    joined = symmetric(4, r01=0.6, r12=0.4, r23=0.9)
    order = group_order([a, b], {"a": one, "b": two}, ())
    assert (order - 1).tolist() == brute_force_order(joined)


def test_channels_of_one_layer_with_one_label_are_averaged():
    """Labels 1 1 2 3: the coefficients of 1 are the means over its two channels."""
    matrix = symmetric(4, r02=0.8, r12=0.2, r03=0.1, r13=0.1, r23=0.5, r01=0.9) + np.eye(4)
    order = group_order([layer(labels=[1, 1, 2, 3])], {"y": matrix}, ())
    assert (order - 1).tolist() == brute_force_order(symmetric(3, r01=0.5, r02=0.1, r12=0.5))


def test_a_label_is_dead_only_where_every_member_says_so():
    rows = responses(channels=4)
    still = rows.copy()
    still[:, [1, 2]] = 0
    rows[:, 2] = 7
    layers = [layer("a", channels=4), layer("b", channels=4)]
    order = group_order(layers, {"a": covariance(rows), "b": covariance(still)}, ())
    assert order[0] == 3
    assert sorted(order.tolist()) == [1, 2, 3, 4]


def test_a_spine_keeps_the_largest_count_that_a_member_asks_for():
    layers = tuple(layer(name, channels=12, group=1) for name in "abc")
    found = wish(Coupling(layers, {}), {"a": 3, "b": 7, "c": 5}, [np.arange(12, 0, -1)])
    assert found.remove == frozenset(range(8, 13))
    assert found.order.tolist() == list(range(12, 0, -1))


def test_a_lone_layer_loses_the_first_of_its_order():
    order = np.array([3, 1, 4, 2])
    for count in range(5):
        found = wish(Coupling((layer(channels=4),), {}), {"y": count}, [order])
        assert found.remove == frozenset(order[: 4 - max(count, 1)].tolist())


def test_a_label_goes_only_as_often_as_every_layer_can_afford():
    """Label 1 is three channels of a: a asks for two of its four, so 1 stays and 2 goes."""
    coupling = Coupling((layer("a", [1, 1, 1, 2]), layer("b", [2, 3])), {})
    found = wish(coupling, {"a": 2, "b": 1}, [np.array([1, 2, 3])])
    assert found.remove == frozenset({2})
    assert dict(found.asked) == {"a": 2, "b": 1}


def test_frozen_labels_are_never_wished_away():
    coupling = Coupling((layer("a", [1, 0, 2, 3]),), {2: (Reason("graph output", "n"),)})
    found = wish(coupling, {"a": 1}, [np.array([2, 0, 1, 3])])
    assert found.remove == frozenset({1, 3})


@examples
@given(st.integers(0, 1000))
def test_every_layer_keeps_what_it_asked_for(seed):
    rng = np.random.default_rng(seed)
    layers = tuple(
        layer(name, rng.integers(0 if name == "a" else 1, 9, size=rng.integers(1, 12)), group=0) for name in "abcd"
    )
    coupling = Coupling(layers, {4: (Reason("why", "n"),)})
    counts = {each.output: int(rng.integers(1, each.channels + 1)) for each in layers}
    matrices = {each.output: covariance(responses(channels=each.channels, seed=seed)) for each in layers}
    orders = removal_orders(coupling, KL, matrices)
    removable = {label for each in layers for label in each.labels.tolist()} - {0, 4}
    found = wish(coupling, counts, orders)
    assert sorted(found.order.tolist()) == sorted(removable)
    assert found.remove <= removable
    for each in layers:
        assert sum(label not in found.remove for label in each.labels.tolist()) >= counts[each.output]


# --- the baselines ------------------------------------------------------------------------------


def test_small_norms_go_first_summed_over_the_members():
    layers = [layer("a", [1, 2, 3]), layer("b", [3, 2, 4])]
    norms = {"a": np.array([5.0, 1.0, 2.0]), "b": np.array([2.0, 1.0, 4.0])}
    assert magnitude_order(layers, norms).tolist() == [2, 3, 4, 1]  # 3 and 4 tie at 4: first come, first gone
    assert magnitude_order(layers, norms, frozen={3: ()}).tolist() == [2, 4, 1]


def test_random_depends_on_the_seed_and_the_labels_alone():
    assert random_order([5, 3, 9, 7], 1).tolist() == random_order((9, 9, 7, 5, 3), 1).tolist()
    assert sorted(random_order(range(1, 60), 0).tolist()) == list(range(1, 60))
    assert random_order(range(1, 60), 0).tolist() != random_order(range(1, 60), 1).tolist()
    assert (random_order(range(101, 160), 0) - 100).tolist() != random_order(range(1, 60), 0).tolist()
    assert not len(random_order([], 0))


def test_every_selection_orders_every_removable_label_once():
    layers = (layer("a", [1, 2, 3]), layer("b", [3, 2, 1]), layer("c", [4, 5, 0]))
    coupling = Coupling(layers, {5: (Reason("why", "n"),)})
    matrices = {each.output: covariance(responses(channels=3)) for each in layers}
    norms = {each.output: np.arange(3.0) for each in layers}
    for select in ("pfa", "l1", "l2", "random"):
        orders = removal_orders(coupling, Method("kl", select=select), matrices, norms)
        assert [sorted(order.tolist()) for order in orders] == [[1, 2, 3], [4]]
    with pytest.raises(InternalError):
        removal_orders(coupling, Method("kl", select="l1"), matrices)
