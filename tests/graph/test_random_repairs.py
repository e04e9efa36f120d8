"""Random graphs, cut and repaired: repair never fails, and never takes the outputs further from the original's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import event, given, note, settings
from networks import feeds
from onnx import ModelProto
from support import run, saved
from test_random_graphs import a_graph, build, quiet, without_numbers

import pfa_onnx
from pfa_onnx.errors import TargetError
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method


def check(model: ModelProto, seed: int) -> str:
    inputs = feeds(model, np.random.default_rng(seed), n=64)
    method = Method("uniform", ratio=0.6, select="reconstruct")
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        try:
            report = pfa_onnx.prune(
                saved(model),
                DataOptions(inputs, batch_size=4, providers="cpu"),
                method,
                PlanOptions(allow_few_samples=True, through_norm=seed % 2 == 1),
                output=small,
                repair=True,
            )
        except TargetError:
            return "nothing to prune"
        onnx.checker.check_model(onnx.load(small), full_check=True)
        found = run(onnx.load(small), inputs)
    assert all(np.isfinite(value).all() for value in found.values())
    repair = report.repair
    if repair is None or not repair.layers:
        return "nothing to repair"
    assert all(layer.after <= layer.before for layer in repair.layers)
    assert repair.after < repair.before or not repair.applied
    return "applied" if repair.applied else "left out"


def check_noting(seed: int, steps: list, heads: list[int]) -> None:
    model = build(seed, steps, heads)
    note(onnx.printer.to_text(without_numbers(model)))
    event(check(model, seed))


@settings(max_examples=15, derandomize=True, **quiet)
@given(**a_graph)
def test_random_graph_can_be_repaired(seed, steps, heads):
    check_noting(seed, steps, heads)


@pytest.mark.slow
@settings(max_examples=1000, **quiet)
@given(**a_graph)
def test_a_thousand_random_graphs_can_be_repaired(seed, steps, heads):
    check_noting(seed, steps, heads)
