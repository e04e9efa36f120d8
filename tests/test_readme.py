"""Every command of the README runs, and prints what the README says. `python tests/test_readme.py` refreshes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import guides
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- output -->\n)?```(console|python|sh)\n(.*?)```\n", re.DOTALL)
OPERATORS = re.compile(r"<!-- operators -->\n.*?<!-- /operators -->", re.DOTALL)


def blocks(kind: str) -> list[tuple[bool, str]]:
    """Return (whether its output is shown, text) of every block of a kind, in order."""
    return [(bool(m[1]), m[3]) for m in BLOCK.finditer(README.read_text()) if m[2] == kind]


def commands(text: str) -> list[str]:
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert command.startswith("pfa-onnx ")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    words = [sys.executable, "-m", "pfa_onnx", *command.split()[1:]]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env, check=False)


def steady(text: str) -> str:
    """Blank out what is measured in seconds: it differs from run to run."""
    lines = [
        re.sub(r"\d.*", "...", line) if line.startswith("latency") else line.rstrip() for line in text.splitlines()
    ]
    return "\n".join(lines).strip() + "\n"


def alike(text: str) -> list[str]:
    """Leave out what may differ in its last digits, or flip, on another processor."""
    lines = [" ".join(line.split()) for line in steady(text).splitlines() if ".png" not in line]
    changing = re.compile(r"^(before|after|teacher|the best of|agreement|cosine|largest|accuracy|proof|\d+ of \d+ pred|\.\.\. )")
    return [re.sub(r"-?\d[\d.e-]*", "#", line) if changing.match(line) else line for line in lines]


def shown(text: str, folder: Path) -> str:
    out = []
    for command in commands(text):
        result = run(command, folder)
        out += [f"$ {command}", steady(result.stdout).rstrip()]
    return "\n".join(out) + "\n"


def operators_table() -> str:
    from pfa_onnx.graph.ops import RULES

    families: dict[str, list[str]] = {}
    for (domain, name), rule in RULES.items():
        families.setdefault(rule.__module__.rsplit(".", 1)[-1], []).append(f"{domain}.{name}" if domain else name)
    rows = [f"| {family} | {', '.join(sorted(names))} |" for family, names in sorted(families.items())]
    return "\n".join(["<!-- operators -->", "| family | operators |", "|---|---|", *rows, "<!-- /operators -->"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a fresh clone."""
    place = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "sample_models", place / "sample_models")
    guides.make(place)
    return place


def test_commands_run_in_order_and_print_what_the_readme_says(folder: Path) -> None:
    for has_output, text in blocks("console"):
        for command in commands(text):
            result = run(command, folder)
            assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
            if has_output:
                expected = text.partition(f"$ {command}\n")[2].partition("\n$ ")[0]
                assert alike(result.stdout) == alike(expected), command


def test_python_examples_run(folder: Path) -> None:
    for _, text in blocks("python"):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, env=env, check=False
        )
        assert result.returncode == 0, result.stderr


def test_one_line_commands_are_what_ci_and_the_first_example_run() -> None:
    first, second = [text.strip() for _, text in blocks("sh")]
    assert first.endswith(commands(blocks("console")[0][1])[0].removeprefix("pfa-onnx "))
    assert second in (ROOT / ".ci" / "run").read_text()


def test_operator_table_is_that_of_the_registry() -> None:
    found = OPERATORS.search(README.read_text())
    assert found
    assert found[0] == operators_table()


def refresh() -> None:
    """Rewrite the outputs and the operator table."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copytree(ROOT / "sample_models", place / "sample_models")
        guides.make(place)

        def again(match: re.Match[str]) -> str:
            if match[2] != "console":
                return match[0]
            text = shown(match[3], place)
            return f"{match[1]}```console\n{text}```\n" if match[1] else match[0]

        text = BLOCK.sub(again, README.read_text())
    README.write_text(OPERATORS.sub(lambda _: operators_table(), text))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    refresh()
