"""Small real models in onnxruntime; what a machine without a GPU can show about CUDA."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats import runtime, session
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import Runner, batch_size_for, fixed_batch, nvidia_device, prefetch, run_padded

KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "object": TensorProto.STRING,
}


def model(nodes=None, shape=("n", 4), kind=TensorProto.FLOAT, initializers=(), outputs=("y",)):
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        list(initializers),
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def runner(**options):
    return Runner(model(**options).SerializeToString(), providers="cpu")


def batch(count, *shape):
    rows = np.arange(count, dtype=np.float32).reshape(count, *[1] * len(shape)) * np.ones(shape, np.float32)
    return Batch({"x": rows}, tuple(map(str, range(count))), (None,) * count)


# --- running ---


@pytest.mark.parametrize(("dtype", "kind"), KINDS.items())
def test_inputs_and_outputs(dtype, kind):
    run = runner(shape=("n", 3, None, 8), kind=kind)
    assert run.inputs == (InputSpec("x", (None, 3, None, 8), np.dtype(dtype)),)
    assert run.outputs == ("y",)
    assert run.provider == "cpu"


def test_a_negative_dimension_is_dynamic():
    assert runner(shape=(-1, 3, -1, -1)).inputs[0].shape == (None, 3, None, None)


def test_run_fetches_what_is_asked():
    run = runner(nodes=[helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["b"])], outputs="ab")
    x = batch(3, 4).feeds
    assert list(run.run(x, ["b"])) == ["b"]
    assert set(run.run(x)) == {"a", "b"}
    np.testing.assert_array_equal(run.run(x, ["a"])["a"], -x["x"])


def test_a_path_and_external_data(tmp_path):
    weight = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    proto = model(nodes=[helper.make_node("Add", ["x", "w"], ["y"])], shape=("n", 1000), initializers=[weight])
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    x = {"x": np.zeros((1, 1000), np.float32)}
    small = (tmp_path / "m.onnx").read_bytes()
    for run in (Runner(tmp_path / "m.onnx"), Runner(small, external_dir=tmp_path, threads=1)):
        assert run.run(x)["y"][0, 999] == 999
    with pytest.raises(ModelError):
        Runner(small)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Runner(b"junk"), "cannot load the model: Failed to load model because protobuf parsing failed"),
        (lambda: runner(nodes=[helper.make_node("Foo", ["x"], ["y"])]), "No Op registered for Foo"),
        (lambda: runner().run({"x": np.zeros((1, 5), np.float32)}), "does not run: Got invalid dimensions"),
        (lambda: runner().run({}), "missing from input feed"),
        (lambda: runner().run({"x": np.zeros((1, 4), np.float32)}, ["nope"]), "nope"),
        (lambda: runner(kind=TensorProto.BFLOAT16), "which numpy cannot feed"),
    ],
)
def test_errors_are_model_errors(make, message):
    with pytest.raises(ModelError, match=message) as caught:
        make()
    assert "ONNXRuntimeError" not in str(caught.value)


def test_a_failing_node_is_named_without_source_paths():
    shape = onnx.numpy_helper.from_array(np.array([1, 4]), "s")
    run = runner(nodes=[helper.make_node("Reshape", ["x", "s"], ["y"], name="resh")], initializers=[shape])
    with pytest.raises(ModelError) as caught:
        run.run(batch(2, 4).feeds)
    assert "'resh'" in caught.value.what
    assert "onnxruntime_src" not in caught.value.what
    assert "cannot be reshaped" in caught.value.what
    assert len(caught.value.what) < 340


def test_nothing_is_printed_and_import_is_lazy():
    code = """
import sys, numpy as np
from pfa_onnx.stats import compare, data, runtime, session
assert not {"onnxruntime", "PIL", "onnx"} & set(sys.modules), "imported too early"
assert session.Runner(runtime._tiny_model()).run({"x": np.ones(1, np.float32)})["y"] == 2
for choice in ("cuda", "auto"):
    try:
        session.Runner(runtime._tiny_model(), providers=choice)
    except session.ModelError:
        pass
