"""Help that can be copied: an example at the end of every verb's, and the shell's completion."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pfa_onnx.cli import main
from pfa_onnx.cli.app import app

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("verb", app.commands)
def test_help_ends_with_an_example_whose_options_there_are(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([verb, "--help"]) == 0
    heading, example = capsys.readouterr().out.rstrip().splitlines()[-2:]
    assert heading == "Example:"
    program, called, *words = shlex.split(example)
    assert (program, called) == ("pfa-onnx", verb)
    context = app.commands[verb].make_context(verb, words, parent=click.Context(app))
    options = {name for param in context.command.params for name in param.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_the_first_thing_to_try_comes_first(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    verbs = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines() if line.startswith("  ")][:-1]
    assert verbs[:4] == ["inspect", "analyze", "prune", "check"]
    assert sorted(verbs) == sorted(app.commands)
    assert out.endswith("Example:\n  pfa-onnx inspect model.onnx\n")


# --- completion ---


def program(folder):
    """A folder with pfa-onnx in it, as an installation has."""
    path = folder / "pfa-onnx"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pfa_onnx "$@"\n')
    path.chmod(0o755)
    return str(folder)


def asked(folder, **environment):
    variables = {**os.environ, "PYTHONPATH": str(README.parent), "PATH": f"{program(folder)}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["pfa-onnx"], env=variables | environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell, tmp_path):
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("no bash here")
    script = asked(tmp_path, _PFA_ONNX_COMPLETE=f"{shell}_source")
    assert f"_PFA_ONNX_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("pfa-onnx pr", ["plain,prune"]),
        ("pfa-onnx in", ["plain,inspect"]),
        ("pfa-onnx prune m.onnx --ener", ["plain,--energy"]),
        ("pfa-onnx prune m.onnx --select rec", ["plain,reconstruct"]),
        ("pfa-onnx check m.onnx s.onnx --jun", ["plain,--junit"]),
        ("pfa-onnx analyze mod", ["file,mod"]),
        ("pfa-onnx analyze m.onnx --data pho", ["file,pho"]),
        ("pfa-onnx analyze m.onnx --json rep", ["file,rep"]),
        ("pfa-onnx analyze m.onnx --preprocess im", ["plain,imagenet"]),
        ("pfa-onnx analyze m.onnx --preprocess con", ["file,con"]),
    ],
)
def test_what_is_completed(words, completions, tmp_path):
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found = asked(tmp_path, _PFA_ONNX_COMPLETE="bash_complete", **variables)
    assert found.splitlines() == completions


def test_the_line_of_the_readme_makes_bash_complete(tmp_path):
    bash = shutil.which("bash")
    line = 'eval "$(_PFA_ONNX_COMPLETE=bash_source pfa-onnx)"'
    assert line in README.read_text()
    if bash is None:
        pytest.skip("no bash here")
    typed = "COMP_WORDS=(pfa-onnx pr) COMP_CWORD=1; _pfa_onnx_completion pfa-onnx; echo ${COMPREPLY[@]}; complete -p pfa-onnx"
    variables = {**os.environ, "PYTHONPATH": str(README.parent), "PATH": f"{program(tmp_path)}:{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "--norc", "-c", f"{line}\n{typed}"], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "prune"
    assert "-F _pfa_onnx_completion" in done.stdout
