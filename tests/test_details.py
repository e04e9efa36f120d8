"""What pages show beside the report: true to the decision, and small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pfa_onnx import pipeline
from pfa_onnx.graph.cost import parameters
from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Layer, Method
from pfa_onnx.report import as_json
from pfa_onnx.results import Cost
from pfa_onnx.steps.details import FINEST, POINTS, refined, removal_order_of, small_matrix

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
DATA = DataOptions(data=str(SAMPLE / "images"), limit=320, providers="cpu")


def analyze(method, **options):
    return pipeline.analyze(SAMPLE / "model.onnx", DATA, method, PlanOptions(**options), details=True)


@pytest.fixture(scope="module")
def report():
    return analyze(Method("energy", tau=0.95))


# --- on the sample model ---


def test_an_order_begins_with_what_was_removed(report):
    for layer in report.layers:
        order = report.details.layers[layer.output].order
        assert sorted(order) == list(range(layer.channels))
        gone = layer.channels - len(layer.keep)
        assert sorted(order[gone:]) == list(layer.keep)


def test_a_lone_layer_goes_in_the_order_of_the_paper(report):
    # what goes at a lower energy continues what went at a higher one
    lone = next(one for one in report.layers if one.group is None and len(one.keep) < one.channels)
    order = report.details.layers[lone.output].order
    deeper = analyze(Method("energy", tau=0.8)).details.layers[lone.output].order
    assert order == deeper


def test_kl_is_what_the_method_kl_asks_for(report):
    asked = {one.output: one.asked for one in analyze(Method("kl")).layers}
    assert {output: one.kl for output, one in report.details.layers.items()} == asked


def test_the_curve_of_costs_holds_the_models_that_are_really_cut(report, tmp_path):
    costs = report.details.costs
    assert len(costs) == POINTS
    assert [cost.tau for cost in costs] == sorted({cost.tau for cost in costs})
    chosen = next(cost for cost in costs if cost.tau == 0.95)
    assert (chosen.params, chosen.macs) == (report.after.params, report.after.macs)
    other = costs[len(costs) // 2]
    pipeline.prune(
        SAMPLE / "model.onnx", DATA, Method("energy", tau=other.tau), output=tmp_path / "cut.onnx", prove=False
    )
    assert parameters(load(tmp_path / "cut.onnx")) == other.params


def test_widths_are_rounded_on_the_curve_too():
    for cost in analyze(Method("kl"), round_to=8).details.costs[:-1:6]:
        found = analyze(Method("energy", tau=cost.tau), round_to=8)
        assert found.after.params == cost.params


def test_details_are_there_only_when_asked_for_and_never_in_the_json(report, tmp_path):
    plain = pipeline.analyze(SAMPLE / "model.onnx", DATA, Method("energy", tau=0.95))
    assert plain.details is None
    assert as_json.render(plain) == as_json.render(report)
    (tmp_path / "r.json").write_text(as_json.render(plain))
    again = pipeline.prune(
        SAMPLE / "model.onnx", DATA, output=tmp_path / "x.onnx", recipe=tmp_path / "r.json", details=True
    )
    assert again.details is None, "a recipe decided, and not the data"


@pytest.mark.parametrize("select", ["l1", "random"])
def test_any_ranking_has_an_order(select):
    found = analyze(Method("uniform", ratio=0.5, select=select))
    layer = next(one for one in found.layers if not one.held)
    order = found.details.layers[layer.output].order
    assert sorted(order[layer.channels - len(layer.keep) :]) == list(layer.keep)


# --- parts ---


def test_removed_channels_come_first_and_frozen_ones_last():
    layer = Layer("y", "n", "Conv", "w", np.array([5, 6, 0, 7, 8]))
    order = removal_order_of(layer, {8: 0, 6: 1, 7: 2, 5: 3}, np.array([True, False, True, True, False]))
    assert order.tolist() == [4, 1, 3, 0, 2]


def whole(small):
    matrix = np.zeros((small.side, small.side), np.uint8)
    matrix[np.triu_indices(small.side)] = np.frombuffer(small.cells, np.uint8)
    return matrix


def test_a_small_matrix_is_kept_as_it_is():
    matrix = np.array([[0, 0.5, 1.0], [0.5, 0, 0.2], [1.0, 0.2, 0]])
    found = small_matrix(matrix, np.array([2, 0, 1]), 8)
    assert found.side == 3
    assert whole(found).tolist() == [[255, 255, 51], [0, 255, 128], [0, 0, 255]]


def test_a_large_matrix_becomes_means_that_leave_out_the_diagonal():
    matrix = np.full((7, 7), 0.4)
    np.fill_diagonal(matrix, 0.0)
    found = small_matrix(matrix, np.arange(7), 3)  # of 2, 2 and 3 channels
    assert whole(found)[np.triu_indices(3)].tolist() == [102] * 6
    assert matrix[0, 0] == 0.0
    assert small_matrix(np.zeros((1, 1)), np.array([0]), 8).cells == b"\xff"


def test_the_curve_is_finest_where_it_falls():
    def cost(tau):
        return Cost(tau, 1000 if tau > 0.9 else 100, 1000)

    found = refined(cost, [0.5, 1.0], Hooks())
    assert len(found) <= POINTS
    assert [one.tau for one in found] == sorted({one.tau for one in found})
    below = max(one.tau for one in found if one.params == 100)
    above = min(one.tau for one in found if one.params == 1000)
    assert below <= 0.9 < above
    assert above - below <= 2 * FINEST
    assert refined(cost, [1.0], Hooks()) == [cost(1.0)]


def test_pages_differ_from_reports_in_their_details_only(report):
    assert replace(report, details=None).layers == report.layers
