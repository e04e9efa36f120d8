"""Other frameworks take a pruned file as they take any other, and can train it on; users copy `tests/examples/`.

Each test runs where its packages are installed:

    pip install jax "flax>=0.12" optax       # test_flax
    pip install onnx2keras ai-edge-litert    # test_keras
    pip install onnx2tf                      # test_onnx2tf; in an environment of its own, whose commands are on PATH
    pytest -m slow tests/test_other_frameworks.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import pfa_onnx
from pfa_onnx.recipe import Method

EXAMPLES = Path(__file__).parent / "examples"
SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("pruned") / "small.onnx"
    pfa_onnx.prune(MODEL, IMAGES, Method("kl", select="reconstruct"), output=path, repair=True)
    return path


def in_onnxruntime(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.transpose(0, 3, 1, 2)})[0]


def same(outputs, expected, tolerance=1e-4):
    assert np.abs(expected).max() > 10  # the tolerance is absolute
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance)


def there_and_back(example, small, tuned):
    """ONNX -> the framework -> training -> ONNX; returns the trained model and the pictures."""
    model, (images, labels) = example.load(small), example.read(IMAGES)
    before = in_onnxruntime(small, images)
    same(example.predict(model, images), before)

    losses = example.train(model, images, labels)
    assert losses[-1] < losses[0] / 2

    example.save(model, small, tuned)
    after = in_onnxruntime(tuned, images)
    same(example.predict(model, images), after)
    assert np.abs(after - before).max() > 1
    assert np.mean(after.argmax(1) == labels) > np.mean(before.argmax(1) == labels)
    old, new = onnx.load(small), onnx.load(tuned)
    for tensor in [*old.graph.initializer, *new.graph.initializer]:
        tensor.ClearField("raw_data")
    assert old == new  # but for the values of the weights: graph, names, shapes, recipe
    return model, images


def test_flax(small, tmp_path, monkeypatch):
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    pytest.importorskip("optax")
    monkeypatch.syspath_prepend(EXAMPLES)
    import flax_fashion

    with jax.default_matmul_precision("highest"):  # GPUs would round to fewer bits
        there_and_back(flax_fashion, small, tmp_path / "tuned.onnx")


def test_keras(small, tmp_path, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    pytest.importorskip("onnx2keras")
    pytest.importorskip("ai_edge_litert")
    monkeypatch.syspath_prepend(EXAMPLES)
    import keras_fashion
    import litert_run

    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    model, images = there_and_back(keras_fashion, small, tmp_path / "tuned.onnx")
    model.export(tmp_path / "tuned.tflite", format="litert", verbose=False)
    same(litert_run.predict(str(tmp_path / "tuned.tflite"), images), keras_fashion.predict(model, images), 1e-3)


def test_onnx2tf(small, tmp_path):
    command = shutil.which("onnx2tf")
    if command is None:
        pytest.skip("no onnx2tf on PATH")
    python = shutil.which("python", path=str(Path(command).parent))  # LiteRT lies beside it
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words):
        result = subprocess.run([*map(str, words)], cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    files = sorted(IMAGES.glob("*/*.png"))[::20]
    images = np.stack([np.asarray(Image.open(file), np.float32)[..., None] / 255 for file in files])
    np.save(tmp_path / "images.npy", images)
    shutil.copy(small, tmp_path / "copy.onnx")  # onnx2tf writes what it simplified over the file that it is given
    run(command, "-i", "copy.onnx", "-o", "converted")
    run(python, EXAMPLES / "litert_run.py", "converted/copy_float32.tflite", "images.npy", "outputs.npy")
    same(np.load(tmp_path / "outputs.npy"), in_onnxruntime(small, images), 1e-3)
