"""What CUDA does, done by the CPU's provider: inputs uploaded ahead, responses added up where they are made."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pfa_onnx.errors import DataError, ModelError
from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions
from pfa_onnx.stats import device
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.device import QUEUE, DeviceSums, Stream
from pfa_onnx.stats.session import Runner, nvidia_device
from pfa_onnx.steps import poolings
from pfa_onnx.steps.calibration import Calibration
from pfa_onnx.steps.measure import find_layers, learn_shapes

SAMPLES = 4
WINDOWS = 3


def model(tmp_path, image=16):
    """A convolution, and a layer over windows that are folded into the first axis."""
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (6, 3, 3, 3)), ("v", (image, 5)))
    ]
    weights.append(numpy_helper.from_array(np.array([-1, image, image], np.int64), "windows"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["x", "windows"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, image, image])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ac"],
        weights,
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return load(path)


def calibrated(graph, x, *, on_device, stops=()):
    """The moments of all layers; `stops`: before which batches the state is fetched, as for a checkpoint."""
    shapes, probed = learn_shapes(graph, {"x": x[:1]})
    run = Calibration(graph, find_layers(graph, shapes), DataOptions(providers="cpu"), SAMPLES, probed=probed)
    run._on_device = on_device
    for k in range(0, len(x), SAMPLES):
        if k // SAMPLES in stops:
            run.states()
        part = x[k : k + SAMPLES]
        run.add(run.prepare(Batch({"x": part}, ("",) * len(part), (None,) * len(part))))
    return run.moments()


@pytest.mark.parametrize("batches", [1, 2, QUEUE, QUEUE + 1, 2 * QUEUE + 3])
def test_the_sums_are_those_of_the_host(tmp_path, batches):
    graph = model(tmp_path)
    x = 50 + np.random.default_rng(0).standard_normal((batches * SAMPLES - 1, 3, 16, 16), dtype=np.float32)
    here, there = (calibrated(graph, x, on_device=where) for where in (False, True))
    assert set(here) == set(there) == {"a", "c"}
    for name, one in here.items():
        assert there[name].count == one.count == len(x)
        np.testing.assert_allclose(there[name].mean, one.mean, rtol=1e-13)
        np.testing.assert_allclose(there[name].m2, one.m2, rtol=1e-10, atol=1e-12 * abs(one.m2).max())
        assert np.array_equal(there[name].m2, there[name].m2.T)


def test_a_checkpoint_in_between_changes_nothing_but_rounding(tmp_path):
    graph = model(tmp_path)
    x = np.random.default_rng(0).standard_normal(((2 * QUEUE + 3) * SAMPLES, 3, 16, 16), dtype=np.float32)
    once, often = (calibrated(graph, x, on_device=True, stops=stops) for stops in ((), (3, QUEUE + 5)))
    for name, one in once.items():
        assert often[name].count == one.count
        np.testing.assert_allclose(often[name].m2, one.m2, rtol=1e-10, atol=1e-12 * abs(one.m2).max())


def value(array):
    return ort.OrtValue.ortvalue_from_numpy(array)


def sums(rows, origin, samples=SAMPLES):
    return DeviceSums({"y": Stream(len(rows), rows.dtype, origin)}, samples, "cpu")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_large_mean_does_not_cancel(dtype):
    rng = np.random.default_rng(0)
    batches = [(1000 + rng.standard_normal((SAMPLES, 7))).astype(dtype) for _ in range(3 * QUEUE)]
    made = sums(batches[0], Moments.of(batches[0]).mean)
    for rows in batches:
        assert made.take({"y": value(rows)}) == []
    found, wanted = made.moments()["y"], Moments.of(np.concatenate(batches))
    np.testing.assert_allclose(found.m2, wanted.m2, rtol=1e-10, atol=1e-12 * abs(wanted.m2).max())
    assert made.moments() == {}, "they were handed over"


def test_a_constant_channel_stays_exactly_constant():
    rows = np.full((SAMPLES, 2), 0.1, np.float32)
    rows[:, 1] = range(SAMPLES)
    made = sums(rows, Moments.of(rows).mean)
    for _ in range(QUEUE):
        made.take({"y": value(rows)})
    found = made.moments()["y"]
    assert found.m2[0, 0] == 0
    assert found.mean[0] == np.float64(np.float32(0.1))


def test_the_largest_of_a_samples_windows_counts():
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((SAMPLES * WINDOWS, 5)).astype(np.float32) for _ in range(QUEUE)]
    pooled = [rows.reshape(SAMPLES, WINDOWS, 5).max(axis=1) for rows in batches]
    made = sums(batches[0], Moments.of(pooled[0]).mean)
    for rows in batches:
        made.take({"y": value(rows)})
    np.testing.assert_allclose(made.moments()["y"].m2, Moments.of(np.concatenate(pooled)).m2, rtol=1e-10, atol=1e-10)


def test_what_the_device_refuses_comes_back_whole(monkeypatch):
    """As without memory for the sums, or with another number of windows than the first batch had."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((SAMPLES, 5)).astype(np.float32) for _ in range(2 * QUEUE)]
    made = sums(batches[0], Moments.of(batches[0]).mean)
    back = [rows for k in range(QUEUE) for rows in made.take({"y": value(batches[k])})]
    assert back == []

    def full(self, values, fetch=None):
        raise ModelError("out of memory", at="m.onnx", fix="use a smaller --batch-size")

    monkeypatch.setattr(Runner, "run_there", full)
    back = [rows for _, rows in (r for k in range(QUEUE, 2 * QUEUE) for r in made.take({"y": value(batches[k])}))]
    found = Moments.merge(made.moments()["y"], Moments.of(np.concatenate(back)))
    wanted = Moments.of(np.concatenate(batches))
    assert found.count == wanted.count
    np.testing.assert_allclose(found.m2, wanted.m2, rtol=1e-10, atol=1e-10)


