"""Pictures, arrays and generators at their worst: used as they should be, or skipped and named; nothing else stops."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import sys
import textwrap
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support import two_convolutions

from pfa_onnx import api
from pfa_onnx.cli import main
from pfa_onnx.errors import DataError
from pfa_onnx.options import DataOptions
from pfa_onnx.printable import in_one_line, printable
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.data import open_data
from pfa_onnx.stats.imageplan import fit
from pfa_onnx.stats.images import apply, decode
from pfa_onnx.stats.preprocess import make_preprocess

X = InputSpec("x", (None, 3, 8, 8), np.dtype("float32"))
ROW = InputSpec("x", (None, 4), np.dtype("float32"))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
ROOT = pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can become somebody else")
NOBODY = 65534

# Pillow warns of what is then skipped; the command line shows no warnings of libraries
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def names_of(dataset, size=4):
    return [name for batch in dataset.batches(size) for name in batch.names]


def why(dataset):
    """What is skipped, after all was read."""
    names_of(dataset)
    return dict(dataset.skipped)


def good(path, value=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), value).save(path, "PNG")


def chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, depth, colour, rows=b"", more=b""):
    """A PNG, byte by byte. depth: bits; colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- pictures that are too large ---


def test_bombs_are_skipped_named_and_not_decoded(tmp_path):
    """A few kilobytes that claim, or really hold, a hundred million pixels."""
    good(tmp_path / "good.png")
    (tmp_path / "claims.png").write_bytes(png(100_000, 100_000, 8, 2))
    (tmp_path / "holds.png").write_bytes(png(10_000, 10_000, 1, 0, bytes(10_000 * 1251)))
    began = time.process_time()
    skipped = why(open_data(tmp_path, [X]))
    assert time.process_time() - began < 1
    assert set(skipped) == {"claims.png", "holds.png"}
    assert all(text.startswith("DecompressionBombError") for text in skipped.values())
    assert "10000x10000 pixels are more than" in skipped["holds.png"]


def test_texts_in_pictures_do_not_explode(tmp_path):
    """Ten megabytes of one letter, in ten kilobytes of a comment."""
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 10_000_000))
    (tmp_path / "text.png").write_bytes(png(8, 8, 8, 2, b"\0" + bytes(24) * 8, bomb))
    good(tmp_path / "good.png")
    dataset = open_data(tmp_path, [X])
    assert {"good.png", "text.png"} == {*names_of(dataset), *dict(dataset.skipped)}


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_does_not_become_a_wall(size):
    """Resized so that its short side fits, a strip of one pixel would have billions; the middle is all that counts."""
    plan = fit(make_preprocess("imagenet"), InputSpec("x", (None, 3, 224, 224), np.dtype("float32")))
    sample = apply(plan, Image.new("RGB", size, (10, 20, 30)), name="strip")
    assert sample.shape == (3, 224, 224)
    assert len({float(value) for value in sample[0].ravel()}) == 1


def test_the_way_around_walls_gives_the_same_pixels(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 700, 3)).astype(np.uint8)
    plan = fit(make_preprocess("imagenet"), InputSpec("x", (None, 3, 64, 64), np.dtype("float32")))
    one = apply(plan, Image.fromarray(pixels), name="a")
    monkeypatch.setattr("pfa_onnx.stats.images._LARGEST", 0)
    other = apply(plan, Image.fromarray(pixels), name="a")
    np.testing.assert_allclose(one, other, atol=1.01 / 255 / 0.22)  # one level, in units of the deviation


# --- pictures that are broken ---


def test_nothing_that_is_wrong_with_a_file_stops_a_run(tmp_path):
    """A thousand pictures of eight formats with bytes changed, cut off or put in: decoded, or skipped and named."""
    chance = random.Random(0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8))
    count = 0
    for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "tga"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        whole = buffer.getvalue()
        for _ in range(40):
            content = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                at = chance.randrange(min(len(content), chance.choice((40, 4000))))
                content[at] = chance.randrange(256)
            if chance.random() < 0.3:
                del content[chance.randrange(len(content)) :]
            if chance.random() < 0.2:
                at = chance.randrange(len(content) + 1)
                content[at:at] = chance.randbytes(chance.randrange(1, 100))
            (tmp_path / f"{count:04}.{kind}").write_bytes(content)
            count += 1
    good(tmp_path / "good.png")
    dataset = open_data(tmp_path, [X])
    used = names_of(dataset, 32)
    assert len(used) + len(dataset.skipped) == count + 1
    assert "good.png" in used
    assert dataset.skipped
    assert all(text and str(tmp_path) not in text for _, text in dataset.skipped)


