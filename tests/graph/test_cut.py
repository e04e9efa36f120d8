"""What the cut does to the file: which constant is cut, who keeps its name, and what is left alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from networks import NETWORKS, Net, exports, feeds
from onnx import ModelProto, numpy_helper
from support import cut_model, equivalence, random_keeps, saved, settle_model

from pfa_onnx.graph.edits import Mask
from pfa_onnx.graph.trace import Trace


def traced(model: ModelProto) -> Trace:
    return settle_model(model, feeds(model, np.random.default_rng(0), n=2))


@cache
def network(name: str) -> tuple[ModelProto, Trace]:
    model = NETWORKS[name](np.random.default_rng(1))
    return model, traced(model)


def keeping(trace: Trace, **layers: list[int]) -> Mask:
    """Keep these channels of these layers, by the name of their output, and all of the others."""
    keep = np.ones(trace.count, dtype=np.bool_)
    for name, channels in layers.items():
        own = next(t.layer.labels for t in trace.layers if t.layer.output == name)
        keep[np.delete(own, channels)] = False
    return keep


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def checked(model: ModelProto, trace: Trace, keep: Mask) -> ModelProto:
    """The cut model, after its proof."""
    inputs = feeds(model, np.random.default_rng(5), n=2)
    assert equivalence(saved(model), inputs, trace, keep) <= 1e-4
    return cut_model(trace, keep)


# --- which channels ---------------------------------------------------------------------------------------------------------


def test_kept_channels_are_the_ones_asked_for_bit_for_bit():
    model, trace = network("plain")
    before, after = arrays(model), arrays(cut_model(trace, keeping(trace, conv_0=[1, 4, 6], conv_1=[0, 11])))
    wanted = {"conv_0.weight": (0, [1, 4, 6]), "bn_0.weight": (0, [1, 4, 6]), "bn_0.running_var": (0, [1, 4, 6]), "bn_1.bias": (0, [0, 11]),
              "logits.weight": (1, [0, 11])}  # fmt: skip
    for name, (axis, kept) in wanted.items():
        np.testing.assert_array_equal(after[name], before[name].take(kept, axis))
    np.testing.assert_array_equal(after["conv_1.weight"], before["conv_1.weight"][[0, 11]][:, [1, 4, 6]])
    np.testing.assert_array_equal(after["logits.bias"], before["logits.bias"])


def test_flattened_channels_take_all_their_positions():
    model, trace = network("flatten_gemm_nchw")
    after = arrays(cut_model(trace, keeping(trace, conv_0=[2, 5])))
    columns = np.concatenate([np.arange(16 * c, 16 * c + 16) for c in (2, 5)])
    np.testing.assert_array_equal(after["gemm_0.weight"], arrays(model)["gemm_0.weight"][:, columns])


def test_grouped_weight_is_cut_by_group():
    model, trace = network("grouped_conv")
    own = trace.layers[0].layer.labels
    keep = np.ones(trace.count, dtype=np.bool_)
    keep[own[[0, 5, 10]]] = False  # the first of group 0, the second of group 1, the third of group 2
    before, after = arrays(model)["conv_1.weight"], arrays(cut_model(trace, keep))["conv_1.weight"]
    expected = [np.delete(part, gone, axis=1) for part, gone in zip(np.split(before, 3), (0, 1, 2), strict=True)]
    np.testing.assert_array_equal(after, np.concatenate(expected))


# --- shared constants ---------------------------------------------------------------------------------------------------------


def test_shared_constant_is_unshared_where_readers_need_other_parts_and_the_first_keeps_the_name():
    model, trace = network("shared_prelu_slope")
    after = checked(model, trace, keeping(trace, conv_0=[0, 1, 2], conv_1=[5, 6]))
    slopes = [node.input[1] for node in after.graph.node if node.op_type == "PRelu"]
    before, found = arrays(model)["slope"], arrays(after)
    assert slopes[0] == "slope"
    assert slopes[1].startswith("slope_")
    np.testing.assert_array_equal(found["slope"], before[[0, 1, 2]])
    np.testing.assert_array_equal(found[slopes[1]], before[[5, 6]])


def test_shared_constant_stays_shared_where_readers_need_the_same_part():
    model, trace = network("shared_prelu_slope")
    after = checked(model, trace, keeping(trace, conv_0=[0, 1, 2], conv_1=[0, 1, 2]))
    assert [node.input[1] for node in after.graph.node if node.op_type == "PRelu"] == ["slope", "slope"]


def test_reader_of_the_whole_keeps_the_whole():
    model, trace = network("shared_prelu_slope")
    after = checked(model, trace, keeping(trace, conv_1=[0, 1]))
    slopes = [node.input[1] for node in after.graph.node if node.op_type == "PRelu"]
    assert [arrays(after)[name].shape[0] for name in slopes] == [8, 2]
    assert slopes[0] == "slope"


def test_new_name_is_one_that_nobody_has():
    net = Net(np.random.default_rng(0))
    slope = net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1), "slope")
    x = net.op("PRelu", net.conv(net.image(), 3, 8), slope, out="slope_1")
    x = net.op("PRelu", net.conv(x, 8, 8), slope, out="slope_2")
    model = net.model(net.head(x, 8))
    trace = traced(model)
    after = checked(model, trace, keeping(trace, conv_0=[0], conv_1=[1, 2]))
    names = [t.name for t in after.graph.initializer] + [name for node in after.graph.node for name in node.output]
    assert len(names) == len(set(names))


def test_constant_that_is_an_output_too_stays_whole():
    net = Net(np.random.default_rng(0))
    slope = net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1), "slope")
    x = net.op("PRelu", net.conv(net.image(), 3, 8), slope)
    model = net.model(net.head(x, 8), (net.op("Identity", slope, out="slopes"), [8, 1, 1]))
    trace = traced(model)
    after = checked(model, trace, keeping(trace, conv_0=[0, 3]))
    alias = next(node for node in after.graph.node if node.output[0] == "slopes")
    np.testing.assert_array_equal(arrays(after)[alias.input[0]], arrays(model)["slope"])


def test_constant_that_is_an_output_itself_stays_whole():
    net = Net(np.random.default_rng(0))
    slope = net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1), "slope")
    model = net.model(net.head(net.op("PRelu", net.conv(net.image(), 3, 8), slope), 8), (slope, [8, 1, 1]))
    trace = traced(model)
    after = checked(model, trace, keeping(trace, conv_0=[0, 3]))
    np.testing.assert_array_equal(arrays(after)["slope"], arrays(model)["slope"])
    reader = next(node for node in after.graph.node if node.op_type == "PRelu")
    np.testing.assert_array_equal(arrays(after)[reader.input[1]], arrays(model)["slope"][[0, 3]])


def test_constant_that_a_body_reads_stays_whole_and_keeps_its_name():
    net = Net(np.random.default_rng(0))
    slope = net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1), "slope")
    x = net.op("PRelu", net.conv(net.image(), 3, 8), slope)
    bright = net.op("Greater", net.op("ReduceMean", "image", keepdims=0), net.const(0.0))
    value = onnx.helper.make_tensor_value_info("branch_out", onnx.TensorProto.FLOAT, [8, 1, 1])
    then = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["slope"], ["branch_out"])], "then", [], [value])
    other = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["slope"], ["branch_out"])], "else", [], [value])
    chosen = net.op("If", bright, then_branch=then, else_branch=other)
    model = net.model(net.head(x, 8), (net.op("Identity", chosen, out="chosen"), [8, 1, 1]))
    trace = traced(model)
    after = checked(model, trace, keeping(trace, conv_0=[0, 3]))
    prelu = next(node for node in after.graph.node if node.op_type == "PRelu")
    assert prelu.input[1] != "slope"
    assert arrays(after)["slope"].shape == (8, 1, 1)
    assert arrays(after)[prelu.input[1]].shape == (2, 1, 1)


# --- constants that are computed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kinds"), [
    ("weight_behind_identity", {"Identity"}), ("weight_behind_transpose", {"Transpose"}), ("weight_behind_cast", {"Cast"}),
    ("bn_as_mul_add_unsqueezed", {"Unsqueeze"}),
])  # fmt: skip
def test_simple_chain_is_cut_at_its_root_and_stays(name, kinds):
    model, trace = network(name)
    keep = list(random_keeps(trace, seeds=[0], shares=[0.5]))[0]
    after = checked(model, trace, keep)
    assert [n.name for n in after.graph.node] == [n.name for n in model.graph.node]
    assert kinds <= {n.op_type for n in after.graph.node}
    assert [t.name for t in after.graph.initializer] == [t.name for t in model.graph.initializer]
    assert [t.data_type for t in after.graph.initializer] == [t.data_type for t in model.graph.initializer]


def test_chain_through_reshape_is_cut_at_its_root_and_its_target_follows():
    net = Net(np.random.default_rng(0))
    scale = net.op("Reshape", net.const(net.vector(8, 0.5, 1.5), "scale"), net.const([1, 8, 1, 1], "target"))
    model = net.model(net.head(net.op("Mul", net.conv(net.image(), 3, 8), scale), 8))
    trace = traced(model)
    after = checked(model, trace, keeping(trace, conv_0=[1, 2, 7]))
    found = arrays(after)
    np.testing.assert_array_equal(found["scale"], arrays(model)["scale"][[1, 2, 7]])
    assert found["target"].tolist() == [1, 3, 1, 1]


def test_constant_computed_in_any_other_way_is_folded_and_what_computed_it_goes():
    model, trace = network("weight_norm")
    after = checked(model, trace, keeping(trace, conv_0=[0, 1], conv_1=[2]))
    assert not {"ReduceL2", "Div"} & {n.op_type for n in after.graph.node}
    read = {name for node in after.graph.node for name in node.input}
    assert all(t.name in read for t in after.graph.initializer)


def test_constant_nodes_stay_where_they_are():
    model, trace = network("constant_nodes")
    after = checked(model, trace, keeping(trace, conv_0=[3, 4]))
    assert [n.name for n in after.graph.node] == [n.name for n in model.graph.node]
    assert not after.graph.initializer
    weight = next(n for n in after.graph.node if n.output[0] == "conv_0.weight")
    assert list(weight.attribute[0].t.dims) == [2, 3, 3, 3]


def test_bias_that_is_an_alias_of_another_ones_follows_its_own_layer():
    model, trace = network("bias_of_another_layer")
    outputs = [t.layer.output for t in trace.layers]
    after = checked(model, trace, keeping(trace, **{outputs[0]: [0, 1, 2], outputs[1]: [6, 7]}))
    convs = [n for n in after.graph.node if n.op_type == "Conv"]
    assert [list(next(t for t in after.graph.initializer if t.name == n.input[1]).dims)[0] for n in convs] == [3, 2]


# --- what is noted about tensors ------------------------------------------------------------------------------------------------


def dims(model: ModelProto) -> dict[str, list]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}


def test_noted_shapes_follow_the_cut_and_nothing_else_of_them_changes():
    """The batch written down is 1; the shapes were learned from a run on 2."""
    model, trace = network("stale_value_info")
    after = cut_model(trace, keeping(trace, conv_0=[0, 1, 2]))
    before, found = dims(model), dims(after)
    channels = {name: [3 if axis == 1 and name.startswith(("conv_0", "bn_0", "relu_0")) and len(shape) == 4 else n for axis, n in enumerate(shape)]
                for name, shape in before.items()}  # fmt: skip
    activations = {node.output[0] for node in model.graph.node}
    assert {n: s for n, s in found.items() if n in activations} == {
        n: s for n, s in channels.items() if n in activations
    }


def test_noted_dynamic_dimensions_stay_dynamic():
    model, _ = network("plain")
    noted = onnx.shape_inference.infer_shapes(model)
    trace = traced(noted)
    after = cut_model(trace, keeping(trace, conv_0=[0]))
    assert dims(after)["conv_0"] == ["N", 1, 16, 16]
    assert dims(after)["conv_1"] == ["N", 12, 8, 8]


def test_documentation_and_metadata_stay():
    model, trace = network("documented")
    after = cut_model(trace, keeping(trace, conv_0=[0, 1]))
    assert (after.doc_string, after.graph.doc_string, after.graph.node[0].doc_string) == (
        "a model",
        "its graph",
        "its first node",
    )
    assert after.graph.input[0].doc_string == "an image"
    assert [(p.key, p.value) for p in after.metadata_props] == [("author", "nobody")]
    assert after.graph.node[1].name == ""


def test_dead_ends_stay():
    """What nobody reads was there before, and is cut like the rest."""
    model, trace = network("dead_end")
    after = checked(model, trace, keeping(trace, conv_0=[0, 1]))
    assert [n.name for n in after.graph.node] == [n.name for n in model.graph.node]


# --- the same again ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["plain", "shared_prelu_slope", "weight_norm", "attention", "constant_nodes", "pad_computed"]
)
def test_same_cut_twice_is_the_same_file(name):
    model, trace = network(name)
    again = traced(model)
    one, other = (list(random_keeps(t, seeds=[0], shares=[0.5]))[0] for t in (trace, again))
    np.testing.assert_array_equal(one, other)
    files = [cut_model(t, one).SerializeToString(deterministic=True) for t in (trace, trace, again)]
    assert files[0] == files[1] == files[2]


def test_same_cut_of_an_export_twice_is_the_same_file():
    path = next(p for p in exports() if p.stem == "shufflenet_v2.keep")
    model = onnx.load(path)
    traces = [settle_model(path, feeds(model, np.random.default_rng(0), n=2)) for _ in range(2)]
    keep = list(random_keeps(traces[0], seeds=[0], shares=[0.5]))[0]
    assert cut_model(traces[0], keep).SerializeToString(deterministic=True) == cut_model(
        traces[1], keep
    ).SerializeToString(deterministic=True)


def test_cutting_leaves_the_traced_model_as_it_was():
    model, trace = network("plain")
    before = arrays(model)
    cut_model(trace, keeping(trace, conv_0=[0]))
    for name, array in before.items():
        value = trace.graph.model.graph.initializers[name]
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), array)
