"""`compare`: each model is what check says of it; histories, classes and inputs worked out by hand; the command line."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from report.handmade import DATA, HOSTILE
from report.handmade import MODEL as INFO

import pfa_onnx
from pfa_onnx import pipeline
from pfa_onnx.cli import main
from pfa_onnx.errors import ModelError, StatsError, UsageError
from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Method, Size
from pfa_onnx.report import compared
from pfa_onnx.report.html.compared import render as page
from pfa_onnx.stats.compare import Comparison
from pfa_onnx.stats.data import Batch
from pfa_onnx.steps.embedded import METADATA_KEY
from pfa_onnx.steps.provenance import provenance
from pfa_onnx.steps.several import Album, judged
from pfa_onnx.tradeoff import Candidate, ChangedInput, ClassRow, Compared, Made

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "sample_models" / "fashion" / "model.onnx"
IMAGES = ROOT / "sample_models" / "fashion" / "images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    stats = place / "stats.npz"
    pfa_onnx.analyze(MODEL, IMAGES, save_stats=stats)
    for name, method in {"light": Method("energy", tau=0.99), "deep": Method("kl", select="l1")}.items():
        pfa_onnx.prune(MODEL, None, method, stats=stats, output=place / f"{name}.onnx")
    pfa_onnx.prune(place / "light.onnx", IMAGES, Method("uniform", ratio=0.9), output=place / "twice.onnx")
    return place


@pytest.fixture(scope="module")
def found(folder: Path) -> Compared:
    models = [folder / f"{name}.onnx" for name in ("light", "deep", "twice")]
    return pfa_onnx.compare(MODEL, models, IMAGES, latency=False, pictures=5)


@pytest.mark.parametrize("name", ["light", "deep", "twice"])
def test_each_model_is_what_check_says_of_it(name, found, folder) -> None:
    index = ["light", "deep", "twice"].index(name)
    checked = pfa_onnx.check(MODEL, folder / f"{name}.onnx", IMAGES, latency=False)
    one = found.models[index]
    assert (one.model, one.metrics, one.outputs) == (checked.pruned, checked.metrics, checked.outputs)
    assert found.original == checked.original
    assert found.data == checked.data
    changed = {(row.name, row.original, row.models[index]) for row in found.changed if row.models[index] != row.original}
    assert changed == {(change.name, change.before, change.after) for change in checked.changed}
    right = sum(row.models[index] for row in found.classes)
    assert right / found.data.samples == checked.metrics["accuracy_pruned"]
    assert sum(row.original for row in found.classes) / found.data.samples == checked.metrics["accuracy_original"]


def test_classes_are_the_labels_and_inputs_are_ordered(found) -> None:
    assert found.by == "label"
    assert [(row.name[0], row.number, row.samples) for row in found.classes] == [(str(k), k, 64) for k in range(10)]
    changes = [row.changes for row in found.changed]
    assert changes == sorted(changes, reverse=True)
    assert all(row.label == row.name.split("/")[0] for row in found.changed)
    assert list(found.pictures) == list(range(5))
    assert all(png.startswith(b"\x89PNG") for png in found.pictures.values())


def test_without_labels_classes_are_the_originals_answers(folder) -> None:
    name = next(iter(load(MODEL).inputs)).name
    data = {name: np.random.default_rng(0).random((40, 1, 28, 28), np.float32)}
    found = pfa_onnx.compare(MODEL, [folder / "light.onnx"], data)
    assert found.by == "answer"
    assert all(row.original == row.samples and row.name == str(row.number) for row in found.classes)
    same = sum(row.models[0] for row in found.classes)
    assert same / 40 == found.models[0].metrics["agreement"]
    assert found.models[0].metrics["latency_ratio"] > 0
    assert found.models[0].latency_ms is not None
    assert not found.pictures, "they were not asked for"
    assert "classes are the original's answers" in compared.render(found)


# --- histories ---


def with_recipe(path: Path, out: Path, content: object) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=content if isinstance(content, str) else json.dumps(content))
    onnx.save(model, out)
    return out


def recipe_in(path: Path) -> dict:
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}[METADATA_KEY])


def test_the_whole_history_is_told(found, folder) -> None:
    light, deep, twice = (one.made for one in found.models)
    assert [step.method for step in light] == [Method("energy", tau=0.99)]
    assert [step.method for step in deep] == [Method("kl", select="l1")]
    assert [step.method for step in twice] == [Method("energy", tau=0.99), Method("uniform", ratio=0.9)]
    assert twice[0] == light[0]
    assert light[0].channels == 394
    assert twice[1].channels == light[0].kept > twice[1].kept
    assert not found.warnings, "the original is the first of the chain"
    middle = pfa_onnx.compare(folder / "light.onnx", [folder / "twice.onnx"], DataOptions(IMAGES, limit=8), latency=False)
    assert not middle.warnings, "or in the middle of it"


def test_repair_training_and_the_rest_are_told(folder, tmp_path) -> None:
    content = recipe_in(folder / "light.onnx") | {
        "repair": {"before": 0.5, "after": 0.25, "layers": {}, "samples": 9},
        "finetune": {"best": 2, "history": [{}, {}, {}, {}], "method": {}},
        "through_norm": True,
        "responses": {"pool": "mean"},
        "redrawn": 7,
        "unknown": "of a later version",
    }
    made = provenance(load(with_recipe(folder / "light.onnx", tmp_path / "m.onnx", content))).made
    assert made == (
        Made(Method("energy", tau=0.99), 355, 394, through_norm=True, variants={"pool": "mean"}, repair=(0.5, 0.25),
             tuned=(2, 3), redrawn=7),
    )  # fmt: skip
    tuned = {"finetune": {"best": 1, "history": [{}, {}]}}
    made = provenance(load(with_recipe(folder / "light.onnx", tmp_path / "m.onnx", tuned))).made
    assert made == (Made(None, tuned=(1, 1)),)


def test_a_model_of_another_original_is_compared_with_a_warning(folder) -> None:
    data = DataOptions(IMAGES, limit=8)
    found = pfa_onnx.compare(folder / "light.onnx", [folder / "deep.onnx"], data, latency=False)
    (warning,) = found.warnings
    assert "deep.onnx was made of another original, says the recipe inside it (sha256 " in warning
    assert found.models[0].made


def test_a_model_that_says_nothing_is_compared(folder) -> None:
    found = pfa_onnx.compare(folder / "light.onnx", [MODEL], DataOptions(IMAGES, limit=8), latency=False)
    assert (found.models[0].made, found.warnings) == ((), ())
    assert "it does not say" in compared.render(found)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        {"layers": []},
        {"layers": {"x": {}}, "method": {"name": "kl"}},
        {"layers": {}, "method": 3},
        {"layers": {}, "method": {"name": "kl", "seed": "x"}},
        {"repair": {"before": "x", "after": 1}},
        {"finetune": 3},
        {"layers": {"x": {"keep": 3, "channels": 3}}, "method": {"name": "kl"}},
    ],
)
def test_a_broken_recipe_is_a_warning_and_no_history(content, folder, tmp_path) -> None:
    path = with_recipe(folder / "light.onnx", tmp_path / "m.onnx", content)
    with pytest.raises(StatsError):
        provenance(load(path))
    found = pfa_onnx.compare(MODEL, [path], DataOptions(IMAGES, limit=8), latency=False)
    assert found.models[0].made == ()
    assert "m.onnx: the recipe inside the model is broken" in found.warnings[0]


def test_a_chain_without_an_end_is_broken(folder, tmp_path) -> None:
    content: dict = {}
    for _ in range(150):
        content = {"previous": content}
    with pytest.raises(StatsError, match="more than 100 prunings"):
        provenance(load(with_recipe(folder / "light.onnx", tmp_path / "m.onnx", content)))


# --- what cannot be compared ---


def test_errors(folder, tmp_path, monkeypatch) -> None:
    light = folder / "light.onnx"
    with pytest.raises(UsageError, match=r"light\.onnx is given twice"):
        pfa_onnx.compare(MODEL, [light, folder / "deep.onnx", light], IMAGES)
    (tmp_path / "link.onnx").symlink_to(light)
    with pytest.raises(UsageError, match=r"link\.onnx, also called .*light\.onnx, is given twice"):
        pfa_onnx.compare(MODEL, [light, tmp_path / "link.onnx"], IMAGES)
    with pytest.raises(UsageError, match=r"model\.onnx is the original"):
        pfa_onnx.compare(MODEL, [light, MODEL], IMAGES)
    with pytest.raises(UsageError, match="no model"):
        pfa_onnx.compare(MODEL, [], IMAGES)
    other = onnx.load(light)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "renamed"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="different outputs"):
        pfa_onnx.compare(MODEL, [light, tmp_path / "other.onnx"], IMAGES)


# --- by hand ---


def comparison(before, after, labels):
    """Two models' answers among three classes."""
    found = Comparison(("a", "b", "c"))
    scores = [{"y": np.eye(3, dtype=np.float32)[list(tops)]} for tops in (before, after)]
    found.add(*scores, [f"s{k}" for k in range(len(before))], labels)
    return found


