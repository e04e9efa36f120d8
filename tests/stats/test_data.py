"""Real files of every kind, good and broken."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from PIL import Image

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.data import Batch, open_data, rebatch, require_two, spread
from pfa_onnx.stats.images import decode

X = InputSpec("x", (None, 3, 8, 8), np.dtype("float32"))
ROW = InputSpec("x", (None, 4), np.dtype("float32"))
TOKENS = InputSpec("ids", (None, 2), np.dtype("int64"))


def everything(dataset, batch_size=4):
    batches = list(dataset.batches(batch_size))
    feeds = {name: np.concatenate([batch.feeds[name] for batch in batches]) for name in batches[0].feeds}
    return feeds, [n for b in batches for n in b.names], [label for b in batches for label in b.labels]


def save(path, value=0, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)


# --- folders of images ---


def test_a_folder_is_sorted_recursive_and_rereadable(tmp_path):
    for index, name in enumerate(["b.png", "a.JPG", "sub/c.bmp", "sub/deep/d.png"]):
        save(tmp_path / name, (index, 0, 0), **({"format": "JPEG"} if name.endswith("JPG") else {}))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    data = open_data(tmp_path, [X], preprocess="raw")
    assert data.count == 4
    assert data.source == str(tmp_path)
    for _ in range(2):
        feeds, names, labels = everything(data, 3)
        assert names == ["a.JPG", "b.png", "sub/c.bmp", "sub/deep/d.png"]
        assert labels == [None] * 4  # loose pictures beside folders are no classification
        assert feeds["x"].dtype == np.float32
        assert feeds["x"][1:, 0, 0, 0].tolist() == [0, 2, 3]
    assert data.describe()["preprocess"]["name"] == "raw"


def test_limit_is_spread_over_the_sorted_list(tmp_path):
    for label in "abcd":
        for index in range(5):
            save(tmp_path / label / f"{index}.png")
    data = open_data(str(tmp_path), [X], limit=4)
    _, names, labels = everything(data)
    assert names == ["a/0.png", "b/0.png", "c/0.png", "d/0.png"]
    assert labels == list("abcd")
    assert data.classes == ("a", "b", "c", "d")
    assert list(spread(10, 3)) == [0, 3, 6]
    assert list(spread(3, 9)) == [0, 1, 2]
    with pytest.raises(UsageError, match="--limit is 0"):
        open_data(tmp_path, [X], limit=0)


def test_one_subfolder_is_no_class(tmp_path):
    save(tmp_path / "images" / "a.png")
    save(tmp_path / "images" / "b.png")
    assert everything(open_data(tmp_path, [X]))[2] == [None, None]


@pytest.mark.parametrize("header", ["", "file,label\n", "\ufefffilename,label\n"])
def test_labels_csv(tmp_path, header):
    for name in ("a.png", "s/b.png", "s/c.png"):
        save(tmp_path / name)
    (tmp_path / "labels.csv").write_text(f"{header}a.png,7\ns\\b.png, cat\nmissing.png,3\n", encoding="utf-8")
    data = open_data(tmp_path, [X])
    assert everything(data)[2] == ["7", "cat", None]
    (tmp_path / "labels.csv").write_text("a.png,1,2\n")
    with pytest.raises(DataError, match="3 columns") as caught:
        open_data(tmp_path, [X])
    assert caught.value.at.endswith("labels.csv:1")


def test_a_broken_image_is_skipped_and_recorded(tmp_path, monkeypatch):
    save(tmp_path / "good.png", (1, 2, 3))
    save(tmp_path / "also.jpg", (1, 2, 3), size=(64, 64))
    whole = (tmp_path / "also.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    save(tmp_path / "bomb.png", size=(300, 300))
    Image.new("F", (8, 8), 0.5).save(tmp_path / "float.tiff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    data = open_data(tmp_path, [X])
    for _ in range(2):  # a second pass starts a new list
        assert everything(data, 2)[1] == ["also.jpg", "good.png"]
        assert [name for name, _ in data.skipped] == ["bomb.png", "cut.jpg", "empty.png", "float.tiff", "text.png"]
    why = dict(data.skipped)
    assert "DecompressionBombError" in why["bomb.png"]
    assert "truncated" in why["cut.jpg"].lower()
    assert str(tmp_path) not in why["text.png"]


def test_nothing_readable(tmp_path):
    with pytest.raises(DataError, match="no images in"):
        open_data(tmp_path, [X])
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(tmp_path / "gone", [X])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of 1 images can be read"):
        list(open_data(tmp_path, [X]).batches(2))
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(DataError, match="cannot tell what"):
        open_data(tmp_path / "a.doc", [X])


def test_a_single_image(tmp_path):
    save(tmp_path / "one.png", (5, 5, 5))
    data = open_data(tmp_path / "one.png", [X], preprocess="raw")
    assert everything(data)[1] == ["one.png"]
    with pytest.raises(DataError, match="1 sample cannot") as caught:
        require_two(data)
    assert caught.value.fix
    require_two(data, seen=2)


def test_raw_images_of_several_sizes_are_batched_by_size(tmp_path):
    for index, size in enumerate([8, 8, 16, 16, 16]):
        save(tmp_path / f"{index}.png", size=(size, size))
    free = InputSpec("x", (None, 3, None, None), np.dtype("float32"))
    shapes = [b.feeds["x"].shape for b in open_data(tmp_path, [free], preprocess="raw").batches(4)]
    assert shapes == [(2, 3, 8, 8), (3, 3, 16, 16)]
    with pytest.raises(DataError, match="images become 3x16x16 but input 'x' is 3x8x8") as caught:
        list(open_data(tmp_path, [X], preprocess="raw").batches(4))
    assert caught.value.at == "2.png -> input 'x'"


def test_images_feed_one_input(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="the model has 2: 'x', 'ids'"):
        open_data(tmp_path, [X, TOKENS])


def test_stopping_early_ends_the_decoders(tmp_path):
    for index in range(50):
        save(tmp_path / f"{index:02}.png")
    batches = open_data(tmp_path, [X]).batches(2)
    assert next(batches).count == 2
    batches.close()


# --- pixels ---


def pixel(path, channels, at=(0, 0)):
    return decode(path, channels).getpixel(at)


@pytest.mark.filterwarnings("ignore")
def test_modes(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (4, 4), 100).save(path)
    assert pixel(path, 3) == (100, 100, 100)
    assert pixel(path, 1) == 100
    assert pixel(path, 4) == (100, 100, 100, 255)
    Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4).save(path)
    assert pixel(path, 3) == (10, 200, 30)
    Image.new("1", (4, 4), 1).save(path)
    assert pixel(path, 3) == (255, 255, 255)
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(path)
    assert pixel(path, 1) == 128
    assert pixel(path, 3) == (128, 128, 128)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert pixel(path, 3) == (255, 255, 255)
    assert pixel(path, 1) == 255
    assert pixel(path, 4) == (255, 0, 0, 0)
    Image.new("LA", (4, 4), (0, 255)).save(path)
    assert pixel(path, 1) == 0
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red = pixel(tmp_path / "a.jpg", 3)
    assert red[0] > 240
    assert max(red[1:]) < 15


def test_exif_orientation(tmp_path):
    image = Image.new("RGB", (8, 4), (0, 0, 0))
    image.putpixel((7, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    upright = decode(tmp_path / "a.png", 3)
    assert upright.size == (4, 8)
    assert upright.getpixel((3, 7)) == (255, 255, 255)


# --- arrays ---


def test_npy_is_mapped_and_converted(tmp_path):
    array = np.arange(40, dtype=np.float64).reshape(10, 4)
    np.save(tmp_path / "a.npy", array)
    data = open_data(tmp_path / "a.npy", [ROW], limit=5)
    assert isinstance(data._arrays["x"], np.memmap)
    batches = list(data.batches(2))
    assert [batch.count for batch in batches] == [2, 2, 1]
    assert type(batches[0].feeds["x"]) is np.ndarray
    feeds, names, _ = everything(data)
    assert feeds["x"].dtype == np.float32
    np.testing.assert_array_equal(feeds["x"], array[::2])
    assert names[1] == f"{tmp_path / 'a.npy'}[2]"


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 4)), ids=np.ones((3, 2), np.int32), labels=[2, 0, 1])
    feeds, _, labels = everything(open_data(path, [ROW, TOKENS]))
    assert feeds["ids"].dtype == np.int64
    assert labels == ["2", "0", "1"]
    np.savez(path, whatever=np.zeros((3, 4)))
    with pytest.raises(DataError, match="the arrays are whatever but the inputs are x"):
        open_data(path, [ROW])
    np.savez(path, x=np.zeros((3, 4)), idz=np.ones((3, 2)))
    with pytest.raises(DataError, match="the arrays are idz, x but the inputs are x, ids"):
        open_data(path, [ROW, TOKENS])
    np.savez(path, x=np.zeros((3, 4)), ids=np.ones((2, 2), np.int64))
    with pytest.raises(DataError, match="different numbers of samples: x 3, ids 2"):
        open_data(path, [ROW, TOKENS])


def test_broken_array_files(tmp_path):
    path = tmp_path / "a.npy"
    for content in (b"", b"junk"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot read the arrays"):
            open_data(path, [ROW])
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read the arrays"):
        open_data(path, [ROW])
    (tmp_path / "a.npz").write_bytes(b"PK junk")
    with pytest.raises(DataError, match="cannot read the arrays"):
        open_data(tmp_path / "a.npz", [ROW])


@pytest.mark.parametrize(
    ("array", "spec", "message"),
    [
        (np.zeros((3, 5)), ROW, "samples are 5 but input 'x' is 4"),
        (
            np.zeros((3, 28, 28)),
            InputSpec("x", (None, 1, 28, 28), np.dtype("float32")),
            "samples are 28x28 but .* 1x28x28",
        ),
        (np.zeros((0, 4)), ROW, "no samples"),
        (np.array(["a", "b"]), InputSpec("x", (None,), np.dtype("float32")), "values are <U1"),
        (np.full((3, 4), 1j), ROW, "complex128"),
        (np.full((3, 2), 0.5), TOKENS, "do not fit"),
        (np.full((3, 2), 300), InputSpec("x", (None, 2), np.dtype("uint8")), "int64 values do not fit"),
        (np.full((3, 4), 1e6), InputSpec("x", (None, 4), np.dtype("float16")), "do not fit"),
        (np.full((3, 4), np.nan), ROW, "NaN"),
    ],
)
def test_arrays_that_do_not_fit(array, spec, message):
    with pytest.raises(DataError, match=message):
        list(open_data(array, [spec]).batches(2))


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.ones((2, 4)), "float16"),
        (np.ones((2, 4)), "int64"),  # whole floats
        (np.ones((2, 4), np.int64), "int32"),
        (np.ones((2, 4), np.uint8), "float32"),
        (np.ones((2, 4), ">f4"), "float32"),
        (np.ones((2, 4), np.int64), "bool"),
        (np.full((2, 4), -np.inf), "float16"),  # attention masks
    ],
)
def test_lossless_conversions(array, dtype):
    feeds, _, _ = everything(open_data(array, [InputSpec("x", (None, 4), np.dtype(dtype))]))
    assert feeds["x"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(feeds["x"], array)


def test_strings_for_a_model_of_strings():
    feeds, _, _ = everything(open_data(np.array(["a", "b"]), [InputSpec("x", (None,), np.dtype(object))]))
    assert feeds["x"].tolist() == ["a", "b"]


# --- code ---


def script(tmp_path, body):
    path = tmp_path / "loader.py"
    path.write_text("import numpy as np\n" + textwrap.dedent(body))
    return path


BODIES = {
    "samples": "def f():\n    for i in range(5):\n        yield np.full(4, i)",
    "batches": "def f():\n    yield np.zeros((2, 4))\n    yield np.ones((3, 4)) + np.arange(1, 4)[:, None]",
    "dicts": "def f():\n    for i in range(5):\n        yield {'x': np.full((1, 4), i)}",
    "array": "def f():\n    return np.zeros((5, 4))",
    "list": "def f():\n    return [np.zeros(4)] * 5",
    "lists": "def f():\n    return [[0, 0, 0, 1.5]] * 5",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_functions_are_batched_anew(tmp_path, body):
    data = open_data(f"{script(tmp_path, body)}:f", [ROW])
    for _ in range(2):
        batches = list(data.batches(2))
        assert [batch.count for batch in batches] == [2, 2, 1]
        assert all(batch.feeds["x"].dtype == np.float32 for batch in batches)


def test_labels_from_a_function():
    data = open_data(lambda: [(np.zeros(4), 3), (np.zeros((2, 4)), [1, 0])], [ROW])
    assert everything(data)[2] == ["3", "1", "0"]
    with pytest.raises(DataError, match="2 samples come with 1 labels"):
        list(open_data(lambda: [(np.zeros((2, 4)), 3)], [ROW]).batches(1))


def test_limit_cuts_an_endless_function():
    def endless():
        while True:
            yield np.zeros((3, 4))

    data = open_data(endless, [ROW], limit=7)
    assert [batch.count for batch in data.batches(4)] == [4, 3]


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ("def f():\n    yield np.zeros(4)\n    raise KeyError('no')", "loader.py:4 in f", "KeyError"),
        ("def f():\n    return np.zeros((2, 2)) @ np.zeros(3)", "loader.py:3 in f", "ValueError"),
        ("import nowhere_at_all\ndef f(): pass", "loader.py:2 in <module>", "ModuleNotFoundError"),
        ("def f(:\n", "loader.py:2", "SyntaxError"),
        ("def f():\n    exit(3)", "loader.py", "SystemExit: 3"),
        ("def f(required):\n    pass", "loader.py:f", "TypeError"),
    ],
)
def test_an_error_in_the_users_code_names_its_line(tmp_path, body, place, message):
    path = script(tmp_path, body)
    with pytest.raises(DataError, match=message) as caught:
        list(open_data(f"{path}:f", [ROW]).batches(2))
    assert place in caught.value.at
    assert f"{path}:f failed" in str(caught.value) or f"{path} failed" in str(caught.value)


def test_finding_the_function(tmp_path):
    path = script(tmp_path, "def batches():\n    yield np.zeros(4)")
    with pytest.raises(UsageError, match="has no function 'f'") as caught:
        open_data(f"{path}:f", [ROW])
    assert caught.value.fix.endswith("loader.py:batches")
    with pytest.raises(UsageError, match="does not say which function"):
        open_data(path, [ROW])
    with pytest.raises(DataError, match="no such file"):
        open_data(f"{tmp_path}/none.py:f", [ROW])


@pytest.mark.parametrize(
    ("items", "inputs", "message"),
    [
        ([np.zeros(4)], [ROW, TOKENS], "a ndarray came, but the model has 2 inputs"),
        ([{"y": np.zeros(4)}], [ROW], "the dict has y but the inputs are x"),
        ([np.zeros((2, 2, 4))], [ROW], "samples are 2x4"),
        ([[[1, 2], [3]]], [ROW], "cannot make an array"),
        ([{"x": np.zeros((2, 4)), "ids": np.zeros((3, 2), int)}], [ROW, TOKENS], "different numbers of samples"),
        ([], [ROW], "no samples"),
        (5, [ROW], "cannot read samples from a int"),
    ],
)
def test_items_that_do_not_fit(items, inputs, message):
    with pytest.raises(DataError, match=message):
        list(open_data(items, inputs).batches(2))


def test_mappings_and_readers():
    feeds, _, _ = everything(open_data({"x": [[1, 2, 3, 4]] * 3, "ids": np.zeros((3, 2), int)}, [ROW, TOKENS]))
    assert feeds["x"].shape == (3, 4)

    class Reader:
        def __init__(self):
            self.rewind()

        def rewind(self):
            self.left = iter([{"x": np.zeros((1, 4))}] * 3)

        def get_next(self):
            return next(self.left, None)

    data = open_data(Reader(), [ROW])
    assert data.source == "Reader"
    for _ in range(2):
        assert [batch.count for batch in data.batches(2)] == [2, 1]
    assert [b.count for b in open_data(Reader, [ROW]).batches(9)] == [3]  # a callable that makes one


def test_what_can_be_read_once_says_so():
    data = open_data((np.zeros(4) for _ in range(3)), [ROW])
    assert [batch.count for batch in data.batches(2)] == [2, 1]
    with pytest.raises(DataError, match="only once"):
        data.batches(2)


def test_inputs_without_a_common_batch_axis():
    sizes = InputSpec("size", (2,), np.dtype("int64"))
    image = InputSpec("x", (1, 3, 8, 8), np.dtype("float32"))
    item = {"x": np.zeros((1, 3, 8, 8)), "size": np.array([8, 8])}
    batches = list(open_data([item, item], [image, sizes]).batches(1))
    assert [batch.count for batch in batches] == [1, 1]
    assert batches[0].feeds["size"].shape == (2,)


def test_rebatch_keeps_order_whatever_the_pieces():
    def pieces(sizes):
        start = 0
        for size in sizes:
            rows = range(start, start + size)
            yield Batch({"x": np.array(rows)[:, None]}, tuple(map(str, rows)), (None,) * size)
            start += size

    for sizes in ([1] * 10, [10], [3, 3, 4], [9, 1], [2, 8]):
        batches = list(rebatch(pieces(sizes), 4))
        assert [batch.count for batch in batches] == [4, 4, 2]
        assert np.concatenate([batch.feeds["x"] for batch in batches]).ravel().tolist() == list(range(10))
        assert [name for batch in batches for name in batch.names] == [str(row) for row in range(10)]
