"""Pictures of changed samples: what is shown is what was read, and never more than was asked for."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.compare import Answer
from pfa_onnx.stats.data import Batch
from pfa_onnx.stats.imageplan import fit
from pfa_onnx.stats.images import apply
from pfa_onnx.stats.preprocess import make_preprocess
from pfa_onnx.steps.pictures import SIDE, Gallery, as_pixels, thumbnail

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def opened(png):
    return np.asarray(Image.open(BytesIO(png)))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("preset", ["imagenet", "inception", "unit"])
def test_preprocessing_is_taken_back(preset, layout, order):
    shape = (None, 3, 32, 48) if layout == "nchw" else (None, 32, 48, 3)
    chosen = make_preprocess(preset, order=order, layout=layout, resize="stretch")
    plan = fit(chosen, InputSpec("x", shape, np.dtype(np.float32)))
    array = apply(plan, Image.fromarray(PIXELS), name="x")
    assert np.array_equal(as_pixels(array, plan.describe()), PIXELS)


def test_arrays_are_looked_at_as_they_are():
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    assert as_pixels(grey, {}).tolist() == np.rint(grey[0] * 255).astype(int).tolist()
    assert np.array_equal(as_pixels(PIXELS, {}), PIXELS)
    assert np.array_equal(as_pixels(np.moveaxis(PIXELS, -1, 0).astype(np.float32), {}), PIXELS)
    centred = as_pixels(np.array([[[-2.0, 2.0], [0.0, np.nan]]]), {})
    assert centred.tolist() == [[0, 255], [128, 128]]
    assert as_pixels(np.ones((3, 8, 8), np.float32), {}).min() == 255
    assert as_pixels(np.zeros((1, 8, 8), np.float32), {}).max() == 0


@pytest.mark.parametrize(
    "array", [np.zeros(7), np.zeros((8, 8)), np.zeros((64, 8, 8)), np.array([["a"]]), np.zeros((3, 1, 9))]
)
def test_what_is_no_picture_is_none(array):
    assert as_pixels(array, {}) is None
    assert thumbnail({"x": array}, {}) is None


def test_pictures_are_small_and_the_first_input_that_is_one_is_taken():
    big = np.zeros((3, 300, 200), np.float32)
    assert opened(thumbnail({"ids": np.arange(5), "x": big}, {})).shape == (SIDE, 64, 3)
    assert opened(thumbnail({"x": np.zeros((1, 28, 28), np.float32)}, {})).shape == (28, 28)


def gallery(most, total):
    """Every sample changed, in batches of 5; its grey says which it is."""
    found = Gallery(most, {})
    for start in range(0, total, 5):
        count = min(5, total - start)
        values = np.arange(start, start + count, dtype=np.float32).reshape(-1, 1, 1, 1) / 255
        feeds = {"x": np.broadcast_to(values, (count, 1, 4, 4))}
        found.add(Batch(feeds, tuple(map(str, range(start, start + count))), (None,) * count), range(count))
    answers = [Answer(str(k), None, None, k, k + 1) for k in range(total)]
    return found.pictures(answers)


@pytest.mark.parametrize(
    ("most", "total"), [(48, 0), (48, 1), (48, 47), (48, 96), (48, 250), (3, 200), (1, 5), (0, 20)]
)
def test_some_are_kept_spread_over_all(most, total):
    pictures = gallery(most, total)
    assert len(pictures) == min(most, total)
    places = [int(one.name) for one in pictures]
    assert places == sorted(set(places))
    assert all(int(opened(one.png)[0, 0]) == place for one, place in zip(pictures, places, strict=True)), (
        "its own picture"
    )
    assert [(one.before, one.after, one.truth) for one in pictures] == [(str(k), str(k + 1), None) for k in places]
    if total > most > 2:
        assert places[0] == 0
        assert places[-1] >= total * 0.7


def test_classes_have_the_names_of_their_labels():
    found = Gallery(5, {})
    feeds = {"x": np.zeros((3, 1, 4, 4), np.float32)}
    found.add(Batch(feeds, ("a", "b", "c"), ("cat", "dog", None)), [1, 2])
    answers = [Answer("a", "cat", 0, 0, 0), Answer("b", "dog", 1, 1, 0), Answer("c", None, None, 0, 7)]
    assert [(one.name, one.before, one.after, one.truth) for one in found.pictures(answers)] == [
        ("b", "dog", "cat", "dog"),
        ("c", "cat", "7", None),
    ]
