"""The images: Fashion-MNIST as Debian installs it, and scikit-learn's digits for quick runs.

apt-get install dataset-fashion-mnist       # or the four .gz files of the data set, in any folder
"""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(tempfile.gettempdir()) / "pfa-onnx-evidence"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION = 5000  # training images whose responses are measured, without their labels
MEAN, DEVIATION = 0.2860, 0.3530


@dataclass(frozen=True)
class Images:
    """Normalised images [N, 1, H, W] with labels [N]; calibration is a part of the training images."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    calibration: np.ndarray

    def save(self, folder: Path) -> None:
        """Write what analysis and test need, as networks take it."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "calibration.npy", self.calibration)
        np.save(folder / "test_x.npy", self.test_x)
        np.save(folder / "test_y.npy", self.test_y)


def fashion(installed: Path = INSTALLED) -> Images:
    """Return Fashion-MNIST: 60,000 images to train, 10,000 to test, 28 x 28, ten classes."""
    if not installed.exists():
        raise SystemExit(f"{installed}: no such folder; install Debian's dataset-fashion-mnist, or give --dataset")
    train, test = (_pixels(installed / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    train_y, test_y = (_read(installed / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    return _images(train, train_y, test, test_y, CALIBRATION)


def digits() -> Images:
    """Return scikit-learn's digits: 1,797 of 8 x 8, every fourth of them to test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images[:, None] / 16 - 0.3).astype(np.float32)
    test = np.arange(len(pixels)) % 4 == 3
    return _images(pixels[~test], found.target[~test], pixels[test], found.target[test], 1000)


def _images(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray, calibration: int) -> Images:
    chosen = np.random.default_rng(0).permutation(len(train))[:calibration]
    return Images(train, train_y.astype(np.int64), test, test_y.astype(np.int64), train[np.sort(chosen)])


def _pixels(path: Path) -> np.ndarray:
    return ((_read(path)[:, None] / np.float32(255) - MEAN) / DEVIATION).astype(np.float32)


def _read(path: Path) -> np.ndarray:
    """Return the array of an idx file of bytes: [0, 0, 8, rank], sizes (big-endian), values."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
