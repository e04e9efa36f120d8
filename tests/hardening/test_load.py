"""Two hundred models in one process: neither memory nor handles nor threads grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process is looked at in /proc")

MANY = r"""
import gc, json, os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, onnx
from networks import NETWORKS, feeds
import pfa_onnx
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method
folder, count = Path(sys.argv[2]), int(sys.argv[3])
names = ["plain", *[name for name in sorted(NETWORKS) if name not in set(sys.argv[4].split(","))]]

def look():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

done = failed = 0
found = []
for k in range(count):
    name = names[k % min(len(names), count // 4)]
    proto = NETWORKS[name](np.random.default_rng(0))
    onnx.save(proto, folder / "m.onnx")
    np.savez(folder / "d.npz", **feeds(proto, np.random.default_rng(0), n=24))
    data = DataOptions(data=str(folder / "d.npz"), providers="cpu")
    try:
        pfa_onnx.prune(
            folder / "m.onnx", data, Method("uniform", ratio=0.5), PlanOptions(allow_few_samples=True),
            output=folder / "o.onnx", save_stats=folder / "s.npz",
        )
        pfa_onnx.check(folder / "m.onnx", folder / "o.onnx", data, latency=False)
        done += 1
    except pfa_onnx.PfaError:
        failed += 1
    if k % 7 == 3:
        np.savez(folder / "d.npz", other=np.zeros(3))
        try:
            pfa_onnx.analyze(folder / "m.onnx", data)
        except pfa_onnx.PfaError:
            pass
    found.append(look())
print(json.dumps({"done": done, "failed": failed, "found": found, "left": sorted(os.listdir(folder))}))
"""


def many(tmp_path, count, without=""):
    tests = Path(__file__).parents[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MANY, str(tests), str(tmp_path), str(count), without]
    run = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def growth(found, start, stop):
    """Bytes and handles at most, and threads at the end, more than there were at most before."""
    before = [max(one[what] for one in found[start:stop]) for what in range(3)]
    after = [max(one[what] for one in found[stop:]) for what in range(2)] + [found[-1][2]]  # some are still ending
    return [more - less for more, less in zip(after, before, strict=True)]


def test_models_in_one_process_leave_nothing_behind(tmp_path):
    """The same six, four times: the second half takes what the first took."""
    found = many(tmp_path, 24)
    assert found["done"] >= 20
    memory, handles, threads = growth(found["found"], 0, 12)
    assert handles <= 0
    assert threads <= 0
    assert memory < 8 << 20
    assert set(found["left"]) <= {"m.onnx", "o.onnx", "s.npz", "d.npz"}


@pytest.mark.slow
def test_two_hundred_models_in_one_process(tmp_path):
    """Fifty networks, four times each."""
    found = many(tmp_path, 200)
    memory, handles, threads = growth(found["found"], 50, 100)
    rounds = [max(size for size, _, _ in found["found"][k : k + 50]) >> 20 for k in range(0, 200, 50)]
    print(
        f"\n200 models pruned and checked in one process ({found['done']} done, {found['failed']} refused): the most memory in "
        f"each round of 50 {rounds} MB, handles {found['found'][49][1]} -> {found['found'][-1][1]}, "
        f"threads {found['found'][49][2]} -> {found['found'][-1][2]}"
    )
    assert handles <= 0
    assert threads <= 0
    assert memory < 16 << 20
    assert found["done"] >= 150
