"""Write the exports in this folder: small networks of well-known families, as torch's exporters write them.

    pip install torch onnx onnxscript
    python tests/exports/make.py [NAME ...]

The files are kept so that the tests need no torch. Structures are the real ones, widths are tiny, weights are
random, and the running statistics and affine parameters of every BatchNormalization are random too, so that no
normalisation is the identity. A file is called FAMILY.FORM.onnx, where FORM is

- `ts`    the TorchScript exporter: BatchNormalization is folded into the convolution before it;
- `keep`  the TorchScript exporter, told to keep the parameters: BatchNormalization stays, and equal
          tensors become Identity aliases of one another;
- `dyn`   the exporter of today (torch.export and onnxscript).

`external/` holds one of them with its weights in a second file. The batch is dynamic everywhere; `unet_dynamic`
also takes any height and width that divide by four.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own habit

HERE = Path(__file__).parent
FAMILIES: dict[str, tuple[type[nn.Module], dict, list[tuple[int, ...]], str]] = {}


def family(*shapes: tuple[int, ...], forms: str = "ts", name: str = "", **options):
    """Register a module class: input shapes without the batch, and the forms to write."""

    def register(cls):
        FAMILIES[name or cls.__name__.lower()] = (cls, options, list(shapes), forms)
        return cls

    return register


def conv_bn(
    cin: int, cout: int, k: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), *([act()] if act else []))


class Head(nn.Module):
    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(x), 1))


# --- plain chains -------------------------------------------------------------------------------------------


@family((3, 32, 32), forms="ts keep dyn")
class VGG(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = []
        cin = 3
        for width in (8, 8, 0, 16, 16, 0, 24, 24, 0):
            layers.append(conv_bn(cin, width) if width else nn.MaxPool2d(2))
            cin = width or cin
        super().__init__(*layers, nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))


@family((1, 28, 28), forms="ts dyn", name="flatten_cnn")
class FlattenCNN(nn.Module):
    """LeNet: view(n, -1) right after a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 12, 5)
        self.fc1, self.fc2 = nn.Linear(12 * 16, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


@family((24,), forms="ts keep dyn", name="mlp")
class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 20, bias=False), nn.GELU(), nn.Linear(20, 5)
        )


