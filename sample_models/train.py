"""Train the sample network on Fashion-MNIST and write everything in `fashion/`.

    apt-get install dataset-fashion-mnist          # or put the four .gz files anywhere and pass --data
    pip install torch onnx onnxruntime numpy Pillow
    python sample_models/train.py

About five minutes on two CPU cores; seeds are fixed. The network takes pixels in [0, 1]: its first
BatchNormalization normalises them. BatchNormalization is kept in the export.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent / "fashion"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
PER_CLASS = 64  # bundled test images of each class: ten for each channel of the widest layer, in all


class ConvBN(nn.Module):
    def __init__(self, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = ConvBN(channels, channels, 3), ConvBN(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class FashionNet(nn.Module):
    """Every structure that couples channels, once: a residual Add, a depthwise convolution, a Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(1)
        self.stem = ConvBN(1, 32, 3)
        self.block1 = Residual(32)
        self.depthwise = ConvBN(32, 32, 3, stride=2, groups=32)
        self.pointwise = ConvBN(32, 64, 1)
        self.block2 = Residual(64)
        self.narrow, self.wide = ConvBN(64, 32, 1), ConvBN(64, 32, 3)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(self.normalise(x))), 2)
        x = self.block1(x)
        x = F.relu(self.pointwise(F.relu(self.depthwise(x))))
        x = self.block2(x)
        x = torch.cat([F.relu(self.narrow(x)), F.relu(self.wide(x))], 1)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def load(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and their classes."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(
        labels, np.uint8, offset=8
    ).astype(np.int64)


def batch(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images[:, None].astype(np.float32) / np.float32(255))


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    size = 128
    rng = np.random.default_rng(0)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = len(images) // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, epochs=epochs, steps_per_epoch=steps, pct_start=0.2)
    model.train()
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        order = rng.permutation(len(images))
        for step in range(steps):
            chosen = order[step * size : (step + 1) * size]
            pixels = images[chosen]
            flipped = rng.random(size) < 0.5
            pixels = np.where(flipped[:, None, None], pixels[:, :, ::-1], pixels)
            loss = F.cross_entropy(model(batch(pixels)), torch.from_numpy(labels[chosen]))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.perf_counter() - start:.0f} s", flush=True)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    model.eval()
    return torch.cat([model(batch(images[i : i + 500])) for i in range(0, len(images), 500)]).numpy()


def export(model: nn.Module, path: Path) -> None:
    """A plain ONNX file: BatchNormalization kept, tensors named after the modules."""
    model.eval()
    warnings.simplefilter("ignore")
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 28, 28),),
        path,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL folds BatchNormalization into the convolutions
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    proto = onnx.load(path)
    names: dict[str, str] = {}
    for node in proto.graph.node:  # "/stem/conv/Conv" is "stem.conv", "/block1/Add" is "block1.add"
        *modules, kind = node.name.strip("/").split("/")
        own = len(modules) > 0 and not list(model.get_submodule(".".join(modules)).children())
        node.name = ".".join(modules if own else [*modules, kind.lower()])
        for output in node.output:
            names[output] = output if output == "logits" else node.name
    assert len(set(names.values())) == len(names)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    proto.graph.name = "fashion"
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    assert all(a.i == 0 for n in proto.graph.node for a in n.attribute if a.name == "training_mode")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def bundle(images: np.ndarray, labels: np.ndarray, folder: Path) -> np.ndarray:
    """Write the first test images of every class; returns their positions."""
    shutil.rmtree(folder, ignore_errors=True)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(len(CLASSES))]))
    for index in chosen:
        path = folder / f"{labels[index]}_{CLASSES[labels[index]]}" / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(path, optimize=True)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)

    model = FashionNet().to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, *load(options.data, "train"), options.epochs)

    images, labels = load(options.data, "t10k")
    HERE.mkdir(exist_ok=True)
    export(model, HERE / "model.onnx")
    chosen = bundle(images, labels, HERE / "images")
    expected = predict(model, images)
    session = ort.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": batch(images[chosen]).numpy()})[0]
    np.testing.assert_allclose(logits, expected[chosen], rtol=1e-3, atol=1e-3)
    print(f"accuracy on all {len(images)} test images: {np.mean(expected.argmax(1) == labels):.4f}")
    print(f"accuracy on the {len(chosen)} bundled images: {np.mean(logits.argmax(1) == labels[chosen]):.4f}")


if __name__ == "__main__":
    main()
