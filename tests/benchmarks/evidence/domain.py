"""Section 4.7 of the paper: one network, analysed on images of some classes only; prints a Markdown table.

    python tests/benchmarks/evidence/domain.py               # after train.py; results go to FOLDER/domain.json

Targets are four pairs of classes, two sets of five, and all ten. The calibration images are those training images that
show a target's classes (at most 5,000). Accuracy is measured on the test images of these classes, among these classes:
nothing is trained, so that the network still has ten outputs. The last columns are of a network that was cut to as many
parameters with images of all classes: what knowing the target is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dataset
import evaluate
import numpy as np
import tables

from pfa_onnx import pipeline
from pfa_onnx.errors import PfaError
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Method

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TARGETS = ((1, 8), (3, 7), (2, 4), (0, 6), (0, 1, 3, 5, 8), (2, 4, 6, 7, 9), tuple(range(10)))
RECIPES = ("--kl", "--energy 0.95")


def study(net: evaluate.Network, images: dataset.Images, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield one row for each target and recipe."""
    for target in TARGETS:
        shown = np.flatnonzero(np.isin(images.train_y, target))
        chosen = np.sort(np.random.default_rng(0).permutation(shown)[: dataset.CALIBRATION])
        data = scratch / "target.npy"
        np.save(data, images.train_x[chosen])
        at = np.isin(images.test_y, target)
        tested = images.test_x[at], images.test_y[at]
        whole = evaluate.accuracy(net.path, *tested, among=target)
        classes = "all ten" if len(target) == 10 else ", ".join(CLASSES[k] for k in target)
        for recipe in RECIPES:
            row: dict[str, Any] = {"network": net.name, "classes": classes, "recipe": recipe, "whole": whole}
            for prefix, given, method in _variants(net, data, evaluate.RECIPES[recipe], row, all_ten=len(target) == 10):
                for key, repair in (("sliced", False), ("repaired", True)):
                    if repair and not evaluate.REPAIRS:
                        continue
                    found = _cut(net, given, method, scratch, repair=repair)
                    if found is None:
                        continue
                    path, report = found
                    row[f"{prefix}{key}"] = evaluate.accuracy(path, *tested, among=target)
                    if not prefix and not repair:
                        row["params"] = report.after.params / net.whole[0]
                        row["macs"] = report.after.macs / net.whole[1]
                        row["kept"] = {layer.output: len(layer.keep) for layer in report.layers}
            if "params" in row:
                yield row


def _variants(
    net: evaluate.Network, data: Path, method: Method, row: dict[str, Any], *, all_ten: bool
) -> Iterator[tuple[str, DataOptions, Method]]:
    """Yield the cut for the target, then, as small as it has become, the one for all classes."""
    yield "", DataOptions(data=data), method
    if not all_ten and "params" in row:
        yield "other ", net.data, Method("params", target=row["params"])


def _cut(net: evaluate.Network, data: DataOptions, method: Method, scratch: Path, *, repair: bool) -> Any:
    output = scratch / "domain.onnx"
    more: dict[str, Any] = {"repair": True} if repair else {}
    stats = {"stats": net.stats} if data is net.data else {}
    try:
        return output, pipeline.prune(net.path, data, method, output=output, **stats, **more)
    except PfaError as error:
        print(net.name, method.name, "repair" if repair else "", error, file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; VGG, as in the paper, by default")
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER)
    parser.add_argument("--dataset", type=Path, default=dataset.INSTALLED)
    options = parser.parse_args()
    images, found = dataset.fashion(options.dataset), []
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-evidence-") as scratch:
        for name in options.names or ["vgg"]:
            net = evaluate.Network(name, options.folder, Path(scratch))
            for row in study(net, images, Path(scratch)):
                found.append(row)
                print(name, row["classes"], row["recipe"], f"{row['params']:.4f}", file=sys.stderr, flush=True)
    (options.folder / "domain.json").write_text(json.dumps(found, indent=1) + "\n")
    print(tables.domains(found))


if __name__ == "__main__":
    main()
