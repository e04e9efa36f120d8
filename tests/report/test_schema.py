"""What --json writes is what the published schema says, for every verb; and the schema says something."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from pfa_onnx.cli import main

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion"
MODEL, IMAGES = str(SAMPLE / "model.onnx"), str(SAMPLE / "images")
SCHEMA = json.loads((files("pfa_onnx.report") / "schema.json").read_text())
DATA = ["--data", IMAGES, "--limit", "200"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("schema")


@pytest.fixture(scope="module")
def reports(folder):
    """A report of every verb."""
    small = str(folder / "small.onnx")
    runs = {
        "inspect": ["inspect", MODEL],
        "analyze": ["analyze", MODEL, *DATA],
        "prune": ["prune", MODEL, *DATA, "--params", "0.6", "--repair", "--select", "l1", "-o", small],
        "variant": ["analyze", MODEL, *DATA, "--kl", "--pool", "mean", "--mapping", "sqrt", "--round-to", "8"],
        "check": ["check", MODEL, small, *DATA, "--min-agreement", "0.1", "--no-latency"],
        "sweep": ["sweep", MODEL, *DATA, "--kl", "--params", "0.5", "--no-latency"],
        "compare": ["compare", MODEL, small, *DATA, "--no-latency"],
        "finetune": ["finetune", small, "--teacher", MODEL, *DATA, "--epochs", "1", "-o", str(folder / "tuned.onnx")],
    }
    found = {}
    for name, command in runs.items():
        if name == "finetune":
            pytest.importorskip("torch", minversion="2.4")
        assert main([*command, "--json", str(folder / f"{name}.json"), "-q"]) == 0
        found[name] = json.loads((folder / f"{name}.json").read_text())
    return found


def definition(name):
    key = {"analyze": "report", "prune": "report", "variant": "report"}.get(name, name)
    return {**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{key}"}]}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", ["inspect", "analyze", "prune", "variant", "check", "sweep", "compare", "finetune"])
def test_reports_are_what_the_schema_says(reports, name):
    jsonschema.Draft202012Validator(definition(name)).validate(reports[name])
    jsonschema.Draft202012Validator(SCHEMA).validate(reports[name])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prune", lambda r: r["layers"][0].update(keep="all")),
        ("prune", lambda r: r["layers"][0].pop("frozen")),
        ("prune", lambda r: r["model"].update(sha256="?")),
        ("check", lambda r: r["metrics"].pop("agreement")),
        ("check", lambda r: r.update(schema=2)),
        ("finetune", lambda r: r.update(history=[])),
        ("inspect", lambda r: r["layers"][0].pop("may_go")),
        ("inspect", lambda r: r["channels"].update(share=1.5)),
    ],
)
def test_what_is_not_a_report_is_refused(reports, name, change):
    broken = copy.deepcopy(reports[name])
    change(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(definition(name)).validate(broken)
