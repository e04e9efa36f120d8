"""A calibration that is not finished, on disk: enough to go on as if it had never stopped, to the last bit.

It is a statistics file with a schema of its own, the rows that wait to be folded (`waiting/<i>` for layer i), and
how far the data was read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import StatsError
from pfa_onnx.recipe import Reason
from pfa_onnx.stats.archive import Archive, replacing_stats, typed
from pfa_onnx.stats.statsfile import CHECKPOINT, SCHEMA, StatsFile, header_of, opened, parse, write_contents

_ANEW = "leave --resume out to begin anew"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a calibration had measured at some moment.

    stats: of the rows that were folded, with all samples counted. waiting: by layer output, rows [k, C] that were
    not folded yet. position: how many of the chosen samples lie behind. skipped: (name, why) among these.
    unmeasured: layers found to have no usable response.
    """

    stats: StatsFile
    waiting: Mapping[str, npt.NDArray[Any]]
    position: int
    skipped: tuple[tuple[str, str], ...] = ()
    unmeasured: Mapping[str, Reason] | None = None


def save_checkpoint(path: Path, found: Checkpoint) -> None:
    """Write it: the old file or the new one is there at any time, never half of one."""
    header = header_of(found.stats) | {
        "schema": CHECKPOINT,
        "version": SCHEMA,
        "position": found.position,
        "skipped": [list(item) for item in found.skipped],
        "unmeasured": {name: [why.reason, why.node] for name, why in (found.unmeasured or {}).items()},
    }
    with replacing_stats(path) as stream, zipfile.ZipFile(stream, "w") as file:
        archive = Archive(file)
        write_contents(archive, found.stats)
        for index, name in enumerate(found.stats.moments):
            archive.write(f"waiting/{index}", found.waiting[name])
        archive.write_header(header)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read it; raises StatsError for anything that is not a whole checkpoint of this version."""
    with opened(path, fix=_ANEW) as archive:
        header = archive.read_header()
        if header["schema"] != CHECKPOINT or header["version"] != SCHEMA:
            raise StatsError("this is no checkpoint of this version", at=str(path), fix=_ANEW)
        stats = parse(archive, header | {"schema": SCHEMA}, fix=_ANEW)
        checkpoint = Checkpoint(
            stats=stats,
            waiting={name: _waiting(archive, k, one.channels) for k, (name, one) in enumerate(stats.moments.items())},
            position=typed(header["position"], int),
            skipped=tuple((typed(name, str), typed(why, str)) for name, why in header["skipped"]),
            unmeasured={name: _reason(why) for name, why in typed(header["unmeasured"], dict).items()},
        )
        archive.verify(header)
    return checkpoint


def _reason(found: Any) -> Reason:
    reason, node = found
    return Reason(typed(reason, str), typed(node, str))


def _waiting(archive: Archive, index: int, channels: int) -> npt.NDArray[Any]:
    rows = archive.read(f"waiting/{index}")
    if (
        rows.dtype not in (np.float32, np.float64)
        or rows.ndim != 2
        or rows.shape[1] != channels
        or not np.isfinite(rows).all()
    ):
        raise ValueError(f"the waiting rows of layer {index} are not rows")
    return rows