def test_layers_are_added_up_in_parts(monkeypatch):
    monkeypatch.setattr(device, "CHUNK", 50)
    widths = {"a": 5, "b": 5, "c": 9, "d": 2}
    streams = {name: Stream(SAMPLES, np.float32, np.zeros(width)) for name, width in widths.items()}
    assert [[name for name, _ in part] for part in device._chunks(streams)] == [["a", "b"], ["c"], ["d"]]


def test_nan_is_found_at_the_end_at_the_latest(tmp_path):
    x = np.random.default_rng(0).standard_normal((2 * QUEUE * SAMPLES, 3, 16, 16), dtype=np.float32)
    x[3 * SAMPLES] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite"):
        calibrated(model(tmp_path), x, on_device=True)


def test_all_ways_of_pooling_agree_to_the_last_bit():
    x = np.random.default_rng(0).standard_normal((2, 3, 35, 41), dtype=np.float32)
    found = []
    for way in ("global", "reduce", "tiled"):
        runner = Runner(poolings._model(x.shape, way).SerializeToString(), providers="cpu")
        found.append(runner.run({"x": x})["y"])
    assert all(np.array_equal(one, x.max(axis=(2, 3))) for one in found)


def test_the_fastest_way_is_chosen_for_every_shape(tmp_path, monkeypatch):
    graph = model(tmp_path, image=64)
    shapes, _ = learn_shapes(graph, {"x": np.zeros((1, 3, 64, 64), np.float32)})
    asked = []

    def seconds(shape, way, providers):
        asked.append((shape, way))
        return {"global": 2.0, "reduce": 3.0, "tiled": 1.0}[way]

    monkeypatch.setattr(poolings, "_seconds", seconds)
    assert poolings.fastest_poolings(find_layers(graph, shapes), 8, "cpu") == {"a": "tiled"}
    assert asked == [((8, 6, 64, 64), way) for way in ("global", "reduce", "tiled")]
    monkeypatch.undo()
    assert 0 < poolings._seconds((1, 3, 8, 8), "reduce", "cpu") < 60
    if not nvidia_device():
        assert poolings._seconds((1, 3, 8, 8), "reduce", "cuda") == float("inf")
