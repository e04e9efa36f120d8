"""Calibrate on a Ray cluster: every shard is a task, and their statistics meet in a tree of merges.

Ray runs a task again when its worker or its node dies, and a shard's result is read by one merge only: so every
shard counts exactly once, whatever happens on the way. The model and the data lie where all nodes see them, under
the same absolute paths; object stores, .tar and .parquet files are read by `raydata`. ray is imported there and here
only, and only when asked for: `pip install pfa-onnx[ray]`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pfa_onnx.errors import DataError, ModelError, PfaError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.options import DataOptions, Hooks
from pfa_onnx.recipe import Reason
from pfa_onnx.results import DataInfo
from pfa_onnx.stats import session
from pfa_onnx.stats.data import Dataset, require_two
from pfa_onnx.stats.merge import merge_two
from pfa_onnx.stats.session import batch_size_for
from pfa_onnx.stats.statsfile import StatsFile
from pfa_onnx.steps.measure import (
    Measured,
    find_layers,
    learn_shapes,
    measure,
    open_dataset,
    report_refused,
    report_skipped,
)
from pfa_onnx.steps.onepass import KEPT_SAMPLES, keep, keep_more
from pfa_onnx.steps.raydata import Streamed, look_into, share_of, streams

LOCAL = "local"  # start a cluster on this machine for the time of the run
RETRIES = 5  # of a shard whose worker died
SHARDS = 4  # for each worker: what a death costs, and how even the end is
SAMPLES = 512  # ... unless shards become smaller than this


@dataclass(frozen=True, eq=False)
class Piece:
    """What some shards measured."""

    stats: StatsFile
    skipped: tuple[tuple[str, str], ...]
    unmeasured: Mapping[str, Reason]


def measure_on_ray(graph: Graph, options: DataOptions, hooks: Hooks, address: str) -> Measured:
    """Calibrate on the cluster at this address ("local": start one here); as `measure`, up to rounding.

    Raises UsageError without ray or without the cluster, ModelError when workers keep dying, and whatever a shard
    raises.
    """
    ray = _ray()
    started = _connect(ray, address)
    try:
        dataset = open_dataset(graph, options, look_into)
        size = batch_size_for(graph.inputs, options.batch_size, options.providers)
        inputs = _first_inputs(dataset, size)
        shapes, probed = learn_shapes(graph, inputs)
        layers = find_layers(graph, shapes)
        report_refused(graph, hooks)
        piece = _gather(ray, graph, options, hooks, dataset)
    finally:
        if started:
            ray.shutdown()
    skipped = tuple(sorted(piece.skipped, key=lambda one: dataset.position(0, one[0])))  # as one process meets them
    report_skipped(skipped, hooks)
    require_two(dataset, piece.stats.samples)
    # workers saw the data under absolute paths, and each of them kept other inputs
    stats = replace(piece.stats, source=dataset.source, inputs=inputs)
    info = DataInfo(stats.source, stats.samples, stats.preprocess, stats.provider, size, skipped)
    return Measured(graph, shapes, probed, layers, piece.unmeasured, stats, info)


def _first_inputs(dataset: Dataset, size: int) -> dict[str, Any]:
    """Return the inputs that one process would keep for the proof."""
    batches = dataset.batches(size)
    first = next(batches, None)
    if first is None:
        raise DataError("there are no samples", at=dataset.source, fix="give --data some inputs")
    kept = keep(first)
    for batch in islice(batches, KEPT_SAMPLES):
        kept = keep_more(kept, batch)
    return kept


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"--ray needs Ray ({error})", at="--ray", fix="pip install 'pfa-onnx[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Connect, unless this process is connected; return whether it was done here."""
    if ray.is_initialized():
        return False
    here = {"include_dashboard": False} if address == LOCAL else {}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (OSError, ValueError, RuntimeError) as error:
        what = f"no Ray cluster answers: {str(error).splitlines()[0]}"
        raise UsageError(
            what, at=f"--ray {address}", fix="start one with `ray start --head`, or use --ray local"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself tries for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is not None:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()


def _gather(ray: Any, graph: Graph, options: DataOptions, hooks: Hooks, dataset: Dataset) -> Piece:
    """Measure all shards and merge them, in the same tree whoever is done first."""
    gpus = 1 if options.providers == "cuda" else 0
    workers = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
    count = shards_for(workers, dataset.count)
    shard = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=_lost(ray))(measure_shard)
    merge = ray.remote(num_cpus=0, max_retries=RETRIES)(merge_pieces)
    preprocess = options.preprocess
    if str(preprocess).endswith(".json"):
        preprocess = _absolute(preprocess)
    shared = replace(options, data=_absolute(options.data), preprocess=preprocess)
    shards = [(index, count) for index in range(1, count + 1)]
    if streams(dataset):
        share = share_of(ray, workers)
        parts = [ray.put(replace(shared, data=Streamed(dataset, one, share))) for one in shards]
    else:
        parts = [ray.put(shared)] * count
    path = str(Path(str(graph.path)).resolve())
    leaves = [shard.remote(path, part, one) for part, one in zip(parts, shards, strict=True)]
    try:
        root = _tree(leaves, merge)
        _watch(ray, leaves, hooks)
        piece: Piece = ray.get(root)
    except ray.exceptions.RayTaskError as error:
        raise _reason(error) from error
    except ray.exceptions.RayError as error:
        what = f"the workers keep dying: {str(error).splitlines()[0]}"
        raise ModelError(
            what, at=str(graph.path), fix="give workers more memory, or use a smaller --batch-size"
        ) from error
    return piece


