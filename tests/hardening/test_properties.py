"""Properties of whole models: what must not matter does not, and what is decided is what plain numpy decides.

Examples are drawn with a seed, PFA_ONNX_SEED (0 unless it is set); PFA_ONNX_MORE says how many times as many there are.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, seed, settings
from hypothesis import strategies as st
from networks import Net
from onnx import numpy_helper
from support import run, saved

import pfa_onnx
from hardening.numeric import analyzed, changed, keep, recipe
from pfa_onnx import Method
from pfa_onnx.stats import session
from pfa_onnx.stats.compare import relative_error

SEED = int(os.environ.get("PFA_ONNX_SEED", "0"))
MORE = int(os.environ.get("PFA_ONNX_MORE", "1"))
SAMPLES = 120
SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion"


def examples(count):
    """So many examples, drawn with the seed, which is printed with an example that fails."""

    def wrap(function):
        quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
        return seed(SEED)(settings(max_examples=count * MORE, **quiet)(function))

    return wrap


# --- networks, and which of their weights carry which channels -----------------------------------------


@dataclass(frozen=True)
class Family:
    """groups: of channels that go together: {name: (weights that carry them (name, axis, block), layers that make them)}.

    block: how many entries in a row belong to one channel. homogeneous: scaling the input and the biases scales all.
    """

    build: Callable[[np.random.Generator], onnx.ModelProto]
    groups: dict[str, tuple[list[tuple[str, int, int]], list[str]]]
    homogeneous: bool = True


def layer(name, axis=0, block=1):
    return [(f"{name}.weight", axis, block), *([(f"{name}.bias", 0, block)] if axis == 0 else [])]


def bn(name):
    return [(f"{name}.{part}", 0, 1) for part in ("weight", "bias", "running_mean", "running_var")]


def tail(net, x, channels):
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    return net.linear(x, channels, 6, out="fc")


def chain(rng):
    net = Net(rng)
    x = net.relu(net.conv(net.image(size=8), 3, 10))
    return net.model(tail(net, net.relu(net.conv(x, 10, 14)), 14))


def normalised(rng):
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 10)
    return net.model(tail(net, net.block(x, 10, 14), 14))


def residual(rng):
    net = Net(rng)
    x = net.relu(net.conv(net.image(size=8), 3, 12))
    y = net.conv(net.relu(net.conv(x, 12, 9)), 9, 12)
    x = net.relu(net.op("Add", x, y))
    return net.model(tail(net, net.relu(net.conv(x, 12, 8)), 8))


def separable(rng):
    net = Net(rng)
    x = net.relu(net.conv(net.image(size=8), 3, 12))
    x = net.relu(net.conv(x, 12, 12, group=12))
    return net.model(tail(net, net.relu(net.conv(x, 12, 14, k=1)), 14))


def flattened(rng):
    net = Net(rng)
    x = net.relu(net.conv(net.image(size=4), 3, 10))
    x = net.relu(net.linear(net.op("Flatten", x, axis=1), 10 * 16, 16))
    return net.model(net.linear(x, 16, 6, out="fc"))


def forked(rng):
    net = Net(rng)
    x = net.image(size=8)
    parts = [net.relu(net.conv(x, 3, 7)), net.relu(net.conv(x, 3, 9, k=1))]
    x = net.op("Concat", *parts, axis=1)
    return net.model(tail(net, net.relu(net.conv(x, 16, 12)), 12))


FAMILIES = {
    "chain": Family(
        chain,
        {
            "a": ([*layer("conv_0"), *layer("conv_1", 1)], ["conv_0"]),
            "b": ([*layer("conv_1"), *layer("fc", 1)], ["conv_1"]),
        },
    ),
    "normalised": Family(
        normalised,
        {
            "a": ([("conv_0.weight", 0, 1), *bn("bn_0"), *layer("conv_1", 1)], ["conv_0"]),
            "b": ([("conv_1.weight", 0, 1), *bn("bn_1"), *layer("fc", 1)], ["conv_1"]),
        },
        homogeneous=False,
    ),
    "residual": Family(
        residual,
        {
            "spine": (
                [*layer("conv_0"), *layer("conv_2"), *layer("conv_1", 1), *layer("conv_3", 1)],
                ["conv_0", "conv_2"],
            ),
            "inside": ([*layer("conv_1"), *layer("conv_2", 1)], ["conv_1"]),
            "last": ([*layer("conv_3"), *layer("fc", 1)], ["conv_3"]),
        },
    ),
    "separable": Family(
        separable,
        {
            "depthwise": ([*layer("conv_0"), *layer("conv_1"), *layer("conv_2", 1)], ["conv_0", "conv_1"]),
            "last": ([*layer("conv_2"), *layer("fc", 1)], ["conv_2"]),
        },
    ),
    "flattened": Family(
        flattened,
        {
            "a": ([*layer("conv_0"), *layer("gemm_0", 1, 16)], ["conv_0"]),
            "b": ([*layer("gemm_0"), *layer("fc", 1)], ["gemm_0"]),
        },
    ),
    "forked": Family(
        forked,
        {"last": ([*layer("conv_2"), *layer("fc", 1)], ["conv_2"])},
    ),
}

METHODS = [
    Method("kl"),
    Method("energy", tau=0.9),
    Method("energy", tau=0.98),
    Method("params", target=0.6),
    Method("macs", target=0.5),
    Method("kl", divergence="emd", mapping="square"),
    Method("energy", tau=0.9, shrink="oas", couple="mean"),
    *(Method("uniform", ratio=0.5, select=one) for one in ("pfa", "l1", "l2", "wanda", "reconstruct")),
]

families = st.sampled_from(sorted(FAMILIES))
methods = st.sampled_from(METHODS)
draws = st.integers(0, 2**32 - 1)


def drawn(name, number):
    """A network of a family with weights of its own, and data whose samples differ in size and share directions."""
    rng = np.random.default_rng(number)
    model = FAMILIES[name].build(rng)
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = rng.standard_normal((SAMPLES, 3, size, size)) * rng.uniform(0.5, 2.0, (SAMPLES, 1, 1, 1))
    if currently_in_test_context():
        note(f"PFA_ONNX_SEED={SEED} PFA_ONNX_MORE={MORE}: family {name}, number {number}")
    return model, {"image": x.astype(np.float32)}


# --- what must not matter ------------------------------------------------------------------------------


def permuted(model, carriers, order):
    """The same function with one group's channels in another order: channel k is what channel order[k] was."""

    def turned(array, axis, block):
        at = (np.asarray(order)[:, None] * block + np.arange(block)).ravel()
        return np.take(array, at, axis=axis)

    how = {name.replace(".", "__"): (axis, block) for name, axis, block in carriers}
    return changed(model, **{name: lambda a, how=how[name]: turned(a, *how) for name in how})


