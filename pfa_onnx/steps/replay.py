"""Reading a JSON report again, as a recipe. It is input like any other: everything in it is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pfa_onnx.errors import StatsError
from pfa_onnx.recipe import Method
from pfa_onnx.responses import PAPER, Responses

SCHEMA = 1
LARGEST = 256 << 20  # bytes of a report; those of the widest models are a hundredth of that

# layer output -> (how many channels it has, which of them stay)
Kept = Mapping[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Replayed:
    """What a report decided: the method, what stays, and whether normalisations may run over the kept channels only.

    responses: what had been measured. at: the file, for messages.
    """

    method: Method
    kept: Kept
    through_norm: bool = False
    responses: Responses = PAPER
    at: str = "--recipe"


def read_recipe(path: Path) -> Replayed:
    """Return what a report decided, and by which method; raises StatsError when it is no report of ours."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(f"cannot read the recipe: {error}", str(path)) from None
    if len(content) > LARGEST:
        raise _broken(f"the recipe has more than {LARGEST >> 20} MB, and no report has", str(path))
    return parse_recipe(text, str(path))


def parse_recipe(text: str, at: str) -> Replayed:
    """Return what a report decided.

    at: the file's name, for errors. Raises StatsError when this is not a report of `analyze` or `prune`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"the recipe is not JSON: {error}", at) from None
    if not isinstance(content, dict) or not isinstance(content.get("layers"), list):
        raise _broken("the recipe has no list of layers", at)
    if content.get("schema") != SCHEMA:
        found, by = (repr(content.get(key))[:20] for key in ("schema", "version"))
        raise _broken(f"the recipe has schema {found}, written by version {by}; this version reads schema {SCHEMA}", at)
    recipe: dict[str, tuple[int, tuple[int, ...]]] = {}
    for index, layer in enumerate(content["layers"]):
        output, channels, keep = _recipe_layer(layer, index, at)
        if output in recipe:
            raise _broken(f"the recipe has two layers with output {output!r}", at)
        recipe[output] = channels, keep
    through_norm = content.get("through_norm", False)
    if not isinstance(through_norm, bool):
        raise _broken(f"the recipe's through_norm is {through_norm!r}, neither true nor false", at)
    return Replayed(_method(content.get("method"), at), recipe, through_norm, _responses(content, at), at)


def _responses(content: dict[str, Any], at: str) -> Responses:
    try:
        return Responses.of(content.get("responses", {}))
    except (TypeError, ValueError):
        raise _broken("the recipe's responses were measured in no way that this version knows", at) from None


def _method(found: Any, at: str) -> Method:
    known = {field.name for field in fields(Method)}
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not set(found) <= known:
        raise _broken("the recipe does not say by which method it was made", at)
    return Method(**found)


def _recipe_layer(layer: Any, index: int, at: str) -> tuple[str, int, tuple[int, ...]]:
    if not isinstance(layer, dict) or not isinstance(layer.get("output"), str):
        raise _broken(f"layer {index} of the recipe has no output name", at)
    output, channels, keep = layer["output"], layer.get("channels"), layer.get("keep")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise _broken(f"layer {output!r} of the recipe has {channels!r} channels", at)
    if not isinstance(keep, list) or not keep or not all(type(item) is int for item in keep):
        raise _broken(f"layer {output!r} of the recipe has no list of channels to keep", at)
    if keep != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= channels:
        raise _broken(
            f"layer {output!r} of the recipe keeps channels that are not ascending numbers from 0 to {channels - 1}", at
        )
    return output, channels, tuple(keep)


def _broken(what: str, at: str) -> StatsError:
    return StatsError(what, at=at, fix="give --recipe a file that `pfa-onnx analyze` or `prune` wrote with --json")