def test_classes_and_inputs_by_hand() -> None:
    labels = ["a", "a", "b", None]
    one, other = comparison([0, 1, 1, 2], [0, 0, 1, 1], labels), comparison([0, 1, 1, 2], [1, 0, 1, 0], labels)
    by, classes, changed = judged([one, other, Comparison()])
    assert by == "label"
    assert classes == (ClassRow("a", 0, 2, 1, (2, 1, None)), ClassRow("b", 1, 1, 1, (1, 1, None)))
    assert changed == (
        (1, ChangedInput("s1", "a", 1, (0, 0, None))),
        (3, ChangedInput("s3", None, 2, (1, 0, None))),
        (0, ChangedInput("s0", "a", 0, (0, 1, None))),
    )
    assert [row.changes for _, row in changed] == [2, 2, 1]
    by, classes, _ = judged([comparison([0, 1, 1, 2], [0, 0, 1, 1], [None] * 4)])
    assert by == "answer"
    assert classes == (ClassRow("0", 0, 1, 1, (1,)), ClassRow("1", 1, 2, 2, (1,)), ClassRow("2", 2, 1, 1, (0,)))
    assert judged([Comparison()]) == (None, (), ())


def test_an_album_keeps_those_that_most_models_change() -> None:
    album = Album(2, {})
    for start in (0, 4):
        feeds = {"x": np.full((4, 1, 3, 3), 0.5, np.float32)}
        batch = Batch(feeds, tuple(f"s{start + k}" for k in range(4)), (None,) * 4)
        for changed in ([0, 1], [1, 3], [1] if start else [3]):
            album.look(batch, changed)
    assert set(album.pictures()) == {5, 1}, "three models change 5, two 1 and 3, of which 1 comes first"
    nothing = Album(0, {})
    nothing.look(batch, [1])
    assert nothing.pictures() == {}


