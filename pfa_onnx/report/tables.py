"""The tables of a report, as rows of text: terminal, Markdown and HTML all show these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pfa_onnx.inspection import InspectedLayer, Inspection
from pfa_onnx.recipe import Size
from pfa_onnx.report import numbers, words
from pfa_onnx.results import CheckReport, Gate, LayerResult, Repair, Report

AnyLayer = TypeVar("AnyLayer", LayerResult, InspectedLayer)


@dataclass(frozen=True)
class Column:
    """A column: numbers stand right; a name may be shortened in the middle; a wrapped text is continued below.

    spare: it may be left out on a narrow terminal.
    """

    title: str
    right: bool = False
    name: bool = False
    wrap: bool = False
    spare: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text; more: how many rows were left out."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


def _numbers(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, right=True) for title in titles)


# --- analyze ---


def name_of(layer: LayerResult) -> str:
    """Return what a layer is called: its node, or its output where the node has no name."""
    return words.clean(layer.node or layer.output)


def blocks(report: Report) -> list[tuple[LayerResult, ...]]:
    """Return the layers that share channels, together, in the order of the graph."""
    return grouped(report.layers)


def grouped(layers: Iterable[AnyLayer]) -> list[tuple[AnyLayer, ...]]:
    """Return layers that share channels together, in the order of the graph."""
    found: dict[tuple[str, int | str], list[AnyLayer]] = defaultdict(list)
    for layer in layers:
        key = ("alone", layer.output) if layer.group is None else ("group", layer.group)
        found[key].append(layer)
    return [tuple(layers) for layers in found.values()]


def group_table(report: Report, limit: int | None = None) -> Table:
    """Return a row for each group: the `limit` groups that shrink most, in the order of the graph."""
    groups = blocks(report)
    chosen = range(len(groups))
    if limit is not None and len(groups) > limit:
        by_loss = sorted(chosen, key=lambda index: (-_removed(groups[index]), index))
        groups, more = [groups[index] for index in sorted(by_loss[:limit])], len(groups) - limit
    else:
        more = 0
    columns = (
        Column("group", name=True),
        *_numbers("layers", "channels", "asked", "keep"),
        Column("spread", right=True, spare=True),
        Column("energy", spare=True),
    )
    return Table(columns, tuple(_group_row(layers) for layers in groups), more)


def _group_row(layers: tuple[LayerResult, ...]) -> tuple[str, ...]:
    # the layer that asks for most decides what its group keeps, so its spectrum is the one to show
    decides = max(layers, key=lambda layer: (layer.asked / max(layer.channels, 1), layer.gamma == layer.gamma))
    return (
        name_of(layers[0]),
        str(len(layers)),
        numbers.span(layer.channels for layer in layers),
        numbers.span(layer.asked for layer in layers),
        _keep(layers),
        numbers.fraction(decides.gamma if decides.eigenvalues else None),
        numbers.bar(decides.eigenvalues),
    )


def _keep(layers: Iterable[LayerResult]) -> str:
    """Return what stays, with a star where channels had to stay."""
    members = tuple(layers)
    star = "*" if any(layer.held for layer in members) else ""
    return star + numbers.span(len(layer.keep) for layer in members)


def _removed(layers: Iterable[LayerResult]) -> float:
    return sum(layer.weight_params * (1 - len(layer.keep) / max(layer.channels, 1)) for layer in layers)


def layer_table(report: Report) -> Table:
    """Return a row for each layer, with all there is to know."""
    columns = (
        Column("layer", name=True),
        Column("op"),
        *_numbers("group", "channels", "asked", "keep", "held", "samples", "spread", "95 %"),
        Column("energy"),
    )
    return Table(columns, tuple(_layer_row(layer) for layer in report.layers))


def _layer_row(layer: LayerResult) -> tuple[str, ...]:
    enough = numbers.channels_for(layer.eigenvalues, 0.95)
    return (
        name_of(layer),
        words.clean(layer.op),
        "-" if layer.group is None else str(layer.group),
        f"{layer.channels:,}",
        f"{layer.asked:,}",
        _keep((layer,)),
        f"{layer.held:,}",
        f"{layer.samples:,}",
        numbers.fraction(layer.gamma if layer.eigenvalues else None),
        "-" if enough is None else f"{enough:,}",
        numbers.bar(layer.eigenvalues),
    )


def frozen_table(report: Report | Inspection, limit: int | None = None) -> Table:
    """Return a row for each root cause that holds channels back: the largest first."""
    held: dict[tuple[str, str], list[LayerResult | InspectedLayer]] = defaultdict(list)
    for layer in report.layers:
        for cause in layer.frozen if layer.held else ():
            held[cause.reason, cause.node].append(layer)
    found = [(_held_params(layers), sum(layer.held for layer in layers), cause) for cause, layers in held.items()]
    found.sort(key=lambda row: (-row[0], -row[1], row[2]))
    rows = tuple(
        (words.clean(node), str(len(held[reason, node])), f"{channels:,}", numbers.count(params), words.clean(reason))
        for params, channels, (reason, node) in found
    )
    columns = (
        Column("* frozen by", name=True),
        Column("layers", right=True, spare=True),
        *_numbers("channels", "params"),
        Column("reason", wrap=True),
    )
    shown = rows if limit is None else rows[:limit]
    return Table(columns, shown, len(rows) - len(shown))


def _held_params(layers: Iterable[LayerResult | InspectedLayer]) -> int:
    return round(sum(layer.weight_params * layer.held / max(layer.channels, 1) for layer in layers))


# --- prune ---


def size_table(report: Report) -> Table:
    """Return what the model was and became."""
    rows = [("channels", f"{report.channels:,}", f"{report.kept:,}", numbers.change(report.channels, report.kept))]
    if report.after is not None:
        rows += _cost_rows(report.model.size, report.after)
    return Table((Column(""), *_numbers("before", "after", "change")), tuple(rows))


def _cost_rows(before: Size, after: Size) -> list[tuple[str, str, str, str]]:
    named = (
        ("params", numbers.count, before.params, after.params),
        ("MACs", numbers.count, before.macs, after.macs),
        ("file", numbers.size, before.bytes, after.bytes),
    )
    return [(name, show(old), show(new), numbers.change(old, new)) for name, show, old, new in named]


# --- check ---


def compared_table(report: CheckReport) -> Table:
    """Return what both models cost."""
    rows = _cost_rows(report.original.size, report.pruned.size)
    if report.latency_ms is not None:
        old, new = report.latency_ms
        # the ratio of the paired runs: that of two medians is at the mercy of what else the machine did
        ratio = report.metrics.get("latency_ratio") or new / old
        rows.append(("latency", numbers.milliseconds(old), numbers.milliseconds(new), numbers.change(1, ratio)))
    return Table((Column(""), *_numbers("original", "pruned", "change")), tuple(rows))


def metric_table(report: CheckReport) -> Table:
    """Return a row for each metric that could be measured or is limited, with its limit and whether it holds."""
    gates = {words.metric_of(gate): gate for gate in report.gates}
    order = [*words.METRICS, *sorted({*report.metrics, *gates} - set(words.METRICS))]
    rows = []
    for name in order:
        value, gate = report.metrics.get(name), gates.get(name)
        if gate is not None:
            rows.append((words.METRICS.get(name, name), *_gate_cells(gate)))
        elif value is not None and not name.startswith("accuracy"):
            rows.append((words.METRICS.get(name, name), _metric(name, value), "-", ""))
    return Table((Column("metric"), *_numbers("value", "limit"), Column("")), tuple(rows))


def _metric(name: str, value: float) -> str:
    return f"{value:.3g}" if name == "max_abs_error" else numbers.fraction(value, 5)


def _gate_cells(gate: Gate) -> tuple[str, str, str]:
    value, limit = ("-", f"{gate.limit:.5f}") if gate.value is None else numbers.against(gate.value, gate.limit)
    return value, f"{'>=' if words.is_minimum(gate) else '<='} {limit}", "ok" if gate.passed else "FAIL"


def repair_table(repair: Repair) -> Table:
    """Return a row for each layer that repair looked at."""
    columns = (Column("repaired", name=True), *_numbers("error before", "after"), Column("by"))
    rows = (
        (words.clean(layer.node or layer.output), f"{layer.before:.4f}", f"{layer.after:.4f}", layer.how)
        for layer in repair.layers
    )
    return Table(columns, tuple(rows))


def output_table(report: CheckReport) -> Table:
    """Return a row for each output of the models."""
    columns = (
        Column("output", name=True),
        *_numbers("agreement", "cosine", "largest error"),
        Column("note", wrap=True),
    )
    rows = []
    for name, found in report.outputs.items():
        error = found.get("max_abs_error")
        rows.append(
            (
                words.clean(name),
                numbers.fraction(found.get("agreement"), 5),
                numbers.fraction(found.get("cosine_min"), 5),
                "-" if error is None else f"{error:.3g}",
                words.clean(str(found.get("note") or "")),
            )
        )
    return Table(columns, tuple(rows))


def changed_table(report: CheckReport, limit: int | None = None) -> Table:
    """Return the samples whose predicted class changed."""
    shown = report.changed if limit is None else report.changed[:limit]
    rows = tuple((words.clean(item.name), str(item.before), str(item.after)) for item in shown)
    columns = (Column("changed", name=True), *_numbers("original", "pruned"))
    return Table(columns, rows, len(report.changed) - len(shown))
