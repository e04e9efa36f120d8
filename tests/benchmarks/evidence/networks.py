"""The networks of the evidence, in PyTorch: the paper's SimpleCNN, a small VGG, a residual network, a tiny one.

Every convolution is followed by a batch normalisation of its own. Widths are parameters, so that a network of another
footprint can be trained from scratch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


def _unit(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(cout), nn.ReLU()]


class SimpleCNN(nn.Module):
    """Appendix A of the paper with a quarter of its widths: 96 and 192 are 24 and 48.

    The paper does not say where the image shrinks; here it is the third and the sixth convolution, as in the network
    that it is modelled on (All-CNN-C). Dropout is 0.1: the narrow network trains for a few epochs only.
    """

    def __init__(self, width: int = 24, classes: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        w, v = width, 2 * width
        self.body = nn.Sequential(
            *_unit(1, w), *_unit(w, w), *_unit(w, w, stride=2), nn.Dropout(dropout),
            *_unit(w, v), *_unit(v, v), *_unit(v, v, stride=2), nn.Dropout(dropout),
            *_unit(v, v), *_unit(v, v, 1), *_unit(v, classes, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


class VGG(nn.Module):
    """Eight convolutions, three poolings, a flattened image, two fully connected layers."""

    def __init__(
        self, widths: tuple[int, ...] = (32, 0, 64, 64, 0, 128, 128, 0, 128, 128, 128), hidden: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 1
        for width in widths:
            layers += _unit(cin, width) if width else [nn.MaxPool2d(2)]
            cin = width or cin
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(cin * 9, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Block(nn.Module):
    """Two convolutions and a shortcut, which is a projection where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_unit(cin, cout, stride=stride))
        self.second = nn.Sequential(*_unit(cout, cout)[:2])
        self.short = nn.Sequential(*_unit(cin, cout, 1, stride)[:2]) if (cin, stride) != (cout, 1) else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.second(self.first(x)) + self.short(x))


class ResNet(nn.Module):
    """ResNet-20 as for CIFAR: three stages of three blocks."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 3) -> None:
        super().__init__()
        layers, cin = _unit(1, widths[0]), widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(Block(cin, width, 2 if stage and not block else 1))
                cin = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(cin, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Tiny(nn.Module):
    """Three convolutions for images of 8 x 8, to try everything in seconds."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(*_unit(1, width), *_unit(width, 2 * width, stride=2), *_unit(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"simplecnn": SimpleCNN, "vgg": VGG, "resnet20": ResNet}
TITLES = {"simplecnn": "SimpleCNN", "vgg": "VGG", "resnet20": "ResNet-20", "tiny": "tiny"}


def build(name: str, seed: int = 0) -> nn.Module:
    """Build a network with weights drawn by a seed."""
    torch.manual_seed(seed)
    return Tiny() if name == "tiny" else NETWORKS[name]()
