"""Accuracy straight after pruning, nothing trained: PFA's recipes, other selections, repair, other pruners.

    pip install torch onnx onnxscript scikit-learn onnxsim==0.8.1 torch-pruning==1.6.1
    python tests/benchmarks/evidence/train.py                       # once: networks and images
    python tests/benchmarks/evidence/evaluate.py                    # tables; results go to FOLDER/evidence.json
    python tests/benchmarks/evidence/evaluate.py --markdown tests/benchmarks/evidence/RESULTS.md
    python tests/benchmarks/evidence/evaluate.py --quick            # digits and a tiny network, under a minute

Every network is analysed on 5,000 training images without their labels; accuracy is measured by onnxruntime on the
test images. Recipes are PFA-KL, PFA-En at the paper's energies, three shares of the parameters, and half of every
layer. Each is combined with every way to choose channels that there is; of random choices the mean and the best. The
other pruners are tuned to the footprint that each recipe has with PFA's choice. What evidence.json holds already
is not run again; delete it, or --fresh, after a change of pfa_onnx.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import dataset
import numpy as np
import onnxruntime as ort
import others
import tables

from pfa_onnx import pipeline
from pfa_onnx.errors import PfaError
from pfa_onnx.graph.cost import parameters
from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Method, Select
from pfa_onnx.results import Report
from pfa_onnx.steps.measure import describe_model, learn_shapes

NETWORKS = ("simplecnn", "vgg", "resnet20")
RECIPES = {
    "--kl": Method("kl"),
    **{f"--energy {tau:g}": Method("energy", tau=tau) for tau in (0.8, 0.85, 0.9, 0.95, 0.98, 0.99)},
    **{f"--params {target:g}": Method("params", target=target) for target in (0.7, 0.5, 0.35)},
    "--uniform 0.5": Method("uniform", ratio=0.5),
}
QUICK = ("--kl", "--energy 0.95", "--params 0.5", "--uniform 0.5")
SELECTS: tuple[str, ...] = get_args(Select)
REPAIRS = "repair" in inspect.signature(pipeline.prune).parameters


class Network:
    """One trained network in a folder: its file, its statistics, its test images."""

    def __init__(self, name: str, folder: Path, scratch: Path, *, threads: int = 1) -> None:
        self.name, self.path, self.scratch, self.threads = name, folder / f"{name}.onnx", scratch, threads
        if not self.path.exists():
            raise SystemExit(f"{self.path}: no such file; run train.py first")
        self.data = DataOptions(data=folder / "calibration.npy")
        self.stats = scratch / f"{name}.stats.npz"
        self._stats: dict[str, Path] = {}
        self.images = np.load(folder / "test_x.npy")
        self.labels = np.load(folder / "test_y.npy")
        pipeline.analyze(self.path, self.data, save_stats=self.stats)
        self.whole = self.size(self.path)

    def cut(self, method: Method, *, repair: bool = False) -> tuple[Path, Report]:
        """Prune with statistics at hand; repair runs both models over the data."""
        output = self.scratch / f"{self.name}.cut.onnx"
        more: dict[str, Any] = {"repair": True} if repair else {}
        stats = self._measured_for(method.select)
        return output, pipeline.prune(self.path, self.data, method, output=output, stats=stats, **more)

    def _measured_for(self, select: str) -> Path:
        """Return statistics that this choice of channels can be made by: some ask for more than all others."""
        if select not in self._stats:
            method = Method("kl", select=select)
            try:
                pipeline.analyze(self.path, self.data, method, stats=self.stats)
                self._stats[select] = self.stats
            except PfaError:
                self._stats[select] = self.scratch / f"{self.name}.{select}.npz"
                pipeline.analyze(self.path, self.data, method, save_stats=self._stats[select])
        return self._stats[select]

    def accuracy(self, path: Path) -> float:
        """Return the share of test images that a model gives their label."""
        return accuracy(path, self.images, self.labels, threads=self.threads)

    def params(self, path: Path) -> int:
        """Count the parameters of a model."""
        return parameters(load(path))

    def size(self, path: Path) -> tuple[int, int]:
        """Count parameters and multiply-accumulates."""
        graph = load(path)
        size = describe_model(graph, *learn_shapes(graph, {graph.inputs[0].name: self.images[:2]})).size
        return size.params, size.macs


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray, *, threads: int = 1, among: Any = None) -> float:
    """Return the share of images that a model gives their label; among: only these classes are asked for."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    answers = np.concatenate([session.run(None, {name: images[k : k + 500]})[0] for k in range(0, len(images), 500)])
    classes = np.arange(answers.shape[1]) if among is None else np.asarray(among)
    return float((classes[answers[:, classes].argmax(1)] == labels).mean())


