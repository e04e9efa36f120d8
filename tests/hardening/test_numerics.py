"""Odd numbers, end to end: what is huge, tiny, constant, equal, missing or wide is measured right, or refused by name."""

from __future__ import annotations

import subprocess
import sys
import warnings as python_warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from networks import Net
from onnx import TensorProto
from support import run, saved

import pfa_onnx
from hardening.numeric import (
    ENERGY,
    HALF,
    KL,
    SAMPLES,
    analyzed,
    arrays,
    chain,
    changed,
    images,
    keep,
    pruned,
    recipe,
)
from pfa_onnx import Method, PlanOptions
from pfa_onnx.errors import DataError, ModelError, ProofError
from pfa_onnx.graph import cut as cut_module
from pfa_onnx.graph.dtypes import computed_in, tensor_types
from pfa_onnx.graph.model import load
from pfa_onnx.report import as_json, markdown, text
from pfa_onnx.responses import Responses
from pfa_onnx.stats import session
from pfa_onnx.stats.compare import relative_error
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.device import QUEUE, DeviceSums, Stream
from pfa_onnx.steps import prove

FEW = PlanOptions(allow_few_samples=True)


@pytest.fixture(autouse=True)
def nothing_is_only_warned_about():
    """An overflow or an invalid operation that numpy mentions is a number that nobody checked."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error", RuntimeWarning)
        yield


def scaled(model, data, factor):
    """The model and its data such that every response is `factor` times what it was."""
    biases = [name for name in arrays(model) if name.endswith(".bias")]
    model = changed(model, **{name.replace(".", "__"): lambda a: a * factor for name in biases})
    return model, {name: (array.astype(np.float64) * factor).astype(array.dtype) for name, array in data.items()}


def refused(kind, call, *words):
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.at
    assert caught.value.fix
    return caught.value


# --- huge and tiny -------------------------------------------------------------------------------------

FACTORS = [2.0**100, 1e30, 2.0**-100, 1e-30, 1e-36]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    "method",
    [
        KL,
        ENERGY,
        Method("params", target=0.6),
        *(Method("energy", tau=0.9, select=s) for s in ("wanda", "reconstruct")),
    ],
    ids=lambda m: f"{m.name}-{m.select}",
)
def test_responses_of_any_size_give_the_same_recipe(factor, method):
    model, data = chain(widths=(16, 24)), images()
    report = analyzed(model, data, method)
    other = analyzed(*scaled(model, data, factor), method)
    assert recipe(other) == recipe(report)
    assert any(len(layer.keep) < layer.channels for layer in report.layers)
    for one, two in zip(report.layers, other.layers, strict=True):
        exact = np.log2(factor).is_integer()
        np.testing.assert_allclose(two.eigenvalues, np.array(one.eigenvalues) * factor**2, rtol=0 if exact else 1e-4)


@pytest.mark.parametrize("factor", FACTORS)
def test_responses_of_any_size_are_repaired_alike(tmp_path, factor):
    model, data = chain(), images()
    found = [pruned(*scaled(model, data, f), tmp_path / "small.onnx", repair=True).repair for f in (1.0, factor)]
    assert all(one.applied for one in found)
    assert found[1].after == pytest.approx(found[0].after, rel=1e-3)
    assert found[1].after < 0.1 * found[1].before


def test_layers_may_have_unlike_sizes(tmp_path):
    """The first layer's responses are of 1e15, the second's of 1e-15, the outputs ordinary."""
    factors = {"conv_0__weight": 2.0**50, "conv_1__weight": 2.0**-100, "fc__weight": 2.0**50}
    model = chain(bias=False)
    odd = changed(model, **{name: lambda a, f=factor: a * f for name, factor in factors.items()})
    reports = [pruned(one, images(), tmp_path / f"{k}.onnx") for k, one in enumerate((model, odd))]
    assert recipe(reports[0]) == recipe(reports[1])
    outputs = [run(tmp_path / f"{k}.onnx", images(4))["y"] for k in (0, 1)]
    assert relative_error(*outputs) < 1e-5


@pytest.mark.parametrize("factor", [1e-40, 1e-43])
def test_denormal_responses_still_rank(tmp_path, factor):
    """Numbers below 1e-38 have few digits left: the recipe is near that of their multiples, and legal."""
    model, data = chain(), images()
    report = pruned(*scaled(model, data, factor), tmp_path / "small.onnx", ENERGY)
    assert report.proof.passed
    for one, two in zip(analyzed(model, data).layers, report.layers, strict=True):
        assert abs(one.asked - two.asked) <= 1
        assert two.gamma == pytest.approx(one.gamma, abs=0.02)


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_statistics_of_any_size_can_be_kept_and_models_compared(tmp_path, factor):
    model, data = scaled(chain(), images(), factor)
    whole = analyzed(model, data, save_stats=tmp_path / "stats.npz")
    assert recipe(pfa_onnx.analyze(saved(model), None, ENERGY, stats=tmp_path / "stats.npz")) == recipe(whole)
    found = []
    for one, x in ((chain(), images()), (model, data)):
        pruned(one, x, tmp_path / "small.onnx")
        found.append(pfa_onnx.check(saved(one), tmp_path / "small.onnx", x, latency=False).metrics)
    for name in ("agreement", "cosine_min", "cosine_mean", "params_ratio"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)
    assert found[1]["max_abs_error"] == pytest.approx(found[0]["max_abs_error"] * factor, rel=1e-3)


def test_reports_of_huge_and_tiny_responses_can_be_read():
    for factor in (1e30, 1e-30):
        report = analyzed(*scaled(chain(), images(), factor))
        for render in (as_json.render, markdown.render, text.render):
            assert "nan" not in str(render(report)).lower().replace("nano", "")


def test_in_double_precision_responses_may_be_larger_still(tmp_path):
    data = {"x": np.random.default_rng(3).standard_normal((SAMPLES, 6))}
    reports = []
    for factor in (1.0, 1e140, 1e-140):
        net = Net(np.random.default_rng(0), dtype=np.float64)
        x = net.relu(net.op("MatMul", net.input(["N", 6], "x"), net.const(net.weights(6, 12) * factor), out="wide"))
        x = net.op("MatMul", x, net.const(net.weights(12, 8) / factor), out="narrow")
        model = net.model(net.op("MatMul", x, net.const(net.weights(8, 5)), out="y"))
        reports.append(pruned(model, data, tmp_path / "small.onnx"))
    assert recipe(reports[0]) == recipe(reports[1]) == recipe(reports[2])


def test_squares_that_overflow_are_refused(tmp_path):
    net = Net(np.random.default_rng(0), dtype=np.float64)
    x = net.relu(net.op("MatMul", net.input(["N", 6], "x"), net.const(net.weights(6, 12) * 1e200), out="wide"))
    model = net.model(net.op("MatMul", x, net.const(net.weights(12, 5) * 1e-200), out="y"))
    data = {"x": np.random.default_rng(3).standard_normal((SAMPLES, 6))}
    refused(DataError, lambda: analyzed(model, data), "the square of a response is infinite", "/wide/MatMul")


# --- NaN and infinity ----------------------------------------------------------------------------------

LOST = [np.nan, np.inf, -np.inf]


def poisoned(value, size, k):
    """A network whose input becomes NaN or infinite inside, at one position, where it is largest: in one sample."""
    net = Net(np.random.default_rng(0))
    x = net.image(size=size)
    spot = np.zeros((1, 3, size, size), bool)
    spot[0, 1, size // 2, size // 2] = True
    large = net.op("Greater", x, net.const(np.float32(50.0)))
    x = net.op("Where", net.op("And", large, net.const(spot, dtype=bool)), net.const(np.float32(value)), x)
    x = net.relu(net.conv(x, 3, 8, k))
    x = net.conv(x, 8, 12, k)
    x = net.op("Flatten", net.op("GlobalAveragePool", net.relu(x)), axis=1)
    return net.model(net.op("MatMul", x, net.const(net.weights(12, 5)), out="y"))


@pytest.mark.parametrize("value", LOST)
@pytest.mark.parametrize(("size", "k"), [(8, 3), (1, 1)])
@pytest.mark.parametrize("batch", [1, 32])
def test_a_response_that_is_no_number_names_the_first_layer_and_the_sample(tmp_path, value, size, k, batch):
    """Maxima pass over NaN, so that a later layer may be the first to show it."""
    data = images(size=size)
    data["image"][41, 1, size // 2, size // 2] = 100.0
    out = tmp_path / "small.onnx"
    refused(
        DataError,
        lambda: pruned(poisoned(value, size, k), data, out, batch_size=batch),
        "a response is NaN or infinite",
        "[41]",
        "/conv_0/Conv",
    )
    assert not out.exists()


@pytest.mark.parametrize("value", LOST)
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_a_weight_that_is_no_number_names_its_layer_and_channel(value, where):
    def spoil(array):
        array[(2, *[0] * (array.ndim - 1))] = value
        return array

    model = changed(chain(), **{f"conv_1__{where}": spoil})
    refused(DataError, lambda: analyzed(model, images()), "(channel 2,", "/conv_1/Conv")


def test_overflow_in_float32_names_its_layer():
    refused(DataError, lambda: analyzed(*scaled(chain(), images(), 3e37)), "NaN or infinite", "at: /")


def test_on_the_device_a_map_of_nan_is_no_number():
    """There, a maximum pool gives the lowest number that there is, and rows are added up unseen."""
    ort = session.load_runtime()
    rows = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    for lost in (np.finfo(np.float32).min, np.nan, np.inf):
        sums = DeviceSums({"y": Stream(4, rows.dtype, Moments.of(rows).mean)}, 4, "cpu")
        for k in range(QUEUE):
            odd = rows.copy()
            odd[1, 2] = lost if k == 3 else odd[1, 2]
            sums.take({"y": ort.OrtValue.ortvalue_from_numpy(odd)})
        finite = np.isfinite(np.diagonal(sums.moments()["y"].m2))
        assert finite.tolist() == [True, True, False, True, True]


def test_outputs_of_nothing_but_nan_prove_nothing(tmp_path):
    """NaN is not unequal to NaN: every cut would pass."""
    model = chain()
    model.graph.node[-1].output[0] = "before"
    minus = onnx.numpy_helper.from_array(np.float32(-1e9), "minus")
    model.graph.initializer.append(minus)
    model.graph.node.append(onnx.helper.make_node("Sub", ["minus", "before"], ["negative"], name="sub"))
    model.graph.node.append(onnx.helper.make_node("Log", ["negative"], ["y"], name="log"))
    refused(ProofError, lambda: pruned(model, images(), tmp_path / "small.onnx"), "nothing but NaN", "output 'y'")
    assert not list(tmp_path.iterdir())


def test_a_tiny_output_in_double_precision_is_proven_by_its_own_scale(tmp_path, monkeypatch):
    gather = cut_module.gather_step

    def shifted(array, axes, at, extents):
        return gather(array, axes, (at + 1) % array.shape[axes[0]], extents) if len(axes) == 1 else None

    monkeypatch.setattr(cut_module, "gather_step", shifted)
    net = Net(np.random.default_rng(0), dtype=np.float64)
    x = net.relu(net.op("MatMul", net.input(["N", 6], "x"), net.const(net.weights(6, 12)), out="wide"))
    model = net.model(net.op("MatMul", x, net.const(net.weights(12, 5) * 1e-60), out="y"))
    data = {"x": np.random.default_rng(3).standard_normal((SAMPLES, 6))}
    with pytest.raises(ProofError):
        pruned(model, data, tmp_path / "small.onnx")


# --- what does not vary --------------------------------------------------------------------------------


def still(array, channels, value=0.0):
    array[list(channels)] = value
    return array


def test_constant_channels_go_first_in_ascending_order():
    """Filters 1, 4 and 6 give a bias only; whatever is kept of this layer, they are not, until nothing else is left."""
    model = changed(chain(), conv_0__weight=lambda a: still(a, (1, 4, 6)))
    for ratio, gone in ((7 / 8, {1}), (6 / 8, {1, 4}), (5 / 8, {1, 4, 6})):
        report = analyzed(model, images(), Method("uniform", ratio=ratio))
        assert set(range(8)) - set(keep(report, "conv_0")) == gone
    for method in (ENERGY, Method("energy", tau=1.0)):
        assert not {1, 4, 6} & set(keep(analyzed(model, images(), method), "conv_0"))


@pytest.mark.parametrize("name", ["conv_0", "conv_1", "conv_2"])
@pytest.mark.parametrize("method", [KL, Method("energy", tau=1.0), Method("params", target=0.9)], ids=lambda m: m.name)
def test_a_layer_that_gives_constants_keeps_one_channel_and_is_named(tmp_path, name, method):
    """The layers on a branch beside it vary."""
    net = Net(np.random.default_rng(0))
    x = net.image()
    parts = [net.relu(net.conv(x, 3, 8)), net.relu(net.conv(net.relu(net.conv(x, 3, 8)), 8, 12))]
    pooled = [net.op("Flatten", net.op("GlobalAveragePool", part), axis=1) for part in parts]
    model = net.model(net.op("MatMul", net.op("Concat", *pooled, axis=1), net.const(net.weights(20, 5)), out="y"))
    dead = changed(model, **{f"{name}__weight": lambda a: a * 0})
    warnings = []
    data = {"image": np.random.default_rng(1).standard_normal((SAMPLES, 3, 16, 16)).astype(np.float32)}
    report = pruned(dead, data, tmp_path / "small.onnx", method, warnings=warnings)
    assert len(keep(report, name)) == 1
    assert report.proof.passed
    assert any("not vary at all" in one and "'conv" in one for one in warnings)
    others = {layer.output: len(layer.keep) for layer in report.layers if layer.output not in {name, "y"}}
    assert max(others.values()) > 1


def test_what_is_constant_but_for_rounding_is_constant():
    """A layer behind constants: its last bits depend on the size of a batch and the number of threads."""
    rows = np.tile(np.random.default_rng(0).uniform(0.5, 2.0, 6).astype(np.float32), (50, 1))
    noise = np.random.default_rng(1).integers(-2, 3, rows.shape)
    moments = Moments.of(rows + noise * np.spacing(rows))
    assert moments.variances.all()
    assert not moments.without_rounding().m2.any()
    alive = Moments.of(rows + np.float32(1e-4) * noise)
    assert alive.without_rounding() is alive
    mixed = Moments.of(np.column_stack([(rows + noise * np.spacing(rows))[:, :3], noise[:, :2]]))
    found = mixed.without_rounding()
    assert (np.diagonal(found.m2) > 0).tolist() == [False, False, False, True, True]
    np.testing.assert_array_equal(found.m2[3:, 3:], mixed.m2[3:, 3:])
    assert not found.m2[:3].any()
    assert not found.m2[:, :3].any()


def test_a_layer_behind_constants_does_not_depend_on_their_last_bits():
    """The same network, once with exact zeros as what does not matter, once with next to nothing."""
    recipes = []
    for nearly in (0.0, 1e-8):
        net = Net(np.random.default_rng(0))
        x = net.image()
        dull = net.op("Add", net.op("Mul", x, net.const(np.float32(nearly))), net.const(np.float32(1.0)))
        parts = [net.relu(net.conv(net.relu(net.conv(part, 3, 8)), 8, 12)) for part in (x, dull)]
        pooled = [net.op("Flatten", net.op("GlobalAveragePool", part), axis=1) for part in parts]
        model = net.model(net.op("MatMul", net.op("Concat", *pooled, axis=1), net.const(net.weights(24, 5)), out="y"))
        data = {"image": np.random.default_rng(1).standard_normal((SAMPLES, 3, 16, 16)).astype(np.float32)}
        report = analyzed(model, data, KL)
        recipes.append(recipe(report))
        assert (keep(report, "conv_2"), keep(report, "conv_3")) == ((7,), (11,))
    assert recipes[0] == recipes[1]


@pytest.mark.parametrize("value", [None, 0.0])
def test_data_in_which_nothing_varies_is_refused(tmp_path, value):
    """The same picture again and again, or black ones: a recipe of that would keep one channel of everything."""
    data = {"image": np.repeat(images(1)["image"], SAMPLES, axis=0)}
    if value is not None:
        data["image"][:] = value
    for method in (KL, ENERGY, Method("params", target=0.5), HALF):
        refused(
            DataError, lambda m=method: pruned(chain(), data, tmp_path / "small.onnx", m), "no layer varies", "inputs"
        )
    weights_decide = Method("uniform", ratio=0.5, select="l1")
    assert pruned(chain(), data, tmp_path / "small.onnx", weights_decide).proof.passed


# --- filters that repeat each other --------------------------------------------------------------------


def doubled(sign=1.0):
    """The first layer's eight filters are there twice, and every reader reads both."""
    net = Net(np.random.default_rng(0))
    x = net.input(["N", 16], "x")
    weight = np.linalg.qr(net.rng.standard_normal((16, 16)))[0][:8].astype(np.float32)
    x = net.op("Gemm", x, net.const(np.concatenate([weight, sign * weight])), transB=1, out="twice")
    x = net.op("Gemm", x, net.const(net.weights(12, 16)), transB=1, out="next")
    model = net.model(net.op("MatMul", x, net.const(net.weights(12, 5)), out="y"))
    return model, {"x": np.random.default_rng(1).standard_normal((400, 16)).astype(np.float32)}


