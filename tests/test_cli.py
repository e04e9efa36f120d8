"""The command line against a pipeline that only answers: flags, streams, files and exit codes."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from report.handmade import ANALYZED, CHECKED, PASSED, PRUNED

from pfa_onnx import __version__, pipeline
from pfa_onnx.cli import main
from pfa_onnx.cli.app import app
from pfa_onnx.errors import BUG, InternalError, ModelError, ProofError, TargetError
from pfa_onnx.options import DataOptions, PlanOptions
from pfa_onnx.recipe import Method, Proof
from pfa_onnx.results import Merged
from pfa_onnx.stats import preprocess, runtime
from pfa_onnx.stats.covariance import NoNumberError

VERBS = ("analyze", "prune", "check", "merge", "doctor")


MERGED = Merged(Path("all.npz"), 3, "val", 1200, 8, "cpu")


class Fake:
    """A pipeline that notes how it was called and answers with what it was given."""

    def __init__(self):
        self.answers = {"analyze": ANALYZED, "prune": PRUNED, "check": PASSED, "merge": MERGED}
        self.calls = []

    def verb(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer(**kwargs) if callable(answer) else answer

        return call

    @property
    def args(self):
        return self.calls[-1][1]

    @property
    def kwargs(self):
        return self.calls[-1][2]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The faked pipeline, in an empty folder."""
    found = Fake()
    for name in found.answers:
        monkeypatch.setattr(pipeline, name, found.verb(name))
    monkeypatch.chdir(tmp_path)
    return found


def run(line):
    return main(shlex.split(line))


def refused(capsys, line, *texts):
    """The command ends with 2, says all of this on standard error, and nothing on standard output."""
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "\n  fix: " in err
    assert "Traceback" not in err
    for text in texts:
        assert text in err
    return err


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- help ---


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_that_the_command_line_accepts(verb, fake, capsys):
    assert run(f"{verb} -h") == 0
    out, err = capsys.readouterr()
    assert err == ""
    heading, example = out.rstrip().splitlines()[-2:]
    assert heading == "Example:"
    assert example.startswith(f"  pfa-onnx {verb}")
    assert main(shlex.split(example)[1:]) == 0


def test_version_and_no_arguments(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"pfa-onnx {__version__}\n"
    assert run("") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(verb in err for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb):
    for param in app.commands[verb].params:
        assert isinstance(param, click.Argument) or param.help


def test_choices_are_those_of_the_preprocessing():
    options = {param.name: param for param in app.commands["prune"].params}
    for flag, field in {"channel_order": "order", "resize": "resize", "layout": "layout"}.items():
        assert tuple(options[flag].type.choices) == preprocess._CHOICES[field]
    assert tuple(options["interpolation"].type.choices) == preprocess._CHOICES["interpolation"]
    assert all(name in options["preprocess"].help for name in preprocess.PRESETS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom pfa_onnx.cli import main\nassert main(['prune', '--help']) == 0\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'PIL', 'rich', 'pfa_onnx.pipeline', 'pfa_onnx.recipe'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "pfa_onnx", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"pfa-onnx {__version__}\n")


# --- flags become options ---


def test_every_flag_of_analyze_arrives(fake):
    assert (
        run(
            "analyze m.onnx --data val --limit 100 -b 8 --providers cpu --preprocess imagenet --mean 0.1,0.2,0.3 --std 2 "
            "--scale 0.5 --size 32,48 --resize pad --crop-pct 0.9 --layout nhwc --channel-order bgr --interpolation box "
            "--energy 0.95 --select l1 --seed 7 --include 'a*' --include b --exclude 'c*' --round-to 8 --min-channels 4 "
            "--allow-few-samples --save-stats s.npz --shard 2/8 --resume"
        )
        == 0
    )
    overrides = {
        "mean": (0.1, 0.2, 0.3),
        "std": (2.0,),
        "scale": 0.5,
        "size": (32, 48),
        "resize": "pad",
        "crop_pct": 0.9,
        "layout": "nhwc",
        "order": "bgr",
        "interpolation": "box",
    }
    model, data, method, plan = fake.args
    assert model == Path("m.onnx")
    assert data == DataOptions("val", "imagenet", overrides, 100, 8, "cpu", (2, 8))
    assert method == Method("energy", tau=0.95, select="l1", seed=7)
    assert plan == PlanOptions(("a*", "b"), ("c*",), 8, 4, allow_few_samples=True)
    assert fake.kwargs["save_stats"] == Path("s.npz")
    assert fake.kwargs["stats"] is None
    assert fake.kwargs["resume"] is True
    preprocess.make_preprocess(data.preprocess, **data.overrides)  # the names are those of make_preprocess


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        ("--kl", Method("kl")),
        ("--energy 1", Method("energy", tau=1.0)),
        ("--params 0.5", Method("params", target=0.5)),
        ("--macs 0.5", Method("macs", target=0.5)),
        ("--latency 0.5", Method("latency", target=0.5)),
        ("--uniform 0.25 --select random --seed 3", Method("uniform", ratio=0.25, select="random", seed=3)),
    ],
)
def test_methods(fake, flags, method):
    assert run(f"prune m.onnx --data val {flags}") == 0
    assert fake.args[2] == method