def test_empty_files_and_things_that_are_no_files(tmp_path):
    good(tmp_path / "good.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.png")  # whoever opens it waits for ever
        (tmp_path / "device.png").symlink_to("/dev/zero")
    skipped = why(open_data(tmp_path, [X]))
    assert {"empty.jpg", "gone.png", "loop.png"} <= set(skipped)
    if sys.platform != "win32":
        assert {"pipe.png", "device.png"} <= set(skipped)
        assert "no plain file" in skipped["pipe.png"]
    assert "folder.png" not in skipped


def test_a_picture_without_pixels(tmp_path):
    good(tmp_path / "good.png")
    (tmp_path / "flat.png").write_bytes(png(0, 8, 8, 0))
    (tmp_path / "flat.ppm").write_bytes(b"P6 0 0 255\n")
    assert set(why(open_data(tmp_path, [X]))) == {"flat.png", "flat.ppm"}


def test_memory_that_ends_is_no_broken_picture(tmp_path, monkeypatch):
    """A run that went on would measure other samples than it says."""
    good(tmp_path / "good.png")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("pfa_onnx.stats.images.decode", full)
    with pytest.raises(MemoryError):
        names_of(open_data(tmp_path, [X]))


# --- pictures of every kind ---


def pixel(content, channels=3, at=(0, 0)):
    return decode(io.BytesIO(content), channels).getpixel(at)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sixteen_bits_are_scaled_not_clipped():
    """Black, a quarter, the middle and white, of every way to write them."""
    levels = np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)
    wanted = [0, 64, 128, 255]
    grey = Image.fromarray(levels)
    big = levels.astype(">u2").tobytes()
    coloured = np.repeat(levels[..., None], 3, axis=2).astype(">u2").tobytes()
    opaque = np.stack([levels, np.full_like(levels, 0xFFFF)], axis=2).astype(">u2").tobytes()
    contents = {
        "grey PNG": saved(grey, "PNG"),
        "grey TIFF": saved(grey, "TIFF"),
        "PGM": b"P5 4 1 65535\n" + big,
        "PGM of ten bits": b"P5 4 1 1023\n" + np.array([0, 256, 512, 1023], ">u2").tobytes(),
        "RGB PNG": png(4, 1, 16, 2, b"\0" + coloured),
        "grey and alpha PNG": png(4, 1, 16, 4, b"\0" + opaque),
    }
    for name, content in contents.items():
        for channels in (1, 3, 4):
            found = decode(io.BytesIO(content), channels)
            values = [np.ravel(found.getpixel((k, 0)))[0] for k in range(4)]
            assert np.abs(np.array(values, int) - wanted).max() <= 1, (name, channels, values)


def test_pixels_without_a_range_are_skipped(tmp_path):
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "deep.tiff")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    good(tmp_path / "good.png")
    assert set(why(open_data(tmp_path, [X]))) == {"deep.tiff", "float.tiff"}


