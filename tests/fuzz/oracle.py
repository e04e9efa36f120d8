"""What must hold of every case, whatever is broken: run in a process of its own, with limits, and watched.

The exit code is 0, 1 or 2 and no signal; 2 says what is wrong, where, and what to do; nothing is written but what
success announces; nothing outside the model's folder is opened; what is written is a model that computes what the
masked original computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.cases import Case, described, make
from fuzz.corpus import Corpus
from fuzz.independent import agrees

CPU_SECONDS = 25  # of a case, on any machine
WALL_SECONDS = 150  # of a case that waits for something, on a machine that others use too
LONGEST = 12.0  # of a model's first run: what never ends is to be stopped
MEMORY = 3 << 30  # address space beyond what the parent has mapped
RESIDENT = 1 << 30  # what a small file may cost in memory, beyond what the parent has

FINE = ("fine", "refused", "no")


@dataclass
class Outcome:
    """How a case ended. verdict: one of FINE, or what is wrong; compared: by a second opinion, too."""

    verdict: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    compared: bool = False

    @property
    def passed(self) -> bool:
        return self.verdict in FINE


def run(corpus: Corpus, seed: int, number: int, keep: Path | None = None, only: str | None = None) -> dict[str, object]:
    """Make one case, run it and judge it. keep: where the files of a failure go."""
    root = Path(tempfile.mkdtemp(prefix="pfa-onnx-fuzz-"))
    folder = root / "models"
    folder.mkdir()
    (root / "tmp").mkdir()
    try:
        case = make(corpus, seed, number, folder, only)
        outcome = judge(case, root)
        if not outcome.passed and keep is not None:
            _keep(case, outcome, root, keep / f"{seed}-{number}")
        return described(case) | asdict(outcome)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def judge(case: Case, root: Path) -> Outcome:
    """Run a case in a child, and say how it ended."""
    folder = root / "models"
    before = _listing(root)
    with _watched(root / "outside.bin") as opened:
        outcome, code, error = _run(case, root)
        outside = opened()
    outcome.compared = (root / "compared").exists()
    for name in ("stdout", "stderr", "compared"):
        (root / name).unlink(missing_ok=True)
    if not outcome.passed:
        return outcome
    if outside:
        return _because(outcome, "read outside", "a file outside of the model's folder was opened")
    after = _listing(root)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    allowed = {str(Path("models") / name) for name in case.written} if code in {0, 1} else set()
    allowed |= {"models/stats.npz.partial", "models/out.onnx.partial"} if code == 0 else set()
    if code == 1 and "check" not in case.argv:
        allowed -= {"models/out.onnx"} if case.argv[0] != "finetune" else set()
    if case.argv[0] == "analyze" and "no layer varies" in error:
        allowed.add("models/stats.npz")  # what was measured is whole, though it decides nothing
    strange = [name for name in changed if name not in allowed]
    if strange:
        return _because(outcome, "leftover", f"exit code {code}, and there is {', '.join(strange)[:200]}")
    if code == 2 and not ("error: " in error and "\n  at: " in error and "\n  fix: " in error):
        return _because(outcome, "unclear", error[-400:])
    if code == 0 and case.argv[0] == "prune" and not (folder / "out.onnx").exists():
        return _because(outcome, "nothing written", "exit code 0, and there is no model")
    return outcome


def _because(outcome: Outcome, verdict: str, detail: str) -> Outcome:
    return Outcome(verdict, detail, outcome.seconds, outcome.megabytes)


# --- the child ----------------------------------------------------------------------------------------------------


def _run(case: Case, root: Path) -> tuple[Outcome, int, str]:
    sys.stdout.flush()
    start, began = time.monotonic(), _statm(1) >> 20
    child = os.fork()
    if child == 0:
        try:
            _child(case, root)
        finally:
            os._exit(99)
    status, usage, alive = 0, None, True
    while alive:
        found, status, usage = os.wait4(child, os.WNOHANG)
        alive = found == 0
        if alive and time.monotonic() - start > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return Outcome("hang", f"{WALL_SECONDS} s passed", WALL_SECONDS), -1, ""
        if alive:
            time.sleep(0.004)
    assert usage is not None
    seconds = usage.ru_utime + usage.ru_stime
    outcome = Outcome("fine", "", round(seconds, 3), round(max(0, usage.ru_maxrss / 1024 - began), 1))
    error = (root / "stderr").read_text(errors="replace") if (root / "stderr").exists() else ""
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        hang = number == signal.SIGXCPU
        return _because(outcome, "hang" if hang else "crash", f"{number.name} {error[-300:]}"), -1, error
    code = os.WEXITSTATUS(status)
    if "Traceback" in error or "internal error" in error:
        return _because(outcome, "internal error", error[-800:]), code, error
    if code == 98:
        return _because(outcome, "wrong output", (root / "wrong").read_text()), code, error
    if code not in {0, 1, 2}:
        return _because(outcome, "exit code", f"{code} {error[-300:]}"), code, error
    # where the model itself asks for it, or onnxruntime says how much that is, a clear refusal is what there should be
    asks = {"sizes_without_end", "extreme_attribute"} & set(case.done) or "requested buffer of size" in error
    if ("out of memory" in error or "allocate memory" in error) and not asks:
        return _because(outcome, "memory", error[-300:]), code, error
    if outcome.megabytes > RESIDENT >> 20 and not asks:
        return _because(outcome, "memory", f"{outcome.megabytes:.0f} MB"), code, error
    outcome.verdict = ("fine", "no", "refused")[code]
    return outcome, code, error


def _child(case: Case, root: Path) -> None:
    """Become the command. Nothing that it prints, also from below Python, gets lost."""
    os.chdir(root / "models")
    tempfile.tempdir = os.environ["TMPDIR"] = str(root / "tmp")
    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(root / name, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, 256 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (_statm(0) + MEMORY,) * 2)
    from pfa_onnx.cli import main
    from pfa_onnx.stats import session

    session.set_threads(1)
    session.LONGEST = LONGEST
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(case.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0 and case.argv[0] == "prune":
        wrong, compared = agrees(Path("model.onnx"), Path("out.onnx"), Path("report.json"), Path("data.npz"))
        if compared:
            (root / "compared").touch()
        if wrong:
            (root / "wrong").write_text(wrong)
            os._exit(98)
    os._exit(code)


def _statm(field: int) -> int:
    """Bytes of this process: 0 that are mapped, 1 that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


