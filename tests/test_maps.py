"""Outputs that are no tensors: scikit-learn's classifiers end in a ZipMap, which gives one map a sample."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from pfa_onnx import pipeline
from pfa_onnx.errors import ProofError
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.stats.compare import as_tensors
from pfa_onnx.steps import apply, embedded, serialized

HALF = Method("uniform", ratio=0.5)
LABELS = {"numbers": [0, 1, 2], "words": ["ant", "bee", "cat"]}


def classifier(labels: list[int] | list[str]) -> onnx.ModelProto:
    """Two layers, scores as maps, and the label that ArrayFeatureExtractor picks: what skl2onnx writes."""
    rng = np.random.default_rng(0)
    words = isinstance(labels[0], str)
    kind, key = (TensorProto.STRING, "classlabels_strings") if words else (TensorProto.INT64, "classlabels_int64s")
    arrays = {"a": rng.normal(size=(12, 16)), "b": rng.normal(size=16), "c": rng.normal(size=(16, 3))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h0"], "first"),
        helper.make_node("Add", ["h0", "b"], ["h1"], "bias"),
        helper.make_node("Relu", ["h1"], ["h2"], "relu"),
        helper.make_node("MatMul", ["h2", "c"], ["logits"], "second"),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=-1),
        helper.make_node("ZipMap", ["scores"], ["probability"], "zipmap", domain="ai.onnx.ml", **{key: labels}),
        helper.make_node("ArgMax", ["scores"], ["best"], "best", axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["picked"], "pick", domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["picked", "flat"], ["label"], "flatten"),
    ]
    scores = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    scores.map_type.value_type.tensor_type.ClearField("shape")
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 12])],
        [
            helper.make_tensor_value_info("label", kind, [None]),
            helper.make_value_info("probability", helper.make_sequence_type_proto(scores)),
        ],
        [
            *(numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()),
            helper.make_tensor("classes", kind, [3], [w.encode() for w in labels] if words else labels),
            numpy_helper.from_array(np.array([-1]), "flat"),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports)


@pytest.fixture(params=LABELS)
def model(request, tmp_path):
    proto = classifier(LABELS[request.param])
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(160, 12)).astype(np.float32))
    return tmp_path / "model.onnx"


def options(model):
    return DataOptions(data=str(model.with_name("x.npy")), providers="cpu")


def prune(model):
    return pipeline.prune(model, options(model), HALF, PlanOptions(), output=model.with_name("small.onnx"))


@pytest.mark.parametrize("large", [False, True])
def test_maps_come_out_as_they_went_in(model, large, monkeypatch):
    if large:
        monkeypatch.setattr(serialized, "IN_MEMORY", 0)
        monkeypatch.setattr(apply, "EMBED_LIMIT", 0)
    report = prune(model)
    assert report.proof is not None
    assert report.proof.passed
    assert set(report.proof.outputs) == {"label", "probability"}
    assert [len(layer.keep) for layer in report.layers] == [8, 3]
    onnx.checker.check_model(model.with_name("small.onnx"), full_check=True)
    before, after = (onnx.load(model.with_name(name)) for name in ("model.onnx", "small.onnx"))
    assert list(after.graph.output) == list(before.graph.output)
    assert [node.name for node in after.graph.node] == [node.name for node in before.graph.node]
    assert [tensor.name for tensor in after.graph.initializer] == [t.name for t in before.graph.initializer]


def test_maps_are_compared_by_check(model):
    prune(model)
    report = pipeline.check(model, model.with_name("small.onnx"), options(model), latency=False)
    assert report.outputs["probability"]["note"] is None
    assert 0 < report.metrics["cosine_min"] < 1
    same = pipeline.check(model, model, options(model), latency=False)
    assert (same.metrics["cosine_min"], same.metrics["agreement"]) == (pytest.approx(1), 1)


def test_maps_are_proven(model, monkeypatch):
    """Other scores in the same classes: the proof must look into the maps."""
    cut_copy = apply.cut_copy

    def wrong(graph, edits):
        small = cut_copy(graph, edits)
        weight = small.model.graph.initializers["c"]
        weight.const_value = ir.Tensor(weight.const_value.numpy() * np.float32(1.01), name="c")
        return small

    monkeypatch.setattr(pipeline, "cut_copy", wrong)
    with pytest.raises(ProofError, match="probability"):
        prune(model)


def test_analyze_and_recipe(model, tmp_path):
    assert pipeline.analyze(model, options(model)).kept <= 19
    prune(model)
    found = onnx.load(model.with_name("small.onnx")).metadata_props
    assert json.loads({p.key: p.value for p in found}[embedded.METADATA_KEY])["layers"]


def test_maps_of_other_keys_are_not_compared():
    one, other = [{0: 0.5, 1: 0.5}], [{0: 0.5, 2: 0.5}]
    assert as_tensors(one, other) == (one, other)
    left, right = as_tensors(one, one)
    np.testing.assert_array_equal(left, [[0.5, 0.5]])
    np.testing.assert_array_equal(left, right)
