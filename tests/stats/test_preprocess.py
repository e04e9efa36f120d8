"""Numbers, not shapes: every preset against the formula written out in numpy and Pillow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.imageplan import fit
from pfa_onnx.stats.images import apply
from pfa_onnx.stats.preprocess import PRESETS, make_preprocess

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def spec(*shape, dtype="float32"):
    return InputSpec("x", shape, np.dtype(dtype))


def picture(width, height, mode="RGB", seed=0):
    channels = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)


def prepare(choice, shape, image, dtype="float32", **overrides):
    return apply(fit(make_preprocess(choice, **overrides), spec(*shape, dtype=dtype)), image, name="a.png")


# --- presets ---


@pytest.mark.parametrize(("width", "height"), [(40, 32), (32, 40), (64, 33), (36, 36), (20, 25)])
def test_imagenet_is_torchvisions_resize_and_centre_crop(width, height):
    image = picture(width, height)
    short = int(28 / 0.875)  # 32
    wide, tall = (int(short * width / height), short) if width > height else (short, int(short * height / width))
    resized = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = round((wide - 28) / 2), round((tall - 28) / 2)
    cut = np.asarray(resized)[top : top + 28, left : left + 28]
    expected = ((cut / 255 - MEAN) / STD).transpose(2, 0, 1)
    result = prepare("imagenet", (None, 3, 28, 28), image)
    assert result.dtype == np.float32
    assert result.shape == (3, 28, 28)
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_inception_maps_to_minus_one_and_one():
    assert prepare("inception", (1, 3, 8, 8), Image.new("RGB", (9, 9), (0, 0, 0))).max() == -1
    np.testing.assert_allclose(
        prepare("inception", (1, 3, 8, 8), Image.new("RGB", (9, 9), (255, 255, 255))), 1, atol=1e-6
    )


def test_unit_stretches_to_the_models_size():
    image = picture(40, 20)
    expected = np.asarray(image.resize((16, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(prepare("unit", (1, 3, 12, 16), image), expected, atol=1e-7)


def test_raw_keeps_pixels_and_refuses_another_size():
    image = picture(16, 12)
    np.testing.assert_array_equal(prepare("raw", (1, 3, 12, 16), image), np.asarray(image).transpose(2, 0, 1))
    np.testing.assert_array_equal(prepare("raw", (1, 3, None, None), image), np.asarray(image).transpose(2, 0, 1))
    with pytest.raises(DataError, match="images become 3x12x16 but input 'x' is 3x28x28") as caught:
        prepare("raw", (1, 3, 28, 28), image)
    assert caught.value.at == "a.png -> input 'x'"


@pytest.mark.parametrize(
    ("shape", "dtype", "name"),
    [
        ((1, 3, 32, 32), "float32", "imagenet"),
        ((1, 3, 32, 32), "float16", "imagenet"),
        ((1, 32, 32, 3), "float32", "imagenet"),
        ((1, 1, 32, 32), "float32", "unit"),
        ((1, 4, 32, 32), "float32", "unit"),
        ((1, 3, 32, 32), "uint8", "0..255"),
        ((1, 3, 32, 32), "int32", "0..255"),
    ],
)
def test_auto_follows_the_input(shape, dtype, name):
    plan = fit(make_preprocess("auto"), spec(*shape, dtype=dtype))
    assert plan.preprocess.name == name
    assert plan.describe()["size"] == [32, 32]
    json.dumps(plan.describe())


def test_auto_uint8_is_the_resized_picture():
    image = picture(40, 20)
    result = prepare("auto", (1, 10, 10, 3), image, dtype="uint8")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR)))


def test_float16_is_the_rounded_float32():
    image = picture(32, 32)
    half, single = (prepare("auto", (1, 3, 28, 28), image, dtype=kind) for kind in ("float16", "float32"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))


# --- overrides ---


def test_overrides_win_also_over_auto():
    image = picture(8, 8)
    expected = (np.asarray(image).transpose(2, 0, 1) * 0.00392156862745098 - 0.1) / 0.5
    for choice in ("auto", "imagenet", "unit"):
        options = {"mean": 0.1, "std": [0.5], "scale": 0.00392156862745098, "resize": "stretch"}
        np.testing.assert_allclose(prepare(choice, (1, 3, 8, 8), image, **options), expected, atol=1e-6)


def test_bgr_flips_before_the_mean():
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    result = prepare("raw", (1, 3, 4, 4), image, order="bgr", mean=[1, 2, 3])
    np.testing.assert_array_equal(result[:, 0, 0], [29, 18, 7])
    four = Image.new("RGBA", (4, 4), (10, 20, 30, 40))
    np.testing.assert_array_equal(prepare("raw", (1, 4, 4, 4), four, order="bgr")[:, 0, 0], [30, 20, 10, 40])


def test_pad_letterboxes_in_the_middle_with_grey():
    result = prepare("raw", (1, 3, 8, 8), Image.new("RGB", (16, 8), (255, 0, 0)), resize="pad")
    assert (result[:, :2] == 114).all()
    assert (result[:, 6:] == 114).all()
    np.testing.assert_array_equal(result[:, 2:6], np.array([255, 0, 0])[:, None, None] * np.ones((1, 4, 8)))


def test_crop_of_a_wide_target_covers_it():
    result = prepare("unit", (1, 3, 8, 32), picture(30, 40), resize="crop")
    assert result.shape == (3, 8, 32)


def test_interpolation_is_pillows():
    image = picture(30, 30)
    expected = np.asarray(image.resize((7, 7), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(
        prepare("raw", (1, 3, 7, 7), image, resize="stretch", interpolation="bicubic"), expected
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "imagnet"}, "no preset is called 'imagnet'"),
        ({"resize": "squash"}, "resize is 'squash'"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
        ({"std": 0}, "std has a number that is not positive"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
        ({"size": 0}, "not positive"),
        ({"size": [1, 2, 3]}, "size has 3 numbers"),
        ({"choice": "raw", "size": 32}, "never resizes"),
        ({"choice": "imagenet", "mean": [123.7, 116.3, 103.5]}, "outside the pixels"),
        ({"choice": "nothere.json"}, "cannot read the preprocessing settings"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_preprocess(**options)


def test_an_unknown_preset_lists_the_names():
    with pytest.raises(UsageError) as caught:
        make_preprocess("nope")
    assert all(name in caught.value.fix for name in PRESETS)


# --- inputs ---


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "nhwc"),
    [
        ((None, 3, None, None), "auto", 3, False),
        ((None, None, None, 3), "auto", 3, True),
        ((1, 28, 28, 1), "auto", 1, True),
        ((1, 1, 28, 28), "auto", 1, False),
        ((1, 3, 224, 4), "auto", 3, False),  # ambiguous: nchw
        ((1, 3, 224, 4), "nhwc", 4, True),
        ((None, None, None, None), "auto", 3, False),
        ((), "auto", 3, False),
    ],
)
def test_layout(shape, layout, channels, nhwc):
    plan = fit(make_preprocess("imagenet", mean=0, std=1, layout=layout), spec(*shape))
    assert (plan.channels, plan.nhwc) == (channels, nhwc)


def test_dynamic_sizes():
    assert fit(make_preprocess("auto"), spec(None, 3, None, None)).size == (224, 224)
    assert fit(make_preprocess("auto"), spec(None, 3, None, None, dtype="uint8")).size == (224, 224)
    assert fit(make_preprocess("auto", size=64), spec(None, 3, None, None)).size == (64, 64)
    assert fit(make_preprocess("unit", size=(32, 100)), spec(None, 3, 32, None)).size == (32, 100)
    for shape in ((None, 1, None, None), (None, 3, 32, None)):
        with pytest.raises(UsageError, match="any size") as caught:
            fit(make_preprocess("unit"), spec(*shape))
        assert "--size" in caught.value.fix


@pytest.mark.parametrize(
    ("choice", "given", "error", "message"),
    [
        (
            make_preprocess("imagenet", size=256),
            spec(1, 3, 224, 224),
            DataError,
            "become 3x256x256 but input 'x' is 3x224x224",
        ),
        (make_preprocess("imagenet"), spec(1, 1, 28, 28), DataError, "mean has 3 numbers but input 'x' has 1 channels"),
        (make_preprocess("auto"), spec(1, 12, 28, 28), DataError, "12 channels in nchw order"),
        (make_preprocess("auto"), spec(1, 10), DataError, "2 axes"),
        (
            make_preprocess("unit"),
            spec(1, 3, 8, 8, dtype="uint8"),
            UsageError,
            "makes fractions but input 'x' is uint8",
        ),
        (make_preprocess("auto"), spec(1, 3, 8, 8, dtype="int8"), DataError, "do not fit"),
    ],
)
def test_what_cannot_fit_is_refused(choice, given, error, message):
    with pytest.raises(error, match=message):
        fit(choice, given)


# --- files ---


def settings_file(tmp_path, settings):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(settings))
    return path


HF = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 1 / 255}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (HF | {"size": {"height": 384, "width": 256}, "resample": 3}, ("stretch", (384, 256), 1.0, "bicubic")),
        (HF | {"size": 224}, ("stretch", (224, 224), 1.0, "bilinear")),  # ViT's first form
        (HF | {"size": 224, "crop_size": 224, "do_center_crop": True}, ("crop", (224, 224), 1.0, "bilinear")),  # CLIP's
        (
            HF | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            ("crop", (224, 224), 0.875, "bilinear"),
        ),
        (HF | {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ("crop", (224, 224), 0.875, "bilinear")),  # ConvNeXt
        (HF | {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, ("stretch", (384, 384), 1.0, "bilinear")),
        (HF | {"do_resize": False}, ("none", None, 1.0, "bilinear")),
    ],
)
def test_hugging_face(tmp_path, settings, expected):
    pre = make_preprocess(settings_file(tmp_path, settings))
    assert (pre.resize, pre.size, pre.crop_pct, pre.interpolation) == expected
    assert (pre.mean, pre.std, pre.scale) == ((0.5,) * 3, (0.25,) * 3, 1 / 255)
    assert pre.name == "preprocessor_config.json"


def test_hugging_face_switches(tmp_path):
    size = {"size": {"height": 8, "width": 8}}
    plain = make_preprocess(
        settings_file(tmp_path, size | {"do_rescale": False, "do_normalize": False} | {"image_mean": [9]})
    )
    assert (plain.scale, plain.mean, plain.std) == (1.0, (), ())
    flipped = make_preprocess(settings_file(tmp_path, size | {"do_flip_channel_order": True}))
    assert flipped.order == "bgr"
    offset = make_preprocess(settings_file(tmp_path, size | {"rescale_offset": True, "rescale_factor": 1 / 127.5}))
    assert (offset.scale, offset.mean) == (1 / 127.5, (1.0,))


def test_timm(tmp_path):
    keys = {
        "input_size": [3, 240, 240],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 0.95,
        "interpolation": "bicubic",
    }
    for settings in (keys, {"architecture": "resnet", "pretrained_cfg": keys}):
        pre = make_preprocess(settings_file(tmp_path, settings))
        assert (pre.resize, pre.size, pre.crop_pct, pre.interpolation) == ("crop", (240, 240), 0.95, "bicubic")
    assert make_preprocess(settings_file(tmp_path, keys | {"crop_mode": "squash"})).resize == "stretch"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (HF | {"size": {"shortest_edge": 800, "longest_edge": 1333}}, "another size"),
        (HF | {"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, "another crop_size"),
        (HF | {"size": {"shortest_edge": 224}, "crop_size": 256, "do_center_crop": True}, "a crop of 256x256"),
        (HF | {"size": {"edge": 3}}, "broken"),
        (HF | {"size": 8, "do_pad": True}, "do_pad"),
        ({"input_size": [3, 8, 8], "interpolation": "random"}, "random"),
        ({"hidden_size": 768}, "neither"),
        ([1], "not a JSON object"),
    ],
)
def test_what_a_file_says_is_followed_or_refused(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        make_preprocess(settings_file(tmp_path, settings))
