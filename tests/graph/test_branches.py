"""Control flow and sequences that the file fixes are written out at loading; the model computes the same, bit by bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import NETWORKS, feeds
from onnx import numpy_helper
from support import counts, reasons, run, saved, settle_model, worst_equivalence

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.model import load

CONTROL = {"If", "Loop", "SequenceAt", "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase",
           "SplitToSequence", "ConcatFromSequence", "SequenceLength"}  # fmt: skip

X = np.random.default_rng(0).standard_normal((2, 6, 4, 4)).astype(np.float32)


def model(
    text: str,
    opset: int = 17,
    ir_version: int = 8,
    inputs: str = "float[N, 6, 4, 4] x",
    outputs: str = "float[A, B, C, D] y",
):
    """A model in onnx's text form: `text` is the nodes and, before them, the initializers."""
    weights, nodes = text.split("---") if "---" in text else ("", text)
    known = f"<{weights.strip().rstrip(',')}>" if weights.strip() else ""
    return onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {known} {{ {nodes} }}'
    )


def written_out(proto: onnx.ModelProto, inputs=None, *, left: set[str] = frozenset()) -> onnx.ModelProto:
    """Load a model, check that it computes what the file does, that it is valid, and what control flow is left."""
    inputs = {"x": X} if inputs is None else inputs
    onnx.checker.check_model(proto, full_check=True)
    graph = load(saved(proto))
    result = ir.to_proto(graph.model)
    onnx.checker.check_model(result, full_check=True)
    found = {node.op_type for node in result.graph.node} & CONTROL
    assert found == left, found
    assert graph.rewritten == (result.SerializeToString() != ir.to_proto(ir.from_proto(proto)).SerializeToString())
    before, after = run(proto, inputs), run(result, inputs)
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
        assert before[name].dtype == after[name].dtype
    return result


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


# --- If -----------------------------------------------------------------------------------------------------------------

BRANCHES = """then_branch = a () => (float[] t) { t = Neg (h) }, else_branch = b () => (float[] e) { e = Exp (h) }"""


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("value", [0, 1])
def test_if_of_a_constant(opset, value):
    found = written_out(
        model(f"bool c = {{{value}}} --- h = Relu (x)  i = If (c) <{BRANCHES}>  y = Tanh (i)", opset=opset)
    )
    assert ops(found) == ["Relu", "Neg" if value else "Exp", "Tanh"]
    assert found.graph.node[1].output[0] == "i"
    assert not found.graph.initializer


def test_if_whose_output_is_the_models():
    found = written_out(model(f"h = Relu (x)  c = Constant <value = bool {{1}}> ()  y = If (c) <{BRANCHES}>"))
    assert ops(found) == ["Relu", "Neg"]


@pytest.mark.parametrize(("axis", "left"), [(1, set()), (2, set()), (0, {"If"})])
def test_if_of_an_extent(axis, left):
    """The weights fix the channels, the declared input the height; the batch is open."""
    text = f"""
        float[3, 6, 1, 1] w = {{ {", ".join(str(k / 10) for k in range(18))} }}, int64[1] k = {{ {axis} }}, int64[1] three = {{3}} ---
        h = Conv (x, w)  s = Shape (h)  d = Gather <axis = 0> (s, k)  c = Equal (d, three)
        y = If (c) <{BRANCHES}>"""
    written_out(model(text), left=left)


def test_if_behind_padding_of_computed_amounts():
    text = f"""
        int64[4] p = {{0, 1, 1, 0}}, int64[1] one = {{1}}, int64[1] eight = {{8}} ---
        z = ConstantOfShape <value = int64[1] {{0}}> (shape)  shape = Constant <value_ints = [4]> ()
        q = Concat <axis = 0> (z, p)  h = Pad (x, q)
        s = Shape <start = 1, end = 3> (h)  n = ReduceProd <keepdims = 0> (s)  m = Constant <value = int64 {{35}}> ()
        c = Equal (n, m)  y = If (c) <{BRANCHES}>"""
    proto = model(text)
    proto.graph.node.insert(0, proto.graph.node.pop(1))
    assert "Neg" in ops(written_out(proto))


