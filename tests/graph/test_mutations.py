"""Rules and engine, broken on purpose: masked equivalence must notice.

A mutant is caught when the cut model differs, does not run, cannot be made, or when labels are frozen that were free.
A mutant that survives says that the other tests of this folder would not notice that mistake either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, Net, feeds
from onnx import ModelProto
from support import counts, settle_model, worst_equivalence

from pfa_onnx.graph import cut as cut_module
from pfa_onnx.graph import follow as follow_module
from pfa_onnx.graph import ops
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.labels import Labels
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import RULES, attention, contraction
from pfa_onnx.graph.trace import Tracer

NOTICED = 1e-3

Mutate = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, tuple[Callable[[], ModelProto], Mutate]] = {}


def mutant(name: str, network: str | Callable[[Net], str | ModelProto], mutate: Mutate) -> None:
    MUTANTS[name] = (
        lambda: NETWORKS[network](np.random.default_rng(1)) if isinstance(network, str) else small(network),
        mutate,
    )


def small(build: Callable[[Net], str | ModelProto]) -> ModelProto:
    net = Net(np.random.default_rng(1))
    x = build(net)
    return x if isinstance(x, ModelProto) else net.model(x)


# --- how to break a rule ------------------------------------------------------------------------------------------------


def with_methods(op: str, **methods: Callable[..., Any]) -> Mutate:
    """Run the operator's rule with some of what it may say replaced: `method(context, original, *arguments)`."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        rule = RULES["", op]

        def broken(c: Context) -> None:
            for name, method in methods.items():
                setattr(c, name, lambda *args, _m=method, _o=getattr(c, name), **more: _m(c, _o, *args, **more))
            try:
                rule(c)
            finally:
                for name in methods:
                    delattr(c, name)

        patch.setitem(RULES, ("", op), broken)

    return mutate


def out_changed(op: str, change: Callable[[Marked], Marked]) -> Mutate:
    return with_methods(op, out=lambda c, out, marked, k=0: out(change(marked), k))


def rearranged(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Marked], Marked]:
    return lambda x: replace(x, ids=change(x.ids))


def without(op: str, *names: str) -> Mutate:
    """The rule does not say that at all."""
    return with_methods(op, **dict.fromkeys(names, lambda c, original, *args, **more: None))


def first_without_ties(c: Context, join: Callable, marks: list[Marked]) -> Marked:
    return max(marks, key=lambda m: m.ids.size)


def no_freezing(c: Context, freeze: Callable, *args: Any) -> None:
    """Pretend that channels do not depend on one another."""


def attribute(name: str, value: object) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = Context.attr
        patch.setattr(Context, "attr", lambda c, key, default: value if key == name else original(c, key, default))

    return mutate


def patched(target: object, name: str, value: object) -> Mutate:
    return lambda patch: patch.setattr(target, name, value)


# --- networks in which one operator alone matters -------------------------------------------------------------------------


def two_layers_chosen_from(net: Net) -> str:
    image = net.image()
    one, other = net.conv(image, 3, 8), net.conv(image, 3, 8)
    return net.conv(net.op("Where", net.op("Greater", one, net.const(0.0)), one, other), 8, 4)


def between(op: str, *shapes: int, **attributes: object) -> Callable[[Net], str]:
    """A layer, the operator with constants of these sizes, a layer."""

    def build(net: Net) -> str:
        x = net.conv(net.image(size=8), 3, 8)
        return net.conv(net.op(op, x, *[net.const(net.vector(n, 0.5, 1.5)) for n in shapes], **attributes), 8, 4)

    return build


def gated_by_the_largest_channel(net: Net) -> str:
    x = net.conv(net.image(), 3, 8)
    return net.conv(net.op("Mul", x, net.op("ReduceMax", x, axes=[1], keepdims=1)), 8, 4)


def normalised_tokens(net: Net) -> str:
    x = net.op("MatMul", net.input(["N", 5, 7], "tokens"), net.const(net.weights(7, 12)))
    x = net.op("LayerNormalization", x, net.const(net.vector(12, 0.5, 1.5)))
    return net.op("MatMul", x, net.const(net.weights(12, 4)))


# --- rules ----------------------------------------------------------------------------------------------------------------

mutant("Concat reversed", "concat", out_changed("Concat", rearranged(lambda ids: np.flip(ids, axis=1))))
mutant("Concat one position off", "concat", out_changed("Concat", rearranged(lambda ids: np.roll(ids, 1, axis=1))))
mutant("Split sizes reversed", "split_uneven", with_methods(
    "Split", bounds=lambda c, bounds, i, axis, ends: bounds(i, axis, [0, *np.cumsum(np.diff(ends)[::-1]).tolist()])))  # fmt: skip
