"""Breaking a model as a whole: its inputs and outputs, versions, functions, bodies in bodies, and sizes without end."""

from __future__ import annotations

import json

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from fuzz.mutate_model import EXTREMES, NAMES, Random, mutation, names, one_of, some_node

FLOAT = TensorProto.FLOAT

# --- inputs and outputs -------------------------------------------------------------------------------------------


def _odd_type(random: Random) -> TypeProto:
    tensor = helper.make_tensor_type_proto(int(one_of(random, (*range(28), 99))), [one_of(random, EXTREMES)])
    kinds = [
        TypeProto(), tensor, helper.make_tensor_type_proto(FLOAT, None), helper.make_sequence_type_proto(tensor),
        helper.make_optional_type_proto(tensor), helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        helper.make_sparse_tensor_type_proto(FLOAT, [3]), helper.make_tensor_type_proto(TensorProto.STRING, ["N", 3]),
        TypeProto(map_type=TypeProto.Map(key_type=TensorProto.INT64, value_type=tensor)),
    ]  # fmt: skip
    return one_of(random, kinds)


@mutation
def input_extents(random: Random, model: ModelProto) -> None:
    values = [value for value in model.graph.input if value.type.tensor_type.HasField("shape")]
    if not values:
        return
    dims = one_of(random, values).type.tensor_type.shape.dim
    if not len(dims) or random.random() < 0.1:
        dims.add(dim_value=one_of(random, EXTREMES))
        return
    dim = one_of(random, dims)
    if random.random() < 0.7:
        dim.dim_value = one_of(random, EXTREMES)
    elif random.random() < 0.5:
        dim.dim_param = one_of(random, NAMES)
    else:
        dim.Clear()


@mutation
def input_type(random: Random, model: ModelProto) -> None:
    if len(model.graph.input):
        one_of(random, model.graph.input).type.CopyFrom(_odd_type(random))


@mutation
def output_type(random: Random, model: ModelProto) -> None:
    if len(model.graph.output):
        one_of(random, model.graph.output).type.CopyFrom(_odd_type(random))


@mutation
def fewer_or_more_values(random: Random, model: ModelProto) -> None:
    """Inputs, outputs or notes that are gone, there twice, or called like something else."""
    values = one_of(random, (model.graph.input, model.graph.output, model.graph.value_info))
    how = one_of(random, ("gone", "all gone", "twice", "renamed", "another"))
    if how == "another" or not len(values):
        values.add(name=one_of(random, (*names(model), *NAMES)), type=_odd_type(random))
        return
    at = int(random.integers(0, len(values)))
    if how == "gone":
        del values[at]
    elif how == "all gone":
        del values[:]
    elif how == "twice":
        values.add().CopyFrom(values[at])
    else:
        values[at].name = one_of(random, (*names(model), *NAMES))


@mutation
def contradicting_note(random: Random, model: ModelProto) -> None:
    for _ in range(random.integers(1, 6)):
        dims = [one_of(random, EXTREMES) for _ in range(random.integers(0, 6))]
        value = helper.make_tensor_value_info(one_of(random, names(model)), FLOAT, dims)
        model.graph.value_info.append(value if random.random() < 0.7 else ValueInfoProto(name=value.name))


# --- the model around the graph -----------------------------------------------------------------------------------


@mutation
def versions(random: Random, model: ModelProto) -> None:
    odd = (*EXTREMES, 5, 9, 11, 13, 18, 22, 24, 27, 1000)
    if random.random() < 0.3:
        model.ir_version = one_of(random, odd)
    elif len(model.opset_import) and random.random() < 0.6:
        one_of(random, model.opset_import).version = one_of(random, odd)
    elif random.random() < 0.3:
        del model.opset_import[:]
    else:
        model.opset_import.add(domain=one_of(random, ("", "ai.onnx", *NAMES)), version=one_of(random, odd))


@mutation
def nothing_in_it(random: Random, model: ModelProto) -> None:
    field = one_of(random, ("node", "initializer", "input", "output", "name"))
    model.ClearField("graph") if random.random() < 0.2 else model.graph.ClearField(field)


