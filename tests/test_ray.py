"""`--ray`: the statistics of one process, measured by many, some of which die. Needs the extra: pfa-onnx[ray]."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SETS, tars_of

import pfa_onnx
from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.stats.statsfile import load_stats
from pfa_onnx.steps import cluster

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="--ray needs Ray") as caught:
        pfa_onnx.analyze(MODEL, pfa_onnx.DataOptions(str(IMAGES), ray="local"))
    assert caught.value.fix == "pip install 'pfa-onnx[ray]'"


def test_nothing_else_needs_it():
    code = (
        "import sys; sys.modules['ray'] = None; import pfa_onnx.pipeline, pfa_onnx.cli.app, pfa_onnx.api; "
        "from pfa_onnx.cli import main; sys.exit(main(['analyze', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("workers", "samples", "count"),
    [(2, 640, 2), (2, 100_000, 8), (2, 2_000, 3), (8, 3, 3), (4, None, 4), (1, 1, 1)],
)
def test_shards_are_several_for_each_worker_but_not_tiny(workers, samples, count):
    assert cluster.shards_for(workers, samples) == count


@pytest.fixture(scope="module")
def two_workers():
    """A cluster of this machine with two workers of one core."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def alike(one, other):
    """Covariances to 1e-10 relative, and everything that is counted exactly."""
    assert (one.samples, one.source, one.preprocess) == (other.samples, other.source, other.preprocess)
    assert list(one.moments) == list(other.moments)
    for name, moments in one.moments.items():
        assert other.moments[name].count == moments.count
        scale = np.abs(moments.m2).max()
        np.testing.assert_allclose(other.moments[name].m2, moments.m2, rtol=0, atol=1e-10 * scale)
    for name, array in one.inputs.items():
        np.testing.assert_array_equal(other.inputs[name], array)


def measured(tmp_path, data, name, ray, **options):
    path = tmp_path / f"{name}.npz"
    seen = []
    hooks = pfa_onnx.Hooks(progress=lambda *step: seen.append(step), warn=lambda text: None)
    chosen = pfa_onnx.DataOptions(data, ray=ray, providers="cpu", **options)
    report = pfa_onnx.analyze(MODEL, chosen, save_stats=path, hooks=hooks)
    return load_stats(path), report, seen


def test_two_workers_give_what_one_process_gives(two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SAMPLES", 64)  # eight shards, and a tree of merges
    one, report, _ = measured(tmp_path, str(IMAGES), "one", None)
    two, again, seen = measured(tmp_path, str(IMAGES), "two", "local")
    alike(one, two)
    assert [layer.keep for layer in report.layers] == [layer.keep for layer in again.layers]
    assert [done for phase, done, _ in seen if phase == "shards"][-1] == 8
    assert two_workers.is_initialized(), "a cluster of the caller's stays"
    assert len(two.parts) == 8
    measured(tmp_path, str(IMAGES), "three", "local")
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "three.npz").read_bytes(), "whoever was done first"


def test_skipped_pictures_and_streams(two_workers, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, picture in enumerate(sorted(IMAGES.rglob("*.png"))[:60]):
        (folder / f"{k:02}.png").write_bytes(b"broken" if k % 7 == 3 else picture.read_bytes())
    one, report, _ = measured(tmp_path, str(folder), "a", None)
    two, again, _ = measured(tmp_path, str(folder), "b", "local")
    alike(one, two)
    assert report.data.skipped == again.data.skipped
    (tmp_path / "load.py").write_text(
        "import numpy as np\ndef rows():\n    r = np.random.default_rng(0)\n"
        "    for _ in range(90):\n        yield r.random((1, 1, 28, 28), dtype='f4')\n"
    )
    alike(*(measured(tmp_path, f"{tmp_path}/load.py:rows", str(ray), ray)[0] for ray in (None, "local")))


def test_what_a_worker_raises_arrives_as_it_is(two_workers, tmp_path):
    """Only workers see the sample that fails: the first ones are fine."""
    (tmp_path / "load.py").write_text(
        "import numpy as np\ndef rows():\n    yield np.zeros((64, 1, 28, 28), 'f4')\n    raise ValueError('no more')\n"
    )
    with pytest.raises(DataError, match="no more") as caught:
        measured(tmp_path, f"{tmp_path}/load.py:rows", "x", "local", batch_size=4)
    assert "load.py:4" in caught.value.at


@pytest.mark.parametrize("kind", ["tar", "parquet", "file-tar", "file-parquet", "file-pictures"])
def test_ray_data_reads_what_one_process_reads(two_workers, tmp_path, monkeypatch, kind):
    """Broken samples included; an address stands for an object store."""
    monkeypatch.setattr(cluster, "SAMPLES", 64)
    files = sorted(IMAGES.rglob("*.png"))[::3]
    contents = [(b"broken" if k % 50 == 7 else path.read_bytes(), path.parent.name) for k, path in enumerate(files)]
    folder = SETS[kind.removeprefix("file-")](tmp_path / "set", contents, 60)
    data = str(folder)
    if kind.startswith("file-"):
        pytest.importorskip("pyarrow")
        data = folder.as_uri()
    read = []
    streamed = cluster.Streamed
    monkeypatch.setattr(cluster, "Streamed", lambda *args: read.append(args[1]) or streamed(*args))
    one, report, _ = measured(tmp_path, data, "one", None, limit=200)
    two, again, _ = measured(tmp_path, data, "two", "local", limit=200)
    alike(one, two)
    assert read == [(1, 3), (2, 3), (3, 3)]
    assert [layer.keep for layer in report.layers] == [layer.keep for layer in again.layers]
    assert report.data.skipped
    assert report.data.skipped == again.data.skipped
    assert {part.data for part in two.parts} == {part.data for part in one.parts}
    assert sum(len(part.rows) for part in two.parts) == 200
    measured(tmp_path, data, "three", "local", limit=200)
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "three.npz").read_bytes()