def test_what_a_condition_is_computed_from_goes_with_it():
    text = f"""int64[1] k = {{1}}, int64[1] six = {{6}} ---
        h = Relu (x)  s = Shape (h)  d = Gather <axis = 0> (s, k)  c = Equal (d, six)  y = If (c) <{BRANCHES}>"""
    found = written_out(model(text))
    assert ops(found) == ["Relu", "Neg"]
    assert not found.graph.initializer


def test_stale_notes_of_shapes_are_not_believed():
    text = f"""int64[1] k = {{1}}, int64[1] six = {{6}} ---
        h = Relu (x)  s = Shape (h)  d = Gather <axis = 0> (s, k)  c = Equal (d, six)  y = If (c) <{BRANCHES}>"""
    proto = model(text)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["N", 5, 4, 4]))
    assert "Neg" in ops(ir.to_proto(load(saved(proto)).model))


def test_initializer_that_a_caller_may_override_decides_nothing():
    proto = model(f"bool c = {{1}} --- h = Relu (x)  y = If (c) <{BRANCHES}>")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    written_out(proto, left={"If"})


def test_names_stay_unique():
    """Both branches use names of their own, and so does another If that stays."""
    branches = "then_branch = a () => (float[] t) { u = Neg (h)  t = Exp (u) }, else_branch = b () => (float[] t) { u = Abs (h)  t = Sqrt (u) }"
    text = f"""bool c = {{1}} ---
        h = Relu (x)  i = If (c) <{branches}>  m = ReduceMax <keepdims = 0> (i)  z = Constant <value = float {{0.0}}> ()
        d = Greater (m, z)  j = If (d) <{branches}>  k = If (c) <{branches}>  y = Sum (i, j, k)"""
    found = written_out(model(text), left={"If"})
    outside = [name for node in found.graph.node for name in node.output]
    inside = [name for node in found.graph.node for a in node.attribute for n in a.g.node for name in n.output]
    assert len(outside) == len(set(outside))
    assert not set(outside) & set(inside)


def test_nested_branches_and_their_weights():
    inner = "then_branch = p () => (float[] q) <float[1] w = {2.0}> { q = Mul (h, w) }, else_branch = r () => (float[] q) { q = Neg (h) }"
    outer = f"then_branch = a () => (float[] t) {{ t = If (c) <{inner}> }}, else_branch = b () => (float[] t) {{ t = Neg (h) }}"
    found = written_out(model(f"bool c = {{1}} --- h = Relu (x)  i = If (c) <{outer}>  y = Tanh (i)"))
    assert ops(found) == ["Relu", "Mul", "Tanh"]
    assert [tensor.name for tensor in found.graph.initializer] == ["w"]


def test_branch_that_returns_a_weight_and_one_value_twice():
    body = "then_branch = a () => (float[] t, float[] u) { t = Neg (h)  u = Identity (t) }, else_branch = b () => (float[] t, float[] u) { t = Abs (h)  u = Exp (h) }"
    proto = model(f"bool c = {{1}} --- h = Relu (x)  i, j = If (c) <{body}>  y = Add (i, j)")
    then = next(a for a in proto.graph.node[1].attribute if a.name == "then_branch").g
    del then.node[1]
    then.output[1].name = "t"
    found = ir.to_proto(load(saved(proto)).model)
    onnx.checker.check_model(found, full_check=True)
    np.testing.assert_array_equal(run(found, {"x": X})["y"], -2 * np.maximum(X, 0))