def test_prune_arguments(fake):
    assert run("prune dir.x/m.onnx --data val --kl -o out.onnx --init scratch --seed 5") == 0
    assert fake.kwargs["output"] == Path("out.onnx")
    assert (fake.kwargs["init"], fake.kwargs["seed"], fake.kwargs["prove"]) == ("scratch", 5, True)
    assert (fake.kwargs["stats"], fake.kwargs["recipe"]) == (None, None)


def test_the_default_output_stands_beside_the_model(fake, tmp_path):
    (tmp_path / "sub").mkdir()
    assert run("prune sub/net.v2.onnx --data val --kl") == 0
    assert fake.kwargs["output"] == Path("sub/net.v2.pruned.onnx")


def test_a_recipe_with_and_without_proof(fake):
    assert run("prune m.onnx --recipe r.json --data val") == 0
    assert fake.args[2] is None
    assert fake.kwargs["recipe"] == Path("r.json")
    assert run("prune m.onnx --recipe r.json --no-proof") == 0
    assert fake.kwargs["prove"] is False
    assert run("prune m.onnx --recipe r.json --stats s.npz") == 0
    assert fake.kwargs["prove"] is True


def test_check_arguments(fake):
    assert run("check a.onnx b.onnx --data val --min-agreement 0.9 --max-params 1.5 --no-latency") == 0
    original, pruned, _, gates = fake.args
    assert (original, pruned) == (Path("a.onnx"), Path("b.onnx"))
    assert gates == {"min_agreement": 0.9, "max_params": 1.5}
    assert fake.kwargs["latency"] is False


def test_analyze_without_a_method_and_with_a_selection(fake):
    assert run("analyze m.onnx --data val") == 0
    assert fake.args[2] is None
    assert run("analyze m.onnx --data val --select l2") == 0
    assert fake.args[2] == Method("kl", select="l2")