def test_many_files_are_looked_into_on_the_cluster(two_workers, tmp_path):
    contents = [(path.read_bytes(), path.parent.name) for path in sorted(IMAGES.rglob("*.png"))[:80]]
    folder = tars_of(tmp_path / "set", contents, 2)
    one, _, _ = measured(tmp_path, str(folder), "one", None)
    two, _, _ = measured(tmp_path, str(folder), "two", "local")
    alike(one, two)
    (folder / "0050.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match="cannot read the tar file") as caught:
        measured(tmp_path, str(folder), "x", "local")
    assert caught.value.at == str(folder / "0050.tar")


def test_what_a_reader_raises_arrives_as_it_is(two_workers, tmp_path):
    """Pictures that do not fit the model: the first ones do, so that only readers see it."""
    sizes = [28] * 150 + [20]
    contents = []
    for k, size in enumerate(sizes):
        buffer = io.BytesIO()
        Image.new("L", (size, size), k).save(buffer, "PNG")
        contents.append((buffer.getvalue(), "x"))
    folder = tars_of(tmp_path / "set", contents, 200)
    with pytest.raises(DataError, match="images become 1x20x20 but input") as caught:
        measured(tmp_path, str(folder), "x", "local", preprocess="raw", batch_size=4)
    assert "0000.tar/0150" in caught.value.at


def test_no_cluster_at_the_address(tmp_path):
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UsageError, match="no Ray cluster answers") as caught:
        measured(tmp_path, str(IMAGES), "x", "127.0.0.1:1")
    assert caught.value.at == "--ray 127.0.0.1:1"


def test_a_node_that_dies_in_the_middle_changes_nothing(tmp_path, monkeypatch):
    """Three nodes; one is killed, with what it had measured, after the first shards were done."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    from ray.cluster_utils import Cluster

    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((600, 1, 28, 28), dtype=np.float32))
    (tmp_path / "load.py").write_text(
        "import time\nimport numpy as np\ndef rows():\n    time.sleep(0.7)\n"
        f"    return {{'image': np.load({str(tmp_path / 'x.npy')!r})}}\n"
    )
    name = load_input_name()
    (tmp_path / "load.py").write_text((tmp_path / "load.py").read_text().replace("'image'", repr(name)))
    monkeypatch.setattr(cluster, "SAMPLES", 50)
    one, _, _ = measured(tmp_path, f"{tmp_path}/load.py:rows", "one", None)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        nodes.wait_for_nodes()
        killed = threading.Event()
        watch = cluster._watch

        def kill_then_watch(*args):
            def later():
                time.sleep(4)
                nodes.remove_node(doomed, allow_graceful=False)
                killed.set()

            threading.Thread(target=later).start()
            watch(*args)

        monkeypatch.setattr(cluster, "_watch", kill_then_watch)
        two, _, seen = measured(tmp_path, f"{tmp_path}/load.py:rows", "two", nodes.address)
        assert killed.is_set(), "it was still running"
        alike(one, two)
        assert two.samples == 600
        assert sorted(part.index for part in two.parts) == list(range(1, 13))
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_node_that_dies_while_ray_data_reads_changes_nothing(tmp_path, monkeypatch, kind):
    """Large pictures take long to decode; sessions and readers are on all three nodes, and one of these is killed."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    from ray.cluster_utils import Cluster

    drawn = []
    for k in range(12):
        buffer = io.BytesIO()
        noise = np.random.default_rng(k).integers(0, 256, (60, 60), np.uint8)
        Image.fromarray(noise).resize((1800, 1800), Image.Resampling.NEAREST).save(buffer, "JPEG")
        drawn.append((buffer.getvalue(), str(k % 3)))
    folder = SETS[kind](tmp_path / "set", drawn * 20, 60)
    monkeypatch.setattr(cluster, "SAMPLES", 24)
    one, report, _ = measured(tmp_path, str(folder), "one", None)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        nodes.wait_for_nodes()
        done, at_the_end, watch = [], [], cluster._watch

        def kill_then_watch(ray, leaves, hooks):
            def later():
                ray.wait(leaves, num_returns=2, fetch_local=False)  # some are done, and others on their way
                nodes.remove_node(doomed, allow_graceful=False)
                done.append(len(ray.wait(leaves, num_returns=len(leaves), timeout=0, fetch_local=False)[0]))

            killer = threading.Thread(target=later)
            killer.start()
            watch(ray, leaves, hooks)
            killer.join()
            at_the_end.append(len(leaves))

        monkeypatch.setattr(cluster, "_watch", kill_then_watch)
        two, again, _ = measured(tmp_path, str(folder), "two", nodes.address)
        assert done[0] < at_the_end[0], "it was still running"
        alike(one, two)
        assert [layer.keep for layer in report.layers] == [layer.keep for layer in again.layers]
        assert two.samples == 240
        assert sorted((part.index, part.count) for part in two.parts) == [
            (k, at_the_end[0]) for k in range(1, at_the_end[0] + 1)
        ]
    finally:
        ray.shutdown()
        nodes.shutdown()


def load_input_name():
    from pfa_onnx.graph.model import load

    return load(MODEL).inputs[0].name
