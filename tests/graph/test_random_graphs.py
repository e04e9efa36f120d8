"""Random compositions of what networks are made of, cut at random: what no list of cases thinks of.

A graph is a list of steps; hypothesis shrinks it to the few that are needed to fail, and prints them, the seed of the
weights, and the model as ONNX text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st
from networks import Net, feeds
from onnx import ModelProto, helper
from support import counts, equivalence, random_keeps, run, saved, settle_model

from pfa_onnx.graph.edits import Stuck

BOUND = 1e-4
WIDEST = 32  # channels

Step = tuple[str, int, int, int]  # what, which tensor, and two numbers that it understands in its own way


@dataclass(frozen=True)
class Map:
    """A tensor [N, channels, size, size]."""

    name: str
    channels: int
    size: int


@dataclass
class Builder:
    """The graph so far: any map can be read by any later step."""

    net: Net
    maps: list[Map]
    shared: dict[tuple[int, int], str] = field(default_factory=dict)

    def pick(self, which: int) -> Map:
        return self.maps[-1 - which % len(self.maps)]

    def partner(self, x: Map, which: int) -> Map:
        """A map of the same extent: x itself when there is no other."""
        others = [m for m in self.maps if m.size == x.size and m is not x] or [x]
        return others[which % len(others)]

    def add(self, name: str, channels: int, size: int) -> None:
        self.maps.append(Map(name, channels, size))


STEPS: dict[str, Callable[[Builder, Map, int, int], None]] = {}


def step(function: Callable[[Builder, Map, int, int], None]) -> Callable[[Builder, Map, int, int], None]:
    STEPS[function.__name__] = function
    return function


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@step
def conv(b: Builder, x: Map, p: int, q: int) -> None:
    cout = 1 + p % 12
    b.add(b.net.conv(x.name, x.channels, cout, (1, 3)[q % 2], bias=q % 3 > 0), cout, x.size)


@step
def strided_conv(b: Builder, x: Map, p: int, q: int) -> None:
    if x.size > 3:
        cout = 1 + p % 12
        b.add(b.net.conv(x.name, x.channels, cout, 3, strides=[2, 2]), cout, (x.size + 1) // 2)


@step
def grouped_conv(b: Builder, x: Map, p: int, q: int) -> None:
    groups = divisors(x.channels)[p % len(divisors(x.channels))]
    cout = groups * (1 + q % 3)
    if cout <= WIDEST:
        b.add(b.net.conv(x.name, x.channels, cout, 3, group=groups), cout, x.size)


@step
def depthwise_conv(b: Builder, x: Map, p: int, q: int) -> None:
    b.add(b.net.conv(x.name, x.channels, x.channels, 3, group=x.channels, bias=p % 2 == 0), x.channels, x.size)


@step
def transposed_conv(b: Builder, x: Map, p: int, q: int) -> None:
    groups = divisors(x.channels)[p % len(divisors(x.channels))]
    per_group = 1 + q % 3
    if x.size < 8 and groups * per_group <= WIDEST:
        weight = b.net.const(b.net.weights(x.channels, per_group, 2, 2, fan_in=x.channels // groups))
        name = b.net.op(
            "ConvTranspose", x.name, weight, b.net.const(b.net.vector(groups * per_group)), group=groups, strides=[2, 2]
        )
        b.add(name, groups * per_group, 2 * x.size)


@step
def same_conv_again(b: Builder, x: Map, p: int, q: int) -> None:
    """A weight that several convolutions share."""
    cout = 1 + p % 6
    weight = b.shared.get((x.channels, cout)) or b.net.const(b.net.weights(cout, x.channels, 1, 1))
    b.shared[x.channels, cout] = weight
    b.add(b.net.op("Conv", x.name, weight), cout, x.size)


@step
def batch_norm(b: Builder, x: Map, p: int, q: int) -> None:
    b.add(b.net.bn(x.name, x.channels), x.channels, x.size)


@step
def activation(b: Builder, x: Map, p: int, q: int) -> None:
    kind = ("Relu", "Sigmoid", "Tanh", "HardSwish", "Elu")[p % 5]
    b.add(b.net.op(kind, x.name), x.channels, x.size)


@step
def prelu(b: Builder, x: Map, p: int, q: int) -> None:
    slope = b.net.vector(x.channels).reshape(-1, 1, 1) if p % 3 else b.net.vector(1)
    b.add(b.net.op("PRelu", x.name, b.net.const(slope)), x.channels, x.size)


@step
def residual(b: Builder, x: Map, p: int, q: int) -> None:
    other = b.partner(x, p)
    name = other.name if other.channels == x.channels else b.net.conv(other.name, other.channels, x.channels, 1)
    b.add(b.net.op(("Add", "Sub", "Mul", "Max")[q % 4], x.name, name), x.channels, x.size)


@step
def concat(b: Builder, x: Map, p: int, q: int) -> None:
    parts = [x, b.partner(x, p), *([b.partner(x, q)] if q % 3 == 0 else [])]
    total = sum(m.channels for m in parts)
    if total <= WIDEST:
        b.add(b.net.op("Concat", *[m.name for m in parts], axis=1), total, x.size)


@step
def split(b: Builder, x: Map, p: int, q: int) -> None:
    if x.channels > 1:
        first = 1 + p % (x.channels - 1)
        sizes = [first, x.channels - first]
        for name, n in zip(b.net.multi("Split", x.name, b.net.const(sizes), outs=2, axis=1), sizes, strict=True):
            b.add(name, n, x.size)


@step
def chunk(b: Builder, x: Map, p: int, q: int) -> None:
    """Halves that gate one another."""
    if x.channels % 2 == 0:
        one, other = b.net.multi("Split", x.name, outs=2, axis=1)
        b.add(b.net.op("Mul", one, b.net.op("Sigmoid", other)), x.channels // 2, x.size)


@step
def slice_channels(b: Builder, x: Map, p: int, q: int) -> None:
    start = p % x.channels
    end = start + 1 + q % (x.channels - start)
    ends = [end, end - x.channels if end < x.channels else np.iinfo(np.int64).max]
    bounds = [b.net.const([n]) for n in (start, ends[(p + q) % 2], 1)]
    b.add(b.net.op("Slice", x.name, *bounds), end - start, x.size)


@step
def gather(b: Builder, x: Map, p: int, q: int) -> None:
    count = 1 + p % x.channels
    wanted = np.random.default_rng(q).choice(x.channels, count, replace=q % 2 == 0)
    b.add(b.net.op("Gather", x.name, b.net.const(wanted.astype(np.int64)), axis=1), count, x.size)


@step
def shuffle(b: Builder, x: Map, p: int, q: int) -> None:
    groups = divisors(x.channels)[p % len(divisors(x.channels))]
    y = b.net.op("Reshape", x.name, b.net.const([0, groups, x.channels // groups, x.size, x.size]))
    y = b.net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    b.add(b.net.op("Reshape", y, b.net.const([0, -1 if q % 2 else x.channels, x.size, x.size])), x.channels, x.size)


@step
def channel_gate(b: Builder, x: Map, p: int, q: int) -> None:
    """Squeeze and excite."""
    middle = 1 + p % 4
    y = b.net.relu(b.net.conv(b.net.op("GlobalAveragePool", x.name), x.channels, middle, 1))
    y = b.net.op("Sigmoid", b.net.conv(y, middle, x.channels, 1))
    b.add(b.net.op("Mul", *((x.name, y) if q % 2 else (y, x.name))), x.channels, x.size)


@step
def spatial_gate(b: Builder, x: Map, p: int, q: int) -> None:
    gate = b.net.conv(x.name, x.channels, 1) if p % 2 else b.net.op("ReduceMean", x.name, axes=[1], keepdims=1)
    b.add(b.net.op("Mul", x.name, b.net.op("Sigmoid", gate)), x.channels, x.size)


@step
def channels_last(b: Builder, x: Map, p: int, q: int) -> None:
    """A bias, and sometimes a linear layer, in NHWC."""
    y = b.net.op("Add", b.net.op("Transpose", x.name, perm=[0, 2, 3, 1]), b.net.const(b.net.vector(x.channels)))
    cout = x.channels
    if p % 2:
        cout = 1 + q % 8
        y = b.net.op("MatMul", y, b.net.const(b.net.weights(x.channels, cout, fan_in=x.channels)))
    b.add(b.net.op("Transpose", y, perm=[0, 3, 1, 2]), cout, x.size)


@step
def pad_channels(b: Builder, x: Map, p: int, q: int) -> None:
    first, last = p % 3, q % 3
    if x.channels + first + last <= WIDEST:
        b.add(b.net.op("Pad", x.name, b.net.const([0, first, 0, 0, 0, last, 0, 0])), x.channels + first + last, x.size)


@step
def pool(b: Builder, x: Map, p: int, q: int) -> None:
    if x.size % 2 == 0:
        b.add(
            b.net.op(("MaxPool", "AveragePool")[p % 2], x.name, kernel_shape=[2, 2], strides=[2, 2]),
            x.channels,
            x.size // 2,
        )


@step
def upsample(b: Builder, x: Map, p: int, q: int) -> None:
    if x.size < 8:
        b.add(b.net.op("Resize", x.name, "", b.net.const([1.0, 1.0, 2.0, 2.0])), x.channels, 2 * x.size)


@step
def pixel_shuffle(b: Builder, x: Map, p: int, q: int) -> None:
    if x.channels % 4 == 0 and x.size < 8:
        b.add(b.net.op("DepthToSpace", x.name, blocksize=2, mode=("DCR", "CRD")[p % 2]), x.channels // 4, 2 * x.size)


@step
def pixel_unshuffle(b: Builder, x: Map, p: int, q: int) -> None:
    if x.size % 2 == 0 and 4 * x.channels <= WIDEST:
        b.add(b.net.op("SpaceToDepth", x.name, blocksize=2), 4 * x.channels, x.size // 2)


@step
def pairs_in_a_new_axis(b: Builder, x: Map, p: int, q: int) -> None:
    """[N, C, H, W] seen as [N, G, C/G, H, W], scaled, and back."""
    groups = divisors(x.channels)[p % len(divisors(x.channels))]
    y = b.net.op("Reshape", x.name, b.net.const([0, groups, -1, x.size, x.size]))
    scale = (groups, 1, 1, 1) if q % 2 else (x.channels // groups, 1, 1)
    y = b.net.op("Mul", y, b.net.const(b.net.rng.uniform(0.5, 1.5, scale)))
    b.add(b.net.op("Reshape", y, b.net.const([0, x.channels, x.size, x.size])), x.channels, x.size)


@step
def softmax_over_space(b: Builder, x: Map, p: int, q: int) -> None:
    y = b.net.op("Softmax", b.net.op("Reshape", x.name, b.net.const([0, x.channels, -1])), axis=-1)
    b.add(b.net.op("Reshape", y, b.net.op("Shape", x.name)), x.channels, x.size)


@step
def softmax_over_channels(b: Builder, x: Map, p: int, q: int) -> None:
    if p % 4 == 0:  # rarely: all that it reads must stay
        b.add(b.net.op("Softmax", x.name, axis=1), x.channels, x.size)


def _rows(b: Builder, x: Map, heads: int) -> str:
    """[N, C, H, W] as [N, heads, H W, C / heads]."""
    return b.net.op(
        "Transpose", b.net.op("Reshape", x.name, b.net.const([0, heads, x.channels // heads, -1])), perm=[0, 1, 3, 2]
    )


def _map_of(b: Builder, y: str, channels: int, size: int) -> None:
    y = b.net.op("Transpose", y, perm=[0, 1, 3, 2])
    b.add(b.net.op("Reshape", y, b.net.const([0, channels, size, size])), channels, size)


@step
def attention(b: Builder, x: Map, p: int, q: int) -> None:
    """Q and K from one map or two, V from another; heads from the divisors of all."""
    other = b.partner(x, q)
    heads = [d for d in divisors(x.channels) if other.channels % d == 0]
    heads_ = heads[p % len(heads)]
    one, values = _rows(b, x, heads_), _rows(b, other, heads_)
    key = one if p % 2 else _rows(b, Map(b.net.conv(x.name, x.channels, x.channels, 1), x.channels, x.size), heads_)
    scores = b.net.op("MatMul", one, b.net.op("Transpose", key, perm=[0, 1, 3, 2]))
    scores = b.net.op("Softmax", b.net.op("Mul", scores, b.net.const(np.float32(0.1))), axis=-1)
    _map_of(b, b.net.op("MatMul", scores, values), other.channels, x.size)


@step
def linear_attention(b: Builder, x: Map, p: int, q: int) -> None:
    """K^T V first: an outer product of channels."""
    other = b.partner(x, q)
    heads = [d for d in divisors(x.channels) if other.channels % d == 0]
    heads_ = heads[p % len(heads)]
    one, values = b.net.op("Sigmoid", _rows(b, x, heads_)), _rows(b, other, heads_)
    product = b.net.op("MatMul", b.net.op("Transpose", one, perm=[0, 1, 3, 2]), values)
    if q % 2:
        product = b.net.op("Mul", product, b.net.const(b.net.rng.uniform(0.5, 1.0, (heads_, 1, 1))))
    if q % 3 == 0:
        product = b.net.op("Softmax", product, axis=-1 - q % 2)
    _map_of(b, b.net.op("MatMul", one, b.net.op("Tanh", product)), other.channels, x.size)


@step
def layer_over_space(b: Builder, x: Map, p: int, q: int) -> None:
    """Two layers over the positions, as a mixer has."""
    hidden, positions = 1 + p % 7, x.size * x.size
    y = b.net.op("Reshape", x.name, b.net.const([0, x.channels, -1]))
    y = b.net.op("MatMul", y, b.net.const(b.net.weights(positions, hidden)))
    y = b.net.op("Add", y, b.net.const(b.net.vector(hidden))) if q % 2 else y
    y = b.net.op("MatMul", b.net.op("Tanh", y), b.net.const(b.net.weights(hidden, positions)))
    b.add(b.net.op("Reshape", y, b.net.const([0, x.channels, x.size, x.size])), x.channels, x.size)


@step
def group_norm(b: Builder, x: Map, p: int, q: int) -> None:
    """As exporters write it: an instance normalisation of groups, and a scale a channel."""
    groups = divisors(x.channels)[p % len(divisors(x.channels))]
    y = b.net.op("Reshape", x.name, b.net.const([0, groups, -1]))
    ones = [b.net.const(b.net.rng.uniform(0.5, 1.5, groups)) for _ in range(2)]
    y = b.net.op("Reshape", b.net.op("InstanceNormalization", y, *ones, epsilon=0.1), b.net.op("Shape", x.name))
    b.add(b.net.op("Mul", y, b.net.const(b.net.rng.uniform(0.5, 1.5, (x.channels, 1, 1)))), x.channels, x.size)


@step
def normalised_over_channels(b: Builder, x: Map, p: int, q: int) -> None:
    """LayerNorm with the channels last, a mean taken away, or the length of every pixel's vector."""
    if p % 3 == 0:
        y = b.net.op("Transpose", x.name, perm=[0, 2, 3, 1])
        y = b.net.op("LayerNormalization", y, b.net.const(b.net.rng.uniform(0.5, 1.5, x.channels)), epsilon=0.1)
        y = b.net.op("Transpose", y, perm=[0, 3, 1, 2])
    elif p % 3 == 1:
        y = b.net.op("Sub", x.name, b.net.op("ReduceMean", x.name, axes=[1]))
    else:
        length = b.net.op("Add", b.net.op("ReduceL2", x.name, axes=[1]), b.net.const(np.float32(1.0)))
        y = b.net.op("Div", x.name, length)
    b.add(y, x.channels, x.size)