@family((3, 24, 24), forms="ts keep", name="prelu")
class PReLUNet(nn.Sequential):
    """MTCNN's cascade stage: PReLU after every convolution, ceil-mode pooling, Flatten in another order."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(8, 12, 3), nn.PReLU(12), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(12, 16, 2), nn.PReLU(16), Transposed(), nn.Flatten(), nn.Linear(144, 24), nn.PReLU(24)),
            nn.Linear(24, 6),
        )


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1)


# --- residual, dense and parallel branches -------------------------------------------------------------------


class Residual(nn.Module):
    """A basic block, or a bottleneck with groups."""

    def __init__(self, cin: int, cout: int, stride: int, middle: int = 0, groups: int = 1, gate: bool = False) -> None:
        super().__init__()
        if middle:
            body = [conv_bn(cin, middle, 1), conv_bn(middle, middle, 3, stride, groups)]
            body += [SqueezeExcite(middle, 4)] if gate else []
            self.body = nn.Sequential(*body, conv_bn(middle, cout, 1, act=None))
        else:
            self.body = nn.Sequential(conv_bn(cin, cout, 3, stride), conv_bn(cout, cout, act=None))
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(cin, cout, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    def __init__(
        self, channels: int, reduced: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


@family((3, 32, 32), forms="ts keep dyn", name="resnet_basic")
class ResNetBasic(nn.Sequential):
    def __init__(self) -> None:
        stages = [Residual(8, 8, 1), Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1), Residual(12, 16, 2)]
        super().__init__(conv_bn(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), *stages, Residual(16, 16, 1), Head(16))


@family((3, 32, 32), forms="ts keep dyn", name="resnet_bottleneck")
class ResNetBottleneck(nn.Sequential):
    def __init__(self) -> None:
        stages = [Residual(8, 16, 1, 6), Residual(16, 16, 1, 6), Residual(16, 24, 2, 8), Residual(24, 24, 1, 8)]
        super().__init__(conv_bn(3, 8, 3, 2), *stages, Head(24))


@family((3, 32, 32), forms="ts keep", name="resnext")
class ResNeXt(nn.Sequential):
    def __init__(self) -> None:
        stages = [Residual(8, 16, 1, 12, 3), Residual(16, 16, 1, 12, 3), Residual(16, 24, 2, 16, 4)]
        super().__init__(conv_bn(3, 8, 3, 2), *stages, Head(24))


@family((3, 32, 32), forms="ts dyn", name="regnet")
class RegNet(nn.Sequential):
    """RegNetY: groups of a fixed width and squeeze-excite."""

    def __init__(self) -> None:
        stages = [Residual(8, 16, 2, 16, 2, gate=True), Residual(16, 16, 1, 16, 2, gate=True)]
        super().__init__(conv_bn(3, 8, 3, 2), *stages, Residual(16, 24, 2, 24, 3, gate=True), Head(24))


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, cin: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(cin + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


@family((3, 32, 32), forms="ts keep dyn")
class DenseNet(nn.Sequential):
    def __init__(self) -> None:
        transition = [nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2)]
        blocks = [DenseBlock(8, 3, 4), *transition, DenseBlock(10, 3, 4)]
        super().__init__(conv_bn(3, 8, 3, 2), *blocks, nn.BatchNorm2d(22), nn.ReLU(), Head(22))


class Inception(nn.Module):
    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn(cin, 6, 1),
                nn.Sequential(conv_bn(cin, 4, 1), conv_bn(4, 8)),
                nn.Sequential(conv_bn(cin, 3, 1), conv_bn(3, 4), conv_bn(4, 4)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(cin, 4, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


@family((3, 32, 32), forms="ts dyn")
class GoogLeNet(nn.Sequential):
    def __init__(self) -> None:
        stem = [conv_bn(3, 8, 3, 2), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2, 1, ceil_mode=True)]
        super().__init__(*stem, Inception(8), Inception(22), nn.MaxPool2d(2), Inception(22), nn.Dropout(0.2), Head(22))


class Fire(nn.Module):
    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


@family((3, 32, 32), forms="ts dyn")
class SqueezeNet(nn.Sequential):
    def __init__(self) -> None:
        body = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 6), Fire(12, 4, 8)]
        head = [nn.Dropout(), nn.Conv2d(16, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*body, *head)


# --- depthwise and gated --------------------------------------------------------------------------------------


class Inverted(nn.Module):
    """Expand, depthwise, gate, project."""

    def __init__(
        self, cin: int, cout: int, stride: int, wide: int, act: type[nn.Module], gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        expand = [conv_bn(cin, wide, 1, act=act)] if wide != cin else []
        depthwise = conv_bn(wide, wide, 3, stride, wide, act)
        self.body = nn.Sequential(*expand, depthwise, *([gate] if gate else []), conv_bn(wide, cout, 1, act=None))
        self.same = cin == cout and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


@family((3, 32, 32), forms="ts keep dyn", name="mobilenet_v2")
class MobileNetV2(nn.Sequential):
    def __init__(self) -> None:
        act = nn.ReLU6
        blocks = [
            Inverted(8, 6, 1, 8, act),
            Inverted(6, 8, 2, 24, act),
            Inverted(8, 8, 1, 24, act),
            Inverted(8, 12, 2, 24, act),
        ]
        super().__init__(conv_bn(3, 8, 3, 2, act=act), *blocks, conv_bn(12, 32, 1, act=act), Head(32))


@family((3, 32, 32), forms="ts dyn", name="mobilenet_v3")
class MobileNetV3(nn.Sequential):
    def __init__(self) -> None:
        def gate(channels: int) -> nn.Module:
            return SqueezeExcite(channels, channels // 4, gate=nn.Hardsigmoid)

        blocks = [Inverted(8, 8, 1, 8, nn.ReLU, gate(8)), Inverted(8, 12, 2, 24, nn.Hardswish, gate(24))]
        blocks.append(Inverted(12, 12, 1, 24, nn.Hardswish, gate(24)))
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40), nn.Hardswish(), nn.Linear(40, 10)]
        super().__init__(conv_bn(3, 8, 3, 2, act=nn.Hardswish), *blocks, conv_bn(12, 32, 1, act=nn.Hardswish), *head)


@family((3, 32, 32), forms="ts dyn")
class EfficientNet(nn.Sequential):
    def __init__(self) -> None:
        act = nn.SiLU
        blocks = [
            Inverted(8, 6, 1, 8, act, SqueezeExcite(8, 2, act)),
            Inverted(6, 10, 2, 24, act, SqueezeExcite(24, 2, act)),
            Inverted(10, 10, 1, 40, act, SqueezeExcite(40, 3, act)),
        ]
        super().__init__(conv_bn(3, 8, 3, 2, act=act), *blocks, conv_bn(10, 32, 1, act=act), Head(32))


class Shuffle(nn.Module):
    """ShuffleNet v2: half of the channels passes through, then both halves are interleaved."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.stride = stride
        start = cin if stride > 1 else half
        self.left = (
            nn.Sequential(conv_bn(cin, cin, 3, stride, cin, None), conv_bn(cin, half, 1)) if stride > 1 else None
        )
        self.right = nn.Sequential(
            conv_bn(start, half, 1), conv_bn(half, half, 3, stride, half, None), conv_bn(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.left is None:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, self.right(b)], 1)
        else:
            x = torch.cat([self.left(x), self.right(x)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@family((3, 32, 32), forms="ts keep dyn", name="shufflenet_v2")
class ShuffleNetV2(nn.Sequential):
    def __init__(self) -> None:
        stages = [Shuffle(8, 16, 2), Shuffle(16, 16, 1), Shuffle(16, 24, 2), Shuffle(24, 24, 1)]
        super().__init__(conv_bn(3, 8, 3, 2), *stages, conv_bn(24, 32, 1), Mean(), nn.Linear(32, 10))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class GhostModule(nn.Module):
    """Half of the output comes cheaply from the other half."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.primary, self.cheap = conv_bn(cin, cout // 2, 1), conv_bn(cout // 2, cout // 2, 3, groups=cout // 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.primary(x)
        return torch.cat([a, self.cheap(a)], 1)


@family((3, 32, 32), forms="ts", name="ghostnet")
class GhostNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv_bn(3, 8, 3, 2), GhostModule(8, 16), nn.MaxPool2d(2), GhostModule(16, 24), Head(24))


# --- dense prediction -----------------------------------------------------------------------------------------


class UNet(nn.Module):
    def __init__(self, learned: bool = True) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 6), conv_bn(6, 6))
        self.down2 = nn.Sequential(conv_bn(6, 10), conv_bn(10, 10))
        self.bottom = nn.Sequential(conv_bn(10, 16), conv_bn(16, 16))
        self.up2 = nn.ConvTranspose2d(16, 10, 2, 2) if learned else None
        self.up1 = nn.ConvTranspose2d(10, 6, 2, 2) if learned else None
        self.dec2 = nn.Sequential(conv_bn(20 if learned else 26, 10), conv_bn(10, 10))
        self.dec1 = nn.Sequential(conv_bn(12 if learned else 16, 6), conv_bn(6, 6))
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        c = self.up2(c) if self.up2 else F.interpolate(c, scale_factor=2, mode="nearest")
        b = self.dec2(torch.cat([c, b], 1))
        b = self.up1(b) if self.up1 else F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
        return self.out(self.dec1(torch.cat([b, a], 1)))


family((3, 32, 32), forms="ts keep dyn", name="unet")(UNet)
family((3, 32, 32), forms="ts", name="unet_resize", learned=False)(UNet)
family((3, 32, 32), forms="ts dyn", name="unet_dynamic", learned=False)(UNet)


class C2f(nn.Module):
    """YOLOv8: split, a chain of residual bottlenecks, and everything concatenated."""

    def __init__(self, cin: int, cout: int, n: int) -> None:
        super().__init__()
        self.half = cout // 2
        self.cv1, self.cv2 = conv_bn(cin, cout, 1, act=nn.SiLU), conv_bn((2 + n) * self.half, cout, 1, act=nn.SiLU)
        self.m = nn.ModuleList(
            nn.Sequential(conv_bn(self.half, self.half, act=nn.SiLU), conv_bn(self.half, self.half, act=nn.SiLU))
            for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.half, self.half), 1))
        for m in self.m:
            y.append(y[-1] + m(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = (
            conv_bn(channels, channels // 2, 1, act=nn.SiLU),
            conv_bn(2 * channels, channels, 1, act=nn.SiLU),
        )
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        return self.cv2(torch.cat(y, 1))


@family((3, 64, 64), forms="ts dyn", name="yolo")
class Yolo(nn.Module):
    """A backbone of C2f blocks, a top-down neck and a decoupled head on two levels."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2, act=act), conv_bn(8, 12, 3, 2, act=act), C2f(12, 12, 1))
        self.deep = nn.Sequential(conv_bn(12, 16, 3, 2, act=act), C2f(16, 16, 2), SPPF(16))
        self.neck = C2f(28, 12, 1)
        self.boxes = nn.ModuleList(nn.Sequential(conv_bn(c, 8, act=act), nn.Conv2d(8, 16, 1)) for c in (12, 16))
        self.classes = nn.ModuleList(nn.Sequential(conv_bn(c, 8, act=act), nn.Conv2d(8, 3, 1)) for c in (12, 16))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.deep(fine)
        fine = self.neck(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], 1))
        levels = [torch.cat([self.boxes[i](f), self.classes[i](f)], 1) for i, f in enumerate((fine, coarse))]
        y = torch.cat([level.view(level.shape[0], 19, -1) for level in levels], 2)
        box, cls = y.split((16, 3), 1)
        box = box.view(box.shape[0], 4, 4, -1).transpose(1, 2).softmax(1)  # distribution focal loss
        box = (box * torch.arange(4.0).view(1, 4, 1, 1)).sum(1)
        return torch.cat([box, cls.sigmoid()], 1)


