"""Every number on speed, with its target: `python tests/benchmarks/speed.py [--only calibration,cuda,...]`.

calibration   calibration / plain inference on the CPU, medians of interleaved runs
cuda          the same on CUDA at several batch sizes, where there is a device; responses against the CPU's
prune         a whole `prune` of ResNet-50 with 512 JPEGs / decoding or inference alone
spectra       spectra, recipes and selections / the eigenvalue calls alone, VGG-16
memory        peak memory with 10,000 and with 1,000 samples
target        `prune --params 0.5` of ResNet-50 from saved statistics, the whole process
ray           two workers of one core / one worker, where Ray is installed
imagenet      what 1.28 million images would take, and each layer's arithmetic beside the paper's (section 4.5)
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import calibration as calibrating
import numpy as np
import spectra
from models import save_all
from PIL import Image

from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Coupling, Layer, Method
from pfa_onnx.stats.covariance import BLOCK, Accumulator
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.pfa import spectrum
from pfa_onnx.stats.selection import removal_orders
from pfa_onnx.stats.session import Runner, nvidia_device
from pfa_onnx.stats.threads import available_cores
from pfa_onnx.steps import measure as step
from pfa_onnx.steps.calibration import Calibration

FOLDER = Path(tempfile.gettempdir()) / "pfa-onnx-benchmarks"
MODELS = ("VGG-16", "ResNet-50", "MobileNetV2")
IMAGENET = 1_281_167
PAPER = {64: 1.24, 128: 2.8, 256: 4.6, 512: 9.3, 4096: 127.5}  # seconds a layer, section 4.5: one CPU of 2.3 GHz

Row = tuple[str, str, str]


def calibration_rows(rounds: int) -> Iterator[Row]:
    for name in MODELS:
        found = calibrating.time_ratio(save_all(FOLDER)[name], rounds, 8)
        yield f"calibration / plain inference, CPU, {name}, batch 8", f"{found[2]:.2f}", "1.05"


def cuda_rows(rounds: int) -> Iterator[Row]:
    if not nvidia_device():
        yield "calibration / plain inference, CUDA", "no device", "1.10"
        return
    for name in MODELS:
        path = save_all(FOLDER)[name]
        for size in (32, 64, 128):
            plain, taps, ratio = cuda_ratio(path, size, rounds)
            rates = f"{size / plain:,.0f} and {size / taps:,.0f} images/s"
            yield f"calibration / plain inference, CUDA, {name}, batch {size}", f"{ratio:.3f} ({rates})", "1.10"
        yield f"covariances, CUDA against CPU, {name}", f"{cuda_error(path):.1e}", "1e-3 (float32 responses)"


def batches(size: int, count: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    return [
        Batch({"image": rng.standard_normal((size, 3, 224, 224), dtype=np.float32)}, ("",) * size, (None,) * size)
        for _ in range(count)
    ]


def cuda_calibration(path: Path, size: int, providers: str = "cuda") -> tuple[Calibration, Runner]:
    graph = load(path)
    shapes, probed = step.learn_shapes(graph, {"image": np.zeros((1, 3, 224, 224), np.float32)})
    options = DataOptions(providers=providers)  # type: ignore[arg-type]
    calibration = Calibration(graph, step.find_layers(graph, shapes), options, size, probed=probed)
    return calibration, Runner(path, providers=providers)  # type: ignore[arg-type]


def cuda_ratio(path: Path, size: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a batch, plain and calibrating, and their ratio: runs of 32 batches that are already there."""
    calibration, plain = cuda_calibration(path, size)
    some = batches(size, 2)
    ready = [calibration.prepare(batch) for batch in some]
    there = [plain.upload(batch.feeds) for batch in some]

    def calibrate() -> None:
        for k in range(32):
            calibration.add(ready[k % 2])

    def infer() -> None:
        for k in range(32):
            plain.run_there(there[k % 2])

    pairs = []
    for k in range(rounds + 1):
        seconds = {}
        for work in (calibrate, infer) if k % 2 else (infer, calibrate):
            start = time.perf_counter()
            work()
            seconds[work] = (time.perf_counter() - start) / 32
        if k:  # the first pair warms up
            pairs.append((seconds[infer], seconds[calibrate]))
    one, other = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
    return one, other, statistics.median(b / a for a, b in pairs)


def cuda_error(path: Path) -> float:
    """The largest difference of a covariance, over its layer's largest, after 40 batches of 8."""
    some = batches(8, 40)
    moments = []
    for providers in ("cuda", "cpu"):
        calibration, _ = cuda_calibration(path, 8, providers)
        for batch in some:
            calibration.add(calibration.prepare(batch))
        moments.append(calibration.moments())
    return max(abs(moments[0][k].m2 - one.m2).max() / abs(one.m2).max() for k, one in moments[1].items())


def pictures(count: int) -> Path:
    """A folder of JPEGs of 500 x 375, about as hard to decode as photographs."""
    folder = FOLDER / f"jpegs_{count}"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for k in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
                (500, 375), Image.BICUBIC
            )
            fine = rng.normal(0, 12, (375, 500, 1))
            picture = np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{k:05}.jpg", quality=90)
    return folder