def test_cmyk_and_its_inverted_kind():
    """Photoshop writes CMYK inverted, and says so in a marker that Pillow reads."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for content in (saved(red, "JPEG"), saved(red, "TIFF")):
        for channels in (3, 4):
            found = pixel(content, channels)
            assert found[0] > 240
            assert max(found[1:3]) < 15


def test_palettes_and_every_kind_of_alpha():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pixel(saved(palette, "PNG")) == (10, 200, 30)
    assert pixel(saved(palette, "PNG", transparency=1)) == (255, 255, 255), "transparency is flattened on white"
    assert pixel(saved(palette, "PNG", transparency=bytes([255, 0]))) == (255, 255, 255)
    assert pixel(saved(palette, "GIF", transparency=1)) == (255, 255, 255)
    assert pixel(saved(clear, "PNG")) == (255, 255, 255)
    assert pixel(saved(clear, "WEBP", lossless=True, exact=True)) == (255, 255, 255)
    assert pixel(saved(half, "PNG"), 1) == 127
    assert pixel(saved(clear, "PNG"), 4)[3] == 0, "a model of four channels sees it"
    assert pixel(saved(Image.new("L", (8, 8), 9), "PNG", transparency=9)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(content) == (200, 0, 0)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_upright_by_their_exif_data(turn, kind):
    """As Pillow's own function turns them, whatever the format."""
    from PIL import ImageOps

    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    content = saved(Image.fromarray(pixels), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(io.BytesIO(content), 3)), wanted)
    assert wanted.shape == ((16, 32, 3) if turn < 5 else (32, 16, 3))


def test_exif_data_that_is_broken_does_not_cost_the_picture():
    for broken in (
        b"Exif\0\0junk",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
    ):
        content = saved(Image.new("RGB", (16, 16), (250, 0, 0)), "JPEG", exif=broken)
        assert pixel(content)[0] > 240


# --- names and permissions ---


@LINUX
def test_names_that_are_no_text(tmp_path, capfd):
    """Bytes that are no UTF-8, colours, line feeds: the samples count, and what is shown harms no terminal."""
    folder = tmp_path / "val"
    folder.mkdir()
    strange = [
        b"\xff\xfe.png",
        b"\x1b[31mred\x1b]0;title\x07.png",
        b"two\nlines.png",
        "\u202egnp.png".encode(),
        b"caf\xe9.png",
    ]
    for k, name in enumerate(strange):
        good(folder / os.fsdecode(name), (k, 2, 3))
        (folder / os.fsdecode(b"broken " + name)).write_bytes(b"junk")
    dataset = open_data(folder, [X])
    assert sorted(map(os.fsencode, names_of(dataset))) == sorted(strange)
    assert len(dataset.skipped) == len(strange)
    assert open_data(folder, [X]).part() == dataset.part()
    model = picture_model(tmp_path)
    report = tmp_path / os.fsdecode(b"r\xff.json")
    words = ["analyze", str(model), "--data", str(folder), "--allow-few-samples", "--json", str(report)]
    assert main([*words, "--save-stats", str(tmp_path / os.fsdecode(b"s\xff.npz"))]) == 0
    out, err = capfd.readouterr()
    assert "5 inputs skipped" in err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out + err)
    assert json.loads(report.read_text())["data"]["samples"] == 5
    for name in strange:
        assert printable(in_one_line(os.fsdecode(name))).isprintable()


@LINUX
def test_a_model_whose_name_is_no_text(tmp_path, capfd):
    model = picture_model(tmp_path).rename(tmp_path / os.fsdecode(b"m\xff.onnx"))
    np.save(tmp_path / os.fsdecode(b"d\xff.npy"), np.random.default_rng(0).random((32, 3, 8, 8), np.float32))
    data, out = str(tmp_path / os.fsdecode(b"d\xff.npy")), str(tmp_path / os.fsdecode(b"o\xff.onnx"))
    assert main(["prune", str(model), "--data", data, "--uniform", "0.5", "--allow-few-samples", "-o", out]) == 0
    assert main(["check", str(model), out, "--data", data, "--no-latency"]) == 0
    assert r"m\xff.onnx" in capfd.readouterr().out


@ROOT
def test_files_and_folders_that_may_not_be_read(server, tmp_path):
    """As somebody else: a picture is skipped and named; a folder is an error, for nobody knows what is in it."""
    model, folder = picture_model(tmp_path), tmp_path / "val"
    for k in range(6):
        good(folder / f"{k}.png", (40 * k, 255 - 40 * k, 7 * k))
    (folder / "3.png").chmod(0)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_mode & 0o005 != 0o005:
            part.chmod(part.stat().st_mode | 0o055)
    words = ["analyze", model, "--data", folder, "--allow-few-samples"]
    code, _, err = server.run(*words, user=NOBODY)
    assert code == 0, err
    assert "1 input skipped: 3.png (PermissionError" in err
    good(folder / "more" / "a.png")
    (folder / "more").chmod(0)
    code, _, err = server.run(*words, user=NOBODY)
    assert code == 2
    assert "cannot list a folder: Permission denied" in err
    assert str(folder / "more") in err
    folder.chmod(0)
    for data in (folder, folder / "0.png", folder / "a.npy", f"{folder}/load.py:f"):
        code, _, err = server.run("analyze", model, "--data", data, user=NOBODY)
        assert code == 2
        assert "ermission denied" in err, err
        assert "internal error" not in err
    model.chmod(0)
    code, _, err = server.run("analyze", model, "--data", folder, user=NOBODY)
    assert code == 2
    assert "is not readable" in err


