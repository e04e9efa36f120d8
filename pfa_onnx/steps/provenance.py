"""How a model came about: the recipe inside it, read for people. It is anybody's metadata: everything is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pfa_onnx.errors import StatsError
from pfa_onnx.graph.model import Graph
from pfa_onnx.recipe import Method
from pfa_onnx.steps.embedded import METADATA_KEY, content_of
from pfa_onnx.tradeoff import Made

_DEEPEST = 100  # prunings of prunings


@dataclass(frozen=True)
class Provenance:
    """made: every step, the first one first. originals: sha256 of the models that it was pruned from."""

    made: tuple[Made, ...] = ()
    originals: tuple[str, ...] = ()


def provenance(graph: Graph) -> Provenance:
    """Return what the recipe inside a model says, nothing where there is none; raises StatsError when it is broken."""
    content = content_of(graph)
    if not content and METADATA_KEY in graph.model.metadata_props:
        raise _broken(graph, "it is no JSON object")
    try:
        chain = list(_chain(content))[::-1]
        made = tuple(_made(one) for one in chain if one)
        return Provenance(made, tuple(str(one["original_sha256"]) for one in chain if "original_sha256" in one))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise _broken(graph, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from None


def _chain(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the recipes, the last one first."""
    for _ in range(_DEEPEST):
        yield content
        before = content.get("previous")
        if before is None:
            return
        content = before
    raise ValueError(f"more than {_DEEPEST} prunings")


def _made(content: Mapping[str, Any]) -> Made:
    layers = content.get("layers", {}).values()
    repair, tuned, redrawn = content.get("repair"), content.get("finetune"), content.get("redrawn")
    return Made(
        method=_method(content["method"]) if "layers" in content else None,
        kept=sum(len(layer["keep"]) for layer in layers),
        channels=sum(int(layer["channels"]) for layer in layers),
        through_norm=bool(content.get("through_norm", False)),
        variants={str(name): str(value) for name, value in content.get("responses", {}).items()},
        repair=None if repair is None else (float(repair["before"]), float(repair["after"])),
        tuned=None if tuned is None else (int(tuned["best"]), len(tuned["history"]) - 1),
        redrawn=None if redrawn is None else int(redrawn),
    )


def _method(found: Mapping[str, Any]) -> Method:
    """Return the method, whatever else a later version wrote beside it."""
    known = {field.name: found[field.name] for field in fields(Method) if field.name in found}
    numbers = {name: float(known[name]) for name in ("tau", "target", "ratio") if known.get(name) is not None}
    words = {name: str(value) for name, value in known.items() if name not in {"tau", "target", "ratio", "seed"}}
    return Method(**{**words, **numbers, "seed": int(known.get("seed", 0))})  # type: ignore[arg-type]


def _broken(graph: Graph, why: str) -> StatsError:
    return StatsError(f"the recipe inside the model is broken ({why})", at=str(graph.path), fix="prune it again")
