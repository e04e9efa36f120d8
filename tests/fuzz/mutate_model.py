"""Breaking a model while knowing what it means: what protobuf still reads, and no exporter ever wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Random = np.random.Generator
Mutate = Callable[[Random, ModelProto], None]

MODEL: dict[str, Mutate] = {}

EXTREMES = (0, -1, 1, 2, 3, -2, 7, 64, 1 << 16, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63))
NAMES = ("", "x", "\0", "a" * 5000, "../x", "é\u202e", "%s%n", "image", "logits", "pfa_onnx/shape/0", "pfa_onnx/response/0")
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "org.nobody", "\0")
OPERATORS = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))
ATTRIBUTES = (
    "axis", "axes", "group", "kernel_shape", "strides", "pads", "dilations", "perm", "to", "alpha", "epsilon", "mode",
    "blocksize", "num_heads", "hidden_size", "transA", "transB", "keepdims", "split", "shape", "value", "then_branch",
    "body", "equation", "output_shape", "output_padding", "ceil_mode", "num_outputs", "allowzero", "direction", "size",
    "scales", "seed", "dtype", "block_size", "stash_type", "num_groups", "auto_pad", "start", "end", "largest", "sorted",
)  # fmt: skip


def mutation(mutate: Mutate) -> Mutate:
    MODEL[mutate.__name__] = mutate
    return mutate


def one_of(random: Random, items):
    return items[int(random.integers(0, len(items)))]


def some_node(random: Random, model: ModelProto) -> NodeProto:
    nodes = list(all_nodes(model.graph))
    return one_of(random, nodes) if nodes else model.graph.node.add(op_type="Relu")


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def all_tensors(graph: GraphProto) -> list[TensorProto]:
    inside = [attribute.t for node in all_nodes(graph) for attribute in node.attribute if attribute.HasField("t")]
    return [*graph.initializer, *inside]


def some_tensor(random: Random, model: ModelProto) -> TensorProto:
    tensors = all_tensors(model.graph)
    return one_of(random, tensors) if tensors else model.graph.initializer.add(name="x")


def names(model: ModelProto) -> list[str]:
    graph = model.graph
    made = [name for node in all_nodes(graph) for name in node.output]
    return [*made, *(v.name for v in graph.input), *(t.name for t in graph.initializer)] or ["x"]


# --- nodes --------------------------------------------------------------------------------------------------------


@mutation
def other_operator(random: Random, model: ModelProto) -> None:
    some_node(random, model).op_type = one_of(random, (*OPERATORS, *NAMES)) if random.random() < 0.8 else "Nothing"


@mutation
def other_domain(random: Random, model: ModelProto) -> None:
    node, domain = some_node(random, model), one_of(random, DOMAINS)
    node.domain = domain
    if random.random() < 0.5:
        model.opset_import.add(domain=domain, version=int(one_of(random, (1, *EXTREMES))))


@mutation
def without_an_attribute(random: Random, model: ModelProto) -> None:
    nodes = [node for node in all_nodes(model.graph) if node.attribute] or [some_node(random, model)]
    node = one_of(random, nodes)
    if node.attribute:
        del node.attribute[int(random.integers(0, len(node.attribute)))]


@mutation
def extreme_attribute(random: Random, model: ModelProto) -> None:
    """An attribute that is there, of its own type, with a value that makes no sense."""
    nodes = [node for node in all_nodes(model.graph) if node.attribute]
    if not nodes:
        return
    attribute = one_of(random, one_of(random, nodes).attribute)
    if attribute.type == AttributeProto.INT:
        attribute.i = one_of(random, EXTREMES)
    elif attribute.type == AttributeProto.INTS:
        if len(attribute.ints) and random.random() < 0.7:
            attribute.ints[int(random.integers(0, len(attribute.ints)))] = one_of(random, EXTREMES)
        else:
            attribute.ints[:] = [one_of(random, EXTREMES) for _ in range(random.integers(0, 7))]
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = float(one_of(random, (0.0, -1.0, np.nan, np.inf, -np.inf, 1e38)))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = one_of(random, (b"", b"\xff\xfe", b"NOTSET", b"i,i->i", b"a" * 9999, b"reflect", b"ij,jk->ik,"))
    else:
        attribute.type = int(random.integers(0, 15))


@mutation
def odd_attribute(random: Random, model: ModelProto) -> None:
    """An attribute that operators have, on some node, of some type."""
    node, name = some_node(random, model), one_of(random, ATTRIBUTES)
    value = one_of(
        random,
        (one_of(random, EXTREMES), [one_of(random, EXTREMES)], [0], [1, 1], 0.5, "text", [0.5], ["a", "b"]),
    )
    for attribute in [a for a in node.attribute if a.name == name]:
        if random.random() < 0.8:
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))
    if random.random() < 0.2:
        node.attribute[-1].type = int(random.integers(0, 15))
    if random.random() < 0.1:
        node.attribute[-1].ref_attr_name = one_of(random, NAMES)


@mutation
def rewired_input(random: Random, model: ModelProto) -> None:
    nodes = [node for node in all_nodes(model.graph) if node.input]
    if nodes:
        node = one_of(random, nodes)
        node.input[int(random.integers(0, len(node.input)))] = one_of(random, (*names(model), *NAMES))


@mutation
def fewer_or_more_inputs(random: Random, model: ModelProto) -> None:
    node = some_node(random, model)
    if node.input and random.random() < 0.5:
        del node.input[int(random.integers(0, len(node.input))) :]
    else:
        node.input.extend([one_of(random, ("", *names(model)))] * int(random.integers(1, 5)))


@mutation
def fewer_or_more_outputs(random: Random, model: ModelProto) -> None:
    node = some_node(random, model)
    if node.output and random.random() < 0.5:
        del node.output[int(random.integers(0, len(node.output))) :]
    else:
        node.output.extend([one_of(random, ("", "more", *names(model)))] * int(random.integers(1, 3)))


@mutation
def renamed_output(random: Random, model: ModelProto) -> None:
    nodes = [node for node in all_nodes(model.graph) if node.output]
    if nodes:
        node = one_of(random, nodes)
        node.output[int(random.integers(0, len(node.output)))] = one_of(random, (*names(model), *NAMES))


@mutation
def cycle(random: Random, model: ModelProto) -> None:
    """A node reads itself, or something behind it."""
    nodes = [node for node in model.graph.node if node.input and node.output]
    if nodes:
        at = int(random.integers(0, len(nodes)))
        later = one_of(random, nodes[at:])
        nodes[at].input[int(random.integers(0, len(nodes[at].input)))] = later.output[0]


@mutation
def shuffled_nodes(random: Random, model: ModelProto) -> None:
    order = random.permutation(len(model.graph.node)).tolist()
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[k] for k in order)


@mutation
def node_twice_or_gone(random: Random, model: ModelProto) -> None:
    nodes = model.graph.node
    if len(nodes):
        at = int(random.integers(0, len(nodes)))
        if random.random() < 0.5:
            nodes.add().CopyFrom(nodes[at])
        else:
            del nodes[at]


# --- tensors ------------------------------------------------------------------------------------------------------


@mutation
def other_extents(random: Random, model: ModelProto) -> None:
    tensor = some_tensor(random, model)
    dims = list(tensor.dims)
    if dims and random.random() < 0.7:
        dims[int(random.integers(0, len(dims)))] = one_of(random, EXTREMES)
    else:
        dims = one_of(random, ([], [0], [0, 1 << 62], [1 << 32, 1 << 32], dims[::-1], [*dims, 1], dims[1:], [1] * 70))
    tensor.dims[:] = dims


@mutation
def other_element_type(random: Random, model: ModelProto) -> None:
    some_tensor(random, model).data_type = int(one_of(random, (*range(32), -1, 1 << 30)))


@mutation
def too_few_or_many_numbers(random: Random, model: ModelProto) -> None:
    tensor = some_tensor(random, model)
    if not tensor.HasField("raw_data"):
        tensor.float_data.extend([1.0] * int(random.integers(1, 9)))
    elif random.random() < 0.5:
        tensor.raw_data = tensor.raw_data[: -int(random.integers(1, 9))]
    else:
        tensor.raw_data += bytes(int(random.integers(1, 9)))


@mutation
def numbers_in_another_field(random: Random, model: ModelProto) -> None:
    tensor = some_tensor(random, model)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    if random.random() < 0.5:
        tensor.ClearField("raw_data")
    one_of(random, fields).extend([1] * int(one_of(random, (1, max(1, min(10_000, int(np.prod(tensor.dims or [1]))))))))
    if random.random() < 0.2:
        tensor.string_data.append(b"text")
        tensor.segment.begin, tensor.segment.end = 0, 1 << 40


@mutation
def odd_numbers(random: Random, model: ModelProto) -> None:
    """Constants with NaN and infinity, or, where they are sizes and indices, with numbers far from them."""
    tensor = some_tensor(random, model)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError, KeyError):
        return
    flat = array.reshape(-1)
    if not flat.size or array.dtype.kind not in "iuf":
        return
    where = random.random(flat.size) < one_of(random, (0.01, 0.5, 1.0))
    where[int(random.integers(0, flat.size))] = True
    with np.errstate(all="ignore"):
        odd = (np.nan, np.inf, 0.0, -1e30, 1e-40) if array.dtype.kind == "f" else EXTREMES
        flat[where] = np.array(one_of(random, odd)).astype(array.dtype, casting="unsafe")
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@mutation
def tensor_of_another_name(random: Random, model: ModelProto) -> None:
    if len(model.graph.initializer):
        one_of(random, model.graph.initializer).name = one_of(random, (*names(model), *NAMES))


@mutation
def tensor_twice_or_gone(random: Random, model: ModelProto) -> None:
    tensors = model.graph.initializer
    if len(tensors):
        at = int(random.integers(0, len(tensors)))
        if random.random() < 0.5:
            tensors.add().CopyFrom(tensors[at])
        else:
            del tensors[at]


@mutation
def sparse_tensor(random: Random, model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), one_of(random, names(model))))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 1, one_of(random, EXTREMES)], np.int64)))
    sparse.dims.extend([one_of(random, EXTREMES)] * int(random.integers(1, 3)))