@pytest.mark.parametrize("sign", [1.0, -1.0, 3.0])
def test_of_filters_that_are_there_twice_one_of_each_goes(sign):
    model, data = doubled(sign)
    report = analyzed(model, data, Method("energy", tau=1.0))
    found = keep(report, "twice")
    assert report.layers[0].asked == len(found) == 8
    assert sorted(k % 8 for k in found) == list(range(8))
    exact = analyzed(model, data, Method("energy", tau=1.0))
    assert recipe(exact) == recipe(report)


def test_exact_copies_go_lowest_index_first():
    model, data = doubled()
    assert keep(analyzed(model, data, Method("energy", tau=1.0)), "twice") == tuple(range(8, 16))


def test_what_exact_copies_did_is_repaired(tmp_path):
    model, data = doubled()
    report = pruned(
        model, data, tmp_path / "small.onnx", Method("energy", tau=1.0), PlanOptions(exclude=("next",)), repair=True
    )
    assert len(keep(report, "twice")) == 8
    assert report.repair.after < 1e-4
    assert relative_error(run(saved(model), data)["y"], run(tmp_path / "small.onnx", data)["y"]) < 0.01


def test_copies_in_a_wide_layer_leave_nothing_at_full_energy():
    """Half of 1,024 eigenvalues are zero: what rounding makes of them is no energy."""
    net = Net(np.random.default_rng(0))
    weight = net.weights(512, 512)
    x = net.op("Gemm", net.input(["N", 512], "x"), net.const(np.concatenate([weight, weight])), transB=1, out="twice")
    model = net.model(net.op("MatMul", x, net.const(net.weights(1024, 5)), out="y"))
    data = {"x": np.random.default_rng(1).standard_normal((1500, 512)).astype(np.float32)}
    report = analyzed(model, data, Method("energy", tau=1.0))
    assert len(keep(report, "twice")) <= 512


