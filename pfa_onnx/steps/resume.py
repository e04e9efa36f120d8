"""Long calibrations: saved from time to time, and continued where they stopped, counting nothing twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfa_onnx.errors import DataError, StatsError
from pfa_onnx.graph.model import Graph
from pfa_onnx.options import Hooks
from pfa_onnx.recipe import Layer
from pfa_onnx.replacing import remove_leftovers
from pfa_onnx.responses import Responses
from pfa_onnx.stats.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfa_onnx.stats.conform import conform
from pfa_onnx.stats.data import Dataset
from pfa_onnx.stats.parts import Part
from pfa_onnx.stats.statsfile import StatsFile

_MEASURE_ANEW = "measure again with `pfa-onnx analyze --save-stats`"
SECONDS = 60.0  # between two checkpoints
SHARE = 50  # ... and so many times what the last one took: at most two per cent of the run


class Checkpoints:
    """The unfinished calibration beside a statistics file: FILE.partial, gone when FILE is written."""

    def __init__(self, target: Path, *, resume: bool) -> None:
        self.path = target.with_name(f"{target.name}.partial")
        self._resume = resume
        self._next = time.monotonic() + SECONDS
        self.saved = 0

    def load(self) -> Checkpoint | None:
        """Return what an interrupted run left, if it is wanted and there is any; raises StatsError."""
        return load_checkpoint(self.path) if self._resume and self.path.exists() else None

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, found: Checkpoint) -> None:
        """Save, and plan the next time."""
        start = time.monotonic()
        save_checkpoint(self.path, found)
        self.saved = found.stats.samples
        now = time.monotonic()
        self._next = now + max(SECONDS, SHARE * (now - start))

    def done(self) -> None:
        """Remove it, and what killed runs left of it: the whole statistics are there."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path)

    def interrupted(self, hooks: Hooks) -> None:
        """Say how to go on."""
        if self.saved:
            hooks.warn(f"the first {self.saved} samples are saved: the same command with --resume continues there")


def refuse_other(
    found: StatsFile, graph: Graph, dataset: Dataset, preprocess: object, responses: Responses, *, at: Path
) -> None:
    """Raise StatsError unless these statistics are of this model, these samples and these responses."""
    what = None
    if found.model_sha256 != graph.sha256:
        what = f"another model: sha256 {found.model_sha256[:12]}, and not {graph.sha256[:12]}"
    elif len(found.parts) != 1:
        what = f"{len(found.parts)} parts of the data, and not of one"
    elif not found.parts[0].begins_like(dataset.part()):
        what = _other_part(found.parts[0], dataset.part())
    elif dict(found.preprocess) != preprocess:
        what = f"other preprocessing: {_differing(found.preprocess, preprocess)}"
    elif found.responses != responses:
        what = f"other responses: {found.responses.flags}, and not {responses.flags}"
    if what is not None:
        fix = "leave --resume out to measure anew, or choose another --save-stats"
        raise StatsError(f"what --resume found is of {what}", at=str(at), fix=fix)


def refuse_unfit(found: StatsFile, graph: Graph, at: Path) -> None:
    """Raise StatsError unless the inputs that these statistics keep are what the model takes."""
    names = [spec.name for spec in graph.inputs]
    if set(found.inputs) != set(names):
        what = f"it keeps the inputs {', '.join(found.inputs) or 'of none'}, and the model takes {', '.join(names)}"
        raise StatsError(what, at=str(at), fix=_MEASURE_ANEW)
    for spec in graph.inputs:
        array = found.inputs[spec.name]
        try:
            conform(array, spec, at=str(at))
        except DataError as error:
            raise StatsError(f"of the inputs that it keeps, {error.what}", at=error.at, fix=_MEASURE_ANEW) from None
        if not array.ndim or not len(array):
            raise StatsError(f"it keeps no sample of the input {spec.name!r}", at=str(at), fix=_MEASURE_ANEW)


def refuse_other_channels(found: StatsFile, layers: Sequence[Layer], read: Mapping[str, int], at: Path) -> None:
    """Raise StatsError unless these layers have, and read, as many channels as were measured.

    read: by layer output, the channels of the layer's input.
    """
    wanted = [(f"channels of '{layer.output}'", layer.channels, found.moments.get(layer.output)) for layer in layers]
    widths = [(what, width, moments.channels) for what, width, moments in wanted if moments is not None]
    widths += [
        (f"channels that '{layer.output}' reads", read.get(layer.output, 0), len(found.squares[layer.output]))
        for layer in layers
        if layer.output in found.squares
    ]
    for what, width, measured in widths:
        if measured != width:
            raise StatsError(f"it holds {measured} {what}, and the model has {width}", at=str(at), fix=_MEASURE_ANEW)


def _other_part(found: Part, wanted: Part) -> str:
    for what, one, other in (
        ("another --limit", found.limit, wanted.limit),
        ("another --shard", f"{found.index}/{found.count}", f"{wanted.index}/{wanted.count}"),
    ):
        if one != other:
            return f"{what}: {one}, and not {other}"
    return f"other data: {found.total} samples with digest {found.data[:12]}, and not {wanted.data[:12]}"


def _differing(found: Mapping[str, Any], wanted: Any) -> str:
    """Return what is another in how the inputs were made, as far as there are names for it."""
    known = dict(wanted) if isinstance(wanted, Mapping) else {}
    names = sorted(name for name in {*found, *known} if found.get(name) != known.get(name))
    return ", ".join(f"{name} {str(found.get(name))[:60]}, and not {str(known.get(name))[:60]}" for name in names[:3])


def refuse_other_responses(found: StatsFile, wanted: Responses, at: Path) -> None:
    """Raise StatsError unless these statistics are of the responses that are wanted, with all that is needed."""
    have = found.responses
    if (have.pool, have.tap) != (wanted.pool, wanted.tap):
        given = f"--pool {have.pool} --tap {have.tap}"
        raise StatsError(
            f"{at.name} was measured with {given}, not with --pool {wanted.pool} --tap {wanted.tap}",
            at=str(at),
            fix=f"decide with {given}, or measure again",
        )
    for there, needed, what, flag in (
        (have.inputs, wanted.inputs, "the mean squares of what layers read", "--select wanda"),
        (have.sums, wanted.sums, "the responses of residual sums", "--couple stream"),
    ):
        if needed and not there:
            raise StatsError(
                f"{at.name} is without {what}, which {flag} needs",
                at=str(at),
                fix=f"measure again with {flag} and --save-stats, or leave {flag} out",
            )
