"""What calibration costs beyond the model's own inference, and whether its memory depends on the samples.

    python tests/benchmarks/calibration.py [--rounds 15] [--batch-size 8]

Time: plain onnxruntime inference and the tapped model with its statistics, the same batches, one process,
interleaved; the median of the ratios is printed. Memory: peak of a whole `analyze --save-stats` process on
1,000 and on 10,000 samples of a mapped .npy file.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from models import save_all

from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.model import load
from pfa_onnx.graph.plan import legalise, removable, settle
from pfa_onnx.options import DataOptions
from pfa_onnx.stats.covariance import BLOCK
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.session import Runner
from pfa_onnx.steps import measure as step
from pfa_onnx.steps.apply import cut_copy
from pfa_onnx.steps.calibration import Calibration


def time_ratio(path: Path, rounds: int, size: int) -> tuple[float, float, float]:
    """Return (plain seconds, calibrating seconds, median ratio) of one batch."""
    graph = load(path)
    rng = np.random.default_rng(0)
    feeds = {"image": rng.standard_normal((size, 3, 224, 224), dtype=np.float32)}
    shapes, _ = step.learn_shapes(graph, feeds)
    layers = step.find_layers(graph, shapes)
    calibration = Calibration(graph, layers, DataOptions(providers="cpu"), size)
    plain = Runner(path, providers="cpu")
    batch = Batch(feeds, ("",) * size, (None,) * size)
    pairs = []
    for k in range(rounds + 1):
        order = [("plain", lambda: plain.run(feeds)), ("taps", lambda: calibration.add(calibration.prepare(batch)))]
        seconds = {}
        for name, run in order if k % 2 else order[::-1]:
            start = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - start
        if k:  # the first pair warms up
            pairs.append((seconds["plain"], seconds["taps"]))
    # statistics are folded every BLOCK rows, more than these rounds fill: charge each batch its share of a fold
    some = {output: rng.standard_normal((BLOCK, sums._seen.channels)) for output, sums in calibration._sums.items()}
    calibration.moments()
    start = time.perf_counter()
    for output, rows in some.items():
        calibration._sums[output].add(rows.astype(np.float32))
    folding = (time.perf_counter() - start) * size / BLOCK
    plain_s, taps_s = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return plain_s, taps_s + folding, statistics.median((t + folding) / p for p, t in pairs)


def plan_seconds(path: Path) -> float:
    """Return the seconds of trace, plan and cut, calibration aside."""
    graph = load(path)
    feeds = {"image": np.zeros((1, 3, 224, 224), dtype=np.float32)}
    shapes, _ = step.learn_shapes(graph, feeds)
    start = time.perf_counter()
    trace = settle(graph, shapes)
    order = np.random.default_rng(0).permutation(removable(trace))
    keep = legalise(trace, order[: len(order) // 2].tolist(), order)
    cut_copy(graph, follow(trace, keep))
    return time.perf_counter() - start


def peak_megabytes(model: Path, data: Path) -> float:
    """Return the peak memory of one analysis, as its own process."""
    code = (
        "import re, sys; from pathlib import Path; from pfa_onnx.pipeline import analyze; "
        "from pfa_onnx.options import DataOptions; "
        "analyze(Path(sys.argv[1]), DataOptions(data=sys.argv[2], batch_size=8, providers='cpu')); "
        # not getrusage: its peak is inherited from the process that forked
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(model), str(data)], capture_output=True, text=True, check=True
    )
    return float(out.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "pfa-onnx-benchmarks")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    paths = save_all(options.folder)
    print(
        f"| model | plain, s a batch of {options.batch_size} | calibrating, s | ratio (median) | trace + plan + cut, s |"
    )
    print("|---|---|---|---|---|")
    for name, path in paths.items():
        plain, taps, ratio = time_ratio(path, options.rounds, options.batch_size)
        print(f"| {name} | {plain:.3f} | {taps:.3f} | {ratio:.2f} | {plan_seconds(path):.2f} |", flush=True)
    sample = Path(__file__).parents[2] / "sample_models" / "fashion" / "model.onnx"
    print("\n| samples | peak MB |\n|---|---|")
    for count in (1000, 10000):
        data = options.folder / f"samples_{count}.npy"
        if not data.exists():
            np.save(data, np.random.default_rng(0).random((count, 1, 28, 28), dtype=np.float32))
        print(f"| {count:,} | {peak_megabytes(sample, data):.0f} |", flush=True)


if __name__ == "__main__":
    main()