# --- flags that cannot be meant ---


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("analyze m.onnx --enrgy 0.9", ["no such option '--enrgy'", "did you mean --energy"]),
        ("anlyze m.onnx", ["no such command 'anlyze'", "analyze"]),
        ("analyze", ["missing argument 'MODEL'", "pfa-onnx analyze --help"]),
        ("analyze m.onnx", ["no data", "never invented", "--data", "--stats"]),
        ("check a.onnx b.onnx", ["no data"]),
        ("prune m.onnx --kl", ["no data", "--recipe"]),
        ("analyze m.onnx --data val --stats s", ["takes the place of --data"]),
        ("analyze m.onnx --stats s --limit 3", ["--limit does nothing without --data"]),
        ("analyze m.onnx --stats s --mean 3", ["--mean does nothing without --data"]),
        ("analyze m.onnx --stats s --save-stats t", ["--save-stats does nothing without --data"]),
        ("prune m.onnx --recipe r --no-proof --save-stats t", ["--save-stats does nothing without --data"]),
        ("analyze m.onnx --data val --kl --energy 0.9", ["--kl and --energy are different methods"]),
        ("prune m.onnx --data val", ["how much to remove", "--energy T"]),
        ("prune m.onnx --data val --kl --no-proof", ["--no-proof"]),
        ("prune m.onnx --recipe r", ["proves nothing", "--no-proof"]),
        ("prune m.onnx --recipe r --data val --no-proof", ["--no-proof"]),
        ("prune m.onnx --recipe r --data val --kl", ["--recipe says which channels stay, and so does --kl"]),
        ("prune m.onnx --recipe r --data val --select l1", ["--select"]),
        ("check a.onnx b.onnx --data val --no-latency --max-latency 1", ["--max-latency needs"]),
        ("analyze m.onnx --data val --round-to 0", ["'0' is neither a number from 1 on nor auto"]),
        ("analyze m.onnx --data val --round-to fast", ["'fast' is neither a number from 1 on nor auto"]),
        ("analyze m.onnx --stats s --ray", ["--ray does nothing without --data"]),
        ("analyze m.onnx --data val --ray --resume --save-stats s", ["--resume is for runs without it"]),
        ("analyze m.onnx --data val --ray --shard 1/2 --save-stats s", ["--shard is for runs without it"]),
        ("analyze m.onnx --stats s --resume", ["--resume does nothing without --data"]),
        ("analyze m.onnx --stats s --shard 1/2", ["--shard does nothing without --data"]),
        ("analyze m.onnx --data val --resume", ["--resume goes on where --save-stats stopped"]),
        ("analyze m.onnx --data val --shard 1/2", ["nothing would be saved", "--save-stats"]),
        ("analyze m.onnx --data val --save-stats s --shard 3/2", ["'3/2' is not i/n"]),
        ("analyze m.onnx --data val --save-stats s --shard 0/2", ["'0/2' is not i/n"]),
        ("analyze m.onnx --data val --save-stats s --shard 2", ["'2' is not i/n"]),
        ("prune m.onnx --data val --kl --shard 1/2", ["no such option '--shard'"]),
        ("merge -o all.npz", ["missing argument 'FILE...'"]),
        ("merge a.npz b.npz", ["missing option", "--output"]),
        ("merge a.npz b.npz -o a.npz", ["--output would replace"]),
        ("merge a.npz b.npz -o -", ["not written to standard output"]),
        ("merge a.npz -o no/all.npz", ["folder for --output does not exist"]),
        ("analyze m.onnx --data val -q -v", ["--quiet and --verbose"]),
        ("analyze m.onnx --data val --size 3x", ["not N or H,W"]),
        ("analyze m.onnx --data val --size 0", ["not N or H,W"]),
        ("analyze m.onnx --data val --mean 1,,2", ["'' is not a number"]),
        ("analyze m.onnx --data val --limit 0", ["--limit"]),
        ("analyze m.onnx --data val --providers tpu", ["cuda"]),
        ("check a.onnx b.onnx --data val --min-agreement 1.1", ["at least 0 and at most 1"]),
        ("check a.onnx b.onnx --data val --max-params 0", ["above 0"]),
        ("check a.onnx b.onnx --data val --max-params inf", ["above 0"]),
    ],
)
def test_usage_errors(fake, capsys, line, texts):
    refused(capsys, line, *texts)
    assert not fake.calls


@pytest.mark.parametrize("flag", ["energy", "params", "macs", "latency", "uniform"])
@pytest.mark.parametrize("value", ["0", "-0.1", "1.5", "nan", "inf", "x"])
def test_ratios_lie_between_zero_and_one(fake, capsys, flag, value):
    refused(capsys, f"prune m.onnx --data val --{flag} {value}", f"--{flag}", value)
    assert not fake.calls


