"""Tar files, Parquet files and addresses: real ones, good and broken."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats import store
from pfa_onnx.stats.data import open_data
from pfa_onnx.stats.parts import choose, missing, overlap
from pfa_onnx.stats.records import Records, load_units

X = InputSpec("x", (None, 3, 8, 8), np.dtype("float32"))
IDS = InputSpec("ids", (None, 2), np.dtype("int64"))
MASK = InputSpec("mask.1", (None, 2, 2), np.dtype("float32"))

COUNT = 23
LABELS = [str(k % 3) for k in range(COUNT)]


def picture(k, ending="png"):
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG"}.get(ending, ending.upper())
    Image.new("RGB", (8, 8), (k * 9, 255 - k, 7)).save(buffer, kind)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_set(folder):
    """23 pictures in three tar files, with labels."""
    for part, rows in enumerate((range(9), range(9, 10), range(10, COUNT))):
        members = []
        for k in rows:
            members += [(f"./train/{k:02}.png", picture(k)), (f"./train/{k:02}.cls", LABELS[k].encode())]
        tar(folder / f"part-{part}.tar", members)
    return folder


def parquet(path, columns, rows=5, **options):
    arrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    write(table, path, row_group_size=rows, **options)
    return path


def parquet_set(folder):
    """23 pictures in two files of row groups of five, as Hugging Face writes them, with labels."""
    for part, rows in enumerate((range(12), range(12, COUNT))):
        images = [{"bytes": picture(k), "path": f"{k}.png"} for k in rows]
        parquet(folder / f"{part}.parquet", {"image": images, "label": [int(LABELS[k]) for k in rows]})
    return folder


def folder_set(folder):
    folder.mkdir()
    for k in range(COUNT):
        (folder / f"{k:02}.png").write_bytes(picture(k))
    (folder / "labels.csv").write_text("".join(f"{k:02}.png,{LABELS[k]}\n" for k in range(COUNT)))
    return folder


SETS = {"tar": tar_set, "parquet": parquet_set, "pictures": folder_set}
PLACES = ("tar", "parquet", "file-tar", "file-parquet", "file-pictures")


def make_set(tmp_path, place):
    """Return what opens a data set with any options, under an address where `place` says so."""
    kind = place.removeprefix("file-")
    folder = SETS[kind](tmp_path / kind)
    if place != kind:
        pytest.importorskip("pyarrow")
        folder = folder.as_uri()
    return lambda **options: open_data(folder, [X], preprocess="raw", **options)


def rows_of(dataset, size=4, start=0, key="x"):
    return [row for batch in dataset.batches(size, start) for row in batch.feeds[key].reshape(batch.count, -1)]


def labels_of(dataset):
    return [label for batch in dataset.batches(4) for label in batch.labels]


def names_of(dataset):
    return [name for batch in dataset.batches(4) for name in batch.names]


# --- what all kinds have in common ---


@pytest.mark.parametrize("place", PLACES)
def test_the_samples_are_those_of_a_folder_of_the_same_pictures(tmp_path, place):
    pictures = open_data(folder_set(tmp_path / "plain"), [X], preprocess="raw")
    dataset = make_set(tmp_path, place)()
    assert dataset.count == COUNT
    for _ in range(2):
        np.testing.assert_array_equal(rows_of(dataset), rows_of(pictures))
    assert labels_of(dataset) == LABELS
    assert dataset.classes == ("0", "1", "2")
    assert len(set(names_of(dataset))) == COUNT
    assert not dataset.skipped
    assert dataset.describe()["preprocess"] == pictures.describe()["preprocess"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("limit", [None, 7])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_are_the_whole(tmp_path, place, limit, count):
    make = make_set(tmp_path, place)
    everything, whole = rows_of(make()), rows_of(make(limit=limit))
    shards = [rows_of(make(limit=limit, shard=(index, count))) for index in range(1, count + 1)]
    np.testing.assert_array_equal(whole, [everything[k] for k in choose(COUNT, limit, (1, 1))])
    if "pictures" in place:
        assert sorted(r.tolist() for rows in shards for r in rows) == sorted(r.tolist() for r in whole)
    else:
        np.testing.assert_array_equal([row for rows in shards for row in rows], whole)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
def test_any_batch_is_a_place_to_go_on_from(tmp_path, place, shard):
    make = make_set(tmp_path, place)
    whole = make(shard=shard)
    batches, seen = list(whole.batches(3)), 0
    for k, batch in enumerate(batches):
        seen += batch.count
        again = list(make(shard=shard).batches(3, whole.position(seen, batch.names[-1])))
        assert [b.names for b in again] == [b.names for b in batches[k + 1 :]]


@pytest.mark.parametrize("place", PLACES)
def test_data_is_known_by_what_it_holds(tmp_path, place):
    make = make_set(tmp_path, place)
    one, other, whole = (make(shard=shard).part() for shard in ((1, 2), (2, 2), (1, 1)))
    assert overlap([one, other]) is None
    assert overlap([one, other, whole]) == (one, whole)
    assert missing([one]) == [(2, 2)]
    kind = place.removeprefix("file-")
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / kind).rename(tmp_path / "moved" / kind)
    assert open_data(moved, [X], preprocess="raw").part() == whole, "a path says nothing, nor does an address"


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_other_contents_are_other_data(tmp_path, kind, monkeypatch):
    one = open_data(SETS[kind](tmp_path / "a"), [X]).part()
    plain = picture
    monkeypatch.setitem(globals(), "picture", lambda k: plain(k + 1))
    assert open_data(SETS[kind](tmp_path / "b"), [X]).part().data != one.data


@pytest.mark.parametrize("place", PLACES)
def test_more_shards_than_samples_is_an_error(tmp_path, place):
    with pytest.raises(DataError, match="fewer samples than shards"):
        make_set(tmp_path, place)(shard=(30 if "pictures" in place else 1, 30))


@pytest.mark.parametrize("place", PLACES)
def test_units_travel(tmp_path, place):
    dataset = make_set(tmp_path, place)()
    units, count = dataset.units_of((2, 2))
    found = list(load_units(pickle.loads(pickle.dumps(units)), pickle.loads(pickle.dumps(dataset.decoder))))
    assert len(found) == count
    assert [one.name for one in found] == names_of(
        Records(dataset.index, dataset.decoder, source=dataset.source, shard=(2, 2))
    )


# --- tar ---


def test_a_single_tar_and_every_ending(tmp_path):
    endings = ("png", "jpg", "webp", "bmp")
    members = [(f"{k}.{ending}", picture(k, ending)) for k, ending in enumerate(endings)]
    members += [
        ("0.txt", b" cat \n"),
        ("1.txt", b"a long text " * 40),
        ("2.cls", b"7"),
        ("2.txt", b"dog"),
        ("1.json", b"{}"),
    ]
    path = tar(tmp_path / "a.tar", [*members, (".hidden.png", b""), ("notes/readme.md", b"hello")])
    dataset = open_data(path, [X], preprocess="raw")
    assert names_of(dataset) == ["a.tar/0", "a.tar/1", "a.tar/2", "a.tar/3"]
    assert labels_of(dataset) == ["cat", None, "7", None]
    assert dataset.source == str(path)


def test_arrays_in_a_tar(tmp_path):
    members = []
    for k in range(5):
        members += [(f"s{k}.ids.npy", npy(np.full(2, k))), (f"s{k}.mask.1.npy", npy(np.full((2, 2), k / 2)))]
    members[4] = ("s2.ids.npy", b"broken")
    del members[7]  # s3 has no mask
    dataset = open_data(tar(tmp_path / "a.tar", members), [IDS, MASK])
    batches = list(dataset.batches(2))
    assert np.concatenate([b.feeds["ids"] for b in batches])[:, 0].tolist() == [0, 1, 4]
    assert np.concatenate([b.feeds["mask.1"] for b in batches])[:, 0, 0].tolist() == [0, 0.5, 2]
    assert [name for name, _ in dataset.skipped] == ["a.tar/s2", "a.tar/s3"]
    assert "mask.1.npy is missing" in dataset.skipped[1][1]
    alone = open_data(tar(tmp_path / "b.tar", [(f"{k}.npy", npy(np.full(2, k))) for k in range(3)]), [IDS])
    assert [row.tolist() for row in rows_of(alone, key="ids")] == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(DataError, match="samples are 3 but input 'ids' is 2") as caught:
        rows_of(open_data(tar(tmp_path / "c.tar", [("0.npy", npy(np.zeros(3)))]), [IDS]))
    assert caught.value.at == "c.tar/0 -> input 'ids'"


def test_damaged_members_are_skipped_named_and_counted(tmp_path):
    members = [(f"{k}.png", b"broken" if k % 4 == 1 else picture(k)) for k in range(8)]
    dataset = open_data(tar(tmp_path / "a.tar", members), [X])
    assert names_of(dataset) == [f"a.tar/{k}" for k in (0, 2, 3, 4, 6, 7)]
    assert [name for name, _ in dataset.skipped] == ["a.tar/1", "a.tar/5"]
    assert "0x" not in dataset.skipped[0][1], "an address in memory differs from run to run"
    assert "'a.tar/1'" in dataset.skipped[0][1]


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_torn_tar_gives_what_lies_before(tmp_path, damage):
    folder = tar_set(tmp_path / "set")
    path = folder / "part-2.tar"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[6 * 1024 + 700 :]
    else:
        content[8 * 1024 : 8 * 1024 + 512] = b"x" * 512
    path.write_bytes(content)
    dataset = open_data(folder, [X], preprocess="raw")
    names = names_of(dataset)
    assert names[:11] == [*(f"part-0.tar/train/{k:02}" for k in range(9)), "part-1.tar/train/09", "part-2.tar/train/10"]
    assert 11 < len(names) < COUNT
    assert dataset.skipped[-1][0] == "part-2.tar"
    assert "cut off or damaged after" in dataset.skipped[-1][1]
    assert dataset.position(0, "part-2.tar") == dataset.count
    halves = [open_data(folder, [X], preprocess="raw", shard=(k, 2)) for k in (1, 2)]
    assert [n for half in halves for n in names_of(half)] == names
    assert sum(half.count for half in halves) == dataset.count


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.mp3", b"x"), ("0.cls", b"1")], "the first sample is 0.mp3, 0.cls: neither a picture nor"),
        ([], "the first sample is nothing"),
        ([("0.a.png", b"x"), ("0.b.png", b"x")], "2 pictures belong to one sample: a.png, b.png"),
    ],
)
def test_tars_without_samples(tmp_path, members, message):
    with pytest.raises(DataError, match=message) as caught:
        open_data(tar(tmp_path / "a.tar", members), [X])
    assert caught.value.at.startswith(str(tmp_path / "a.tar"))
    assert caught.value.fix


def test_what_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot read the tar file") as caught:
        open_data(tmp_path, [X])
    assert caught.value.at == str(tmp_path / "a.tar")
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"b.tar.gz is compressed") as caught:
        open_data(tmp_path / "b.tar.gz", [X])
    assert "gunzip" in caught.value.fix
    with pytest.raises(DataError, match="none of 2 images can be read, the first"):
        rows_of(open_data(tar(tmp_path / "c.tar", [("0.png", b"x"), ("1.png", b"")]), [X]))


def test_pictures_for_two_inputs(tmp_path):
    with pytest.raises(DataError, match="images feed one input, the model has 2"):
        open_data(tar_set(tmp_path / "set"), [X, IDS])


# --- Parquet ---


def test_columns_of_lists_and_tensors(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    ids = arrow.array([[k, k + 1] for k in range(7)], arrow.list_(arrow.int32(), 2))
    values = np.arange(28, dtype=np.float32).reshape(7, 2, 2)
    tensor = arrow.FixedShapeTensorArray.from_numpy_ndarray(values)
    kinds = {
        "nested": arrow.array(values.tolist()),
        "flat": arrow.array(values.reshape(7, 4).tolist()),
        "tensor": tensor,
    }
    for name, column in kinds.items():
        table = arrow.table({"ids": ids, "mask.1": column, "label": [f"l{k}" for k in range(7)], "more": [None] * 7})
        dataset = open_data(parquet(tmp_path / f"{name}.parquet", table, rows=3), [IDS, MASK])
        batches = list(dataset.batches(4))
        np.testing.assert_array_equal(np.concatenate([b.feeds["mask.1"] for b in batches]), values)
        assert np.concatenate([b.feeds["ids"] for b in batches])[:, 1].tolist() == list(range(1, 8))
        assert batches[0].names[2:] == (f"{name}.parquet[2]", f"{name}.parquet[3]")
        assert labels_of(dataset) == [f"l{k}" for k in range(7)]


def test_numbers_are_rows_of_one(tmp_path):
    one = InputSpec("age", (None, 1), np.dtype("float32"))
    dataset = open_data(parquet(tmp_path / "a.parquet", {"age": [1.5, 2.5, 3.5]}), [one])
    assert [row.tolist() for row in rows_of(dataset, key="age")] == [[1.5], [2.5], [3.5]]


def test_rows_that_cannot_be_used_are_skipped(tmp_path):
    images = [picture(0), None, b"broken", picture(3)]
    dataset = open_data(parquet(tmp_path / "a.parquet", {"jpg": images}), [X])
    assert names_of(dataset) == ["a.parquet[0]", "a.parquet[3]"]
    assert [name for name, _ in dataset.skipped] == ["a.parquet[1]", "a.parquet[2]"]
    ragged = {"ids": [[1, 2], None, [3, 4]]}
    assert len(rows_of(open_data(parquet(tmp_path / "b.parquet", ragged), [IDS]), key="ids")) == 2


def test_a_damaged_row_group_is_skipped_row_by_row(tmp_path):
    values = np.random.default_rng(0).integers(0, 1 << 40, (12, 2))
    options = {"use_dictionary": False, "write_page_checksum": False, "compression": "gzip"}
    path = parquet(tmp_path / "a.parquet", {"ids": values.tolist()}, rows=4, **options)
    import pyarrow.parquet as pq

    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    dataset = open_data(path, [IDS])
    assert names_of(dataset) == [f"a.parquet[{k}]" for k in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert [name for name, _ in dataset.skipped] == [f"a.parquet[{k}]" for k in (4, 5, 6, 7)]


def test_only_the_row_groups_of_a_shard_are_read(tmp_path):
    dataset = open_data(parquet_set(tmp_path / "set"), [X], shard=(2, 5))
    units, count = dataset.units_of((2, 5))
    assert count == 5
    assert [(unit.group.file, unit.group.number) for unit in units] == [("0.parquet", 0), ("0.parquet", 1)]


@pytest.mark.parametrize(
    ("columns", "inputs", "message"),
    [
        ({"a": [1]}, [X], "the columns are a but the inputs are x, and none of them holds"),
        ({"a": [b""], "b": [b""]}, [X], "its image columns are a, b"),
        ({"ids": [[1, 2]]}, [IDS, MASK], "the columns are ids but the inputs are ids, mask.1"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, inputs, message):
    with pytest.raises(DataError, match=message) as caught:
        open_data(parquet(tmp_path / "a.parquet", columns), inputs)
    assert caught.value.at == str(tmp_path / "a.parquet")
    assert "`image`" in caught.value.fix


def test_broken_parquet_files(tmp_path):
    parquet(tmp_path / "a.parquet", {"ids": [[1, 2]]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 junk PAR1")
    with pytest.raises(DataError, match="cannot read the Parquet file") as caught:
        open_data(tmp_path, [IDS])
    assert caught.value.at == str(tmp_path / "b.parquet")
    parquet(tmp_path / "b.parquet", {"idz": [[1, 2]]})
    with pytest.raises(DataError, match="it has no column 'ids', as the first file has; its columns are idz"):
        open_data(tmp_path, [IDS])
    arrow = pytest.importorskip("pyarrow")
    empty = parquet(tmp_path / "c" / "a.parquet", {"ids": arrow.array([], arrow.list_(arrow.int64()))})
    with pytest.raises(DataError, match="there are no samples"):
        open_data(empty, [IDS])


def test_preparing_arrays_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", [("0.npy", npy(np.zeros(2)))])
    with pytest.raises(UsageError, match="--preprocess is for pictures"):
        open_data(path, [IDS], preprocess="unit")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    for data, what in (
        (tmp_path / "a.parquet", "Parquet is read by pyarrow"),
        ("s3://b/c", "s3:// is read by pyarrow"),
    ):
        with pytest.raises(UsageError, match=what) as caught:
            open_data(data, [IDS])
        assert caught.value.fix == "pip install 'pfa-onnx[parquet]'"
    assert open_data(tar_set(tmp_path / "set"), [X]).count == COUNT


# --- what a folder is ---


def test_an_archive_beside_its_pictures_is_left_alone(tmp_path):
    folder = folder_set(tmp_path / "pictures")
    tar(folder / "original.tar", [("0.png", picture(0))])
    assert open_data(folder, [X]).count == COUNT


def test_folders_of_two_kinds_are_refused(tmp_path):
    tar(tmp_path / "a.tar", [("0.png", picture(0))])
    (tmp_path / "logo.png").write_bytes(picture(0))
    with pytest.raises(DataError, match=r"the folder has 1 .tar files and 1 image files") as caught:
        open_data(tmp_path, [X])
    assert "name one file" in caught.value.fix


# --- addresses ---


def test_addresses_of_one_file_and_of_nothing(tmp_path):
    pytest.importorskip("pyarrow")
    tar_set(tmp_path / "set")
    dataset = open_data((tmp_path / "set" / "part-0.tar").as_uri(), [X])
    assert dataset.count == 9
    assert dataset.source == f"file://{tmp_path}/set/part-0.tar"
    with pytest.raises(DataError, match="no such file or folder: file:///") as caught:
        open_data((tmp_path / "gone").as_uri(), [X])
    assert caught.value.at == "--data"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in file://"):
        open_data((tmp_path / "empty").as_uri(), [X])
    np.save(tmp_path / "set" / "x.npy", 1)
    with pytest.raises(DataError, match="cannot tell what file://"):
        open_data((tmp_path / "set" / "x.npy").as_uri(), [X])
    with pytest.raises(UsageError, match="cannot read http:// addresses") as caught:
        open_data("http://host/a.tar", [X])
    assert "s3://" in caught.value.fix


def test_reports_do_not_tell_passwords():
    assert store.shown("s3://key:secret@bucket/a?endpoint_override=http%3A%2F%2Fh") == "s3://key@bucket/a"
    assert store.shown("a folder?/x:y@z") == "a folder?/x:y@z"


def test_broken_pictures_at_an_address(tmp_path):
    pytest.importorskip("pyarrow")
    folder = folder_set(tmp_path / "pictures")
    (folder / "03.png").write_bytes(b"broken")
    here, there = (open_data(data, [X], preprocess="raw") for data in (folder, folder.as_uri()))
    assert names_of(here) == names_of(there)
    assert here.part() == there.part()
    assert [name for name, _ in there.skipped] == ["03.png"]
