"""Whether a rounded model is ever slower than its original: `python tests/benchmarks/rounding.py [--rounds 9]`.

For every model and share of channels kept: the multiple that `--round-to auto` takes, and the run time over the
original's, measured anew and in pairs, of that model, of the unrounded one and of multiples of 8.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from models import save_all

from pfa_onnx import pipeline
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.stats.latency import paired_latency
from pfa_onnx.stats.session import Runner

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion"


def ratio(original: Path, pruned: Path, feeds: dict[str, np.ndarray], rounds: int) -> float:
    one, other = Runner(original, providers="cpu"), Runner(pruned, providers="cpu")
    found = paired_latency(lambda: one.run(feeds), lambda: other.run(feeds), repeats=rounds, min_seconds=2.0)
    return found.ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", default="sample,MobileNetV2,ResNet-50")
    rounds, names = (lambda o: (o.rounds, o.models.split(",")))(parser.parse_args())
    folder = Path(tempfile.gettempdir()) / "pfa-onnx-benchmarks"
    folder.mkdir(exist_ok=True)
    paths = {"sample": SAMPLE / "model.onnx", **save_all(folder)}
    print("| model | channels kept | auto takes | auto | not rounded | multiples of 8 |\n|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name in names:
        shape = (1, 28, 28) if name == "sample" else (3, 224, 224)
        data, stats, out = rng.random((16, *shape), dtype=np.float32), folder / "rounding.npz", folder / "rounded.onnx"
        options = DataOptions(data, providers="cpu", batch_size=8)
        pipeline.analyze(paths[name], options, save_stats=stats)
        spec = Runner(paths[name], providers="cpu").inputs[0].name
        for share in (0.95, 0.8, 0.6):
            cells, taken = [], None
            for multiple in ("auto", 1, 8):
                plan = PlanOptions(round_to=multiple, allow_few_samples=True)  # type: ignore[arg-type]
                report = pipeline.prune(
                    paths[name],
                    DataOptions(providers="cpu", batch_size=8),
                    Method("uniform", ratio=share),
                    plan,
                    output=out,
                    stats=stats,
                )
                taken = taken or report.round_to
                cells.append(f"{ratio(paths[name], out, {spec: data[:8]}, rounds):.2f}")
            print(f"| {name} | {share:.0%} | {taken} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