# --- exit codes ---


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (
            ModelError("not an ONNX file", at="m.onnx", fix="give one"),
            2,
            "error: not an ONNX file\n  at: m.onnx\n  fix: give one\n",
        ),
        (
            TargetError("no recipe reaches 0.1", at="--params 0.1", fix="ask for more"),
            1,
            "error: no recipe reaches 0.1\n  at: --params 0.1\n  fix: ask for more\n",
        ),
        (
            ProofError("the outputs differ", at="m.onnx", fix="report it"),
            1,
            "error: the outputs differ\n  at: m.onnx\n  fix: report it\n",
        ),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (MemoryError(), 2, "error: out of memory\n  at: this machine\n  fix: use a smaller --batch-size\n"),
    ],
)
def test_errors_are_short_and_have_their_code(fake, capsys, answer, code, message):
    fake.answers["prune"] = answer
    assert run("prune m.onnx --data val --kl") == code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_error_keeps_its_three_lines_on_its_way_between_processes(again):
    error = again(NoNumberError("a response is NaN", at="Conv_0", fix="look there"))
    assert isinstance(error, NoNumberError)
    assert str(error) == "error: a response is NaN\n  at: Conv_0\n  fix: look there"


@pytest.mark.parametrize(
    "answer",
    [ZeroDivisionError("division by zero"), InternalError("division by zero", at="Conv_0", fix=BUG)],
)
def test_a_bug_says_so_and_shows_where_only_when_asked(fake, capsys, answer):
    fake.answers["analyze"] = answer
    assert run("analyze m.onnx --data val") == 2
    err = capsys.readouterr().err
    assert err.startswith("internal error: ")
    assert "division by zero" in err
    assert "\n  at: " in err
    assert "fix: this is a bug in pfa-onnx" in err
    assert "Traceback" not in err
    assert run("analyze m.onnx --data val -v") == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_answer_no_is_one(fake, capsys):
    fake.answers["check"] = CHECKED
    assert run("check a.onnx b.onnx --data val --min-agreement 0.98") == 1
    assert capsys.readouterr().out.endswith("\nFAILED: agreement (top-1) 0.97266 is below 0.98000\n")
    fake.answers["prune"] = replace(PRUNED, proof=Proof(1.0, 3, passed=False))
    assert run("prune m.onnx --data val --kl") == 1


# --- streams ---


def test_the_report_is_on_stdout_and_warnings_are_on_stderr(fake, capsys):
    def answer(hooks, **_):
        hooks.progress("calibrate", 1, 2)
        hooks.warn("only 8 samples a channel")
        hooks.warn("another")
        return ANALYZED

    fake.answers["analyze"] = answer
    assert run("analyze m.onnx --data val") == 0
    out, err = capsys.readouterr()
    assert out.startswith("model.onnx   opset 17")
    assert out.endswith("next: pfa-onnx prune m.onnx --data val --kl\n")
    assert err == "warning: only 8 samples a channel\nwarning: another\n", "each once, and no progress in a file"


def test_quiet_is_one_line_and_keeps_warnings(fake, capsys):
    assert run("prune m.onnx --data val --kl -q") == 0
    assert capsys.readouterr() == ("wrote model.pruned.onnx\n", "warning: only 8 samples a channel\n")


def test_verbose_has_times_on_stderr(fake, capsys):
    assert run("analyze m.onnx --data val -v") == 0
    out, err = capsys.readouterr()
    assert "time: trace     0.500 s\n" in err
    assert "time:" not in out
    assert "95 %" in out


@pytest.mark.parametrize(("flag", "start"), [("json", "{\n"), ("markdown", "**--kl"), ("html", "<!doctype html>")])
def test_a_dash_sends_the_report_to_stdout_and_the_text_to_stderr(fake, capsys, flag, start):
    assert run(f"analyze m.onnx --data val --{flag} -") == 0
    out, err = capsys.readouterr()
    assert out.startswith(start)
    assert "opset 17" in err
    assert not Path("-").exists()


