"""What is shipped: what the wheel holds, that it is built alike twice, and that nothing reaches for a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = "sample_models/fashion"
NO_NETWORK = """
import socket, sys

class Refused(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise SystemExit(f"reached for {address}")
    connect_ex = connect

socket.socket = Refused
socket.create_connection = socket.getaddrinfo = lambda *a, **k: sys.exit(f"reached for {a}")
from pfa_onnx.cli import main
for line in sys.argv[1].split(";"):
    if main(line.split()) != 0:
        sys.exit(line)
"""


def test_no_verb_reaches_for_a_network(tmp_path):
    model, data = f"{SAMPLE}/model.onnx", f"--data {SAMPLE}/images --limit 100"
    runs = [
        f"inspect {model} -q",
        f"analyze {model} {data} --save-stats {tmp_path}/s.npz --html {tmp_path}/r.html -q",
        f"prune {model} {data} --kl --repair --allow-few-samples -o {tmp_path}/a.onnx -q",
        f"check {model} {tmp_path}/a.onnx {data} --no-latency --html {tmp_path}/c.html -q",
        "doctor",
    ]
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, ";".join(runs)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "reached for" not in done.stderr


def test_every_dependency_has_a_lower_bound_that_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(line.split("==") for line in (ROOT / ".ci" / "oldest.txt").read_text().split())
    for requirement in project["dependencies"]:
        name, _, bound = requirement.partition(";")[0].partition(">=")
        assert bound.strip(), requirement
        if name in oldest:
            assert f"{oldest[name]}.".startswith(f"{bound.strip()}."), requirement
        else:
            assert name == "onnxruntime", requirement  # what stands in for onnxruntime-gpu elsewhere


@pytest.mark.slow
def test_the_wheel_is_whole_and_built_alike_twice(tmp_path):
    """Needs `pip install build`."""
    pytest.importorskip("build")
    sums = []
    for k in range(2):
        out = tmp_path / str(k)
        command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)
        sums.append({path.suffix: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    assert sums[0] == sums[1]
    names = zipfile.ZipFile(next((tmp_path / "0").glob("*.whl"))).namelist()
    for wanted in ("pfa_onnx/py.typed", "pfa_onnx/report/schema.json", "pfa_onnx/torch/tune.py"):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests")]
