"""Killed, interrupted, out of room or memory: the old file or the new one, never half, and the next run cleans up."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from support import two_convolutions

from pfa_onnx.cli import main

KILLS = 50  # of each kind, at random moments, behind `slow`
OLD = b"what was there before"
LEFT = re.compile(r"\..+\.\w+-\d+-[0-9a-f]{8}\.tmp")
AT_ONCE = {"pfa_onnx.steps.resume:SECONDS": 0, "pfa_onnx.steps.resume:SHARE": 0}
OUTSIDE = {"pfa_onnx.steps.apply:EMBED_LIMIT": 0, "pfa_onnx.steps.serialized:IN_MEMORY": 0}
NOBODY = 65534

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and limits are set as Linux has them")


class Case:
    """A command that writes into a folder of its own, and what it writes when nothing disturbs it."""

    stops = False  # whether an interrupted run leaves an output of its own: the best so far

    def __init__(self, server, folder, words, outputs, *, resumes=False, **how):
        self.server, self.words, self.outputs, self.how = server, words, outputs, how
        self.resume = ["--resume"] if resumes else []
        self.folder = folder / "calm"
        self.again()
        began = time.monotonic()
        assert self.run(send=["kill", 0], watch=str(self.folder)) == 0, self.err
        self.seconds = time.monotonic() - began
        self.events = self.folder.with_name("calm.events").read_text().splitlines()
        self.new = self.files()
        assert set(outputs) <= set(self.new), "it writes what it should"
        assert not self.left()

    def again(self, folder=None):
        """Begin in a new folder, with the old files."""
        self.folder = folder or self.folder
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        for name in self.outputs:
            (self.folder / name).write_bytes(OLD)

    def start(self, *more, **how):
        words = [str(word).replace("OUT/", f"{self.folder}/") for word in (*self.words, *more)]
        env = {"TMPDIR": str(self.folder / "tmp"), **how.pop("env", {})}
        return self.server.start(*words, env=env, **{**self.how, **how})

    def run(self, *more, **how):
        child = self.start(*more, **how)
        code = child.wait()
        self.out, self.err = child.out, child.err
        return code

    def files(self):
        """What somebody who looks into the folder finds, less what has a temporary name."""
        return {p.name: p.read_bytes() for p in self.folder.iterdir() if p.is_file() and not LEFT.fullmatch(p.name)}

    def left(self):
        """What has a temporary name; .ses is onnxruntime's."""
        there = [*self.folder.iterdir(), *(self.folder / "tmp").iterdir()]
        return [path.name for path in there if path.name.startswith(".") and path.name != ".ses"]

    def check(self):
        """Every file is the old one or the new one, and nothing else is there but what a later run removes."""
        for name, content in self.files().items():
            whole = content in (OLD, self.new.get(name)) or name.endswith(".partial")
            assert whole or (self.stops and is_whole(content)), f"{name} is half written"
        assert not [name for name in self.left() if not LEFT.fullmatch(name)]

    def end(self):
        """A run that nothing disturbs ends in the same bytes, and removes what the others left."""
        assert self.run(*self.resume) == 0, self.err
        found = self.files()
        assert found.keys() == self.new.keys()
        for name, content in found.items():
            assert content == self.new[name], name
        assert not self.left()


def prune_case(server, small, folder, **how):
    words = [
        "prune", small.model, "--data", small.data, "--uniform", "0.5", "--allow-few-samples", "-q",
        "-o", "OUT/out.onnx", "--json", "OUT/r.json", "--save-stats", "OUT/s.npz",
    ]  # fmt: skip
    return Case(server, folder, words, ["out.onnx", "r.json", "s.npz"], **how)


def outside_case(server, small, folder):
    """A model that is too large for one file, and for memory."""
    words = ["prune", small.outside, "--data", small.data, "--uniform", "0.5", "--allow-few-samples", "-q"]
    return Case(server, folder, [*words, "-o", "OUT/out.onnx"], ["out.onnx"], patches=OUTSIDE)


def analyze_case(server, small, folder):
    words = ["analyze", small.model, "--data", small.data, "-b", "4", "-q", "--save-stats", "OUT/s.npz"]
    return Case(server, folder, words, [], resumes=True, patches=AT_ONCE)


