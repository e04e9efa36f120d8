"""Outputs are the old file or the new one, whatever happens, and large models take the way through files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from networks import NETWORKS, feeds
from support import run

from pfa_onnx import pipeline
from pfa_onnx.errors import ProofError, UsageError
from pfa_onnx.graph import branches
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.steps import apply, embedded, serialized

HALF = Method("uniform", ratio=0.5)


@pytest.fixture
def model(tmp_path):
    """A model with its weights in an external file, and data for it."""
    proto = NETWORKS["plain"](np.random.default_rng(0))
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    np.savez(tmp_path / "data.npz", **feeds(proto, np.random.default_rng(0), n=40))
    return tmp_path / "model.onnx"


def prune(model, output, method=HALF):
    options = DataOptions(data=str(model.with_name("data.npz")), providers="cpu")
    return pipeline.prune(model, options, method, PlanOptions(), output=output)


def test_large_models_go_through_files_and_come_out_the_same(model, tmp_path, monkeypatch):
    """Nothing but where the weights lie may depend on how large a model is."""
    plain = prune(model, tmp_path / "plain.onnx")
    monkeypatch.setattr(serialized, "IN_MEMORY", 0)
    through_files = prune(model, tmp_path / "files.onnx")
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "files.onnx").read_bytes()
    assert plain.proof == through_files.proof
    monkeypatch.setattr(apply, "EMBED_LIMIT", 0)
    report = prune(model, tmp_path / "large.onnx")
    data = next(tmp_path.glob("large.onnx.*.data"))
    assert report.after.bytes == data.stat().st_size + (tmp_path / "large.onnx").stat().st_size
    onnx.checker.check_model(tmp_path / "large.onnx", full_check=True)
    inputs = dict(np.load(tmp_path / "data.npz"))
    for name, array in run(tmp_path / "plain.onnx", inputs).items():
        np.testing.assert_array_equal(array, run(tmp_path / "large.onnx", inputs)[name])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    before = data.read_bytes(), (tmp_path / "large.onnx").read_bytes()
    prune(model, tmp_path / "large.onnx")
    assert (data.read_bytes(), (tmp_path / "large.onnx").read_bytes()) == before


def test_other_weights_get_another_file(model, tmp_path, monkeypatch):
    """Same model file, same recipe, other weights beside it: the data of the old output is not touched."""
    monkeypatch.setattr(apply, "EMBED_LIMIT", 0)
    prune(model, tmp_path / "out.onnx")
    old = next(tmp_path.glob("out.onnx.*.data"))
    before = old.read_bytes()
    weights = np.fromfile(model.with_name("model.data"), np.float32)
    (weights * np.float32(0.5)).tofile(model.with_name("model.data"))
    prune(model, tmp_path / "out.onnx")
    assert old.read_bytes() == before
    assert len(list(tmp_path.glob("out.onnx.*.data"))) == 2


@pytest.mark.parametrize("limit", [0, 10**9])
@pytest.mark.parametrize("what", ["fsync", "save"])
def test_full_disk(model, tmp_path, monkeypatch, limit, what):
    """An error in the project's form; the old file stays, and nothing else is left."""
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    monkeypatch.setattr(apply, "EMBED_LIMIT", limit)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif limit:
        pytest.skip("a small model is written without it")
    else:
        monkeypatch.setattr("onnx_ir.save", full)
    with pytest.raises(UsageError, match="No space left") as caught:
        prune(model, output)
    assert caught.value.fix
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_no_room_for_a_temporary_copy(model, tmp_path, monkeypatch):
    monkeypatch.setattr(serialized, "IN_MEMORY", 0)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnx_ir.save", full)
    with pytest.raises(UsageError, match="temporary copy") as caught:
        prune(model, tmp_path / "out.onnx")
    assert "TMPDIR" in caught.value.fix
    assert not (tmp_path / "out.onnx").exists()


def test_wrongly_written_out_control_flow_is_caught(tmp_path, monkeypatch):
    """The proof compares two models that were both loaded by us: the file itself has its say, too."""
    proto = NETWORKS["loop_reads_outer"](np.random.default_rng(0))
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds(proto, np.random.default_rng(0), n=40))
    monkeypatch.setattr(branches, "_rounds", lambda *_: 2)  # it is three
    with pytest.raises(ProofError, match="control flow"):
        prune(tmp_path / "model.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


WRITER = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
import onnx_ir as ir
from pfa_onnx.graph.model import load
from pfa_onnx.steps import apply
path = Path(sys.argv[1])
apply.EMBED_LIMIT = int(sys.argv[2])
graph = load(path)
print("ready", flush=True)
for k in count():
    weight = np.full((64, 4096), k, np.float32)
    graph.model.graph.initializers["w"].const_value = ir.Tensor(weight, name="w")
    graph.model.metadata_props["k"] = str(k)
    apply.write(graph, path.with_name("out.onnx"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 10**9])
def test_killed_at_any_moment(tmp_path, limit):
    """A process that rewrites its output without end is killed: what is there always loads, data and all."""
    weight = onnx.numpy_helper.from_array(np.zeros((64, 4096), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4096])],
        [weight],
    )
    onnx.save(
        onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]),
        tmp_path / "model.onnx",
    )
    random = np.random.default_rng(limit)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "model.onnx"), str(limit)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(0.02 + 0.3 * random.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if not (tmp_path / "out.onnx").exists():
            continue
        found = onnx.load(tmp_path / "out.onnx")
        count = int({p.key: p.value for p in found.metadata_props}["k"])
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(found.graph.initializer[0]), np.full((64, 4096), count)
        )
    assert (tmp_path / "out.onnx").exists()


def test_recipe_in_the_metadata_is_whole(model, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "EMBED_LIMIT", 0)
    prune(model, tmp_path / "out.onnx")
    found = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    props = {p.key: p.value for p in found.metadata_props}
    assert json.loads(props[embedded.METADATA_KEY])["layers"]
