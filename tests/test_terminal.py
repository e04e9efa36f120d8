"""What people see on a terminal, and what files and pipes get: no colours, no bars, the same width everywhere."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from unicodedata import east_asian_width

import pytest
from report import lengthy
from terminals import MARK, apart, faked, lines, on_a_terminal, plain

from pfa_onnx.report import text
from pfa_onnx.report.fitting import columns, continued, fitted, pad, shorten
from pfa_onnx.report.tables import Column, Table

RUNS = {
    "inspect": "inspect m.onnx",
    "analyze": "analyze m.onnx --data val",
    "prune": "prune m.onnx --data val --kl",
    "check": "check a.onnx b.onnx --data val",
    "merge": "merge a.npz b.npz -o c.npz",
    "finetune": "finetune p.onnx --teacher t.onnx --data val",
    "compare": "compare a.onnx b.onnx --data val",
    "sweep": "sweep m.onnx --data val",
    "doctor": "doctor",
    "an error": "analyze missing.onnx --data val",
    "a wrong flag": "prune m.onnx --data val --enrgy 0.9",
}
HELP = {f"{verb} --help": f"{verb} --help" for verb in RUNS if " " not in verb} | {"--help": "--help"}
ALL = RUNS | HELP
COLOUR = re.compile(r"\033\[[0-9;]*m")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def seen_width(line):
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in line)


def too_wide(shown, width):
    """Lines that the terminal would break; a word of a command is left whole, to be copied."""
    wide = (line for line in lines(shown) if seen_width(line) > width)
    return [line for line in wide if not (line.endswith((" \\", ".onnx")) and " " not in line.strip(" \\"))]


# --- a terminal ---


@cache
def all_on(width):
    """What every run shows on a terminal of so many columns."""
    found = apart(on_a_terminal(faked(*ALL.values()), width))
    return dict(zip(ALL, (part for part in found if part), strict=True))


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("run", ALL)
def test_no_line_is_wider_than_the_terminal(run, width):
    shown = all_on(width)[run]
    assert "Traceback" not in shown
    assert ("Usage: pfa-onnx" in shown) == (run in HELP)
    assert too_wide(shown, width) == []


def test_the_columns_of_a_table_stand_below_each_other():
    shown = lines(all_on(80)["analyze"])
    start = next(k for k, line in enumerate(shown) if line.startswith("group "))
    table = shown[start : start + 9]
    ends = {seen_width(line[: re.search(r" 0\.50|spread", line).end()]) for line in table}
    assert len(ends) == 1, "also below names in wide characters"
    assert all("..." in line for line in table[1:])
    assert {line.split()[0][-2:] for line in table[1:]} == {f"_{k}" for k in range(8)}, "their ends tell layers apart"


def test_verbose_has_full_names():
    shown = plain(on_a_terminal(faked(RUNS["analyze"] + " -v"), 80)).replace("\n", "")
    assert all(layer.node in shown for layer in lengthy.LAYERS)
    assert lengthy.PATH in shown


def test_a_bar_has_a_rate_and_the_time_left():
    shown = plain(all_on(80)["analyze"])
    assert re.search(r"calibrate +━+ +\d+/1281167 [\d,.]+/s +\d+:\d\d:\d\d left", shown)
    assert re.search(r"reconstruct +━+ \d+ +[\d,.]+/s +\d+:\d\d:\d\d", shown), "nobody knows how much there is"


def test_quiet_shows_no_bar():
    shown = on_a_terminal(faked(RUNS["prune"] + " -q"), 80)
    assert "━" not in shown
    assert "warning: another" in plain(shown)


def test_colours_and_how_to_be_without():
    line = RUNS["check"]
    assert COLOUR.search(all_on(80)["check"])
    without = on_a_terminal(faked(line), 80, NO_COLOR="1")
    assert not COLOUR.search(without)
    assert "━" in without, "a bar needs no colour"
    dumb = on_a_terminal(faked(line), 80, TERM="dumb")
    assert "\033" not in dumb
    assert "━" not in dumb


def test_columns_are_what_the_terminal_says_or_the_user():
    line = RUNS["check"]
    given = on_a_terminal(faked(line), 200, COLUMNS="70")
    assert too_wide(given, 70) == []
    assert too_wide(on_a_terminal(faked(line), 200), 100), "a wide one is made use of"
    assert too_wide(on_a_terminal(faked(line), 0), 80) == [], "one that does not say is ordinary"


# --- files and pipes ---


def piped(runs, **environment):
    """What runs write to two pipes: (standard output, standard error) of each."""
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    variables |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environment
    done = subprocess.run(faked(*runs), capture_output=True, env=variables, check=False)
    streams = (stream.decode().split(f"{MARK}\n")[1:] for stream in (done.stdout, done.stderr))
    return list(zip(*streams, strict=True))


@cache
def all_piped():
    """The same runs on three machines."""
    runs = ALL.values()
    plain_one = piped(runs)
    wide = piped(runs, COLUMNS="200", LINES="10", FORCE_COLOR="1", CLICOLOR_FORCE="1")
    narrow = piped(runs, COLUMNS="60", CI="true", GITHUB_ACTIONS="true", TERM="dumb")
    return dict(zip(ALL, zip(plain_one, wide, narrow, strict=True), strict=True))


@pytest.mark.parametrize("run", ALL)
def test_what_is_piped_has_no_colours_no_bars_and_one_width(run):
    first, *others = all_piped()[run]
    assert others == [first, first]
    out, err = first
    assert out or err
    assert "\033" not in out + err
    assert "\r" not in out + err
    assert "━" not in out + err
    assert "Traceback" not in err


def test_names_are_whole_in_a_file():
    out, err = all_piped()["analyze"][0]
    assert lengthy.LONG in out
    assert lengthy.WIDE in out
    assert lengthy.PATH in out.splitlines()[0]
    assert f"warning: another {lengthy.WARNING}\n" in err, "one line, to be searched for"


def test_reports_are_the_same_bytes_wherever_they_are_written(tmp_path):
    formats = ("json", "markdown", "html", "junit")
    flags = " ".join(f"--{name} {{}}.{name}" for name in formats)
    piped([f"{RUNS['check']} {flags.replace('{}', 'one')}"])
    on_a_terminal(faked(f"{RUNS['check']} {flags.replace('{}', 'other')}"), 60)
    for name in formats:
        assert (tmp_path / f"one.{name}").read_bytes() == (tmp_path / f"other.{name}").read_bytes()


# --- fitting ---


def test_sentences_go_on_below():
    told = "proof: equals the masked original on 16 inputs, largest relative error 2.1e-07"
    assert fitted(told, 60) == "proof: equals the masked original on 16 inputs, largest\n  relative error 2.1e-07"
    assert fitted(told, 80) == told
    assert fitted(told, None) == told


def test_facts_stay_whole_where_they_can():
    told = "model.onnx   opset 17   11.69 M params   1.82 G MACs   46.8 MB"
    assert fitted(told, 60) == "model.onnx   opset 17   11.69 M params   1.82 G MACs\n  46.8 MB"
    assert fitted("  indented too   and on", 16) == "  indented too\n    and on"


def test_names_lose_their_middle():
    assert shorten("/layer1/conv/Conv_12", 12) == "/la...onv_12"
    assert columns(shorten("網路骨幹階段深度可分離", 12)) <= 12
    path = "/home/" + "x" * 80 + "/final.onnx"
    assert fitted(f"wrote {path}", 60) == f"wrote {shorten(path, 54)}"
    assert fitted(path, 60) == shorten(path, 60)
    assert [shorten("abcdef", width) for width in (0, 3, 4, 5)] == ["...", "...", "...f", "...ef"]


def test_a_command_is_continued_as_a_shell_reads_it():
    command = "next: pfa-onnx prune 'my model.onnx' --data 'my photos' --exclude 'a b c' --round-to 8"
    shown = fitted(command, 40)
    assert shown.splitlines() == [
        "next: pfa-onnx prune 'my model.onnx' \\",
        "  --data 'my photos' --exclude 'a b c' \\",
        "  --round-to 8",
    ]
    words = subprocess.run(
        ["bash", "-c", "printf '%s|' " + shown.removeprefix("next: ")], capture_output=True, text=True, check=True
    )
    assert words.stdout == "pfa-onnx|prune|my model.onnx|--data|my photos|--exclude|a b c|--round-to|8|"
    assert continued("pfa-onnx " + "x" * 50, 20) == f"pfa-onnx \\\n  {'x' * 50}", "a word is never cut: it is to be copied"


def test_a_command_inside_a_sentence_is_not_broken_where_it_fits():
    told = "  fix: did you mean 'conv'? List them with `pfa-onnx inspect m.onnx -v`"
    assert fitted(told, 60).splitlines()[-1].strip() == "`pfa-onnx inspect m.onnx -v`"


def test_wide_characters_take_two_columns_and_marks_none():
    assert (columns("abc"), columns("網路"), columns("e\u0301")) == (3, 4, 1)
    assert pad("網", 4) == "網  "
    assert pad("網", 4, right=True) == "  網"


def test_spare_columns_are_left_out_before_names_say_nothing():
    kinds = (Column("name", name=True), Column("count", right=True), Column("bar", spare=True))
    table = Table(kinds, (("x" * 30, "1,234,567", "█" * 12),))
    assert text.layout(table, 60).splitlines()[0].split() == ["name", "count", "bar"]
    narrow = text.layout(table, 34).splitlines()
    assert narrow[0].split() == ["name", "count"]
    assert max(map(columns, narrow)) <= 34
    assert text.layout(table).splitlines()[1].startswith("x" * 30), "a file has room"