def model(path, params, agreement, *, made=(), **metrics):
    ratios = dict.fromkeys(("params_ratio", "macs_ratio", "bytes_ratio"), params / 100)
    values = {"agreement": agreement, "cosine_mean": 0.5, "accuracy_original": 0.75, "accuracy_pruned": 0.5}
    info = replace(INFO, path=path, size=Size(params, params * 10, params * 4))
    return Candidate(info, values | {"latency_ratio": None} | ratios | metrics, None, {}, made)


HAND = Compared(
    replace(INFO, size=Size(100, 1000, 400)),
    DATA,
    (
        model("a.onnx", 50, 0.75, made=(Made(Method("kl"), 30, 40, repair=(0.5, 0.25)), Made(None, tuned=(3, 5)))),
        model("b.onnx", 60, 0.7),
        model("c.onnx", 70, 0.875, latency_ratio=1.5),
    ),
    "label",
    (ClassRow("cat", 0, 8, 8, (8, 4, None)), ClassRow("dog", 1, 4, 1, (1, 2, 3))),
    (ChangedInput("x.png", "cat", 0, (1, 1, None)), ChangedInput("y.png", "dog", 1, (1, 0, 1))),
)


def test_text() -> None:
    assert compared.render(HAND) == (
        "model.onnx   opset 17   100 params   1,000 MACs   400 B\n"
        "512 samples from val/ (1 skipped)   preprocess imagenet   input 3x224x224   cuda   batch 8\n"
        "\n"
        "   model        params   MACs   file  latency  agreement  cosine  accuracy\n"
        "   original          1      1      1        1          1       1    0.7500\n"
        "1  a.onnx    *   0.500  0.500  0.500        -     0.7500  0.5000    0.5000\n"
        "2  b.onnx        0.600  0.600  0.600        -     0.7000  0.5000    0.5000\n"
        "3  c.onnx    *   0.700  0.700  0.700    1.500     0.8750  0.5000    0.5000\n"
        "\n"
        "costs are over the original's   * no other has as few parameters and as high agreement\n"
        "\n"
        "   made by\n"
        "1  --kl keeps 30 of 40 channels, repaired (error 0.5 -> 0.25); then fine-tuned (epoch 3 of 5)\n"
        "2  it does not say\n"
        "3  it does not say\n"
        "\n"
        "classes are the labels; the numbers are the share of each that is answered rightly\n"
        "\n"
        "class  samples  original      1      2      3\n"
        "cat          8     1.000  1.000  0.500      -\n"
        "dog          4     0.250  0.250  0.500  0.750\n"
        "\n"
        "changed  label  original  1  2  3\n"
        "x.png    cat           0  1  1  -\n"
        "y.png    dog           1  .  0  .\n"
        "\n"
        "2 of 512 samples are answered otherwise by some of the 3 models\n"
    )
    assert compared.line(HAND) == "2 of 512 samples are answered otherwise by some of the 3 models\n"
    alone = replace(HAND, models=HAND.models[:1], by=None, classes=(), changed=())
    assert compared.line(alone) == "1 model compared on 512 samples\n"
    assert "made by" in compared.render(alone)


