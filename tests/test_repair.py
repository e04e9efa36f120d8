"""Repair without training, and the choice of channels that it can make up for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pfa_onnx
from pfa_onnx.cli import main
from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.recipe import Method
from pfa_onnx.stats.session import Runner

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"


def redundant(path: Path, *, bn: bool = False, dead: bool = False) -> Path:
    """A network whose first layer makes 8 channels of 4 directions only: four of them can be made up for exactly.

    dead: and one more that is constant, which its reader needs.
    """
    rng = np.random.default_rng(0)
    half = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    mixed = np.tensordot(rng.standard_normal((4, 4)).astype(np.float32), half, 1)
    first = np.concatenate([half, mixed, np.zeros((1, 3, 3, 3), np.float32)] if dead else [half, mixed])
    bias = rng.standard_normal(len(first)).astype(np.float32)
    weights = {"w1": first, "b1": bias, "w2": rng.standard_normal((5, len(first), 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="second"),
    ]
    last = "b"
    if bn:
        weights |= {name: (np.abs(rng.standard_normal(5)) + 0.5).astype(np.float32) for name in ("s", "t", "m", "v")}
        nodes.append(helper.make_node("BatchNormalization", ["b", "s", "t", "m", "v"], ["n"], name="norm"))
        last = "n"
    nodes += [helper.make_node("Relu", [last], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 1, 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def data(count=128):
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def error(one: Path, other: Path) -> float:
    """On inputs that nobody has seen."""
    x = np.random.default_rng(2).standard_normal((64, 3, 8, 8)).astype(np.float32)
    a, b = (Runner(path, providers="cpu").run({"x": x})["y"] for path in (one, other))
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("bn", [False, True])
def test_what_the_others_span_is_made_up_for_exactly(tmp_path, bn):
    model, small = redundant(tmp_path / "m.onnx", bn=bn), tmp_path / "s.onnx"
    method = Method("uniform", ratio=0.5, select="reconstruct")
    report = pfa_onnx.prune(model, data(), method, output=small, repair=True)
    first = next(layer for layer in report.layers if layer.node == "first")
    assert len(first.keep) == 4
    assert report.repair.applied
    assert error(model, small) < 0.02
    repaired = onnx.load(small)
    second = next(node for node in repaired.graph.node if node.name == "second")
    assert len(second.input) == (2 if bn else 3), "with a normalisation behind it, its mean takes the bias"
    onnx.checker.check_model(repaired, full_check=True)
    pfa_onnx.prune(model, data(), method, output=small)
    assert error(model, small) > 0.1


def test_a_constant_channel_goes_into_the_bias_of_its_reader(tmp_path):
    model, small = redundant(tmp_path / "m.onnx", dead=True), tmp_path / "s.onnx"
    method = Method("energy", tau=1.0)
    report = pfa_onnx.prune(model, data(), method, output=small, repair=True)
    first = next(layer for layer in report.layers if layer.node == "first")
    assert 8 not in first.keep
    assert error(model, small) < 1e-3


def test_the_sample_keeps_its_accuracy(tmp_path):
    accuracies = []
    for repair in (False, True):
        small = tmp_path / "s.onnx"
        method = Method("kl", select="reconstruct" if repair else "pfa")
        pfa_onnx.prune(MODEL, IMAGES, method, output=small, repair=repair)
        accuracies.append(pfa_onnx.check(MODEL, small, IMAGES, latency=False).metrics["accuracy_pruned"])
    assert accuracies[0] < 0.7
    assert accuracies[1] > 0.9


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    contents = []
    for name in ("a.onnx", "b.onnx"):
        pfa_onnx.prune(redundant(tmp_path / "m.onnx"), data(), Method("kl"), output=tmp_path / name, repair=True)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_what_makes_nothing_better_is_left_out(tmp_path, monkeypatch):
    from pfa_onnx.steps import repair

    model = redundant(tmp_path / "m.onnx")
    method = Method("uniform", ratio=0.5)
    warnings: list[str] = []
    add = repair.add_bias
    monkeypatch.setattr(repair, "add_bias", lambda graph, reader, more: add(graph, reader, more + 100))
    report = pfa_onnx.prune(
        model, data(), method, output=tmp_path / "r.onnx", repair=True, hooks=Hooks(warn=warnings.append)
    )
    assert not report.repair.applied
    assert any("left out" in text for text in warnings)
    pfa_onnx.prune(model, data(), method, output=tmp_path / "s.onnx")
    assert (tmp_path / "r.onnx").read_bytes() == (tmp_path / "s.onnx").read_bytes()


def test_a_layer_that_gets_no_better_keeps_its_weights(tmp_path, monkeypatch):
    from pfa_onnx.steps import repair

    monkeypatch.setattr(repair, "solve", lambda moments, before, ridge: before * 100)
    report = pfa_onnx.prune(
        redundant(tmp_path / "m.onnx"), data(), Method("uniform", ratio=0.5), output=tmp_path / "s.onnx", repair=True
    )
    assert {layer.how for layer in report.repair.layers} <= {"bias", "nothing"}
    assert all(layer.after <= layer.before for layer in report.repair.layers)


def test_the_maps_of_a_classifier_are_compared(tmp_path):
    from test_maps import classifier

    onnx.save(classifier([0, 1, 2]), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((1024, 12)).astype(np.float32)
    report = pfa_onnx.prune(
        tmp_path / "m.onnx", x, Method("uniform", ratio=0.5), output=tmp_path / "s.onnx", repair=True
    )
    assert report.repair.applied
    assert 0 < report.repair.after < report.repair.before


def test_a_bias_that_is_computed_is_replaced(tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape) for name, shape in {"a": (12, 16), "b": (16, 8), "d": (8, 4)}.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], name="first"),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Relu", ["c"], ["k"]),
        helper.make_node("Gemm", ["q", "b", "k"], ["r"], name="second"),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("MatMul", ["s", "d"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in {**weights, "c": 5 + rng.standard_normal(8)}.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((256, 12)).astype(np.float32)
    report = pfa_onnx.prune(
        tmp_path / "m.onnx", x, Method("uniform", ratio=0.5), output=tmp_path / "s.onnx", repair=True
    )
    assert report.repair.applied
    assert {layer.how for layer in report.repair.layers} == {"least squares"}
    onnx.checker.check_model(onnx.load(tmp_path / "s.onnx"), full_check=True)


def test_nothing_to_solve(tmp_path):
    """Weights that are quantised: no layer can be solved, and the report says why."""
    model = onnx.load(redundant(tmp_path / "m.onnx"))
    second = next(node for node in model.graph.node if node.name == "second")
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]))
    shape = next(one.dims for one in model.graph.initializer if one.name == second.input[1])
    content = np.random.default_rng(0).integers(-99, 99, tuple(shape)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(content, "q"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
    second.input[1] = "w"
    onnx.save(model, tmp_path / "m.onnx")
    warnings: list[str] = []
    report = pfa_onnx.prune(
        tmp_path / "m.onnx",
        data(),
        Method("uniform", ratio=0.5),
        output=tmp_path / "s.onnx",
        repair=True,
        hooks=Hooks(warn=warnings.append),
    )
    assert not report.repair.applied
    assert any("nothing to solve" in text for text in warnings)


def test_too_few_samples_to_hold_some_back(tmp_path):
    with pytest.raises(DataError, match="too few to hold some back"):
        pfa_onnx.prune(
            redundant(tmp_path / "m.onnx"),
            DataOptions(data(16), batch_size=8),
            Method("kl"),
            output=tmp_path / "s.onnx",
            repair=True,
        )
    assert not (tmp_path / "s.onnx").exists()


def test_statistics_alone_repair_nothing(tmp_path):
    model = redundant(tmp_path / "m.onnx")
    pfa_onnx.analyze(model, data(), save_stats=tmp_path / "s.npz")
    with pytest.raises(UsageError, match="runs the model on inputs"):
        pfa_onnx.prune(model, None, Method("kl"), output=tmp_path / "s.onnx", stats=tmp_path / "s.npz", repair=True)
    with pytest.raises(UsageError, match="--select reconstruct runs the model on inputs"):
        pfa_onnx.prune(
            model, None, Method("kl", select="reconstruct"), output=tmp_path / "s.onnx", stats=tmp_path / "s.npz"
        )


# --- as a user types it ---


def test_the_command_line(tmp_path, capsys):
    small, report = tmp_path / "s.onnx", tmp_path / "r.json"
    given = ["--data", str(IMAGES), "--limit", "256"]
    assert main(["prune", str(MODEL), *given, "--kl", "--repair", "-o", str(small), "--json", str(report)]) == 0
    assert "layers solved anew" in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert content["method"]["select"] == "reconstruct", "the choice that goes with it"
    assert content["repair"]["applied"] is True
    assert content["repair"]["after"] < content["repair"]["before"]
    assert main(["check", str(MODEL), str(small), *given, "--no-latency"]) == 0
    assert "layers solved anew" in capsys.readouterr().out
    again = ["prune", str(MODEL), *given, "--recipe", str(report), "--repair", "-o", str(tmp_path / "again.onnx")]
    assert main(again) == 0
    assert main(["prune", str(MODEL), *given, "--kl", "--repair", "--select", "l1", "-o", str(small)]) == 0
    assert main(["prune", str(MODEL), *given, "--kl", "--select", "reconstruct", "-o", str(small)]) == 0


def test_statistics_and_data_go_together_for_repair(tmp_path, capsys):
    model, stats, inputs = redundant(tmp_path / "m.onnx"), tmp_path / "s.npz", tmp_path / "x.npy"
    np.save(inputs, data())
    assert main(["analyze", str(model), "--data", str(inputs), "--save-stats", str(stats), "-q"]) == 0
    known = ["prune", str(model), "--stats", str(stats), "--kl", "-o", str(tmp_path / "s.onnx")]
    assert main([*known, "--data", str(inputs), "--repair"]) == 0
    capsys.readouterr()
    assert main([*known, "--repair"]) == 2
    assert "fix: add --data" in capsys.readouterr().err
    assert main([*known, "--data", str(inputs)]) == 2
    assert "--stats takes the place of --data" in capsys.readouterr().err
    assert main([*known, "--data", str(inputs), "--repair", "--init", "scratch"]) == 2
    assert "--init scratch throws away" in capsys.readouterr().err