@examples(24)
@given(families, methods, draws)
def test_permuting_channels_permutes_the_recipe(name, method, number):
    model, data = drawn(name, number)
    other, orders = model, {}
    for group, (carriers, makers) in FAMILIES[name].groups.items():
        rng = np.random.default_rng((number, len(orders)))
        size = next(t.dims[0] for t in model.graph.initializer if t.name == f"{makers[0]}.weight")
        orders[group] = rng.permutation(size)
        other = permuted(other, carriers, orders[group])
    assert relative_error(run(saved(model), data)["fc"], run(saved(other), data)["fc"]) < 1e-4
    before, after = analyzed(model, data, method), analyzed(other, data, method)
    for group, (_, makers) in FAMILIES[name].groups.items():
        for maker in makers:
            found = sorted(orders[group][list(keep(after, maker))])
            # of the last two, each repeats the other as much as it is repeated: the higher index stays
            assert found == list(keep(before, maker)) or (len(found) == 1 and method.select == "pfa")
    assert [layer.asked for layer in before.layers] == [layer.asked for layer in after.layers]


def scaled(model, data, factor):
    biases = {
        t.name.replace(".", "__"): lambda a: a * factor for t in model.graph.initializer if t.name.endswith("bias")
    }
    return changed(model, **biases), {k: (v.astype(np.float64) * factor).astype(np.float32) for k, v in data.items()}


homogeneous = st.sampled_from(sorted(name for name, family in FAMILIES.items() if family.homogeneous))
factors = st.one_of(st.integers(-60, 60).map(lambda k: 2.0**k), st.floats(-8, 8).map(lambda k: 10.0**k))


