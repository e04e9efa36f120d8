"""`inspect`: what could go, without data; shapes from nothing; the kind of data that is wanted next."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, helper, numpy_helper
from report import lengthy

import pfa_onnx
from pfa_onnx.cli import main
from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph.folded import batch_norms
from pfa_onnx.graph.model import load
from pfa_onnx.report import inspection
from pfa_onnx.steps.shapes import extents, without_data

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_models" / "fashion" / "model.onnx"
EXPORTS = ROOT / "tests" / "exports"


@pytest.fixture(scope="module")
def coverage():
    """tests/benchmarks/coverage.py, which measures the README's table."""
    spec = importlib.util.spec_from_file_location("coverage_table", ROOT / "tests" / "benchmarks" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what is found ---


def test_the_sample():
    found = pfa_onnx.inspect(SAMPLE)
    assert (found.free, found.channels, found.outputs, found.share) == (384, 384, 10, 1.0)
    assert found.model.opset == 17
    assert found.pictures
    assert found.wider is None
    assert found.batch_norms.there == 10
    last = found.layers[-1]
    assert (last.node, last.free, last.outputs) == ("classifier", 0, 10)
    assert [one.reason for one in last.frozen] == ["is the graph output 'logits'"]


@pytest.mark.parametrize("name", ["convnext.ts", "googlenet.ts", "vit.dyn", "shufflenet_v2.keep", "siamese.ts"])
def test_the_share_is_that_of_the_coverage_table(coverage, name):
    path = EXPORTS / f"{name}.onnx"
    table, found = coverage.measure(path), pfa_onnx.inspect(path)
    assert (found.free, found.channels, found.channels + found.outputs) == tuple(table["channels"])
    assert found.wider == (table["through"][0] if table["through"] else None)
    assert len(found.layers) == table["layers"]


def test_through_normalisations():
    plain, through = (pfa_onnx.inspect(EXPORTS / "vit.ts.onnx", through_norm=flag) for flag in (False, True))
    assert plain.free < plain.wider == through.free
    assert through.wider is None


@pytest.mark.parametrize("path", networks.exports(), ids=lambda path: path.name)
def test_every_export_can_be_looked_at(path):
    found = pfa_onnx.inspect(path)
    assert found.share > 0
    assert all(isinstance(extent, int) for one in found.inputs for extent in one.taken)
    assert inspection.render(found, width=80)


def test_groups_are_those_of_analyze():
    images = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    path = EXPORTS / "resnet_basic.ts.onnx"
    plan = pfa_onnx.PlanOptions(allow_few_samples=True)
    measured, found = pfa_onnx.analyze(path, images, plan=plan), pfa_onnx.inspect(path)
    assert [(one.output, one.group, one.held) for one in found.layers] == [
        (one.output, one.group, one.held) for one in measured.layers
    ]
    assert [one.frozen for one in found.layers] == [one.frozen for one in measured.layers]
    assert found.model == measured.model


# --- shapes from nothing ---


def model_of(inputs, nodes, weights, output="y"):
    """A model of these nodes; inputs: name -> (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return support.saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def taken(path, given=None):
    return dict(without_data(load(path), given).taken)


def convolution(shape, read=5):
    weight = np.ones((8, read, *(1 for _ in shape[2:])))
    return model_of({"x": (TensorProto.FLOAT, shape)}, [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["N", None, None, None], (1, 5, 224, 224)),
        (["N", 5, "H", 20], (1, 5, 224, 20)),
        (["N", None, "T"], (1, 5, 128)),
        (["N", 5, None, None, None], (1, 5, 32, 32, 32)),
        ([4, 5, 6, 7], (4, 5, 6, 7)),
    ],
)
def test_open_extents_are_what_layers_read_or_ordinary(shape, expected):
    assert taken(convolution(shape)) == {"x": expected}


def test_a_matrix_says_how_wide_its_input_is():
    weights = {"w": np.ones((12, 3))}
    multiplied = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert taken(model_of({"x": (TensorProto.FLOAT, ["N", "T", None])}, multiplied, weights)) == {"x": (1, 128, 12)}
    turned = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    assert taken(model_of({"x": (TensorProto.FLOAT, [None, None])}, turned, {"w": np.ones((3, 12))})) == {"x": (1, 12)}


def flattened(side):
    """A picture of one size only, although the file leaves it open."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"]),
    ]
    weights = {"w": np.ones((2, 1, 1, 1)), "v": np.ones((2 * side * side, 3))}
    return model_of({"x": (TensorProto.FLOAT, ["N", 1, "H", "W"])}, nodes, weights)


