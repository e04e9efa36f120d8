"""JSON, Markdown and HTML: what programs, job summaries and browsers read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from report.handmade import ANALYZED, ATTACK, CHECKED, LAYERS, PASSED, PRUNED, layer

from pfa_onnx import __version__
from pfa_onnx.errors import StatsError
from pfa_onnx.recipe import Method
from pfa_onnx.report import as_json, markdown
from pfa_onnx.steps.replay import parse_recipe

ALL = {"analyze": ANALYZED, "prune": PRUNED, "check": CHECKED, "attack": ATTACK}


def parsed(report):
    def reject(constant):
        raise AssertionError(constant)

    return json.loads(as_json.render(report), parse_constant=reject)


# --- JSON ---


def test_a_report_has_what_the_contract_promises():
    content = parsed(PRUNED)
    assert content["schema"] == 1
    assert content["version"] == __version__
    assert {"path", "sha256", "params", "macs", "bytes"} <= set(content["model"])
    assert content["data"]["samples"] == 512
    assert content["data"]["source"] == "val/"
    assert content["data"]["preprocess"]["name"] == "imagenet"
    assert content["method"] == {"name": "params", "target": 0.7, "tau": 0.97312}
    assert content["after"] == {"params": 7_900_000, "macs": 1_210_000_000, "bytes": 31_400_000}
    assert content["proof"] | {"outputs": None} == {
        "max_relative_error": 2.14e-7,
        "samples": 16,
        "passed": True,
        "outputs": None,
    }
    keys = {"output", "node", "op", "weight", "channels", "samples", "eigenvalues", "kl", "gamma", "asked", "keep"}
    assert all(keys | {"group", "frozen"} <= set(layer) for layer in content["layers"])
    assert content["layers"][0]["frozen"] is None
    assert content["layers"][0]["keep"] == list(range(46))
    assert content["layers"][4]["frozen"] == [{"reason": "is the graph output 'logits'", "node": "logits"}]


def test_what_is_not_there_is_null():
    content = parsed(replace(ANALYZED, data=None, after=None))
    assert content["data"] is None
    assert content["after"] is None
    assert content["proof"] is None


def test_a_check_has_what_the_contract_promises():
    content = parsed(CHECKED)
    names = {"agreement", "cosine_min", "cosine_mean", "max_abs_error", "params_ratio", "macs_ratio", "latency_ratio"}
    assert names <= set(content["metrics"])
    assert content["gates"][0] == {"name": "min_agreement", "value": 0.97265625, "limit": 0.98, "passed": False}
    assert content["passed"] is False
    assert parsed(PASSED)["passed"] is True
    assert len(content["changed"]) == 14


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (Method("kl"), {"name": "kl"}),
        (Method("energy", tau=0.95), {"name": "energy", "tau": 0.95}),
        (Method("latency", target=0.5, tau=0.9), {"name": "latency", "target": 0.5, "tau": 0.9}),
        (Method("uniform", ratio=0.5, select="l2"), {"name": "uniform", "ratio": 0.5, "select": "l2"}),
        (Method("kl", select="random", seed=3), {"name": "kl", "select": "random", "seed": 3}),
    ],
)
def test_a_method_has_its_own_numbers_only(method, fields):
    assert parsed(replace(ANALYZED, method=method))["method"] == fields


def test_json_is_reproducible_and_readable_line_by_line():
    rendered = as_json.render(PRUNED)
    assert rendered == as_json.render(replace(PRUNED, timings={"trace": 123.0}))
    assert rendered.endswith("}\n")
    assert "timings" not in rendered
    keys = re.findall(r'^"(\w+)":', rendered, re.MULTILINE)
    assert keys == sorted(keys)
    assert len(rendered.splitlines()) == len(keys) + len(LAYERS) + 3
    assert all(list(layer) == sorted(layer) for layer in json.loads(rendered)["layers"])


def test_numbers_that_json_lacks_are_null_and_numpy_is_welcome():
    odd = layer("x", 2, 1, eigenvalues=(np.float32(0.5), math.inf), gamma=math.nan, kl=np.float64(0.1))
    odd = replace(odd, keep=(np.int64(1),), held=np.int64(3))
    found = parsed(replace(ANALYZED, layers=(odd,)))["layers"][0]
    assert found["eigenvalues"] == [0.5, None]
    assert (found["gamma"], found["kl"], found["keep"], found["held"]) == (None, 0.1, [1], 3)


# --- JSON as a recipe ---


def test_a_report_is_a_recipe():
    recipe = parse_recipe(as_json.render(PRUNED), "report.json").kept
    assert recipe == {layer.output: (layer.channels, layer.keep) for layer in LAYERS}


def recipe_of(**fields):
    return json.dumps({"schema": 1, "layers": [{"output": "y", "channels": 4, "keep": [0, 2]} | fields]})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no list of layers"),
        ('{"schema": 1, "layers": {}}', "no list of layers"),
        ('{"schema": 2, "layers": []}', "schema 2"),
        ('{"layers": []}', "schema None"),
        ('{"schema": 1, "layers": [3]}', "layer 0 of the recipe has no output"),
        (recipe_of(output=None), "has no output"),
        (recipe_of(channels=0), "has 0 channels"),
        (recipe_of(channels=True), "has True channels"),
        (recipe_of(channels=4.0), "has 4.0 channels"),
        (recipe_of(keep=[]), "no list of channels"),
        (recipe_of(keep=None), "no list of channels"),
        (recipe_of(keep=[0, True]), "no list of channels"),
        (recipe_of(keep=[0, 1.5]), "no list of channels"),
        (recipe_of(keep=[2, 0]), "ascending"),
        (json.dumps({"schema": 1, "layers": [], "through_norm": 1}), "neither true nor false"),
        (recipe_of(keep=[0, 0]), "ascending"),
        (recipe_of(keep=[-1, 0]), "ascending"),
        (recipe_of(keep=[0, 4]), "from 0 to 3"),
        (
            json.dumps({"schema": 1, "layers": [{"output": "y", "channels": 1, "keep": [0]}] * 2}),
            "two layers",
        ),
    ],
)
def test_a_broken_recipe_is_refused_with_a_way_out(content, what):
    with pytest.raises(StatsError, match=what) as caught:
        parse_recipe(content, "report.json")
    assert caught.value.at == "report.json"
    assert "--json" in caught.value.fix


def test_the_report_of_a_check_is_no_recipe():
    with pytest.raises(StatsError, match="no list of layers"):
        parse_recipe(as_json.render(CHECKED), "check.json")


# --- Markdown ---


def test_markdown_begins_with_the_verdict():
    assert markdown.render(CHECKED).startswith("**FAILED: agreement (top-1) 0.97266 is below 0.98000**\n")
    assert markdown.render(PASSED).startswith("**PASSED: 1 limit holds**\n")
    assert markdown.render(ANALYZED).startswith("**--kl keeps 1,154 of 1,200 channels (-3.8 %)**\n")
    assert "proof: equals the masked original" in markdown.render(PRUNED)


def test_markdown_of_a_check_is_the_verdict_a_table_and_what_failed():
    found = [part.partition("\n")[0] for part in markdown.render(CHECKED).split("\n\n")]
    assert found[2] == "| metric | value | limit |  |"
    assert found[5:] == [
        "### Limits that do not hold",
        "- agreement (top-1) 0.97266 is below 0.98000",
        "### 14 of 512 predictions changed",
        "| changed | original | pruned |",
        "### 1 input could not be read",
        "- `val/broken.jpg`: truncated",
    ]
    assert "| `val/00013.jpg` | 13 | 14 |" in markdown.render(CHECKED)
    assert "###" not in markdown.render(replace(PASSED, changed=(), data=replace(PASSED.data, skipped=())))


@pytest.mark.parametrize("name", ALL)
def test_every_row_of_a_markdown_table_has_as_many_cells(name):
    for block in markdown.render(ALL[name]).split("\n\n"):
        if block.startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block


def test_markdown_shows_hostile_names_as_they_are():
    rendered = markdown.render(ATTACK)
    outside = re.sub(r"(`+).*?\1", "", rendered)
    assert not re.search(r"(?<!\\)<", outside)
    assert "@" not in outside
    assert "\x1b" not in rendered
