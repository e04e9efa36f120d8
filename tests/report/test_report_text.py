"""What stands on the terminal, to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report.handmade import ANALYZED, ATTACK, CHECKED, HEAD, MODEL, PASSED, PRUNED, SMALL, layer

from pfa_onnx.recipe import Method, Proof
from pfa_onnx.report import text, words
from pfa_onnx.report.numbers import against, bar, change, channels_for, count, size, span
from pfa_onnx.results import Gate, Report

# --- numbers ---


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.00 k"),
        (999_994, "999.99 k"),
        (999_999, "1.00 M"),
        (11_689_512, "11.69 M"),
        (1_819_066_368, "1.82 G"),
        (15_470_264_320, "15.47 G"),
    ],
)
def test_counts_are_read_at_a_glance(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(("number", "shown"), [(512, "512 B"), (46_800_000, "46.8 MB"), (999_999, "1.0 MB")])
def test_bytes_come_in_powers_of_a_thousand(number, shown):
    assert size(number) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(100, 67.6, "-32.4 %"), (100, 100, "0.0 %"), (0, 5, "-"), (1e6, 1e6 - 123, "-0.01 %"), (100, 150, "+50.0 %")],
)
def test_a_change_is_never_shown_as_none(before, after, shown):
    assert change(before, after) == shown


def test_a_value_is_never_rounded_past_its_limit():
    assert against(0.97266, 0.98) == ("0.97266", "0.98000")
    assert against(0.9799999, 0.98) == ("0.9799999", "0.9800000")
    assert against(0.98, 0.98) == ("0.98000", "0.98000")


def test_the_bar_fills_as_early_as_the_energy_comes():
    assert bar([1.0] * 64) == "▁▂▃▄▅▆▇█"
    assert bar([1.0] + [0.0] * 63) == "████████"
    assert bar([3.0]) == "████████"
    assert bar([]) == bar([0.0, 0.0]) == bar([float("nan")]) == "-"


def test_channels_for_an_energy_are_the_fewest():
    assert channels_for([0.5, 0.45, 0.05], 0.95) == 2
    assert channels_for([1.0] * 20, 0.95) == 19
    assert channels_for([0.0], 0.95) is None


def test_a_span_is_one_number_where_all_agree():
    assert span([64, 64]) == "64"
    assert span([1024, 30]) == "30-1,024"


# --- whole reports ---

ANALYZE_TEXT = """\
model.onnx   opset 17   11.69 M params   1.82 G MACs   46.8 MB
512 samples from val/ (1 skipped)   preprocess imagenet   input 3x224x224   cuda   batch 8

group                        layers  channels  asked    keep  spread  energy
/conv1/Conv                       2        64  40-46      46    0.50  ▁▂▃▄▅▆▇█
/layer1/layer1.0/conv1/Conv       1        64     54      54    0.83  ▁▂▃▄▅▆▇█
/attn/proj                        1         8      2      *8    0.50  ████████
/fc/Gemm                          1     1,000    400  *1,000    0.50  ▁▂▃▄▅▆▇█

* frozen by    layers  channels    params  reason
logits              1       600  307.20 k  is the graph output 'logits'
/attn/Softmax       1         6       600  Softmax mixes all channels

--kl keeps 1,154 of 1,200 channels (-3.8 %)
  7.90 M params (-32.4 %)   1.21 G MACs (-33.5 %)   31.4 MB (-32.9 %)
next: pfa-onnx prune model.onnx --data val/ --kl
"""

PRUNE_TEXT = """\
model.onnx   opset 17   11.69 M params   1.82 G MACs   46.8 MB
512 samples from val/ (1 skipped)   preprocess imagenet   input 3x224x224   cuda   batch 8

           before    after   change
channels    1,200    1,154   -3.8 %
params    11.69 M   7.90 M  -32.4 %
MACs       1.82 G   1.21 G  -33.5 %
file      46.8 MB  31.4 MB  -32.9 %