def test_only_what_changes_most_is_shown_unless_all_is_asked_for() -> None:
    classes = tuple(ClassRow(f"c{k}", k, 10, 5, (5 + k % 3, 5, 5)) for k in range(9))
    many = replace(HAND, classes=classes, changed=HAND.changed * 5)
    text = compared.render(many)
    assert re.findall(r"^c\d", text, re.MULTILINE) == ["c1", "c2", "c4", "c5", "c7", "c8"]
    assert "\n... 3 more (-v)\n" in text
    assert "\n... 4 more (-v)\n" in text
    assert len(re.findall(r"^c\d", compared.render(many, verbose=True), re.MULTILINE)) == 9


def test_json_schema() -> None:
    content = json.loads(compared.as_json(HAND))
    assert content["schema"] == 1
    assert set(content) == {
        "schema", "version", "original", "data", "quality", "models", "by", "classes", "changed", "warnings",
    }  # fmt: skip
    assert set(content["models"][0]) == {
        "path", "sha256", "opset", "params", "macs", "bytes", "metrics", "latency_ms", "outputs", "made", "front",
    }  # fmt: skip
    assert content["models"][0]["made"] == [
        {"method": {"name": "kl"}, "kept": 30, "channels": 40, "repair": {"before": 0.5, "after": 0.25}},
        {"finetune": {"best": 3, "epochs": 5}},
    ]
    assert [one["front"] for one in content["models"]] == [["params", "macs", "bytes"], [], ["params", "macs", "bytes"]]
    assert content["classes"][0] == {"name": "cat", "number": 0, "samples": 8, "original": 8, "models": [8, 4, None]}
    assert content["changed"][0] == {"name": "x.png", "label": "cat", "original": 0, "models": [1, 1, None]}


def test_markdown() -> None:
    text = compared.markdown(HAND)
    assert text.startswith("**2 of 512 samples are answered otherwise by some of the 3 models**\n")
    assert "| 1 | `a.onnx` | \\* | 0.500 |" in text
    assert "### Classes" in text
    assert "### Inputs" in text


