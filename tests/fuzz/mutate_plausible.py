"""Changing a model into another one that somebody might have exported: what passes the first look has to be right."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fuzz.mutate_graph import _after, _constant, _value
from fuzz.mutate_model import Random, mutation, one_of, some_node

UNARY = (
    "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp", "Sqrt", "Log", "Reciprocal", "Softplus", "Erf", "Floor", "Sign",
    "Identity", "Softmax", "LogSoftmax", "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Hardmax", "Not", "IsNaN", "Shape",
    "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Transpose", "Round", "LpNormalization", "MeanVarianceNormalization",
)  # fmt: skip
BINARY = ("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Sum", "Concat", "MatMul", "PRelu", "Equal", "Where", "Mod")


def insert(model: ModelProto, at: int, nodes: list[NodeProto]) -> None:
    for node in reversed(nodes):
        model.graph.node.insert(at, node)


@mutation
def another_of_its_kind(random: Random, model: ModelProto) -> None:
    for kinds in (UNARY, BINARY):
        nodes = [node for node in model.graph.node if node.op_type in kinds and not node.attribute]
        if nodes and random.random() < 0.7:
            node = one_of(random, nodes)
            node.op_type = one_of(random, kinds)
            if node.op_type == "Concat":
                node.attribute.append(helper.make_attribute("axis", int(random.integers(-2, 3))))


@mutation
def one_more(random: Random, model: ModelProto) -> None:
    place = _after(model, random)
    if place is not None:
        at, made, old = place
        insert(model, at, [helper.make_node(one_of(random, UNARY), [made], [old])])


@mutation
def with_another(random: Random, model: ModelProto) -> None:
    """A tensor meets another one, itself, or a constant."""
    place = _after(model, random)
    if place is None:
        return
    at, made, old = place
    before = [name for node in model.graph.node[:at] for name in node.output if name and name != made]
    other = one_of(random, (made, *before)) if random.random() < 0.7 else _constant(model, one_of(random, (0.0, 2.0, np.nan, [1.0, 2.0])), np.float32)
    kind = one_of(random, BINARY)
    more = {"axis": int(random.integers(-2, 3))} if kind == "Concat" else {}
    insert(model, at, [helper.make_node(kind, [made, other], [old], **more)])


@mutation
def seen_from_outside(random: Random, model: ModelProto) -> None:
    made = [name for node in model.graph.node for name in node.output if name]
    if made:
        model.graph.output.append(ValueInfoProto(name=one_of(random, made)))


@mutation
def open_or_fixed_extent(random: Random, model: ModelProto) -> None:
    dims = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    if not dims:
        return
    dim = one_of(random, dims)
    if dim.HasField("dim_value"):
        dim.dim_param = one_of(random, ("N", "H", "anything"))
    else:
        dim.dim_value = int(random.integers(1, 9))


@mutation
def constant_elsewhere(random: Random, model: ModelProto) -> None:
    """An initializer becomes a Constant node, an input with a default, or the result of an Identity."""
    if not len(model.graph.initializer):
        return
    at = int(random.integers(0, len(model.graph.initializer)))
    tensor = TensorProto.FromString(model.graph.initializer[at].SerializeToString())
    how = one_of(random, ("node", "input", "identity", "cast"))
    if how == "input":
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        return
    name, tensor.name = tensor.name, f"{tensor.name}/moved"
    if how == "node":
        del model.graph.initializer[at]
        insert(model, 0, [helper.make_node("Constant", [], [name], value=tensor)])
        return
    model.graph.initializer[at].name = tensor.name
    node = helper.make_node("Identity", [tensor.name], [name]) if how == "identity" else helper.make_node("Cast", [tensor.name], [name], to=tensor.data_type)
    insert(model, 0, [node])


@mutation
def one_weight_for_two(random: Random, model: ModelProto) -> None:
    alike: dict[tuple[int, ...], list[TensorProto]] = {}
    for tensor in model.graph.initializer:
        alike.setdefault((tensor.data_type, *tensor.dims), []).append(tensor)
    some = [tensors for tensors in alike.values() if len(tensors) > 1]
    if some:
        tensors = one_of(random, some)
        kept, gone = tensors[0].name, tensors[1].name
        for node in model.graph.node:
            for k, name in enumerate(node.input):
                if name == gone:
                    node.input[k] = kept


@mutation
def other_numbers(random: Random, model: ModelProto) -> None:
    """Weights of one sign, of one value, of a few channels only, or far apart."""
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT and tensor.dims]
    if not tensors:
        return
    tensor = one_of(random, tensors)
    array = numpy_helper.to_array(tensor).copy()
    how = one_of(random, ("zero", "alike", "sign", "few", "large", "tiny", "nan"))
    change = {
        "zero": array * 0, "alike": np.ones_like(array), "sign": -np.abs(array), "large": array * np.float32(1e18),
        "tiny": array * np.float32(1e-30), "few": array * (np.arange(len(array)) < 2).reshape(-1, *[1] * (array.ndim - 1)),
        "nan": np.where(random.random(array.shape) < 0.1, np.float32(np.nan), array),
    }  # fmt: skip
    tensor.CopyFrom(numpy_helper.from_array(change[how].astype(np.float32), tensor.name))


@mutation
def fewer_channels_somewhere(random: Random, model: ModelProto) -> None:
    """One constant is cut along one axis, with its data: some neighbours no longer fit."""
    tensors = [tensor for tensor in model.graph.initializer if any(extent > 1 for extent in tensor.dims)]
    if not tensors:
        return
    tensor = one_of(random, tensors)
    array = numpy_helper.to_array(tensor)
    axis = one_of(random, [k for k, extent in enumerate(array.shape) if extent > 1])
    kept = one_of(random, (0, 1, array.shape[axis] - 1))
    changed = np.take(array, range(kept), axis=axis) if random.random() < 0.7 else np.swapaxes(array, 0, axis)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))


@mutation
def wrapped(random: Random, model: ModelProto) -> None:
    """A node in a body: of an If that the file decides or not, or of a Loop of a few rounds."""
    nodes = [node for node in model.graph.node if len(node.output) == 1 and node.output[0]]
    if not nodes:
        return
    node = one_of(random, nodes)
    at = list(model.graph.node).index(node)
    inner, name = NodeProto.FromString(node.SerializeToString()), node.output[0]
    inner.output[0] = f"{name}/inner"
    if random.random() < 0.5:
        body = GraphProto(name="body", node=[inner], output=[ValueInfoProto(name=inner.output[0])])
        condition = _constant(model, bool(random.random() < 0.5), np.bool_)
        outer = helper.make_node("If", [condition], [name], node.name, then_branch=body, else_branch=body)
    else:
        rounds = int(one_of(random, (0, 1, 1, 2, 7)))
        ends = helper.make_node("Identity", ["go"], ["gone"])
        states = [_value("i", TensorProto.INT64, []), _value("go", TensorProto.BOOL, [])]
        collected = [_value("gone", TensorProto.BOOL, []), ValueInfoProto(name=inner.output[0])]
        body = helper.make_graph([ends, inner], "body", states, collected)
        outer = helper.make_node("Loop", [_constant(model, rounds), _constant(model, True, np.bool_)], [name], node.name, body=body)
    del model.graph.node[at]
    model.graph.node.insert(at, outer)


@mutation
def names_left_out(random: Random, model: ModelProto) -> None:
    """Nodes without names, or all with one."""
    name = one_of(random, ("", "same"))
    for node in model.graph.node:
        node.name = name


@mutation
def likely_attribute(random: Random, model: ModelProto) -> None:
    """A number of a node is another one that could be meant."""
    node = some_node(random, model)
    for attribute in node.attribute:
        if attribute.type == attribute.INT:
            attribute.i = int(random.integers(-2, 5))
        elif attribute.type == attribute.INTS:
            attribute.ints[:] = [max(0, n + int(random.integers(-1, 2))) for n in attribute.ints]
