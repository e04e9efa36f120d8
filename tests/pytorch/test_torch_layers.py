"""Normalisations, poolings, resizing, recurrent layers and attention: as onnxruntime computes them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import pytest

torch = pytest.importorskip("torch", minversion="2.4")

from torch_support import Row, each_way, gradient, has_slope, module_of, runs_elsewhere, same  # noqa: E402

from pfa_onnx.errors import ModelError  # noqa: E402
from pfa_onnx.torch.ops.resizing import Axis, Way, _by_matrices, _by_torch  # noqa: E402

RNG = np.random.default_rng(0)


def x(*shape, dtype=np.float32):
    return RNG.normal(0, 1, shape).astype(dtype)


def i(*values, dtype=np.int64):
    return np.array(values, dtype)


def floats(*values):
    return np.array(values, np.float32)


def microsoft(op, *operands, outputs=1, **attributes):
    return Row(op, 17, operands, {"domain": "com.microsoft", **attributes}, outputs)


# --- normalisations ---------------------------------------------------------------------------------------------


def norms():
    for opset, shape in [(7, (4, 3)), (9, (2, 3, 5)), (14, (2, 3, 5, 4)), (15, (2, 3, 2, 3, 2))]:
        yield Row("BatchNormalization", opset, [x(*shape), x(3), x(3), x(3), abs(x(3))], {"epsilon": 0.01})
    image = [x(3, 3, 4, 4), x(3), x(3), x(3), abs(x(3))]
    yield Row("BatchNormalization", 15, image, {"training_mode": 1, "momentum": 0.7}, 3)
    for opset, shape in [(6, (2, 3, 5)), (6, (2, 3, 5, 4)), (22, (1, 3, 2, 3, 4))]:
        yield Row("InstanceNormalization", opset, [x(*shape), x(3), x(3)], {"epsilon": 0.01})
    for groups, shape in [(1, (2, 6, 5)), (2, (2, 6, 5, 4)), (3, (1, 6, 1, 1)), (6, (2, 6, 3, 2))]:
        yield Row("GroupNormalization", 21, [x(*shape), x(6), x(6)], {"num_groups": groups})
        yield Row("GroupNormalization", 18, [x(*shape), x(groups), x(groups)], {"num_groups": groups, "epsilon": 0.01})
    y = x(2, 3, 4, 6)
    for axis in (-1, -2, 1):
        shape, outputs = y.shape[axis:], 1 if axis == -1 else 3
        yield Row("LayerNormalization", 17, [y, x(*shape), x(*shape)], {"axis": axis, "epsilon": 0.01}, outputs)
        yield Row("LayerNormalization", 17, [y, x(*shape)], {"axis": axis})
        yield Row("RMSNormalization", 23, [y, x(*shape)], {"axis": axis, "epsilon": 0.01})
        yield Row("SimplifiedLayerNormalization", 17, [y, x(*shape)], {"axis": axis}, 2 if axis == 1 else 1)
    yield from (Row("LayerNormalization", 17, [y, x(*s), x(*s)], {"axis": 2}) for s in [(6,), (3, 1, 1), (4, 1)])
    yield Row("RMSNormalization", 23, [y, x(6)], {"axis": 2})
    yield Row("LRN", 1, [x(2, 7, 4, 4)], {"size": 3})
    yield Row("LRN", 13, [x(2, 7, 4, 4)], {"size": 5, "alpha": 0.3, "beta": 0.6, "bias": 1.5})


# --- poolings ---------------------------------------------------------------------------------------------------


def pool(op, opset, *extents, **attributes):
    return Row(op, opset, [x(2, 3, *extents)], attributes)


def pools():
    both = [("MaxPool", 12, {}), ("AveragePool", 11, {}), ("AveragePool", 19, {"count_include_pad": 1})]
    for (op, opset, count), up in itertools.product(both, (0, 1)):
        more = count | ({"ceil_mode": 1} if up else {})
        yield pool(op, opset, 8, kernel_shape=[3], strides=[2], **more)
        yield pool(op, opset, 7, 8, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], **more)
        yield pool(op, opset, 6, 8, kernel_shape=[2, 3], strides=[3, 2], pads=[0, 1, 1, 2], **more)
        yield pool(op, opset, 7, 8, kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_UPPER", **more)
        yield pool(op, opset, 7, 9, kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER", **more)
        yield pool(op, opset, 7, 9, kernel_shape=[3, 2], strides=[3, 2], auto_pad="VALID", **more)
        yield pool(op, opset, 6, 5, 7, kernel_shape=[2, 3, 2], strides=[2, 2, 2], pads=[1, 0, 1, 0, 1, 0], **more)
    for op, opset in [("MaxPool", 10), ("MaxPool", 22), ("AveragePool", 19), ("AveragePool", 22), ("LpPool", 18)]:
        yield pool(op, opset, 9, 8, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 2, 1])
        yield pool(op, opset, 9, 8, kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER", strides=[2, 1])
        yield pool(op, opset, 9, 8, kernel_shape=[2, 2], dilations=[2, 1], strides=[3, 3], ceil_mode=1)
    yield pool("AveragePool", 19, 6, 6, kernel_shape=[1, 1], strides=[3, 1], auto_pad="SAME_UPPER")
    yield Row("MaxPool", 12, [RNG.integers(0, 255, (1, 2, 7, 7)).astype(np.uint8)], {"kernel_shape": [2, 2]})
    yield pool("AveragePool", 7, 6, 8, kernel_shape=[2, 3], pads=[1, 1, 0, 2], count_include_pad=1)
    yield pool("AveragePool", 10, 6, 8, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 2], ceil_mode=1)
    for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]):
        row = pool("MaxPool", 12, 7, 8, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        yield Row("MaxPool", 12, row.operands, row.attributes, 2)
    yield pool("LpPool", 11, 7, 8, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], p=3)
    for op, extents in itertools.product(
        ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), [(5,), (5, 4), (3, 4, 5)]
    ):
        yield pool(op, 2 if op == "GlobalLpPool" else 1, *extents)
    yield pool("GlobalLpPool", 2, 3, 4, p=3)


# --- resizing ---------------------------------------------------------------------------------------------------

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
SCALES = [(1, 1, 2, 2), (1, 1, 3, 2.5), (1, 1, 0.6, 0.45), (1, 1, 1.7, 1)]


def resized(opset, scales=None, sizes=None, shape=(2, 3, 7, 8), **attributes):
    operands = [x(*shape), floats() if opset == 11 else None]
    operands += [floats(*scales)] if scales else [floats() if opset == 11 else None, i(*sizes)]
    return Row("Resize", opset, operands, attributes)


def resizes():
    for where, scales in itertools.product(COORDINATES, SCALES):
        ways = {"opset": 19 if where == "half_pixel_symmetric" else 13, "scales": scales}
        ways["coordinate_transformation_mode"] = where
        yield from (resized(mode=mode, **ways) for mode in ("linear", "cubic"))
        yield resized(mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5, **ways)
        if where != "half_pixel_symmetric":
            nearest = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
            yield from (resized(mode="nearest", nearest_mode=n, **ways) for n in nearest)
    for opset, sizes in itertools.product((11, 13, 18, 19), ((2, 3, 9, 4), (2, 3, 1, 15), (2, 3, 7, 8))):
        for mode, where in [("linear", "pytorch_half_pixel"), ("cubic", "align_corners"), ("nearest", "asymmetric")]:
            yield resized(opset, sizes=sizes, mode=mode, coordinate_transformation_mode=where)
    yield resized(11, (1, 1, 2, 2), coordinate_transformation_mode="tf_half_pixel_for_nn")
    for shape, scales in [((7, 8), (2, 0.7)), ((2, 3, 7), (1, 1, 1.6)), ((2, 5, 6, 3), (1, 2, 1.5, 1))]:
        yield from (resized(13, scales, shape=shape, mode=mode) for mode in ("nearest", "linear"))
    yield resized(13, (1, 1, 2, 1.5, 0.5), shape=(1, 2, 4, 5, 6), mode="linear")
    for mode, axes, where in itertools.product(("linear", "cubic"), ([2, 3], [3, 2]), COORDINATES[:4]):
        way = {"mode": mode, "axes": axes, "coordinate_transformation_mode": where}
        yield resized(18, (0.3, 2), antialias=1, **way)
        yield resized(19, (0.6, 0.45), antialias=1, exclude_outside=1, **way)
    for policy in ("not_larger", "not_smaller", "stretch"):
        yield resized(18, sizes=(12, 5), axes=[2, 3], mode="linear", keep_aspect_ratio_policy=policy)
        yield resized(19, sizes=(3, 20), axes=[3, 2], mode="nearest", keep_aspect_ratio_policy=policy)
    for scales, mode in itertools.product([(1, 1, 2, 2), (1, 1, 1.6, 2.5), (1, 1, 0.5, 0.7)], ("nearest", "linear")):
        yield Row("Resize", 10, [x(2, 3, 7, 8), floats(*scales)], {"mode": mode})
        if min(scales) >= 1:
            yield Row("Upsample", 9, [x(2, 3, 7, 8), floats(*scales)], {"mode": mode})
            yield Row("Upsample", 7, [x(2, 3, 7, 8)], {"mode": mode, "scales": [float(s) for s in scales]})


# --- recurrent layers -------------------------------------------------------------------------------------------


def recurrent():
    steps, batch, wide, hidden = 6, 3, 4, 5
    own = {"LSTM": {}, "GRU": {"linear_before_reset": 1}, "RNN": {}}
    other = {"LSTM": {}, "GRU": {}, "RNN": {"activations": ["Relu"]}}
    for (op, gates), opset in itertools.product({"LSTM": 4, "GRU": 3, "RNN": 1}.items(), (7, 22)):
        for direction, lengths in itertools.product(("forward", "reverse", "bidirectional"), (None, (6, 2, 4))):
            ways = 2 if direction == "bidirectional" else 1
            w, r, b = x(ways, gates * hidden, wide), x(ways, gates * hidden, hidden), x(ways, 2 * gates * hidden)
            states = [x(ways, batch, hidden) for _ in range(2 if op == "LSTM" else 1)]
            sizes = None if lengths is None else i(*lengths, dtype=np.int32)
            usual = {"hidden_size": hidden, "direction": direction}
            more = other[op] | ({"activations": ["Relu"] * ways} if op == "RNN" else {})
            outputs = 3 if op == "LSTM" else 2
            peepholes = [x(ways, 3 * hidden)] if op == "LSTM" else []
            image = x(steps, batch, wide)
            yield Row(op, opset, [image, w, r, None, sizes] if sizes is not None else [image, w, r], usual | own[op])
            yield Row(op, opset, [image, w, r, b, sizes, *states], usual | own[op], outputs)
            yield Row(op, opset, [image, w, r, b, sizes, *states, *peepholes], usual | more, outputs)
    full = [x(6, 3, 4), x(1, 20, 4), x(1, 20, 5), x(1, 40), i(6, 6, 6, dtype=np.int32)]
    yield Row("LSTM", 14, full, {"hidden_size": 5}, 3)


# --- attention --------------------------------------------------------------------------------------------------


def attention():
    for shared, causal, cap in itertools.product((1, 2, 4), (0, 1), (0.0, 2.0)):
        keys, heads = (5 if causal else 7), 4 // shared
        more = {"is_causal": causal, "softcap": cap}
        bars = RNG.random((5, keys)) > 0.3
        bars[2] = False  # a query that may attend nothing
        for mask in ([], [bars], [x(5, keys)], [x(4, 5, keys)], [x(2, 1, 5, keys)]):
            apart = [x(2, 4, 5, 8), x(2, heads, keys, 8), x(2, heads, keys, 6), *mask]
            yield Row("Attention", 23, apart, more)
            flat = [x(2, 5, 32), x(2, keys, 8 * heads), x(2, keys, 6 * heads), *mask]
            yield Row("Attention", 24, flat, more | {"q_num_heads": 4, "kv_num_heads": heads})
    yield Row("Attention", 23, [x(1, 2, 3, 4) for _ in range(3)], {"scale": 0.3})
    yield Row("Attention", 23, [x(1, 2, 3, 4), x(1, 2, 6, 4), x(1, 2, 6, 4)], {"is_causal": 1})
    for turned, part, flat in itertools.product((0, 1), (0, 4), (0, 1)):
        more = {"interleaved": turned, "num_heads": 3} | ({"rotary_embedding_dim": part} if part else {})
        image, half = x(2, 5, 24) if flat else x(2, 3, 5, 8), (part or 8) // 2
        yield Row("RotaryEmbedding", 23, [image, x(2, 5, half), x(2, 5, half)], more)
        places = RNG.integers(0, 9, (2, 5))
        yield Row("RotaryEmbedding", 23, [image, x(9, half), x(9, half), places], more)
        yield microsoft("RotaryEmbedding", image, places, x(9, half), x(9, half), **more)
        yield microsoft("RotaryEmbedding", image, i(2), x(9, half), x(9, half), **more)


# --- onnxruntime's own ------------------------------------------------------------------------------------------


def fused():
    acts = {"Relu": [], "LeakyRelu": [0.2], "Clip": [-0.3, 0.4], "HardSigmoid": [0.2, 0.4], "Tanh": [], "Sigmoid": []}
    for name, given in acts.items():
        more = {"activation": name} | ({"activation_params": given} if given else {})
        yield microsoft("FusedConv", x(2, 3, 6, 6), x(4, 3, 3, 3), x(4), **more)
        yield microsoft("FusedConv", x(2, 3, 6, 6), x(4, 3, 3, 3), x(4), x(2, 4, 6, 6), pads=[1] * 4, **more)
    for name, alpha, beta in [
        ("Relu", 0.0, 0.0),
        ("LeakyRelu", 0.3, 0.0),
        ("HardSigmoid", 0.2, 0.4),
        ("Elu", 0.7, 0.0),
    ]:
        more = {"activation": name, "activation_alpha": alpha, "activation_beta": beta}
        yield microsoft("FusedGemm", x(2, 3), x(4, 3), x(4), transB=1, alpha=0.5, **more)
    for flip_a, flip_b, batch_a, batch_b in itertools.product((0, 1), repeat=4):
        a, b = x(2, 5, 4, 3), x(2, 5, 3, 6)
        a, b = a.swapaxes(2, 3) if flip_a else a, b.swapaxes(2, 3) if flip_b else b
        a, b = np.moveaxis(a, 2, 0) if batch_a else a, np.moveaxis(b, 2, 0) if batch_b else b
        more = {"transA": flip_a, "transB": flip_b, "transBatchA": batch_a, "transBatchB": batch_b}
        yield microsoft("FusedMatMul", np.ascontiguousarray(a), np.ascontiguousarray(b), alpha=0.7, **more)
    y = x(2, 3, 8)
    yield from (microsoft(op, y) for op in ("Gelu", "FastGelu", "QuickGelu"))
    yield from (microsoft(op, y, x(8)) for op in ("FastGelu", "BiasGelu"))
    yield microsoft("QuickGelu", y, alpha=1.0)
    for skip in (x(2, 3, 8), x(1, 3, 8), x(3, 8)):
        yield microsoft("SkipLayerNormalization", y, skip, x(8), epsilon=1e-5)
        yield microsoft("SkipLayerNormalization", y, skip, x(8), x(8), x(8))
        yield microsoft("SkipSimplifiedLayerNormalization", y, skip, x(8), epsilon=1e-5)
        yield microsoft("SkipSimplifiedLayerNormalization", y, skip, x(8), x(8))
    ids, tables = i(*RNG.integers(0, 6, (2, 5)), dtype=np.int32), [x(9, 8), x(6, 8)]
    kinds, mask = ids % 2, i([1, 1, 1, 0, 0], [1] * 5, dtype=np.int32)
    yield microsoft("EmbedLayerNormalization", ids, None, *tables, None, x(8), x(8), outputs=2)
    yield microsoft("EmbedLayerNormalization", ids, kinds, *tables, x(2, 8), x(8), x(8), mask, outputs=3)
    yield microsoft("EmbedLayerNormalization", ids, None, *tables, None, x(8), x(8), None, ids, outputs=2)
    ends, bars = i(3, 5, dtype=np.int32), (RNG.random((2, 5, 5)) > 0.3).astype(np.int32)
    masks = [None, ends, i(3, 5, 1, 0, dtype=np.int32), mask, bars]
    for bar, causal, extra in itertools.product(masks, (0, 1), (None, x(1, 3, 5, 5))):
        more = {"num_heads": 3, "unidirectional": causal}
        operands = [x(2, 5, 12), x(12, 36) / 3, x(36), bar, *([] if extra is None else [None, extra])]
        yield microsoft("Attention", *operands, **more)
        if bar is None or bar.ndim > 1:
            flat = [x(2, 5, 12) for _ in range(3)]
            yield microsoft("MultiHeadAttention", *flat, x(36), bar, *([] if extra is None else [extra]), **more)
    yield microsoft("Attention", x(2, 5, 12), x(12, 30), x(30), num_heads=3, qkv_hidden_sizes=[12, 12, 6], scale=0.2)
    yield microsoft("MultiHeadAttention", x(2, 5, 12), x(2, 3, 7, 4), x(2, 3, 7, 4), num_heads=3)


LAYERS = [*norms(), *pools(), *resizes(), *recurrent(), *attention(), *fused()]


@pytest.mark.parametrize(("row", "fixed"), each_way(LAYERS))
def test_layers_are_onnxruntimes(row, fixed):
    same(*row.model(fixed=fixed))


@pytest.mark.parametrize(("row", "fixed"), each_way(LAYERS[::3]))
def test_layers_run_elsewhere(row, fixed):
    runs_elsewhere(row, fixed=fixed)


def is_smooth(row):
    chosen = {str(value).strip("[]'") for value in row.attributes.values()}
    return row.operands[0].dtype == np.float32 and row.op != "MaxPool" and not any("Relu" in c for c in chosen)


SLOPED = [row for row in LAYERS[::2] if is_smooth(row)]


@pytest.mark.parametrize("row", SLOPED, ids=str)
def test_layers_have_slopes(row):
    has_slope(*row.model(fixed=True))


def parsed(text, *, opset=17):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>{text}')


def test_maxima_go_back_where_they_were():
    text = "one (float[2,3,7,9] x) => (float[n,c,h,w] y) {s} {{ a, k = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) "
    text += "y = MaxUnpool<kernel_shape=[2,2],strides=[2,2]>(a, k{given}) }}"
    same(parsed(text.format(s="<int64[4] s = {2,3,7,9}>", given=", s"), opset=12), {"x": x(2, 3, 7, 9)})
    same(parsed(text.replace("7,9", "6,8").format(s="", given=""), opset=11), {"x": x(2, 3, 6, 8)})


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_sum_is_an_output(op):
    y = x(2, 3, 8)
    text = "one (float[2,3,8] x, float[2,3,8] z, float[8] g) => (float[2,3,8] y, float[2,3,8] s) "
    same(parsed(text + f'{{ y, "", "", s = com.microsoft.{op}(x, z, g) }}'), {"x": y, "z": y[::-1], "g": y[0, 0]})


SMALL = [x(6, 3, 4), x(1, 20, 4), x(1, 20, 5)]
REFUSED = {
    "more than three axes": pool("MaxPool", 12, 2, 2, 2, 2, kernel_shape=[1] * 4),
    "indices column by column": Row("MaxPool", 12, [x(1, 2, 3, 3)], {"kernel_shape": [2, 2], "storage_order": 1}, 2),
    "an even size": Row("LRN", 13, [x(2, 7, 4, 4)], {"size": 4}),
    "spatial 0": Row("BatchNormalization", 7, [x(2, 3), x(3), x(3), x(3), x(3)], {"spatial": 0}),
    "coordinate_transf.* tf_crop": resized(13, (2, 2), coordinate_transformation_mode="tf_crop_and_resize"),
    "layout 1": Row("LSTM", 14, SMALL, {"hidden_size": 5, "layout": 1}),
    "clip": Row("GRU", 14, SMALL, {"hidden_size": 5, "clip": 1.0}),
    "coupled input and forget gates": Row("LSTM", 14, SMALL, {"hidden_size": 5, "input_forget": 1}),
    "activations elu": Row("RNN", 14, SMALL, {"hidden_size": 5, "activations": ["Elu"]}),
    "a cache of keys": Row("Attention", 23, [x(1, 2, 3, 4)] * 3 + [None] + [x(1, 2, 3, 4)] * 2, {}),
    "activation Round": microsoft("FusedConv", x(2, 3, 6, 6), x(4, 3, 3, 3), activation="Round"),
    "the mean or the deviation": microsoft("SkipLayerNormalization", x(2, 8), x(2, 8), x(8), outputs=2),
    "rotary embedding": microsoft("Attention", x(2, 5, 12), x(12, 36), x(36), num_heads=3, do_rotary=1),
    "queries, keys and values in one": microsoft("MultiHeadAttention", x(2, 5, 3, 3, 4), num_heads=3),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_made_is_named(reason):
    model, _ = REFUSED[reason].model(fixed=False)
    with pytest.raises(ModelError, match=f"{REFUSED[reason].op} with .*{reason}"):
        module_of(model)


def test_layers_have_weights():
    for row, wanted in [
        (Row("LSTM", 14, [x(6, 3, 4), x(1, 20, 4), x(1, 20, 5), x(1, 40)], {"hidden_size": 5}), 3),
        (Row("GroupNormalization", 21, [x(2, 6, 5), x(6), x(6)], {"num_groups": 2}), 2),
        (microsoft("Attention", x(2, 5, 12), x(12, 36), x(36), num_heads=3), 2),
    ]:
        assert len(list(module_of(row.model(fixed=True)[0]).parameters())) == wanted


def test_running_statistics_learn_the_batch():
    y = x(50, 3, 4)
    model, feeds = Row("BatchNormalization", 15, [y, *np.ones((4, 3), np.float32)], {"momentum": 0.0}).model(fixed=True)
    module = module_of(model)
    made = module.train()(**feeds)
    assert np.allclose(made.detach().mean((0, 2)), 1, atol=1e-5)
    assert np.allclose(module.state_dict()["x3"], y.mean((0, 2)), atol=1e-5)


TORCHS = [
    *((Way("nearest", "asymmetric", near), (7, extent)) for near, extent in [("floor", 14), ("simple", 21)]),
    *((Way("linear", where), (8, extent)) for where, extent in zip(COORDINATES[:3], (16, 3, 13), strict=True)),
    *((Way("cubic", where), (7, 14)) for where in ("half_pixel", "align_corners")),
]


@pytest.mark.parametrize(("way", "extents"), TORCHS)
def test_torch_resizes_what_it_can(way, extents):
    axes = tuple(Axis(axis, *extents, extents[1] / extents[0]) for axis in (2, 3))
    image = torch.from_numpy(x(2, 3, extents[0], extents[0]))
    own = _by_torch(way, axes, 4)
    assert own is not None
    torch.testing.assert_close(own(image), _by_matrices(way, axes, image.device, image.dtype)(image))


def test_empty_windows_have_slopes():
    for op, attributes in [("LpPool", {"kernel_shape": [2, 2]}), ("GlobalLpPool", {})]:
        assert not gradient(*Row(op, 11, [np.zeros((1, 1, 4, 4), np.float32)], attributes).model(fixed=False)).any()
