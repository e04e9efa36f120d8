"""Samples that other code makes: `file.py:function`, a callable, an iterable, or onnxruntime's get_next().

An item is a dict of arrays, an array for the only input, or (item, label). With as many axes as the input it
is a batch, with one fewer a single sample. An error in that code is reported where it happened.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pfa_onnx.errors import DataError, PfaError, UsageError
from pfa_onnx.stats.conform import conform
from pfa_onnx.stats.data import UNNAMED, ArrayData, Batch, Dataset, rebatch, renamed
from pfa_onnx.stats.parts import WHOLE, Part, Shard, array_bytes, digest

if TYPE_CHECKING:
    from pfa_onnx.recipe import InputSpec


class StreamData(Dataset):
    """Items from `make()`, checked, given the inputs' dtypes, and batched anew.

    file: the user's source file, to place errors in. once: the items can be read one time only.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]],
        inputs: Sequence[InputSpec],
        *,
        source: str,
        limit: int | None = None,
        shard: Shard = WHOLE,
        file: str | None = None,
        once: bool = False,
    ) -> None:
        self.source = source
        self._shard = shard
        self._first = ""  # the digest of the very first sample
        self._pulled = 0
        self._before = 0  # samples of the last pass that went to the end
        self._make, self._inputs, self._limit, self._file = make, inputs, limit, file
        self._once, self._spent = once, False

    def part(self) -> Part:
        """Know a stream by its first sample, and by how far it was read: whoever shards it, reads that too."""
        return Part(self._first, self._pulled, self._limit, *self._shard)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Call the user's code from the start; raises DataError naming its file and line when it fails."""
        if self._spent:
            raise DataError(
                f"{self.source} can be read only once, and is needed again",
                at=self.source,
                fix="give a function that returns a new iterator on every call",
            )
        self._spent = self._once
        return rebatch(self._samples(start), batch_size)

    def _samples(self, start: int) -> Iterator[Batch]:
        """Yield what this shard takes of every item, less the first `start` samples that it takes."""
        self._pulled, taken = 0, -start
        for item, place in self._items():
            batch = self._batch(item, self._pulled, f"{place}, sample {self._pulled}")
            if self._limit is not None:
                batch = _pick(batch, range(min(batch.count, self._limit - self._pulled)))
            if batch.count and not self._pulled:
                self._first = digest(b"stream", *map(array_bytes, _pick(batch, range(1)).feeds.values()))
            index, count = self._shard
            own = range((index - 1 - self._pulled) % count, batch.count, count)
            self._pulled += batch.count
            mine = _pick(batch, own[max(0, -taken) :])
            taken += len(own)
            if mine.count:
                yield mine
            if self._pulled == self._limit:
                break
        if not self._pulled:
            raise DataError("there are no samples", at=self.source, fix="give --data some inputs")
        if taken + start == 0:
            raise DataError("there are fewer samples than shards", at=self.source, fix="use fewer shards")
        if taken < 0 or self._pulled < self._before:
            raise DataError(
                f"{self._pulled} samples came, and {max(self._before, start)} the time before",
                at=self.source,
                fix="give the same samples every time: return a new iterator on every call",
            )
        self._before = self._pulled

    def _items(self) -> Iterator[tuple[Any, str]]:
        """Iterate over the user's items, and where they come from; only the user's code runs inside the guard."""
        with _blame(self.source, self._file):
            items = iter(self._make())
        while True:
            with _blame(self.source, self._file):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item, _place(items) or self.source

    def _batch(self, item: Any, seen: int, at: str) -> Batch:
        labels: Any = None
        if isinstance(item, tuple) and len(item) == 2:
            item, labels = item
        arrays = self._named(item, at)
        ranks = {spec.name: len(spec.shape) for spec in self._inputs}
        if all(rank and arrays[name].ndim == rank - 1 for name, rank in ranks.items()):
            arrays = {name: array[None] for name, array in arrays.items()}
        feeds = {
            spec.name: conform(arrays[spec.name], spec, at=at, rows=range(seen, sys.maxsize)) for spec in self._inputs
        }
        count = self._count(feeds, at)
        given = [None] * count if labels is None else np.asarray(labels).ravel().tolist()
        if len(given) != count:
            what = f"{count} samples come with {len(given)} labels"
            raise DataError(what, at=at, fix="yield one label for every sample")
        names = tuple(f"{self.source}[{seen + index}]" for index in range(count))
        return Batch(feeds, names, tuple(None if label is None else str(label) for label in given))

    def _named(self, item: Any, at: str) -> dict[str, np.ndarray[Any, Any]]:
        wanted = [spec.name for spec in self._inputs]
        if not isinstance(item, Mapping):
            if len(wanted) != 1:
                raise DataError(
                    f"a {type(item).__name__} came, but the model has {len(wanted)} inputs: {', '.join(wanted)}",
                    at=at,
                    fix="yield a dict with an array for each input",
                )
            item = {wanted[0]: item}
        if set(item) != set(wanted):
            found = ", ".join(sorted(map(str, item))) or "nothing"
            raise DataError(
                f"the dict has {found} but the inputs are {', '.join(sorted(wanted))}",
                at=at,
                fix=renamed(set(map(str, item)), wanted) or "yield a dict with an array for each input, and no other",
            )
        try:
            return {name: np.asarray(item[name]) for name in wanted}
        except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
            what = f"cannot make an array of a {type(item).__name__}: {error}"
            raise DataError(what, at=at, fix="yield numpy arrays") from error

    def _count(self, feeds: Mapping[str, np.ndarray[Any, Any]], at: str) -> int:
        counts = {array.shape[0] if array.ndim else 1 for array in feeds.values()}
        if len(counts) == 1:
            return counts.pop()
        if len({spec.shape[0] for spec in self._inputs if spec.shape and spec.shape[0] is not None}) > 1:
            return 1  # the inputs themselves disagree, so there is no batch axis: one item is one sample
        lengths = ", ".join(f"{name} {array.shape[:1]}" for name, array in feeds.items())
        what = f"the inputs come with different numbers of samples: {lengths}"
        raise DataError(what, at=at, fix="yield as many samples for every input")


