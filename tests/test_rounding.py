"""`--round-to auto`: the multiple that runs fastest wins; only the last test depends on a real clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pfa_onnx
from pfa_onnx.errors import TargetError
from pfa_onnx.report import as_json, text
from pfa_onnx.stats.latency import Latency
from pfa_onnx.steps import latency, rounding

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"
AUTO = pfa_onnx.PlanOptions(round_to="auto")


@pytest.fixture(scope="module")
def stats(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "s.npz"
    pfa_onnx.analyze(MODEL, IMAGES, save_stats=path)
    return path


@pytest.mark.parametrize(
    ("ratios", "best"),
    [
        ({1: 0.9, 8: 0.7, 16: 0.8}, 8),
        ({1: 0.71, 8: 0.7, 16: 0.8}, 1),  # alike: the finer one removes more
        ({1: 1.012, 8: 0.995, 64: 1.0}, 8),  # alike, but one is slower than the original
        ({1: 1.4, 8: 1.2, 64: 1.0}, 64),
        ({1: 1.4, 8: 1.21, 16: 1.2}, 16),
        ({4: 0.5}, 4),
    ],
)
def test_the_finest_of_the_fastest_is_chosen(ratios, best):
    assert rounding.choose(ratios) == best


def clock(monkeypatch, ratio_of):
    """A clock by which the run time is a function of the multiple that is being tried, told by its widths."""
    seen = []

    def pretend(self_ratio):
        def paired(*_, **__):
            seen.append(1)
            return Latency(self_ratio(len(seen) - 1), 1.0, 1.0, 1)

        return paired

    monkeypatch.setattr(latency, "paired_latency", pretend(ratio_of))
    return seen


def test_every_multiple_is_tried_once_and_the_report_says_which_won(stats, tmp_path, monkeypatch):
    seen = clock(monkeypatch, lambda k: [0.9, 0.85, 0.6, 0.7, 0.8, 0.9][k])
    notes = []
    hooks = pfa_onnx.Hooks(note=notes.append)
    report = pfa_onnx.prune(MODEL, None, pfa_onnx.Method("kl"), AUTO, stats=stats, output=tmp_path / "o", hooks=hooks)
    assert report.round_to == 8
    assert notes[2] == "multiples of 8: 0.600 of the original's run time"
    assert notes[-1].endswith(" 1.000 of the original's run time"), "16 leaves it whole, which needs no clock"
    assert len(seen) == len(notes) - 1
    plain = pfa_onnx.prune(
        MODEL, None, pfa_onnx.Method("kl"), pfa_onnx.PlanOptions(round_to=8), stats=stats, output=tmp_path / "p"
    )
    assert (tmp_path / "o").read_bytes() == (tmp_path / "p").read_bytes()
    assert all(len(layer.keep) % 8 == 0 or len(layer.keep) == layer.channels for layer in report.layers)
    assert plain.round_to is None
    assert json.loads(as_json.render(report))["round_to"] == 8
    assert "round_to" not in json.loads(as_json.render(plain))
    assert "in multiples of 8: the fastest here" in text.render(report)


def test_equal_models_are_measured_once_and_one_that_is_whole_never(stats, monkeypatch):
    seen = clock(monkeypatch, lambda k: 1.5)
    report = pfa_onnx.analyze(MODEL, None, pfa_onnx.Method("energy", tau=0.9999), AUTO, stats=stats)
    assert report.round_to is not None
    assert report.kept == report.channels, "everything else is slower than the original"
    assert len(seen) < len(rounding.MULTIPLES)


def test_slower_than_the_original_is_told(stats, monkeypatch):
    clock(monkeypatch, lambda k: 1.5)
    said = []
    report = pfa_onnx.analyze(
        MODEL, None, pfa_onnx.Method("uniform", ratio=0.3), AUTO, stats=stats, hooks=pfa_onnx.Hooks(warn=said.append)
    )
    if report.kept < report.channels:
        assert any("1.50 times as long as the original" in text for text in said)


def test_multiples_that_miss_the_target_are_no_candidates(stats, monkeypatch):
    clock(monkeypatch, lambda k: 1.0 - k / 100)
    report = pfa_onnx.analyze(MODEL, None, pfa_onnx.Method("params", target=0.1), AUTO, stats=stats)
    assert report.after.params <= 0.1 * report.model.size.params
    with pytest.raises(TargetError):
        pfa_onnx.analyze(MODEL, None, pfa_onnx.Method("params", target=0.0001), AUTO, stats=stats)


def test_with_run_time_as_the_target_one_search_uses_the_multiple(stats, monkeypatch):
    clock(monkeypatch, lambda k: 0.4)
    report = pfa_onnx.analyze(MODEL, None, pfa_onnx.Method("latency", target=0.5), AUTO, stats=stats)
    assert report.method.name == "latency"
    assert report.round_to == 1


def test_it_runs_for_real(stats):
    report = pfa_onnx.analyze(MODEL, None, None, AUTO, stats=stats)
    assert report.round_to in rounding.MULTIPLES
