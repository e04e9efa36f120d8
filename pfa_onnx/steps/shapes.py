"""Every tensor's shape without any data: from zeros of the declared shapes, nothing is measured with them.

What a file leaves open gets the extent that a layer reads, or else an ordinary one; where a model does not run with
it, others are tried, and in the end the user is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.taps import probe
from pfa_onnx.nearest import did_you_mean
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.session import fixed_batch
from pfa_onnx.steps.serialized import load_runner

Array = npt.NDArray[Any]
Shapes = dict[str, tuple[int, ...]]
Extents = tuple[int | str | None, ...]  # of an input: a number, the name that the file gives it, or neither

# what may stand for an extent that is open: of a sequence, a sound, a picture, a volume
_ORDINARY = (
    (128, 16000, 224, 32),
    (64, 4096, 64, 16),
    (32, 1024, 32, 64),
    (16, 512, 28, 8),
    (256, 256, 256, 48),
    (77, 128, 299, 112),
    (512, 64, 512, 128),
    (1, 1, 640, 4),
)


@dataclass(frozen=True)
class Learned:
    """Shapes of every tensor, in a run on so many samples. taken: the shapes of the inputs."""

    shapes: Shapes
    samples: int
    taken: Mapping[str, tuple[int, ...]]


def shape_learner(graph: Graph) -> Callable[[Mapping[str, Array]], Shapes]:
    """Load a copy of the model that gives the shape of every tensor; the function runs it."""
    proto, wanted = probe(graph)
    runner = load_runner(proto, graph, "cpu", early_shapes=True)

    def learn(feeds: Mapping[str, Array]) -> Shapes:
        found = runner.run(feeds, list(wanted))
        shapes = {wanted[tap]: tuple(int(n) for n in shape) for tap, shape in found.items()}
        return shapes | {name: tuple(array.shape) for name, array in feeds.items()}

    return learn


def without_data(graph: Graph, given: Mapping[str, tuple[int, ...]] | None = None) -> Learned:
    """Learn the shapes from zeros, or from ones where zeros leave tensors empty.

    given: shapes of inputs, by name; "" is the only one. Raises UsageError when they do not fit, ModelError when the
    model does not run.
    """
    known = _named(graph, given or {})
    learn = shape_learner(graph)
    failure: ModelError | None = None
    for taken in _attempts(graph, known):
        best: Shapes | None = None
        for fill in (0, 1):
            feeds = {spec.name: _filled(taken[spec.name], spec, fill) for spec in graph.inputs}
            try:
                found = learn(feeds)
            except ModelError as error:
                failure = failure or error
                continue
            if best is None or _empty(found) < _empty(best):
                best = found
            if not _empty(best):
                break
        if best is not None:
            return Learned(best, _samples(graph, taken), taken)
    raise _unknown(graph, failure, known)


def extents(graph: Graph) -> dict[str, Extents]:
    """Return the extents of every input as the file has them."""
    values = {str(value.name): value for value in graph.model.graph.inputs}
    return {spec.name: _extents(values[spec.name], spec) for spec in graph.inputs}


def _extents(value: ir.Value, spec: InputSpec) -> Extents:
    dims = tuple(value.shape) if value.shape is not None else ()
    names = (str(dim.value) if isinstance(dim, ir.SymbolicDim) and dim.value else None for dim in dims)
    return tuple(n if n is not None else name for n, name in zip(spec.shape, names, strict=True))


# --- what to try ---


def _attempts(graph: Graph, given: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield shapes of the inputs, the likeliest first; extents of one name are alike."""
    declared = extents(graph)
    same = {
        extent: number
        for name, shape in given.items()
        for extent, number in zip(declared[name], shape, strict=False)
        if isinstance(extent, str)
    }
    read = {spec.name: _read(graph, spec.name) for spec in graph.inputs}
    done = []
    for ordinary in _ORDINARY:
        taken = {
            spec.name: given.get(spec.name)
            or tuple(
                extent if isinstance(extent, int) else same.get(extent or "") or _guess(spec, axis, read, ordinary)
                for axis, extent in enumerate(declared[spec.name])
            )
            for spec in graph.inputs
        }
        if taken not in done:
            done.append(taken)
            yield taken


