"""Several processes and one folder: nobody reads half a file, takes another's for a leftover, or mixes two models."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import NETWORKS

from pfa_onnx import pipeline, replacing
from pfa_onnx.errors import ModelError
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Method
from pfa_onnx.replacing import remove_leftovers, scratch_folder
from pfa_onnx.steps import apply, prove

HALF = Method("uniform", ratio=0.5)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
LOCKS = pytest.mark.skipif(replacing.fcntl is None, reason="there are no locks")


def prune_words(small, output, *more, share="0.5"):
    return [
        "prune",
        small.model,
        "--data",
        small.data,
        "--uniform",
        share,
        "--allow-few-samples",
        "-q",
        "-o",
        output,
        *more,
    ]


class Watcher(threading.Thread):
    """Reads files again and again, as somebody does who waits for them: keeps the digests of all that it saw."""

    def __init__(self, *paths):
        super().__init__()
        self.paths, self.seen, self.over = paths, {path: set() for path in paths}, False

    def run(self):
        while not self.over:
            for path in self.paths:
                if path.exists():
                    self.seen[path].add(hashlib.sha256(path.read_bytes()).hexdigest())
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.join()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- many writers ---


@LINUX
def test_ten_prunes_of_one_model_into_one_folder(server, small, tmp_path):
    """Each with a file of its own, and all with one report and one statistics file."""
    calm, work = tmp_path / "calm", tmp_path / "work"
    calm.mkdir()
    work.mkdir()
    shared = lambda folder: ["--json", folder / "r.json", "--save-stats", folder / "s.npz"]  # noqa: E731
    assert server.run(*prune_words(small, calm / "out.onnx", *shared(calm)))[0] == 0
    began = time.monotonic()
    with Watcher(work / "r.json", work / "s.npz") as watcher:
        children = [server.start(*prune_words(small, work / f"{k}.onnx", *shared(work))) for k in range(10)]
        codes = [child.wait() for child in children]
    print(f"\nten prunes at once: {time.monotonic() - began:.1f} s")
    assert codes == [0] * 10, [child.err for child in children]
    assert sorted(p.name for p in work.iterdir()) == sorted([*(f"{k}.onnx" for k in range(10)), "r.json", "s.npz"])
    assert {digest(work / f"{k}.onnx") for k in range(10)} == {digest(calm / "out.onnx")}
    for name in ("r.json", "s.npz"):
        assert watcher.seen[work / name] == {digest(calm / name)}


@LINUX
@pytest.mark.parametrize("outside", [False, True])
def test_ten_prunes_into_one_file(server, small, tmp_path, outside):
    """The last one stays; what anybody saw meanwhile was one of them, whole."""
    patches = {"pfa_onnx.steps.apply:EMBED_LIMIT": 0} if outside else {}
    calm, work, shares = set(), tmp_path / "work", ("0.4", "0.6", "0.8")
    work.mkdir()
    for share in shares:
        (tmp_path / share).mkdir()
        output = tmp_path / share / "out.onnx"
        assert server.run(*prune_words(small, output, share=share), patches=patches)[0] == 0
        calm.add(digest(output))
    with Watcher(work / "out.onnx") as watcher:
        children = [
            server.start(*prune_words(small, work / "out.onnx", share=shares[k % 3]), patches=patches)
            for k in range(10)
        ]
        codes = [child.wait() for child in children]
    assert codes == [0] * 10, [child.err for child in children]
    assert watcher.seen[work / "out.onnx"] <= calm
    assert digest(work / "out.onnx") in calm
    onnx.checker.check_model(work / "out.onnx", full_check=True)
    assert not [path.name for path in work.iterdir() if path.name.startswith(".")]


@LINUX
def test_two_analyses_with_one_checkpoint(server, small, tmp_path):
    """Both save where they are after every batch, into one file; each ends in the whole statistics."""
    words = ["analyze", small.model, "--data", small.data, "-b", "2", "-q", "--save-stats", tmp_path / "s.npz"]
    patches = {"pfa_onnx.steps.resume:SECONDS": 0, "pfa_onnx.steps.resume:SHARE": 0}
    children = [server.start(*words, *more, patches=patches) for more in ([], ["--resume"], [], ["--resume"])]
    assert [child.wait() for child in children] == [0] * 4, [child.err for child in children]
    whole = digest(tmp_path / "s.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.npz"]
    assert server.run(*words)[0] == 0
    assert digest(tmp_path / "s.npz") == whole


# --- a model that another process replaces ---


REPLACES = """
import os, sys, time
target, *sources = sys.argv[1:]
contents = [open(source, "rb").read() for source in sources]
way, k = os.environ["WAY"], 0
print("ready", flush=True)
while True:
    k += 1
    if way == "rename":
        with open(f"{target}.new", "wb") as file:
            file.write(contents[k % 2])
        os.replace(f"{target}.new", target)
    else:
        with open(target, "wb") as file:
            half = len(contents[k % 2]) // 2
            file.write(contents[k % 2][:half])
            file.flush()
            file.write(contents[k % 2][half:])
    time.sleep(float(os.environ["PAUSE"]))