assert "cpu" in runtime.runtime_report()["providers"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- CUDA ---


@pytest.mark.skipif(nvidia_device(), reason="has a GPU")
def test_cuda_that_is_not_there_is_an_error():
    with pytest.raises(
        ModelError, match=r"CUDA does not start: (there is no NVIDIA device|this onnxruntime has no CUDA)"
    ) as caught:
        Runner(model().SerializeToString(), providers="cuda")
    assert "pfa-onnx[cuda]" in caught.value.fix


@pytest.mark.skipif(nvidia_device(), reason="has a GPU")
def test_a_device_without_libraries(monkeypatch, capfd):
    """As on a machine with a driver but no CUDA libraries: auto goes on with the CPU, cuda says why not."""
    monkeypatch.setattr(session, "nvidia_device", lambda: True)
    if "CUDAExecutionProvider" not in session.load_runtime().get_available_providers():
        pytest.skip("a CPU build")
    assert Runner(model().SerializeToString(), providers="auto").provider == "cpu"
    with pytest.raises(ModelError, match="libraries do not load"):
        Runner(model().SerializeToString(), providers="cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not nvidia_device(), reason="needs a GPU")
def test_cuda_agrees_with_the_cpu():
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64), np.float32), "w")
    proto = model(nodes=[helper.make_node("MatMul", ["x", "w"], ["y"])], shape=("n", 64), initializers=[weight])
    x = {"x": np.random.default_rng(1).standard_normal((8, 64), np.float32)}
    cuda, cpu = (Runner(proto.SerializeToString(), providers=kind) for kind in ("cuda", "cpu"))
    assert cuda.provider == "cuda"
    np.testing.assert_allclose(cuda.run(x)["y"], cpu.run(x)["y"], rtol=1e-5, atol=1e-5)


# --- batches ---


def test_a_fixed_batch_is_padded_and_cut():
    run = runner(shape=(4, 2))
    result = run_padded(run, batch(3, 2), None, 4)["y"]
    np.testing.assert_array_equal(result, batch(3, 2).feeds["x"])
    assert run_padded(run, batch(4, 2), ["y"], 4)["y"].shape == (4, 2)


def test_only_rows_of_the_padding_are_cut():
    two = onnx.numpy_helper.from_array(np.array([8, 1]), "s")
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["folded"]),  # two rows a sample
        helper.make_node("ReduceSum", ["x"], ["whole"], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["row"], axes=[0], keepdims=1),
    ]
    run = runner(nodes=nodes, shape=(4, 2), initializers=[two], outputs=("folded", "whole", "row"))
    result = run_padded(run, batch(3, 2), None, 4)
    assert result["folded"].ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert result["whole"].shape == ()
    assert result["row"].shape == (1, 2)


def test_a_dynamic_batch_on_the_cpu_is_not_padded():
    assert run_padded(runner(), batch(3, 4), None, 8)["y"].shape == (3, 4)


def spec(*shape):
    return InputSpec("x", shape, np.dtype("float32"))


@pytest.mark.parametrize(
    ("inputs", "asked", "size"),
    [
        ([spec(None, 3, 224, 224)], None, 8),
        ([spec(None, 3, None, None)], None, 8),
        ([spec(None, None, None, 3)], None, 8),
        ([spec(None, 3, 640, 640)], None, 1),
        ([spec(None, 1, 28, 28)], None, 32),
        ([spec(None, None)], None, 32),
        ([spec()], None, 32),
        ([spec(None, 3, 224, 224)], 5, 5),
        ([spec(1, 3, 224, 224)], 5, 1),
        ([spec(16, 3, 224, 224)], None, 16),
        ([spec(None, 4), spec(6, 4)], None, 6),
        ([spec(1, 3, 8, 8), spec(2)], 4, 1),
    ],
)
def test_batch_size(inputs, asked, size):
    assert batch_size_for(inputs, asked) == size


def test_batch_size_must_be_positive():
    with pytest.raises(UsageError, match="--batch-size is 0"):
        batch_size_for([spec(None, 4)], 0)
    assert fixed_batch([spec(None, 4)]) is None


# --- prefetch ---


def test_prefetch_keeps_order_and_runs_ahead():
    made = []

    def produce():
        for item in range(6):
            made.append(item)
            yield item

    items = prefetch(produce(), depth=2)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(made) == 4  # one used, two waiting, one in hand
    assert list(items) == [1, 2, 3, 4, 5]


def test_prefetch_passes_errors_on_in_their_place():
    def produce():
        yield 1
        raise ValueError("broken")

    items = prefetch(produce())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_prefetch_stops_with_its_consumer():
    closed = threading.Event()

    def produce():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = prefetch(produce())
    next(items)
    items.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


# --- doctor ---


def test_the_report_says_what_starts():
    report = runtime.runtime_report()
    assert report["distribution"]
    assert "cpu" in report["providers"]
    assert ("cuda" in report["providers"]) == (report["cuda_problem"] is None)


def test_conflicts(monkeypatch):
    monkeypatch.setattr(runtime, "_installed", lambda: {"onnxruntime": "1", "onnxruntime-gpu": "1"})
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in runtime.runtime_conflict()
    monkeypatch.setattr(runtime, "_installed", dict)
    assert "no onnxruntime is installed" in runtime.runtime_conflict()
    monkeypatch.setattr(runtime, "_installed", lambda: {"onnxruntime": "1"})
    assert runtime.runtime_conflict() is None
    monkeypatch.setitem(sys.modules, "onnxruntime", object())  # what an uninstalled twin leaves behind
    assert "pip uninstall onnxruntime" in runtime.runtime_conflict()
