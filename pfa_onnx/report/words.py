"""The sentences of a report: what was read, how much stays, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pfa_onnx.recipe import Method, Proof, Size
from pfa_onnx.report import numbers
from pfa_onnx.responses import PAPER, Responses
from pfa_onnx.results import CheckReport, DataInfo, Gate, ModelInfo, Repair, Report

# a gate's name without its prefix -> the metric it looks at
METRIC_OF = {
    "agreement": "agreement",
    "cosine": "cosine_min",
    "params": "params_ratio",
    "macs": "macs_ratio",
    "latency": "latency_ratio",
}
METRICS = {
    "agreement": "agreement (top-1)",
    "cosine_min": "cosine (worst)",
    "cosine_mean": "cosine (mean)",
    "max_abs_error": "largest error",
    "params_ratio": "params ratio",
    "macs_ratio": "MACs ratio",
    "bytes_ratio": "bytes ratio",
    "latency_ratio": "latency ratio",
    "accuracy_original": "accuracy, original",
    "accuracy_pruned": "accuracy, pruned",
}


def clean(name: str) -> str:
    """Return a name that cannot break a line or steer a terminal: control characters are written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def flags(method: Method, responses: Responses = PAPER) -> str:
    """Return the method as it is typed on the command line, with what was measured otherwise than in the paper."""
    value = {"energy": method.tau, "uniform": method.ratio}.get(method.name, method.target)
    typed = f"--{method.name}" if method.name == "kl" or value is None else f"--{method.name} {value:g}"
    chosen = {} if method.select == "pfa" else {"select": method.select}
    measured = {name: value for name, value in responses.variants.items() if name in {"pool", "tap"}}
    return " ".join([typed, *(f"--{name} {value}" for name, value in (chosen | method.variants | measured).items())])


def model_line(model: ModelInfo, between: str = "   ") -> str:
    """Return the model's name and what it costs."""
    return between.join([clean(model.path), f"opset {model.opset}", *costs(model.size)])


def costs(size: Size) -> list[str]:
    """Return the three costs of a model."""
    return [f"{numbers.count(size.params)} params", f"{numbers.count(size.macs)} MACs", numbers.size(size.bytes)]


def data_line(data: DataInfo, between: str = "   ") -> str:
    """Return where the samples came from and how they ran."""
    parts = [f"{data.samples:,} samples from {clean(data.source)}"]
    if data.skipped:
        parts[0] += f" ({len(data.skipped)} skipped)"
    settings = preprocess(data)
    if "name" in settings:
        parts.append(f"preprocess {clean(str(settings['name']))}")
    if settings.get("size"):
        shape = [settings.get("channels"), *settings["size"]]
        parts.append("input " + "x".join(str(extent) for extent in shape if extent is not None))
    parts.append(data.provider)
    if data.batch_size:
        parts.append(f"batch {data.batch_size}")
    return between.join(parts)


def preprocess(data: DataInfo) -> Mapping[str, Any]:
    """Return the settings themselves; a data set describes them together with its source."""
    inner = data.preprocess.get("preprocess", data.preprocess)
    return inner if isinstance(inner, Mapping) else {}


def kept(report: Report) -> str:
    """Return how many channels stay, in one sentence."""
    share = numbers.change(report.channels, report.kept)
    typed = flags(report.method, report.responses)
    found = report.method.name in ("params", "macs", "latency") and report.method.tau is not None
    tau = f" (energy {report.method.tau:.5g})" if found else ""
    return f"{typed}{tau} keeps {report.kept:,} of {report.channels:,} channels ({share}){_widths(report)}"


def _widths(report: Report) -> str:
    """Return the multiple of channels that was measured, if it was."""
    return "" if report.round_to is None else f", in multiples of {report.round_to}: the fastest here"


def becomes(report: Report) -> str | None:
    """Return what the model would cost, and the change."""
    if report.after is None:
        return None
    before, after = report.model.size, report.after
    pairs = ((before.params, after.params), (before.macs, after.macs), (before.bytes, after.bytes))
    return "   ".join(f"{text} ({numbers.change(*pair)})" for text, pair in zip(costs(after), pairs, strict=True))