@examples(16)
@given(homogeneous, methods, draws, factors)
def test_scaling_the_data_changes_nothing(name, method, number, factor):
    model, data = drawn(name, number)
    before, after = analyzed(model, data, method), analyzed(*scaled(model, data, factor), method)
    assert recipe(before) == recipe(after)
    if math.log2(factor).is_integer():
        for one, two in zip(before.layers, after.layers, strict=True):
            assert [value * factor**2 for value in one.eigenvalues] == list(two.eigenvalues)


@examples(12)
@given(st.sampled_from([m for m in METHODS if m.select in {"pfa", "reconstruct"}]), draws, factors)
def test_scaling_a_layer_and_its_reader_against_it_changes_nothing(method, number, factor):
    """Magnitudes of weights change: only what asks the data is free of them."""
    model, data = drawn("chain", number)
    how = {"conv_0__weight": factor, "conv_0__bias": factor, "conv_1__weight": 1 / factor}
    other = changed(model, **{name: lambda a, f=f: a * f for name, f in how.items()})
    assert recipe(analyzed(model, data, method)) == recipe(analyzed(other, data, method))


@examples(12)
@given(families, methods, draws, st.integers(2, 4))
def test_samples_that_are_there_several_times_change_nothing(name, method, number, times):
    method = replace(method, shrink="none")  # which asks how many samples there are
    if method.select == "reconstruct":  # it draws positions at random, of every sample
        method = replace(method, select="pfa")
    model, data = drawn(name, number)
    again = {key: np.concatenate([value] * times) for key, value in data.items()}
    each = {key: np.repeat(value, times, axis=0) for key, value in data.items()}
    before = analyzed(model, data, method)
    assert recipe(before) == recipe(analyzed(model, again, method)) == recipe(analyzed(model, each, method))


@examples(12)
@given(families, methods, draws)
def test_the_order_of_the_samples_does_not_matter(name, method, number):
    model, data = drawn(name, number)
    order = np.random.default_rng(number).permutation(SAMPLES)
    turned = {key: value[order] for key, value in data.items()}
    if method.select == "reconstruct":  # it learns from some of the samples, by their place
        method = replace(method, select="pfa")
    assert recipe(analyzed(model, data, method)) == recipe(analyzed(model, turned, method))


@examples(10)
@given(families, methods, draws)
def test_batches_and_threads_do_not_matter(name, method, number):
    model, data = drawn(name, number)
    before = recipe(analyzed(model, data, method, batch_size=7))
    if method.select != "reconstruct":  # it draws positions at random, of every batch
        for size in (1, 3, 8, 32):
            assert recipe(analyzed(model, data, method, batch_size=size)) == before
    for threads in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(session._process, "threads", threads)
            assert recipe(analyzed(model, data, method, batch_size=7)) == before