def picture_model(folder) -> Path:
    """A model that takes small pictures."""
    model = two_convolutions(np.random.default_rng(0), 6, 3, ["N", 3, 8, 8], ["N", 4, 4, 4])
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


# --- many ---


def many(folder, count):
    """So many pictures in a hundred folders, a few of them empty or broken; most are the same files."""
    kinds = [saved(Image.fromarray(np.full((8, 8, 3), 25 * k, np.uint8)), "PNG") for k in range(10)]
    for k in range(10):
        (folder / f"kind-{k}").write_bytes(kinds[k])
    for k in range(count):
        place = folder / "val" / f"{k % 100:02}"
        if k < 100:
            place.mkdir(parents=True)
        target = place / f"{k:06}.png"
        if k % 1000 == 999:
            target.write_bytes(b"")
        elif k % 50_000 < 10:
            target.write_bytes(kinds[k % 10])
        else:
            os.link(folder / f"kind-{k // 100 % 10}", target)
    return folder / "val"


@LINUX
def test_a_folder_of_many_files(tmp_path):
    folder = many(tmp_path, 2000)
    dataset = open_data(folder, [X], preprocess="raw", limit=500)
    assert dataset.count == 500
    assert len(dataset.classes) == 100
    dataset = open_data(folder, [X])
    assert len(names_of(dataset, 64)) == 1998
    assert len(dataset.skipped) == 2


@LINUX
@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_files(tmp_path):
    count = 100_000
    folder, model = many(tmp_path, count), picture_model(tmp_path)
    import resource

    began = time.process_time(), time.monotonic()
    dataset = open_data(folder, [X])
    dataset.part()
    listed = time.process_time() - began[0]
    assert dataset.count == count
    assert listed < 10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time(), time.monotonic()
    report = api.analyze(model, DataOptions(data=str(folder), providers="cpu"))
    took, peak = time.process_time() - began[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert report.data.samples == count - count // 1000
    assert len(report.data.skipped) == count // 1000
    assert peak - before < 200 << 10, "kilobytes"
    began = time.process_time()
    assert api.analyze(model, DataOptions(data=str(folder), limit=64, providers="cpu")).data.samples >= 60
    few = time.process_time() - began
    print(
        f"\n{count:,} files: listed and known in {listed:.1f} s of one core; all analysed in {took:.0f} s, "
        f"{(peak - before) >> 10} MB more; 64 of them with --limit in {few:.1f} s"
    )


# --- numbers that are none, and data that says nothing ---


def test_nan_names_the_sample_and_the_input(tmp_path):
    rows = np.zeros((20, 4), np.float32)
    rows[13, 2] = np.nan
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(DataError, match="sample 13 has NaN in it") as caught:
        names_of(open_data(tmp_path / "a.npy", [ROW]))
    assert caught.value.at == f"{tmp_path / 'a.npy'} -> input 'x'"
    with pytest.raises(DataError, match="sample 13 has NaN in it"):
        names_of(open_data(lambda: [rows[:10], rows[10:]], [ROW]))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e38])
def test_infinity_names_a_layer(tmp_path, capfd, value):
    """Infinity may be meant, as in masks: what counts is what the layers make of it."""
    model = picture_model(tmp_path)
    rows = np.random.default_rng(0).random((16, 3, 8, 8)).astype(np.float32)
    rows[5] = value
    np.save(tmp_path / "a.npy", rows)
    words = ["prune", str(model), "--data", str(tmp_path / "a.npy"), "--uniform", "0.5", "--allow-few-samples"]
    assert main([*words, "-o", str(tmp_path / "o.onnx")]) == 2
    err = capfd.readouterr().err
    assert "NaN or infinite" in err
    assert re.search("at: (first|last)", err)
    assert "internal error" not in err
    assert not (tmp_path / "o.onnx").exists()


