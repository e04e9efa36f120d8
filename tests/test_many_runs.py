"""One analysis in several runs: shards that are merged, and a run that was killed and goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from samples import SETS

import pfa_onnx
from pfa_onnx.cli import main
from pfa_onnx.errors import StatsError
from pfa_onnx.stats.statsfile import load_stats
from pfa_onnx.steps import resume

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"
COMMAND = ["analyze", str(MODEL), "--data", str(IMAGES), "--limit", "300", "-b", "7", "-q", "--save-stats"]

DIES = """
import os, signal, sys
from pathlib import Path
from pfa_onnx.cli import main
from pfa_onnx.steps import resume
resume.SECONDS = resume.SHARE = 0
save, saves = resume.Checkpoints.save, []
def counted(self, found):
    save(self, found)
    saves.append(1)
    if len(saves) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
resume.Checkpoints.save = counted
sys.exit(main(sys.argv[2:]))
"""


def layers(text):
    return {layer["output"]: layer["keep"] for layer in json.loads(text)["layers"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one uninterrupted run saves."""
    path = tmp_path_factory.mktemp("whole") / "s.npz"
    assert main([*COMMAND, str(path), "--json", str(path.with_suffix(".json"))]) == 0
    assert not path.with_name("s.npz.partial").exists()
    return path


@pytest.mark.parametrize("count", [2, 5])
def test_merged_shards_are_the_whole(whole, tmp_path, count, capsys):
    paths = [tmp_path / f"{index}.npz" for index in range(1, count + 1)]
    for index, path in enumerate(paths, 1):
        assert main([*COMMAND, str(path), "--shard", f"{index}/{count}"]) == 0
    assert "merge before you decide" in capsys.readouterr().err
    assert main(["merge", *map(str, reversed(paths)), "-o", str(tmp_path / "all.npz")]) == 0
    merged, one = load_stats(tmp_path / "all.npz"), load_stats(whole)
    assert merged.samples == one.samples == 300
    for name, moments in one.moments.items():
        scale = np.abs(moments.m2).max()
        np.testing.assert_allclose(merged.moments[name].m2, moments.m2, rtol=0, atol=1e-10 * scale)
    pfa_onnx.merge(paths, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "all.npz").read_bytes()
    stats = ["analyze", str(MODEL), "--stats", str(tmp_path / "all.npz"), "--json", str(tmp_path / "r.json"), "-q"]
    assert main(stats) == 0
    assert layers((tmp_path / "r.json").read_text()) == layers(whole.with_suffix(".json").read_text())


@pytest.fixture(scope="module", params=["tar", "parquet"])
def boxes(request, tmp_path_factory):
    """The sample's pictures in tar or Parquet files: what analyses them, and the statistics of all in one run."""
    place = tmp_path_factory.mktemp("boxes")
    pictures = sorted(IMAGES.rglob("*.png"))[::2]
    data = SETS[request.param](place / "set", [(path.read_bytes(), path.parent.name) for path in pictures], 60)
    command = ["analyze", str(MODEL), "--data", str(data), "--limit", "300", "-b", "7", "-q", "--save-stats"]
    assert main([*command, str(place / "s.npz")]) == 0
    return command, place / "s.npz"


def test_shards_of_files_are_stretches_that_merge(boxes, tmp_path, capsys):
    command, one = boxes
    paths = [str(tmp_path / f"{index}.npz") for index in (1, 2, 3)]
    for index, path in enumerate(paths, 1):
        assert main([*command, path, "--shard", f"{index}/3"]) == 0
    assert main(["merge", *paths, "-o", str(tmp_path / "all.npz")]) == 0
    merged, whole = load_stats(tmp_path / "all.npz"), load_stats(one)
    assert merged.samples == whole.samples == 300
    for name, moments in whole.moments.items():
        scale = np.abs(moments.m2).max()
        np.testing.assert_allclose(merged.moments[name].m2, moments.m2, rtol=0, atol=1e-10 * scale)
    capsys.readouterr()
    assert main(["merge", paths[0], str(one), "-o", str(tmp_path / "b.npz")]) == 2
    assert "shard 1/1 and shard 1/3 share samples" in capsys.readouterr().err
    assert main(["merge", paths[0], paths[2], "-o", str(tmp_path / "b.npz")]) == 0
    assert "shards are missing: 2/3" in capsys.readouterr().err