mutant(
    "Split pieces exchanged", "split_opset13", with_methods("Split", out=lambda c, out, marked, k=0: out(marked, 1 - k))
)
mutant(
    "Slice one position off", "slice_channels", out_changed("Slice", rearranged(lambda ids: np.roll(ids, 1, axis=1)))
)
mutant(
    "Gather in the original order",
    "gather_permutation",
    with_methods("Gather", positions=lambda c, positions, i, axis, wanted: np.sort(positions(i, axis, wanted))),
)
mutant("Gather identity", "gather_permutation", out_changed("Gather", rearranged(lambda ids: np.sort(ids, axis=1))))
mutant(
    "Pad on the other side", "pad_shortcut_opset13", out_changed("Pad", rearranged(lambda ids: np.flip(ids, axis=1)))
)
mutant(
    "Flatten tiled instead of repeated",
    "flatten_gemm_nchw",
    out_changed(
        "Flatten", rearranged(lambda ids: ids.reshape(8, -1).T.reshape(1, -1) if ids.size == 128 else np.flip(ids))
    ),
)
mutant("Reshape transposed", "channel_shuffle_of_a_dense_layer", out_changed(
    "Reshape", rearranged(lambda ids: np.swapaxes(ids.reshape(1, 6, 2, 1, 1), 1, 2) if ids.shape[1:3] == (2, 6) else ids)))  # fmt: skip
mutant("Transpose in order", "nhwc", with_methods("Transpose", attr=lambda c, attr, name, default: [0, 1, 2, 3]))
mutant("shuffle forgotten", "channel_shuffle", with_methods("Transpose", out=lambda c, out, marked, k=0: out(
    replace(marked, ids=np.sort(marked.ids.ravel()).reshape(marked.ids.shape)), k)))  # fmt: skip
mutant(
    "Tile repeated instead of tiled",
    "tile_and_expand",
    out_changed("Tile", rearranged(lambda ids: np.sort(ids, axis=1))),
)
mutant("DepthToSpace in the other mode", "depth_to_space_crd", attribute("mode", b"DCR"))
mutant(
    "SpaceToDepth repeated instead of tiled",
    "space_to_depth",
    out_changed("SpaceToDepth", rearranged(lambda ids: np.sort(ids, axis=1))),
)
mutant(
    "Squeeze of channels reversed",
    "conv1d_by_unsqueeze",
    out_changed("Squeeze", rearranged(lambda ids: np.flip(ids, axis=1))),
)

mutant("Add one-sided", "residual_add", with_methods("Add", join=first_without_ties))
mutant("Mul one-sided", "squeeze_excite_pool", with_methods("Mul", join=first_without_ties))
mutant("Where one-sided", two_layers_chosen_from, with_methods("Where", join=first_without_ties))
mutant("constants of Mul do not follow", "layer_scale", without("Mul", "follow"))
mutant("BatchNormalization is not cut", "plain", without("BatchNormalization", "bind"))
mutant("bias forgotten", "gemm_plain", with_methods("Gemm", follow=lambda c, follow, i, x: None))
mutant(
    "bias of a convolution forgotten",
    "residual_sum",
    with_methods("Conv", bind=lambda c, bind, i, *factors: bind(i, *factors) if i != 2 else None),
)
mutant(
    "Conv reads in reversed order",
    "concat",
    with_methods("Conv", channels=lambda c, channels, x, axis: channels(x, axis)[::-1]),
)
mutant("Conv makes one label for all", "residual_add", with_methods(
    "Conv", vector_out=lambda c, vector_out, labels, axis, k=0: vector_out(np.roll(labels, 1), axis, k)))  # fmt: skip
mutant("transB ignored", "gemm_trans_b", attribute("transB", 0))
mutant("transA ignored", "gemm_trans_a", attribute("transA", 0))
mutant("grouped convolution ignoring groups", "grouped_conv", with_methods(
    "Conv", attr=lambda c, attr, name, default: 1 if name == "group" else attr(name, default)))  # fmt: skip
mutant("depthwise multiplier tiled", "depthwise_multiplier", lambda patch: patch.setattr(
    contraction, "_depthwise", lambda c, arriving, shape, groups, *, transposed: (c.rewrite_attr("group", len(arriving)), np.tile(arriving, 2))[1]
    if groups > 1 else None))  # fmt: skip