3 layers pruned, 2 frozen (-v lists them)
proof: equals the masked original on 16 inputs, largest relative error 2.1e-07
wrote model.pruned.onnx
next: pfa-onnx check model.onnx model.pruned.onnx --data val/
"""

CHECK_TEXT = """\
original   model.onnx
pruned     model.pruned.onnx
512 samples from val/ (1 skipped)   preprocess imagenet   input 3x224x224   cuda   batch 8

        original   pruned   change
params   11.69 M   7.90 M  -32.4 %
MACs      1.82 G   1.21 G  -33.5 %
file     46.8 MB  31.4 MB  -32.9 %

metric               value       limit
agreement (top-1)  0.97266  >= 0.98000  FAIL
cosine (worst)     0.99137           -
cosine (mean)      0.99870           -
largest error         1.23           -
params ratio       0.67583  <= 0.75000  ok
MACs ratio         0.66518           -
bytes ratio        0.67094           -

accuracy 0.75000 -> 0.74609 (-0.00391)
14 of 512 predictions changed

changed        original  pruned
val/00000.jpg         0       1
val/00001.jpg         1       2
val/00002.jpg         2       3
val/00003.jpg         3       4
val/00004.jpg         4       5
val/00005.jpg         5       6
... 8 more (-v)

FAILED: agreement (top-1) 0.97266 is below 0.98000
"""


def test_analyze():
    assert text.render(ANALYZED, next_step="pfa-onnx prune model.onnx --data val/ --kl") == ANALYZE_TEXT


def test_prune():
    step = "pfa-onnx check model.onnx model.pruned.onnx --data val/"
    assert text.render(PRUNED, next_step=step) == PRUNE_TEXT


def test_check_ends_with_the_verdict():
    assert text.render(CHECKED) == CHECK_TEXT


def test_the_next_step_stands_before_the_verdict():
    assert text.render(PASSED, next_step="x").splitlines()[-2:] == ["next: x", "PASSED: 1 limit holds"]
    assert "latency   12.3 ms   8.1 ms  -34.4 %" in text.render(PASSED)


# --- width ---

LONG = "/backbone/stage3/stage3.11/block/depthwise_separable/conv_b/Conv"


def many(number):
    layers = tuple(layer(f"{LONG}_{index}", 512, 256 + index, gamma=0.5) for index in range(number))
    return replace(ANALYZED, layers=layers)


def tables_of(rendered):
    """The lines that are part of a table: what a terminal must not wrap."""
    return [block for block in rendered.split("\n\n") if "reason" in block or "spread" in block]


def test_tables_fit_a_terminal_and_names_lose_their_middle():
    report = replace(many(3), layers=(*many(3).layers, layer(LONG, 2048, 2048, held=1000, frozen=(HEAD,))))
    groups, frozen = tables_of(text.render(report, width=80))
    assert max(map(len, groups.splitlines())) <= 80
    assert max(map(len, frozen.splitlines())) <= 80
    assert "/backbon...able/conv_b/Conv_0 " in groups
    assert all(f"Conv_{index} " in groups for index in range(3)), "the end of a name tells layers apart"


def test_a_file_and_verbose_get_full_names():
    assert LONG in text.render(many(3))
    assert LONG in text.render(many(3), verbose=True, width=80)


def test_long_reasons_are_wrapped_below_themselves():
    cause = replace(HEAD, reason="is read by an operator that has no rule here, so that nothing may go")
    report = replace(ANALYZED, layers=(layer("a", 9, 9, held=3, frozen=(cause,)),))
    head, *lines = tables_of(text.render(report, width=64))[1].splitlines()
    start = head.index("reason")
    assert len(lines) > 1
    assert " ".join(line[start:] for line in lines) == cause.reason
    assert max(map(len, lines)) <= 64


def test_the_twenty_groups_that_shrink_most_are_shown_in_the_order_of_the_graph():
    lines = text.render(many(37)).splitlines()
    shown = [line for line in lines if line.startswith(LONG)]
    assert len(shown) == 20
    assert shown[0].startswith(f"{LONG}_0 ")
    assert shown[-1].startswith(f"{LONG}_19 "), "later layers keep more"
    assert "... 17 more (-v)" in lines
    assert sum(line.startswith(LONG) for line in text.render(many(37), verbose=True).splitlines()) == 37


# --- corners ---


def test_a_prune_without_a_proof_says_so():
    assert "proof: none; nothing was proven\n" in text.render(replace(PRUNED, proof=None))
    failed = replace(PRUNED, proof=Proof(0.5, 1, passed=False))
    assert (
        words.proof(failed)
        == "proof: FAILED, differs from the masked original on 1 input, largest relative error 5.0e-01"
    )


def test_a_proof_through_normalisations_says_what_was_compared():
    through = words.proof(replace(PRUNED, proof=Proof(1e-7, 2, passed=True), through_norm=True))
    assert through.startswith("proof: equals the masked original, normalised over its kept channels only, on 2 inputs")


def test_a_recipe_without_data_has_no_data_line():
    assert "samples from" not in text.render(replace(PRUNED, data=None))


def test_a_model_without_layers_renders():
    empty = Report(MODEL, None, Method("kl"), (), None)
    assert "--kl keeps 0 of 0 channels (0.0 %)" in text.render(empty, width=80)


def test_control_characters_do_not_reach_the_terminal():
    rendered = text.render(ATTACK, verbose=True) + text.render(ATTACK, width=80)
    assert "\x1b" not in rendered
    assert "\\x1b[31m" in rendered


def test_unmeasured_layers_show_no_spectrum():
    row = next(line for line in text.render(ATTACK).splitlines() if line.startswith("unmeasured"))
    assert row.split() == ["unmeasured", "1", "4", "4", "4", "-", "-"]


def test_quiet_is_one_line():
    assert text.line(ANALYZED) == "--kl keeps 1,154 of 1,200 channels (-3.8 %)\n"
    assert text.line(PRUNED) == "wrote model.pruned.onnx\n"
    assert text.line(CHECKED) == "FAILED: agreement (top-1) 0.97266 is below 0.98000\n"


@pytest.mark.parametrize(
    ("method", "typed"),
    [
        (Method("kl"), "--kl"),
        (Method("energy", tau=0.95), "--energy 0.95"),
        (Method("params", target=0.5, tau=0.9), "--params 0.5"),
        (Method("uniform", ratio=0.5, select="l1"), "--uniform 0.5 --select l1"),
    ],
)
def test_a_method_is_called_as_it_is_typed(method, typed):
    assert words.flags(method) == typed


def test_the_energy_that_a_search_found_is_told():
    assert words.kept(PRUNED) == "--params 0.7 (energy 0.97312) keeps 1,154 of 1,200 channels (-3.8 %)"


def test_limits_under_either_name_and_without_a_value():
    gates = (Gate("agreement", None, 0.98, passed=False), Gate("max_latency", 1.25, 1.0, passed=False))
    report = replace(CHECKED, gates=gates)
    expected = "FAILED: agreement (top-1) cannot be measured here; latency ratio 1.25000 is above 1.00000"
    assert words.verdict(report) == expected
    assert "agreement (top-1)        -  >= 0.98000  FAIL" in text.render(report)
    assert words.verdict(replace(CHECKED, gates=())) == "PASSED: no limit was set"


def test_what_a_model_becomes_needs_a_size():
    assert words.becomes(replace(ANALYZED, after=None)) is None
    assert words.becomes(replace(ANALYZED, after=SMALL)) is not None


def test_the_change_of_the_latency_is_that_of_the_paired_runs():
    report = replace(PASSED, metrics={**PASSED.metrics, "latency_ratio": 0.9})
    assert "latency   12.3 ms   8.1 ms  -10.0 %" in text.render(report)
