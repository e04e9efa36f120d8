"""A check as JUnit XML: what GitLab, Jenkins and others show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
from report.handmade import CHECKED, HOSTILE, PASSED

from pfa_onnx import pipeline
from pfa_onnx.cli import main
from pfa_onnx.report import junit
from pfa_onnx.results import Changed, Gate

NOTHING_SKIPPED = replace(CHECKED.data, skipped=())


def suite_of(report):
    root = ET.fromstring(junit.render(report).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")

    def count(kind):
        return str(sum(case.find(kind) is not None for case in cases))

    assert suite.attrib == {
        "name": "pfa-onnx check", "tests": str(len(cases)), "failures": count("failure"), "errors": "0",
        "skipped": count("skipped"),
    }  # fmt: skip
    return suite, {case.get("name"): case for case in cases}


def test_one_case_for_each_limit_and_two_for_what_they_rest_on():
    suite, cases = suite_of(CHECKED)
    assert list(cases) == ["agreement (top-1) >= 0.98", "params ratio <= 0.75", "outputs are compared", "data is read"]
    assert {case.get("classname") for case in cases.values()} == {"model.onnx -> model.pruned.onnx"}
    failure = cases["agreement (top-1) >= 0.98"].find("failure")
    assert failure.get("message") == "agreement (top-1) 0.97266 is below 0.98000"
    assert failure.text == "value 0.97265625, limit 0.98"
    assert len(cases["params ratio <= 0.75"]) == 0
    values = {one.get("name"): one.get("value") for one in suite.find("properties")}
    assert values["verdict"] == "FAILED: agreement (top-1) 0.97266 is below 0.98000"
    assert values["params ratio"] == "0.67583"


def test_a_case_fails_exactly_where_the_exit_code_says_no():
    for report in (CHECKED, PASSED, replace(PASSED, gates=())):
        suite, cases = suite_of(report)
        assert (suite.get("failures") == "0") == report.passed
    assert list(cases) == ["outputs are compared", "data is read"]


def test_changed_predictions_are_named_the_first_fifty_of_them():
    _, cases = suite_of(CHECKED)
    out = cases["outputs are compared"].find("system-out").text.splitlines()
    assert out[:3] == ["accuracy 0.75000 -> 0.74609 (-0.00391)", "14 of 512 predictions changed", "val/00000.jpg: 0 -> 1"]
    assert len(out) == 2 + 14
    many = tuple(Changed(f"{k}.jpg", 1, 2) for k in range(300))
    _, cases = suite_of(replace(CHECKED, changed=many))
    out = cases["outputs are compared"].find("system-out").text.splitlines()
    assert len(out) == 2 + 50 + 1
    assert out[-1] == "... 250 more"
    _, cases = suite_of(replace(CHECKED, changed=(), metrics={}))
    assert len(cases["outputs are compared"]) == 0


def test_what_could_not_be_compared_or_read_is_skipped_and_says_why():
    _, cases = suite_of(CHECKED)
    assert cases["data is read"].find("skipped").get("message") == "1 input could not be read"
    assert "val/broken.jpg: truncated" in cases["data is read"].find("system-out").text
    noted = {"boxes": {"note": "shapes differ: [1] and [2]"}, "logits": {"note": None}}
    _, cases = suite_of(replace(CHECKED, outputs=noted, data=NOTHING_SKIPPED))
    assert cases["outputs are compared"].find("skipped").get("message") == "boxes: shapes differ: [1] and [2]"
    assert cases["data is read"].find("skipped") is None


def test_a_limit_without_a_value():
    _, cases = suite_of(replace(CHECKED, gates=(Gate("min_agreement", None, 0.98, passed=False),)))
    failure = cases["agreement (top-1) >= 0.98"].find("failure")
    assert failure.get("message") == "agreement (top-1) cannot be measured here"


def test_any_name_is_valid_xml_and_shown():
    evil = HOSTILE + "\x00\x08\x7f\ufffe\ud800\u2028]]>&'\""
    report = replace(
        CHECKED,
        original=replace(CHECKED.original, path=evil),
        data=replace(CHECKED.data, source=evil, skipped=((evil, evil),)),
        outputs={evil: {"note": evil}},
        changed=(Changed(evil, 1, 2),),
    )
    suite, cases = suite_of(report)
    assert "@all" in cases["data is read"].get("classname")
    out = cases["outputs are compared"].find("system-out").text
    assert "<img src=x" in out
    assert "\\x00\\x08\\x7f\\ufffe\\ud800\\u2028]]>&'\"" in out
    assert len(out.splitlines()) == 3, "a name is one line"


def test_the_same_check_is_the_same_bytes():
    slow = replace(PASSED, timings={"compare": 3.0}, latency_ms=(9.0, 8.0), metrics={**PASSED.metrics, "latency_ratio": 0.9})
    assert junit.render(slow) == junit.render(PASSED)
    assert "time" not in junit.render(PASSED)


def test_the_flag_writes_it_also_when_the_answer_is_no(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "check", lambda *args, **kwargs: CHECKED)
    common = ["check", "a.onnx", "b.onnx", "--data", "val", "--min-agreement", "0.98"]
    assert main([*common, "--junit", "c.xml", "--markdown", "c.md"]) == 1
    assert (tmp_path / "c.xml").read_text() == junit.render(CHECKED)
    capsys.readouterr()
    assert main([*common, "--junit", "-", "-q"]) == 1
    assert capsys.readouterr().out == junit.render(CHECKED)
    assert main([*common, "--junit", "-", "--json", "-"]) == 2
    assert main(["prune", "a.onnx", "--data", "val", "--kl", "--junit", "c.xml"]) == 2
    assert "--junit is an option of check" in capsys.readouterr().err


def test_a_check_that_cannot_be_made_is_an_error_and_no_old_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"<no model & nothing>")
    np.savez("d.npz", x=np.zeros((2, 3), np.float32))
    (tmp_path / "c.xml").write_text(junit.render(PASSED))
    common = ["check", "a.onnx", "b.onnx", "--data", "d.npz"]
    assert main([*common, "--junit", "c.xml"]) == 2
    told = capsys.readouterr().err.strip()
    suite = ET.fromstring((tmp_path / "c.xml").read_bytes())[0]
    assert suite.attrib["errors"] == suite.attrib["tests"] == "1"
    assert suite[0].attrib["classname"] == "a.onnx -> b.onnx"
    assert suite[0][0].tag == "error"
    assert suite[0][0].text == told
    assert suite[0][0].attrib["message"] in told
    assert main([*common, "--junit", "-"]) == 2
    assert capsys.readouterr().out == (tmp_path / "c.xml").read_text()
