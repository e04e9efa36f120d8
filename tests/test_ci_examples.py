"""The pipeline examples of the README: their shell steps run on the sample, say yes and say no."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pfa_onnx.cli import main

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_models" / "fashion"


def blocks():
    """The YAML blocks of the README's chapter, by what they are for."""
    chapter = (ROOT / "README.md").read_text().partition("## In a pipeline\n")[2].partition("\n## ")[0]
    found = re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)
    kinds = {"run: |": "github", "script:": "gitlab", "repo: local": "pre-commit"}
    return {kind: block for block in found for mark, kind in kinds.items() if mark in block}


def steps(block):
    """The shell lines of a block: below `run: |`, in the list of `script:`, or the `entry:` of a hook."""
    if "entry: " in block:
        return [block.partition("entry: ")[2].split("}")[0]]
    lines = block.splitlines()
    start = next(k for k, line in enumerate(lines) if line.strip() in ("run: |", "script:"))
    indent = len(lines[start]) - len(lines[start].lstrip())
    below = []
    for line in lines[start + 1 :]:
        if len(line) - len(line.lstrip()) <= indent:
            break
        below.append(line.strip())
    return [line.removeprefix("- ") for line in below] if "script:" in lines[start] else below


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model that answers like the sample, and one that does not."""
    folder = tmp_path_factory.mktemp("models")
    common = ["prune", str(SAMPLE / "model.onnx"), "--data", str(SAMPLE / "images"), "--kl", "-q", "--providers", "cpu"]
    assert main([*common, "--repair", "-o", str(folder / "good.onnx")]) == 0
    assert main([*common, "-o", str(folder / "bad.onnx")]) == 0
    return folder


@pytest.fixture
def checkout(models, tmp_path):
    """What the examples expect: the models and the data, pfa-onnx on the path, and nothing to download."""
    shutil.copy(SAMPLE / "model.onnx", tmp_path / "model.onnx")
    (tmp_path / "val").symlink_to(SAMPLE / "images")
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {"pip": "exit 0", "pfa-onnx": f'exec {shlex.quote(sys.executable)} -m pfa_onnx "$@"'}
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    return tmp_path


def run(kind, checkout, small):
    """Run the steps of an example as its runner does: with bash, to the first failure."""
    shutil.copy(small, checkout / "small.onnx")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    (checkout / "summary.md").write_text("# What another step said\n\n")
    env = {
        **os.environ,
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(checkout / "summary.md"),
        "CI": "true",
    }
    script = "\n".join(steps(blocks()[kind]))
    return subprocess.run(
        [bash, "-eo", "pipefail", "-c", script], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )


def test_there_is_one_for_each():
    found = blocks()
    assert set(found) == {"github", "gitlab", "pre-commit"}
    assert all("pfa-onnx check " in steps(block)[-1] for block in found.values())
    assert all(steps(found[kind])[0] == "pip install pfa-onnx" for kind in ("github", "gitlab"))


@pytest.mark.parametrize("kind", ["github", "gitlab", "pre-commit"])
@pytest.mark.parametrize(("small", "code"), [("good", 0), ("bad", 1)])
def test_the_steps_say_yes_and_no(kind, small, code, checkout, models):
    done = run(kind, checkout, models / f"{small}.onnx")
    assert done.returncode == code, done.stderr
    verdict = "PASSED" if code == 0 else "FAILED"
    if kind == "github":
        summary = (checkout / "summary.md").read_text()
        assert summary.startswith(f"# What another step said\n\n**{verdict}: ")
        assert "\n| agreement (top-1) | " in summary
        assert re.search(r"^\| `\d_[^`]+\.png` \| \d \| \d \|$", summary, re.MULTILINE), "the names of files"
        assert f"\n{verdict}: " in done.stderr, "and the log says it too"
    elif kind == "gitlab":
        report = re.search(r"junit: (\S+)", blocks()[kind])[1]
        (suite,) = ET.parse(checkout / report).getroot()
        assert suite.get("tests") == "4"
        assert (suite.get("failures") == "0") == (code == 0)
        assert f"\n{verdict}: " in done.stdout
    else:
        assert done.stdout.startswith(f"{verdict}: ")
        assert len(done.stdout.splitlines()) == 1


def test_the_examples_are_yaml():
    yaml = pytest.importorskip("yaml")
    found = {kind: yaml.safe_load(block) for kind, block in blocks().items()}
    assert found["github"][0]["run"].splitlines() == steps(blocks()["github"])
    job = found["gitlab"]["small-model"]
    assert job["script"] == steps(blocks()["gitlab"])
    assert job["artifacts"] == {"when": "always", "reports": {"junit": "check.xml"}}
    (hook,) = found["pre-commit"][0]["hooks"]
    assert hook["entry"] == steps(blocks()["pre-commit"])[0]
    assert re.search(hook["files"], "model.onnx")
    assert hook["pass_filenames"] is False
