"""evidence.json, domain.json and finetune.json of a folder as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TITLES = {"simplecnn": "SimpleCNN", "vgg": "VGG", "resnet20": "ResNet-20", "tiny": "tiny"}
NEAR = 0.02  # of the footprint: another pruner that is farther off is shown with its own
LOST = 0.005  # below this loss of accuracy there is nothing to recover

HEAD = """# What pruning costs, and what brings it back

Written by `python tests/benchmarks/evidence/evaluate.py --markdown FILE`; how, it says itself. Accuracies are those of
the test images, in per cent, straight after pruning but for the last part. "recovered" is the share of the accuracy lost by slicing that repair
brings back. Drawings: `plots.py --into FOLDER`; a dash was not measured. Other pruners leave as many parameters as the recipe in the same row; where they cannot, their own share stands in brackets."""


TRAINED = """Written by `finetune.py`. "trained": two epochs with labels at a tenth of the original's rate, of the sliced file as the paper does it and of the repaired
one; "distilled": `pfa-onnx finetune` for two epochs over the training images without labels; "scratch": the same smaller network with weights drawn anew, as short, and as
long as the original was trained. Means, and the farthest seed, where there are several."""


def markdown(folder: Path) -> str:
    """Return everything that was measured so far."""
    evidence, domain, tuned = (_read(folder / f"{name}.json") for name in ("evidence", "domain", "finetune"))
    parts = [HEAD]
    for name, net in evidence.items():
        parts += [
            f"## {TITLES.get(name, name)}",
            f"{net['params']:,} parameters, {net['macs'] / 1e6:.1f} M MACs, accuracy {_percent(net['accuracy'])} %.",
            f"![accuracy against footprint]({name}.svg)",
            own(net),
            "Other ways to choose the same number of channels in every layer, sliced → repaired:",
            selections(net),
        ]
    if domain:
        parts += ["## Another domain", "![another domain](domain.svg)", domains(domain)]
    if tuned:
        parts += ["## With training", TRAINED, "![with training](training.svg)", training(tuned)]
    return "\n\n".join(parts) + "\n"


def own(net: dict[str, Any]) -> str:
    """Return PFA with its own choice, against the other pruners at the same footprint."""
    rows = net["rows"]
    recipes = list(dict.fromkeys(row["recipe"] for row in rows.values()))
    rivals = list(dict.fromkeys(row["other"] for row in rows.values() if "other" in row))
    head = ["recipe", "parameters left", "MACs left", "PFA", "repaired", "recovered", *rivals]
    body = []
    for recipe in recipes:
        row = rows.get(f"{recipe}|pfa|0", {})
        if "params" not in row:
            continue
        before, after = row["accuracy"], row.get("repaired")
        compared = [_rival(rows.get(f"{recipe}|{rival}"), row["params"]) for rival in rivals]
        shares = [f"{_percent(row['params'])} %", f"{_percent(row['macs'])} %"]
        numbers = [_percent(before), _percent(after), _recovered(net["accuracy"], before, after)]
        body.append([f"`{recipe}`", *shares, *numbers, *compared])
    return table(head, body)


def selections(net: dict[str, Any]) -> str:
    """Return every recipe with every choice of channels."""
    rows = [row for row in net["rows"].values() if "select" in row]
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    selects = list(dict.fromkeys(row["select"] for row in rows))
    head = ["recipe", *(f"{name}, mean (best)" if name == "random" else name for name in selects)]
    body = []
    for recipe in recipes:
        cells = [f"`{recipe}`"]
        for select in selects:
            several = [r for r in rows if r["recipe"] == recipe and r["select"] == select and "accuracy" in r]
            cells.append(_arrow(several) if several else "-")
        body.append(cells)
    return table(head, body)


def domains(found: list[dict[str, Any]]) -> str:
    """Return what analysing a subset of the classes gives."""
    head = [
        "network", "classes", "recipe", "parameters left", "accuracy, whole", "sliced", "repaired",
        "as small, analysed on all classes: sliced", "repaired",
    ]  # fmt: skip
    body = [
        [
            TITLES.get(row["network"], row["network"]), row["classes"], f"`{row['recipe']}`", f"{_percent(row['params'])} %",
            *(_percent(row.get(key)) for key in ("whole", "sliced", "repaired", "other sliced", "other repaired")),
        ]
        for row in found
    ]  # fmt: skip
    return table(head, body)


def training(found: dict[str, Any]) -> str:
    """Return what a short training does to pruned networks, and to new ones of their shape: means, and the seeds."""
    columns = list(dict.fromkeys(key for row in found.values() for key in row["accuracy"]))
    head = ["network", "recipe", "parameters left", *columns]
    body = [
        [
            TITLES.get(row["network"], row["network"]), f"`{row['recipe']}`", f"{_percent(row['params'])} %",
            *(_mean(row["accuracy"].get(key, [])) for key in columns),
        ]
        for row in found.values()
    ]  # fmt: skip
    return table(head, body)


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _mean(values: list[float]) -> str:
    """Return the mean, and of several how far the farthest is from it."""
    if len(values) < 2:
        return _percent(*values) if values else "-"
    mean = sum(values) / len(values)
    return f"{_percent(mean)} ± {_percent(max(abs(value - mean) for value in values))}"


def _recovered(whole: float, before: float, after: float | None) -> str:
    if after is None or whole - before < LOST:
        return "-"
    return f"{100 * (after - before) / (whole - before):.0f} %"


def _rival(row: dict[str, Any] | None, footprint: float) -> str:
    if not row or "accuracy" not in row:
        return "fails" if row else "-"
    off = abs(row["params"] / footprint - 1) > NEAR
    return _percent(row["accuracy"]) + (f" ({_percent(row['params'])} % left)" if off else "")


def _arrow(several: list[dict[str, Any]]) -> str:
    """Return "before → after"; of several the mean, and the best in brackets."""
    parts = []
    for key in ("accuracy", "repaired"):
        values = [row[key] for row in several if key in row]
        if values:
            best = f" ({_percent(max(values))})" if len(values) > 1 else ""
            parts.append(_percent(sum(values) / len(values)) + best)
    return " → ".join(parts)
