"""Make trained ONNX models smaller: structured pruning by Principal Filter Analysis.

    import pfa_onnx

    report = pfa_onnx.analyze("model.onnx", "images/")
    report = pfa_onnx.prune("model.onnx", "images/", pfa_onnx.Method("energy", tau=0.95), output="small.onnx")
    result = pfa_onnx.check("model.onnx", "small.onnx", "images/")

Everything returned is an immutable value; everything that can go wrong is a `PfaError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "Compared",
    "DataOptions",
    "Embedded",
    "Hooks",
    "Inspection",
    "LayerResult",
    "Merged",
    "Method",
    "PfaError",
    "PlanOptions",
    "Report",
    "Responses",
    "Swept",
    "Training",
    "Tuned",
    "analyze",
    "check",
    "compare",
    "finetune",
    "inspect",
    "merge",
    "prune",
    "recipe_of",
    "rule",
    "sweep",
]

if TYPE_CHECKING:
    from pfa_onnx.api import analyze, check, compare, finetune, inspect, merge, prune, recipe_of, sweep
    from pfa_onnx.errors import PfaError
    from pfa_onnx.graph.ops import rule
    from pfa_onnx.inspection import Inspection
    from pfa_onnx.options import DataOptions, Hooks, PlanOptions, Training
    from pfa_onnx.recipe import Method
    from pfa_onnx.responses import Responses
    from pfa_onnx.results import CheckReport, LayerResult, Merged, Report, Tuned
    from pfa_onnx.steps.embedded import Embedded
    from pfa_onnx.tradeoff import Compared, Swept

_HOMES = {
    "analyze": "api",
    "check": "api",
    "compare": "api",
    "finetune": "api",
    "inspect": "api",
    "merge": "api",
    "prune": "api",
    "recipe_of": "api",
    "sweep": "api",
    "PfaError": "errors",
    "DataOptions": "options",
    "Hooks": "options",
    "PlanOptions": "options",
    "Training": "options",
    "rule": "graph.ops",
    "Inspection": "inspection",
    "Method": "recipe",
    "CheckReport": "results",
    "LayerResult": "results",
    "Merged": "results",
    "Report": "results",
    "Tuned": "results",
    "Embedded": "steps.embedded",
    "Responses": "responses",
    "Compared": "tradeoff",
    "Swept": "tradeoff",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `pfa-onnx --help` needs none of it."""
    from importlib import import_module  # noqa: PLC0415 - the same reason

    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
