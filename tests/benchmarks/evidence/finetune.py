"""What a short training brings: after pruning, after pruning and repair, and from scratch; prints a Markdown table.

    python tests/benchmarks/evidence/finetune.py             # after train.py; results go to FOLDER/finetune.json

The pruned file goes back into PyTorch: its weights, in the order of its nodes, into the modules of the original
network, in the order in which they run; both must answer the same. Then it is trained with labels for two epochs at a
tenth of the original's rate: sliced as the paper does it, and repaired, with the channels that repair chooses.
"scratch" draws the weights of the same smaller network anew and trains it at the original's rate: as short, and for as
many epochs as the original had. Seeds draw the weights and order the images.
"""

from __future__ import annotations

import argparse
import copy
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
import networks
import numpy as np
import onnx
import onnxruntime as ort
import tables
import torch
import train
from onnx import numpy_helper
from torch import nn

RECIPES = ("--kl", "--params 0.7", "--params 0.35")
COLUMNS = ("sliced, trained", "repaired, trained", "scratch, as short", "scratch, as long as the original")
EPOCHS = 2  # of a short training
_KINDS = {"Conv": nn.Conv2d, "Gemm": nn.Linear, "BatchNormalization": nn.BatchNorm2d}


def module_of(name: str, path: Path, example: np.ndarray) -> nn.Module:
    """Return the network with the weights of a pruned file; raises AssertionError unless both answer the same."""
    model = networks.build(name).eval()
    ran: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda m, *_: ran.append(m))
        for m in model.modules()
        if isinstance(m, tuple(_KINDS.values()))
    ]
    model(torch.from_numpy(example[:1]))
    for hook in hooks:
        hook.remove()
    graph = onnx.load(path).graph
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    for node in graph.node:  # what is equal, exporters store once
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]].clone()
    nodes = [node for node in graph.node if node.op_type in _KINDS]
    assert len(nodes) == len(ran)
    for node, module in zip(nodes, ran, strict=True):
        assert isinstance(module, _KINDS[node.op_type])
        _fill(module, [weights[n] for n in node.input[1:]])
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {graph.input[0].name: example[:8]})[0]
    with torch.no_grad():
        assert np.allclose(model(torch.from_numpy(example[:8])).numpy(), expected, atol=1e-3)
    return model


def _fill(module: nn.Module, given: list[torch.Tensor]) -> None:
    module.weight = nn.Parameter(given[0])
    module.bias = nn.Parameter(given[1]) if len(given) > 1 else None
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = len(given[0])
        module.running_mean, module.running_var = given[2], given[3]
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = given[0].shape[0], given[0].shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = given[0].shape


def _anew(model: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, tuple(_KINDS.values())):
            module.reset_parameters()
    return model


# --- one row: a network and a recipe --------------------------------------------------------------------------


def study(net: evaluate.Network, images: dataset.Images, recipe: str, row: dict[str, Any], seed: int) -> Iterator[str]:
    """Add what is missing for one seed; yields what it measured. row["accuracy"] holds a list for every column."""
    found: dict[str, list[float]] = row.setdefault("accuracy", {})
    missing = [column for column in COLUMNS if len(found.get(column, [])) == seed]
    if not missing:
        return
    method, rate, flip = evaluate.RECIPES[recipe], train.RATE[net.name], net.name != "tiny"
    path, report = net.cut(method)
    assert report.after is not None
    row["params"] = report.after.params / net.whole[0]
    sliced, before = module_of(net.name, path, images.test_x), net.accuracy(path)
    path, _ = net.cut(replace(method, select="reconstruct"), repair=True)
    repaired, mended = module_of(net.name, path, images.test_x), net.accuracy(path)
    found["sliced"], found["repaired"] = [before], [mended]
    short, whole = EPOCHS, train.EPOCHS[net.name]
    runs = {
        "sliced, trained": (sliced, short, rate / 10),
        "repaired, trained": (repaired, short, rate / 10),
        "scratch, as short": (_anew(sliced, seed + 1), short, rate),
        "scratch, as long as the original": (_anew(sliced, seed + 1), whole, rate),
    }
    for column in missing:
        model, epochs, speed = runs[column]
        model = copy.deepcopy(model)
        train.train(model, images.train_x, images.train_y, epochs=epochs, rate=speed, seed=seed, flip=flip)
        found.setdefault(column, []).append(train.accuracy(model, images.test_x, images.test_y))
        yield f"{column}, seed {seed}: {found[column][-1]:.4f}"


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
        for seed, recipe, name in itertools.product(range(options.seeds), recipes, nets):
            row = rows.setdefault(f"{name} {recipe}", {"network": name, "recipe": recipe})
            for news in study(nets[name], images, recipe, row, seed):
                print(name, recipe, news, file=sys.stderr, flush=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    print(tables.training(rows))


if __name__ == "__main__":
    main()
