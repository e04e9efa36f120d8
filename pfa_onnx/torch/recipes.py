"""A pruned file's recipe for the code that the model came from: the user's own network, made as small.

The recipe says what stays of every initializer. An export that keeps BatchNormalization names them as `state_dict()`
does. Where an exporter renamed or transposed a weight, the original file tells by the numbers which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pfa_onnx.errors import StatsError, UsageError
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.steps.embedded import Embedded, parse, read_embedded

State = dict[str, Tensor]

# What modules call their extents: a parameter's name, its axis -> the attribute that says how long it is.
_EXTENTS = {
    nn.modules.conv._ConvNd: {("weight", 0): "out_channels", ("weight", 1): "in_channels"},  # noqa: SLF001
    nn.modules.conv._ConvTransposeNd: {("weight", 0): "in_channels", ("weight", 1): "out_channels"},  # noqa: SLF001
    nn.Linear: {("weight", 0): "out_features", ("weight", 1): "in_features"},
    nn.modules.batchnorm._NormBase: {("weight", 0): "num_features"},  # noqa: SLF001
    nn.GroupNorm: {("weight", 0): "num_channels"},
    nn.PReLU: {("weight", 0): "num_parameters"},
}


def slice_state_dict(
    state: Mapping[str, Tensor], recipe: str | Path | Embedded | Mapping[str, Any], original: str | Path | None = None
) -> State:
    """Return what is left of a network's `state_dict()` when the channels that a recipe removed are gone.

    state: of the network that was exported and pruned. recipe: the pruned file, or what `pfa_onnx.recipe_of` says of
    it. original: the file that was pruned; it is needed where the exporter gave weights other names.
    Raises UsageError when a weight that was cut is not in the state, and StatsError for a recipe of another network.
    """
    found = _recipe(recipe)
    names = {name: (name, False) for name in state}
    if original is not None:
        names |= _by_numbers(state, load(Path(original)), found)
    _refuse_missing(found, {there for there, _ in names.values()})
    sliced = {}
    for name, tensor in state.items():
        there, flipped = names[name]
        array = tensor.detach().cpu().numpy()
        cut = found.cut(there, array.T if flipped else array)
        sliced[name] = torch.from_numpy(np.array(cut.T if flipped else cut)).to(tensor)
    return sliced


def slice_module(
    module: nn.Module, recipe: str | Path | Embedded | Mapping[str, Any], original: str | Path | None = None
) -> nn.Module:
    """Cut a network in place to what a recipe leaves of it; returns it. The weights are the network's own.

    Extents that modules know (out_channels, num_features, groups, ...) follow. Numbers that the network's code has
    written out, as in `x.view(-1, 512)`, are its author's to change. Arguments and errors as `slice_state_dict`.
    """
    sliced = slice_state_dict(module.state_dict(), recipe, original)
    for path, inner in module.named_modules():
        before = {name: tuple(p.shape) for name, p in inner.named_parameters(recurse=False)}
        for name, parameter in list(inner.named_parameters(recurse=False)):
            wanted = sliced[f"{path}.{name}" if path else name]
            setattr(inner, name, nn.Parameter(wanted, requires_grad=parameter.requires_grad))
        for name, _ in list(inner.named_buffers(recurse=False)):
            full = f"{path}.{name}" if path else name
            if full in sliced:
                setattr(inner, name, sliced[full])
        _mend(inner, before)
    return module


def _mend(inner: nn.Module, before: Mapping[str, tuple[int, ...]]) -> None:
    """Correct what a module says about its extents."""
    now = {name: tuple(p.shape) for name, p in inner.named_parameters(recurse=False)}
    if now == before:
        return
    for kind, extents in _EXTENTS.items():
        if not isinstance(inner, kind):
            continue
        for (name, axis), attribute in extents.items():
            shape, old = now.get(name, ()), before.get(name, ())
            if len(shape) > axis:
                setattr(inner, attribute, getattr(inner, attribute) * shape[axis] // old[axis])
    if isinstance(inner, nn.modules.conv._ConvNd) and before["weight"][1] == 1 < inner.groups:  # noqa: SLF001
        inner.groups = inner.groups * now["weight"][0] // before["weight"][0]  # depthwise: a group for each channel
        inner.in_channels = inner.groups
        if isinstance(inner, nn.modules.conv._ConvTransposeNd):  # noqa: SLF001
            inner.out_channels = inner.groups
    if isinstance(inner, nn.LayerNorm):
        inner.normalized_shape = now["weight"]


def _recipe(given: str | Path | Embedded | Mapping[str, Any]) -> Embedded:
    if isinstance(given, Embedded):
        return given
    if isinstance(given, Mapping):
        try:
            return parse(given)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise StatsError(f"this is no recipe ({error})", at="recipe", fix="give the pruned file") from None
    found = read_embedded(given)
    if found is None:
        raise StatsError("the model has no recipe inside", at=str(given), fix="give a file that `pfa-onnx prune` wrote")
    return found


def _refuse_missing(found: Embedded, there: set[str]) -> None:
    """Refuse a state in which a layer's weight is not, if channels of it went."""
    cut = {taken.source for one in found.chain for taken in one.taken.values() if taken.steps and not taken.handed}
    missing = sorted(cut - there)
    if missing:
        raise UsageError(
            f"the state has no {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}: "
            f"{len(missing)} constants that were cut have other names there",
            at="state",
            fix="give original=FILE, the model that was pruned; else export it with BatchNormalization kept "
            "(torch.onnx.export(..., training=TrainingMode.PRESERVE, do_constant_folding=False)) and prune again",
        )


def _by_numbers(state: Mapping[str, Tensor], graph: Graph, found: Embedded) -> dict[str, tuple[str, bool]]:
    """Return {name in the state: (name in the file, whether transposed)} for weights that the file calls otherwise."""
    if graph.sha256 != found.chain[0].original_sha256:
        raise StatsError(
            "this is not the model that was pruned", at=str(graph.path), fix="give the file that the recipe is of"
        )
    known: dict[tuple[Any, ...], str] = {}
    for value in graph.model.graph.initializers.values():
        if str(value.name) not in state:
            array = graph.array(value)
            known[_key(array)] = str(value.name)
    renamed: dict[str, tuple[str, bool]] = {}
    for name, tensor in state.items():
        if name in graph.model.graph.initializers:
            continue
        array = tensor.detach().cpu().numpy()
        for flipped in (False, True)[: 1 + (array.ndim == 2)]:
            there = known.get(_key(array.T if flipped else array))
            if there is not None:
                renamed[name] = there, flipped
                break
    return renamed


def _key(array: Any) -> tuple[Any, ...]:
    return array.shape, np.ascontiguousarray(array).astype(np.float32, copy=False).tobytes()
