"""The recipe inside a pruned file: written by `prune`, read by whoever wants to cut the same channels elsewhere.

A model that is pruned again keeps the recipe that it had as `previous`, so that the whole chain from the first
original is in the last file. What is read is anybody's metadata: everything in it is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx import __version__
from pfa_onnx.errors import StatsError
from pfa_onnx.graph.edits import gather_step
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.recipe import VARIANTS, Ints, Taken
from pfa_onnx.responses import PAPER
from pfa_onnx.results import LayerRepair, Repair
from pfa_onnx.steps.decide import Decision

Array = npt.NDArray[Any]

SCHEMA = 1
_LARGEST = 1 << 62  # of an index, far beyond any
METADATA_KEY = "pfa_onnx.recipe"


@dataclass(frozen=True)
class Embedded:
    """One pruning: what stayed of the model that it was made of.

    kept: layer output -> sorted indices that stayed. channels: how many it had. taken: of every constant that was cut
    or copied, what it is in the original; a constant that is not there was left as it was.
    content: all that the file says, as JSON values.
    """

    original_sha256: str
    channels: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]
    taken: Mapping[str, Taken]
    content: Mapping[str, Any] = field(repr=False)
    previous: Embedded | None = None

    @property
    def chain(self) -> tuple[Embedded, ...]:
        """All prunings, the first one first."""
        return (*(self.previous.chain if self.previous else ()), self)

    @property
    def kept_of_first(self) -> dict[str, tuple[int, ...]]:
        """What stays of every layer, as indices into the first original's channels."""
        return self.kept_of(self.chain[0].original_sha256) or {}

    def kept_of(self, sha256: str) -> dict[str, tuple[int, ...]] | None:
        """Return what stays of every layer of an earlier model of the chain; None if it is not there."""
        if self.original_sha256 == sha256:
            return dict(self.kept)
        before = self.previous.kept_of(sha256) if self.previous else None
        if before is None:
            return None
        return {
            output: tuple(before[output][k] for k in keep) if output in before else keep
            for output, keep in self.kept.items()
        }

    def cut(self, name: str, array: Array) -> Array:
        """Return what is left of a constant of the first original, which is given whole.

        Raises StatsError when it has not the shape that it was cut in.
        """
        for one in self.chain:
            taken = one.taken.get(name)
            if taken is None or taken.source != name:
                continue
            for axes, at, extents in taken.steps:
                room = math.prod(array.shape[a] for a in axes) if max(axes) < array.ndim else 0
                if at.size and at.max() >= room:
                    raise StatsError(
                        f"{name!r} of shape {list(array.shape)} cannot be cut: the recipe is for another one",
                        at="recipe",
                        fix="use the state of the model that was pruned",
                    )
                array = gather_step(array, axes, at, extents)
        return array


# --- writing ------------------------------------------------------------------------------------------------


def embed_recipe(
    small: Graph,
    decision: Decision,
    original_sha256: str,
    *,
    redrawn: int | None = None,
    repair: Repair | None = None,
) -> None:
    """Store the recipe in the model's metadata: enough to cut the same channels elsewhere.

    redrawn: the seed by which all weights were drawn anew, if they were. repair: what was gained by solving them anew.
    """
    keep = {
        t.layer.output: {
            "channels": t.layer.channels,
            "keep": np.flatnonzero(decision.keep[t.layer.labels]).tolist(),
            "node": t.layer.node,
            "weight": t.layer.weight,
        }
        for t in decision.trace.layers
    }
    chosen = decision.method
    method = {k: v for k, v in vars(chosen).items() if v is not None and (k not in VARIANTS or k in chosen.variants)}
    content: dict[str, Any] = {
        "layers": keep,
        "method": method,
        "original_sha256": original_sha256,
        "schema": SCHEMA,
        "version": __version__,
    }
    if small.taken:
        content["constants"] = _written(small.taken)
    if decision.trace.through_norm:
        content["through_norm"] = True
    if decision.responses != PAPER:
        content["responses"] = decision.responses.variants
    if redrawn is not None:
        content["redrawn"] = redrawn
    if repair is not None:
        how = {layer.output: layer.how for layer in repair.layers}
        content["repair"] = {"after": repair.after, "before": repair.before, "layers": how, "samples": repair.samples}
    previous = content_of(decision.trace.graph)
    if previous:
        content["previous"] = previous
    store(small, content)


def store(graph: Graph, content: Mapping[str, Any]) -> None:
    """Put a recipe into a model's metadata."""
    graph.model.metadata_props[METADATA_KEY] = json.dumps(content, sort_keys=True, separators=(",", ":"))