# --- one network --------------------------------------------------------------------------------------------


def evaluate(
    net: Network, found: dict[str, Any], recipes: list[str], selects: Sequence[str], seeds: int
) -> Iterator[dict[str, Any]]:
    """Add what is missing of one network's rows; yields each new one."""
    found.setdefault("params", net.whole[0])
    found.setdefault("macs", net.whole[1])
    if "accuracy" not in found:
        found["accuracy"] = net.accuracy(net.path)
    rows = found.setdefault("rows", {})
    for recipe in recipes:
        for select in selects:
            for seed in range(seeds if select == "random" else 1):
                method = replace(RECIPES[recipe], select=select, seed=seed)
                row = rows.setdefault(f"{recipe}|{select}|{seed}", {"recipe": recipe, "select": select, "seed": seed})
                if _fill(net, method, row):
                    yield row
    tuned = {name: others.Tuned(name, net.path, net.scratch, net.params) for name in others.installed()}
    for recipe in recipes:
        footprint = rows[f"{recipe}|pfa|0"].get("params")
        for name, pruner in tuned.items():
            key = f"{recipe}|{name}"
            if key not in rows and footprint is not None:
                rows[key] = {"recipe": recipe, "other": name} | _other(net, pruner, footprint)
                yield rows[key]


def _fill(net: Network, method: Method, row: dict[str, Any]) -> bool:
    """Measure what a row lacks; say whether it lacked anything."""
    new = False
    for key, repair in (("accuracy", False), ("repaired", True)):
        if key in row or f"{key} error" in row or (repair and not REPAIRS):
            continue
        new = True
        clock = time.perf_counter()
        try:
            path, report = net.cut(method, repair=repair)
        except PfaError as error:
            row[f"{key} error"] = " ".join(str(error).split())[:160]
            continue
        row["repair seconds" if repair else "seconds"] = round(time.perf_counter() - clock, 2)
        row[key] = net.accuracy(path)
        if not repair:
            assert report.after is not None
            row["params"], row["macs"] = report.after.params / net.whole[0], report.after.macs / net.whole[1]
            row["kept"] = {layer.output: len(layer.keep) for layer in report.layers}
    return new


def _other(net: Network, pruner: others.Tuned, footprint: float) -> dict[str, Any]:
    made = pruner.at(footprint)
    if made is None:
        return {"accuracy error": "makes no model"}
    path, left = made
    return {"params": left, "macs": net.size(path)[1] / net.whole[1], "accuracy": net.accuracy(path)}


# --- the command --------------------------------------------------------------------------------------------


def quick(folder: Path) -> None:
    """Train the tiny network on digits."""
    import torch
    import train

    torch.set_num_threads(1)
    images = dataset.digits()
    images.save(folder)
    train.prepare("tiny", images, folder, log=False)


def run(
    names: list[str],
    folder: Path,
    recipes: list[str],
    selects: Sequence[str],
    *,
    seeds: int,
    threads: int,
    fresh: bool,
) -> Path:
    """Fill FOLDER/evidence.json; it is written after every row."""
    path = folder / "evidence.json"
    found = json.loads(path.read_text()) if path.exists() and not fresh else {}
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-evidence-") as scratch:
        for name in names:
            net = Network(name, folder, Path(scratch), threads=threads)
            for row in evaluate(net, found.setdefault(name, {}), recipes, selects, seeds):
                path.write_text(json.dumps(found, indent=1) + "\n")
                shown = {k: f"{row[k]:.4f}" for k in ("params", "macs", "accuracy", "repaired") if k in row}
                errors = [v for k, v in row.items() if k.endswith("error")]
                print(
                    name,
                    row["recipe"],
                    row.get("other") or (row["select"], row["seed"]),
                    shown,
                    *errors,
                    file=sys.stderr,
                    flush=True,
                )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)}; all of them by default")
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER)
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="such as 'kl' or 'params 0.5'")
    parser.add_argument("--selects", nargs="+", choices=SELECTS, default=SELECTS, help="ways to choose channels")
    parser.add_argument("--seeds", type=int, default=3, help="how many random choices")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--tables-only", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="digits and a tiny network, in a folder of its own")
    options = parser.parse_args()
    folder, names, seeds = options.folder, options.names or list(NETWORKS), options.seeds
    recipes = [f"--{recipe.removeprefix('--')}" for recipe in options.recipes or RECIPES]
    if options.quick:
        folder, names, seeds, recipes = folder / "quick", ["tiny"], 2, list(QUICK)
        quick(folder)
    if not options.tables_only:
        fresh = options.fresh or options.quick
        run(names, folder, recipes, options.selects, seeds=seeds, threads=options.threads, fresh=fresh)
    text = tables.markdown(folder)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