BAD = replace(
    HAND,
    original=replace(INFO, path=HOSTILE),
    models=tuple(replace(one, model=replace(one.model, path=HOSTILE)) for one in HAND.models),
    classes=(ClassRow(HOSTILE, 0, 8, 8, (8, 4, None)),),
    changed=(ChangedInput(HOSTILE, HOSTILE, 0, (1, 1, None)),),
    pictures={0: b"png"},
    warnings=(HOSTILE,),
)


def test_hostile_names_do_nothing() -> None:
    assert "\x1b" not in compared.render(BAD)
    outside = re.sub(r"``.*?``", "", compared.markdown(BAD))  # what is in a span of code is shown as it is
    assert not re.search(r"(?<!\\)<", outside)
    json.loads(compared.as_json(BAD))
    shown = page(BAD)
    assert "<img src=x" not in shown
    assert "\x1b" not in shown
    assert shown.count("</script>") == page(HAND).count("</script>")


def test_page() -> None:
    shown = page(replace(HAND, pictures={0: b"png"}))
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', shown)[1])
    assert [one["label"] for one in data["tradeoff"]["models"]] == ["1", "2", "3"]
    assert data["tradeoff"]["costs"] == [
        ["params_ratio", "parameters"], ["macs_ratio", "multiply-accumulates"], ["bytes_ratio", "file size"],
        ["latency_ratio", "latency"],
    ]  # fmt: skip
    assert [key for key, _ in data["tradeoff"]["closer"]] == ["agreement", "accuracy_pruned", "cosine_mean"]
    assert data["tradeoff"]["original"]["accuracy_pruned"] == 0.75
    assert data["classes"]["rows"][0]["change"] == [0.0, -0.5, None]
    assert "repaired (error 0.5 -&gt; 0.25)" in shown
    assert 'src="data:image/png;base64,cG5n"' in shown
    assert not re.search(r'(src|href)="(?!data:)', shown), "nothing is fetched"
    scripts = "".join(re.findall(r"<script>(.*?)</script>", shown, re.DOTALL)[2:])
    for name in re.findall(r'getElementById\("(\w+)"\)', scripts):
        assert f'id="{name}"' in shown, name
    assert "classes.js" not in shown
    without = page(replace(HAND, by=None, classes=(), changed=()))
    assert 'id="classes"' not in without


# --- the command line ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    calls = []

    def compare(*args, **kwargs):
        calls.append((args, kwargs))
        return HAND

    monkeypatch.setattr(pipeline, "compare_models", compare)
    monkeypatch.chdir(tmp_path)
    return calls


def run(line):
    return main(shlex.split(line))


def test_flags_arrive(fake, capsys, tmp_path) -> None:
    assert run("compare m.onnx a.onnx b.onnx --data val --limit 9 --mean 0.5 --no-latency --json c.json --html c.html") == 0
    (original, models, data), kwargs = fake[0]
    assert (original, models) == (Path("m.onnx"), (Path("a.onnx"), Path("b.onnx")))
    assert (data.data, data.limit, data.overrides) == ("val", 9, {"mean": (0.5,)})
    assert (kwargs["latency"], kwargs["pictures"]) == (False, 48)
    assert capsys.readouterr().out == compared.render(HAND)
    assert (tmp_path / "c.json").read_text() == compared.as_json(HAND)
    assert (tmp_path / "c.html").read_text() == page(HAND)
    assert run("compare m.onnx a.onnx --data val -q") == 0
    assert fake[1][1]["pictures"] == 0
    assert capsys.readouterr().out == compared.line(HAND)


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("compare m.onnx --data v", ["missing argument 'MODEL...'"]),
        ("compare m.onnx a.onnx", ["no data"]),
        ("compare m.onnx a.onnx --data v -q -v", ["--quiet and --verbose"]),
        ("compare m.onnx a.onnx --data v --json a.onnx", ["--json would replace"]),
        ("compare m.onnx a.onnx --data v --kl", ["no such option '--kl'"]),
    ],
)
def test_usage_errors(fake, capsys, line, texts) -> None:
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "\n  fix: " in err
    assert all(text in err for text in texts), err
    assert not fake


def test_help_ends_with_an_example_that_is_accepted(fake, capsys) -> None:
    assert run("compare -h") == 0
    example = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert main(shlex.split(example)[1:]) == 0