"""


def replaced_while_pruned(server, small, tmp_path, way, times):
    """Prune a model that another process replaces without end: how often it went well, and what was said."""
    made, known = [], {}
    for k in range(2):
        proto = NETWORKS["plain"](np.random.default_rng(k))
        onnx.save(proto, tmp_path / f"{k}.onnx")
        words = ["--data", small.data, "--uniform", "0.5", "--allow-few-samples", "-q", "-o", tmp_path / f"out{k}.onnx"]
        assert server.run("prune", tmp_path / f"{k}.onnx", *words)[0] == 0
        known[digest(tmp_path / f"{k}.onnx")] = (tmp_path / f"out{k}.onnx").read_bytes()
        made.append(str(tmp_path / f"{k}.onnx"))
    model, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    model.write_bytes(Path(made[0]).read_bytes())
    said = {"well": 0}
    for k in range(times):
        env = {**os.environ, "WAY": way, "PAUSE": str([0.5, 0.05, 0.005][k % 3])}
        other = subprocess.Popen([sys.executable, "-c", REPLACES, model, *made], stdout=subprocess.PIPE, env=env)
        other.stdout.readline()
        output.unlink(missing_ok=True)
        words = ["--data", small.data, "--uniform", "0.5", "--allow-few-samples", "-q", "-o", output]
        code, _, err = server.run("prune", model, *words)
        other.kill()
        other.wait()
        other.stdout.close()
        assert code in (0, 2), err
        if code:
            what = next(line for line in err.splitlines() if line.startswith("error: "))
            assert "changed while" in what or "not a complete ONNX model" in what, err
            said[what] = said.get(what, 0) + 1
            assert not output.exists()
        else:
            said["well"] += 1
            recipe = json.loads({p.key: p.value for p in onnx.load(output).metadata_props}["pfa_onnx.recipe"])
            assert output.read_bytes() == known[recipe["original_sha256"]], "a mixture of two models"
    return said


@LINUX
@pytest.mark.parametrize("way", ["rename", "overwrite"])
def test_a_model_that_is_replaced_while_it_is_read(server, small, tmp_path, way):
    replaced_while_pruned(server, small, tmp_path, way, 4)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("way", ["rename", "overwrite"])
def test_a_model_that_is_replaced_again_and_again(server, small, tmp_path, way):
    said = replaced_while_pruned(server, small, tmp_path, way, 60)
    print(f"\nreplaced by {way}: {said}")


@pytest.mark.parametrize("limit", [0, 10**9])
@pytest.mark.parametrize("when", ["calibrate", "prove", "write"])
def test_weights_that_are_replaced_beside_the_same_model(small, tmp_path, monkeypatch, limit, when):
    """The model's own file says nothing of it: its name, its size and its bytes are as before."""
    monkeypatch.setattr(apply, "EMBED_LIMIT", limit)
    model, data = tmp_path / "outside.onnx", tmp_path / "outside.data"
    for path in (model, data):
        path.write_bytes((small.folder / path.name).read_bytes())

    def replace() -> None:
        weights = np.frombuffer(data.read_bytes(), np.float32)
        (tmp_path / "new").write_bytes((weights * 2).tobytes())
        (tmp_path / "new").replace(data)

    write = pipeline.write
    if when == "prove":  # between the two models
        monkeypatch.setattr(prove, "_refuse_nothing", lambda _: replace())
    if when == "write":
        monkeypatch.setattr(pipeline, "write", lambda *given, **more: (replace(), write(*given, **more))[1])
    seen = []

    def progress(phase, done, total):
        if when == "calibrate" and not seen:
            seen.append(replace())

    options = DataOptions(data=str(small.data), providers="cpu")
    with pytest.raises(ModelError, match="the model changed while"):
        pipeline.prune(
            model, options, HALF, PlanOptions(allow_few_samples=True), output=tmp_path / "out.onnx",
            hooks=Hooks(progress=progress),
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.data", "outside.onnx"]
    monkeypatch.setattr(pipeline, "write", write)
    monkeypatch.setattr(prove, "_refuse_nothing", lambda _: None)
    report = pipeline.prune(model, options, HALF, PlanOptions(allow_few_samples=True), output=tmp_path / "out.onnx")
    assert report.proof.passed


def test_a_model_that_goes_away_when_nothing_is_cut(small, tmp_path, monkeypatch):
    model = tmp_path / "model.onnx"
    model.write_bytes(small.model.read_bytes())
    write = pipeline.write
    monkeypatch.setattr(pipeline, "write", lambda *given, **more: (model.unlink(), write(*given, **more))[1])
    with pytest.raises(ModelError, match="the model changed while"):
        pipeline.prune(
            model, DataOptions(data=str(small.data), providers="cpu"), Method("energy", tau=1.0),
            PlanOptions(allow_few_samples=True), output=tmp_path / "out.onnx",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- what was left behind, and what was not ---


def left(folder, name="out.onnx", host=None, process=2**22 + 1, *, is_folder=False):
    """What a run leaves that was killed, by default one of this machine that is long gone."""
    path = folder / f".{name}.{host or replacing._host()}-{process}-0123abcd.tmp"
    if is_folder:
        (path / "more").mkdir(parents=True)
        (path / "more" / "w.data").write_bytes(b"x")
    else:
        path.write_bytes(b"half")
    return path


@LOCKS
def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    gone = [left(tmp_path), left(tmp_path, process=os.getpid()), left(tmp_path, process=7, is_folder=True)]
    old = left(tmp_path, host="elsewhere")
    os.utime(old, (1, 1))
    stays = [
        left(tmp_path, "other.onnx"),
        left(tmp_path, host="elsewhere", process=3),
        tmp_path / ".out.onnx.tmp",
        tmp_path / f".out.onnx.{replacing._host()}-12-0123abcd.tmp.txt",
    ]
    for path in stays[2:]:
        path.write_bytes(b"somebody's")
    link = tmp_path / f".out.onnx.{replacing._host()}-12-00000000.tmp"
    link.symlink_to(stays[0])
    remove_leftovers(tmp_path / "out.onnx")
    assert not [path for path in (*gone, old) if path.exists()]
    assert [path for path in (*stays, link) if path.exists()] == [*stays, link]


@LOCKS
def test_what_is_being_written_is_no_leftover(tmp_path):
    """Not by this process, not by another one; whatever its number, in whatever container."""
    target = tmp_path / "out.onnx"
    holds = "import sys; from pathlib import Path; from pfa_onnx.replacing import {0}\nwith {0}(Path(sys.argv[1])): print('ready', flush=True); input()"
    for way in ("replacing", "scratch_folder"):
        other = subprocess.Popen(
            [sys.executable, "-c", holds.format(way), target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        other.stdout.readline()
        (made,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        number = made.name.rsplit("-", 2)[1]
        renamed = made.rename(made.with_name(made.name.replace(f"-{number}-", "-4194305-")))
        remove_leftovers(target)
        assert renamed.exists(), "its process cannot be seen from here, and lives"
        other.kill()
        other.wait()
        for stream in (other.stdin, other.stdout):
            stream.close()
        remove_leftovers(target)
        assert not renamed.exists()
    with replacing.replacing(target) as stream, scratch_folder(target) as folder:
        remove_leftovers(target)
        assert folder.exists()
        stream.write(b"whole")
    assert target.read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@LOCKS
def test_without_locks_the_process_decides(tmp_path, monkeypatch):
    """Some network file systems have none."""

    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(replacing.fcntl, "flock", none)
    mine, dead = left(tmp_path, process=os.getpid()), left(tmp_path, process=2**22 + 1)
    with replacing.replacing(tmp_path / "out.onnx") as stream:
        stream.write(b"whole")
    assert mine.exists()
    assert not dead.exists()
    assert (tmp_path / "out.onnx").read_bytes() == b"whole"


def test_names_that_are_as_long_as_they_may_be(tmp_path):
    for name in ("n" * 255, "ü" * 127, "m" * 151):
        for _ in range(2):
            with replacing.replacing(tmp_path / name) as stream:
                stream.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 3


@LINUX
def test_devices_are_not_replaced(server, small, tmp_path):
    """Root may: /dev/null would be a file from then on, for everybody."""
    os.mkfifo(tmp_path / "pipe")
    for words in (
        prune_words(small, tmp_path / "pipe"),
        prune_words(small, tmp_path / "o", "--save-stats", tmp_path / "pipe"),
    ):
        code, _, err = server.run(*words)
        assert code == 2
        assert "is no plain file" in err
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="no plain file"), replacing.replacing(tmp_path / "pipe"):
        pass