def tally(report: Report) -> str:
    """Return how many layers were pruned, had nothing to lose, or were not allowed to."""
    pruned = sum(len(layer.keep) < layer.channels for layer in report.layers)
    frozen = sum(len(layer.keep) == layer.channels and bool(layer.frozen) for layer in report.layers)
    rest = len(report.layers) - pruned - frozen
    parts = [f"{pruned} layer{'s' * (pruned != 1)} pruned", f"{frozen} frozen"]
    return ", ".join(parts + [f"{rest} unchanged"] * bool(rest)) + _widths(report)


def proof(report: Report) -> str:
    """Return what was proven; silence would look like a proof."""
    drawn = "" if report.redrawn is None else f"; after that, all weights were drawn anew (seed {report.redrawn})"
    found = report.proof
    if found is None:
        return f"proof: none; nothing was proven{drawn}"
    outcome = "equals the masked original" if found.passed else "FAILED, differs from the masked original"
    if report.through_norm:
        outcome += ", normalised over its kept channels only,"
    inputs = f"on {found.samples:,} input{'s' * (found.samples != 1)}"
    return f"proof: {outcome} {inputs}, largest relative error {found.max_relative_error:.1e}{_around(found)}{drawn}"


def repair(found: Repair) -> str:
    """Say what repair gained, on samples that it did not learn from."""
    solved = sum(layer.how != "nothing" for layer in found.layers)
    if not found.layers:
        return "repair: nothing to solve: weights that read removed channels are quantised, computed or shared"
    change = f"outputs {found.before:.3g} -> {found.after:.3g} of their variance away from the original's"
    if not found.applied:
        return f"repair: left out, {change} on held-back samples"
    return f"repair: {solved} of {len(found.layers)} layers solved anew; {change} on held-back samples"


def _around(found: Proof) -> str:
    """Return what the error was held against, if that was measured."""
    if found.before_choices is not None:
        return f" (candidates that are all but equal changed places; what is chosen by: {found.before_choices:.1e})"
    if found.limit is None:
        return ""
    limit = f" (its quantised activations round: limit {found.limit:.1e}, measured on changes of one in a million"
    return f"{limit})" if found.without_rounding is None else f"{limit}; {found.without_rounding:.1e} without rounding)"


# --- check ---


def metric_of(gate: Gate) -> str:
    """Return the metric that a gate looks at, whether it is called min_agreement or agreement."""
    name = gate.name.removeprefix("min_").removeprefix("max_")
    return METRIC_OF.get(name, name)


def is_minimum(gate: Gate) -> bool:
    """Whether the gate is a lower bound."""
    return gate.name.startswith("min_") or metric_of(gate) in ("agreement", "cosine_min")


def broken(gate: Gate) -> str:
    """Return why a gate does not hold."""
    name = METRICS.get(metric_of(gate), metric_of(gate))
    if gate.value is None:
        return f"{name} cannot be measured here"
    value, limit = numbers.against(gate.value, gate.limit)
    return f"{name} {value} is {'below' if is_minimum(gate) else 'above'} {limit}"


def verdict(report: CheckReport) -> str:
    """Return the answer: PASSED or FAILED, and why."""
    failed = [broken(gate) for gate in report.gates if not gate.passed]
    if failed:
        return f"FAILED: {'; '.join(failed)}"
    number = len(report.gates)
    return f"PASSED: {number} limit{'s hold' if number != 1 else ' holds'}" if number else "PASSED: no limit was set"


def accuracy(report: CheckReport) -> str | None:
    """Return the accuracy before and after, where there are labels."""
    before, after = report.metrics.get("accuracy_original"), report.metrics.get("accuracy_pruned")
    if before is None or after is None:
        return None
    return f"accuracy {before:.5f} -> {after:.5f} ({after - before:+.5f})"
