"""What is refused before anything works with a file: one row a refusal, and what is odd and still fine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from pfa_onnx.errors import ModelError
from pfa_onnx.graph import inlining, preflight
from pfa_onnx.graph.model import load

TEXT = """
<ir_version: 10, opset_import: ["" : 17, "here" : 1]>
network (float[N, 3, 8, 8] x) => (float[N, 5] y)
{
  [conv] c = Conv <strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]> (x, w)
  [relu] r = Relu (c)
  [flat] f = Flatten (r)
  [gemm] y = Gemm (f, v)
}
"""


def network() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (64, 5))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype("f"), name))
    return model


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(one for one in model.graph.node if one.name == name)


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def add(model: onnx.ModelProto, *args, at: int = 0, domain: str = "", **attributes) -> None:
    model.graph.node.insert(at, helper.make_node(*args, domain=domain, name="added", **attributes))


def number(model: onnx.ModelProto, name: str, values, dtype="int64") -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))


def function(model: onnx.ModelProto, name: str, calls: list[str], version: int = 17) -> None:
    """A function that calls others in turn, those that are none of the standard's by their names alone."""
    values = ["a", *(f"t{k}" for k in range(len(calls) - 1)), "b"]
    body = [
        helper.make_node(one, [values[k]], [values[k + 1]], domain="here" if one.startswith("f") else "")
        for k, one in enumerate(calls)
    ]
    imports = [helper.make_opsetid("", version), helper.make_opsetid("here", 1)]
    model.functions.append(helper.make_function("here", name, ["a"], ["b"], body, imports))


def calling(model: onnx.ModelProto, **functions: list[str]) -> None:
    for name, calls in functions.items():
        function(model, name, calls)
    node(model, "relu").op_type, node(model, "relu").domain = "f0", "here"


def nested(model: onnx.ModelProto, depth: int) -> None:
    def body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(nodes, "body", [], [helper.make_tensor_value_info("z", 1, None)])

    flat = deep = body(helper.make_node("Identity", ["r"], ["z"]))
    for _ in range(depth):
        deep = body(helper.make_node("If", ["yes"], ["z"], then_branch=deep, else_branch=flat))
    number(model, "yes", True, bool)
    add(model, "If", ["yes"], ["unused"], at=2, then_branch=deep, else_branch=flat)


REFUSED = {
    # names
    "an input is there twice": lambda m: m.graph.input.append(m.graph.input[0]),
    "a constant is there twice": lambda m: m.graph.initializer.append(tensor(m, "v")),
    "is made twice": lambda m: add(m, "Relu", ["x"], ["c"]),
    "a constant has no name": lambda m: setattr(tensor(m, "v"), "name", ""),
    "an input has no name": lambda m: setattr(m.graph.input[0], "name", ""),
    "reads 'nowhere', which nothing makes": lambda m: node(m, "relu").input.__setitem__(0, "nowhere"),
    "an output of the graph is made by nothing": lambda m: setattr(m.graph.output[0], "name", "nowhere"),
    "the graph has a cycle": lambda m: node(m, "relu").input.__setitem__(0, "r"),
    "makes nothing": lambda m: add(m, "Odd", ["x"], [], domain="here"),
    # inputs
    "an input has no type": lambda m: m.graph.input[0].ClearField("type"),
    "an input is a sequence, and no tensor": lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(),
    "more than can be fed": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40),
    # tensors
    "has the unknown element type 99": lambda m: setattr(tensor(m, "v"), "data_type", 99),
    "has a negative extent": lambda m: tensor(m, "v").dims.__setitem__(0, -64),
    "claims to be larger than any tensor": lambda m: tensor(m, "v").dims.extend([1 << 40]),
    "needs 1,284 bytes and has 1,280|needs 1,300 bytes and has 1,280": lambda m: tensor(m, "v").dims.__setitem__(0, 65),
    "has its data twice: in .* and": lambda m: tensor(m, "v").float_data.append(1.0),
    "has text as raw data": lambda m: setattr(tensor(m, "v"), "data_type", TensorProto.STRING),
    "is a segment of another one": lambda m: tensor(m, "v").segment.SetInParent(),
    "a sparse constant": lambda m: m.graph.sparse_initializer.add().values.CopyFrom(tensor(m, "v")),
    # nodes
    "has 1 inputs, where it takes 2 to 3": lambda m: node(m, "conv").input.pop(),
    "has 2 outputs, where it takes 1": lambda m: node(m, "relu").output.append("more"),
    "has an attribute twice": lambda m: node(m, "conv").attribute.append(node(m, "conv").attribute[0]),
    "has the attribute 'odd', which its operator has not": lambda m: node(m, "relu").attribute.append(helper.make_attribute("odd", 1)),
    "has an attribute 'strides' that is not of type INTS": lambda m: node(m, "conv").attribute[0].CopyFrom(helper.make_attribute("strides", 2.0)),
    "lacks its attribute 'to'": lambda m: add(m, "Cast", ["x"], ["unused"]),
    "has the unknown element type 77 as its to": lambda m: add(m, "Cast", ["x"], ["unused"], to=77),
    "refers to an attribute 'alpha' of a function, and is in none": lambda m: setattr(node(m, "conv").attribute[0], "ref_attr_name", "alpha"),
    "has strides 0, 2, which has to be positive": lambda m: node(m, "conv").attribute[0].ints.__setitem__(0, 0),
    "makes .* numbers of a few, more than a tensor can have": lambda m: (number(m, "huge", [1 << 40]), add(m, "ConstantOfShape", ["huge"], ["unused"])),
    "makes 1,099,511,627,776 numbers": lambda m: node(m, "conv").attribute[1].ints.__setitem__(0, 1 << 40),
    "holds a sparse tensor": lambda m: add(m, "Constant", [], ["unused"], sparse_value=onnx.SparseTensorProto()),
    # operator sets
    "the operator set ai.onnx has version 0": lambda m: setattr(m.opset_import[0], "version", 0),
    "the operator set ai.onnx has two versions: 17 and 18": lambda m: m.opset_import.append(helper.make_opsetid("", 18)),
    # functions
    "a function calls itself": lambda m: calling(m, f0=["f1"], f1=["f0"]),
    "a function is there twice": lambda m: (calling(m, f0=["Relu"]), function(m, "f0", ["Tanh"])),
    "a function takes the place of a standard operator": lambda m: (calling(m, f0=["Relu"]), setattr(m.functions[0], "domain", "")),
    "its functions become 65,534 nodes": lambda m: calling(m, **{f"f{k}": [f"f{k + 1}"] * 2 if k < 14 else ["Relu"] * 2 for k in range(15)}),
    "a function is called 4,096 times": lambda m: calling(m, **{f"f{k}": [f"f{k + 1}"] * 2 if k < 12 else ["Relu"] for k in range(13)}),
    "functions call each other 200 deep": lambda m: calling(m, **{f"f{k}": [f"f{k + 1}"] if k < 199 else ["Relu"] for k in range(200)}),
    "a function uses Relu of opset 11, and the model uses opset 17": lambda m: (calling(m, f0=["Relu"]), setattr(m.functions[0].opset_import[0], "version", 11)),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_and_says_why(what, tmp_path):
    model = network()
    REFUSED[what](model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=what) as caught:
        load(path)
    assert caught.value.at
    assert "model" in caught.value.fix or "tensors" in caught.value.fix or "dense" in caught.value.fix


