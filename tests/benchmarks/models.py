"""VGG-16, ResNet-50 and MobileNetV2 in full size with random weights, built without any framework, for the benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Adds nodes and weights; every method returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        array = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def op(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def conv(self, x: str, cin: int, cout: int, k: int, stride: int = 1, *, bn: bool = False, groups: int = 1) -> str:
        name = f"conv{len(self.nodes)}"
        w = self.weight(f"{name}.weight", (cout, cin // groups, k, k), cin // groups * k * k)
        inputs = [x, w] if bn else [x, w, self.constant(f"{name}.bias", self.rng.standard_normal(cout) * 0.1)]
        more = {"group": groups} if groups > 1 else {}
        y = self.op("Conv", inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, **more)
        if not bn:
            return y
        scale = self.constant(f"{name}.scale", self.rng.uniform(0.5, 1.0, cout))
        zero, one = self.constant(f"{name}.b", np.zeros(cout)), self.constant(f"{name}.v", np.ones(cout))
        return self.op("BatchNormalization", [y, scale, zero, zero, one])

    def model(self, output: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 1000])
        graph = helper.make_graph(self.nodes, "benchmark", [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def vgg16() -> onnx.ModelProto:
    b, x, cin = Builder(), "image", 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            x, cin = b.op("Relu", [b.conv(x, cin, width, 3)]), width
        else:
            x = b.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Flatten", [x])
    for k, (cin, width) in enumerate(((25088, 4096), (4096, 4096), (4096, 1000))):
        w, bias = b.weight(f"fc{k}.weight", (width, cin), cin), b.constant(f"fc{k}.bias", np.zeros(width))
        x = b.op("Gemm", [x, w, bias], transB=1)
        x = b.op("Relu", [x]) if width == 4096 else x
    return b.model(x)


def resnet50(*, bn: bool = False) -> onnx.ModelProto:
    b = Builder()
    x = b.op("Relu", [b.conv("image", 3, 64, 7, 2, bn=bn)])
    x, cin = b.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = b.op("Relu", [b.conv(x, cin, width, 1, bn=bn)])
            y = b.op("Relu", [b.conv(y, width, width, 3, stride, bn=bn)])
            y = b.conv(y, width, 4 * width, 1, bn=bn)
            x = x if block else b.conv(x, cin, 4 * width, 1, stride, bn=bn)
            x, cin = b.op("Relu", [b.op("Add", [x, y])]), 4 * width
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
    return b.model(
        b.op("Gemm", [x, b.weight("fc.weight", (1000, 2048), 2048), b.constant("fc.bias", np.zeros(1000))], transB=1)
    )


def mobilenetv2() -> onnx.ModelProto:
    b = Builder()
    low, high = b.constant("zero", np.zeros(())), b.constant("six", np.full((), 6.0))

    def relu6(x: str) -> str:
        return b.op("Clip", [x, low, high])

    x, cin = relu6(b.conv("image", 3, 32, 3, 2)), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, width, blocks, first in stages:
        for block in range(blocks):
            inner, stride = cin * factor, 1 if block else first
            y = x if factor == 1 else relu6(b.conv(x, cin, inner, 1))
            y = b.conv(relu6(b.conv(y, inner, inner, 3, stride, groups=inner)), inner, width, 1)
            x, cin = b.op("Add", [x, y]) if block else y, width
    x = b.op("Flatten", [b.op("GlobalAveragePool", [relu6(b.conv(x, cin, 1280, 1))])])
    return b.model(
        b.op("Gemm", [x, b.weight("fc.weight", (1000, 1280), 1280), b.constant("fc.bias", np.zeros(1000))], transB=1)
    )


MODELS = {
    "VGG-16": vgg16,
    "ResNet-50": resnet50,
    "ResNet-50 (BN kept)": lambda: resnet50(bn=True),
    "MobileNetV2": mobilenetv2,
}


def save_all(folder: Path) -> dict[str, Path]:
    """Write all models into a folder, once; return their paths."""
    paths = {}
    for name, make in MODELS.items():
        path = folder / f"{name.lower().replace(' ', '_').replace('(', '').replace(')', '')}.onnx"
        if not path.exists():
            onnx.save(make(), path)
        paths[name] = path
    return paths
