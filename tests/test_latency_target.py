"""`--latency R`: the search ends at a recipe whose model was measured to fit; no test here depends on a real clock."""

from __future__ import annotations

from pathlib import Path

import pytest

import pfa_onnx
from pfa_onnx.errors import TargetError
from pfa_onnx.stats.latency import Latency
from pfa_onnx.steps import decide, latency

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    path = tmp_path / "stats.npz"
    pfa_onnx.analyze(SAMPLE / "model.onnx", SAMPLE / "images", save_stats=path)
    return path


def test_the_search_uses_measured_times(stats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which run time is the share of channels kept: the search must land just below the target."""
    ratios: list[float] = []

    def by_channels(original: object, pruned: object, **_: object) -> Latency:
        return Latency(ratios[-1], 1.0, ratios[-1], 1)

    follow = decide.follow

    def watched(trace, keep):
        ratios.append(float(keep[[x for t in trace.layers for x in t.layer.labels.tolist()]].mean()))
        return follow(trace, keep)

    monkeypatch.setattr(latency, "paired_latency", by_channels)
    monkeypatch.setattr(decide, "follow", watched)
    report = pfa_onnx.prune(
        SAMPLE / "model.onnx", None, pfa_onnx.Method("latency", target=0.7), stats=stats, output=tmp_path / "small.onnx"
    )
    assert 0.6 < report.kept / report.channels <= 0.7
    assert report.method.tau is not None


def test_an_unreachable_time_is_refused(stats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "paired_latency", lambda *_, **__: Latency(0.9, 1.0, 0.9, 1))
    with pytest.raises(TargetError, match=r"least is 0\.9"):
        pfa_onnx.prune(
            SAMPLE / "model.onnx", None, pfa_onnx.Method("latency", target=0.5), stats=stats, output=tmp_path / "o.onnx"
        )
    assert not (tmp_path / "o.onnx").exists()
