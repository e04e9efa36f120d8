"""What lies in .tar or .parquet files, or in an object store, is read on a cluster by Ray Data.

Every shard's session pulls a stream of its own, of which Ray Data reads and decodes the next samples, in order, in
tasks on any node: beside a GPU that means on the cores of the nodes that have none. The tasks run the readers of
stats/, on just the members, row groups and pictures of this shard. `read_parquet` and `read_webdataset` were tried in
their place: they take whole files, for each shard anew, do not say which row of which file came, and fail at the
first file that is cut off. Blocks as arguments of the shards would need room for whole shards at once; a stream needs
a few blocks, and goes with its session: Ray Data reads again what a lost node held, and a session that dies is run
again, stream and all, by `cluster`, which counts what it returns once.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeGuard

import numpy as np

from pfa_onnx.errors import PfaError
from pfa_onnx.stats.data import Batch, Dataset, rebatch
from pfa_onnx.stats.images import ImageFolder
from pfa_onnx.stats.parts import Part, Shard
from pfa_onnx.stats.records import Decoder, Loaded, Records, Unit, load_units, taken
from pfa_onnx.stats.store import in_threads

_SENT = 8_000_000  # bytes of samples that travel together, about
_FILES = 32  # fewer are looked into from here
_MANY = 16  # readers of one session at the most


@dataclass(frozen=True)
class Share:
    """What the stream of one session may take. readers: tasks at once. memory: bytes of the object store."""

    readers: int
    memory: float


class Streamed(Dataset):
    """A shard of `Records` that Ray Data reads; it travels to the worker that measures it."""

    def __init__(self, whole: Records, shard: Shard, share: Share) -> None:
        self.source = whole.source
        self.skipped: list[tuple[str, str]] = []
        self._units, self.count = whole.units_of(shard)
        self._decoder: Decoder = whole.decoder
        self._part = replace(whole.part(), index=shard[0], count=shard[1])
        self._said = whole.describe()
        self._share = share

    def part(self) -> Part:
        """Return what the whole data set says of this shard."""
        return self._part

    def describe(self) -> dict[str, Any]:
        """Return what the whole data set says, but for the number of samples."""
        return self._said | super().describe()

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield prepared samples, in the order of the files."""
        found = islice(_stream(self._units, self._decoder, self._share), start, None)
        return rebatch(taken(self, self.skipped, found, self._decoder.noun), batch_size)


def streams(dataset: Dataset) -> TypeGuard[Records]:
    """Whether Ray Data reads this: a folder of pictures that all nodes see is read by each shard itself."""
    return isinstance(dataset, Records) and (dataset.remote or not isinstance(dataset.index, ImageFolder))


def share_of(ray: Any, workers: int) -> Share:
    """Divide the cluster: readers come on top of the sessions, and half of the object store is left to results."""
    there: Mapping[str, float] = ray.cluster_resources()
    readers = min(_MANY, max(2, int(there.get("CPU", 1)) // workers))
    return Share(readers, there.get("object_store_memory", 1e9) / 2 / workers)


def look_into(function: Callable[[Any], Any], files: Sequence[Any]) -> list[Any]:
    """Look into many files at once, anywhere in the cluster: tar files say what they hold from one end to the other."""
    if len(files) < _FILES:
        return in_threads(function, files)
    import ray.data  # noqa: PLC0415 - an extra

    def look(row: dict[str, Any]) -> dict[str, Any]:
        return {"found": pickle.dumps(_tried(lambda: function(row["file"])))}

    with _settings(ray.data, None):
        rows = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
        found = rows.map(look).take_all()  # all, before anything is raised: a stream left alone goes on by itself
    return [_told(pickle.loads(row["found"])) for row in found]  # noqa: S301 - our own


def _stream(units: Sequence[Unit], decoder: Decoder, share: Share) -> Iterator[Loaded]:
    """Yield the samples of all units, in order; raises what a reader raises."""
    import ray.data  # noqa: PLC0415 - an extra

    def read(rows: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for unit in rows["unit"]:
            for samples in _sent(load_units([pickle.loads(unit)], decoder)):  # noqa: S301 - our own
                yield {"samples": np.array([pickle.dumps(samples)], object)}

    with _settings(ray.data, share.memory):
        items = [{"unit": pickle.dumps(unit)} for unit in units]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        # no core of their own: the sessions may hold all there are, and would wait for them for ever
        read_rows = rows.map_batches(
            read, batch_size=1, num_cpus=0, concurrency=share.readers, scheduling_strategy="SPREAD"
        )
        with closing(iter(read_rows.iter_rows())) as sent:
            for row in sent:
                for one in pickle.loads(row["samples"]):  # noqa: S301 - our own
                    yield _told(one)


def _sent(found: Iterable[Loaded]) -> Iterator[list[Any]]:
    """Put samples together to travel, and what was raised behind them."""
    waiting: list[Any] = []
    size = 0
    try:
        for one in found:
            waiting.append(one)
            size += sum(array.nbytes for array in one.feeds.values())
            if size >= _SENT:
                yield waiting
                waiting, size = [], 0
    except PfaError as error:  # as it is, and not as an error of Ray's
        waiting.append(error)
    yield waiting


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PfaError as error:
        return error


def _told(found: Any) -> Any:
    if isinstance(found, PfaError):
        raise found
    return found


@contextmanager
def _settings(data: Any, memory: float | None) -> Iterator[None]:
    """Keep the order, within this much memory, and say nothing; the caller's settings come back."""
    context = data.DataContext.get_current()
    options = context.execution_options
    before = options.preserve_order, options.resource_limits, context.enable_progress_bars
    logger = logging.getLogger("ray.data")
    level = logger.level
    try:
        options.preserve_order, context.enable_progress_bars = True, False
        if memory is not None:
            options.resource_limits = data.ExecutionResources(object_store_memory=memory)
        logger.setLevel(logging.ERROR)
        yield
    finally:
        options.preserve_order, options.resource_limits, context.enable_progress_bars = before
        logger.setLevel(level)