mutant("depthwise convolution keeps its group", "depthwise", without("Conv", "rewrite_attr"))
mutant("groups need not be equal", "grouped_conv", without("Conv", "blocks"))
mutant("Q K^T ties nothing", "attention", with_methods("MatMul", join=first_without_ties))
mutant("sizes are not rewritten: Reshape", "reshape_constant", without("Reshape", "rewrite"))
mutant("sizes are not rewritten: Split", "split_opset13", without("Split", "rewrite"))
mutant("sizes are not rewritten: Slice", "slice_channels", without("Slice", "rewrite"))
mutant("sizes are not rewritten: Pad", "pad_shortcut_opset13", without("Pad", "rewrite"))
mutant("sizes are not rewritten: Expand", "tile_and_expand", without("Expand", "rewrite"))
mutant("sizes are not rewritten: Resize", "resize_constant_sizes", without("Resize", "rewrite"))
mutant("computed sizes enter the arithmetic", "count_as_number", without("Div", "steady"))

for _op, _network in (
    ("Softmax", "softmax_over_channels"), ("LRN", between("LRN", size=3, alpha=1.0)), ("ReduceMean", "layer_norm_decomposed"), ("ReduceMax", gated_by_the_largest_channel),
    ("CumSum", "cumulative_sum"), ("ArgMax", "arg_max"), ("LayerNormalization", normalised_tokens),
):  # fmt: skip
    mutant(
        f"{_op} over channels taken for element-wise",
        _network,
        with_methods(_op, freeze_along=no_freezing, freeze=no_freezing),
    )


def elementwise(c: Context) -> None:
    """What other tools do with operators that they do not know."""
    inputs = [c.mark(i) for i in c.activations()]
    c.out(inputs[0]) if inputs else c.opaque("nothing")


def unknown_but_guessed(op: str) -> Mutate:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        patch.delitem(RULES, ("", op), raising=False)
        patch.setattr(ops, "unknown", elementwise)

    return mutate


mutant(
    "unknown operator taken for element-wise: ScatterElements",
    "scatter_channels",
    unknown_but_guessed("ScatterElements"),
)
mutant("unknown operator taken for element-wise: Softmax", between("Softmax", axis=1), unknown_but_guessed("Softmax"))
mutant("unknown operator taken for element-wise: Gather", "gather_permutation", unknown_but_guessed("Gather"))


def rows_written_into_another_layer(net: Net) -> str:
    image = net.image(size=8)
    x, y = net.conv(image, 3, 8), net.conv(image, 3, 8)
    places = net.op("ArgMax", net.conv(image, 3, 8), axis=2)
    y = net.op("Slice", y, *(net.const([n]) for n in (0, 1, 2)))
    return net.conv(net.op("ScatterElements", x, places, y, axis=2), 8, 4)


def channels_written_into_another_layer(net: Net) -> str:
    image = net.image(size=8)
    x, y = net.conv(image, 3, 8), net.conv(image, 3, 8)
    places = net.const(np.broadcast_to(net.rng.permutation(8).reshape(1, 8, 1, 1), (2, 8, 8, 8)))
    return net.conv(net.op("ScatterElements", x, places, y, axis=1), 8, 4)


def a_sample_written_into_another(net: Net) -> str:
    image = net.image(size=8)
    x, first = net.conv(image, 3, 8), net.op("Gather", net.conv(image, 3, 8), net.const([0]), axis=0)
    place = net.op("ArgMax", net.op("ReduceMean", image, axes=[1, 2, 3], keepdims=0), axis=0)
    places = net.op("Expand", net.op("Reshape", place, net.const([1, 1, 1, 1])), net.const([1, 8, 8, 8]))
    return net.conv(net.op("ScatterElements", x, places, first, axis=0), 8, 4)


def samples_written_into_zeros(net: Net) -> str:
    x = net.conv(net.image(size=24), 3, 8)
    places = net.op("Expand", net.const([[[[1]]], [[[0]]]]), net.op("Shape", x))
    x = net.op("ScatterElements", net.op("ConstantOfShape", net.const([2, 8, 24, 24])), places, x, axis=0)
    return net.conv(x, 8, 4)


mutant(
    "ScatterElements one-sided",
    rows_written_into_another_layer,
    with_methods("ScatterElements", join=first_without_ties),
)
mutant("ScatterElements along another axis", channels_written_into_another_layer, with_methods(
    "ScatterElements", attr=lambda c, attr, name, default: 2))  # fmt: skip