# --- few samples, few channels, many channels ----------------------------------------------------------


def test_one_sample_is_refused(tmp_path):
    refused(DataError, lambda: pruned(chain(), images(1), tmp_path / "small.onnx", plan=FEW), "1 sample cannot show")


def test_statistics_of_one_sample_decide_nothing(tmp_path):
    """A shard may have one sample; what is decided from it alone is not better than from a data set of one."""
    for k in (1, 2):
        analyzed(chain(), images(2), KL, FEW, shard=(k, 2), save_stats=tmp_path / f"{k}.npz")
    path = saved(chain())
    refused(DataError, lambda: pfa_onnx.analyze(path, None, KL, FEW, stats=tmp_path / "1.npz"), "no layer varies")
    pfa_onnx.merge([tmp_path / "1.npz", tmp_path / "2.npz"], tmp_path / "all.npz")
    merged = pfa_onnx.analyze(path, None, KL, FEW, stats=tmp_path / "all.npz")
    assert recipe(merged) == recipe(analyzed(chain(), images(2), KL, FEW))


def test_two_samples_ask_for_one_channel_and_freeze_every_wider_layer():
    report = analyzed(chain(), images(2), KL)
    assert [layer.asked for layer in report.layers] == [1, 1, 1]
    assert all(len(layer.keep) == layer.channels for layer in report.layers)
    assert "2 samples cannot describe" in report.layers[0].frozen[0].reason


