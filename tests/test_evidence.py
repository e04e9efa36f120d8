"""The scripts of tests/benchmarks/evidence run from end to end: scikit-learn's digits, a tiny network, a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EVIDENCE = Path(__file__).parent / "benchmarks" / "evidence"


def run(script: str, *arguments: str | Path) -> str:
    paths = [str(EVIDENCE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EVIDENCE / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_evidence_of_a_tiny_network(tmp_path: Path) -> None:
    tables = run("evaluate.py", "--quick", "--folder", tmp_path, "--markdown", tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() in tables
    net = json.loads((tmp_path / "quick" / "evidence.json").read_text())["tiny"]
    assert net["accuracy"] > 0.95
    rows = net["rows"].values()
    assert not [row for row in rows if "select" in row and "accuracy" not in row]
    kept = {(row["recipe"], json.dumps(row["kept"])) for row in rows if "select" in row}
    assert len(kept) == len({row["recipe"] for row in rows}), "every choice keeps as many channels of every layer"
    half = [row for row in rows if row["recipe"] == "--params 0.5" and "select" in row]
    assert half
    assert all(0.4 < row["params"] <= 0.5 for row in half)


@pytest.mark.slow
def test_a_pruned_file_is_trained_again(tmp_path: Path) -> None:
    run("evaluate.py", "--quick", "--folder", tmp_path)
    run("finetune.py", "tiny", "--folder", tmp_path / "quick", "--recipes", "params 0.5", "--seeds", "2")
    (row,) = json.loads((tmp_path / "quick" / "finetune.json").read_text()).values()
    accuracy = row["accuracy"]
    assert accuracy["sliced, trained"][0] > accuracy["sliced"][0]
    assert len(accuracy["repaired, distilled"]) == len(accuracy["scratch, as short"]) == 2
