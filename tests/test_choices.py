"""Models that choose: candidates that are all but equal change places, and a right cut is still proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import Net
from onnx import TensorProto
from support import saved

import pfa_onnx
from pfa_onnx import pipeline
from pfa_onnx.errors import ProofError
from pfa_onnx.graph import cut as cut_module
from pfa_onnx.graph.edits import Edits
from pfa_onnx.graph.model import Graph
from pfa_onnx.recipe import Method
from pfa_onnx.report import words
from pfa_onnx.steps import apply

TOKENS, HIDDEN = 200, 256


def ranking() -> onnx.ModelProto:
    """Scores of 200 candidates, and the places of the best 20 as numbers."""
    net = Net(np.random.default_rng(0))
    h = net.op("Tanh", net.op("MatMul", net.input(["N", TOKENS, 32], "tokens"), net.const(net.weights(32, HIDDEN))))
    scores = net.op("Reshape", net.op("MatMul", h, net.const(net.weights(HIDDEN, 1))), net.const([0, TOKENS]))
    _, places = net.multi("TopK", scores, net.const([20]), outs=2)
    return net.model((net.op("Cast", places, to=TensorProto.FLOAT), ["N", 20]))


def inputs(spread: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    base = rng.standard_normal((40, 1, 32))
    return {"tokens": (base + spread * rng.standard_normal((40, TOKENS, 32))).astype(np.float32)}


def pruned(tmp_path: Path, spread: float) -> pfa_onnx.Report:
    plan = pfa_onnx.PlanOptions(allow_few_samples=True)
    half = Method("uniform", ratio=0.5)
    return pfa_onnx.prune(saved(ranking()), inputs(spread), half, plan, output=tmp_path / "small.onnx")


def test_candidates_far_apart_are_proven_as_any_model_is(tmp_path):
    report = pruned(tmp_path, spread=1.0)
    assert report.proof is not None
    assert report.proof.before_choices is None


def test_candidates_that_change_places_are_proven_by_what_is_chosen_by(tmp_path, monkeypatch):
    cut_copy = apply.cut_copy

    def rounded_otherwise(graph: Graph, edits: Edits) -> Graph:
        """Sums of this machine may come out the same in any order: let weights differ by what rounding would."""
        small = cut_copy(graph, edits)
        for k, value in enumerate(small.model.graph.initializers.values()):
            array = value.const_value.numpy()
            if array.dtype == np.float32:
                noise = np.random.default_rng(k).normal(scale=1e-7, size=array.shape)
                value.const_value = ir.Tensor((array * (1 + noise)).astype(np.float32), name=value.name)
        return small

    monkeypatch.setattr(pipeline, "cut_copy", rounded_otherwise)
    report = pruned(tmp_path, spread=1e-6)
    assert report.proof is not None
    assert report.proof.passed
    assert report.proof.max_relative_error > 1e-4, "nothing changed places: this test shows nothing"
    assert report.proof.before_choices is not None
    assert report.proof.before_choices < 1e-5
    assert "changed places" in words.proof(report)


def test_a_wrong_cut_is_no_change_of_places(tmp_path, monkeypatch):
    def wrong(array: np.ndarray, axes: tuple[int, ...], at: np.ndarray, extents: tuple[int, ...]) -> np.ndarray:
        return np.take(array, (at + 1) % array.shape[axes[0]], axes[0])

    monkeypatch.setattr(cut_module, "gather_step", wrong)
    with pytest.raises(ProofError, match="in what it chooses by"):
        pruned(tmp_path, spread=1e-6)
    assert not (tmp_path / "small.onnx").exists()
