"""The verbs on real files, as a user runs them: what they write, what they refuse, and that nothing is half done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from networks import NETWORKS, Net, exports, feeds

import pfa_onnx
from pfa_onnx.errors import ModelError, PfaError, ProofError, StatsError, TargetError, UsageError
from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context
from pfa_onnx.graph.cost import parameters
from pfa_onnx.graph.model import load
from pfa_onnx.graph.ops import RULES
from pfa_onnx.recipe import Method
from pfa_onnx.report import as_json
from pfa_onnx.stats.merge import merge_stats
from pfa_onnx.stats.statsfile import load_stats, save_stats

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_models" / "fashion"
MODEL = SAMPLE / "model.onnx"
IMAGES = SAMPLE / "images"


def data_for(path: Path, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    return feeds(onnx.load(path, load_external_data=False), np.random.default_rng(seed), n=n)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def stats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "stats.npz"
    pfa_onnx.analyze(MODEL, IMAGES, save_stats=path)
    return path


@pytest.mark.parametrize("path", exports(), ids=lambda p: p.stem if p.parent.name == "exports" else p.parent.name)
def test_kl_prunes_every_export_and_proves_it(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    plan = pfa_onnx.PlanOptions(allow_few_samples=True)
    report = pfa_onnx.prune(path, data_for(path, 40), plan=plan, output=out)
    assert report.proof is not None
    assert report.proof.passed
    assert report.proof.max_relative_error <= 1e-4
    assert report.after is not None
    assert report.after.params == parameters(load(out))
    assert report.after.bytes == out.stat().st_size
    onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    stored = json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["pfa_onnx.recipe"])
    assert stored["original_sha256"] == digest(path)
    assert {k: v["keep"] for k, v in stored["layers"].items()} == {la.output: list(la.keep) for la in report.layers}


def test_through_norm_prunes_the_spine_and_a_replay_of_it_does_too(tmp_path: Path) -> None:
    path = next(p for p in exports() if p.stem == "vit.ts")
    data, out, again = data_for(path, 40), tmp_path / "small.onnx", tmp_path / "again.onnx"
    half = Method("uniform", ratio=0.5)
    plain = pfa_onnx.prune(path, data, half, pfa_onnx.PlanOptions(allow_few_samples=True), output=out)
    assert not plain.through_norm
    plan = pfa_onnx.PlanOptions(allow_few_samples=True, through_norm=True)
    report = pfa_onnx.prune(path, data, half, plan, output=out)
    assert report.through_norm
    assert report.proof is not None
    assert report.proof.passed
    assert plain.after is not None
    assert report.after is not None
    assert report.after.params < 0.6 * plain.after.params
    assert json.loads(ir.load(out).metadata_props["pfa_onnx.recipe"])["through_norm"] is True

    recipe = tmp_path / "report.json"
    recipe.write_text(as_json.render(report))
    replayed = pfa_onnx.prune(path, data, recipe=recipe, output=again)
    assert replayed.through_norm
    assert parameters(load(again)) == parameters(load(out))


@pytest.mark.parametrize(
    "method",
    [
        pfa_onnx.Method("energy", tau=0.9),
        pfa_onnx.Method("params", target=0.5),
        pfa_onnx.Method("macs", target=0.4),
        *(pfa_onnx.Method("uniform", ratio=0.5, select=s) for s in ("pfa", "l1", "l2", "random")),
    ],
    ids=lambda m: f"{m.name}-{m.select}",
)
def test_every_method_on_the_sample(method: pfa_onnx.Method, stats: Path, tmp_path: Path) -> None:
    report = pfa_onnx.prune(MODEL, None, method, stats=stats, output=tmp_path / "small.onnx")
    assert report.after is not None
    if method.target is not None:
        before = getattr(report.model.size, method.name)
        assert getattr(report.after, method.name) <= method.target * before
        assert getattr(report.after, method.name) >= 0.8 * method.target * before
    for layer in report.layers:
        if method.name == "uniform" and not layer.frozen:
            assert layer.asked == -(-layer.channels // 2) == len(layer.keep)
        assert len(layer.keep) >= layer.asked or not layer.frozen


def test_a_target_takes_the_largest_tau_that_fits(stats: Path) -> None:
    found = pfa_onnx.analyze(MODEL, method=pfa_onnx.Method("params", target=0.5), stats=stats)
    assert found.method.tau is not None
    more = pfa_onnx.analyze(MODEL, method=pfa_onnx.Method("energy", tau=found.method.tau + 2e-3), stats=stats)
    assert more.after is not None
    assert more.after.params > 0.5 * more.model.size.params


def test_options_shape_the_plan(stats: Path) -> None:
    plan = pfa_onnx.PlanOptions(exclude=("block1*", "narrow*"), round_to=8, min_channels=16)
    report = pfa_onnx.analyze(MODEL, method=pfa_onnx.Method("energy", tau=0.8), plan=plan, stats=stats)
    for layer in report.layers:
        assert len(layer.keep) % 8 == 0 or len(layer.keep) == layer.channels
        assert len(layer.keep) >= min(16, layer.channels)
    whole = {la.node for la in report.layers if len(la.keep) == la.channels}
    assert {
        "block1.first.conv",
        "block1.second.conv",
        "stem.conv",
        "narrow.conv",
    } <= whole  # the stem shares block1's spine
    assert "wide.conv" not in whole


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for k in (1, 2):
        command = [sys.executable, "-m", "pfa_onnx", "prune", str(MODEL), "--data", str(IMAGES), "--kl", "-q"]
        command += [
            "-o",
            str(tmp_path / f"{k}.onnx"),
            "--json",
            str(tmp_path / "report.json"),
            "--save-stats",
            str(tmp_path / f"{k}.npz"),
        ]
        subprocess.run(command, check=True, capture_output=True)
        shutil.move(tmp_path / "report.json", tmp_path / f"{k}.json")
    for kind in ("onnx", "npz"):
        assert digest(tmp_path / f"1.{kind}") == digest(tmp_path / f"2.{kind}")
    one, two = (json.loads((tmp_path / f"{k}.json").read_text()) for k in (1, 2))
    assert {k: v for k, v in one.items() if k != "output"} == {k: v for k, v in two.items() if k != "output"}


def test_halves_merged_equal_the_whole(stats: Path, tmp_path: Path) -> None:
    every = sorted(p for p in IMAGES.rglob("*.png"))
    parts = []
    for k in (0, 1):
        folder = tmp_path / f"half{k}"
        folder.mkdir()
        for path in every[k::2]:
            shutil.copy(path, folder / f"{path.parent.name}_{path.name}")
        pfa_onnx.analyze(MODEL, folder, save_stats=tmp_path / f"{k}.npz")
        parts.append(load_stats(tmp_path / f"{k}.npz"))
    save_stats(tmp_path / "both.npz", merge_stats(parts))
    whole, both = (pfa_onnx.analyze(MODEL, stats=p) for p in (stats, tmp_path / "both.npz"))
    assert [la.keep for la in whole.layers] == [la.keep for la in both.layers]
    for one, other in zip(whole.layers, both.layers, strict=True):
        np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, rtol=1e-9, atol=1e-12 * one.eigenvalues[0])


def test_a_recipe_replays_to_the_same_model_and_on_a_retrained_one(stats: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.onnx"
    command = [sys.executable, "-m", "pfa_onnx", "prune", str(MODEL), "--stats", str(stats), "--params", "0.6", "-q"]
    subprocess.run([*command, "-o", str(first), "--json", str(tmp_path / "r.json")], check=True, capture_output=True)
    again = pfa_onnx.prune(MODEL, IMAGES, recipe=tmp_path / "r.json", output=tmp_path / "again.onnx")
    assert digest(first) == digest(tmp_path / "again.onnx")
    retrained = onnx.load(MODEL)
    for tensor in retrained.graph.initializer:
        if tensor.name.endswith("conv.weight"):
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.01), tensor.name))
    onnx.save(retrained, tmp_path / "retrained.onnx")
    other = pfa_onnx.prune(tmp_path / "retrained.onnx", IMAGES, recipe=tmp_path / "r.json", output=tmp_path / "o.onnx")
    assert [la.keep for la in other.layers] == [la.keep for la in again.layers]
    assert other.proof is not None
    assert other.proof.passed


def test_scratch_draws_all_weights_anew_and_repeats_with_its_seed(stats: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{k}.onnx" for k in range(3)]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        pfa_onnx.prune(MODEL, None, stats=stats, output=out, init="scratch", seed=seed)
    assert digest(outs[0]) == digest(outs[1]) != digest(outs[2])
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(outs[0]).graph.initializer}
    wide = weights["block2.first.conv.weight"]
    assert abs(wide.std() - np.sqrt(2 / np.prod(wide.shape[1:]))) < 0.05 * wide.std()
    assert (weights["stem.bn.weight"] == 1).all()


def test_what_is_written_keeps_everything_else(stats: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    pfa_onnx.prune(MODEL, None, stats=stats, output=out)
    before, after = onnx.load(MODEL), onnx.load(out)
    assert [n.name for n in before.graph.node] == [n.name for n in after.graph.node]
    assert [t.name for t in before.graph.initializer] == [t.name for t in after.graph.initializer]
    assert before.ir_version == after.ir_version
    assert [(o.domain, o.version) for o in before.opset_import] == [(o.domain, o.version) for o in after.opset_import]
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    onnx.checker.check_model(after, full_check=True)


def test_check_gates_and_accuracy(stats: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    pfa_onnx.prune(MODEL, None, pfa_onnx.Method("energy", tau=0.99), stats=stats, output=out)
    result = pfa_onnx.check(MODEL, out, IMAGES, {"max_params": 0.9, "min_agreement": 0.999}, latency=False)
    gates = {gate.name: gate.passed for gate in result.gates}
    assert gates == {"params_ratio": True, "agreement": False}
    assert not result.passed
    assert abs((result.metrics["accuracy_original"] or 0) - 0.9390625) < 0.01
    same = pfa_onnx.check(MODEL, MODEL, IMAGES, {"min_agreement": 1, "min_cosine": 1 - 1e-6}, latency=False)
    assert same.passed


def test_memory_of_weights_shared_by_two_readers_is_untangled(tmp_path: Path) -> None:
    """The classic of merged slopes: two PRelus read one initializer and then keep different channels."""
    path = tmp_path / "shared.onnx"
    onnx.save(NETWORKS["shared_prelu_slope"](np.random.default_rng(0)), path)
    report = pfa_onnx.prune(
        path, data_for(path, 60), pfa_onnx.Method("energy", tau=0.9), output=tmp_path / "small.onnx"
    )
    assert report.proof is not None
    assert report.proof.passed


# --- what is refused --------------------------------------------------------------------------------------


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def refused(kind: type[PfaError], **arguments: object) -> PfaError:
    call = {"model": MODEL, "data": IMAGES, "output": Path("never.onnx"), **arguments}
    with pytest.raises(kind) as caught:
        pfa_onnx.prune(call.pop("model"), call.pop("data"), call.pop("method", None), **call)  # type: ignore[arg-type]
    assert str(caught.value).startswith("error: ")
    assert caught.value.fix or caught.value.at
    return caught.value


def test_bad_models_are_refused(tmp_path: Path) -> None:
    whole = MODEL.read_bytes()
    for name, content in {
        "cut.onnx": whole[:1000],
        "half.onnx": whole[:300_000],
        "empty.onnx": b"",
        "text.onnx": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(ModelError, model=tmp_path / name, output=tmp_path / "o.onnx")
    refused(ModelError, model=tmp_path / "missing.onnx", output=tmp_path / "o.onnx")
    refused(ModelError, model=tmp_path, output=tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_bad_data_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    (tmp_path / "empty").mkdir()
    good = np.random.default_rng(0).random((80, 1, 28, 28), dtype=np.float32)
    bad = good.copy()
    bad[3, 0, 0, 0] = np.nan
    for data in (
        tmp_path / "empty",
        tmp_path / "missing",
        npz(tmp_path / "keys.npz", foo=good, bar=good),
        npz(tmp_path / "nan.npz", image=bad),
        npz(tmp_path / "shape.npz", image=np.zeros((9, 1, 32, 32), np.float32)),
        npz(tmp_path / "one.npz", image=good[:1]),
        npz(tmp_path / "huge.npz", image=good * np.float32(1e38)),
    ):
        refused(PfaError, data=data, output=out)
    assert not out.exists()
    assert "stem.conv" in str(refused(PfaError, data=tmp_path / "huge.npz", output=out))


def test_bad_options_are_refused(stats: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    refused(UsageError, output=MODEL)
    refused(UsageError, output=tmp_path / "nowhere" / "o.onnx")
    refused(UsageError, plan=pfa_onnx.PlanOptions(exclude=("nothing*",)), output=out)
    refused(UsageError, data=None, output=out)
    error = refused(TargetError, method=pfa_onnx.Method("params", target=1e-6), output=out)
    assert error.exit_code == 1
    assert "the least is" in error.what
    other = exports()[0]
    refused(StatsError, model=other, data=None, stats=stats, output=out)
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(UsageError, output=tmp_path / "o.onnx")


def test_too_few_samples_freeze_a_layer_with_that_reason(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((40, 1, 28, 28), dtype=np.float32)
    report = pfa_onnx.analyze(MODEL, data)
    wide = next(la for la in report.layers if la.channels == 64)
    assert len(wide.keep) == 64
    assert any("40 samples cannot describe" in reason.reason for reason in wide.frozen)
    eager = pfa_onnx.analyze(MODEL, data, plan=pfa_onnx.PlanOptions(allow_few_samples=True))
    assert len(next(la for la in eager.layers if la.channels == 64).keep) < 64


def test_nothing_is_written_when_the_proof_fails(stats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule - Concat with its parts exchanged - is noticed before anything is written."""

    def exchanged(c: Context) -> None:
        c.out(movement.concat([c.mark(i) for i in range(len(c.node.inputs))][::-1], 1))

    monkeypatch.setitem(RULES, ("", "Concat"), exchanged)
    with pytest.raises(ProofError):
        pfa_onnx.prune(MODEL, None, stats=stats, output=tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_too_wide_to_measure_stays_and_says_so(tmp_path: Path) -> None:
    net = Net(np.random.default_rng(0))
    x = net.relu(net.linear(net.input(["N", 4], "x"), 4, 8200))
    model = tmp_path / "wide.onnx"
    onnx.save(net.model(net.linear(net.relu(net.linear(x, 8200, 16)), 16, 3, out="y")), model)
    data = {"x": np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)}
    report = pfa_onnx.analyze(model, data, Method("uniform", ratio=0.5))
    wide, narrow, _ = report.layers
    assert len(wide.keep) == 8200
    assert wide.frozen[0].reason == "has 8,200 channels, more than the 8,192 that are measured"
    assert len(narrow.keep) == 8
