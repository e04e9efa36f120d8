"""Measuring and deciding otherwise than in the paper: against numpy, on files, on the command line."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from networks import NETWORKS, Net, feeds
from support import saved

import pfa_onnx
from pfa_onnx.cli import main
from pfa_onnx.cli.app import app
from pfa_onnx.errors import StatsError, UsageError
from pfa_onnx.graph import protos
from pfa_onnx.graph.behind import tap_points
from pfa_onnx.graph.model import load
from pfa_onnx.graph.norms import operands_of
from pfa_onnx.graph.pools import POSITIONS, positions_of
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Method
from pfa_onnx.report import as_json, words
from pfa_onnx.responses import Responses
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.device import QUEUE
from pfa_onnx.stats.merge import merge_stats
from pfa_onnx.stats.pfa import spectrum
from pfa_onnx.stats.statsfile import load_stats, save_stats
from pfa_onnx.steps import resume, variants
from pfa_onnx.steps.calibration import Calibration
from pfa_onnx.steps.measure import find_layers, find_sums, learn_shapes
from pfa_onnx.steps.selects import SCORES
from pfa_onnx.steps.serialized import load_runner

N = 4
SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"

MEASURED = [
    "plain", "bn_as_sub_mul_add", "swish_and_gelu_spelled_out", "residual_add", "residual_sum", "bn_before_conv",
    "nhwc", "matmul_tokens", "conv1d", "conv3d", "windows", "depthwise", "grouped_conv", "conv_transpose",
    "dynamic_spatial", "gemm_plain", "gemm_trans_b", "squeeze_excite_opset18", "attention", "conv1d_by_unsqueeze",
]  # fmt: skip


def outputs_of(graph, names, x):
    """Every named tensor, as the model computes it."""
    proto = protos.to_proto(graph.model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return load_runner(proto, graph, "cpu").run(x, list(dict.fromkeys(names)))


def pooled(values, axis, pool, probed):
    """The rows that one layer's responses become, in numpy: [samples, C], or more of them with positions."""
    flat = np.moveaxis(values.astype(np.float64), axis, -1).reshape(values.shape[0], -1, values.shape[axis])
    if pool == "positions":
        each = max(1, POSITIONS * N // values.shape[0]) if probed else POSITIONS
        return flat[:, positions_of(flat.shape[1], each)].reshape(-1, flat.shape[2])
    samples = flat.reshape(N, -1, flat.shape[2])
    return samples.max(axis=1) if pool == "max" else samples.mean(axis=1)


@pytest.mark.parametrize("tap", ["layer", "bn", "activation"])
@pytest.mark.parametrize("pool", ["max", "mean", "positions"])
@pytest.mark.parametrize("name", MEASURED)
def test_responses_are_those_of_numpy(name, pool, tap):
    model = NETWORKS[name](np.random.default_rng(0))
    x, graph = feeds(model, np.random.default_rng(1), n=N), load(saved(model))
    shapes, probed = learn_shapes(graph, x)
    layers = (*find_layers(graph, shapes), *find_sums(graph, shapes))
    operands = operands_of(graph, layers, shapes)
    options = DataOptions(providers="cpu", responses=Responses(pool, tap))
    run = Calibration(graph, layers, options, N, probed=probed, operands=operands)
    run.add(run.prepare(Batch(x, ("",) * N, (None,) * N)))
    points = tap_points(graph, layers, tap)
    tensors = outputs_of(graph, [*points.values(), *(operand.tensor for operand in operands.values())], x)
    found = run.moments()
    assert len(found) >= len(layers) - 1
    for traced in layers:
        if traced.layer.output in found:
            wanted = Moments.of(pooled(tensors[points[traced.layer.output]], traced.axis, pool, probed))
            one = found[traced.layer.output]
            assert one.count == wanted.count
            np.testing.assert_allclose(one.mean, wanted.mean, rtol=1e-4, atol=1e-4 * abs(wanted.mean).max())
            np.testing.assert_allclose(one.m2, wanted.m2, rtol=1e-3, atol=1e-4 * abs(wanted.m2).max())
    for output, squares in run.squares().items():
        operand = operands[output]
        read = np.moveaxis(tensors[operand.tensor].astype(np.float64), operand.axis, -1)
        read = read.reshape(N, -1, read.shape[-1])
        np.testing.assert_allclose(squares, (read**2).mean(axis=1).sum(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pool", ["max", "mean", "positions"])
@pytest.mark.parametrize("name", ["plain", "windows"])
def test_the_device_adds_up_what_the_host_does(name, pool):
    model = NETWORKS[name](np.random.default_rng(0))
    graph, many = load(saved(model)), (QUEUE + 2) * N
    x = feeds(model, np.random.default_rng(1), n=many)["image"]
    shapes, probed = learn_shapes(graph, {"image": x})
    layers = find_layers(graph, shapes)
    found = []
    for on_device in (False, True):
        options = DataOptions(providers="cpu", responses=Responses(pool, "activation"))
        operands = operands_of(graph, layers, shapes)
        run = Calibration(graph, layers, options, N, probed=probed, operands=operands)
        run._on_device = on_device
        for part in np.split(x[:-1], range(N, many - 1, N)):
            run.add(run.prepare(Batch({"image": part}, ("",) * len(part), (None,) * len(part))))
        found.append((run.moments(), run.squares()))
    (here, squares), (there, others) = found
    assert set(here) == set(there)
    for output, one in here.items():
        assert there[output].count == one.count
        np.testing.assert_allclose(there[output].m2, one.m2, rtol=1e-5, atol=1e-6 * abs(one.m2).max())
        np.testing.assert_allclose(others[output], squares[output], rtol=1e-6)


# --- on files ------------------------------------------------------------------------------------------


def options_for(**responses: object) -> DataOptions:
    return DataOptions(data=IMAGES, limit=320, providers="cpu", responses=Responses(**responses))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Statistics of the sample: the paper's way, other responses, and with all that baselines need."""
    folder = tmp_path_factory.mktemp("variants")
    everything = Method("kl", select="wanda", couple="stream")
    for name, responses, method in (
        ("paper", {}, None),
        ("other", {"pool": "positions", "tap": "activation"}, None),
        ("more", {}, everything),
    ):
        pfa_onnx.analyze(MODEL, options_for(**responses), method, save_stats=folder / f"{name}.npz")
    return {path.stem: path for path in folder.iterdir()}


def header(path: Path) -> dict:
    with np.load(path) as archive:
        return json.loads(archive["header"].tobytes())


def test_a_file_says_only_what_is_not_the_papers_way(files):
    assert "responses" not in header(files["paper"])
    assert header(files["other"])["responses"] == {"pool": "positions", "tap": "activation"}
    assert header(files["more"])["responses"] == {"inputs": True, "sums": True}
    for path in files.values():
        again = path.with_name("again")
        save_stats(again, load_stats(path))
        assert again.read_bytes() == path.read_bytes()
        again.unlink()


def test_the_layers_of_a_file_with_more_are_those_of_one_without(files):
    paper, more = load_stats(files["paper"]), load_stats(files["more"])
    sums = list(more.moments)[len(paper.moments) :]
    assert list(more.moments)[: len(paper.moments)] == list(paper.moments)
    assert len(sums) == 2
    assert set(more.squares) == set(paper.moments)
    for name, one in paper.moments.items():
        np.testing.assert_allclose(more.moments[name].m2, one.m2, rtol=1e-6, atol=1e-6 * abs(one.m2).max())
    plain = pfa_onnx.analyze(MODEL, DataOptions(responses=Responses()), stats=files["more"])
    assert [la.keep for la in plain.layers] == [la.keep for la in pfa_onnx.analyze(MODEL, stats=files["paper"]).layers]


@pytest.mark.parametrize(
    ("name", "responses", "method", "text"),
    [
        ("paper", {"pool": "mean"}, None, "--pool max --tap layer, not with --pool mean --tap layer"),
        ("other", {}, None, "--pool positions --tap activation, not with --pool max --tap layer"),
        ("paper", {}, Method("kl", select="wanda"), "without the mean squares of what layers read"),
        ("paper", {}, Method("kl", couple="stream"), "without the responses of residual sums"),
    ],
)
def test_statistics_of_other_responses_are_refused(files, name, responses, method, text):
    with pytest.raises(StatsError, match=text) as caught:
        pfa_onnx.analyze(MODEL, DataOptions(responses=Responses(**responses)), method, stats=files[name])
    assert caught.value.at == str(files[name])
    assert caught.value.fix


def test_statistics_whose_inputs_are_of_another_width_are_refused(files, tmp_path):
    stats = load_stats(files["more"])
    name, squares = next(iter(stats.squares.items()))
    save_stats(tmp_path / "s.npz", replace(stats, squares={**stats.squares, name: squares[:-1]}))
    with pytest.raises(StatsError, match=rf"it holds \d+ channels that '{name}' reads, and the model has {len(squares)}"):
        pfa_onnx.analyze(MODEL, DataOptions(responses=stats.responses), stats=tmp_path / "s.npz")


def test_statistics_of_other_responses_are_not_merged(files):
    paper, other = load_stats(files["paper"]), load_stats(files["other"])
    with pytest.raises(StatsError, match="different responses: --pool max --tap layer and --pool positions"):
        merge_stats([paper, other])


def test_resume_refuses_other_responses_finished_or_not(files, tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    path.write_bytes(files["paper"].read_bytes())
    with pytest.raises(StatsError, match="other responses: --pool max --tap layer, and not --pool mean"):
        pfa_onnx.analyze(MODEL, options_for(pool="mean"), save_stats=path, resume=True)
    path.unlink()
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pfa_onnx.analyze(MODEL, options_for(tap="bn"), save_stats=path)
    monkeypatch.undo()
    with pytest.raises(StatsError, match="other responses: --pool max --tap bn, and not --pool max --tap layer"):
        pfa_onnx.analyze(MODEL, options_for(), save_stats=path, resume=True)


def interrupt(monkeypatch):
    """Save after every batch, and stop after four of them."""
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    monkeypatch.setattr(resume, "SHARE", 0)
    add, seen = Calibration.add, []

    def counted(self, ready):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(ready)
        add(self, ready)

    monkeypatch.setattr(Calibration, "add", counted)


def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path, monkeypatch):
    method = Method("kl", select="wanda", couple="stream")
    options, whole, path = options_for(pool="positions"), tmp_path / "whole.npz", tmp_path / "s.npz"
    pfa_onnx.analyze(MODEL, options, method, save_stats=whole)
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pfa_onnx.analyze(MODEL, options, method, save_stats=path)
    monkeypatch.undo()
    pfa_onnx.analyze(MODEL, options, method, save_stats=path, resume=True)
    assert path.read_bytes() == whole.read_bytes()


def test_shards_add_up(files, tmp_path):
    method = Method("kl", select="wanda", couple="stream")
    paths = [tmp_path / f"{k}.npz" for k in (1, 2)]
    for k, path in enumerate(paths, 1):
        pfa_onnx.analyze(MODEL, replace(options_for(), shard=(k, 2)), method, save_stats=path)
    pfa_onnx.merge(paths, tmp_path / "all.npz")
    merged, whole = load_stats(tmp_path / "all.npz"), load_stats(files["more"])
    assert merged.responses == whole.responses
    for name, squares in whole.squares.items():
        np.testing.assert_allclose(merged.squares[name], squares, rtol=1e-6)


@pytest.mark.parametrize("damage", ["shape", "negative", "unknown"])
def test_broken_files_are_refused(files, tmp_path, damage):
    stats = load_stats(files["more"])
    name = next(iter(stats.squares))
    broken = {"shape": np.zeros((2, 2)), "negative": np.full(3, -1.0)}.get(damage, stats.squares[name])
    responses = Responses(pool="median") if damage == "unknown" else stats.responses  # type: ignore[arg-type]
    save_stats(tmp_path / "s.npz", replace(stats, squares={**stats.squares, name: broken}, responses=responses))
    with pytest.raises(StatsError):
        load_stats(tmp_path / "s.npz")


# --- what is decided -------------------------------------------------------------------------------------


def kept(files, method, name="more"):
    report = pfa_onnx.analyze(MODEL, stats=files[name], method=method)
    return [len(layer.keep) for layer in report.layers], report


def test_variants_decide_and_are_reported(files, tmp_path):
    before, _ = kept(files, None)
    for choices in (
        {"divergence": "emd"},
        {"mapping": "sqrt"},
        {"couple": "mean"},
        {"couple": "stream"},
        {"shrink": "oas"},
    ):
        now, report = kept(files, Method("kl", **choices))
        assert now != before
        assert words.flags(report.method) == "--kl " + " ".join(f"--{k} {v}" for k, v in choices.items())
        out = tmp_path / "o.onnx"
        pruned = pfa_onnx.prune(MODEL, stats=files["more"], method=Method("kl", **choices), output=out)
        assert pruned.proof is not None
        assert pruned.proof.passed
        assert [len(layer.keep) for layer in pruned.layers] == now
        stored = json.loads({p.key: p.value for p in onnx.load(out).metadata_props}["pfa_onnx.recipe"])
        assert stored["method"] == {"name": "kl", "seed": 0, "select": "pfa", **choices}


def test_reports_say_what_was_measured_and_replay(files, tmp_path):
    data = DataOptions(responses=Responses("positions", "activation"))
    report = pfa_onnx.prune(MODEL, data, Method("kl"), stats=files["other"], output=tmp_path / "a.onnx")
    assert words.kept(report).startswith("--kl --pool positions --tap activation keeps ")
    text = as_json.render(report)
    assert json.loads(text)["responses"] == {"pool": "positions", "tap": "activation"}
    (tmp_path / "r.json").write_text(text)
    again = pfa_onnx.prune(MODEL, None, stats=files["paper"], recipe=tmp_path / "r.json", output=tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert again.responses == report.responses


def test_a_group_keeps_the_mean_or_what_its_sum_asks_for(files):
    _, report = kept(files, Method("kl"))
    stats = load_stats(files["more"])
    sums = [one.covariance for name, one in stats.moments.items() if name not in {la.output for la in report.layers}]
    wanted = {len(covariance): spectrum(covariance).keep_kl() for covariance in sums}
    groups = {layer.group for layer in report.layers if layer.group is not None}
    assert len(groups) == len(wanted) == 2
    for group in groups:
        asks = [layer.asked for layer in report.layers if layer.group == group]
        for couple in ("mean", "stream"):
            other = pfa_onnx.analyze(MODEL, stats=files["more"], method=Method("kl", couple=couple))
            members = [layer for layer in other.layers if layer.group == group]
            assert [layer.asked for layer in members] == asks, "before coupling"
            count = -(-sum(asks) // len(asks)) if couple == "mean" else wanted[members[0].channels]
            assert {len(layer.keep) for layer in members} == {count}


def test_positions_are_samples_where_there_are_few(files):
    data = DataOptions(data=IMAGES, limit=40, providers="cpu")
    few = pfa_onnx.analyze(MODEL, data)
    more = pfa_onnx.analyze(MODEL, replace(data, responses=Responses("positions")))
    reasons = [{cause.reason for layer in report.layers for cause in layer.frozen} for report in (few, more)]
    assert any("which 40 samples cannot describe" in reason for reason in reasons[0])
    assert not any("cannot describe" in reason for reason in reasons[1])


# --- baselines -------------------------------------------------------------------------------------------


def half(model: onnx.ModelProto, select: str, x: dict) -> list[tuple[int, ...]]:
    plan = pfa_onnx.PlanOptions(allow_few_samples=True)
    report = pfa_onnx.analyze(saved(model), x, Method("uniform", ratio=0.5, select=select), plan)
    return [layer.keep for layer in report.layers]


def test_network_slimming_keeps_the_largest_scales():
    net = Net(np.random.default_rng(0))
    x = net.conv(net.image(), 3, 4, bias=False)
    scale = net.const(np.array([0.1, -3.0, 0.2, 2.0], np.float32))
    ones, zeros = net.const(np.ones(4, np.float32)), net.const(np.zeros(4, np.float32))
    x = net.op("BatchNormalization", x, scale, zeros, zeros, ones)
    model = net.model(net.head(net.relu(x), 4))
    assert half(model, "bn", feeds(model, np.random.default_rng(1), n=20))[0] == (1, 3)


def test_wanda_by_hand():
    """Weights that are large where the input is small lose against small ones where it is large."""
    net = Net(np.random.default_rng(0))
    image = net.input(["N", 2, 4, 4])
    weight = np.zeros((4, 2, 1, 1), np.float32)
    weight[:, :, 0, 0] = [[5, 0], [0, 1], [4, 0.2], [1, 0.9]]  # scores 5, 10, 6, 10 with norms (1, 10)
    x = net.op("Conv", image, net.const(weight))
    model = net.model(net.head(net.relu(x), 4))
    rng = np.random.default_rng(1)
    data = rng.choice([-1.0, 1.0], (24, 2, 4, 4)).astype(np.float32) * np.array([1, 10], np.float32)[:, None, None]
    assert half(model, "wanda", {"image": data})[0] == (1, 3)
    assert half(model, "l1", {"image": data})[0] == (0, 2)


def test_layers_without_a_batch_normalization_are_named():
    net = Net(np.random.default_rng(0))
    x = net.block(net.image(), 3, 8)
    x = net.relu(net.conv(x, 8, 6))
    model = net.model(net.head(net.relu(net.conv(x, 6, 5)), 5))
    x = feeds(model, np.random.default_rng(1), n=20)
    with pytest.raises(UsageError) as caught:
        half(model, "bn", x)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert caught.value.what == (
        f"2 layers that may lose channels have no BatchNormalization directly behind them: '{names[1]}', '{names[2]}'"
    )
    assert "--exclude" in str(caught.value.fix)
    plan = pfa_onnx.PlanOptions(allow_few_samples=True, exclude=(names[1], names[2]))
    report = pfa_onnx.analyze(saved(model), x, Method("uniform", ratio=0.5, select="bn"), plan)
    assert [len(layer.keep) for layer in report.layers] == [4, 6, 5, 10]


def test_every_score_belongs_to_a_choice():
    assert set(SCORES) <= set(variants._KNOWN["select"])


# --- the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["analyze", "prune"])
def test_the_choices_are_those_of_python(verb):
    options = {param.name: param for param in app.commands[verb].params}
    for name in ("select", "pool", "tap", "divergence", "mapping", "couple", "shrink"):
        kind = options[name].type
        assert isinstance(kind, click.Choice)
        assert tuple(kind.choices) == variants._KNOWN[name]
        paper = getattr(Responses, name, None) or getattr(Method, name)
        assert options[name].default == paper


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ("--energy 0.9 --divergence chi2", ("--divergence chi2", "--energy", "use --kl")),
        ("--params 0.5 --mapping exp", ("--mapping exp", "--params", "use --kl")),
        ("--uniform 0.5 --shrink oas", ("--shrink oas", "--uniform")),
    ],
)
@pytest.mark.parametrize("verb", ["analyze", "prune"])
def test_choices_that_do_nothing_are_refused(verb, flags, texts, capsys):
    assert main(shlex.split(f"{verb} {MODEL} --data {IMAGES} {flags} -q")) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in (*texts, "\n  fix: "))


def test_a_recipe_leaves_nothing_to_choose(capsys):
    assert main(shlex.split(f"prune {MODEL} --data {IMAGES} --recipe r.json --pool mean")) == 2
    assert "--pool cannot" in capsys.readouterr().err


def test_variants_alone_go_with_kl(files, capsys):
    line = f"analyze {MODEL} --stats {files['more']} --divergence emd --couple stream -q"
    assert main(shlex.split(line)) == 0
    assert capsys.readouterr().out.startswith("--kl --divergence emd --couple stream keeps ")
    assert main(shlex.split(f"analyze {MODEL} --stats {files['other']} -q")) == 2
    assert "decide with --pool positions --tap activation" in capsys.readouterr().err
    assert main(shlex.split(f"analyze {MODEL} --stats {files['other']} --pool positions --tap activation -q")) == 0


@pytest.mark.parametrize(
    ("method", "data", "text"),
    [
        (Method("kl", divergence="js"), DataOptions(), "no divergence 'js'"),  # type: ignore[arg-type]
        (Method("kl"), DataOptions(responses=Responses(pool="median")), "no pool 'median'"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_exist_is_refused_in_python_too(method, data, text):
    with pytest.raises(UsageError, match=text):
        pfa_onnx.analyze(MODEL, replace(data, data=IMAGES), method)
