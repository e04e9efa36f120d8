"""An ONNX graph as a module: the same names, the same numbers, and back into the same file."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

torch = pytest.importorskip("torch", minversion="2.4")

from networks import NETWORKS, feeds  # noqa: E402

import pfa_onnx.torch as pt  # noqa: E402
from pfa_onnx.errors import ModelError, UsageError  # noqa: E402
from pfa_onnx.graph.model import load  # noqa: E402
from pfa_onnx.torch.module import OnnxModule  # noqa: E402


def run(path, inputs):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def write(tmp_path, proto, name="model.onnx"):
    onnx.save(proto, tmp_path / name)
    return tmp_path / name


SMALL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 6, 6] image) => (float[N, 4] scores)
<float[5, 3, 3, 3] stem_weight, float[5] stem_bias, float[5] scale, float[5] shift, float[5] mean, float[5] var,
 float[4, 5] head_weight, float[4] head_bias, float[1, 3, 1, 1] pixel, float[5] gain>
{
    centred = Sub(image, pixel)
    conv = Conv <pads = [1, 1, 1, 1]> (centred, stem_weight, stem_bias)
    normed = BatchNormalization(conv, scale, shift, mean, var)
    active = Relu(normed)
    pooled = GlobalAveragePool(active)
    flat = Flatten(pooled)
    gained = Mul(flat, gain)
    scores = Gemm <transB = 1> (gained, head_weight, head_bias)
}
"""


@pytest.fixture
def small(tmp_path):
    proto = parser.parse_model(SMALL)
    for values in [node.input for node in proto.graph.node]:  # names have dots, which the parser cannot read
        values[:] = [name.replace("_", ".") for name in values]
    for value in proto.graph.value_info:
        value.name = value.name.replace("_", ".")
    random = np.random.default_rng(0)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
    for name, shape in shapes.items():
        values = random.uniform(0.5, 1.5, shape) if name in {"var", "scale"} else random.normal(size=shape)
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    del proto.graph.value_info[:]
    return write(tmp_path, proto)


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(size=(8, 3, 6, 6)).astype(np.float32)


# --- the same numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_of_the_tests_answers_the_same(name, tmp_path):
    proto = NETWORKS[name](np.random.default_rng(0))
    path = write(tmp_path, proto)
    try:
        module = pt.load(path)
    except ModelError as error:
        assert "PyTorch cannot train" in error.what
        pytest.skip(error.what)
    inputs = feeds(proto, np.random.default_rng(1), n=4)
    found = module.compute(inputs, module.output_names)
    for output, wanted in run(path, inputs).items():
        made = found[output].detach().numpy()
        assert made.shape == wanted.shape
        close = 1e-4 if wanted.dtype == np.float32 else 1e-2  # half precision is computed in single
        np.testing.assert_allclose(made, wanted, atol=close * max(1.0, np.abs(wanted).max()))


def test_inputs_by_place_or_by_name(small, image):
    module = pt.load(small)
    wanted = run(small, {"image": image})["scores"]
    for made in (module(image), module(torch.from_numpy(image)), module(image=image)):
        np.testing.assert_allclose(made.detach().numpy(), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="2 inputs were given"):
        module(image, image)


def test_inputs_that_do_not_fit_name_the_node_and_the_shapes(small):
    with pytest.raises(ModelError, match="PyTorch cannot compute this node of operands of shape 2x5x6x6, ") as caught:
        pt.load(small)(torch.zeros(2, 5, 6, 6))
    first = onnx.load(small).graph.node[0]
    assert caught.value.at == (first.name or first.output[0])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_any_batch_that_the_graph_takes(small, image):
    module = pt.load(small)
    for count in (1, 3, 8):
        assert module(image[:count]).shape == (count, 4)


def test_values_in_between_can_be_asked_for(small, image):
    module = pt.load(small)
    found = module.compute({"image": image}, ["active", "scores"])
    assert found["active"].shape == (8, 5, 6, 6)
    assert (found["active"] >= 0).all()


# --- the same names -----------------------------------------------------------------------------------------


