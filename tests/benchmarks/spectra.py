"""What PFA's arithmetic costs next to the eigenvalues alone: `python tests/benchmarks/spectra.py [--full]`.

For each width C: seconds in eigvalsh, seconds in everything between the covariance and the removed
channels (spectrum, both recipes, selection), and their ratio. Then the same over VGG-16's layers.
"""

import argparse
import gc
import time

import numpy as np

from pfa_onnx.recipe import Coupling, Layer, Method
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.pfa import asked, spectrum
from pfa_onnx.stats.selection import removal_orders, wish
from pfa_onnx.stats.threads import one_blas_thread

WIDTHS = (64, 256, 512, 1024, 2048)
VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096)
VGG16_FULLY_CONVOLUTIONAL = (*VGG16[:-2], 512)


def covariance(channels):
    """Correlated responses: low rank and noise, as layers have."""
    rng = np.random.default_rng(channels)
    rank = max(channels // 4, 1)
    rows = rng.normal(size=(2 * channels, rank)) @ rng.normal(size=(rank, channels))
    return Moments.of(rows + rng.normal(size=rows.shape)).covariance


def eigenvalues_alone(matrix):
    with one_blas_thread():
        return np.linalg.eigvalsh(matrix)


def everything(matrix):
    layer = Layer("y", "conv", "Conv", "w", np.arange(1, len(matrix) + 1))
    coupling = Coupling((layer,), {})
    spectra = {"y": spectrum(matrix)}
    orders = removal_orders(coupling, Method("kl"), {"y": matrix})
    for method in (Method("kl"), Method("energy", tau=0.98)):
        wish(coupling, asked(spectra, method), orders)


def seconds(function, matrix, repeats):
    """The best of some runs: the machine's noise only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(matrix)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(channels):
    gc.collect()
    matrix = covariance(channels)
    repeats = 5 if channels <= 512 else 2 if channels <= 1024 else 1
    return seconds(eigenvalues_alone, matrix, repeats), seconds(everything, matrix, repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also C = 4096 and VGG-16 with it: about a minute")
    full = parser.parse_args().full
    widths = (*WIDTHS, 4096) if full else WIDTHS
    models = {"VGG-16, one FC 512": VGG16_FULLY_CONVOLUTIONAL} | ({"VGG-16, FC 4096": VGG16} if full else {})
    measured = {channels: measure(channels) for channels in (*widths, 128)}
    print(f"{'channels':>20} {'eigenvalues s':>14} {'everything s':>14} {'ratio':>6}")
    rows = [(str(channels), [channels]) for channels in widths] + list(models.items())
    for name, layers in rows:
        eigen, total = (sum(measured[channels][which] for channels in layers) for which in (0, 1))
        print(f"{name:>20} {eigen:14.4f} {total:14.4f} {total / eigen:6.2f}")


if __name__ == "__main__":
    main()
