"""What a model too large for protobuf costs: peak memory and time of inference, `prune` and `check`, as Markdown.

    python tests/benchmarks/large.py FOLDER [--gigabytes 3] [--kind conv|mlp] [--keep 0.9] [--trace]

The model is random and deep, its weights in an external file that is written layer by layer. FOLDER needs room for
three times the model's size; everything is removed again unless --leave says otherwise. Peaks are what the kernel
counts for the whole process (resident, mapped files included). --trace prints a process's memory over time, to
stderr: anonymous memory and mapped files apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 16
INFER = """
import sys, numpy, onnxruntime
data = numpy.load(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for k in range(0, len(data), int(sys.argv[3])):
    session.run(None, {"x": data[k : k + int(sys.argv[3])]})
"""


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    peak: float  # GB
    seconds: float
    stderr: str


# --- the model --------------------------------------------------------------------------------------------------


class Writer:
    """Collects a model whose weights go straight to the data file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "large.onnx"
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.bytes = 0
        self._file = (folder / "large.onnx.data").open("wb")

    def weight(self, shape: tuple[int, ...], gain: float = 1.0) -> str:
        """Draw a weight, write it, and forget it."""
        scale = np.float32(gain * np.sqrt(2 / np.prod(shape[1:])))
        array = self.rng.standard_normal(shape, dtype=np.float32)
        array *= scale
        name = f"w{len(self.tensors)}"
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "large.onnx.data"), ("offset", self.bytes), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        array.tofile(self._file)
        self.tensors.append(tensor)
        self.bytes += array.nbytes
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def save(self, output: str, shape: list[object]) -> Path:
        self._file.close()
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="end"))
        graph = helper.make_graph(
            self.nodes,
            "large",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
            [*self.tensors, numpy_helper.from_array(np.array([2, 3]), "space")],
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        self.path.write_bytes(model.SerializeToString())
        return self.path


def convolutions(folder: Path, size: float, width: int) -> tuple[Path, tuple[int, ...]]:
    """Residual blocks of 3x3 convolutions."""
    w = Writer(folder)
    x = w.op("Conv", "x", w.weight((width, 3, 3, 3)), pads=[1] * 4, strides=[2, 2])
    while w.bytes < size:
        y = w.op("Relu", w.op("Conv", x, w.weight((width, width, 3, 3)), pads=[1] * 4))
        x = w.op("Add", x, w.op("Conv", y, w.weight((width, width, 3, 3), 0.1), pads=[1] * 4))
    x = w.op("Flatten", w.op("GlobalAveragePool", x))
    return w.save(w.op("Gemm", x, w.weight((10, width)), transB=1), ["N", 3, 8, 8]), (3, 8, 8)


def perceptron(folder: Path, size: float, width: int) -> tuple[Path, tuple[int, ...]]:
    """Residual blocks of two linear layers: covariances are then twice as large as the weights."""
    w = Writer(folder)
    x = w.op("Gemm", "x", w.weight((width, 64)), transB=1)
    while w.bytes < size:
        y = w.op("Relu", w.op("Gemm", x, w.weight((width, width)), transB=1))
        x = w.op("Add", x, w.op("Gemm", y, w.weight((width, width), 0.1), transB=1))
    return w.save(w.op("Gemm", x, w.weight((10, width)), transB=1), ["N", 64]), (64,)


KINDS = {"conv": convolutions, "mlp": perceptron}


# --- one process ------------------------------------------------------------------------------------------------


def measured(command: list[str], *, trace: bool = False) -> Cost:
    """Run a process; its peak is the kernel's own count. Ends the benchmark when it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        if trace:
            threading.Thread(target=_watch, args=(process.pid, start), daemon=True).start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        cost = Cost(usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - start, log.read())
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{cost.stderr[-2000:]}")
    return cost


def _watch(pid: int, start: float) -> None:
    last = (0.0, 0.0)
    while True:
        try:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            now = tuple(int(status[key].split()[0]) / 1e6 for key in ("RssAnon", "RssFile"))
        except (OSError, KeyError):
            return
        if max(abs(a - b) for a, b in zip(now, last, strict=True)) > 0.25:
            seconds = time.perf_counter() - start
            print(f"{seconds:7.1f} s  anonymous {now[0]:6.2f}  mapped {now[1]:6.2f} GB", file=sys.stderr, flush=True)
            last = now
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of float32 weights, at least")
    parser.add_argument("--kind", choices=KINDS, default="conv")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--keep", type=float, default=0.9, help="share of every layer's channels: --uniform")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--leave", action="store_true", help="leave the files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="large-") as name:
        benchmark(Path(name), options)


def benchmark(folder: Path, options: argparse.Namespace) -> None:
    """Make the model, run everything, print the table."""
    model, shape = KINDS[options.kind](folder, options.gigabytes * 1e9, options.width)
    data, pruned, size = folder / "data.npy", folder / "pruned.onnx", str(SAMPLES)
    np.save(data, np.random.default_rng(1).standard_normal((SAMPLES, *shape), dtype=np.float32))
    gigabytes = sum(path.stat().st_size for path in folder.glob("large.onnx*")) / 1e9
    os.environ["TMPDIR"] = str(folder)
    tool = [sys.executable, "-m", "pfa_onnx"]
    shared = ["--data", str(data), "-b", size, "--providers", "cpu"]
    choice = ["--uniform", str(options.keep), "--allow-few-samples"]
    inference = measured([sys.executable, "-c", INFER, str(model), str(data), size], trace=options.trace)
    prune = measured([*tool, "prune", str(model), *shared, *choice, "-o", str(pruned), "-v"], trace=options.trace)
    check = measured([*tool, "check", str(model), str(pruned), *shared], trace=options.trace)
    written = sum(path.stat().st_size for path in folder.glob("pruned.onnx*")) / 1e9
    print(f"{options.kind}, width {options.width}: {gigabytes:.2f} GB, pruned {written:.2f} GB\n")
    print("| process | peak, GB | of the model | less one inference | seconds |")
    print("|---|---|---|---|---|")
    for name, cost in (("inference", inference), ("prune", prune), ("check", check)):
        more = f"{(cost.peak - inference.peak) / gigabytes:.1f} times"
        print(f"| {name} | {cost.peak:.1f} | {cost.peak / gigabytes:.1f} times | {more} | {cost.seconds:.0f} |")
    print("\n" + "\n".join(line for line in prune.stderr.splitlines() if " s" in line))


if __name__ == "__main__":
    main()