def test_a_killed_run_over_files_goes_on(boxes, tmp_path):
    command, one = boxes
    path = tmp_path / "s.npz"
    dead = run("-c", DIES, "17", *command, str(path))
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert main([*command, str(path), "--resume"]) == 0
    assert path.read_bytes() == one.read_bytes()


def test_a_missing_shard_is_told_and_one_too_many_refused(tmp_path, capsys):
    for index in (1, 3):
        assert main([*COMMAND, str(tmp_path / f"{index}.npz"), "--shard", f"{index}/3"]) == 0
    files = [str(tmp_path / f"{index}.npz") for index in (1, 3)]
    capsys.readouterr()
    assert main(["merge", *files, "-o", str(tmp_path / "all.npz")]) == 0
    assert capsys.readouterr().err == "warning: shards are missing: 2/3\n"
    assert main(["merge", *files, str(tmp_path / "all.npz"), "-o", str(tmp_path / "b.npz")]) == 2
    assert "is there twice" in capsys.readouterr().err
    assert not (tmp_path / "b.npz").exists()


def test_a_shard_of_one_sample_merges(tmp_path):
    for index in range(1, 4):
        shard = pfa_onnx.DataOptions(str(IMAGES), limit=3, shard=(index, 3), providers="cpu")
        pfa_onnx.analyze(MODEL, shard, save_stats=tmp_path / f"{index}.npz")
    assert pfa_onnx.merge([tmp_path / f"{k}.npz" for k in (1, 2, 3)], tmp_path / "all.npz").samples == 3


def test_statistics_that_are_read_can_be_saved_again(whole, tmp_path):
    pfa_onnx.analyze(MODEL, stats=whole, save_stats=tmp_path / "copy.npz")
    assert (tmp_path / "copy.npz").read_bytes() == whole.read_bytes()


# --- resume ---