def _guess(spec: InputSpec, axis: int, read: Mapping[str, Mapping[int, int]], ordinary: tuple[int, ...]) -> int:
    if axis == 0:
        return 1
    rank, by_layer = len(spec.shape), read[spec.name]
    if axis in by_layer or axis - rank in by_layer:
        return by_layer.get(axis) or by_layer[axis - rank]
    if axis == 1 and rank == 4 and spec.shape[1:] == (None, None, None):
        return 3
    sequence, sound, picture, volume = ordinary
    if rank <= 3:
        return sound if rank == 2 and spec.dtype.kind == "f" else sequence
    return picture if rank == 4 else volume


def _read(graph: Graph, name: str) -> dict[int, int]:
    """Return the extents of an input that the layers that read it are made for, by axis."""
    found: dict[int, int] = {}
    value = next(value for value in graph.model.graph.inputs if value.name == name)
    for node, index in graph.uses(value):
        weight = node.inputs[1] if len(node.inputs) > 1 and index == 0 else None
        if weight is None or not graph.is_constant(weight):
            continue
        shape = graph.shape_of(weight, {})
        if node.op_type == "Conv":
            group = node.attributes.get("group")
            found[1] = shape[1] * (int(group.value) if group is not None else 1)
        elif node.op_type == "MatMul" and len(shape) > 1:
            found[-1] = shape[-2]
        elif node.op_type == "Gemm":
            flipped = node.attributes.get("transB")
            found[1] = shape[1 if flipped is not None and flipped.value else 0]
        elif node.op_type in {"LSTM", "GRU", "RNN"}:
            found[2] = shape[2]
    return found


def _filled(shape: tuple[int, ...], spec: InputSpec, fill: int) -> Array:
    if spec.dtype.kind in "OSU":
        return np.full(shape, "", dtype=object)
    return np.full(shape, fill, dtype=spec.dtype)


def _empty(shapes: Shapes) -> int:
    return sum(0 in shape for shape in shapes.values())


def _samples(graph: Graph, taken: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many samples inputs of these shapes are."""
    bound = fixed_batch(graph.inputs)
    firsts = {shape[0] for shape in taken.values() if shape}
    return bound or (firsts.pop() if len(firsts) == 1 else 1)


# --- what the user says ---


def _named(graph: Graph, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the given shapes by input name; raises UsageError for those that no input can have."""
    declared = extents(graph)
    if "" in given and len(declared) != 1:
        which = f"this model has {len(declared)} inputs: {', '.join(declared)}"
        raise UsageError(f"--shape {'x'.join(map(str, given['']))} is of which input?", at=which, fix=_ask(graph))
    named = {name or next(iter(declared)): shape for name, shape in given.items()}
    for name, shape in named.items():
        if name not in declared:
            meant = did_you_mean(name, declared) or f"its inputs are {', '.join(declared)}"
            raise UsageError(f"--shape: the model has no input '{name}'", at="--shape", fix=meant)
        wanted = declared[name]
        fits = all(not isinstance(n, int) or n == m for n, m in zip(wanted, shape, strict=False))
        if wanted and (len(wanted) != len(shape) or not fits):
            raise UsageError(
                f"--shape: input '{name}' is {written(wanted)}, which {'x'.join(map(str, shape))} does not fit",
                at="--shape",
                fix=_ask(graph),
            )
    return named


def written(wanted: Extents) -> str:
    """Return the extents of an input as people write them: Nx3xHxW."""
    return "x".join("?" if extent is None else str(extent) for extent in wanted)


def _ask(graph: Graph) -> str:
    """Return which --shape to give."""
    flags = [f"--shape '{name}={written(dims)}'" for name, dims in extents(graph).items() if _is_open(dims)]
    if not flags:
        return "leave --shape out: all inputs have fixed shapes"
    return f"give {' '.join(flags)}, with numbers for what is open"


def _is_open(dims: Extents) -> bool:
    return any(not isinstance(extent, int) for extent in dims)


def _unknown(graph: Graph, failure: ModelError | None, given: Mapping[str, tuple[int, ...]]) -> ModelError:
    reason = failure.what if failure is not None else "it does not run"
    if any(_is_open(dims) for dims in extents(graph).values()):
        fix = _ask(graph).replace("with numbers", "with other numbers" if given else "with numbers")
    else:
        fix = "look at it with real inputs: `pfa-onnx analyze MODEL --data DATA`"
    return ModelError(f"the shapes of its tensors cannot be learned from zeros: {reason}", at=str(graph.path), fix=fix)