def test_what_is_not_touched_keeps_what_is_written_about_it():
    proto = model(f"bool c = {{1}} --- h = Relu (x)  i = If (c) <{BRANCHES}>  y = Tanh (i)")
    proto.doc_string, proto.graph.doc_string, proto.graph.node[0].doc_string = (
        "of the model",
        "of the graph",
        "of a node",
    )
    proto.metadata_props.add(key="author", value="me")
    next(a for a in proto.graph.node[1].attribute if a.name == "then_branch").g.node[0].doc_string = "of a branch"
    found = written_out(proto)
    assert (found.doc_string, found.graph.doc_string, found.metadata_props[0].value) == (
        "of the model",
        "of the graph",
        "me",
    )
    assert [node.doc_string for node in found.graph.node] == ["of a node", "of a branch", ""]


# --- Loop ---------------------------------------------------------------------------------------------------------------

BODY = "body = b (int64 n, bool c, float[] s) => (bool d, float[] t) { d = Identity (c)  f = Cast <to = 1> (n)  g = Mul (h, f)  t = Add (s, g) }"


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("opset", [11, 17])
def test_loop_of_a_known_count(rounds, opset):
    text = f"int64 m = {{{rounds}}}, bool yes = {{1}} --- h = Relu (x)  y = Loop (m, yes, x) <{BODY}>"
    found = written_out(model(text, opset=opset))
    assert ops(found).count("Mul") == rounds


def test_loop_without_a_condition_and_of_a_declared_rank():
    text = "int64[1] m = {2} --- h = Relu (x)  l = Loop (m, , x) <body = b (int64[1] n, bool c, float[] s) => (bool d, float[] t) { d = Constant <value = bool {1}> ()  f = Cast <to = 1> (n)  g = Mul (h, f)  t = Add (s, g) }>  y = Neg (l)"
    found = written_out(model(text))
    assert ops(found).count("Mul") == 2


@pytest.mark.parametrize(
    "text",
    [
        f"int64 m = {{300}}, bool yes = {{1}} --- h = Relu (x)  y = Loop (m, yes, x) <{BODY}>",
        f"bool yes = {{1}} --- h = Relu (x)  s = Size (x)  y = Loop (s, yes, x) <{BODY}>",
        "int64 m = {3}, bool yes = {1} --- h = Relu (x)  l = Loop (m, yes, x) <body = b (int64 n, bool c, float[] s) => (bool d, float[] t) { z = ReduceMax <keepdims = 0> (s)  f = Cast <to = 9> (z)  d = Not (f)  t = Add (s, h) }>  y = Neg (l)",
        "int64 m = {2}, bool yes = {1} --- h = Relu (x)  l, y = Loop (m, yes, x) <body = b (int64 n, bool c, float[] s) => (bool d, float[] t, float[] u) { d = Identity (c)  t = Add (s, h)  u = Neg (t) }>",
    ],
    ids=["too many rounds", "count of the batch", "condition of the data", "collected over the rounds"],
)
def test_loops_that_stay(text):
    written_out(model(text), left={"Loop"})


# --- sequences ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize(
    ("split", "attributes", "at", "pieces"),
    [
        ("", "axis = 1", 2, 6),
        ("", "axis = 1, keepdims = 0", -1, 6),
        ("", "axis = -3, keepdims = 0", 0, 6),
        ("int64 s = {4}", "axis = 1", 1, 2),
        ("int64 s = {2}", "axis = 1, keepdims = 1", 1, 3),
        ("int64[2] s = {1, 5}", "axis = 1", 1, 2),
        ("int64[1] s = {6}", "axis = 1", 0, 1),
        ("int64[2] s = {3, 1}", "axis = 2", -2, 2),
    ],
)
def test_picked_from_a_split(opset, split, attributes, at, pieces):
    shape = "float[N, 6, H, W] x" if "{3, 1}" in split else "float[N, 6, 4, 4] x"
    output = "float[A, B, C] y" if not split and "keepdims" in attributes else "float[A, B, C, D] y"
    text = f"""int64 k = {{{at}}}{", " + split if split else ""} ---
        q = SplitToSequence <{attributes}> (x{", s" if split else ""})  p = SequenceAt (q, k)  y = Neg (p)"""
    found = written_out(model(text, opset=opset, inputs=shape, outputs=output))
    node = next(node for node in found.graph.node if node.op_type == "Split")
    assert len(node.output) == pieces