def _head(b: Builder, x: Map, how: int, out: str) -> str:
    if how % 4 == 0:
        return b.net.op("Identity", b.net.conv(x.name, x.channels, 3), out=out)
    if how % 4 == 1:
        return b.net.linear(b.net.op("Flatten", b.net.op("GlobalAveragePool", x.name)), x.channels, 4, out=out)
    y = x.name if how % 4 == 2 else b.net.op("Transpose", x.name, perm=[0, 2, 3, 1])
    numbers = x.channels * x.size * x.size
    return b.net.linear(b.net.op("Reshape", y, b.net.const([-1, numbers])), numbers, 4, out=out)


def build(seed: int, steps: list[Step], heads: list[int]) -> ModelProto:
    net = Net(np.random.default_rng(seed))
    b = Builder(net, [])
    b.add(net.conv(net.image(size=4), 3, 8), 8, 4)
    for kind, which, p, q in steps:
        STEPS[kind](b, b.pick(which), p, q)
    return net.model(*[_head(b, b.pick(2 * k), how, f"y{k}") for k, how in enumerate(heads)])


# --- the property -------------------------------------------------------------------------------------------------------

a_number = st.integers(0, 11)
a_step = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3), a_number, a_number)
a_graph = {
    "seed": st.integers(0, 999),
    "steps": st.lists(a_step, min_size=4, max_size=14),
    "heads": st.lists(st.integers(0, 3), min_size=1, max_size=2),
}
quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
quiet["phases"] = (Phase.generate, Phase.shrink)