def _written(taken: Mapping[str, Taken]) -> dict[str, Any]:
    """Return {"indices": lists that differ, "taken": {name: {"steps": [[axes, which list, extents]]}}}."""
    lists: dict[bytes, int] = {}
    indices: list[list[int]] = []
    written: dict[str, Any] = {}
    for name, one in taken.items():
        steps = []
        for axes, at, extents in one.steps:
            key = np.asarray(at, np.int64).tobytes()
            if key not in lists:
                lists[key] = len(indices)
                indices.append([int(k) for k in at])
            steps.append([list(axes), lists[key], [int(n) for n in extents]])
        written[name] = {"steps": steps}
        if one.source != name:
            written[name]["source"] = one.source
        if one.handed:
            written[name]["handed"] = True
    return {"indices": indices, "taken": written}


# --- reading ------------------------------------------------------------------------------------------------


def read_embedded(model: str | Path | Graph) -> Embedded | None:
    """Return the recipe inside a model, None where there is none.

    Raises StatsError when it is broken, and ModelError when the file cannot be read.
    """
    graph = model if isinstance(model, Graph) else load(Path(model))
    text = graph.model.metadata_props.get(METADATA_KEY)
    if text is None:
        return None
    try:
        content = json.loads(text)
        if content.get("schema", SCHEMA) != SCHEMA:
            found, by = (str(content.get(key))[:20] for key in ("schema", "version"))
            what = f"the recipe inside has schema {found}, written by pfa-onnx {by}; this version reads {SCHEMA}"
            raise StatsError(what, at=str(graph.path), fix="use that version, or prune the original again")
        return parse(content) if "layers" in content else None  # of a model that was fine-tuned only
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise StatsError(
            f"the recipe inside the model is broken ({type(error).__name__}: {why})",
            at=str(graph.path),
            fix="prune the original again",
        ) from None


def parse(content: Mapping[str, Any]) -> Embedded:
    """Return a recipe of its JSON values; raises ValueError, TypeError, KeyError or IndexError when it is broken."""
    layers = {str(output): layer for output, layer in content["layers"].items()}
    channels = {output: int(layer["channels"]) for output, layer in layers.items()}
    kept = {output: tuple(_indices(layer["keep"], channels[output])) for output, layer in layers.items()}
    previous = content.get("previous")
    return Embedded(
        original_sha256=str(content["original_sha256"]),
        channels=channels,
        kept=kept,
        taken=_read(content.get("constants") or {"indices": [], "taken": {}}),
        content=content,
        previous=None if previous is None else parse(previous),
    )


def embedded_repair(graph: Graph) -> Repair | None:
    """Return what repair gained when a model was made, if it was repaired, without what it was layer by layer."""
    try:
        found = content_of(graph).get("repair")
        if found is None:
            return None
        layers = tuple(LayerRepair(str(k), "", math.nan, math.nan, str(how)) for k, how in found["layers"].items())
        before, after = float(found["before"]), float(found["after"])
        return Repair(layers, int(found["samples"]), 0, before, after, applied=True)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def content_of(graph: Graph) -> dict[str, Any]:
    """Return what a model's metadata say, nothing where they say nothing that we wrote."""
    try:
        found = json.loads(graph.model.metadata_props.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(written: Mapping[str, Any]) -> dict[str, Taken]:
    lists = [np.array(_indices(one, None), np.int64) for one in written["indices"]]
    return {
        str(name): Taken(
            str(one.get("source", name)),
            tuple(_step(step, lists) for step in one["steps"]),
            handed=bool(one.get("handed", False)),
        )
        for name, one in written["taken"].items()
    }


def _step(step: Any, lists: list[Ints]) -> tuple[tuple[int, ...], Ints, tuple[int, ...]]:
    axes, which, extents = step
    axes, extents = tuple(_indices(axes, None)), tuple(_indices(extents, None))
    at = lists[int(which)]
    if not axes or len(axes) != len(extents) or math.prod(extents) != len(at):
        raise ValueError(f"{len(at)} positions for extents {list(extents)}")
    return axes, at, extents


def _indices(given: Any, limit: int | None) -> list[int]:
    if not isinstance(given, list) or not all(type(k) is int and 0 <= k < _LARGEST for k in given):
        raise ValueError("a list of indices is not one")
    if limit is not None and (given != sorted(set(given)) or (given and given[-1] >= limit)):
        raise ValueError(f"indices are not ascending numbers from 0 to {limit - 1}")
    return given
