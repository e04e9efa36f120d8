"""What a short training brings: after pruning, after pruning and repair, and from scratch; prints a Markdown table.

    python tests/benchmarks/evidence/finetune.py             # after train.py; results go to FOLDER/finetune.json

The pruned file is trained as a PyTorch module (`pfa_onnx.torch.load`). "trained": with labels, for two epochs at a
tenth of the original's rate; sliced as the paper does it, and repaired, with the channels that repair chooses.
"distilled": `pfa-onnx finetune` for two epochs over the training images, without labels. "scratch": the same smaller
network with weights drawn anew, at the original's rate, as short and for as many epochs as the original had. Seeds
draw the weights and order the images. All trainings start from the same files, so that their footprints are equal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dataset
import evaluate
import numpy as np
import tables
import torch
import train

import pfa_onnx
import pfa_onnx.torch

RECIPES = ("--kl", "--params 0.7", "--params 0.35")
DISTILLED = "repaired, distilled"
COLUMNS = (DISTILLED, "repaired, trained", "scratch, as short", "sliced, trained", "scratch, as long as the original")
EPOCHS = 2  # of a short training


def study(
    net: evaluate.Network, images: dataset.Images, unlabelled: Path, recipe: str, row: dict[str, Any], seed: int
) -> Iterator[str]:
    """Add what is missing for one seed; yields what it measured. row["accuracy"] holds a list for every column."""
    found: dict[str, list[float]] = row.setdefault("accuracy", {})
    missing = [column for column in COLUMNS if len(found.get(column, [])) == seed]
    if not missing:
        return
    method, rate = evaluate.RECIPES[recipe], train.RATE[net.name]
    files, report = _files(net, method, seed)
    assert report.after is not None
    row["params"] = report.after.params / net.whole[0]
    for start in ("sliced", "repaired"):
        found[start] = [net.accuracy(files[start])]
    for column in missing:
        start, _, how = column.partition(", ")
        if column == DISTILLED:
            score = _distilled(net, files[start], unlabelled, seed)
        else:
            epochs = train.EPOCHS[net.name] if how.startswith("as long") else EPOCHS
            score = _trained(net, files[start], images, epochs, rate if start == "scratch" else rate / 10, seed)
        found.setdefault(column, []).append(score)
        yield f"{column}, seed {seed}: {score:.4f}"


def _files(net: evaluate.Network, method: pfa_onnx.Method, seed: int) -> tuple[dict[str, Path], pfa_onnx.Report]:
    """Write what trainings start from."""
    files = {name: net.scratch / f"{net.name}.{name}.onnx" for name in ("sliced", "repaired", "scratch")}
    path, report = net.cut(method)
    path.replace(files["sliced"])
    path, _ = net.cut(replace(method, select="reconstruct"), repair=True)
    path.replace(files["repaired"])
    drawn = {"init": "scratch", "seed": seed + 1}
    pfa_onnx.prune(net.path, net.data, method, stats=net.stats, output=files["scratch"], **drawn)
    return files, report


def _trained(net: evaluate.Network, path: Path, images: dataset.Images, epochs: int, rate: float, seed: int) -> float:
    module = pfa_onnx.torch.load(path)
    train.train(
        module, images.train_x, images.train_y, epochs=epochs, rate=rate, seed=seed, flip=net.name != "tiny"
    )
    return train.accuracy(module, images.test_x, images.test_y)


def _distilled(net: evaluate.Network, path: Path, unlabelled: Path, seed: int) -> float:
    """Fine-tune as a user would, on images alone; the original is the teacher."""
    output = net.scratch / f"{net.name}.tuned.onnx"
    kinds = () if net.name == "tiny" else ("flip",)
    chosen = pfa_onnx.Training(epochs=EPOCHS, augment=kinds, held=0.02, precision="mixed", seed=seed)
    data = pfa_onnx.DataOptions(data=unlabelled, batch_size=train.BATCH)
    pfa_onnx.finetune(path, data, chosen, teacher=net.path, output=output)
    return net.accuracy(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; all of them by default")
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER)
    parser.add_argument("--dataset", type=Path, default=dataset.INSTALLED)
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="such as 'kl' or 'params 0.5'")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = dataset.digits() if options.names == ["tiny"] else dataset.fashion(options.dataset)
    path = options.folder / "finetune.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    recipes = [f"--{r.removeprefix('--')}" for r in options.recipes or RECIPES]
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-evidence-") as scratch:
        names = options.names or evaluate.NETWORKS
        nets = {n: evaluate.Network(n, options.folder, Path(scratch), threads=options.threads) for n in names}
        unlabelled = Path(scratch) / "unlabelled.npy"
        np.save(unlabelled, images.train_x)
        for seed, recipe, name in itertools.product(range(options.seeds), recipes, nets):
            row = rows.setdefault(f"{name} {recipe}", {"network": name, "recipe": recipe})
            for news in study(nets[name], images, unlabelled, recipe, row, seed):
                print(name, recipe, news, file=sys.stderr, flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    print(tables.training(rows))


if __name__ == "__main__":
    main()