def test_names_that_a_terminal_cannot_show_do_not_end_the_run(fake, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    fake.answers["analyze"] = replace(ANALYZED, model=replace(ANALYZED.model, path="möwe.onnx"))
    assert run("analyze m.onnx --data val") == 0
    stream.seek(0)
    shown = stream.read()
    assert shown.startswith("m?we.onnx")
    assert ".:-=+*%#" in shown, "bars have a plain form"


FAKED = """
import sys
sys.path[:0] = {path!r}
from report.handmade import ANALYZED, CHECKED
from pfa_onnx import pipeline
from pfa_onnx.cli import main
def analyze(*args, hooks, **kwargs):
    for step in range(3):
        hooks.progress("calibrate", step, 3)
    hooks.warn("careful")
    return ANALYZED
pipeline.analyze, pipeline.check = analyze, lambda *args, **kwargs: CHECKED
sys.exit(main({argv!r}))
"""


def script(line):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return [sys.executable, "-c", FAKED.format(path=path, argv=shlex.split(line))]


def on_a_terminal(line, **environment):
    """What the run shows when both streams are a terminal."""
    leader, follower = pytest.importorskip("pty").openpty()
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    variables |= {"TERM": "xterm", "COLUMNS": "80"} | environment
    with subprocess.Popen(script(line), stdout=follower, stderr=follower, env=variables) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # Linux says so when the last writer has gone
                break
            if not chunk:
                break
            shown += chunk
        process.wait()
    os.close(leader)
    return shown.decode()


def test_a_terminal_shows_progress_and_colours():
    shown = on_a_terminal("analyze m.onnx --data val")
    assert "calibrate" in shown
    assert "warning: careful" in shown
    assert "\033[2mnext: \033[0mpfa-onnx prune" in shown


def test_no_color_is_respected():
    shown = on_a_terminal("check a.onnx b.onnx --data val", NO_COLOR="1")
    assert "\033[" not in shown
    assert "FAILED" in shown


def test_a_reader_that_goes_away_changes_nothing():
    with subprocess.Popen(
        script("check a.onnx b.onnx --data val"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 1, "the verdict is still the exit code"
    assert err == "warning: only 8 samples a channel\n" or err == ""


# --- files ---


def test_reports_are_written_even_when_a_limit_does_not_hold(fake, tmp_path):
    fake.answers["check"] = CHECKED
    assert run("check a.onnx b.onnx --data val --json c.json --markdown c.md --html c.html") == 1
    assert json.loads((tmp_path / "c.json").read_text())["passed"] is False
    assert (tmp_path / "c.md").read_text().startswith("**FAILED")
    assert "FAILED" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert names_in(tmp_path) == ["c.html", "c.json", "c.md"], "nothing temporary is left"


def test_reports_replace_whole_files_and_links_stay(fake, tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    assert run("analyze m.onnx --data val --json link.json") == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["schema"] == 1
    assert run("analyze m.onnx --data val --json /dev/null") == 0
    assert not Path("/dev/null").is_file()


def test_a_pipe_can_take_a_report():
    line = "analyze m.onnx --data val --json /dev/fd/3 3>&1 >/dev/null"
    command = (
        " ".join(map(shlex.quote, script("analyze m.onnx --data val --json /dev/fd/3"))) + line[line.index(" 3>") :]
    )
    done = subprocess.run(["bash", "-c", command + " | cat"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["schema"] == 1


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("analyze m.onnx --data val --json no/r.json", ["folder for --json does not exist", "/no"]),
        ("analyze m.onnx --data val --html folder", ["--html is a folder"]),
        ("analyze m.onnx --data val --save-stats no/s", ["folder for --save-stats does not exist"]),
        ("prune m.onnx --data val --kl -o no/o.onnx", ["folder for --output does not exist"]),
        ("prune m.onnx --data val --kl -o folder", ["--output is a folder"]),
        ("prune m.onnx --data val --kl -o m.onnx", ["--output would replace"]),
        ("prune m.onnx --data val --kl -o folder/../m.onnx", ["--output would replace"]),
        ("prune m.onnx --data val --kl -o link.onnx", ["--output would replace"]),
        ("prune m.onnx --data val --kl --json m.pruned.onnx", ["--json would replace"]),
        ("prune m.onnx --recipe r.json --no-proof --json r.json", ["--json would replace"]),
        ("analyze m.onnx --data x.npz --json x.npz", ["--json would replace"]),
        ("analyze m.onnx --data load.py:f --json load.py", ["--json would replace"]),
        ("check m.onnx link.onnx --data val --markdown m.onnx", ["--markdown would replace"]),
        ("analyze m.onnx --data val --json a --html a", ["--html would replace"]),
        ("analyze m.onnx --data val --json - --html -", ["only one report"]),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(fake, capsys, tmp_path, line, texts):
    for name in ("m.onnx", "x.npz", "load.py", "r.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.onnx").symlink_to("m.onnx")
    before = names_in(tmp_path)
    refused(capsys, line, *texts)
    assert not fake.calls
    assert names_in(tmp_path) == before


def test_a_report_that_cannot_be_written_in_the_end_is_an_error(fake, capsys, tmp_path):
    def answer(**_):
        (tmp_path / "r.json").mkdir()
        return ANALYZED

    fake.answers["analyze"] = answer
    assert run("analyze m.onnx --data val --json r.json --markdown r.md") == 2
    out, err = capsys.readouterr()
    assert "error: --json cannot be written" in err
    assert "opset 17" in out, "what was found is shown all the same"
    assert names_in(tmp_path) == ["r.json", "r.md"]


# --- the next command ---


def next_of(capsys, line):
    assert run(line) == 0
    return re.search(r"^next: (.*)$", capsys.readouterr().out, re.MULTILINE)[1]


def test_the_next_command_repeats_every_choice(fake, capsys):
    choices = (
        "--data 'my photos' --limit 9 --mean 0.5,0.25 --size 8,9 --energy 0.9 --exclude 'a*' --exclude b --round-to 8"
    )
    found = next_of(capsys, f"analyze m.onnx {choices} --json r.json -v")
    assert found == f"pfa-onnx prune m.onnx {choices}"
    assert main(shlex.split(found)[1:]) == 0


def test_saved_statistics_take_the_place_of_the_data(fake, capsys):
    found = next_of(capsys, "analyze m.onnx --data val --limit 5 --save-stats s.npz")
    assert found == "pfa-onnx prune m.onnx --stats s.npz --kl"
    assert main(shlex.split(found)[1:]) == 0


def test_prune_names_the_check(fake, capsys, tmp_path):
    found = next_of(capsys, "prune m.onnx --data val --preprocess unit --kl --round-to 8")
    assert found == "pfa-onnx check m.onnx m.pruned.onnx --data val --preprocess unit"
    assert next_of(capsys, "prune m.onnx --stats s --kl -o o.onnx") == "pfa-onnx check m.onnx o.onnx --data DATA"
    (tmp_path / "val").mkdir()  # pictures were prepared in a way that only the first command line says
    assert next_of(capsys, "prune m.onnx --stats s --kl -o o.onnx") == "pfa-onnx check m.onnx o.onnx --data DATA"


def test_a_measured_multiple_is_asked_for_again(fake, capsys):
    found = next_of(capsys, "analyze m.onnx --data val --round-to auto")
    assert fake.args[3] == PlanOptions(round_to="auto")
    assert found == "pfa-onnx prune m.onnx --data val --round-to auto --kl"


def test_notes_are_for_the_verbose(fake, capsys):
    def answer(hooks, **_):
        hooks.note("multiples of 8: 0.7")
        return ANALYZED

    fake.answers["analyze"] = answer
    assert run("analyze m.onnx --data val") == run("analyze m.onnx --data val -v") == 0
    assert capsys.readouterr().err.count("note: multiples of 8: 0.7\n") == 1


@pytest.mark.parametrize(
    ("flags", "ray"), [("", None), ("--ray", "local"), ("--ray ray.example:6379", "ray.example:6379")]
)
def test_ray_has_an_address_or_is_local(fake, capsys, flags, ray):
    assert run(f"prune m.onnx --data val --kl {flags}") == 0
    assert fake.args[1].ray == ray
    assert "--ray" not in next_of(capsys, f"analyze m.onnx --data val {flags}")


def test_a_shard_is_merged_next(fake, capsys):
    found = next_of(capsys, "analyze m.onnx --data val --shard 2/8 --save-stats 's 2.npz'")
    assert found == "pfa-onnx merge 's 2.npz' FILE... -o ALL"


def test_merge(fake, capsys):
    assert run("merge a.npz b.npz 'c 3.npz' -o all.npz") == 0
    assert fake.args == ((Path("a.npz"), Path("b.npz"), Path("c 3.npz")), Path("all.npz"))
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "3 files   1,200 samples from val   8 layers   cpu\nwrote all.npz\n"
        "next: pfa-onnx analyze MODEL --stats all.npz\n"
    )
    assert run("merge a.npz -o all.npz -q") == 0
    assert capsys.readouterr().out == "wrote all.npz\n"


# --- doctor ---


def report_of(**fields):
    healthy = {
        "distribution": "onnxruntime",
        "version": "1.2",
        "providers": ["cpu"],
        "cuda": None,
        "cuda_problem": None,
    }
    return lambda: healthy | fields


def doctor(monkeypatch, capsys, conflict=None, **fields):
    monkeypatch.setattr(runtime, "runtime_conflict", lambda: conflict)
    monkeypatch.setattr(runtime, "runtime_report", report_of(**fields))
    code = run("doctor")
    return code, capsys.readouterr().out


def test_doctor_is_content_on_a_machine_without_a_gpu(monkeypatch, capsys):
    code, out = doctor(monkeypatch, capsys)
    assert code == 0
    assert re.search(r"^runs on +cpu$", out, re.MULTILINE)
    assert re.search(r"^onnxruntime +onnxruntime 1\.2$", out, re.MULTILINE)
    assert out.endswith("all is well\n")
    assert "hint" not in out


def test_doctor_repairs_two_runtimes_with_one_line(monkeypatch, capsys):
    conflict = "onnxruntime and onnxruntime-gpu overwrite each other; pip uninstall both, then pip install one of them"
    code, out = doctor(monkeypatch, capsys, conflict, distribution="onnxruntime + onnxruntime-gpu")
    assert code == 1
    assert "error: onnxruntime and onnxruntime-gpu overwrite each other\n" in out
    assert "  fix: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu\n" in out
    assert out.endswith("1 to repair\n")


def test_doctor_knows_a_runtime_that_is_missing_or_broken(monkeypatch, capsys):
    missing = "no onnxruntime is installed; pip install onnxruntime, or onnxruntime-gpu for NVIDIA"
    code, out = doctor(monkeypatch, capsys, missing, distribution=None, version=None, providers=[])
    assert code == 1
    assert f"error: no onnxruntime is installed\n  at: {sys.prefix}\n  fix: pip install onnxruntime" in out
    code, out = doctor(monkeypatch, capsys, providers=[], cpu_problem="no such library")
    assert code == 1
    assert "error: onnxruntime does not run here: no such library\n" in out


def test_doctor_hints_at_cuda(monkeypatch, capsys):
    code, out = doctor(monkeypatch, capsys, cuda="12.8", cuda_problem="CUDA does not start: libcudnn.so.9 is missing")
    assert code == 0
    assert (
        "hint: CUDA does not start: libcudnn.so.9 is missing; with an NVIDIA GPU: pip install 'pfa-onnx[cuda]'" in out
    )
    code, out = doctor(monkeypatch, capsys, cuda="12.8", providers=["cuda", "cpu"])
    assert code == 0
    assert "hint: CUDA 12.8 starts" in out


def test_doctor_runs_for_real(capsys):
    assert run("doctor") in (0, 1)
    assert "onnxruntime" in capsys.readouterr().out