@mutation
def notes(random: Random, model: ModelProto) -> None:
    """Metadata that look like ours, and are not."""
    odd = (
        "", "{", "null", "[]", "[" * 5000, '{"layers": 3}', '{"layers": {}}', '{"previous": {}, "layers": {}}', "\0",
        '{"layers": {"x": {"channels": -1, "keep": [0]}}, "original_sha256": "x"}', '{"repair": {"layers": [1]}}',
        '{"finetune": 1, "repair": {"before": "x", "after": NaN, "samples": 1e999, "layers": {}}}', "a" * 100_000,
        json.dumps({"layers": {}, "original_sha256": 1, "constants": {"indices": [[1 << 70]], "taken": {"x": {"steps": [[[99], 0, [1]]]}}}}),
    )  # fmt: skip
    for _ in range(random.integers(1, 3)):
        model.metadata_props.add(key=one_of(random, ("pfa_onnx.recipe", "pfa_onnx.recipe", *NAMES)), value=one_of(random, odd))


@mutation
def functions(random: Random, model: ModelProto) -> None:
    """Functions that call themselves or each other, that grow without end, or are called like an operator."""
    how = one_of(random, ("itself", "each other", "doubling", "shadow", "odd"))
    here, imports = "here", [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)]

    def add(name: str, calls: list[str], domain: str = here) -> None:
        between = ["x", *(f"v{k}" for k in range(len(calls) - 1)), "y"]
        body = [helper.make_node(call, [between[k]], [between[k + 1]], domain=here if call != "Relu" else "") for k, call in enumerate(calls)]
        model.functions.append(helper.make_function(domain, name, ["x"], ["y"], body, imports))

    if how == "itself":
        add("F0", ["F0"])
    elif how == "each other":
        add("F0", ["F1"]), add("F1", ["F2"]), add("F2", ["F0"])
    elif how == "doubling":
        depth = int(random.integers(3, 60))
        for k in range(depth):
            add(f"F{k}", [f"F{k + 1}"] * 2 if k + 1 < depth else ["Relu"])
    elif how == "shadow":
        add("Relu", ["Relu"], domain="")
        return
    else:
        function = model.functions.add(name=one_of(random, ("F0", *NAMES)), domain=one_of(random, ("here", "", *NAMES)))
        function.output.append(one_of(random, NAMES))
        function.attribute.append(one_of(random, NAMES))
    if not any(one.domain == here for one in model.opset_import):
        model.opset_import.append(imports[1])
    nodes = [node for node in model.graph.node if node.op_type == "Relu"] or list(model.graph.node)
    if nodes:
        node = one_of(random, nodes)
        node.op_type, node.domain = "F0", here


# --- bodies -------------------------------------------------------------------------------------------------------


def _after(model: ModelProto, random: Random) -> tuple[int, str, str] | None:
    """A place behind some node, the tensor that it makes, and the name under which the rest now reads it."""
    places = [(k, node) for k, node in enumerate(model.graph.node) if len(node.output) and node.output[0]]
    if not places:
        return None
    at, node = one_of(random, places)
    made = f"{node.output[0]}/before"
    old, node.output[0] = node.output[0], made
    return at + 1, made, old


