"""Where external data may lie: checked before anything opens it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import NETWORKS, exports, feeds
from onnx import TensorProto, helper, numpy_helper
from support import cut_model, random_keeps, run, settle_model

from pfa_onnx.cli import main
from pfa_onnx.errors import ModelError
from pfa_onnx.graph.external import SMALL
from pfa_onnx.graph.model import load

WEIGHT = np.arange(32, dtype=np.float32).reshape(8, 4)


def write(
    folder: Path, location: str, *, offset: int | None = None, length: int | None = None, nested: bool = False
) -> Path:
    """A model whose only weight lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    initializers = [tensor]
    if nested:
        nodes = [helper.make_node("Constant", [], ["w"], value=tensor), *nodes]
        initializers = []
    graph = helper.make_graph(
        nodes,
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        initializers,
    )
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    )
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder for the model, with the data beside it and once more outside."""
    inside = tmp_path / "models"
    inside.mkdir()
    for place in (inside, tmp_path):
        (place / "w.bin").write_bytes(WEIGHT.tobytes())
    return inside


def test_data_beside_the_model_is_read(folder):
    graph = load(write(folder, "w.bin"))
    np.testing.assert_array_equal(graph.array(graph.model.graph.initializers["w"]), WEIGHT)
    assert set(graph.stamps) == {"w.bin"}


def test_what_is_no_weight_leaves_its_file(tmp_path):
    """onnxruntime's shape inference reads no axes in another file, once it knows all else about a Slice."""
    proto = NETWORKS["split_at_a_computed_place"](np.random.default_rng(0))
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    graph = load(tmp_path / "model.onnx")
    kept = {name for name, value in graph.constants.items() if isinstance(value.const_value, ir.ExternalTensor)}
    assert kept == {name for name, value in graph.constants.items() if value.const_value.nbytes > SMALL}
    assert any(value.const_value.nbytes <= SMALL for value in graph.constants.values())
    assert set(graph.stamps) == {"w.bin"}


def test_data_of_which_no_length_is_said_goes_no_further_than_its_tensor(tmp_path):
    """onnx reads all that follows then: what was written did not load."""
    proto = NETWORKS["plain"](np.random.default_rng(0))
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for k in reversed(range(len(tensor.external_data))):
            if tensor.external_data[k].key == "length":
                del tensor.external_data[k]
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds(proto, np.random.default_rng(1), n=40))
    words = ["prune", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "data.npz"), "--allow-few-samples"]
    assert main([*words, "--uniform", "1.0", "-o", str(tmp_path / "out.onnx")]) == 0
    run(tmp_path / "out.onnx", feeds(proto, np.random.default_rng(1), n=2))
    for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer:
        assert len(tensor.raw_data) == numpy_helper.to_array(tensor).nbytes


def test_data_in_a_folder_below_is_read(folder):
    (folder / "data").mkdir()
    shutil.copy(folder / "w.bin", folder / "data" / "w.bin")
    graph = load(write(folder, "data/w.bin"))
    np.testing.assert_array_equal(graph.array(graph.model.graph.initializers["w"]), WEIGHT)


def test_offset_into_a_longer_file_is_read(folder):
    (folder / "long.bin").write_bytes(b"\0" * 4096 + WEIGHT.tobytes() + b"\0" * 10)
    graph = load(write(folder, "long.bin", offset=4096, length=WEIGHT.nbytes))
    np.testing.assert_array_equal(graph.array(graph.model.graph.initializers["w"]), WEIGHT)


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.at
    assert caught.value.fix
    return caught.value


def test_missing_data_is_named(folder):
    assert "missing.bin" in str(refused(write(folder, "missing.bin")))


@pytest.mark.parametrize("nested", [False, True])
def test_data_that_is_too_short_says_how_much_is_missing(folder, nested):
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[:-1])
    assert "127 bytes" in refused(write(folder, "w.bin", nested=nested)).what


def test_offset_beyond_the_file(folder):
    assert "too short" in refused(write(folder, "w.bin", offset=64)).what


def test_negative_offset(folder):
    refused(write(folder, "w.bin", offset=-4))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "location", ["../w.bin", "data/../../w.bin", "..\\w.bin", "C:\\w.bin", "/etc/passwd", "//server/w.bin", "", "."]
)
def test_location_outside_the_folder(folder, location, nested):
    refused(write(folder, location, nested=nested))


def test_absolute_location_of_the_right_file(folder):
    refused(write(folder, str(folder / "w.bin")))


def test_symbolic_link_out_of_the_folder(folder):
    (folder / "link.bin").symlink_to(folder.parent / "w.bin")
    assert "link" in refused(write(folder, "link.bin")).what


def test_symbolic_link_to_a_folder_outside(folder):
    (folder / "data").symlink_to(folder.parent)
    refused(write(folder, "data/w.bin"))


def test_hard_link(folder):
    """It may be any file of the machine under another name."""
    os.link(folder.parent / "w.bin", folder / "hard.bin")
    refused(write(folder, "hard.bin"))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_no_plain_file(folder, kind):
    (folder / "odd").mkdir() if kind == "folder" else os.mkfifo(folder / "odd")
    refused(write(folder, "odd"))


def test_data_in_the_body_of_a_subgraph_is_checked_too(folder):
    path = write(folder, "w.bin")
    model = onnx.load(path, load_external_data=False)
    body = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [8, 4])],
    )
    inner = TensorProto(
        name="inner", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL
    )
    inner.external_data.add(key="location", value="../w.bin")
    body.initializer.append(inner)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=body, else_branch=body))
    path.write_bytes(model.SerializeToString())
    refused(path)


def test_cut_leaves_the_data_file_as_it_was():
    path = next(p for p in exports() if p.parent.name == "external")
    before = path.with_name("model.onnx.data").read_bytes()
    trace = settle_model(path, feeds(onnx.load(path, load_external_data=False), np.random.default_rng(0), n=2))
    for keep in random_keeps(trace, seeds=[0], shares=[0.5]):
        cut_model(trace, keep)
    assert path.with_name("model.onnx.data").read_bytes() == before
