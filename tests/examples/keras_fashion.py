"""Train a pruned network on in Keras: onnx2keras makes the model, and the weights return to the ONNX file layer by layer.

    pip install onnx2keras onnx Pillow                                      # brings TensorFlow and Keras 3
    python tests/examples/keras_fashion.py small.onnx IMAGES tuned.onnx     # IMAGES: one folder for each class

onnx2keras names every layer after the output of its node, and a layer holds its weights in the order of the node's
inputs. Pruning keeps all these names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import onnx
from onnx import NodeProto, numpy_helper
from onnx2keras import onnx_to_keras
from PIL import Image


def load(path: Path) -> keras.Model:
    """Return a model of ordinary Keras layers. It takes pictures as [N, H, W, C]; the file takes [N, C, H, W]."""
    proto = onnx.load(path)
    return onnx_to_keras(proto, [value.name for value in proto.graph.input], verbose=False, change_ordering=True)


def to_onnx(array: np.ndarray, layer: keras.Layer, node: NodeProto) -> np.ndarray:
    if isinstance(layer, keras.layers.DepthwiseConv2D) and array.ndim == 4:
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return array.T if array.ndim == 2 and transposed else array


def save(model: keras.Model, source: Path, target: Path) -> None:
    """Write the graph of `source` with the weights of the model."""
    proto = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    for node in proto.graph.node:
        layer = layers.pop(node.output[0].replace("/", "_"), None)
        if layer is None:
            continue
        names = [name for name in node.input if name in tensors]
        for name, weight in zip(names, layer.get_weights(), strict=True):
            array = to_onnx(weight, layer, node)
            assert list(array.shape) == list(tensors[name].dims), name
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    assert not layers, f"no node has the weights of {sorted(layers)}"
    onnx.save(proto, target)


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray, epochs: int = 3) -> list[float]:
    """Return the mean loss of every epoch."""
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0).history["loss"]


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, verbose=0)


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
