"""A wish becomes legal by restoring: what comes out holds every constraint, and is never less than was asked to stay."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Net, feeds
from support import counts, random_keeps, reasons, settle_model

from pfa_onnx.graph.edits import Stuck
from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.plan import legalise, removable, settle
from pfa_onnx.graph.trace import Rows, Trace
from pfa_onnx.recipe import Layer, Reason

CONSTRAINED = ("grouped_conv", "channel_shuffle", "split_uneven", "depth_to_space_crd", "residual_add", "attention", "concat", "gather_some",
               "grouped_conv_transpose", "two_outputs", "softmax_over_channels", "pad_shortcut_opset13")  # fmt: skip
LABELS = 24


@cache
def traced(name: str) -> Trace:
    model = NETWORKS[name](np.random.default_rng(1))
    return settle_model(model, feeds(model, np.random.default_rng(0), n=2))


def kept_by_layer(trace: Trace, keep: np.ndarray) -> list[tuple[int, int]]:
    return [(int(keep[t.layer.labels].sum()), t.layer.channels) for t in trace.layers]


# --- legalise, on real networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONSTRAINED)
def test_frozen_channels_never_go(name):
    trace = traced(name)
    keep = legalise(trace, range(trace.count), removable(trace))
    assert keep[list(trace.frozen)].all()


@pytest.mark.parametrize("name", CONSTRAINED)
def test_blocks_keep_equally_many(name):
    trace = traced(name)
    for keep in random_keeps(trace, seeds=range(5)):
        for rows in trace.blocks:
            assert len({int(n) for n in keep[rows.ids].sum(axis=1)}) == 1
            assert keep[rows.ids].any(axis=1).all()


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("round_to", [2, 3, 4, 16])
def test_every_layer_keeps_a_multiple_or_everything(name, round_to):
    trace = traced(name)
    order = np.random.default_rng(0).permutation(removable(trace))
    keep = legalise(trace, order.tolist(), order, round_to=round_to)
    assert all(kept % round_to == 0 or kept == channels for kept, channels in kept_by_layer(trace, keep))


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("minimum", [1, 3, 1000])
def test_every_layer_keeps_the_minimum(name, minimum):
    trace = traced(name)
    order = np.random.default_rng(0).permutation(removable(trace))
    keep = legalise(trace, order.tolist(), order, minimum=minimum)
    assert all(kept >= min(minimum, channels) for kept, channels in kept_by_layer(trace, keep))


@pytest.mark.parametrize("name", CONSTRAINED)
def test_no_layer_loses_more_than_was_asked_of_it(name):
    """Blocks share out among themselves what was to go; all in all it never becomes more."""
    trace = traced(name)
    order = np.random.default_rng(0).permutation(removable(trace))
    asked = np.ones(trace.count, dtype=bool)
    asked[order[: len(order) // 2]] = False
    keep = legalise(trace, np.flatnonzero(~asked).tolist(), order)
    for layer in trace.layers:
        assert keep[layer.layer.labels].sum() >= asked[layer.layer.labels].sum()


@pytest.mark.parametrize("name", CONSTRAINED)
def test_empty_wish_removes_nothing(name):
    trace = traced(name)
    assert legalise(trace, [], removable(trace)).all()


def test_wish_without_constraints_is_granted():
    trace = traced("plain")
    order = removable(trace)
    keep = legalise(trace, order[:5].tolist(), order)
    assert np.flatnonzero(~keep).tolist() == order[:5].tolist()


def test_last_channel_in_the_order_comes_back_first():
    """A layer that would lose everything keeps the channel that was to leave last."""
    trace = traced("plain")
    own = trace.layers[0].layer.labels
    order = np.concatenate([own[3:], own[:3], trace.layers[1].layer.labels])
    keep = legalise(trace, own.tolist(), order)
    assert own[keep[own]].tolist() == [own[2]]


# --- legalise, on constraints that no network has ---------------------------------------------------------------------------


def constrained(layers: list[list[int]], rows: list[list[list[int]]], frozen: set[int]) -> Trace:
    base = traced("plain")
    some = base.layers[0]
    made = tuple(
        replace(some, layer=Layer(f"y{k}", f"n{k}", "Conv", f"w{k}", np.array(own))) for k, own in enumerate(layers)
    )
    return replace(base, layers=made, rows=tuple(Rows(np.array(ids), 0) for ids in rows), splits=(), count=LABELS,
                   frozen={label: (Reason("why", "node"),) for label in frozen})  # fmt: skip


label = st.integers(0, LABELS - 1)


@st.composite
def equal_rows(draw):
    width = draw(st.integers(1, 5))
    return draw(st.lists(st.lists(label, min_size=width, max_size=width), min_size=1, max_size=4))


@given(
    st.lists(st.lists(label, min_size=1, max_size=8), min_size=1, max_size=4),
    st.lists(equal_rows(), max_size=4),
    st.sets(label, max_size=4),
    st.permutations(range(LABELS)),
    st.integers(0, LABELS),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 4),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_any_wish_becomes_legal(layers, rows, frozen, order, count, round_to, minimum):
    trace = constrained(layers, rows, frozen)
    asked = order[:count]
    keep = legalise(trace, asked, np.array(order), round_to=round_to, minimum=minimum)
    assert set(np.flatnonzero(~keep).tolist()) <= set(asked) - frozen
    for block in trace.blocks:
        assert len({int(n) for n in keep[block.ids].sum(axis=1)}) == 1
    for kept, channels in kept_by_layer(trace, keep):
        assert kept >= min(minimum, channels)
        assert kept % round_to == 0 or kept == channels
    assert (
        legalise(trace, np.flatnonzero(~keep).tolist(), np.array(order), round_to=round_to, minimum=minimum) == keep
    ).all()


# --- settle -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONSTRAINED)
def test_settled_network_can_follow_recipes_that_were_not_rehearsed(name):
    trace = traced(name)
    for keep in random_keeps(trace, seeds=range(10, 20)):
        follow(trace, keep)


def test_every_frozen_label_of_a_layer_has_a_reason_that_names_a_node():
    for name in CONSTRAINED:
        trace = traced(name)
        for found in trace.frozen.values():
            assert found
            assert all(reason.reason and reason.node for reason in found)


def test_reason_names_the_node_that_stopped_it():
    trace = traced("softmax_over_channels")
    labels = trace.layers[1].layer.labels.tolist()
    assert {reason for x in labels for reason in trace.frozen[x]} == {
        Reason("is normalised over its channels by Softmax", "/softmax_0/Softmax")
    }


def test_layers_may_be_frozen_from_outside():
    """The data half has its own reasons: too few samples, for instance."""
    trace = traced("plain")
    first, second = trace.layers[0].layer, trace.layers[1].layer
    why = Reason("has fewer samples than channels", first.node)
    again = settle(trace.graph, dict(trace.shapes), [(first.output, why)])
    own = next(t.layer.labels for t in again.layers if t.layer.output == first.output)
    assert all(again.frozen[x] == (why,) for x in own.tolist())
    assert counts(again)[0] == second.channels
    assert why.reason in reasons(again)


def test_layers_that_share_channels_are_a_group():
    trace = traced("residual_add")
    groups = {t.layer.node: t.layer.group for t in trace.layers}
    spine = {groups[n] for n in ("/conv_0/Conv", "/conv_2/Conv", "/conv_4/Conv")}
    assert len(spine) == 1
    assert None not in spine
    assert groups["/conv_1/Conv"] is None
    assert groups["/conv_5/Conv"] not in spine | {None}


def test_shuffle_behind_a_dense_layer_whose_order_another_layer_repeats():
    """The gate's own channels are born in the shuffled order, which free blocks would lose: no recipe may be refused."""
    net = Net(np.random.default_rng(0))
    x = net.conv(net.image(size=4), 3, 8)
    x = net.op("Transpose", net.op("Reshape", x, net.const([0, 4, 2, 4, 4])), perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, net.const([0, 8, 4, 4]))
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x), 8, 8, 1))
    model = net.model(net.conv(net.op("Mul", gate, x), 8, 3))
    trace = settle_model(model, feeds(model, np.random.default_rng(0), n=2))
    refused = 0
    for keep in random_keeps(trace, seeds=range(20)):
        try:
            follow(trace, keep)
        except Stuck:
            refused += 1
    assert refused == 0