mutant("ScatterElements: constants do not follow", samples_written_into_zeros, without("ScatterElements", "follow"))
mutant("sizes are not rewritten: places", a_sample_written_into_another, without("Expand", "rewrite"))


def tiled_heads(x: Marked, times: int) -> Marked:
    ids = np.concatenate([x.ids] * times, axis=1) if x.varies(1) else x.ids
    return Marked(ids, (x.shape[0], x.shape[1] * times, *x.shape[2:]), x.axes)


mutant(
    "Attention: its scale is not written down", "attention_operator_heads_apart", without("Attention", "rewrite_attr")
)
mutant("Attention: Q and K are not tied", "attention_operator", with_methods("Attention", join=first_without_ties))
mutant("Attention: heads need not be equal", "attention_operator", without("Attention", "blocks"))
mutant(
    "Attention: queries grouped the other way",
    "attention_operator_heads_apart",
    patched(attention, "_spread", tiled_heads),
)
mutant(
    "Attention: the bias of Q is not zeroed",
    "transformer_block_fused",
    patched(attention, "Factor", lambda ids, role: Factor(ids)),
)
mutant("RotaryEmbedding: other pairs", "attention_operator", attribute("interleaved", 1))
mutant(
    "RotaryEmbedding: one angle for each head",
    "attention_operator",
    patched(attention, "_pairs", lambda c, labels, turned, head: labels[: turned // 2]),
)
mutant("RotaryEmbedding: angles are not cut", "attention_operator", without("RotaryEmbedding", "bind"))
mutant(
    "DeformConv: bias forgotten",
    "deformable",
    with_methods("DeformConv", bind=lambda c, bind, i, *factors: bind(i, *factors) if i != 3 else None),
)
mutant("Col2Im: a block may lose a part", "deformable", without("Col2Im", "same"))
mutant(
    "Trilu over channels taken for element-wise",
    lambda net: net.op(
        "MatMul",
        net.op("Trilu", net.op("MatMul", net.input(["N", 5, 7], "tokens"), net.const(net.weights(7, 12)))),
        net.const(net.weights(12, 4)),
    ),
    with_methods("Trilu", freeze_along=no_freezing, out=lambda c, out, marked, k=0: out(c.mark(0), k)),
)


# --- engine ---------------------------------------------------------------------------------------------------------------


def outputs_not_frozen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracer, "run", Context.run)


def no_union(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Labels, "same", lambda self, one, other: None)


mutant("graph outputs are not frozen", "plain", outputs_not_frozen)
mutant("nothing is ever tied", "residual_add", no_union)
mutant(
    "all readers of a shared constant get one part",
    "shared_prelu_slope",
    patched(cut_module.Cutter, "_signature", lambda self, use: b"@"),
)
mutant(
    "the wrong channels are kept",
    "bn_after_relu",
    patched(
        cut_module,
        "gather_step",
        lambda array, axes, at, extents: np.take(array, (at + 1) % array.shape[axes[0]], axes[0]),
    ),
)
mutant(
    "bodies of If read nothing",
    "if_reads_outer",
    lambda patch: patch.setattr("pfa_onnx.graph.walk.captured", lambda node: []),
)


# --- the oracle -----------------------------------------------------------------------------------------------------------


@cache
def subject(name: str) -> tuple[ModelProto, dict[str, np.ndarray], tuple[int, int]]:
    model = MUTANTS[name][0]()
    inputs = feeds(model, np.random.default_rng(0), n=2)
    return model, inputs, counts(settle_model(model, inputs))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, monkeypatch):
    model, inputs, may_go = subject(name)
    MUTANTS[name][1](monkeypatch)
    try:
        trace = settle_model(model, inputs)
        error = worst_equivalence(trace, inputs, shares=(0.5, 0.8))
    except Exception:  # noqa: BLE001 - a mutant may fail in any way
        return
    assert error > NOTICED or counts(trace)[0] < may_go[0]


@pytest.mark.parametrize(
    "name", ["plain", "residual_add", "concat", "flatten_gemm_nchw", "attention", "attention_operator"]
)
def test_oracle_sees_every_read_that_is_not_masked(name, monkeypatch):
    """Without the zeros the masked model is the original, and no cut model is equal to that."""
    model = NETWORKS[name](np.random.default_rng(1))
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs)
    monkeypatch.setattr(follow_module.Follower, "_note_reads", lambda self, i: None)
    monkeypatch.setattr(follow_module.Follower, "summed", lambda self, i: None)
    assert worst_equivalence(trace, inputs, shares=(0.5,)) > NOTICED