# --- what is watched ----------------------------------------------------------------------------------------------


def _listing(root: Path) -> dict[str, bytes]:
    """Every file of a case, with what is in it."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in [*names, *folders]:
            path = Path(folder) / name
            plain = path.is_file() and not path.is_symlink()
            where = str(path.relative_to(root))
            if where not in {"stdout", "stderr"} and not where.startswith("tmp/torchinductor"):  # PyTorch's own
                found[where] = path.read_bytes() if plain else b""
    return found


@contextlib.contextmanager
def _watched(path: Path) -> Iterator[Callable[[], bool]]:
    """Watch a file being opened, under whatever name, by anybody; the watch is on what lies behind the name."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.inotify_init1(os.O_NONBLOCK)
    opens = 0x00000020 | 0x00000001
    watch = libc.inotify_add_watch(number, os.fsencode(path), opens) if path.exists() else -1
    seen: list[bool] = []

    def opened() -> bool:
        with contextlib.suppress(BlockingIOError):
            while watch >= 0:
                events = os.read(number, 4096)
                seen.append(bool(events) and struct.unpack_from("iI", events)[1] != 0)
        return any(seen)

    try:
        yield opened
    finally:
        os.close(number) if number >= 0 else None


def _keep(case: Case, outcome: Outcome, root: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (root / "models").iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copy(path, folder / path.name)
    (folder / "case.json").write_text(json.dumps(described(case) | asdict(outcome), indent=1))