def test_as_many_samples_as_channels_are_enough():
    report = analyzed(chain(widths=(8, 8)), images(8), Method("energy", tau=0.5))
    assert all(len(layer.keep) < 8 for layer in report.layers[:2])


@pytest.mark.parametrize(
    "method", [KL, Method("energy", tau=0.01), Method("uniform", ratio=0.01)], ids=lambda m: m.name
)
def test_a_layer_of_one_channel_keeps_it(tmp_path, method):
    report = pruned(chain(widths=(1, 9, 1)), images(), tmp_path / "small.onnx", method)
    assert [len(layer.keep) for layer in report.layers if layer.channels == 1] == [1, 1]
    assert (report.layers[0].gamma, report.layers[0].asked) == (1.0, 1)
    assert report.proof.passed


def wide_model(channels):
    net = Net(np.random.default_rng(0))
    x = net.relu(net.op("MatMul", net.input(["N", 64], "x"), net.const(net.weights(64, channels)), out="wide"))
    return net.model(net.op("MatMul", x, net.const(net.weights(channels, 5)), out="y"))


def peak_of_pruning(folder, channels):
    """Prune a wide layer in a process of its own; the peak memory in bytes and the seconds that it took."""
    onnx.save(wide_model(channels), folder / "model.onnx")
    np.save(folder / "data.npy", np.random.default_rng(3).standard_normal((channels, 64)).astype(np.float32))
    code = (
        "import re, sys, time; from pathlib import Path; import pfa_onnx; start = time.monotonic(); "
        "report = pfa_onnx.prune(sys.argv[1], sys.argv[2], output=sys.argv[3]); wide = report.layers[0]; "
        "assert len(wide.keep) == wide.asked < wide.channels; assert report.proof.passed; "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024, "
        "time.monotonic() - start)"
    )
    names = [str(folder / name) for name in ("model.onnx", "data.npy", "small.onnx")]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    return peak, seconds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("channels", [1024, pytest.param(8192, marks=pytest.mark.slow)])
