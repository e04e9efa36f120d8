"""Files and folders of samples: pictures, tar files or Parquet files, here or in an object store.

What a folder is, its files say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pfa_onnx.errors import DataError, UsageError
from pfa_onnx.stats import parquet, tars
from pfa_onnx.stats.data import KINDS
from pfa_onnx.stats.imageplan import fit
from pfa_onnx.stats.images import ImageFolder, PictureDecoder, picture_endings
from pfa_onnx.stats.parts import WHOLE, Shard
from pfa_onnx.stats.preprocess import Preprocess, make_preprocess
from pfa_onnx.stats.records import Arrays, Decoder, Index, Records
from pfa_onnx.stats.store import Each, Store, in_threads, locate, shown

if TYPE_CHECKING:
    from pfa_onnx.recipe import InputSpec

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_files(
    data: str,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | str = "auto",
    limit: int | None = None,
    shard: Shard = WHOLE,
    each: Each = in_threads,
) -> Records:
    """Return the data set of a file or folder, or of an address.

    each: how many files are looked into: a function and the files -> its results.
    Raises DataError when it is none of these, cannot be read or does not fit, UsageError where pyarrow is missing.
    """
    store, name = locate(data)
    names, ending = _names(store, name, data)

    def pictures() -> PictureDecoder:
        return _pictures(data, inputs, preprocess)

    index: Index
    decoder: Decoder
    if ending == tars.ENDING:
        index, decoder = _open_tars(store, names, inputs, pictures, each)
    elif ending == parquet.ENDING:
        columns = parquet.choose_columns(store, names[0], [spec.name for spec in inputs])
        decoder = pictures() if columns.image else Arrays(tuple(inputs))
        index = parquet.ParquetFiles(store, names, columns, each=each)
    else:
        decoder = pictures()
        index = ImageFolder(store, names, alone=name is not None)
    if index.starts[-1] == 0:
        raise DataError("there are no samples", at=shown(data), fix=f"give {KINDS}")
    if isinstance(decoder, Arrays):
        _refuse_preparing(data, preprocess)
    return Records(index, decoder, source=shown(data), remote=store.remote, limit=limit, shard=shard)


def _open_tars(
    store: Store, names: Sequence[str], inputs: Sequence[InputSpec], pictures: Callable[[], Decoder], each: Each
) -> tuple[Index, Decoder]:
    wanted = tuple(spec.name for spec in inputs)
    first = tars.first_sample(store, names)
    endings = picture_endings()
    named = all(f"{name}.npy" in first for name in wanted)
    seen = any(f".{ending.rpartition('.')[2].lower()}" in endings for ending in first)
    if not named and not seen and not (len(wanted) == 1 and "npy" in first):
        members = ", ".join(first.values()) or "nothing"
        raise DataError(
            f"the first sample is {members}: neither a picture nor an array for each input",
            at=store.place(names[0]),
            fix=f"add KEY.jpg, or {' and '.join(f'KEY.{name}.npy' for name in wanted)}",
        )
    arrays = named or not seen
    decoder = Arrays(tuple(inputs)) if arrays else pictures()
    return tars.TarFiles(store, names, tars.Wanted(endings, wanted, arrays), each=each), decoder


def _names(store: Store, name: str | None, data: str) -> tuple[list[str], str]:
    """Return the files of the one kind that there is, and their ending, "" for pictures."""
    endings = picture_endings()
    boxes = (tars.ENDING, parquet.ENDING)
    if name is not None:
        ending = next((box for box in boxes if name.lower().endswith(box)), "")
        if name.lower().endswith(_PACKED):
            what = f"{shown(data)} is compressed: samples are read where they lie"
            raise DataError(what, at="--data", fix="unpack the .tar itself, with gunzip or its kin")
        if not ending and f".{name.rpartition('.')[2].lower()}" not in endings:
            raise DataError(f"cannot tell what {shown(data)} is", at="--data", fix=f"give {KINDS}")
        return [name], ending
    files = store.files({*endings, *boxes})
    kinds = {box: [file for file in files if file.lower().endswith(box)] for box in boxes}
    kinds[""] = [file for file in files if not file.lower().endswith(boxes)]
    if len(kinds[""]) > len(files) - len(kinds[""]):  # an archive that lies beside its pictures
        return kinds[""], ""
    found = {ending: names for ending, names in kinds.items() if names}
    if not found:
        raise DataError(f"no images in {shown(data)}", at=shown(data), fix=f"give {KINDS}")
    if len(found) > 1:
        counts = " and ".join(f"{len(names)} {ending or 'image'} files" for ending, names in found.items())
        raise DataError(f"the folder has {counts}", at=shown(data), fix="keep one kind in a folder, or name one file")
    ending, names = next(iter(found.items()))
    return names, ending


def _pictures(data: str, inputs: Sequence[InputSpec], preprocess: Preprocess | str) -> PictureDecoder:
    if len(inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in inputs)
        raise DataError(
            f"images feed one input, the model has {len(inputs)}: {names}",
            at=shown(data),
            fix="give FILE.npz or loader.py:function",
        )
    chosen = preprocess if isinstance(preprocess, Preprocess) else make_preprocess(preprocess)
    return PictureDecoder(fit(chosen, inputs[0]))


def _refuse_preparing(data: str, preprocess: Preprocess | str) -> None:
    plain = preprocess == "auto" or (isinstance(preprocess, Preprocess) and preprocess == make_preprocess("auto"))
    if not plain:
        raise UsageError(
            f"--preprocess is for pictures, and {shown(data)} gives arrays",
            at="--preprocess",
            fix="leave --preprocess out, and prepare the arrays as the model takes them",
        )
