"""What these tests share: servers that fork, and small models with their data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from networks import NETWORKS, feeds

from hardening.forks import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def torch_server(tmp_path_factory):
    pytest.importorskip("torch")
    made = Server(tmp_path_factory.mktemp("torch"), "pfa_onnx.torch.tune", "torch._dynamo")
    yield made
    made.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A model, with its weights inside and in a file beside it, and data for it."""
    folder = tmp_path_factory.mktemp("small")
    proto = NETWORKS["plain"](np.random.default_rng(0))
    np.savez(folder / "data.npz", **feeds(proto, np.random.default_rng(0), n=40))
    onnx.save(proto, folder / "model.onnx")
    onnx.save(proto, folder / "outside.onnx", save_as_external_data=True, location="outside.data", size_threshold=0)
    return SimpleNamespace(
        folder=folder, model=folder / "model.onnx", outside=folder / "outside.onnx", data=folder / "data.npz"
    )
