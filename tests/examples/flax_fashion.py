"""Train the pruned sample network on in Flax (JAX): the weights leave the ONNX file and return to it by name.

    pip install jax "flax>=0.12" optax onnx Pillow
    python tests/examples/flax_fashion.py small.onnx IMAGES tuned.onnx     # IMAGES: one folder for each class

Pruning keeps the names of all initializers, so a module whose attributes are called as in the file needs no table of
names: "block1.first.conv.weight" is `model.block1.first.conv.kernel`. Its widths are those of the file. For your
own network, write your own modules in place of `ConvBN`, `Residual` and `FashionNet`; the rest can stay.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
from flax import nnx
from onnx import numpy_helper
from PIL import Image

Shapes = dict[str, tuple[int, ...]]  # of every initializer


class ConvBN(nnx.Module):
    def __init__(self, shapes: Shapes, name: str, rngs: nnx.Rngs, stride: int = 1, groups: int = 1) -> None:
        out, of_a_group, size, _ = shapes[f"{name}.conv.weight"]
        self.conv = nnx.Conv(
            of_a_group * groups,
            out,
            (size, size),
            stride,
            padding=size // 2,  # a number, as in the file: "SAME" differs where the stride is 2
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.bn = nnx.BatchNorm(out, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class Residual(nnx.Module):
    def __init__(self, shapes: Shapes, name: str, rngs: nnx.Rngs) -> None:
        self.first = ConvBN(shapes, f"{name}.first", rngs)
        self.second = ConvBN(shapes, f"{name}.second", rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x + self.second(nnx.relu(self.first(x))))


class FashionNet(nnx.Module):
    """`sample_models/train.py` in Flax, of any widths.

    Pictures are [N, H, W, C] here and [N, C, H, W] in the file. A network that flattens them before a `Linear` has to
    transpose them back first.
    """

    def __init__(self, shapes: Shapes, rngs: nnx.Rngs) -> None:
        self.normalise = nnx.BatchNorm(1, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.stem = ConvBN(shapes, "stem", rngs)
        self.block1 = Residual(shapes, "block1", rngs)
        self.depthwise = ConvBN(shapes, "depthwise", rngs, stride=2, groups=shapes["depthwise.conv.weight"][0])
        self.pointwise = ConvBN(shapes, "pointwise", rngs)
        self.block2 = Residual(shapes, "block2", rngs)
        self.narrow, self.wide = ConvBN(shapes, "narrow", rngs), ConvBN(shapes, "wide", rngs)
        out, inner = shapes["classifier.weight"]
        self.classifier = nnx.Linear(inner, out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.stem(self.normalise(x))), (2, 2), (2, 2))
        x = self.block1(x)
        x = nnx.relu(self.pointwise(nnx.relu(self.depthwise(x))))
        x = self.block2(x)
        x = jnp.concatenate([nnx.relu(self.narrow(x)), nnx.relu(self.wide(x))], axis=-1)
        return self.classifier(x.mean(axis=(1, 2)))


# ---- the weights, by name ----

ONNX_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def named(model: nnx.Module) -> Iterator[tuple[str, nnx.Variable]]:
    """Every variable of a module, with the name of its initializer."""
    for path, value in nnx.iter_graph(model):
        if isinstance(value, nnx.Variable):
            yield ".".join([*path[:-1], ONNX_NAMES[path[-1]]]), value


def to_flax(array: np.ndarray) -> np.ndarray:
    """Convolutions are OIHW in ONNX, HWIO in Flax; `Gemm` with transB holds what `Linear` holds transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_onnx(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def load(path: Path) -> FashionNet:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    model = FashionNet({name: array.shape for name, array in weights.items()}, nnx.Rngs(0))
    for name, variable in named(model):
        variable[...] = jnp.asarray(to_flax(weights.pop(name)))
    assert not weights, f"the module has no place for {sorted(weights)}"
    return model


def save(model: FashionNet, source: Path, target: Path) -> None:
    """Write the graph of `source` with the weights of the module."""
    proto = onnx.load(source)
    weights = {name: to_onnx(np.asarray(variable[...])) for name, variable in named(model)}
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    onnx.save(proto, target)


# ---- training, as ever ----


@nnx.jit
def step(model: FashionNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    def loss_of(model: FashionNet) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def train(model: FashionNet, images: np.ndarray, labels: np.ndarray, epochs: int = 3, size: int = 64) -> list[float]:
    """Return the mean loss of every epoch."""
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    rng, means = np.random.default_rng(0), []
    model.train()  # BatchNorm uses the batch, and follows it with its running statistics
    for _ in range(epochs):
        order = rng.permutation(len(images))
        chosen = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        means.append(float(np.mean([step(model, optimizer, images[some], labels[some]) for some in chosen])))
    model.eval()
    return means


def predict(model: FashionNet, images: np.ndarray) -> np.ndarray:
    model.eval()
    return np.asarray(nnx.jit(lambda model, x: model(x))(model, images))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures in [0, 1], [N, 28, 28, 1], and their classes: one sub-folder for each, in the order of the outputs."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
    images = np.stack([np.asarray(Image.open(file), np.float32) / 255 for file, _ in files])
    return images[..., None], np.array([label for _, label in files])


def main(source: Path, folder: Path, target: Path) -> None:
    model = load(source)
    images, labels = read(folder)
    for epoch, loss in enumerate(train(model, images, labels), 1):
        print(f"epoch {epoch}: loss {loss:.4f}")
    print(f"accuracy on the same images: {np.mean(predict(model, images).argmax(1) == labels):.4f}")
    save(model, source, target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