def _lost(ray: Any) -> list[type[Exception]]:
    """Return what a shard meets when a node dies with samples that were read for it: it is measured again."""
    names = ("ObjectLostError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "RaySystemError")
    return [getattr(ray.exceptions, name) for name in names if hasattr(ray.exceptions, name)]


def shards_for(workers: int, samples: int | None) -> int:
    """Return into how many shards to cut; a stream, of unknown length, is read as a whole for each of them."""
    if samples is None:
        return workers
    return max(1, min(SHARDS * workers, max(workers, samples // SAMPLES), samples))


def measure_shard(path: str, options: DataOptions, shard: tuple[int, int]) -> Piece:
    """Measure one shard, on one core; this runs in a worker."""
    session.set_threads(1)
    found = measure(load(Path(path)), replace(options, shard=shard), Hooks())
    assert found.data is not None
    return Piece(found.stats, found.data.skipped, found.unmeasured)


def merge_pieces(one: Piece, other: Piece) -> Piece:
    """Merge two pieces; this runs in a worker."""
    unmeasured = {**one.unmeasured, **other.unmeasured}
    stats = merge_two(_without(one.stats, unmeasured), _without(other.stats, unmeasured))
    return Piece(stats, tuple(sorted((*one.skipped, *other.skipped))), unmeasured)


def _without(stats: StatsFile, layers: Mapping[str, Reason]) -> StatsFile:
    return replace(stats, moments={name: one for name, one in stats.moments.items() if name not in layers})


def _tree(leaves: Sequence[Any], merge: Any) -> Any:
    """Return the root of a balanced tree of merges; leaves that end early wait for nobody but their neighbour."""
    while len(leaves) > 1:
        pairs = [merge.remote(*leaves[k : k + 2]) for k in range(0, len(leaves) - 1, 2)]
        leaves = [*pairs, *leaves[2 * len(pairs) :]]
    return leaves[0]


def _watch(ray: Any, leaves: Sequence[Any], hooks: Hooks) -> None:
    """Tell how many shards are measured, until all are, or one failed for good."""
    waiting, count = list(leaves), len(leaves)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=5.0, fetch_local=False)
        if ready:
            hooks.progress("shards", count - len(waiting), count)


def _reason(error: Any) -> PfaError:
    """Return what a worker raised, as if it had been raised here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, PfaError):
        return type(cause)(cause.what, at=cause.at, fix=cause.fix)
    what = f"a worker failed: {type(cause or error).__name__}: {cause or error}"[:500]
    return ModelError(what, at="--ray", fix="try it without --ray")


def _absolute(data: Any) -> Any:
    """Return a path that means the same in a worker's folder; anything else as it is."""
    if not isinstance(data, str | Path):
        return data
    script, colon, function = str(data).rpartition(":")
    if script.endswith(".py") and not Path(data).exists():
        return f"{Path(script).resolve()}{colon}{function}"
    return str(Path(data).resolve()) if Path(data).exists() else data
