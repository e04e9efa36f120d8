"""The networks that other tests use are valid, run, and answer differently to different inputs."""

from __future__ import annotations

import zlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from networks import NETWORKS, exports, feeds


def rng_of(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def session(model: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assert_alive(runner: ort.InferenceSession, model: onnx.ModelProto) -> None:
    results, others = (runner.run(None, feeds(model, np.random.default_rng(seed))) for seed in (0, 1))
    assert len(results) == len(model.graph.output)
    for value, result, other in zip(model.graph.output, results, others, strict=True):
        assert np.isfinite(result).all(), value.name
        assert (result != other).any(), value.name
        assert result.std() > 0, value.name
        assert np.abs(result).max() < 1e4, value.name
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        assert len(dims) == result.ndim, value.name
        assert all(d in (0, size) for d, size in zip(dims, result.shape, strict=True)), value.name


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    model = NETWORKS[name](rng_of(name))
    onnx.checker.check_model(model, full_check=True)
    assert_alive(session(model.SerializeToString()), model)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_deterministic(name: str) -> None:
    first, second = (NETWORKS[name](rng_of(name)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("path", exports(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_export(path) -> None:
    onnx.checker.check_model(str(path), full_check=True)
    assert_alive(session(str(path)), onnx.load(path, load_external_data=False))


def test_there_are_exports() -> None:
    names = {path.stem for path in exports()}
    assert len(names) > 30
