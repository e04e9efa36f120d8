"""A few hundred of the harness's cases, always the same ones; and the harness itself: it sees what it is to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fuzz.evils import EVILS

HERE = Path(__file__).parent
SEED = 20261123


def _run(*argv: object, code: int = 0) -> str:
    """In a process of its own: cases fork, and what has started threads had better not."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def _records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _campaign(folder: Path, cases: int, *argv: object) -> list[dict]:
    record = folder / "record.jsonl"
    _run(HERE / "harness.py", "--cases", cases, "--keep", folder / "failures", "--record", record, *argv)
    found = _records(record)
    assert sorted(one["case"] for one in found) == list(range(cases))
    return found


def test_broken_files_are_refused_or_cut_right(tmp_path):
    """Seed and number of a failing case are printed; `harness.py --seed S --case N` repeats it."""
    found = _campaign(tmp_path, 120, "--seed", SEED, "--small")
    ends = {one["verdict"] for one in found}
    assert {"fine", "refused"} <= ends <= {"fine", "refused", "no"}
    assert {one["target"] for one in found} >= {"model", "model bytes", "external", "statistics", "recipe"}
    assert sum(one["compared"] for one in found) >= 3  # with an original that is masked independently


@pytest.mark.slow
def test_many_more_of_them(tmp_path):
    _campaign(tmp_path, 5000, "--seed", SEED)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["model", "statistics", "recipe", "embedded"])
def test_files_that_are_broken_by_what_they_reach(target, tmp_path):
    """What libFuzzer finds is an error of its own, not one of this project's."""
    pytest.importorskip("atheris")
    found = subprocess.run(
        [sys.executable, HERE / "guided.py", target, tmp_path, "-runs=30000", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]


def test_a_case_is_the_same_whenever_it_is_made(tmp_path):
    script = (
        "import sys, hashlib, pathlib, tempfile\n"
        f"sys.path.insert(0, {str(HERE.parent)!r})\n"
        "from fuzz import cases, corpus\n"
        "corpus._in_a_child = lambda folder, bases: {}\n"
        "made = corpus.build(small=True)\n"
        "for number in range(60):\n"
        "    folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1]))\n"
        "    case = cases.make(made, 5, number, folder, ('model', 'model bytes', 'external', 'arrays')[number % 4])\n"
        "    kept = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}\n"
        "    print(number, case, case.argv, hashlib.sha256(repr(kept).encode()).hexdigest())\n"
    )
    first, second = (_run("-c", script, tmp_path) for _ in range(2))
    assert first == second
    assert len(set(first.splitlines())) == 60


@cache
def _seen() -> dict[str, str]:
    return json.loads(_run(HERE / "evils.py"))


@pytest.mark.parametrize("evil", EVILS)
def test_the_oracle_sees_it(evil):
    assert _seen()[evil] == evil.split(" of ")[0].split(" elsewhere")[0].split(":")[0]
