"""The statistics file: round trip, exact merging, and every way in which a file can be broken."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from pfa_onnx.errors import StatsError
from pfa_onnx.recipe import Coupling, Layer, Method
from pfa_onnx.stats.covariance import Accumulator, Moments
from pfa_onnx.stats.merge import merge_stats
from pfa_onnx.stats.pfa import asked, spectra, spectrum
from pfa_onnx.stats.selection import removal_orders, wish
from pfa_onnx.stats.statsfile import StatsFile, load_stats, save_stats


def responses(rows=120, channels=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels)) + 30.0


FIRST, SECOND = responses(), responses(channels=1, seed=1)


def measured(first=FIRST, second=SECOND, **changes):
    """Statistics of two layers whose names no file system would like."""
    stats = StatsFile(
        model_sha256="ab" * 32,
        source="images/ (120 files)",
        samples=len(first),
        provider="CPUExecutionProvider",
        moments={"/net/conv:0": Moments.of(first), "écrit": Moments.of(second)},
        inputs={"x/0": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "mask": np.array([[True], [False]])},
        preprocess={"mean": [0.5, 0.5], "size": 224, "nested": {"a": None}},
    )
    return replace(stats, **changes)


def with_eigenvalues(stats):
    return replace(stats, eigenvalues={k: found.eigenvalues for k, found in spectra(stats.moments, int).items()})


def recipe(stats):
    """What stays of the first layer by PFA-KL."""
    name, moments = next(iter(stats.moments.items()))
    coupling = Coupling((Layer(name, "n", "Conv", "w", np.arange(1, moments.channels + 1)),), {})
    counts = asked({name: spectrum(moments.covariance)}, Method("kl"))
    return wish(coupling, counts, removal_orders(coupling, Method("kl"), {name: moments.m2})).remove


def test_what_is_saved_is_loaded(tmp_path):
    stats = measured()
    save_stats(tmp_path / "s.npz", stats)
    back = load_stats(str(tmp_path / "s.npz"))
    for name in ("model_sha256", "source", "samples", "provider", "preprocess"):
        assert getattr(back, name) == getattr(stats, name)
    assert list(back.moments) == list(stats.moments)
    for name, moments in stats.moments.items():
        assert back.moments[name].count == moments.count
        assert (back.moments[name].mean == moments.mean).all()
        assert (back.moments[name].m2 == moments.m2).all()
    assert list(back.inputs) == list(stats.inputs)
    for name, array in stats.inputs.items():
        assert back.inputs[name].dtype == array.dtype
        assert (back.inputs[name] == array).all()


def test_numpy_opens_the_file_without_pickle_and_only_the_triangle_is_stored(tmp_path):
    save_stats(tmp_path / "s.npz", measured())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert json.loads(archive["header"].tobytes())["schema"] == 1
        assert archive["m2/0"].shape == (45,)


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "<U5", "complex64"])
def test_inputs_keep_their_type(tmp_path, dtype):
    array = np.array([[1], [2]]).astype(dtype)
    save_stats(tmp_path / "s.npz", measured(inputs={"x": array, "empty": array[:0], "f": np.asfortranarray(array.T)}))
    back = load_stats(tmp_path / "s.npz").inputs
    assert back["x"].dtype == array.dtype
    assert (back["x"] == array).all()
    assert back["empty"].shape == (0, 1)
    assert (back["f"] == array.T).all()


def test_inputs_that_only_pickle_could_keep_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(StatsError, match="object"):
        save_stats(tmp_path / "s.npz", measured(inputs={"x": np.array([["a"]], dtype=object)}))
    assert list(tmp_path.iterdir()) == []


def test_the_same_statistics_are_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_stats(tmp_path / name, measured(preprocess={"b": 1, "a": 2} if name == "a.npz" else {"a": 2, "b": 1}))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    save_stats(tmp_path / "b.npz", load_stats(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    save_stats(path, measured())
    before = path.read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(StatsError, match="no space"):
        save_stats(path, measured(samples=7))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StatsError, match="cannot be written") as caught:
        save_stats(tmp_path / "no" / "s.npz", measured())
    assert caught.value.at == str(tmp_path / "no" / "s.npz")


# --- merging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[60], [1], [5, 6, 100]])
def test_parts_merge_into_the_whole(tmp_path, cuts):
    """Through files, too: the moments agree to 1e-12 and the recipe is identical."""
    rows, other = FIRST, SECOND
    parts = []
    for index, (one, two) in enumerate(zip(np.split(rows, cuts), np.split(other, cuts), strict=True)):
        save_stats(tmp_path / f"{index}.npz", measured(one, two, source=f"shard {index}"))
        parts.append(load_stats(tmp_path / f"{index}.npz"))
    whole, merged = measured(rows, other), merge_stats(parts)
    assert merged.samples == 120
    assert merged.source == " + ".join(f"shard {index}" for index in range(len(parts)))
    assert merged.provider == "CPUExecutionProvider"
    assert merged.inputs is parts[0].inputs
    for name, moments in whole.moments.items():
        assert merged.moments[name].count == moments.count
        np.testing.assert_allclose(merged.moments[name].mean, moments.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.moments[name].m2, moments.m2, rtol=1e-12, atol=1e-12 * moments.m2.max())
    assert recipe(merged) == recipe(whole)
    assert recipe(merge_stats(parts[::-1])) == recipe(whole)


def test_a_single_part_merges_into_itself():
    stats = measured()
    assert merge_stats([stats]).moments["écrit"] is stats.moments["écrit"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_sha256": "cd" * 32}, "different models: sha256 abababababab and cdcdcdcdcdcd"),
        ({"moments": {"écrit": Moments.empty(1)}}, "only one of them measured /net/conv:0"),
        (
            {"moments": {"/net/conv:0": Moments.empty(8), "écrit": Moments.empty(1)}},
            "/net/conv:0 has 9 and 8 channels",
        ),
        ({"preprocess": {"size": 64}}, "different preprocessing"),
    ],
)
def test_statistics_that_do_not_belong_together_are_refused(changes, what):
    with pytest.raises(StatsError, match=what):
        merge_stats([measured(), measured(), measured(**changes)])


def test_nothing_does_not_merge():
    with pytest.raises(StatsError):
        merge_stats([])


# --- broken files -------------------------------------------------------------------------------


def assert_refused(path, what="."):
    with pytest.raises(StatsError, match=what) as caught:
        load_stats(path)
    assert caught.value.at == str(path)
    assert caught.value.fix


def rewrite(path, replace_entry, compress=zipfile.ZIP_STORED):
    """Save good statistics with some entries changed: replace_entry(name, array) -> array, bytes or None."""
    save_stats(path, with_eigenvalues(measured()))
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, array in arrays.items():
            new = replace_entry(name, array)
            if isinstance(new, np.ndarray):
                stream = io.BytesIO()
                np.lib.format.write_array(stream, new)
                new = stream.getvalue()
            if new is not None:
                archive.writestr(f"{name}.npy", new)


def with_header(path, change):
    def replace_entry(name, array):
        if name != "header":
            return array
        header = json.loads(array.tobytes())
        change(header)
        return np.frombuffer(json.dumps(header).encode(), np.uint8)

    rewrite(path, replace_entry)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    assert_refused(tmp_path / "none.npz", "no such")
    assert_refused(tmp_path, "no such")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", b"\x93NUMPY" + bytes(100), bytes(5000)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    assert_refused(path, "broken")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "s.npz"
    save_stats(path, measured())
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 97):
        path.write_bytes(content[:end])
        assert_refused(path, "broken")


def test_a_changed_byte_never_escapes_as_another_error(tmp_path):
    """Payload changes fail the checksum; changes elsewhere are refused or harmless (dates, flags)."""
    path = tmp_path / "s.npz"
    save_stats(path, measured())
    content = path.read_bytes()
    refused = 0
    for index in range(0, len(content), 19):
        path.write_bytes(content[:index] + bytes([content[index] ^ 0xFF]) + content[index + 1 :])
        try:
            load_stats(path)
        except StatsError:
            refused += 1
    assert refused > len(content) // 19 // 2


def test_eigenvalues_round_trip_and_vanish_in_a_merge(tmp_path):
    stats = with_eigenvalues(measured())
    save_stats(tmp_path / "s.npz", stats)
    back = load_stats(tmp_path / "s.npz")
    assert {k: v.tolist() for k, v in back.eigenvalues.items()} == {k: v.tolist() for k, v in stats.eigenvalues.items()}
    assert merge_stats([back, back]).eigenvalues == {}, "they are those of a half"


@pytest.mark.parametrize("name", ["header", "mean/0", "m2/1", "eigenvalues/1", "input/0"])
def test_a_missing_entry_is_refused(tmp_path, name):
    rewrite(tmp_path / "s.npz", lambda entry, array: None if entry == name else array)
    assert_refused(tmp_path / "s.npz", name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean/0", lambda array: array[:-1]),
        ("m2/0", lambda array: array[:-1]),
        ("m2/0", lambda array: array[None]),
        ("mean/0", lambda array: np.array(1.0)),
        ("mean/0", lambda array: array.astype(np.float32)),
        ("m2/0", lambda array: array * np.nan),
        ("mean/1", lambda array: array * np.inf),
        ("m2/0", lambda array: -array),
        ("eigenvalues/0", lambda array: array[:-1]),
        ("eigenvalues/0", lambda array: array[::-1]),
        ("eigenvalues/0", lambda array: array - array.max()),
        ("eigenvalues/1", lambda array: array * np.nan),
        ("header", lambda array: array[:-1]),
        ("header", lambda array: np.frombuffer(b"[]", np.uint8)),
        ("header", lambda array: np.frombuffer(b"\xff\xfe", np.uint8)),
        ("header", lambda array: np.frombuffer(b"[" * 100_000, np.uint8)),
        ("header", lambda array: np.frombuffer(b"3", np.uint8)),
    ],
)
def test_wrong_shapes_types_and_values_are_refused(tmp_path, name, change):
    rewrite(tmp_path / "s.npz", lambda entry, array: change(array) if entry == name else array)
    assert_refused(tmp_path / "s.npz", "broken")


def test_a_pickle_is_refused(tmp_path):
    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.array([{}], dtype=object), allow_pickle=True)
    rewrite(tmp_path / "s.npz", lambda entry, array: objects.getvalue() if entry == "input/0" else array)
    assert_refused(tmp_path / "s.npz", "broken")


def test_an_entry_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    def claim(entry, array):
        if entry != "mean/0":
            return array
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
        return stream.getvalue() + bytes(72)

    rewrite(tmp_path / "s.npz", claim)
    assert_refused(tmp_path / "s.npz", "not as large as it says")


def test_an_array_header_that_does_not_parse_is_refused(tmp_path):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9,"
    entry = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(72)
    rewrite(tmp_path / "s.npz", lambda name, array: entry if name == "mean/0" else array)
    assert_refused(tmp_path / "s.npz", "broken")


def test_a_compressed_file_is_refused(tmp_path):
    """Stored entries are never larger than their file; compressed ones may unpack to anything."""
    rewrite(tmp_path / "s.npz", lambda _, array: array, zipfile.ZIP_DEFLATED)
    assert_refused(tmp_path / "s.npz", "compressed")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("layers"),
        lambda header: header.pop("schema"),
        lambda header: header.update(schema=99),
        lambda header: header.update(samples="many"),
        lambda header: header.update(samples=True),
        lambda header: header.update(preprocess=[1]),
        lambda header: header.update(inputs=7),
        lambda header: header["layers"][0].update(count=-1),
        lambda header: header["layers"][0].update(count=1.5),
        lambda header: header["layers"][0].update(output=None),
        lambda header: header["layers"].append({"output": "z", "count": 1}),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, change):
    with_header(tmp_path / "s.npz", change)
    assert_refused(tmp_path / "s.npz")


def test_accumulated_statistics_round_trip(tmp_path):
    """What the accumulator hands out is what the file takes."""
    accumulator = Accumulator(9)
    for batch in np.array_split(responses().astype(np.float32), 11):
        accumulator.add(batch)
    stats = measured(moments={"y": accumulator.moments()})
    save_stats(tmp_path / "s.npz", stats)
    assert recipe(load_stats(tmp_path / "s.npz")) == recipe(stats)
