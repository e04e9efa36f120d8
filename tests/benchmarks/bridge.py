"""The PyTorch bridge against onnxruntime and against PyTorch itself; prints Markdown tables.

    python tests/benchmarks/bridge.py forward FOLDER/*.onnx    # largest difference of the outputs from onnxruntime's
    python tests/benchmarks/bridge.py step                     # time of a training step over that of the same network
                                                               # written in PyTorch, medians of interleaved runs

Models come from `export_models.py`, or from anywhere. Weights drawn at random can make a network chaotic: where
onnxruntime itself gives other numbers without its optimisations, the table says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

import pfa_onnx.torch as bridge
from pfa_onnx.errors import ModelError
from pfa_onnx.graph.model import Graph, load

sys.path.insert(0, str(Path(__file__).parent / "evidence"))
import networks

CLOSE = 1e-4
STEPS = 15


def forward(paths: list[Path]) -> Iterator[str]:
    """Yield a row for each model."""
    yield "| model | difference | trained share of the parameters |\n| --- | --- | --- |"
    for path in paths:
        try:
            module = bridge.load(path)
        except ModelError as error:
            yield f"| {path.stem} | {error.what} | |"
            continue
        graph = load(path)
        feeds = _inputs(graph)
        wanted = _run(path, feeds)
        with torch.no_grad():
            found = module.compute(feeds, module.output_names)
        apart = _apart({name: found[name].numpy() for name in wanted}, wanted)
        chaotic = apart > CLOSE and _apart(_run(path, feeds, plain=True), wanted) > CLOSE
        trained = sum(weight.numel() for weight in module.parameters())
        yield f"| {path.stem} | {apart:.0e}{' (chaotic)' if chaotic else ''} | {trained / _floats(graph):.1%} |"


def _inputs(graph: Graph) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    feeds = {}
    for spec in graph.inputs:
        shape = [extent or (1 if k == 0 else 224) for k, extent in enumerate(spec.shape)]
        drawn = random.normal(size=shape) / 2 if spec.dtype.kind == "f" else random.integers(0, 2, shape)
        feeds[spec.name] = drawn.astype(spec.dtype)
    return feeds


def _run(path: Path, feeds: dict[str, np.ndarray], *, plain: bool = False) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def _apart(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    return max(
        float(np.abs(found[name].astype(np.float64) - value).max(initial=0) / max(np.abs(value).max(initial=0), 1e-9))
        if found[name].shape == value.shape
        else np.inf
        for name, value in wanted.items()
    )


def _floats(graph: Graph) -> int:
    tensors = [value.const_value for value in graph.model.graph.initializers.values()]
    return max(1, sum(t.size for t in tensors if t is not None and t.dtype.is_floating_point()))


def step() -> Iterator[str]:
    """Yield a row for each network of the evidence."""
    yield "| network | in PyTorch, ms | through ONNX, ms | ratio |\n| --- | --- | --- | --- |"
    images = torch.randn(64, 1, 28, 28)
    labels = torch.randint(0, 10, (64,))
    for name in networks.NETWORKS:
        own = networks.build(name)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / f"{name}.onnx"
            kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
            torch.onnx.export(own.eval(), images, str(path), dynamo=False, opset_version=17, **kept)
            modules = own.train(), bridge.load(path).train()
        optimizers = [torch.optim.AdamW(module.parameters(), 1e-3) for module in modules]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(STEPS):
            for module, optimizer, spent in zip(modules, optimizers, times, strict=True):
                start = time.perf_counter()
                loss = torch.nn.functional.cross_entropy(module(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                spent.append(time.perf_counter() - start)
        one, other = (statistics.median(spent[2:]) for spent in times)
        ratio = statistics.median(b / a for a, b in list(zip(*times, strict=True))[2:])
        yield f"| {name} | {1e3 * one:.0f} | {1e3 * other:.0f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forward", "step"))
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in forward(options.models) if options.what == "forward" else step():
        print(row, flush=True)


if __name__ == "__main__":
    main()
