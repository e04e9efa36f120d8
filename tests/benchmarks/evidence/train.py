"""Train the networks of the evidence on Fashion-MNIST, and export them: once, a few minutes each on two cores.

    apt-get install dataset-fashion-mnist
    pip install torch onnx onnxscript
    python tests/benchmarks/evidence/train.py                # into the temporary folder, or --folder
    python tests/benchmarks/evidence/train.py vgg --epochs 8

For each network NAME: NAME.onnx (BatchNormalization kept), NAME.folded.onnx (folded by the exporter), NAME.pt (the
weights). Beside them calibration.npy (5,000 training images, no labels), test_x.npy and test_y.npy (10,000). What is
there already is kept. The same seed and number of threads give the same weights on one machine.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import dataset
import networks
import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPOCHS = {"simplecnn": 5, "vgg": 4, "resnet20": 4, "tiny": 12}
RATE = {"simplecnn": 0.2, "vgg": 0.1, "resnet20": 0.2, "tiny": 0.2}
BATCH = 128


def train(
    model: nn.Module, x: np.ndarray, y: np.ndarray, *, epochs: int, rate: float, seed: int = 0, flip: bool = True,
    warm: float = 0.2, log: bool = False,
) -> nn.Module:  # fmt: skip
    """Train in place: SGD with Nesterov momentum under one cycle, random flips; return it in evaluation mode."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=warm)
    model.to(memory_format=torch.channels_last).train()
    start = time.perf_counter()
    for epoch in range(epochs):
        order = torch.from_numpy(rng.permutation(len(images)))
        total = 0.0
        for k in range(len(images) // BATCH):
            chosen = order[k * BATCH : (k + 1) * BATCH]
            batch = images[chosen]
            if flip and rng.random() < 0.5:
                batch = batch.flip(3)
            with torch.autocast("cpu", torch.bfloat16):
                answers = model(batch.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(answers.float(), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        if log:
            mean = total / (len(images) // BATCH)
            print(f"  epoch {epoch + 1}: loss {mean:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of images whose largest output is their label."""
    with torch.no_grad():
        answers = [model(torch.from_numpy(x[k : k + 500])).argmax(1) for k in range(0, len(x), 500)]
    return float((torch.cat(answers).numpy() == y).mean())


def export(model: nn.Module, path: Path, example: np.ndarray, *, keep: bool) -> None:
    """Write a model that takes any batch; keep: BatchNormalization stays a node of its own."""
    more = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if keep else {}
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), torch.from_numpy(example[:2]), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=["logits"], dynamic_axes=axes, **more,
        )  # fmt: skip


def prepare(name: str, images: dataset.Images, folder: Path, epochs: int | None = None, *, log: bool = True) -> None:
    """Train one network, if it is not there, and write its files."""
    model, weights = networks.build(name), folder / f"{name}.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights))
        model.eval()
    else:
        epochs = epochs or EPOCHS[name]
        if log:
            print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {epochs} epochs", flush=True)
        train(model, images.train_x, images.train_y, epochs=epochs, rate=RATE[name], flip=name != "tiny", log=log)
        torch.save(model.state_dict(), weights)
    export(model, folder / f"{name}.onnx", images.test_x, keep=True)
    export(model, folder / f"{name}.folded.onnx", images.test_x, keep=False)
    if log:
        print(f"{name}: test accuracy {accuracy(model, images.test_x, images.test_y):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(networks.NETWORKS)}; all of them by default")
    parser.add_argument("--folder", type=Path, default=dataset.FOLDER)
    parser.add_argument("--dataset", type=Path, default=dataset.INSTALLED, help="the folder of the four .gz files")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = dataset.fashion(options.dataset)
    images.save(options.folder)
    for name in options.names or networks.NETWORKS:
        prepare(name, images, options.folder, options.epochs)


if __name__ == "__main__":
    main()