def check(model: ModelProto, seed: int, recipes: int = 1) -> tuple[int, int, int]:
    """Raises AssertionError where a cut is wrong; returns how many channels may go, of how many, and refused recipes.

    Rehearsals cannot meet every recipe. One that a node cannot follow is refused, and the pipeline plans again.
    """
    inputs = feeds(model, np.random.default_rng(seed), n=2)
    assert all(np.isfinite(y).all() for y in run(model, inputs).values())
    trace = settle_model(model, inputs, through_norm=seed % 2 == 1)
    refused = 0
    for keep in random_keeps(trace, range(seed, seed + recipes), shares=(0.4, 1.0)):
        try:
            assert equivalence(saved(model), inputs, trace, keep) <= BOUND
        except Stuck:
            refused += 1
    return *counts(trace), refused


def check_noting(seed: int, steps: list[Step], heads: list[int]) -> None:
    model = build(seed, steps, heads)
    note(onnx.printer.to_text(without_numbers(model)))
    may_go, channels, refused = check(model, seed)
    event(f"{refused} of 2 recipes refused")
    event(f"{round(10 * may_go / channels) * 10} % may go")


def without_numbers(model: ModelProto) -> ModelProto:
    """Weights as inputs: a page of numbers hides the graph."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            bare.graph.initializer.append(tensor)
    return bare


# What was wrong once. In all of them several channels are tied to one label, and a shuffle moves these among themselves.
FOUND: dict[str, list[Step]] = {
    "a block of one label loses part of it": [
        ("activation", 0, 0, 0),
        ("pixel_shuffle", 0, 1, 0),
        ("activation", 1, 0, 0),
        ("shuffle", 0, 1, 0),
    ],
    "channels leave their group": [
        ("activation", 0, 0, 0),
        ("shuffle", 0, 2, 0),
        ("transposed_conv", 0, 1, 1),
        ("chunk", 0, 0, 0),
    ],
    "a shuffled map is added to itself": [
        ("activation", 0, 0, 0),
        ("shuffle", 0, 1, 0),
        ("residual", 0, 0, 0),
        ("same_conv_again", 0, 4, 0),
    ],
    "a label meets itself in place of another": [("activation", 0, 0, 0), ("shuffle", 0, 2, 0), ("residual", 0, 0, 0)],
    "heads behind a shuffle": [("shuffle", 0, 1, 0), ("attention", 0, 1, 0)],
    "a scale for each block": [("activation", 0, 0, 0), ("pairs_in_a_new_axis", 0, 1, 1), ("pixel_shuffle", 0, 1, 0)],
}


@pytest.mark.parametrize("name", FOUND)
def test_graph_that_was_cut_wrongly_once(name):
    check(build(0, FOUND[name], [0]), seed=0, recipes=8)


@settings(max_examples=60, derandomize=True, **quiet)
@given(**a_graph)
def test_random_graph_can_be_cut(seed, steps, heads):
    check_noting(seed, steps, heads)


@pytest.mark.slow
@settings(max_examples=2000, **quiet)
@given(**a_graph)
def test_two_thousand_random_graphs_can_be_cut(seed, steps, heads):
    check_noting(seed, steps, heads)


@pytest.mark.parametrize("kind", STEPS)
def test_every_step_builds_something(kind):
    """A step that is always skipped would test nothing."""
    model = build(0, [(kind, 0, 4, 2)], [1])
    assert len(model.graph.node) > len(build(0, [], [1]).graph.node)
    assert check(build(0, [("conv", 0, 7, 1), (kind, 0, 4, 2), ("conv", 0, 5, 1)], [2]), seed=0)[2] == 0