def test_a_weight_that_is_no_number_names_its_layer(tmp_path, capfd):
    model = onnx.load(picture_model(tmp_path))
    weight = np.array(onnx.numpy_helper.to_array(model.graph.initializer[0]))
    weight[3] = np.nan
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "n.onnx")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((16, 3, 8, 8)).astype(np.float32))
    words = ["prune", str(tmp_path / "n.onnx"), "--data", str(tmp_path / "a.npy"), "--uniform", "0.5"]
    assert main([*words, "--allow-few-samples", "-o", str(tmp_path / "o.onnx")]) == 2
    err = capfd.readouterr().err
    assert "NaN or infinite" in err
    assert "at: first" in err


def test_pictures_that_are_all_the_same_decide_nothing(tmp_path, capfd):
    """A layer that does not vary would lose all channels but one: on data that says nothing, it is an error."""
    for k in range(20):
        good(tmp_path / "val" / f"{k}.png")
    words = ["prune", str(picture_model(tmp_path)), "--data", str(tmp_path / "val"), "--allow-few-samples", "--kl"]
    assert main([*words, "-o", str(tmp_path / "o.onnx")]) == 2
    assert "no layer varies at all on this data" in capfd.readouterr().err
    assert not (tmp_path / "o.onnx").exists()


# --- arrays ---