@family((3, 16, 16), forms="ts dyn", name="pixelshuffle")
class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(12, 12, 3, padding=1))
            for _ in range(2)
        )
        self.up, self.tail = nn.Conv2d(12, 32, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = start = self.head(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        y = F.pixel_shuffle(self.up(y + start), 2)
        return self.tail(F.relu(y)) + F.interpolate(x, scale_factor=2.0, mode="bilinear")


@family((1, 24, 24), (1, 24, 24), forms="ts dyn")
class Siamese(nn.Module):
    """Two inputs, one backbone: every weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(1, 8), nn.MaxPool2d(2), conv_bn(8, 12), nn.MaxPool2d(2), conv_bn(12, 16))
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (self.backbone(x).mean([2, 3]) for x in (left, right))
        return self.fc2(F.relu(self.fc1(torch.cat([torch.abs(a - b), a * b], 1))))


# --- transformers and their relatives ---------------------------------------------------------------------------


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim)
        self.pw1, self.act, self.pw2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pw2(self.act(self.pw1(y)))
        return x + y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@family((3, 32, 32), forms="ts dyn")
class ConvNeXt(nn.Sequential):
    def __init__(self) -> None:
        body = [ConvNeXtBlock(8), LayerNorm2d(8), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12)]
        super().__init__(nn.Conv2d(3, 8, 4, 4), LayerNorm2d(8), *body, Mean(), nn.LayerNorm(12), nn.Linear(12, 10))


class Attention(nn.Module):
    """q, k and v from one matrix."""

    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, t, c))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, fused)
        self.norm2, self.mlp = (
            nn.LayerNorm(dim),
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        dim = 24
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 17, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, 3, fused) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


family((3, 32, 32), forms="ts dyn", name="vit")(ViT)
family((3, 32, 32), forms="ts dyn", name="vit_fused", fused=True)(ViT)


@family((3, 16, 32), forms="ts", name="crnn")
class CRNN(nn.Module):
    """Text recogniser: convolutions, then a bidirectional LSTM over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(conv_bn(3, 8), nn.MaxPool2d(2), conv_bn(8, 12), nn.MaxPool2d((8, 1)))
        self.rnn, self.fc = nn.LSTM(12, 8, bidirectional=True), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x).squeeze(2).permute(2, 0, 1)
        return self.fc(self.rnn(x)[0]).permute(1, 0, 2)


# --- writing ----------------------------------------------------------------------------------------------------


def randomise(model: nn.Module, *, alike: bool) -> None:
    """Weights that keep the scale, and normalisations that are no identity.

    `alike`: every second BatchNormalization has the same affine parameters, as happens when these are not trained.
    """
    for index, module in enumerate(model.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            if alike and index % 2:
                nn.init.constant_(module.weight, 0.9)
                nn.init.constant_(module.bias, 0.1)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)


def export(name: str, form: str, path: Path, *, external: bool = False) -> None:
    cls, options, shapes, _ = FAMILIES[name]
    torch.manual_seed(sum(name.encode()))
    model = cls(**options)
    randomise(model, alike=form == "keep")
    model.eval()
    args = tuple(torch.randn(2, *shape) for shape in shapes)
    inputs = ["image"] if len(shapes) == 1 else ["left", "right"]
    moving = {0: "N", 2: "H", 3: "W"} if name == "unet_dynamic" else {0: "N"}
    common = {"input_names": inputs, "output_names": ["output"], "verbose": False}
    path.parent.mkdir(exist_ok=True)
    if form == "dyn":
        batch = torch.export.Dim("N")
        sizes = (
            {0: batch, 2: 4 * torch.export.Dim("H4"), 3: 4 * torch.export.Dim("W4")} if len(moving) > 1 else {0: batch}
        )
        torch.onnx.export(
            model,
            args,
            path,
            dynamo=True,
            opset_version=18,
            external_data=external,
            dynamic_shapes=[sizes] * len(args),
            **common,
        )
    else:
        if form == "keep":
            common |= {
                "training": torch.onnx.TrainingMode.PRESERVE,
                "do_constant_folding": False,
                "keep_initializers_as_inputs": False,
            }
        axes = dict.fromkeys([*inputs, "output"], moving)
        torch.onnx.export(model, args, path, dynamo=False, opset_version=17, dynamic_axes=axes, **common)
    tidy(path)


def tidy(path: Path) -> None:
    """Drop what names this machine: stack traces and the like."""
    model = onnx.load(path, load_external_data=False)
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    path.write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these families")
    names = parser.parse_args().names or list(FAMILIES)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in names:
        for form in FAMILIES[name][3].split():
            path = HERE / f"{name}.{form}.onnx"
            export(name, form, path)
            print(f"{path.name:32} {path.stat().st_size:8,}", file=sys.stderr)
    if "resnet_basic" in names:
        export("resnet_basic", "dyn", HERE / "external" / "model.onnx", external=True)


if __name__ == "__main__":
    main()
