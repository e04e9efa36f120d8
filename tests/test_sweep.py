"""`sweep`: a point is what prune and check say; the front and the pick on numbers made by hand; the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from report.handmade import DATA, HOSTILE
from report.handmade import MODEL as INFO

import pfa_onnx
from pfa_onnx import pipeline
from pfa_onnx.cli import main
from pfa_onnx.errors import ProofError, TargetError, UsageError
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Method, Proof, Size
from pfa_onnx.report import swept
from pfa_onnx.report.html.swept import render as page
from pfa_onnx.results import Repair
from pfa_onnx.steps import sweep as steps
from pfa_onnx.tradeoff import Missed, Point, Swept, front, fronts

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "sample_models" / "fashion" / "model.onnx"
IMAGES = ROOT / "sample_models" / "fashion" / "images"
METHODS = (
    Method("kl"),
    Method("energy", tau=0.95),
    Method("params", target=0.5),
    Method("macs", target=0.4, select="l2"),
    Method("uniform", ratio=0.5, select="l1"),
)


@pytest.fixture(scope="module")
def stats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "stats.npz"
    pfa_onnx.analyze(MODEL, IMAGES, save_stats=path)
    return path


@pytest.fixture(scope="module")
def curve(stats: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    plan = PlanOptions(round_to=2, exclude=("narrow*",))
    folder = tmp_path_factory.mktemp("models")
    return pfa_onnx.sweep(MODEL, IMAGES, METHODS, plan, stats=stats, latency=False, save_to=folder / "new")


def without_latency(metrics):
    return {name: value for name, value in metrics.items() if name != "latency_ratio"}


def point_of(found, method):
    return next(one for one in found.points if replace(one.method, tau=method.tau) == method)


# --- a point is what prune and check say ---


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.select}")
def test_a_point_is_what_prune_writes_and_check_says(method, curve, stats, tmp_path) -> None:
    point, out = point_of(curve, method), tmp_path / "small.onnx"
    plan = PlanOptions(round_to=2, exclude=("narrow*",))
    report = pfa_onnx.prune(MODEL, None, method, plan, stats=stats, output=out)
    assert point.output is not None
    assert point.output.read_bytes() == out.read_bytes()
    assert (point.method, point.size, point.kept, point.proof) == (
        report.method, report.after, report.kept, report.proof,
    )  # fmt: skip
    checked = pfa_onnx.check(MODEL, out, IMAGES, latency=False)
    assert dict(point.metrics) == checked.metrics
    assert curve.channels == report.channels
    assert curve.model == report.model


def test_without_a_folder_the_numbers_are_the_same(curve, stats) -> None:
    found = pfa_onnx.sweep(MODEL, IMAGES, METHODS[:1], PlanOptions(2 * (), ("narrow*",), 2), stats=stats, latency=False)
    point = point_of(curve, METHODS[0])
    assert found.points == (replace(point, output=None),)


def test_a_repaired_point_is_what_prune_repairs(tmp_path) -> None:
    data, out = DataOptions(IMAGES, limit=320), tmp_path / "small.onnx"
    plan = PlanOptions(allow_few_samples=True, include=("block1*", "stem*"))
    method = Method("params", target=0.9, select="reconstruct")
    found = pfa_onnx.sweep(MODEL, data, [method], plan, repair=True, latency=False, save_to=tmp_path / "models")
    report = pfa_onnx.prune(MODEL, data, method, plan, output=out, repair=True)
    (point,) = found.points
    assert report.repair is not None
    assert report.repair.applied
    assert point.output is not None
    assert point.output.name == "model.params-0.9.repaired.onnx"
    assert point.output.read_bytes() == out.read_bytes()
    assert (point.repair, point.size) == (report.repair, report.after)
    assert dict(point.metrics) == pfa_onnx.check(MODEL, out, data, latency=False).metrics
    pfa_onnx.prune(MODEL, data, method, plan, output=out)
    cut = pfa_onnx.check(MODEL, out, data, latency=False).metrics
    assert point.unrepaired is not None
    assert without_latency(point.unrepaired) == without_latency(cut)
    assert point.metrics["agreement"] > point.unrepaired["agreement"]


def test_a_point_that_removes_nothing_is_the_original(stats, tmp_path) -> None:
    found = pfa_onnx.sweep(MODEL, IMAGES, [Method("energy", tau=1.0)], stats=stats, latency=False, repair=True)
    (point,) = found.points
    assert (point.size, point.unrepaired, point.repair) == (found.model.size, None, None)
    assert point.metrics["agreement"] == point.metrics["bytes_ratio"] == 1
    assert found.pick is None
    assert swept.line(found) == "no point is smaller than the original\n"
    saved = pfa_onnx.sweep(MODEL, IMAGES, [Method("energy", tau=1.0)], stats=stats, latency=False, save_to=tmp_path)
    assert (tmp_path / "model.energy-1.onnx").read_bytes() == MODEL.read_bytes()
    assert saved.points[0].size == found.model.size


def test_latency_is_measured_unless_told_otherwise(stats) -> None:
    found = pfa_onnx.sweep(MODEL, DataOptions(IMAGES, limit=32), METHODS[:1], stats=stats)
    assert found.points[0].metrics["latency_ratio"] > 0


# --- what is compared on ---


def test_samples_are_limited_and_counted(stats) -> None:
    one = [Method("uniform", ratio=0.9)]
    found = pfa_onnx.sweep(MODEL, IMAGES, one, stats=stats, latency=False, check_limit=50)
    assert (found.compared_on.samples, found.of) == (50, 640)
    assert swept.compared_on(found) == "compared on 50 of 640 samples"
    found = pfa_onnx.sweep(MODEL, DataOptions(IMAGES, limit=40), one, stats=stats, latency=False)
    assert found.compared_on.samples == 40
    other = {"input": np.random.default_rng(0).random((9, 1, 28, 28), np.float32)}
    name = next(iter(pipeline.load(MODEL).inputs)).name
    found = pfa_onnx.sweep(MODEL, None, one, stats=stats, check_data={name: other["input"]}, latency=False)
    assert (found.compared_on.samples, found.of, found.compared_on.source) == (9, 9, "arrays")
    assert swept.compared_on(found) == "compared on all 9 samples from arrays"


def test_what_does_not_fit_into_memory_is_read_and_run_again(stats, monkeypatch) -> None:
    from pfa_onnx.steps import judge

    data, one = DataOptions(IMAGES, limit=96), [Method("energy", tau=0.99)]
    kept = pfa_onnx.sweep(MODEL, data, one, stats=stats, latency=False)
    monkeypatch.setattr(judge, "CACHE", 10)
    assert pfa_onnx.sweep(MODEL, data, one, stats=stats, latency=False).points == kept.points


# --- what there is no point for ---


def test_targets_out_of_reach_are_left_out_and_said(stats) -> None:
    out_of_reach = Method("macs", target=1e-4)
    found = pfa_onnx.sweep(MODEL, IMAGES, [Method("kl"), out_of_reach], stats=stats, latency=False)
    assert [one.method.name for one in found.points] == ["kl"]
    assert [one.method for one in found.missed] == [out_of_reach]
    assert "left out: --macs 0.0001: no recipe has 0.0001 of the original's macs" in swept.render(found)
    with pytest.raises(TargetError):
        pfa_onnx.sweep(MODEL, IMAGES, [out_of_reach], stats=stats)


def test_a_cut_that_is_not_proven_is_no_point_and_is_not_written(stats, monkeypatch, tmp_path) -> None:
    def prove(*args):
        raise ProofError("the outputs differ", at="m.onnx", fix="report it")

    monkeypatch.setattr(steps, "prove_cut", prove)
    found = pfa_onnx.sweep(MODEL, IMAGES, METHODS[:1], stats=stats, save_to=tmp_path)
    assert found.points == ()
    assert found.missed == (Missed(METHODS[0], "the proof failed: the outputs differ", broken=True),)
    assert not list(tmp_path.iterdir())
    assert swept.render(found).endswith("no point is smaller than the original\n")


def test_what_one_recipe_freezes_is_not_held_against_the_next(monkeypatch) -> None:
    """A recipe that meets a node that cannot follow plans again; the others must not know of that."""
    made = []

    class Fake:
        def __init__(self, *args, **kwargs):
            made.append(self)
            self.trace = "settled"

        def decide(self, method):
            if method.name == "kl":
                self.trace = "more is frozen"
            return self

    for name in ("refuse_if_nothing_can_go", "without_covariances"):
        monkeypatch.setattr(steps, name, lambda given: given)
    monkeypatch.setattr(steps, "with_eigenvalues", lambda measured, hooks: measured)
    monkeypatch.setattr(steps, "Decider", Fake)
    found = steps.decide_all(None, (METHODS[1], METHODS[0], METHODS[2]), PlanOptions(), DataOptions(), Hooks())
    assert [decision for _, decision in found.recipes] == [made[0], made[0], made[1]]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"methods": []}, "nothing to sweep"),
        ({"methods": [Method("kl"), Method("kl")]}, "kl is asked for twice"),
        ({"plan": PlanOptions(round_to="auto")}, "every multiple for every point"),
        ({"methods": [Method("energy", tau=0.9, mapping="exp")]}, "--mapping exp is about what --kl asks for"),
        ({"data": None}, "the points are compared on inputs"),
        ({"save_to": MODEL}, "is a file"),
        ({"save_to": MODEL / "deeper" / "still"}, "cannot be made"),
    ],
)
def test_errors(given, what, tmp_path) -> None:
    with pytest.raises(UsageError, match=what):
        pfa_onnx.sweep(MODEL, **({"data": IMAGES} | given))


def test_the_model_is_never_replaced(tmp_path) -> None:
    (tmp_path / "model.kl.onnx").symlink_to(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(MODEL.read_bytes())
    with pytest.raises(UsageError, match="is the model itself"):
        pfa_onnx.sweep(tmp_path / "model.onnx", IMAGES, [Method("kl")], save_to=tmp_path)


# --- the front and the pick, by hand ---


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ([], []),
        ([(0.5, 0.9)], [True]),
        ([(0.5, 0.9), (0.6, 0.8)], [True, False]),
        ([(0.5, 0.9), (0.6, 0.95), (0.4, 0.1)], [True, True, True]),
        ([(0.5, 0.9), (0.5, 0.9)], [True, True]),
        ([(0.5, 0.9), (0.5, 0.8), (0.6, 0.9)], [True, False, False]),
        ([(0.5, None), (None, 0.9), (0.9, 0.1)], [False, False, True]),
    ],
)
def test_front(points, on) -> None:
    assert front(points) == tuple(on)


def test_the_original_is_on_the_front() -> None:
    """What costs as much as the original and is not as close is beaten by it."""
    models = [
        {"params_ratio": 0.5, "latency_ratio": 1.1, "agreement": 0.9},
        {"params_ratio": 1.0, "latency_ratio": 1.0, "agreement": 1.0},
    ]
    assert fronts(models, "agreement") == (("params",), ("params", "latency"))


def hand(params, agreement, *, method=None, unrepaired=None, **metrics):
    """A point with so many per cent of a model of 100 parameters."""
    size = Size(params, params * 10, params * 4)
    ratios = dict.fromkeys(("params_ratio", "macs_ratio", "bytes_ratio"), params / 100)
    values = {"agreement": agreement, "cosine_mean": 0.5, "accuracy_pruned": None, "latency_ratio": None}
    gained = None if unrepaired is None else Repair((), 80, 2, 0.9, 0.1, applied=True)
    return Point(
        method or Method("params", target=params / 100, tau=0.9), size, params, values | ratios | metrics,
        Proof(1e-7, 8, passed=True), None if unrepaired is None else {"agreement": unrepaired}, gained,
    )  # fmt: skip


def by_hand(*points, **fields):
    whole = replace(INFO, size=Size(100, 1000, 400))
    found = Swept(whole, DATA, replace(DATA, samples=256), 512, 394, (), **fields)
    for one in points:
        found = found.plus(one)
    return found


@pytest.mark.parametrize(
    ("points", "params"),
    [
        ([hand(90, 0.999), hand(70, 0.99), hand(50, 0.98999)], 70),
        ([hand(90, 0.95), hand(70, 0.95), hand(50, 0.9)], 70),
        ([hand(100, 1.0), hand(50, 0.2)], 50),
        ([hand(100, 1.0)], None),
        ([hand(90, None, cosine_mean=0.995), hand(70, None, cosine_mean=0.9)], 90),
        ([], None),
    ],
)
def test_the_pick_is_the_smallest_that_is_close_enough_or_the_closest(points, params) -> None:
    pick = by_hand(*points).pick
    assert (pick and pick.size.params) == params


CURVE = by_hand(
    hand(50, 0.75, method=Method("energy", tau=0.9)),
    hand(70, 0.5),
    Missed(Method("macs", target=0.1), "no recipe has it"),
    hand(90, 0.995, accuracy_original=0.9, accuracy_pruned=0.875, latency_ratio=1.25),
)


def test_text() -> None:
    assert swept.render(CURVE, next_step="pfa-onnx prune") == (
        "model.onnx   opset 17   100 params   1,000 MACs   400 B\n"
        "512 samples from val/ (1 skipped)   preprocess imagenet   input 3x224x224   cuda   batch 8\n"
        "compared on 256 of 512 samples\n"
        "\n"
        "point            params   MACs   file  latency  agreement  cosine  accuracy\n"
        "original              1      1      1        1          1       1    0.9000\n"
        "--params 0.9  *   0.900  0.900  0.900    1.250     0.9950  0.5000    0.8750\n"
        "--params 0.7      0.700  0.700  0.700        -     0.5000  0.5000         -\n"
        "--energy 0.9  *   0.500  0.500  0.500        -     0.7500  0.5000         -\n"
        "\n"
        "costs are over the original's   * no other has as few parameters and as high agreement\n"
        "left out: --macs 0.1: no recipe has it\n"
        "--params 0.9 is the smallest with agreement of 0.99 or more (0.9950)\n"
        "next: pfa-onnx prune\n"
    )


def test_text_of_a_repaired_sweep() -> None:
    method = Method("kl", select="reconstruct")
    failed = dataclasses.replace(hand(40, 0.25, unrepaired=0.25), repair=Repair((), 80, 2, 0.9, 1.0, applied=False))
    text = swept.render(by_hand(hand(50, 0.75, method=method, unrepaired=0.5), failed, repaired=True))
    rows = [line.split() for line in text.splitlines() if line.startswith("--")]
    assert rows[0][:7] == ["--kl", "--select", "reconstruct", "*", "0.500", "0.500", "0.500"]
    assert [row[-3:] for row in rows[:2]] == [["0.5000", "0.7500", "0.5000"], ["0.2500", "-", "0.5000"]]
    assert "is the closest (agreement 0.7500): none reaches 0.99\n" in text
    alone = swept.render(by_hand(hand(50, 0.75, method=method, unrepaired=0.5), repaired=True))
    assert "all points: --select reconstruct --repair\n" in alone
    assert "\n--kl      *   0.500" in alone
    assert "\ncut and repaired: agreement before and after repair; cosine: after it\n" in alone


def test_models_without_class_scores_are_judged_by_their_cosine() -> None:
    text = swept.render(by_hand(hand(50, None, cosine_mean=0.97, cosine_min=0.5)))
    assert "file  cosine  worst cosine" in text
    assert "is the closest (cosine 0.9700): none reaches 0.99; try --repair" in text


def test_json_schema() -> None:
    content = json.loads(swept.as_json(CURVE))
    assert content["schema"] == 1
    assert set(content) == {
        "schema", "version", "model", "channels", "data", "compared_on", "quality", "repair", "points", "missed", "pick",
        "complete", "warnings",
    }  # fmt: skip
    assert set(content["points"][0]) == {
        "method", "kept", "params", "macs", "bytes", "metrics", "unrepaired", "repair", "proof", "front", "output",
    }  # fmt: skip
    assert (content["pick"], content["quality"], content["compared_on"]["of"]) == (0, "agreement", 512)
    assert [one["front"] for one in content["points"]] == [["params", "macs", "bytes"], [], ["params", "macs", "bytes"]]
    assert content["points"][2]["method"] == {"name": "energy", "tau": 0.9}
    assert content["missed"] == [{"method": {"name": "macs", "target": 0.1, "tau": None}, "reason": "no recipe has it"}]
    repaired = json.loads(swept.as_json(by_hand(hand(50, 0.75, unrepaired=0.5), repaired=True)))["points"][0]
    assert repaired["repair"] == {"applied": True, "before": 0.9, "after": 0.1, "samples": 80}
    assert repaired["unrepaired"] == {"agreement": 0.5}


def test_markdown_and_hostile_names() -> None:
    text = swept.markdown(CURVE)
    assert text.startswith("**--params 0.9 is the smallest")
    assert "| `--energy 0.9` | \\* | 0.500 |" in text
    bad = replace(CURVE, model=replace(INFO, path=HOSTILE), missed=(Missed(Method("kl"), HOSTILE),), warnings=(HOSTILE,))
    assert not re.search(r"(?<!\\)<", swept.markdown(bad))
    assert "\x1b" not in swept.render(bad)
    json.loads(swept.as_json(bad))


def test_page() -> None:
    method = Method("energy", tau=0.95, select="reconstruct")
    applied = hand(50, 0.75, method=method, unrepaired=0.5, cosine_mean=float("nan"))
    failed = dataclasses.replace(hand(40, 0.25, unrepaired=0.25), repair=Repair((), 80, 2, 0.9, 1.0, applied=False))
    found = by_hand(applied, failed, Missed(Method("macs", target=0.1), "no recipe"), repaired=True)
    shown = page(replace(found, points=tuple(replace(one, output=Path("out/a.onnx")) for one in found.points)))
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', shown)[1])["tradeoff"]
    assert [one["name"] for one in data["models"]] == ["--energy 0.95 --select reconstruct", "--params 0.4"]
    assert data["models"][0]["before"] == {"agreement": 0.5}
    assert "before" not in data["models"][1]
    assert "cosine_mean" not in data["models"][0]["values"], "JSON has no NaN"
    facts = dict(data["models"][1]["facts"])
    assert facts["repair"] == "error 0.9 \N{RIGHTWARDS ARROW} 1: left out"
    assert facts["energy found"] == "0.9"
    assert facts["written to"] == "out/a.onnx"
    assert (data["first"], data["repaired"], data["numbered"]) == (0, True, False)
    assert "left out: --macs 0.1: no recipe" in shown
    assert not re.search(r'(src|href)="(?!data:)', shown), "nothing is fetched"
    scripts = "".join(re.findall(r"<script>(.*?)</script>", shown, re.DOTALL)[2:])
    for name in re.findall(r'getElementById\("(\w+)"\)', scripts):
        assert f'id="{name}"' in shown, name


def test_a_page_without_points_has_no_chart() -> None:
    shown = page(by_hand(Missed(Method("kl"), HOSTILE), complete=False))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "interrupted: 0 points so far" in shown


def test_the_same_sweep_gives_the_same_bytes(curve, stats) -> None:
    plan = PlanOptions(round_to=2, exclude=("narrow*",))
    again = pfa_onnx.sweep(MODEL, IMAGES, METHODS[::-1], plan, stats=stats, latency=False)
    points = tuple(replace(one, output=None) for one in curve.points)
    assert swept.as_json(again) == swept.as_json(replace(curve, points=points)), "in whatever order they are asked for"


# --- the command line ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    calls = []

    def sweep(*args, **kwargs):
        calls.append((args, kwargs))
        return CURVE

    monkeypatch.setattr(pipeline, "sweep", sweep)
    monkeypatch.chdir(tmp_path)
    return calls


def run(line):
    return main(shlex.split(line))


def test_flags_arrive(fake) -> None:
    assert run(
        "sweep m.onnx --data val --limit 9 --energy 0.9,0.8 --uniform 0.5 --kl --macs 0.3 --repair --no-latency --check-data v "
        "--check-limit 7 --save-to out --round-to 8 --couple mean --shrink oas --mapping exp"
    ) == 0  # fmt: skip
    (model, data, methods, plan), kwargs = fake[0]
    spectral = {"select": "reconstruct", "couple": "mean", "shrink": "oas"}
    assert (model, data.data, data.limit, plan.round_to) == (Path("m.onnx"), "val", 9, 8)
    assert methods == (
        Method("kl", mapping="exp", **spectral),
        Method("energy", tau=0.9, **spectral),
        Method("energy", tau=0.8, **spectral),
        Method("macs", target=0.3, **spectral),
        Method("uniform", ratio=0.5, select="reconstruct", couple="mean"),
    )
    kwargs = {name: value for name, value in kwargs.items() if name not in ("each", "hooks")}
    assert kwargs == {
        "stats": None, "save_stats": None, "resume": False, "check_data": "v", "check_limit": 7, "repair": True,
        "latency": False, "save_to": Path("out"),
    }  # fmt: skip


def test_the_default_grid(fake) -> None:
    assert run("sweep m.onnx --data val --select l1") == 0
    assert fake[0][0][2] == tuple(replace(method, select="l1") for method in steps.default_grid())
    assert [steps.short(method) for method in steps.default_grid(repair=True)] == [
        "kl", "energy-0.99", "energy-0.98", "energy-0.95", "energy-0.9", "energy-0.85", "energy-0.8",
        "params-0.75", "params-0.5", "params-0.35",
    ]  # fmt: skip
    assert {method.select for method in steps.default_grid(repair=True)} == {"reconstruct"}


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("sweep m.onnx", ["no data", "never invented"]),
        ("sweep m.onnx --data v --energy 0.9,0.9", ["0.9 is there twice"]),
        ("sweep m.onnx --data v --energy 0.9,2", ["at most 1"]),
        ("sweep m.onnx --data v --params ,", ["'' is not a number"]),
        ("sweep m.onnx --stats s --repair --check-data v", ["--repair runs the model on inputs"]),
        ("sweep m.onnx --data v --stats s --save-stats t", ["--save-stats would save what --stats holds"]),
        ("sweep m.onnx --data v --divergence chi2 --energy 0.9", ["--divergence is about what --kl asks for"]),
        ("sweep m.onnx --data v.npz --mean 0.5", ["--mean is for pictures"]),
        ("sweep m.onnx --data v --json m.onnx", ["--json would replace"]),
        ("sweep m.onnx --data v --check-limit 0", ["--check-limit"]),
        ("sweep m.onnx --data v --latency 0.5", ["no such option '--latency'"]),
    ],
)
def test_usage_errors(fake, capsys, line, texts) -> None:
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "\n  fix: " in err
    assert all(text in err for text in texts), err
    assert not fake


@pytest.mark.parametrize(
    ("flags", "following"),
    [
        ("--data val --round-to 8", "prune m.onnx --data val --round-to 8 --params 0.9"),
        ("--data val --params 0.9,0.7 --kl -v", "prune m.onnx --data val --params 0.9"),
        ("--data val --stats s.npz", "prune m.onnx --stats s.npz --params 0.9"),
        ("--data val --limit 9 --save-stats s.npz", "prune m.onnx --stats s.npz --params 0.9"),
        ("--data val --repair", "prune m.onnx --data val --repair --params 0.9"),
        (
            "--data val --repair --stats s.npz --select l1",
            "prune m.onnx --data val --select l1 --stats s.npz --repair --params 0.9",
        ),
        ("--data val --mapping exp --kl --params 0.9", "prune m.onnx --data val --params 0.9"),
    ],
)
def test_the_next_command_makes_the_pick(fake, capsys, monkeypatch, flags, following) -> None:
    assert run(f"sweep m.onnx {flags}") == 0
    found = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert sorted(found.split()) == sorted(f"next: pfa-onnx {following}".split())
    called = []
    monkeypatch.setattr(pipeline, "prune", lambda *args, **kwargs: called.append(args) or (_ for _ in ()).throw(KeyError))
    run(found.removeprefix("next: pfa-onnx "))
    assert called, "the command line takes it"


def test_the_next_command_checks_a_pick_that_was_written(fake, capsys, monkeypatch) -> None:
    points = tuple(replace(one, output=Path(f"out/{one.size.params}.onnx")) for one in CURVE.points)
    monkeypatch.setattr(pipeline, "sweep", lambda *args, **kwargs: replace(CURVE, points=points))
    assert run("sweep m.onnx --data val --limit 9 --preprocess unit --save-to out --no-latency") == 0
    out = capsys.readouterr().out
    assert "\nwrote 3 models to out\n" in out
    assert out.endswith("next: pfa-onnx check m.onnx out/90.onnx --data val --limit 9 --preprocess unit --no-latency\n")
    assert run("sweep m.onnx --data val --limit 9 --check-data 'an other' --save-to out") == 0
    assert capsys.readouterr().out.endswith("next: pfa-onnx check m.onnx out/90.onnx --data 'an other'\n")


def test_help_ends_with_an_example_that_is_accepted(fake, capsys) -> None:
    assert run("sweep -h") == 0
    example = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert main(shlex.split(example)[1:]) == 0
    assert Path("curve.html").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (UsageError("the disk is full", at="s.json", fix="free some"), 2)]
)
def test_what_there_is_is_reported_when_it_ends_early(fake, capsys, monkeypatch, tmp_path, error, code) -> None:
    def sweep(*args, each, **kwargs):
        each(by_hand(hand(90, 0.9), complete=False))
        each(by_hand(hand(90, 0.9), hand(70, 0.8), complete=False))
        raise error

    monkeypatch.setattr(pipeline, "sweep", sweep)
    assert run("sweep m.onnx --data val --json s.json --markdown s.md") == code
    out, err = capsys.readouterr()
    assert out.endswith("\ninterrupted: 2 points so far\n")
    assert "interrupted" in err or "disk is full" in err
    content = json.loads((tmp_path / "s.json").read_text())
    assert (content["complete"], len(content["points"])) == (False, 2)
    assert (tmp_path / "s.md").read_text().startswith("**interrupted: 2 points so far**")


def test_nothing_is_reported_when_there_is_nothing_yet(fake, capsys, monkeypatch, tmp_path) -> None:
    def sweep(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "sweep", sweep)
    assert run("sweep m.onnx --data val --json s.json") == 130
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "s.json").exists()


def test_a_failed_proof_is_a_no(fake, capsys, monkeypatch) -> None:
    missed = (Missed(Method("kl"), "the proof failed", broken=True),)
    monkeypatch.setattr(pipeline, "sweep", lambda *args, **kwargs: replace(CURVE, missed=missed))
    assert run("sweep m.onnx --data val") == 1
    assert run("sweep m.onnx --data val -q") == 1
    assert capsys.readouterr().out.endswith("--params 0.9 is the smallest with agreement of 0.99 or more (0.9950)\n")


@pytest.mark.parametrize("verb", ["compare", "sweep"])
def test_every_option_is_explained(verb) -> None:
    from pfa_onnx.cli.app import app

    assert all(isinstance(param, click.Argument) or param.help for param in app.commands[verb].params)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pfa_onnx.cli import main\nassert main(['sweep', '-h']) == main(['compare', '-h']) == 0\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'PIL', 'pfa_onnx.pipeline', 'pfa_onnx.recipe', 'pfa_onnx.tradeoff'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