def finetune_case(server, small, folder):
    pruned = folder / "pruned.onnx"
    words = ["prune", small.model, "--data", small.data, "--uniform", "0.5", "--allow-few-samples", "-q", "-o", pruned]
    assert server.run(*words)[0] == 0
    words = ["finetune", pruned, "--teacher", small.model, "--data", small.data, "--epochs", "3", "-b", "8", "-q"]
    words += ["--augment", "none", "--patience", "9", "-o", "OUT/t.onnx"]
    case = Case(server, folder, words, [], resumes=True)
    case.stops = True
    return case


def is_whole(content: bytes) -> bool:
    """Whether these are the bytes of a model, to the last one."""
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return bool(json.loads(model.metadata_props[0].value)["finetune"])


@pytest.fixture(scope="session")
def cases(server, small, tmp_path_factory, request):
    made = {"prune": prune_case, "outside": outside_case, "analyze": analyze_case, "finetune": finetune_case}
    ready = {}

    def case(kind):
        if kind not in ready:
            which = request.getfixturevalue("torch_server") if kind == "finetune" else server
            ready[kind] = made[kind](which, small, tmp_path_factory.mktemp(kind))
        return ready[kind]

    return case


def some(case, most):
    """Numbers of changes of files, evenly spread over the run, the first and the last among them."""
    count = len(case.events)
    return (
        sorted({1 + k * (count - 1) // max(most - 1, 1) for k in range(most)})
        if count > most
        else [*range(1, count + 1)]
    )


# --- kill -9 ---


@pytest.mark.parametrize(("kind", "most"), [("prune", 10), ("outside", 12), ("analyze", 6), ("finetune", 6)])
def test_killed_before_any_change_of_a_file(cases, tmp_path, kind, most):
    """The process dies right before it opens, renames or removes a file."""
    case = cases(kind)
    case.again(tmp_path / "work")
    for when in some(case, most):
        assert case.run(send=["kill", when], watch=str(case.folder)) == -signal.SIGKILL
        case.check()
    case.end()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prune", "outside", "analyze", "finetune"])
def test_killed_before_every_change_of_a_file(cases, tmp_path, kind):
    case = cases(kind)
    for when in range(1, len(case.events) + 1):
        case.again(tmp_path / str(when))
        assert case.run(send=["kill", when], watch=str(case.folder)) == -signal.SIGKILL
        case.check()
        case.end()
    print(f"\n{kind}: killed before each of {len(case.events)} changes of files")


def at_random(case, number, times, folder, seed, **how):
    """Send a signal at random moments; returns the exit codes."""
    chance, codes = random.Random(seed), []
    case.again(folder)
    began = time.monotonic()
    case.end()
    seconds = time.monotonic() - began
    case.again(folder)
    for _ in range(times):
        child = case.start(*(case.resume if chance.random() < 0.8 else []), **how)
        time.sleep(chance.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            child.send(number)
        codes.append(child.wait())
        case.check()
        if number == signal.SIGINT:
            assert "Traceback" not in child.err
            assert codes[-1] == 0 or child.err.rstrip().endswith("interrupted"), child.err
    case.end()
    return codes


@pytest.mark.parametrize("kind", ["prune", "analyze", "finetune"])
def test_killed_at_random_moments(cases, tmp_path, kind):
    codes = at_random(cases(kind), signal.SIGKILL, 3, tmp_path / "work", kind)
    assert set(codes) <= {0, -signal.SIGKILL}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prune", "outside", "analyze", "finetune"])
def test_killed_at_fifty_random_moments(cases, tmp_path, kind):
    codes = at_random(cases(kind), signal.SIGKILL, KILLS, tmp_path / "work", f"{kind} 50")
    assert set(codes) <= {0, -signal.SIGKILL}
    print(f"\n{kind}: {KILLS} kills, {codes.count(0)} of them after the end; files whole, then the same bytes")


# --- Ctrl-C ---


@pytest.mark.parametrize(("kind", "most"), [("prune", 5), ("outside", 6), ("analyze", 4), ("finetune", 4)])
def test_interrupted_before_any_change_of_a_file(cases, tmp_path, kind, most):
    """Nothing is left behind but what --resume goes on from."""
    case = cases(kind)
    case.again(tmp_path / "work")
    for when in some(case, most):
        code = case.run(send=["interrupt", when], watch=str(case.folder))
        assert code == 130, case.err
        assert case.err.rstrip().endswith("interrupted")
        assert "Traceback" not in case.err
        case.check()
        assert not case.left()
    case.end()


@pytest.mark.parametrize("kind", ["prune", "analyze", "finetune"])
def test_interrupted_at_random_moments(cases, tmp_path, kind):
    codes = at_random(cases(kind), signal.SIGINT, 3, tmp_path / "work", kind)
    assert set(codes) <= {0, 130}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prune", "outside", "analyze", "finetune"])
def test_interrupted_at_fifty_random_moments(cases, tmp_path, kind):
    codes = at_random(cases(kind), signal.SIGINT, KILLS, tmp_path / "work", f"{kind} 50", whole=True)
    assert set(codes) <= {0, 130}
    print(f"\n{kind}: {KILLS} interrupts, {codes.count(0)} of them after the end; exit code 130, no traceback")


START = """
import sys
from pfa_onnx import __main__ as entry
inside = entry._run
def ready():
    print("ready", flush=True)
    return inside()
entry._run = ready
sys.exit(entry.run())
"""


def starting(times, small, seed):
    """Interrupt real processes while they import and begin: (exit codes, what they said)."""
    chance, found = random.Random(seed), []
    words = [sys.executable, "-c", START, "prune", str(small.model), "--data", str(small.data), "--no-such-flag"]
    for _ in range(times):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
        found.append((process.returncode, err))
    return found


def test_interrupted_while_it_starts(small):
    for code, err in starting(3, small, 0):
        assert code in (2, 130), err
        assert "Traceback" not in err


@pytest.mark.slow
def test_interrupted_while_it_starts_fifty_times(small):
    found = starting(KILLS, small, 1)
    assert {code for code, _ in found} <= {2, 130}
    assert not [err for _, err in found if "Traceback" in err]
    print(f"\nstart: {KILLS} interrupts, {sum(code == 130 for code, _ in found)} before the command was read")


UNNOTICED = """
import signal, sys, time
from pfa_onnx import __main__ as entry
class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def inside():
    Last()
    time.sleep(20)
entry._run = inside
sys.exit(entry.run())
"""


def test_an_interrupt_that_comes_where_python_cleans_up():
    """There, an exception ends in a message, and the run would go on."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", UNNOTICED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            2,
            "error: permission denied\n  at: /a/b\n  fix: ",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: no space left on device\n  at: this machine\n  fix: ",
        ),
        (
            RuntimeError("can't start new thread"),
            2,
            "error: the system gives no more threads\n  at: this machine\n  fix: ",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            2,
            "error: out of memory\n  at: this machine\n  fix: ",
        ),
        (OSError("no number"), 2, "internal error: OSError: no number\n"),
        (RuntimeError("ours"), 2, "internal error: RuntimeError: ours\n"),
    ],
)
def test_what_the_machine_refuses_is_no_bug(monkeypatch, capsys, error, code, said):
    def fails():
        raise error

    monkeypatch.setattr("pfa_onnx.cli.doctor.examine", fails)
    assert main(["doctor"]) == code
    assert capsys.readouterr().err.startswith(said)
    assert main(["doctor"], interrupted=lambda: True) == 130, "a library made another error of Ctrl-C"
    assert capsys.readouterr().err == "interrupted\n"


# --- no room ---


def refused(case, *more, **how):
    """It could not run, says so in the project's form, and leaves the old files and nothing else."""
    code = case.run(*more, **how)
    assert code == 2, (code, case.err)
    assert re.search(r"^error: ", case.err, re.MULTILINE), case.err
    assert "internal error" not in case.err
    assert "Traceback" not in case.err
    assert "  fix: " in case.err
    case.check()
    assert not case.left()
    return case.err


@pytest.mark.parametrize(
    ("kind", "sizes"), [("prune", (600, 3000, 9000)), ("outside", (600, 3000)), ("analyze", (600, 5000))]
)
def test_a_full_disk(cases, tmp_path, kind, sizes):
    """No file may be larger than so many bytes: as if there was no more room, in the middle of any file."""
    case = cases(kind)
    for size in sizes:
        case.again(tmp_path / str(size))
        err = refused(case, fsize=size)
        assert "File too large" in err or "file too large" in err
        case.end()


def test_a_full_disk_while_training(cases, tmp_path):
    """The checkpoint does not fit: old checkpoint and output stay, and with room again the run goes on."""
    case = cases("finetune")
    case.again(tmp_path / "work")
    for size in (600, 20_000):
        err = refused(case, *case.resume, fsize=size)
        assert "cannot save the checkpoint: File too large" in err or "cannot write the model: File too large" in err
    case.end()


@contextlib.contextmanager
def tmpfs(folder: Path, kilobytes: int, *flags: str):
    folder.mkdir()
    options = ",".join([f"size={kilobytes}k", *flags])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["prune", "outside", "analyze", "finetune"])
def test_a_small_disk_that_is_full(cases, tmp_path, kind):
    """A file system of which all is taken but a few kilobytes; with room again, everything is as it should be."""
    case = cases(kind)
    with tmpfs(tmp_path / "disk", 400) as disk:
        case.again(disk)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
        case.new["ballast"] = (disk / "ballast").read_bytes()
        try:
            err = refused(case)
        finally:
            del case.new["ballast"]
        assert "o space left on device" in err
        (disk / "ballast").unlink()
        case.end()


def test_a_file_system_that_is_read_only(cases, tmp_path):
    case = cases("prune")
    with tmpfs(tmp_path / "disk", 400) as disk:
        case.again(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        began = time.monotonic()
        err = refused(case, env={"TMPDIR": str(tmp_path)})
        assert "ead-only file system" in err
        assert time.monotonic() - began < max(2 * case.seconds, 5), "it is told before any work"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_folder_that_may_not_be_written(cases, small, tmp_path):
    """As somebody who may read all and write nothing there."""
    case, home = cases("prune"), tmp_path / "work"
    case.again(home)
    home.chmod(0o555)
    open_up(small.folder, tmp_path)
    err = refused(case, user=NOBODY, env={"TMPDIR": "/tmp"})
    assert "ermission denied" in err or "cannot write into" in err


def open_up(*folders: Path) -> None:
    """Let everybody enter and read."""
    for folder in folders:
        for part in (folder, *folder.parents):
            if part.stat().st_uid == os.getuid() and part.stat().st_mode & 0o005 != 0o005:
                part.chmod(part.stat().st_mode | 0o055)


# --- no memory ---


def big(tmp_path) -> SimpleNamespace:
    """A model whose activations are far larger than its weights, and data for it."""
    import numpy as np

    random = np.random.default_rng(0)
    model = two_convolutions(random, 256, 1, ["N", 1, 64, 64], ["N", 4, 64, 64])
    onnx.save(model, tmp_path / "big.onnx")
    np.save(tmp_path / "big.npy", random.standard_normal((512, 1, 64, 64)).astype(np.float32))
    return SimpleNamespace(model=tmp_path / "big.onnx", data=tmp_path / "big.npy")


def test_out_of_memory_in_the_session(server, tmp_path):
    made = big(tmp_path)
    words = [
        "prune",
        made.model,
        "--data",
        made.data,
        "--uniform",
        "0.5",
        "--allow-few-samples",
        "-q",
        "-o",
        tmp_path / "out.onnx",
    ]
    code, _, err = server.run(*words, "-b", "256", memory=900 << 20)
    assert code == 2, err
    assert "out of memory" in err
    assert "use a smaller --batch-size" in err
    assert not (tmp_path / "out.onnx").exists()
    assert server.run(*words, "-b", "8", memory=900 << 20)[0] == 0


@pytest.mark.slow
def test_out_of_memory_anywhere(server, tmp_path):
    """With little more and little less than what is needed, it is done, or it says what is missing."""
    made = big(tmp_path)
    words = ["prune", made.model, "--data", made.data, "--uniform", "0.5", "--allow-few-samples", "-q", "-b", "16"]
    said: dict[str, int] = {}
    for megabytes in range(40, 640, 20):
        out = tmp_path / f"{megabytes}.onnx"
        code, _, err = server.run(*words, "-o", out, memory=megabytes << 20)
        assert "Traceback" not in err, err
        last = next((line for line in err.splitlines() if "error" in line), str(code))
        said[last] = said.get(last, 0) + 1
        assert out.exists() == (code == 0), err
        assert code in (0, 2), (megabytes, code, err)
    print(f"\nmemory: {said}")


def test_limits_are_what_these_tests_take_them_for():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