def prune_rows(rounds: int) -> Iterator[Row]:
    path, data = save_all(FOLDER)["ResNet-50"], pictures(512)
    graph, runner = load(path), Runner(path, providers="cpu")
    options = DataOptions(str(data), providers="cpu")
    ready = list(step.open_dataset(graph, options).batches(8))

    def decode() -> None:
        for _ in step.open_dataset(graph, options).batches(8):
            pass

    def infer() -> None:
        for batch in ready:
            runner.run(batch.feeds)

    def prune() -> None:
        command("prune", path, "--data", data, "--kl", "--providers", "cpu", "-o", FOLDER / "small.onnx")

    times: dict[Callable[[], None], list[float]] = {decode: [], infer: [], prune: []}
    for _ in range(min(rounds, 3)):
        for work, found in times.items():
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    alone, inference, whole = (statistics.median(found) for found in times.values())
    how = f"{whole / max(alone, inference):.2f} ({whole:.1f} s; decoding {alone:.1f}, inference {inference:.1f})"
    yield "prune ResNet-50, 512 JPEGs / the longer of decoding and inference", how, "1.15"


def command(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "pfa_onnx", *map(str, words), "-q"], check=True, capture_output=True)


def spectra_rows(rounds: int) -> Iterator[Row]:
    measured = {channels: spectra.measure(channels) for channels in sorted(set(spectra.VGG16))}
    eigen, total = (sum(measured[channels][k] for channels in spectra.VGG16) for k in (0, 1))
    yield "spectra, recipes, selections / eigenvalue calls alone, VGG-16", f"{total / eigen:.2f}", "1.2"


def memory_rows(rounds: int) -> Iterator[Row]:
    sample = Path(__file__).parents[2] / "sample_models" / "fashion" / "model.onnx"
    peaks = []
    for count in (1000, 10000):
        data = FOLDER / f"samples_{count}.npy"
        if not data.exists():
            np.save(data, np.random.default_rng(0).random((count, 1, 28, 28), dtype=np.float32))
        peaks.append(calibrating.peak_megabytes(sample, data))
    shown = f"{peaks[1] / peaks[0]:.2f} ({peaks[1]:.0f} / {peaks[0]:.0f} MB)"
    yield "peak memory, 10,000 / 1,000 samples", shown, "1.02"


def target_rows(rounds: int) -> Iterator[Row]:
    path, stats, data = save_all(FOLDER)["ResNet-50"], FOLDER / "resnet-50.npz", FOLDER / "target.npy"
    if not data.exists():
        np.save(data, np.random.default_rng(0).random((64, 3, 224, 224), dtype=np.float32))
    few = "--allow-few-samples"
    command("analyze", path, "--data", data, few, "--save-stats", stats)
    times = []
    for _ in range(max(3, rounds // 3)):
        start = time.perf_counter()
        command("prune", path, "--stats", stats, "--params", 0.5, few, "-o", FOLDER / "small.onnx")
        times.append(time.perf_counter() - start)
    yield "prune --params 0.5, ResNet-50, from statistics", f"{statistics.median(times):.1f} s", "5 s"


def ray_rows(rounds: int) -> Iterator[Row]:
    if importlib.util.find_spec("ray") is None:
        yield "Ray, two workers / one", "Ray is not installed", "0.6"
        return
    import workers

    one, two = workers.compare(256, min(rounds, 2))
    yield "Ray, two workers of one core / one", f"{two / one:.2f} ({two:.1f} / {one:.1f} s)", "0.6"


def imagenet_rows(rounds: int) -> Iterator[Row]:
    providers = ["cpu", "cuda"] if nvidia_device() else ["cpu"]
    for name in MODELS:
        for provider in providers:
            path = save_all(FOLDER)[name]
            seconds = (
                cuda_ratio(path, 64, 3)[1] / 64 if provider == "cuda" else calibrating.time_ratio(path, 3, 8)[1] / 8
            )
            hours = [f"{IMAGENET * seconds / 3600 / workers:.2f}" for workers in (1, 8, 64)]
            what = f"ImageNet, {name}, {provider}{f' of {available_cores()} cores' if provider == 'cpu' else ''}"
            yield what, f"{' / '.join(hours)} h with 1 / 8 / 64 workers, extrapolated", "-"
    for channels, paper in PAPER.items():
        fold, rest = layer_seconds(channels)
        shown = f"{IMAGENET / BLOCK * fold + rest:.2f} s, of which {rest:.2f} s after the last image"
        yield f"a layer of {channels} channels on ImageNet, one core, without inference", shown, f"{paper} s (paper)"


def layer_seconds(channels: int) -> tuple[float, float]:
    """Seconds of adding up BLOCK responses, and of spectrum and selection."""
    rows = np.random.default_rng(0).standard_normal((BLOCK, channels), dtype=np.float32)
    sums = Accumulator(channels)
    sums.add(rows)
    folds = []
    for _ in range(3):
        start = time.perf_counter()
        sums.add(rows)
        folds.append(time.perf_counter() - start)
    moments = sums.moments()
    start = time.perf_counter()
    spectrum(moments.covariance)
    layer = Layer("y", "conv", "Conv", "w", np.arange(1, channels + 1))
    removal_orders(Coupling((layer,), {}), Method("kl"), {"y": moments.m2})
    return min(folds), time.perf_counter() - start


PARTS = {
    "calibration": calibration_rows,
    "cuda": cuda_rows,
    "prune": prune_rows,
    "spectra": spectra_rows,
    "memory": memory_rows,
    "target": target_rows,
    "ray": ray_rows,
    "imagenet": imagenet_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    print("| what | measured | at most |\n|---|---|---|")
    for part in options.only.split(","):
        for row in PARTS[part](options.rounds):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