def test_bodies_in_bodies_are_read_so_deep(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "DEEPEST", 10)
    for depth in (9, 10):
        model = network()
        nested(model, depth)
        onnx.save(model, tmp_path / f"{depth}.onnx")
    load(tmp_path / "9.onnx")
    with pytest.raises(ModelError, match="there are more than 10 bodies in one another"):
        load(tmp_path / "10.onnx")


def test_the_network_itself_is_fine(tmp_path):
    onnx.save(network(), tmp_path / "model.onnx")
    assert len(load(tmp_path / "model.onnx").nodes) == 4


@pytest.mark.parametrize("field", ["name", "doc_string", "output", "domain", "key"])
def test_a_name_that_is_no_text_is_refused(tmp_path, field):
    """Some programs write names in the encoding of their country."""
    model = network()
    if field == "key":
        model.metadata_props.add(key="QQQQ", value="1")
    elif field == "output":
        node(model, "relu").output[0], node(model, "flat").input[0] = "QQQQ", "QQQQ"
    else:
        setattr(node(model, "relu"), field, "QQQQ")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"QQQQ", "gr\u00fc".encode("latin-1") + b"n"))
    with pytest.raises(ModelError, match=f"a {field} is not UTF-8|a input is not UTF-8") as caught:
        load(path)
    assert caught.value.at == "gr\\xfcn"


def test_a_tensor_of_numbers_may_hold_any_bytes(tmp_path):
    model = network()
    tensor(model, "v").raw_data = b"\xff\xfe\xfd\xfc" * 320
    onnx.save(model, tmp_path / "model.onnx")
    load(tmp_path / "model.onnx")


# --- functions ---


def test_a_function_of_another_opset_is_taken_where_its_operators_did_not_change(tmp_path):
    model = network()
    calling(model, f0=["Relu", "Tanh"])
    model.functions[0].opset_import[0].version = 15
    onnx.save(model, tmp_path / "model.onnx")
    graph = load(tmp_path / "model.onnx")
    assert [one.op_type for one in graph.nodes] == ["Conv", "Relu", "Tanh", "Flatten", "Gemm"]


def test_nodes_of_a_function_are_called_by_it_however_often_it_is_called(tmp_path):
    model = network()
    calling(model, f0=["f1"] * 2, f1=["Relu", "Tanh"])
    onnx.save(model, tmp_path / "model.onnx")
    names = [one.name for one in load(tmp_path / "model.onnx").nodes]
    assert names == ["conv", "f1/Relu", "f1/Tanh", "f1/Relu_2", "f1/Tanh_2", "flat", "gemm"]


def test_a_thousand_calls_take_seconds(tmp_path):
    """Finding new names takes longer with every call: the bound is what keeps it in seconds."""
    model = network()
    calling(model, **{f"f{k}": [f"f{k + 1}"] * 2 if k < 10 else ["Relu"] for k in range(11)})
    onnx.save(model, tmp_path / "model.onnx")
    assert len(load(tmp_path / "model.onnx").nodes) == 3 + 1024
    assert preflight.CALLS < 4096


def test_a_function_that_takes_a_body_is_refused(tmp_path, monkeypatch):
    from onnx_ir.passes.common import InlinePass

    def refuses(self, model):
        raise ValueError("Inliner does not support graph attribute parameters to functions.")

    monkeypatch.setattr(InlinePass, "call", refuses)
    model = network()
    calling(model, f0=["Relu"])
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="its functions cannot be written out: Inliner does not"):
        load(tmp_path / "model.onnx")
    assert inlining.inline.__doc__
