"""What a short training brings: after pruning, after pruning and repair, and from scratch; prints a Markdown table.

    python tests/benchmarks/evidence/finetune.py             # after train.py; results go to FOLDER/finetune.json

The pruned file goes back into PyTorch: its weights, in the order of its nodes, into the modules of the original
network, in the order in which they run; both must answer the same. Then it is trained with labels for one or two
epochs at a tenth of the original's rate. "scratch" draws the weights of the same smaller network anew and trains it at
the original's rate: for two epochs, and for as many as the original had. The paper's columns are the last but for
their length.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
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

RECIPES = ("--kl", "--params 0.5", "--params 0.35")
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


def study(net: evaluate.Network, images: dataset.Images, recipe: str, note: Callable[[str], None]) -> dict[str, Any]:
    """Return one row: accuracies by what was done."""
    name, method = net.name, evaluate.RECIPES[recipe]
    path, report = net.cut(method)
    assert report.after is not None
    found: dict[str, float] = {"sliced": net.accuracy(path)}
    sliced = module_of(name, path, images.test_x)

    def trained(column: str, model: nn.Module, epochs: int, rate: float) -> None:
        model = copy.deepcopy(model)
        train.train(model, images.train_x, images.train_y, epochs=epochs, rate=rate, flip=name != "tiny")
        found[column] = train.accuracy(model, images.test_x, images.test_y)
        note(f"{column} {found[column]:.4f}")

    rate = train.RATE[name]
    for epochs in (1, 2):
        trained(f"sliced, {_times(epochs)}", sliced, epochs, rate / 10)
    if evaluate.REPAIRS:
        path, _ = net.cut(method, repair=True)
        found["repaired"] = net.accuracy(path)
        repaired = module_of(name, path, images.test_x)
        for epochs in (1, 2):
            trained(f"repaired, {_times(epochs)}", repaired, epochs, rate / 10)
    for epochs in (2, train.EPOCHS[name]):
        trained(f"scratch, {_times(epochs) if epochs == 2 else 'as the original'}", _anew(sliced, 1), epochs, rate)
    return {"network": name, "recipe": recipe, "params": report.after.params / net.whole[0], "accuracy": found}


def _times(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; all of them by default")
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER)
    parser.add_argument("--dataset", type=Path, default=dataset.INSTALLED)
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="such as 'kl' or 'params 0.5'")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = dataset.digits() if options.names == ["tiny"] else dataset.fashion(options.dataset)
    path = options.folder / "finetune.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-evidence-") as scratch:
        for name in options.names or evaluate.NETWORKS:
            net = evaluate.Network(name, options.folder, Path(scratch), threads=options.threads)
            for recipe in [f"--{r.removeprefix('--')}" for r in options.recipes or RECIPES]:
                row = study(
                    net, images, recipe, lambda s, at=f"{name} {recipe}": print(at, s, file=sys.stderr, flush=True)
                )
                rows = [r for r in rows if (r["network"], r["recipe"]) != (name, recipe)] + [row]
                path.write_text(json.dumps(rows, indent=1) + "\n")
    print(tables.training(rows))


if __name__ == "__main__":
    main()
