"""What a command must never do, done on purpose: prints what the oracle says of each, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import pfa_onnx.cli
from fuzz import oracle
from fuzz.cases import Case
from fuzz.corpus import Base

CLEAR = "error: it is broken\n  at: model.onnx\n  fix: mend it\n"


def _ended(code: int, told: str = "") -> int:
    sys.stderr.write(told)
    return code


def _forever(argv) -> int:
    while True:
        pass


def _killed(argv) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def _greedy(argv) -> int:
    return int(np.ones(oracle.RESIDENT // 8 + (16 << 20)).sum() < 0)


def _left(argv, code: int = 2) -> int:
    Path("out.onnx").write_bytes(b"half")
    return _ended(code, CLEAR)


def _written_elsewhere(argv) -> int:
    Path(tempfile.gettempdir(), "left.tmp").write_bytes(b"")
    return _ended(2, CLEAR)


def _changed(argv) -> int:
    Path("model.onnx").write_bytes(b"")
    return _ended(2, CLEAR)


def _outside(argv) -> int:
    Path("../outside.bin").read_bytes()
    return _ended(2, CLEAR)


EVILS = {
    "refused": lambda argv: _ended(2, CLEAR),
    "no": lambda argv: _ended(1, CLEAR),
    "internal error": lambda argv: _ended(2, f"internal error: IndexError{CLEAR}"),
    "exit code": lambda argv: _ended(3),
    "exit code: an exception": lambda argv: {}["nothing"],
    "unclear": lambda argv: _ended(2, "error: it is broken\n"),
    "hang": _forever,
    "crash": _killed,
    "memory": _greedy,
    "leftover": _left,
    "leftover of a no": lambda argv: _left(argv, 1),
    "leftover elsewhere": _written_elsewhere,
    "leftover: the model": _changed,
    "read outside": _outside,
    "nothing written": lambda argv: _ended(0),
}


def main() -> None:
    oracle.CPU_SECONDS = 10
    found = {}
    for name, evil in EVILS.items():
        pfa_onnx.cli.main = evil
        oracle.agrees = lambda *files: ("", False)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "models").mkdir()
            (root / "tmp").mkdir()
            (root / "outside.bin").write_bytes(b"secret")
            (root / "models" / "model.onnx").write_bytes(b"whole")
            case = Case(0, 0, "model", Base("none", b"", root, root), "prune", ["prune", "model.onnx"], [], ("out.onnx",))
            found[name] = oracle.judge(case, root).verdict
    print(json.dumps(found))


if __name__ == "__main__":
    main()