def test_pieces_of_an_open_extent_stay_a_sequence():
    text = "int64 k = {1} --- q = SplitToSequence <axis = 1> (x)  y = SequenceAt (q, k)"
    written_out(model(text, inputs="float[N, C, 4, 4] x"), left={"SplitToSequence", "SequenceAt"})


def test_piece_at_a_computed_place_stays():
    text = "q = SplitToSequence <axis = 1> (x)  y = SequenceAt (q, k)"
    inputs = {"x": X, "k": np.array(2)}
    written_out(model(text, inputs="float[N, 6, 4, 4] x, int64 k"), inputs, left={"SplitToSequence", "SequenceAt"})


def test_given_sizes_and_no_axes_kept_stay():
    """The standard ignores keepdims where sizes are given, onnxruntime does not: nobody can say what is meant."""
    text = "int64 k = {1}, int64 s = {1} --- q = SplitToSequence <axis = 1, keepdims = 0> (x, s)  y = SequenceAt (q, k)"
    assert not load(saved(model(text))).rewritten


def test_sequence_that_one_reader_needs_stays_for_all():
    text = "int64 i = {1} --- q = SplitToSequence <axis = 1> (x)  a = SequenceAt (q, k)  b = SequenceAt (q, i)  y = Add (a, b)"
    inputs = {"x": X, "k": np.array(2)}
    written_out(model(text, inputs="float[N, 6, 4, 4] x, int64 k"), inputs, left={"SplitToSequence", "SequenceAt"})


def test_sequence_that_is_an_output_stays():
    proto = model(
        "y = Neg (x)  q = SplitToSequence <axis = 1> (x)", outputs="float[A, B, C, D] y, seq(float[A, B, C, D]) q"
    )
    graph = load(saved(proto))
    assert not graph.rewritten


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("join", ["axis = 1", "axis = -1", "axis = 1, new_axis = 1", "axis = -1, new_axis = 1"])
def test_joined_again(opset, join):
    text = f"a = Relu (x)  b = Neg (x)  q = SequenceConstruct (a, b, a)  y = ConcatFromSequence <{join}> (q)"
    output = "float[A, B, C, D, E] y" if "new_axis" in join else "float[A, B, C, D] y"
    written_out(model(text, opset=opset, outputs=output))


def test_lists_that_grow_and_shrink():
    text = """int64 zero = {0}, int64 one = {1}, int64 last = {-1} ---
        a = Relu (x)  b = Neg (x)  c = Exp (x)  q0 = SequenceEmpty <dtype = 1> ()
        q1 = SequenceInsert (q0, a)  q2 = SequenceInsert (q1, b, zero)  q3 = SequenceInsert (q2, c, last)
        q4 = SequenceInsert (q3, x)  q5 = SequenceErase (q4, one)  q6 = SequenceErase (q5)
        n = SequenceLength (q5)  f = Cast <to = 1> (n)
        p = SequenceAt (q6, zero)  r = SequenceAt (q6, last)  s = SequenceAt (q2, one)
        t = Sub (p, r)  u = Mul (t, s)  y = Mul (u, f)"""
    found = written_out(model(text))
    assert not {"SequenceAt", "SequenceLength"} & set(ops(found))


def test_what_was_picked_is_an_output():
    """A tensor with a name of its own gets the output's through an Identity; a piece takes the name over."""
    text = "int64 k = {0}, int64 l = {1} --- h = Relu (x)  q = SequenceConstruct (h, x)  y = SequenceAt (q, k)  s = SplitToSequence <axis = 1> (h)  z = SequenceAt (s, l)  w = SequenceAt (s, l)  v = Neg (h)"
    found = written_out(
        model(text, outputs="float[A, B, C, D] y, float[A, B1, C, D] z, float[A, B1, C, D] w, float[A, B, C, D] v")
    )
    assert ops(found).count("Identity") == 2
    assert sorted(ops(found)) == ["Constant", "Identity", "Identity", "Neg", "Relu", "Split"]


