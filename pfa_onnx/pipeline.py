"""The three verbs: the story in order, nothing else. (Being written: signatures are final.)"""

from __future__ import annotations

from pathlib import Path

from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.results import CheckReport, Report


def analyze(
    model: Path,
    data: DataOptions,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    stats: Path | None = None,
    save_stats: Path | None = None,
    hooks: Hooks | None = None,
) -> Report:
    """Measure every layer and say what pruning would do; `stats` replaces the inference."""
    raise NotImplementedError


def prune(
    model: Path,
    data: DataOptions,
    method: Method | None = None,
    plan: PlanOptions | None = None,
    *,
    output: Path,
    stats: Path | None = None,
    recipe: Path | None = None,
    save_stats: Path | None = None,
    init: str = "keep",
    seed: int = 0,
    prove: bool = True,
    hooks: Hooks | None = None,
) -> Report:
    """Cut the model, prove the cut, write it."""
    raise NotImplementedError


def check(
    original: Path,
    pruned: Path,
    data: DataOptions,
    gates: dict[str, float] | None = None,
    *,
    latency: bool = True,
    hooks: Hooks | None = None,
) -> CheckReport:
    """Compare two models on data. gates: any of min_agreement, min_cosine, max_params, max_macs, max_latency."""
    raise NotImplementedError
