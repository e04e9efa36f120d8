"""What was mistyped is recognised: options, verbs, choices, layers, inputs, presets."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np
import pytest

import pfa_onnx
from pfa_onnx.cli import main
from pfa_onnx.cli.app import app
from pfa_onnx.cli.suggestions import options_of
from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.nearest import did_you_mean, nearest
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.data import open_data
from pfa_onnx.stats.preprocess import make_preprocess

EXPORTS = Path(__file__).parent / "exports"
LAYERS = ["/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/conv2/Conv", "/layer2/layer2.0/conv1/Conv", "/fc/Gemm"]


def fix_of(capsys, line):
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.partition("\n  fix: ")[2].rstrip()


def mistyped(option):
    """The option with one letter missing, and with two letters swapped."""
    middle = len(option) // 2
    yield option[:middle] + option[middle + 1 :]
    yield option[: middle - 1] + option[middle] + option[middle - 1] + option[middle + 1 :]


LONG = [(verb, option) for verb in app.commands for option in options_of(app.commands[verb]) if len(option) > 6]


@pytest.mark.parametrize(("verb", "option"), LONG, ids=lambda value: value)
def test_every_option_of_every_verb_is_found_again(capsys, verb, option):
    known = options_of(app.commands[verb])
    for typed in mistyped(option):
        if typed not in known and not any(name.startswith(typed) for name in known):
            fix = fix_of(capsys, f"{verb} {typed}")
            assert fix.startswith("did you mean ")
            assert option in fix


@pytest.mark.parametrize("verb", app.commands)
def test_every_verb_is_found_again(capsys, verb):
    for typed in mistyped(verb):
        assert verb in fix_of(capsys, f"{typed} m.onnx")


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("analyse m.onnx", "did you mean analyze?"),
        ("prune m.onnx --enrgy 0.9", "did you mean --energy?"),
        ("prune m.onnx -energy 0.9", "did you mean --energy?"),
        ("prune m.onnx --round 8", "did you mean --round-to?"),
        ("prune m.onnx --shard 1/2", "--shard is an option of analyze; see `pfa-onnx prune --help`"),
        ("prune m.onnx --max-params 0.5", "--max-params is an option of check; see `pfa-onnx prune --help`"),
        ("prune m.onnx --select pfaa", "did you mean pfa?"),
        ("prune m.onnx --pool maxx", "did you mean max?"),
        ("prune m.onnx --select zzz", "see `pfa-onnx prune --help`"),
        ("frobnicate", "see `pfa-onnx --help`"),
        ("prune m.onnx --zzz", "see `pfa-onnx prune --help`"),
        ("prune m.onnx --energy zzz", "see `pfa-onnx prune --help`"),
    ],
)
def test_what_was_meant(capsys, line, fix):
    assert fix_of(capsys, line) == fix


def test_without_the_help_of_click(capsys, monkeypatch):
    """Older releases of click know of no command that is nearly right."""

    def resolve(self, ctx, args):
        raise click.UsageError(f"No such command {args[0]!r}.", ctx)

    monkeypatch.setattr(type(app), "resolve_command", resolve)
    assert fix_of(capsys, "analyse m.onnx") == "did you mean analyze?"


# --- names ---


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("fc/gem", ["/fc/Gemm"]),
        ("/layr2*", ["/layer2/layer2.0/conv1/Conv"]),
        ("layer1/layer1.0/conv3/*", LAYERS[:2]),
        ("zzz", []),
        ("", []),
        ("***", []),
    ],
)
def test_the_nearest_names(name, found):
    assert sorted(nearest(name, LAYERS)[:2]) == found


def test_a_question_or_none():
    assert did_you_mean("imput", ["input", "mask"]) == "did you mean 'input'?"
    assert did_you_mean("zzz", ["input", "mask"]) is None
    assert did_you_mean("zzz", []) is None


@pytest.mark.parametrize("flag", ["include", "exclude"])
@pytest.mark.parametrize(
    ("pattern", "fix"),
    [
        ("Conv", "did you mean '*Conv*', which matches 15 of 16?"),
        ("/2/body/body.0/body.0.0", "did you mean '*/2/body/body.0/body.0.0*', which matches 1 of 16?"),
        ("/2/body/body.0/body.0.0/Cov", "did you mean '/2/body/body.0/body.0.0/Conv'?"),
        ("zzz", "names look like '/0/0.0/Conv'"),
        ("*", None),
    ],
)
def test_a_pattern_that_matches_no_layer(flag, pattern, fix):
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    plan = pfa_onnx.PlanOptions(**{flag: (pattern,)}, allow_few_samples=True)
    path = EXPORTS / "resnet_basic.ts.onnx"
    if fix is None:
        pfa_onnx.analyze(path, images, plan=plan)
        return
    with pytest.raises(UsageError, match=f"--{flag} '{pattern}' matches no layer") as caught:
        pfa_onnx.analyze(path, images, plan=plan)
    assert caught.value.fix.startswith(fix.removesuffix("?"))
    assert caught.value.fix.endswith("; list them with `pfa-onnx inspect MODEL -v`")


INPUTS = [InputSpec(name, (None, 4), np.dtype("int64")) for name in ("input_ids", "attention_mask")]
GENERAL = "name one array after each input, and no other but labels"


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (["input_id", "attention_mask"], "rename 'input_id' to 'input_ids'"),
        (["atention_mask", "inputs_ids"], "rename 'atention_mask' to 'attention_mask' and 'inputs_ids' to 'input_ids'"),
        (["x", "y"], GENERAL),
        (["input_ids", "attention_mask", "more"], GENERAL),
        (["input_ids"], GENERAL),
    ],
)
def test_arrays_that_are_nearly_called_after_the_inputs(tmp_path, names, fix):
    fix = fix.replace(" and 'inputs_ids'", " and rename 'inputs_ids'")
    arrays = {name: np.zeros((2, 4), np.int64) for name in names}
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="the arrays are") as caught:
        open_data(path, INPUTS)
    assert caught.value.fix == fix
    with pytest.raises(DataError, match="the dict has") as caught:
        list(open_data(lambda: iter([arrays]), INPUTS).batches(1))
    assert caught.value.fix == fix.replace(GENERAL, "yield a dict with an array for each input, and no other")


def test_a_preset_that_is_nearly_one():
    with pytest.raises(UsageError, match="no preset is called 'imagnet'") as caught:
        make_preprocess("imagnet")
    assert caught.value.fix.startswith("did you mean 'imagenet'? Or use one of auto, imagenet")
    with pytest.raises(UsageError) as caught:
        make_preprocess("zzz")
    assert caught.value.fix.startswith("use one of auto, imagenet")
