"""A terminal of so many columns, to run commands in, and a pipeline that answers with what it is given."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# the verbs' answers are in report/lengthy.py
FAKED = """
import sys
sys.path[:0] = {path!r}
from report import lengthy
from pfa_onnx.cli import main
lengthy.install()
for argv in {runs!r}:
    for stream in (sys.stdout, sys.stderr):
        print({mark!r}, file=stream, flush=True)
    code = main(argv)
sys.exit(code)
"""
MARK = "=== the next one ==="


def faked(*runs):
    """The command that runs some command lines against the answers of report/lengthy.py, one after the other."""
    path = [str(HERE), str(HERE.parent)]
    return [sys.executable, "-c", FAKED.format(path=path, runs=[run.split() for run in runs], mark=MARK)]


def apart(shown):
    """What each of them showed."""
    return [part.removeprefix("\n") for part in shown.replace("\r\n", "\n").split(MARK) if part.strip()]


def on_a_terminal(command, columns, **environment):
    """What a command shows when both of its streams are a terminal of so many columns."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    variables |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | environment
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=variables) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # Linux says so when the last writer has gone
                break
            if not chunk:
                break
            shown += chunk
        process.wait()
    os.close(leader)
    return shown.decode()


def plain(shown):
    """What a person sees, without colours and moves of the cursor; every state of a bar is a line of its own."""
    return re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")


def lines(shown):
    return [line for line in plain(shown).split("\n") if line]