def test_torch_tensor_split():
    """`x.tensor_split((1,), dim=1)`, as torch's exporter writes it: a Loop of one round fills the list."""
    text = """int64[2] at = {0, 2}, int64[1] m = {1}, bool yes = {1}, int64[1] axis = {1}, int64 zero = {0}, int64 one = {1} ---
        q0 = SequenceEmpty <dtype = 1> ()
        q1 = Loop (m, yes, q0) <body = b (int64[1] n, bool c, seq(float[]) q) => (bool d, seq(float[]) r) {
            i = Gather <axis = 0> (at, n)  k = Constant <value = int64 {1}> ()  o = Add (n, k)  j = Gather <axis = 0> (at, o)
            p = Slice (x, i, j, axis)  r = SequenceInsert (q, p)  d = Identity (yes) }>
        two = Constant <value = int64[1] {2}> ()  s = Shape (x)  e = Gather <axis = 0> (s, axis)  z = Slice (x, two, e, axis)
        q2 = SequenceInsert (q1, z)  a = SequenceAt (q2, zero)  b = SequenceAt (q2, one)  y = Concat <axis = 1> (b, a)"""
    found = written_out(model(text))
    assert ops(found).count("Slice") == 2


# --- pruning through them -----------------------------------------------------------------------------------------------


def weights(rng, **shapes) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), n) for n, shape in shapes.items()]


def test_channels_are_pruned_through_all_of_it():
    text = f"""int64 zero = {{0}}, int64 one = {{1}}, int64 half = {{8}}, int64[1] k = {{1}}, int64[1] many = {{16}}, int64 m = {{2}}, bool yes = {{1}} ---
        h = Conv (x, w1)  s = Shape (h)  d = Gather <axis = 0> (s, k)  c = Equal (d, many)
        i = If (c) <{BRANCHES}>
        l = Loop (m, yes, i) <body = b (int64 n, bool c, float[] s) => (bool d, float[] t) {{ d = Identity (c)  t = Tanh (s) }}>
        q = SplitToSequence <axis = 1> (l, half)  u = SequenceAt (q, zero)  v = SequenceAt (q, one)  z = Mul (u, v)
        y = Conv (z, w2)"""
    proto = model(text)
    proto.graph.initializer.extend(weights(np.random.default_rng(1), w1=(16, 6, 1, 1), w2=(3, 8, 1, 1)))
    trace = settle_model(proto, {"x": X})
    assert counts(trace) == (16, 19)
    assert worst_equivalence(trace, {"x": X}) < 1e-4


def test_loop_network_is_pruned_and_if_of_the_data_says_why():
    loop = NETWORKS["loop_reads_outer"](np.random.default_rng(0))
    trace = settle_model(loop, feeds(loop, np.random.default_rng(0)))
    assert counts(trace) == (28, 38)
    branch = NETWORKS["if_reads_outer"](np.random.default_rng(0))
    trace = settle_model(branch, feeds(branch, np.random.default_rng(0)))
    assert any("in the body of If, whose branch the input decides" in why for why in reasons(trace))


def test_broken_bodies_are_refused(tmp_path):
    """A body without what it must have is a broken file, not an internal error."""
    for name in ("if_reads_outer", "loop_reads_outer"):
        content = NETWORKS[name](np.random.default_rng(0))
        for tensor in content.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.dims[:] = [0] * len(tensor.dims)
        bare = content.SerializeToString()
        rng = np.random.default_rng(1)
        path = tmp_path / "flipped.onnx"
        for _ in range(150):
            broken = bytearray(bare)
            broken[rng.integers(0, len(broken))] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(broken)
            try:
                load(path)
            except ModelError as error:
                assert error.fix