def _value(name: str, kind: int = FLOAT, dims=None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def _constant(model: ModelProto, value: object, kind: type = np.int64) -> str:
    name = f"fuzz/{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    return name


@mutation
def bodies_in_bodies(random: Random, model: ModelProto) -> None:
    """As deep as protobuf reads them."""
    place = _after(model, random)
    if place is None:
        return
    at, made, old = place
    body = GraphProto(name="leaf", output=[_value("leaf")], node=[helper.make_node("Identity", [made], ["leaf"])])
    condition = _constant(model, True, np.bool_) if random.random() < 0.5 else "unknown"
    for k in range(int(random.integers(1, 32))):
        node = helper.make_node("If", [condition], [f"if{k}"], then_branch=body, else_branch=body if k < 4 else GraphProto(name="e"))
        body = GraphProto(name=f"b{k}", output=[_value(f"if{k}")], node=[node])
    model.graph.node.insert(at, helper.make_node("If", [condition], [old], then_branch=body, else_branch=body))


@mutation
def loop(random: Random, model: ModelProto) -> None:
    """A Loop that runs very often, perhaps around another one, or whose body does not fit it."""
    place = _after(model, random)
    if place is None:
        return
    at, made, old = place
    rounds, depth = one_of(random, (*EXTREMES, 5, 100, 256)), int(random.integers(1, 7))
    count, go = _constant(model, rounds if depth == 1 else 5), _constant(model, True, np.bool_)
    body = None
    for k in range(depth):
        inner = f"state{k}"
        doing = helper.make_node("Neg", [inner], [f"out{k}"]) if body is None else helper.make_node(
            "Loop", [count, go, inner], [f"out{k}"], body=body
        )  # fmt: skip
        states = [_value(f"i{k}", TensorProto.INT64, []), _value(f"c{k}", TensorProto.BOOL, []), _value(inner)]
        ends = [_value(f"d{k}", TensorProto.BOOL, []), _value(f"out{k}")][: 1 if random.random() < 0.05 else 2]
        body = helper.make_graph([helper.make_node("Identity", [f"c{k}"], [f"d{k}"]), doing], f"body{k}", states, ends)
    model.graph.node.insert(at, helper.make_node("Loop", [count, go, made], [old], body=body))


@mutation
def sizes_without_end(random: Random, model: ModelProto) -> None:
    """Small files of operators that make tensors of any size."""
    place = _after(model, random)
    if place is None:
        return
    at, made, old = place
    size = one_of(random, (1 << 20, 1 << 31, 1 << 34, 1 << 40, 1 << 62, (1 << 63) - 1, -1, 0))
    shape = _constant(model, [size] if random.random() < 0.5 else [1 << 16, size, 1 << 10])
    how = one_of(random, ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "Resize", "RandomNormal", "EyeLike"))
    if how == "ConstantOfShape":
        nodes = [helper.make_node(how, [shape], ["huge"])]
    elif how == "RandomNormal":
        nodes = [helper.make_node(how, [], ["huge"], shape=[max(1, size)])]
    elif how == "Range":
        nodes = [helper.make_node(how, [_constant(model, 0), _constant(model, size), _constant(model, 1)], ["huge"])]
    elif how == "OneHot":
        nodes = [helper.make_node(how, [_constant(model, [1]), _constant(model, size), _constant(model, [0.0, 1.0], np.float32)], ["huge"])]
    elif how == "EyeLike":
        nodes = [helper.make_node("ConstantOfShape", [_constant(model, [1 << 17, 1 << 17])], ["zeros"]), helper.make_node(how, ["zeros"], ["huge"])]
    else:
        flat = [helper.make_node("Reshape", [made, _constant(model, [-1])], ["flat"])]
        given = {"Resize": ["flat", "", "", _constant(model, [size])], "Tile": ["flat", _constant(model, [size])],
                 "Pad": ["flat", _constant(model, [size, 0])], "Expand": ["flat", _constant(model, [size, 1])]}[how]  # fmt: skip
        nodes = [*flat, helper.make_node(how, given, ["huge"])]
    nodes.append(helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
    nodes.append(helper.make_node("Cast", ["most"], ["cast"], to=FLOAT))
    nodes.append(helper.make_node("Add", [made, "cast"], [old]))
    for node in reversed(nodes):
        model.graph.node.insert(at, node)


@mutation
def very_many_nodes(random: Random, model: ModelProto) -> None:
    """A long chain, from its end to its beginning."""
    place = _after(model, random)
    if place is None:
        return
    at, made, old = place
    many = int(random.integers(200, 3000))
    chain = [made, *(f"chain{k}" for k in range(many - 1)), old]
    nodes = [helper.make_node("Identity", [chain[k]], [chain[k + 1]]) for k in range(many)]
    model.graph.node.extend(nodes[::-1] if random.random() < 0.5 else nodes)


@mutation
def a_body_that_is_none(random: Random, model: ModelProto) -> None:
    node = some_node(random, model)
    node.op_type = one_of(random, ("If", "Loop", "Scan", "SequenceMap"))
    body = GraphProto(name="body", output=[_value(one_of(random, ("y", *NAMES)))])
    for name in ("body", "then_branch", "else_branch"):
        if random.random() < 0.7:
            node.attribute.append(helper.make_attribute(name, body))
    if random.random() < 0.5:
        node.attribute.append(helper.make_attribute("num_scan_inputs", int(one_of(random, EXTREMES))))