def test_weights_have_the_names_of_initializers(small):
    module = pt.load(small)
    names = dict(module.named_parameters())
    assert set(names) == {"stem.weight", "stem.bias", "scale", "shift", "head.weight", "head.bias", "gain"}
    assert set(module.state_dict()) == {*names, "mean", "var"}  # what images are centred by is no weight
    assert module.get_parameter("stem.weight") is names["stem.weight"]


def test_a_state_loads_and_a_wrong_one_does_not(small):
    module, other = pt.load(small), pt.load(small)
    state = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[name], state[name]) for name in state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**state, "stem.more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: state[name] for name in state if name != "stem.weight"})


def test_a_copy_is_a_module_of_its_own(small, image):
    module = pt.load(small)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.get_parameter("head.bias").add_(1)
    assert not torch.allclose(module(image), other(image))
    assert torch.equal(module.to(torch.float32)(image), module(image))


# --- training -----------------------------------------------------------------------------------------------


def test_it_trains_and_goes_back_into_the_same_file(small, image, tmp_path):
    module = pt.load(small).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for _ in range(3):
        loss = module(image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = module.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still <= {"stem.bias"}  # a normalisation takes any bias away again
    output = pt.to_onnx(module, tmp_path / "out.onnx")
    module.eval()
    np.testing.assert_allclose(module(image).detach().numpy(), run(output, {"image": image})["scores"], atol=1e-5)
    old, new = onnx.load(small), onnx.load(output)
    assert [t.name for t in old.graph.initializer] == [t.name for t in new.graph.initializer]
    pixel = [numpy_helper.to_array(t) for p in (old, new) for t in p.graph.initializer if t.name == "pixel"]
    np.testing.assert_array_equal(*pixel)
    parts = [[(n.op_type, list(n.input), list(n.output), list(n.attribute)) for n in p.graph.node] for p in (old, new)]
    assert parts[0] == parts[1]
    assert (list(old.graph.input), list(old.graph.output)) == (list(new.graph.input), list(new.graph.output))
    assert not new.graph.value_info


def test_running_statistics_move_as_in_torch(small, image):
    module = pt.load(small).train()
    x = module.compute({"image": image}, ["conv"])["conv"].detach()
    module = pt.load(small).train()
    norm = torch.nn.BatchNorm2d(5)
    state = module.state_dict()
    with torch.no_grad():
        norm.running_mean.copy_(state["mean"])
        norm.running_var.copy_(state["var"])
    norm(x)
    module(image)
    np.testing.assert_allclose(module.state_dict()["mean"], norm.running_mean, rtol=1e-5)
    np.testing.assert_allclose(module.state_dict()["var"], norm.running_var, rtol=1e-5)


def test_statistics_that_two_layers_share_stay(small, image):
    proto = onnx.load(small)
    second = helper.make_node("BatchNormalization", ["normed", "scale", "shift", "mean", "var"], ["again"])
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    relu.input[0] = "again"
    proto.graph.node.insert(list(proto.graph.node).index(relu), second)
    onnx.save(proto, small)
    module = pt.load(small).train()
    assert "mean" not in module.state_dict()
    module(image)
    module.eval()
    np.testing.assert_allclose(module(image).detach().numpy(), run(small, {"image": image})["scores"], atol=1e-5)


def test_a_bias_that_is_stored_as_a_running_mean_is_not_trained(small, image):
    """Exporters store once what is equal, and both begin as zeros."""
    proto = onnx.load(small)
    next(node for node in proto.graph.node if node.op_type == "BatchNormalization").input[2] = "mean"
    onnx.save(proto, small)
    module = pt.load(small).train()
    assert "mean" not in dict(module.named_parameters())
    module(image).sum().backward()


def test_dropout_drops_only_in_training(tmp_path):
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 50] x) => (float[N, 50] y) <float[50] b, float ratio = {0.5}>
        { h = Add(x, b)
          y, mask = Dropout(h, ratio) }
    """)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(50, np.float32), "b"))
    module = pt.load(write(tmp_path, proto))
    x = np.ones((4, 50), np.float32)
    assert torch.equal(module(x), torch.full((4, 50), 2.0))
    assert set(module.train()(x).unique().tolist()) == {0.0, 4.0}


# --- what weights may look like -----------------------------------------------------------------------------


def test_half_precision_is_trained_in_single_and_written_in_half(small, image, tmp_path):
    proto = onnx.load(small)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = write(tmp_path, proto, "half.onnx")
    module = pt.load(path)
    assert all(p.dtype == torch.float32 for p in module.parameters())
    wanted = run(path, {"image": image.astype(np.float16)})["scores"]
    np.testing.assert_allclose(module(image.astype(np.float16)).detach().numpy(), wanted, atol=0.02)
    with torch.no_grad():
        module.get_parameter("head.bias").fill_(1e9)  # more than half precision holds
    output = pt.to_onnx(module, tmp_path / "out.onnx")
    bias = next(t for t in onnx.load(output).graph.initializer if t.name == "head.bias")
    assert numpy_helper.to_array(bias).tolist() == [65504.0] * 4


def test_weights_in_constant_nodes_and_behind_a_transpose(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "g", [x], [y])
    path = write(tmp_path, helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    module = pt.load(path)
    assert list(module.state_dict()) == ["w"]
    with torch.no_grad():
        module.get_parameter("w").mul_(2)
    output = pt.to_onnx(module, tmp_path / "out.onnx")
    feed = {"x": np.ones((2, 6), np.float32)}
    np.testing.assert_allclose(run(output, feed)["y"], 2 * run(path, feed)["y"], rtol=1e-5)


def test_external_data_is_read_and_written(small, image, tmp_path):
    proto = onnx.load(small)
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, location="outside.data", size_threshold=0)
    module = pt.load(tmp_path / "outside.onnx")
    np.testing.assert_allclose(module(image).detach().numpy(), run(small, {"image": image})["scores"], atol=1e-5)
    assert pt.to_onnx(module, tmp_path / "out.onnx").exists()


# --- what is refused ----------------------------------------------------------------------------------------


def test_operators_that_cannot_be_trained_are_all_named(tmp_path):
    proto = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
        net (float[N, 4] x) => (float[N, 4] z)
        { y = com.acme.Frobnicate(x)
          w = com.acme.Constant(y)
          z = StringNormalizer(w) }
    """)
    with pytest.raises(ModelError) as caught:
        OnnxModule(load(write(tmp_path, proto)))
    assert caught.value.what == "PyTorch cannot train 3 nodes: StringNormalizer (1), com.acme.Constant (1), com.acme.Frobnicate (1)"
    assert "the recipe in the pruned file" in caught.value.fix