def test_the_sample_gives_one_recipe_with_any_threads_and_batches():
    found = []
    for threads, size in ((1, 32), (2, 32), (2, 7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(session._process, "threads", threads)
            options = pfa_onnx.DataOptions(data=SAMPLE / "images", batch_size=size, providers="cpu")
            found.append(recipe(pfa_onnx.analyze(SAMPLE / "model.onnx", options)))
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


@examples(6)
@given(families, methods, draws, st.integers(2, 4))
def test_shards_merge_in_any_order_to_the_same_bytes(folder, name, method, number, count):
    model, data = drawn(name, number)
    if method.select == "reconstruct":  # it asks the data once more, which a statistics file has not
        method = replace(method, select="pfa")
    paths = [folder / f"{k}.npz" for k in range(count)]
    for k, path in enumerate(paths, 1):
        analyzed(model, data, method, shard=(k, count), save_stats=path)
    found = set()
    for order in itertools.islice(itertools.permutations(paths), 6):
        pfa_onnx.merge(order, folder / "all.npz")
        found.add((folder / "all.npz").read_bytes())
    assert len(found) == 1
    whole = recipe(analyzed(model, data, method))
    assert recipe(pfa_onnx.analyze(saved(model), None, method, stats=folder / "all.npz")) == whole
    pfa_onnx.merge(paths[1:], folder / "some.npz")  # a merge of merges
    pfa_onnx.merge([folder / "some.npz", paths[0]], folder / "again.npz")
    assert recipe(pfa_onnx.analyze(saved(model), None, method, stats=folder / "again.npz")) == whole


# --- what is decided is what numpy decides -------------------------------------------------------------


def fetched(model, names, data):
    """The responses of layers, [samples, C], from onnxruntime and numpy alone."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    found = runner.run(names, data)
    return {
        name: value.reshape(*value.shape[:2], -1).max(axis=2).astype(np.float64)
        for name, value in zip(names, found, strict=True)
    }


def spectrum_of(rows):
    values = np.sort(np.linalg.eigvalsh(np.cov(rows, rowvar=False)))[::-1]
    return values, values / values.sum()


def asked_by_kl(shares):
    size, positive = len(shares), shares[shares > 0]
    far = sum(p * math.log(p * size) for p in positive) / math.log(size)
    return max(1, math.ceil((1 - far) * size - 1e-9)), 1 - far


def asked_by_energy(shares, tau):
    total = 0.0
    for count, share in enumerate(shares, 1):
        total += share
        if total >= tau - 1e-12:
            return count
    return len(shares)


def removed_first(matrices):
    """Section 3.2.3 of the paper, word for word, on the mean of the members' |correlation|."""
    mean = sum(np.abs(np.corrcoef(rows, rowvar=False)) for rows in matrices) / len(matrices)
    names = list(range(len(mean)))
    while names:
        rest = mean[np.ix_(names, names)] - np.eye(len(names))
        norms = rest.sum(axis=1)
        yield names.pop(int(np.argmax(norms >= norms.max() * (1 - 1e-9))))  # the last two are always tied


@examples(20)
@given(families, draws, st.one_of(st.none(), st.floats(0.5, 0.999)))
def test_the_recipe_is_that_of_plain_numpy(name, number, tau):
    model, data = drawn(name, number)
    report = analyzed(model, data, Method("kl") if tau is None else Method("energy", tau=tau))
    layers = {one.output: one for one in report.layers}
    rows = fetched(model, list(layers), data)
    asked = {}
    for output, found in layers.items():
        values, shares = spectrum_of(rows[output])
        np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-4, atol=1e-6 * values[0])
        count, gamma = asked_by_kl(shares)
        assert found.gamma == pytest.approx(gamma, abs=1e-6)
        asked[output] = count if tau is None else asked_by_energy(shares, tau)
        assert found.asked == asked[output]
        assert found.samples == SAMPLES
    for _, makers in FAMILIES[name].groups.values():
        size = layers[makers[0]].channels
        count = max(asked[maker] for maker in makers)
        gone = list(removed_first([rows[maker] for maker in makers]))[: size - count]
        for maker in makers:
            assert layers[maker].keep == tuple(sorted(set(range(size)) - set(gone)))
    assert len(layers["fc"].keep) == 6, "the outputs stay"


def test_the_families_are_what_they_say():
    """Every group is one that the graph half finds, and scaling a homogeneous network scales its outputs."""
    for name, family in FAMILIES.items():
        model, data = drawn(name, 0)
        report = analyzed(model, data, Method("uniform", ratio=0.5))
        for _, makers in family.groups.values():
            assert len({keep(report, maker) for maker in makers}) == 1
        shapes = {t.name: numpy_helper.to_array(t).shape for t in model.graph.initializer}
        for carriers, makers in family.groups.values():
            size = shapes[f"{makers[0]}.weight"][0]
            assert all(shapes[weight][axis] == size * block for weight, axis, block in carriers)
        if family.homogeneous:
            other, more = scaled(model, data, 4.0)
            np.testing.assert_array_equal(run(saved(other), more)["fc"], 4.0 * run(saved(model), data)["fc"])


@pytest.mark.slow
def test_many_more_examples_with_a_seed_of_their_own():
    number = secrets.randbelow(2**32)
    print(f"PFA_ONNX_SEED={number} PFA_ONNX_MORE=12")
    again = {**os.environ, "PFA_ONNX_SEED": str(number), "PFA_ONNX_MORE": "12"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__)), "-m", "not slow"]
    done = subprocess.run(command, env=again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"PFA_ONNX_SEED={number}\n{done.stdout[-6000:]}"
