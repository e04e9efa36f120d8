"""What the scripts draw, as plain values: spectra, correlations, costs over the energy."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from pfa_onnx.report import numbers
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.report.words import flags
from pfa_onnx.results import LayerDetails, LayerResult, Report

POINTS = 128  # of a spectrum: more than a screen shows
GUIDE = 0.95  # the energy that is marked where the method has none


def of_layers(report: Report) -> list[dict[str, Any]]:
    """Return what there is to draw of each layer."""
    details = report.details.layers if report.details is not None else {}
    return [_layer(layer, details.get(layer.output), report) for layer in report.layers]


def _layer(layer: LayerResult, details: LayerDetails | None, report: Report) -> dict[str, Any]:
    shares = numbers.cumulative(layer.eigenvalues)
    last = len(shares) - 1
    picks = sorted({round(last * step / (POINTS - 1)) for step in range(POINTS)}) if shares else []
    tau = report.method.tau
    found: dict[str, Any] = {
        "points": [[pick + 1, round(shares[pick], 5)] for pick in picks],
        "channels": layer.channels,
        "keep": len(layer.keep),
        "tau": tau if tau is not None else GUIDE,
        "reached": numbers.channels_for(layer.eigenvalues, tau if tau is not None else GUIDE),
    }
    if details is not None:
        found |= {"kl": details.kl, "order": list(details.order)}
        if details.correlations is not None:
            cells = b64encode(details.correlations.cells).decode()
            found["matrix"] = {"side": details.correlations.side, "cells": cells}
    return found


def of_costs(report: Report) -> dict[str, Any]:
    """Return the curve of costs, and the point that was chosen; shares of the original."""
    if report.details is None:
        return {}
    whole = report.model.size
    curve = [
        [cost.tau, round(cost.params / max(whole.params, 1), 5), round(cost.macs / max(whole.macs, 1), 5)]
        for cost in report.details.costs
    ]
    found: dict[str, Any] = {"curve": curve, "tau": report.method.tau, "flags": flags(report.method, report.responses)}
    if report.after is not None:
        after = report.after
        found["chosen"] = [round(after.params / max(whole.params, 1), 5), round(after.macs / max(whole.macs, 1), 5)]
    return found


def cost_table(report: Report) -> Table:
    """Return the curve of costs, row by row."""
    assert report.details is not None
    whole = report.model.size
    rows = tuple(
        (
            f"{cost.tau:.4f}",
            numbers.count(cost.params),
            numbers.change(whole.params, cost.params),
            numbers.count(cost.macs),
            numbers.change(whole.macs, cost.macs),
        )
        for cost in report.details.costs
    )
    return Table(tuple(Column(title, right=True) for title in ("energy", "params", "change", "MACs", "change")), rows)
