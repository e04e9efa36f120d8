"""One pass over the data as it goes on: what was seen, which inputs are kept, where another run could continue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.graph.model import Graph
from pfa_onnx.recipe import Floats
from pfa_onnx.stats.checkpoint import Checkpoint
from pfa_onnx.stats.covariance import Moments
from pfa_onnx.stats.data import Batch, Dataset
from pfa_onnx.stats.statsfile import StatsFile
from pfa_onnx.steps.calibration import Calibration, Ready

Array = npt.NDArray[Any]

KEPT_SAMPLES = 8  # how many inputs stay at hand for the proof
KEPT_BYTES = 64_000_000  # ... unless they are larger than this; one stays in any case


class OnePass:
    """One pass over the data: what was seen, and what of it is kept."""

    def __init__(
        self,
        graph: Graph,
        dataset: Dataset,
        calibration: Calibration,
        kept: Mapping[str, Array],
        preprocess: dict[str, Any],
        *,
        before: Checkpoint | None,
    ) -> None:
        self._graph, self._dataset, self._calibration = graph, dataset, calibration
        self._kept, self._preprocess = dict(kept), preprocess
        self._begun = before is not None
        self._skipped = before.skipped if before else ()
        self._providers = before.stats.provider if before else ""
        self._position = before.position if before else 0
        self.seen = before.stats.samples if before else 0

    def take(self, ready: Ready) -> None:
        """Measure a batch."""
        self._calibration.add(ready)
        batch = ready.batch
        self.seen += batch.count
        self._position = self._dataset.position(self.seen, batch.names[-1])
        if self._begun:  # the very first batch gave what is kept
            self._kept = keep_more(self._kept, batch)
        self._begun = True

    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Return what could not be read, by this run and the one before."""
        return (*self._skipped, *self._dataset.skipped)

    def stats(self, moments: Mapping[str, Moments], squares: Mapping[str, Floats]) -> StatsFile:
        """Return the statistics so far."""
        providers = dict.fromkeys(name for name in (self._providers, self._calibration.provider) if name)
        return StatsFile(
            model_sha256=self._graph.sha256,
            source=self._dataset.source,
            samples=self.seen,
            provider=" + ".join(providers),
            moments=moments,
            inputs=self._kept,
            preprocess=self._preprocess,
            parts=(self._dataset.part(),),
            responses=self._calibration.responses,
            squares=squares,
        )

    def checkpoint(self) -> Checkpoint:
        """Return what another run needs to go on from here."""
        states = self._calibration.states()
        return Checkpoint(
            stats=self.stats({output: seen for output, (seen, _) in states.items()}, self._calibration.squares()),
            waiting={output: waiting for output, (_, waiting) in states.items()},
            position=self._position,
            # reading runs ahead: what it skipped there, the next run will meet again
            skipped=tuple(s for s in self.skipped() if self._dataset.position(0, s[0]) <= self._position),
            unmeasured=self._calibration.unmeasured,
        )


def keep(batch: Batch) -> dict[str, Array]:
    """Keep the first few samples for the proof."""
    whole = sum(array.nbytes for array in batch.feeds.values())
    count = min(batch.count, KEPT_SAMPLES, max(1, KEPT_BYTES * batch.count // max(whole, 1)))
    return {name: array[:count].copy() for name, array in batch.feeds.items()}


def keep_more(kept: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """Keep more samples for the proof while there are few, as with models of a fixed batch of one."""
    have = len(next(iter(kept.values()), ()))
    size = sum(array.nbytes for array in kept.values())
    room = min(KEPT_SAMPLES - have, (KEPT_BYTES - size) * have // max(size, 1))
    same = all(kept[name].shape[1:] == array.shape[1:] for name, array in batch.feeds.items())
    if have == 0 or room <= 0 or not same:
        return kept
    return {name: np.concatenate([kept[name], array[:room]]) for name, array in batch.feeds.items()}