def test_a_wide_layer_takes_four_of_its_covariances(tmp_path, channels):
    """8,192 is the widest that is measured: half a gigabyte each."""
    base, _ = peak_of_pruning(tmp_path, 64)
    peak, _ = peak_of_pruning(tmp_path, channels)
    assert peak - base < 4 * 8 * channels**2 + 50e6
    assert not (Path(tmp_path) / "small.onnx.tmp").exists()


# --- half, brain and double precision ------------------------------------------------------------------


def test_a_float16_model_gives_nearly_the_recipe_of_its_float32_original(tmp_path):
    model, data = chain(), images()
    half = chain(np.float16)
    for name, array in arrays(half).items():
        np.testing.assert_allclose(array, arrays(model)[name], atol=2e-3)
    report = pruned(half, {"image": data["image"].astype(np.float16)}, tmp_path / "small.onnx")
    assert report.proof.passed
    for one, two in zip(analyzed(model, data).layers, report.layers, strict=True):
        assert abs(one.asked - two.asked) <= 1
        assert two.gamma == pytest.approx(one.gamma, abs=0.01)
    assert {array.dtype for array in arrays(onnx.load(tmp_path / "small.onnx")).values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("select", ["pfa", "l2", "wanda", "reconstruct"])
def test_a_float16_model_is_ranked_and_repaired(tmp_path, select):
    data = {"image": images()["image"].astype(np.float16)}
    method = Method("uniform", ratio=0.5, select=select)
    report = pruned(chain(np.float16), data, tmp_path / "small.onnx", method, repair=True)
    assert report.repair.applied
    assert report.repair.after < 0.5 * report.repair.before
    assert [len(layer.keep) for layer in report.layers] == [4, 6, 5]


def test_float16_that_overflows_says_what_to_do():
    data = {"image": (images()["image"] * 1e4).astype(np.float16)}
    error = refused(DataError, lambda: analyzed(chain(np.float16, seed=3, widths=(8, 64, 64)), data), "NaN or infinite")
    assert "calibrate its float32 original" in error.fix


def mixed(compute, store=np.float32):
    """Weights of one type that are cast to another, which computes."""
    net = Net(np.random.default_rng(0))
    x = net.op("Cast", net.image(size=8), to=compute)

    def weight(array):
        return net.op("Cast", net.const(array, dtype=store), to=compute)

    x = net.relu(net.op("Conv", x, weight(net.weights(16, 3, 3, 3)), weight(net.vector(16)), pads=[1] * 4, out="first"))
    x = net.relu(
        net.op("Conv", x, weight(net.weights(24, 16, 3, 3)), weight(net.vector(24)), pads=[1] * 4, out="second")
    )
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    x = net.op("MatMul", x, weight(net.weights(24, 5)), out="third")
    return net.model(net.op("Cast", x, to=TensorProto.FLOAT, out="y"))


def graph_of(model):
    return load(saved(model))


def test_the_proofs_limit_is_that_of_what_computes_not_of_what_is_stored():
    """Autocast stores float32 and computes in float16; compressed weights are the other way around."""
    assert prove._limit(graph_of(chain())) == 1e-4
    assert prove._limit(graph_of(chain(np.float16))) == 2e-2
    assert prove._limit(graph_of(mixed(TensorProto.FLOAT16))) == 2e-2
    assert prove._limit(graph_of(mixed(TensorProto.FLOAT, np.float16))) == 1e-4
    assert prove._limit(graph_of(mixed(TensorProto.BFLOAT16))) == 1e-1
    assert prove._limit(graph_of(mixed(TensorProto.FLOAT, ml_dtypes.bfloat16))) == 1e-4
    assert prove._limit(graph_of(chain(np.float64))) == 1e-4


def test_types_are_followed_where_the_file_does_not_say_them():
    graph = graph_of(mixed(TensorProto.FLOAT16))
    types = {name: dtype.name for name, dtype in tensor_types(graph).items()}
    assert (types["first"], types["third"], types["y"], types["image"]) == ("FLOAT16", "FLOAT16", "FLOAT", "FLOAT")
    assert {dtype.name for dtype in computed_in(graph)} == {"FLOAT16"}


@pytest.mark.parametrize("store", [np.float16, ml_dtypes.bfloat16])
def test_weights_stored_in_half_precision_are_cut_in_it(tmp_path, store):
    report = pruned(mixed(TensorProto.FLOAT, store), images(), tmp_path / "small.onnx")
    assert report.proof.max_relative_error < 1e-4
    assert any(len(layer.keep) < layer.channels for layer in report.layers)
    assert np.dtype(store) in {array.dtype for array in arrays(onnx.load(tmp_path / "small.onnx")).values()}


def test_wrong_channels_are_refused_in_float16_too(tmp_path, monkeypatch):
    gather = cut_module.gather_step

    def shifted(array, axes, at, extents):
        return gather(array, axes, (at + 1) % array.shape[axes[0]], extents) if len(axes) == 1 else None

    monkeypatch.setattr(cut_module, "gather_step", shifted)
    with pytest.raises(ProofError):
        pruned(chain(np.float16), {"image": images()["image"].astype(np.float16)}, tmp_path / "small.onnx")


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_bfloat16_that_the_runtime_does_not_compute_is_refused(kind):
    if kind == "Conv":
        model = mixed(TensorProto.BFLOAT16)
    else:
        net = Net(np.random.default_rng(0))
        x = net.op("Cast", net.input(["N", 3, 8, 8]), to=TensorProto.BFLOAT16)
        x = net.op("MatMul", x, net.const(net.weights(8, 8), dtype=ml_dtypes.bfloat16))
        model = net.model(net.op("Cast", x, to=TensorProto.FLOAT, out="y"))
    try:
        report = analyzed(model, images(), HALF)
    except ModelError as error:
        assert kind in error.what
        assert "export it in float32" in error.fix
    else:  # a runtime that learned it
        assert report.layers


def test_double_precision_is_pooled_over_space(tmp_path):
    """onnxruntime has no global pooling in double precision: it is reduced."""
    for pool in ("max", "mean", "positions"):
        net = Net(np.random.default_rng(0), dtype=np.float64)
        x = net.relu(net.op("MatMul", net.const(net.weights(12, 6)), net.input(["N", 6, 7], "x"), out="rows"))
        model = net.model(net.op("MatMul", net.const(net.weights(5, 12)), x, out="y"))
        data = {"x": np.random.default_rng(0).standard_normal((SAMPLES, 6, 7))}
        report = pruned(model, data, tmp_path / "small.onnx", responses=Responses(pool))
        assert report.proof.passed
        assert len(keep(report, "rows")) < 12
