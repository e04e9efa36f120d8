"""What a second Ray worker is worth: `python tests/benchmarks/workers.py [--samples 256]`, in an environment with Ray.

Two clusters of this machine, with one and with two workers of one core; the same shards of random pictures through
ResNet-50, interleaved. The time is that of the shards and their merges, without starting the cluster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from models import save_all

from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.steps import cluster
from pfa_onnx.steps.measure import open_dataset


def warm() -> None:
    """Import in a worker what a shard needs."""
    from pfa_onnx.steps import measure  # noqa: F401

    time.sleep(1)


def seconds(path: Path, data: Path, workers: int, shards: int) -> float:
    """Return the time of one calibration by so many workers, warmed up."""
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        graph, options = load(path), DataOptions(str(data), providers="cpu", batch_size=8)
        ray.get([ray.remote(num_cpus=1)(warm).remote() for _ in range(workers)])
        cluster.SAMPLES, cluster.SHARDS = 1, shards // workers
        start = time.perf_counter()
        cluster._gather(ray, graph, options, Hooks(), open_dataset(graph, options))
        return time.perf_counter() - start
    finally:
        ray.shutdown()


def compare(samples: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of one worker and of two."""
    folder = Path(tempfile.gettempdir()) / "pfa-onnx-benchmarks"
    folder.mkdir(exist_ok=True)
    path, data = save_all(folder)["ResNet-50"], folder / f"pictures_{samples}.npy"
    if not data.exists():
        np.save(data, np.random.default_rng(0).random((samples, 3, 224, 224), dtype=np.float32))
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in times.items():
            found.append(seconds(path, data, workers, 4))
    one, two = (statistics.median(found) for found in times.values())
    return one, two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    one, two = compare(options.samples, options.rounds)
    print(f"one worker {one:.1f} s, two workers {two:.1f} s: {two / one:.2f} of the time")


if __name__ == "__main__":
    main()