def test_array_files_that_lie(tmp_path):
    """Claims that the bytes do not hold, compressed bytes that are broken, encrypted and foreign archives."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 4)))
    whole, chance = path.read_bytes(), random.Random(1)
    opened = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            names_of(open_data(path, [ROW]))
            opened += 1
        except DataError:
            pass
    assert opened < 150
    np.save(tmp_path / "b.npy", np.zeros((10, 4), np.float32))
    content = (tmp_path / "b.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(content.replace(b"(10, 4)", b"(99, 4)"))
    with pytest.raises(DataError, match="cannot read the arrays"):
        open_data(tmp_path / "b.npy", [ROW])


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_that_claims_more_than_its_bytes_can_be(tmp_path, compressed):
    """Not one byte is reserved for what cannot be there."""
    path, stream = tmp_path / "a.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", stream.getvalue() + bytes(64))
    with pytest.raises(DataError, match=r"cannot read the arrays: x.npy is not as large as it says"):
        open_data(path, [ROW])


def test_an_array_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 4), np.float32))
    batches = open_data(path, [ROW]).batches(8)
    next(batches)
    np.save(tmp_path / "b.npy", np.zeros((30, 4), np.float32))
    (tmp_path / "b.npy").replace(path)
    with pytest.raises(DataError, match="the file changed while it was being read"):
        list(batches)
    batches = open_data(path, [ROW]).batches(8)
    next(batches)
    path.unlink()
    with pytest.raises(DataError, match="cannot read the arrays"):
        list(batches)


@LINUX
def test_an_archive_that_is_larger_than_memory(server, small, tmp_path):
    """Half a gigabyte of zeros, in half a megabyte."""
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((1 << 27,), np.float32))
    code, _, err = server.run("analyze", small.model, "--data", tmp_path / "bomb.npz", memory=300 << 20)
    assert code == 2
    assert "out of memory: a .npz file is read as a whole" in err or "out of memory: the arrays of a .npz" in err
    assert "FILE.npy" in err


# --- generators ---


BAD = {
    "raises at once": ("def f():\n    raise KeyError('no')", 2, "KeyError"),
    "raises later": ("def f():\n    yield np.zeros(4)\n    raise OSError(5, 'disk')", 4, "OSError"),
    "stops inside": ("def f():\n    yield np.zeros(4)\n    next(iter(()))\n    yield 1", 4, "StopIteration"),
    "recurses": ("def f():\n    yield np.zeros(4)\n    yield g()\ndef g():\n    return g()", 6, "RecursionError"),
    "exits": ("def f():\n    yield np.zeros(4)\n    raise SystemExit(0)", 4, "SystemExit"),
    "another shape": ("def f():\n    yield np.zeros(4)\n    yield np.zeros(5)", 4, "samples are"),
    "another rank": ("def f():\n    yield np.zeros(4)\n    yield np.zeros((2, 2, 4))", 4, "samples are 2x4"),
    "another type": ("def f():\n    yield np.zeros(4)\n    yield np.array(['a'] * 4)", 4, "values are <U1"),
    "objects": ("def f():\n    yield np.zeros(4)\n    yield [object()] * 4", 4, "values are object"),
    "nothing": ("def f():\n    yield np.zeros(4)\n    yield None", 4, "samples are"),
    "fractions for whole numbers": ("def f():\n    yield [1, 2]\n    yield [0.5, 2]", 4, "do not fit"),
    "not a number": ("def f():\n    yield np.zeros(4)\n    yield np.array([0, 0, np.nan, 0])", 4, "sample 1 has NaN"),
    "ragged": ("def f():\n    yield np.zeros(4)\n    yield [[1], [1, 2]]", 4, "cannot make an array"),
    "an unknown name": ("def f():\n    yield np.zeros(4)\n    yield {'y': np.zeros(4)}", 4, "the dict has y"),
    "too many labels": ("def f():\n    yield np.zeros(4)\n    yield np.zeros((2, 4)), [1, 2, 3]", 4, "3 labels"),
    "another rank in a loop": (
        "def f():\n    for k in range(9):\n        yield np.zeros([4] * (1 + k // 5 * 2))",
        4,
        "4x4",
    ),
}


@pytest.mark.parametrize(("body", "line", "what"), BAD.values(), ids=BAD)
def test_a_generator_that_fails_is_named_with_its_line(tmp_path, body, line, what):
    path = tmp_path / "loader.py"
    path.write_text("import numpy as np\n" + textwrap.dedent(body))
    spec = InputSpec("x", (None, 2), np.dtype("int64")) if "whole" in what or "fit" in what else ROW
    with pytest.raises(DataError, match=what) as caught:
        names_of(open_data(f"{path}:f", [spec]), 1)
    place = re.search(r"loader\.py:(\d+) in \w+", caught.value.at)
    assert place, caught.value.at
    assert int(place[1]) == line + (what == "KeyError")


def test_types_that_say_the_same_may_change():
    items = [np.zeros(4, np.float64), np.zeros(4, np.int8), [0, 1, 2, 3], np.zeros((2, 4), ">f4"), np.zeros(4, bool)]
    batches = list(open_data(items, [ROW]).batches(6))
    assert batches[0].feeds["x"].dtype == np.float32
    assert batches[0].count == 6


def test_free_extents_may_change():
    spec = InputSpec("x", (None, None), np.dtype("float32"))
    counts = [b.count for b in open_data([np.zeros((3, 4)), np.zeros((2, 5)), np.zeros((4, 5))], [spec]).batches(4)]
    assert counts == [3, 4, 2]


def test_a_generator_that_ends_earlier_the_second_time(tmp_path):
    """What is read twice must be the same: a repair would learn from other samples than it is judged by."""
    left = iter([9, 5, 0])

    def shrinking():
        for _ in range(next(left)):
            yield np.zeros(4)

    dataset = open_data(shrinking, [ROW])
    assert len(names_of(dataset)) == 9
    with pytest.raises(DataError, match="5 samples came, and 9 the time before") as caught:
        names_of(dataset)
    assert "new iterator on every call" in caught.value.fix
    with pytest.raises(DataError, match="no samples"):
        names_of(dataset)


def test_a_stream_that_ends_before_the_place_to_go_on_from():
    dataset = open_data(lambda: [np.zeros((6, 4))], [ROW])
    assert not list(dataset.batches(4, 6)), "nothing is left, and nothing is missing"
    with pytest.raises(DataError, match="6 samples came, and 9 the time before"):
        list(dataset.batches(4, 9))


def test_fewer_than_asked_for_are_all():
    assert len(names_of(open_data(lambda: (np.zeros(4) for _ in range(7)), [ROW], limit=100))) == 7
