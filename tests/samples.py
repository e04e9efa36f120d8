"""Data sets of encoded pictures with labels, as the files that `--data` takes."""

from __future__ import annotations

import io
import tarfile

import pytest


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def tars_of(folder, contents, size):
    """Tar files of so many samples each."""
    folder.mkdir()
    for start in range(0, len(contents), size):
        with tarfile.open(folder / f"{start:04}.tar", "w") as archive:
            for k, (content, label) in enumerate(contents[start : start + size], start):
                add(archive, f"{k:04}.png", content)
                add(archive, f"{k:04}.cls", label.encode())
    return folder


def parquet_of(folder, contents, size):
    """Parquet files of so many samples each, in row groups of 20."""
    arrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    folder.mkdir()
    for start in range(0, len(contents), size):
        some = contents[start : start + size]
        table = {"image": [content for content, _ in some], "label": [label for _, label in some]}
        write(arrow.table(table), folder / f"{start:04}.parquet", row_group_size=20)
    return folder


def pictures_of(folder, contents, size):
    """A sub-folder for each label."""
    for k, (content, label) in enumerate(contents):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{k:04}.png").write_bytes(content)
    return folder


SETS = {"tar": tars_of, "parquet": parquet_of, "pictures": pictures_of}
