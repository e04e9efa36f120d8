"""Accuracy against footprint, as the paper's figures 1 and 2 draw it, and other domains, as figure 3 does; as SVG.

    pip install matplotlib
    python tests/benchmarks/evidence/plots.py                # FOLDER/NAME.svg, domain.svg, training.svg

Footprints: left straight after slicing, right after repair; the change of accuracy is in percentage points. Domains:
left the accuracy on the target's classes, with what is left of the parameters; right the channels that PFA-KL keeps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import dataset
import matplotlib as mpl
from matplotlib import pyplot as plt
from tables import TITLES

mpl.use("Agg")
mpl.rcParams |= {
    "svg.hashsalt": "pfa-onnx",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
STYLES = {"pfa": ("tab:red", "o"), "random": ("0.5", "x")}
COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:brown", "tab:cyan", "tab:olive")


def draw(name: str, net: dict[str, Any], path: Path) -> None:
    """Draw one network."""
    rows = list(net["rows"].values())
    keys = [key for key in ("accuracy", "repaired") if any(key in row for row in rows)]
    figure, axes = plt.subplots(1, len(keys), figsize=(3.8 * len(keys) + 2, 3.2), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        _lines(axis, rows, key, net["accuracy"])
        axis.axhline(0, color="0.4", linestyle="--", linewidth=0.8)
        axis.set_title(f"{TITLES.get(name, name)}, {'sliced' if key == 'accuracy' else 'repaired'}")
        axis.set_xlabel("parameters left, %")
    axes[0][0].set_ylabel("accuracy change, points")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=6, loc="center right")
    figure.tight_layout(rect=(0, 0, 1 - 1.7 / figure.get_figwidth(), 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _lines(axis: Any, rows: list[dict[str, Any]], key: str, whole: float) -> None:
    """Draw a line for each choice of channels over the recipes of PFA-En, and PFA-KL and --uniform as single marks."""
    names = list(dict.fromkeys(row.get("other") or row["select"] for row in rows))
    colours = iter(COLOURS * 2)
    for name in names:
        other = any(row.get("other") == name for row in rows)
        colour, marker = STYLES.get(name) or (next(colours), "s" if other else ".")
        means: dict[str, tuple[float, float]] = {}
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            several = [
                r for r in rows if (r.get("other") or r["select"]) == name and r["recipe"] == recipe and key in r
            ]
            if several:
                change = sum(r[key] for r in several) / len(several) - whole
                means[recipe] = (100 * several[0]["params"], 100 * change)
        line = sorted(point for recipe, point in means.items() if recipe.startswith(("--energy", "--params")))
        if line:
            dashes = "--" if other else "-"
            axis.plot(
                *zip(*line, strict=True), dashes, color=colour, marker=marker, markersize=3, linewidth=1, label=name
            )
        for recipe, single in (("--kl", "^"), ("--uniform 0.5", "v")):
            if recipe in means and name in STYLES:
                axis.plot(*means[recipe], color=colour, marker=single, linestyle="", label=f"{name}, {recipe}")


def draw_domain(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw what PFA-KL makes of the first network for every target."""
    rows = [row for row in rows if row["recipe"] == "--kl" and row["network"] == rows[0]["network"]]
    keys = {"whole": "whole", "sliced": "sliced", "repaired": "repaired", "other repaired": "all classes, repaired"}
    keys = {key: name for key, name in keys.items() if any(key in row for row in rows)}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for k, (key, name) in enumerate(keys.items()):
        at = [n + 0.8 * k / len(keys) for n in range(len(rows))]
        axes[0].bar(at, [100 * row.get(key, 0) for row in rows], 0.8 / len(keys), align="edge", label=name)
    labels = [f"{row['classes'].replace(', ', chr(10))}\n{100 * row['params']:.0f} %" for row in rows]
    axes[0].set_xticks([n + 0.4 for n in range(len(rows))], labels, fontsize=5)
    axes[0].set_ylabel("accuracy, %")
    axes[0].set_ylim(0, 115)
    axes[0].legend(fontsize=6, loc="upper center", ncols=4)
    for row in rows:
        axes[1].plot(range(1, len(row["kept"]) + 1), list(row["kept"].values()), marker=".", label=row["classes"])
    axes[1].set_xlabel("layer")
    axes[1].set_ylabel("channels kept")
    axes[1].legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_training(rows: dict[str, dict[str, Any]], whole: dict[str, float], path: Path) -> None:
    """Draw the change of accuracy after training against the footprint, a line for each way to get there."""
    names = list(dict.fromkeys(row["network"] for row in rows.values()))
    columns = list(dict.fromkeys(key for row in rows.values() for key in row["accuracy"] if ", " in key))
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names) + 2, 3.0), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for column, colour in zip(columns, COLOURS, strict=False):
            found = sorted(
                (100 * row["params"], 100 * (sum(values) / len(values) - whole[name]))
                for row in rows.values()
                if row["network"] == name and (values := row["accuracy"].get(column))
            )
            if found:
                dashes = "--" if column.startswith("scratch") else "-"
                axis.plot(*zip(*found, strict=True), dashes, color=colour, marker=".", linewidth=1, label=column)
        axis.axhline(0, color="0.4", linestyle=":", linewidth=0.8)
        axis.set_title(TITLES.get(name, name))
        axis.set_xlabel("parameters left, %")
    axes[0][0].set_ylabel("accuracy change, points")
    handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=6, loc="center right")
    figure.tight_layout(rect=(0, 0, 1 - 1.9 / figure.get_figwidth(), 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER, help="where evidence.json lies")
    parser.add_argument("--into", type=Path, help="a folder for the drawings; the same by default")
    options = parser.parse_args()
    evidence = json.loads((options.folder / "evidence.json").read_text())
    for name, net in evidence.items():
        path = (options.into or options.folder) / f"{name}.svg"
        draw(name, net, path)
        print(path)
    if (options.folder / "domain.json").exists():
        path = (options.into or options.folder) / "domain.svg"
        draw_domain(json.loads((options.folder / "domain.json").read_text()), path)
        print(path)
    if (options.folder / "finetune.json").exists():
        path = (options.into or options.folder) / "training.svg"
        whole = {name: net["accuracy"] for name, net in evidence.items()}
        draw_training(json.loads((options.folder / "finetune.json").read_text()), whole, path)
        print(path)


if __name__ == "__main__":
    main()