def test_weights_that_are_not_finite_are_not_written(small, tmp_path):
    module = pt.load(small)
    with torch.no_grad():
        module.get_parameter("gain")[2] = float("nan")
    with pytest.raises(ModelError, match="not finite") as caught:
        pt.to_onnx(module, tmp_path / "out.onnx")
    assert caught.value.at == "gain"
    assert not (tmp_path / "out.onnx").exists()


def test_the_file_is_not_overwritten_and_must_be_the_one(small, tmp_path):
    module = pt.load(small)
    with pytest.raises(UsageError, match="is the model itself"):
        pt.to_onnx(module, small)
    proto = onnx.load(small)
    proto.doc_string = "changed"
    onnx.save(proto, small)
    with pytest.raises(ModelError, match="changed while"):
        pt.to_onnx(module, tmp_path / "out.onnx")


def test_the_first_node_that_is_not_finite_is_found(small, image):
    module = pt.load(small)
    assert module.first_not_finite({"image": image}) is None
    with torch.no_grad():
        module.get_parameter("scale")[0] = float("inf")
    assert module.first_not_finite({"image": image}) == "normed"


def test_the_list_of_operators_is_there():
    names = pt.operators()
    assert {"Conv", "Gemm", "BatchNormalization", "LayerNormalization", "com.microsoft.FusedConv"} <= set(names)
    assert "QLinearConv" not in names