def test_other_sizes_are_tried_and_then_the_user_is_asked(capsys):
    assert taken(flattened(28)) == {"x": (1, 1, 28, 28)}
    path = flattened(23)
    with pytest.raises(ModelError, match="cannot be learned from zeros") as caught:
        taken(path)
    assert caught.value.fix == "give --shape 'x=Nx1xHxW', with numbers for what is open"
    assert taken(path, {"": (2, 1, 23, 23)}) == {"x": (2, 1, 23, 23)}
    assert without_data(load(path), {"x": (2, 1, 23, 23)}).samples == 2
    assert main(["inspect", str(path), "--shape", "x=1x1x23x23", "-q"]) == 0
    assert main(["inspect", str(path), "--shape", "1,1,24,24"]) == 2
    assert "with other numbers for what is open" in capsys.readouterr().err


def test_one_name_is_one_number():
    nodes = [
        helper.make_node("Cast", ["ids"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["mask"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Unsqueeze", ["c", "axes"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    path = model_of({name: (TensorProto.INT64, ["N", "T"]) for name in ("ids", "mask")}, nodes, {"w": np.ones((1, 4))})
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axes"))
    path = support.saved(model)
    assert taken(path) == {"ids": (1, 128), "mask": (1, 128)}
    assert taken(path, {"mask": (1, 7)}) == {"ids": (1, 7), "mask": (1, 7)}
    assert extents(load(path)) == {"ids": ("N", "T"), "mask": ("N", "T")}
    assert not pfa_onnx.inspect(path).pictures


def test_ones_where_zeros_leave_nothing():
    """What is not zero is looked up, and of zeros nothing is."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["rows"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    path = model_of({"x": (TensorProto.FLOAT, [1, 6])}, nodes, {"w": np.ones((2, 4))})
    assert without_data(load(path)).shapes["y"] == (6, 4)


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ({"imag": (1, 1, 28, 28)}, "no input 'imag'", "did you mean 'image'?"),
        ({"zzz": (1, 1, 28, 28)}, "no input 'zzz'", "its inputs are image"),
        ({"image": (1, 1, 28)}, "which 1x1x28 does not fit", "give --shape 'image=Nx1x28x28', with numbers"),
        ({"image": (1, 3, 28, 28)}, "which 1x3x28x28 does not fit", "give --shape 'image=Nx1x28x28'"),
    ],
)
def test_shapes_that_no_input_has(given, what, fix):
    with pytest.raises(UsageError, match=re.escape(what)) as caught:
        taken(SAMPLE, given)
    assert fix in caught.value.fix


def test_a_shape_without_a_name_is_of_the_only_input():
    with pytest.raises(UsageError, match="of which input"):
        taken(EXPORTS / "siamese.ts.onnx", {"": (1, 1, 24, 24)})


def test_a_recipe_without_data_finds_such_shapes_too(tmp_path):
    path, report = flattened(28), tmp_path / "r.json"
    images = np.random.default_rng(0).standard_normal((40, 1, 28, 28)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    common = ["--allow-few-samples", "-q", "-o", str(tmp_path / "a.onnx")]
    assert main(["prune", str(path), "--data", str(tmp_path / "x.npy"), "--uniform", "0.5", "--json", str(report), *common]) == 0
    again = tmp_path / "b.onnx"
    assert main(["prune", str(path), "--recipe", str(report), "--no-proof", "-q", "-o", str(again)]) == 0
    assert again.exists()


# --- BatchNormalization ---


@pytest.mark.parametrize(
    ("name", "there", "folded", "keep"),
    [
        ("resnet_basic.keep", 15, 0, None),
        ("resnet_basic.ts", 0, 15, "TrainingMode.PRESERVE"),
        ("resnet_basic.dyn", 0, 15, "optimize=False"),
        ("squeezenet.ts", 0, 0, None),
        ("squeezenet.dyn", 0, 0, None),
    ],
)
def test_folded_normalisations_are_told_by_names(name, there, folded, keep):
    found = batch_norms(load(EXPORTS / f"{name}.onnx"))
    assert found[:2] == (there, folded)
    assert found[2] is None if keep is None else keep in found[2]


# --- the command ---


def shown(capsys, line):
    code = main(shlex.split(line))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_newcomer_is_led_on(capsys):
    code, out, err = shown(capsys, f"inspect {SAMPLE}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{SAMPLE}   opset 17")
    assert lines[1] == "input image [N, 1, 28, 28] float32"
    assert "384 of 384 channels may go (100.0 %); the 10 of the outputs stay" in lines
    assert "BatchNormalization: 10 kept, none folded" in lines
    assert lines[-1] == f"next: pfa-onnx analyze {SAMPLE} --data FOLDER_OF_IMAGES"
    row = next(line for line in lines if line.startswith("stem.conv"))
    assert row.split() == ["stem.conv", "3", "32", "32", "9,792"]
    assert re.search(r"^logits +1 +10 +640 +is the graph output 'logits'$", out, re.MULTILINE)


def test_the_next_step_knows_the_data_and_the_way_out(capsys):
    _, out, _ = shown(capsys, f"inspect {EXPORTS / 'siamese.ts.onnx'}")
    assert "data: FILE.npz with left [samples, 1, 24, 24] float32, right [samples, 1, 24, 24] float32\n" in out
    assert out.endswith(" --data FILE.npz\n")
    _, out, _ = shown(capsys, f"inspect {EXPORTS / 'vit.ts.onnx'} --through-norm")
    assert re.search(r"next: pfa-onnx analyze \S+ --through-norm --data FOLDER_OF_IMAGES\n$", out)
    _, out, _ = shown(capsys, f"inspect {EXPORTS / 'vit.ts.onnx'} -q")
    assert out == "336 of 456 channels may go (73.7 %), with --through-norm 456 (100.0 %); the 10 of the outputs stay\n"


def test_verbose_has_every_layer_with_its_output(capsys):
    _, out, err = shown(capsys, f"inspect {SAMPLE} -v")
    assert re.search(r"^classifier +Gemm +- +10 +\*0 +640 +logits$", out, re.MULTILINE)
    assert re.search(r"^time: settle +\d", err, re.MULTILINE)


def test_nothing_may_go_and_no_next_step(capsys):
    path = convolution(["N", 5, 8, 8])  # its one layer is the output
    code, out, _ = shown(capsys, f"inspect {path}")
    assert code == 0
    assert "0 of 0 channels may go" in out
    assert "next:" not in out


def test_a_model_without_layers_is_an_error(capsys):
    path = model_of({"x": (TensorProto.FLOAT, [1, 3])}, [helper.make_node("Relu", ["x"], ["y"])], {})
    code, out, err = shown(capsys, f"inspect {path}")
    assert (code, out) == (2, "")
    assert "there is no layer to prune" in err


@pytest.mark.parametrize("text", ["image", "image=", "image=1x", "image=1x0x3", "image=axb", "=1x-2"])
def test_a_shape_that_is_none(capsys, text):
    code, _, err = shown(capsys, f"inspect {SAMPLE} --shape {text}")
    assert code == 2
    assert "is not NAME=1x3x224x224" in err


# --- reports ---


def test_json_is_stable_and_says_everything(capsys, tmp_path):
    _, first, err = shown(capsys, f"inspect {SAMPLE} --json -")
    _, second, _ = shown(capsys, f"inspect {SAMPLE} --json -")
    assert first == second
    assert "next: pfa-onnx analyze" in err, "the text goes the other way"
    content = json.loads(first)
    assert content["schema"] == 1
    assert content["channels"] == {
        "all": 394, "outputs": 10, "may_go": 384, "share": 1.0, "may_go_through_norm": None
    }  # fmt: skip
    assert content["inputs"] == [
        {"name": "image", "shape": ["N", 1, 28, 28], "dtype": "float32", "taken": [1, 1, 28, 28]}
    ]
    keys = {"output", "node", "op", "weight", "channels", "may_go", "held", "outputs", "group", "frozen", "weight_params"}
    assert all(set(layer) == keys for layer in content["layers"])
    assert content["layers"][-1]["frozen"] == [{"reason": "is the graph output 'logits'", "node": "logits"}]
    assert content["layers"][0]["frozen"] is None
    assert content["batch_norms"] == {"there": 10, "folded": 0, "keep": None}
    assert content["pictures"] is True


def test_markdown_begins_with_what_may_go():
    text = inspection.markdown(pfa_onnx.inspect(EXPORTS / "resnet_basic.dyn.onnx"))
    assert text.startswith("**180 of 180 channels may go (100.0 %); the 10 of the outputs stay**\n\n- ")
    assert "15 folded into convolutions" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_hostile_names_are_text():
    hostile = "</b>|`a`\n\x1b[31m@all"
    layer = lengthy.INSPECTED.layers[0]
    found = pfa_onnx.Inspection(
        lengthy.MODEL,
        (lengthy.InspectedInput(hostile, (None, hostile), "float32", (1, 2)),),
        (lengthy.InspectedLayer(hostile, hostile, hostile, hostile, 4, None, layer.frozen, 0, 0, 1),),
        lengthy.BatchNorms(0, 1, "tell the exporter"),
        pictures=False,
    )
    for text in (inspection.render(found), inspection.render(found, verbose=True), inspection.markdown(found)):
        assert "\x1b" not in text
    assert "@" not in re.sub(r"(`+).*?\1", "", inspection.markdown(found))
    assert json.loads(inspection.as_json(found))["layers"][0]["node"] == hostile


def test_a_share_is_never_rounded_up_to_all():
    assert inspection.percent(9_999, 10_000) == "99.9 %"
    assert inspection.percent(10_000, 10_000) == "100.0 %"
    assert inspection.percent(0, 0) == "0.0 %"


@pytest.mark.parametrize(
    "name", ["rotary_of_few_frequencies", "rotary_from_the_shape", "rotary_from_positions", "class_token_and_branch_first",
             "queries_and_registers", "pooled_tokens", "position_table_resized"]
)
def test_nothing_but_the_output_stays(name):
    report = pfa_onnx.inspect(support.saved(networks.NETWORKS[name](np.random.default_rng(0))))
    assert report.free == report.channels > 0
