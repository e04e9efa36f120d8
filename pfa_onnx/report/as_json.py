"""Results as JSON, schema 1, and back: a report is a recipe that can be replayed.

Sorted keys, one line for each layer, no times, no NaN: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pfa_onnx import __version__
from pfa_onnx.recipe import Method, Proof
from pfa_onnx.report import words
from pfa_onnx.responses import PAPER
from pfa_onnx.results import CheckReport, DataInfo, LayerResult, ModelInfo, Repair, Report

SCHEMA = 1


def render(report: Report | CheckReport) -> str:
    """Return the report as JSON text, with a newline at its end."""
    return written(_check(report) if isinstance(report, CheckReport) else _report(report))


def written(content: Mapping[str, Any]) -> str:
    """Return an object as JSON text: sorted, a line for each entry, and for each object of a list."""
    lines = [f"{json.dumps(key)}: {_value(value)}" for key, value in sorted(content.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    """Return one value on one line, or a list of objects with a line for each."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(f" {_compact(item)}" for item in value) + "\n]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return the value with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a numpy number, which json does not know
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _report(report: Report) -> dict[str, Any]:
    proof = report.proof
    return {
        "schema": SCHEMA,
        "version": __version__,
        "model": model_fields(report.model),
        "data": None if report.data is None else data_fields(report.data),
        "method": method_fields(report.method),
        "through_norm": report.through_norm,
        **({} if report.round_to is None else {"round_to": report.round_to}),
        **({} if report.repair is None else {"repair": asdict(report.repair)}),
        **({} if report.responses == PAPER else {"responses": report.responses.variants}),
        "layers": [_layer(layer) for layer in report.layers],
        "after": None if report.after is None else asdict(report.after),
        "proof": None if proof is None else _proof(proof),
        "warnings": list(report.warnings),
    }


def _proof(proof: Proof) -> dict[str, Any]:
    fields = asdict(proof) | {"outputs": dict(proof.outputs)}
    return {key: value for key, value in fields.items() if value is not None}


def model_fields(model: ModelInfo) -> dict[str, Any]:
    """Return what a report says of a model."""
    return {"path": model.path, "sha256": model.sha256, "opset": model.opset, **asdict(model.size)}


def data_fields(data: DataInfo) -> dict[str, Any]:
    """Return what a report says of the data."""
    return {
        "source": data.source,
        "samples": data.samples,
        "preprocess": words.preprocess(data),
        "provider": data.provider,
        "batch_size": data.batch_size,
        "skipped": [{"name": name, "reason": reason} for name, reason in data.skipped],
    }


def method_fields(method: Method) -> dict[str, Any]:
    """Return the numbers that belong to the method, and how channels were chosen when not by PFA."""
    keys = {"kl": (), "energy": ("tau",), "uniform": ("ratio",)}.get(method.name, ("target", "tau"))
    fields: dict[str, Any] = {"name": method.name} | {key: getattr(method, key) for key in keys}
    if method.select != "pfa":
        fields["select"] = method.select
    if method.select == "random":
        fields["seed"] = method.seed
    return fields | method.variants


def _layer(layer: LayerResult) -> dict[str, Any]:
    fields = {key: getattr(layer, key) for key in LayerResult.__dataclass_fields__}
    causes = [{"reason": cause.reason, "node": cause.node} for cause in layer.frozen]
    return fields | {"frozen": causes or None}


def _gain(repair: Repair) -> dict[str, Any]:
    return {"before": repair.before, "after": repair.after, "samples": repair.samples}


def _check(report: CheckReport) -> dict[str, Any]:
    latency = report.latency_ms
    return {
        "schema": SCHEMA,
        "version": __version__,
        "original": model_fields(report.original),
        "pruned": model_fields(report.pruned),
        "data": data_fields(report.data),
        "metrics": dict(report.metrics),
        "latency_ms": None if latency is None else {"original": latency[0], "pruned": latency[1]},
        "outputs": dict(report.outputs),
        "gates": [asdict(gate) for gate in report.gates],
        "changed": [asdict(item) for item in report.changed],
        "passed": report.passed,
        **({} if report.repair is None else {"repair": _gain(report.repair)}),
        "warnings": list(report.warnings),
    }