def _place(items: Iterator[Any]) -> str | None:
    """Return the line at which a generator waits: the one that yielded last."""
    frame = items.gi_frame if inspect.isgenerator(items) else None
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _pick(batch: Batch, rows: range) -> Batch:
    """Return some samples of a batch."""
    if len(rows) == batch.count:
        return batch  # also keeps a sample whose arrays have no common first axis whole
    feeds = {name: array[rows.start : rows.stop : rows.step] for name, array in batch.feeds.items()}
    return Batch(feeds, tuple(batch.names[k] for k in rows), tuple(batch.labels[k] for k in rows))


def open_stream(data: Any, inputs: Sequence[InputSpec], *, limit: int | None, shard: Shard = WHOLE) -> Dataset:
    """Return the data set for a get_next() reader, an iterable, or a callable; raises DataError for anything else."""
    source = getattr(data, "__qualname__", None) or type(data).__name__
    if hasattr(data, "get_next") and not isinstance(data, type):
        rewind = getattr(data, "rewind", None)

        def make() -> Iterable[Any]:
            if rewind is not None:
                rewind()
            return iter(data.get_next, None)

        return StreamData(make, inputs, source=source, limit=limit, shard=shard, once=rewind is None)
    if isinstance(data, Iterable):
        once = iter(data) is data
        return StreamData(lambda: data, inputs, source=source, limit=limit, shard=shard, once=once)
    if callable(data):
        code = getattr(inspect.unwrap(data), "__code__", None)
        file = getattr(code, "co_filename", None)
        return _called(data, inputs, source=source, limit=limit, shard=shard, file=file)
    what = f"cannot read samples from a {source}"
    raise DataError(what, at="--data", fix="give arrays, a mapping of arrays, or a function")


def open_script(
    script: str, function: str, inputs: Sequence[InputSpec], *, limit: int | None, shard: Shard = WHOLE
) -> Dataset:
    """Return the data set for `script:function`; this runs the script."""
    path = Path(script)
    if not path.is_file():
        raise DataError(f"no such file: {script}", at="--data", fix="give the path of a Python file and a function")
    name = "pfa_onnx_data_" + "".join(char if char.isalnum() else "_" for char in path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)  # as `python script` does
    with _blame(script, script):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        here = sorted(
            key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")
        )
        raise UsageError(
            f"{script} has no function {function!r}",
            at="--data",
            fix=f"use {script}:{here[0]}" if here else f"define {function}() in {script}",
        )
    return _called(found, inputs, source=f"{script}:{function}", limit=limit, shard=shard, file=script)


def _called(
    function: Callable[[], Any],
    inputs: Sequence[InputSpec],
    *,
    source: str,
    limit: int | None,
    shard: Shard,
    file: str | None,
) -> Dataset:
    """Call once now: it tells arrays from streams, and shows a broken function before any work is done."""
    with _blame(source, file):
        first = function()
    if isinstance(first, np.ndarray):
        first = {UNNAMED: first}
    if isinstance(first, Mapping):
        return ArrayData(first, inputs, source=source, limit=limit, shard=shard)
    if hasattr(first, "get_next") or not isinstance(first, Iterable):
        made = open_stream(first, inputs, limit=limit, shard=shard)
        made.source = source
        return made
    ready = [first]  # the first pass takes what is already there

    def make() -> Iterable[Any]:
        return ready.pop() if ready else function()

    return StreamData(make, inputs, source=source, limit=limit, shard=shard, file=file)


@contextmanager
def _blame(source: str, file: str | None) -> Iterator[None]:
    """Turn an exception of the user's code into a DataError with its own file and line."""
    try:
        yield
    except PfaError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}"
        else:
            found = [error, error.__cause__]  # a StopIteration that leaves a generator becomes another error
            traces = [traceback.extract_tb(one.__traceback__) for one in found if one is not None]
            frames = [frame for frame in chain(*traces) if frame.filename != __file__]
            own = [frame for frame in frames if file and Path(frame.filename).resolve() == Path(file).resolve()]
            place = next((f"{f.filename}:{f.lineno} in {f.name}" for f in reversed(own or frames)), source)
        what = f"{source} failed: {type(error).__name__}: {error}"
        raise DataError(what, at=place, fix="correct the code there") from error
