"""Files that are no models, or broken ones: always a ModelError that says where and what to do, never anything else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import NETWORKS
from onnx import TensorProto, helper

from pfa_onnx.errors import ModelError, PfaError
from pfa_onnx.graph.model import load

SMALL = NETWORKS["plain"](np.random.default_rng(0)).SerializeToString()


def refused(path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.at
    assert caught.value.fix
    assert caught.value.exit_code == 2
    return caught.value


def model_of(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in outputs],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def test_missing_file(tmp_path):
    assert str(tmp_path / "no.onnx") in str(refused(tmp_path / "no.onnx"))


def test_folder(tmp_path):
    refused(tmp_path)


def test_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "secret.onnx"
    path.write_bytes(SMALL)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        refused(path)
    else:
        pytest.skip("this user may read everything")


@pytest.mark.parametrize("content", [b"", b"\0", b"\n", b"hello, I am a text file\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(200), b"PK\x03\x04" + bytes(100),
                                     b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
                         ids=["empty", "zero", "newline", "text", "png", "zip", "git-lfs"])  # fmt: skip
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    refused(path)


def test_graph_without_nodes(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(outputs=("x",)))
    refused(path)


def test_graph_without_outputs(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(helper.make_node("Relu", ["x"], ["y"]), outputs=()))
    refused(path)


def test_cycle(tmp_path):
    path = tmp_path / "cycle.onnx"
    path.write_bytes(model_of(helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"]),
                              helper.make_node("Relu", ["b"], ["y"])))  # fmt: skip
    error = refused(path)
    assert "cycle" in error.what
    assert error.at == "first"


def test_nodes_in_another_order_than_they_run_are_sorted_for_reading_only(tmp_path):
    path = tmp_path / "unsorted.onnx"
    path.write_bytes(
        model_of(
            helper.make_node("Relu", ["a"], ["y"], name="second"), helper.make_node("Neg", ["x"], ["a"], name="first")
        )
    )
    graph = load(path)
    assert [node.name for node in graph.nodes] == ["first", "second"]
    assert [node.name for node in graph.model.graph] == ["second", "first"]


def test_inputs_leave_out_initializers(tmp_path):
    path = tmp_path / "old.onnx"
    path.write_bytes(NETWORKS["ir3_opset7"](np.random.default_rng(0)).SerializeToString())
    graph = load(path)
    assert [spec.name for spec in graph.inputs] == ["image"]
    assert graph.inputs[0].shape == (None, 3, 16, 16)
    assert graph.outputs == ("logits",)


def test_digest_is_that_of_the_file(tmp_path):
    import hashlib

    path = tmp_path / "model.onnx"
    path.write_bytes(SMALL)
    assert load(path).sha256 == hashlib.sha256(SMALL).hexdigest()


@pytest.mark.parametrize("share", range(40))
def test_truncated_file(tmp_path, share):
    """At some lengths the rest is a complete, smaller message: then it loads, or says what is missing."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(SMALL[: len(SMALL) * share // 40])
    assert_works_or_refuses(path)


def test_flipped_bytes(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "flipped.onnx"
    for _ in range(200):
        content = bytearray(SMALL)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            content[at] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(content)
        assert_works_or_refuses(path)


def test_flipped_bytes_of_the_structure(tmp_path):
    """Weights are most of a file: here the numbers are left out, and every byte names or counts something."""
    model = onnx.load_from_string(SMALL)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.dims[:] = [0] * len(tensor.dims)
    bare = model.SerializeToString()
    random = np.random.default_rng(1)
    path = tmp_path / "flipped.onnx"
    for _ in range(400):
        content = bytearray(bare)
        content[random.integers(0, len(content))] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(content)
        assert_works_or_refuses(path)


def assert_works_or_refuses(path) -> None:
    """Load, and read what loading alone does not: inputs, and every constant."""
    try:
        graph = load(path)
        _ = graph.inputs, graph.outputs
        for value in graph.model.graph.initializers.values():
            graph.array(value)
    except PfaError as error:
        assert error.what
        assert error.fix