def run(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("saves", [1, 17, 43])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(whole, tmp_path, saves):
    """Killed right after a checkpoint; 43 batches of 7 are all there are."""
    path = tmp_path / "s.npz"
    dead = run("-c", DIES, str(saves), *COMMAND, str(path))
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz.partial"]
    assert main([*COMMAND, str(path), "--resume"]) == 0
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(whole, tmp_path):
    """No checkpoint is ever half written, and every sample counts once, however often the run dies."""
    path, chance = tmp_path / "s.npz", random.Random(0)
    deaths = 0
    while not path.exists():
        process = subprocess.Popen([sys.executable, "-c", DIES, "0", *COMMAND, str(path), "--resume"])
        partial, before = path.with_name("s.npz.partial"), os.times().elapsed
        had = partial.stat().st_mtime_ns if partial.exists() else 0
        while process.poll() is None and not (partial.exists() and partial.stat().st_mtime_ns > had):
            assert os.times().elapsed < before + 120
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        if deaths < 4:
            process.kill()
            deaths += process.wait() == -signal.SIGKILL
        else:
            assert process.wait() == 0
    assert deaths >= 1
    assert path.read_bytes() == whole.read_bytes()


def test_a_finished_run_is_not_run_again(whole, tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    path.write_bytes(whole.read_bytes())
    monkeypatch.setattr(resume.Checkpoints, "load", lambda _: pytest.fail("it measures again"))
    assert main([*COMMAND, str(path), "--resume", "--json", str(tmp_path / "r.json")]) == 0
    assert layers((tmp_path / "r.json").read_text()) == layers(whole.with_suffix(".json").read_text())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"--limit": "299"}, "another --limit: 300, and not 299"),
        ({"--shard": "1/2"}, "another --shard: 1/1, and not 1/2"),
        ({"--data": "other"}, "other data"),
        ({"--mean": "0.5"}, "other preprocessing: mean"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_run_is_not_continued(whole, tmp_path, capsys, changes, what, complete):
    path = tmp_path / "s.npz"
    if complete:
        path.write_bytes(whole.read_bytes())
    else:
        assert run("-c", DIES, "2", *COMMAND, str(path)).returncode == -signal.SIGKILL
    if "--data" in changes:
        changes = {"--data": str(tmp_path / "other")}
        (tmp_path / "other").mkdir()
        for k, picture in enumerate(sorted(IMAGES.rglob("*.png"))[:20]):
            (tmp_path / "other" / f"{k}.png").write_bytes(picture.read_bytes())
    words = [*COMMAND, str(path), "--resume", *(word for item in changes.items() for word in item)]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert what in err
    assert "leave --resume out" in err


def test_a_stream_is_continued_without_counting_twice(tmp_path, monkeypatch):
    """Its samples come again, and those that were counted are passed over."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((100, 1, 28, 28), dtype=np.float32))
    (tmp_path / "load.py").write_text(
        f"import numpy as np\nROWS = np.load({str(tmp_path / 'x.npy')!r})\n"
        "def rows():\n    yield from (ROWS[:3], ROWS[3:50], ROWS[50:])\n"
    )
    words = ["analyze", str(MODEL), "--data", f"{tmp_path}/load.py:rows", "-b", "6", "-q", "--allow-few-samples"]
    assert main([*words, "--save-stats", str(tmp_path / "a.npz")]) == 0
    path = tmp_path / "b.npz"
    assert run("-c", DIES, "5", *words, "--save-stats", str(path)).returncode == -signal.SIGKILL
    assert main([*words, "--save-stats", str(path), "--resume"]) == 0
    assert path.read_bytes() == (tmp_path / "a.npz").read_bytes()


def test_pictures_that_cannot_be_read_are_counted_once(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, picture in enumerate(sorted(IMAGES.rglob("*.png"))[:90]):
        (folder / f"{k:02}.png").write_bytes(b"broken" if k % 9 == 3 else picture.read_bytes())
    words = ["analyze", str(MODEL), "--data", str(folder), "-b", "7", "-q"]
    assert main([*words, "--save-stats", str(tmp_path / "a.npz"), "--json", str(tmp_path / "a.json")]) == 0
    assert run("-c", DIES, "4", *words, "--save-stats", str(tmp_path / "b.npz")).returncode == -signal.SIGKILL
    again = [*words, "--save-stats", str(tmp_path / "b.npz"), "--resume", "--json", str(tmp_path / "b.json")]
    assert main(again) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SECONDS", 0)
    monkeypatch.setattr(resume, "SHARE", 0)
    said = []

    def stop(phase, done, total):
        if done > 100:
            raise KeyboardInterrupt

    hooks = pfa_onnx.Hooks(progress=stop, warn=said.append)
    with pytest.raises(KeyboardInterrupt):
        pfa_onnx.analyze(MODEL, str(IMAGES), save_stats=tmp_path / "s.npz", hooks=hooks)
    assert [text for text in said if "--resume continues there" in text]
    report = pfa_onnx.analyze(MODEL, str(IMAGES), save_stats=tmp_path / "s.npz", resume=True)
    assert report.data.samples == 640


def test_resume_without_anything_to_go_on_from_begins(tmp_path):
    report = pfa_onnx.analyze(MODEL, str(IMAGES), save_stats=tmp_path / "s.npz", resume=True)
    assert report.data.samples == 640
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(MODEL.read_bytes())  # a model is known by its bytes, not by its name
    assert pfa_onnx.analyze(copy, str(IMAGES), save_stats=tmp_path / "s.npz", resume=True).data.samples == 640
    (tmp_path / "s.npz.partial").write_bytes(b"broken")
    with pytest.raises(StatsError, match="broken"):
        pfa_onnx.analyze(MODEL, str(IMAGES), save_stats=tmp_path / "s.npz", resume=True)
