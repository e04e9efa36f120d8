"""What tests of the graph half share: settle a model, cut it, and compare it with the masked original."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from pfa_onnx.graph.cut import cut
from pfa_onnx.graph.edits import Mask
from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.masking import masked
from pfa_onnx.graph.model import load
from pfa_onnx.graph.plan import legalise, removable, settle
from pfa_onnx.graph.taps import probe
from pfa_onnx.graph.trace import Trace
from pfa_onnx.stats.compare import relative_error
from pfa_onnx.stats.session import Runner

Feeds = Mapping[str, npt.NDArray]

SHARES = (0.3, 0.5, 0.8, 1.0)  # of the removable labels that a random recipe removes


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="pfa-onnx-tests-")


def saved(model: onnx.ModelProto | Path) -> Path:
    """The path of a model; one that is only in memory is written to a folder that goes when the tests end."""
    if isinstance(model, Path):
        return model
    content = model.SerializeToString(deterministic=True)
    path = Path(_folder().name) / f"{hashlib.sha256(content).hexdigest()[:24]}.onnx"
    path.write_bytes(content)
    return path


def shapes_of(path: Path, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """The concrete shape of every tensor, by running the model once."""
    graph = load(path)
    proto, wanted = probe(graph)
    found = _runner(proto, path.parent).run(feeds, list(wanted))
    shapes = {wanted[tap]: tuple(int(n) for n in shape) for tap, shape in found.items()}
    return shapes | {spec.name: feeds[spec.name].shape for spec in graph.inputs}


def settle_model(model: onnx.ModelProto | Path, feeds: Feeds, *, through_norm: bool = False) -> Trace:
    """Trace a model, with shapes learned from these feeds, until random cuts can be followed everywhere."""
    path = saved(model)
    return settle(load(path), shapes_of(path, feeds), through_norm=through_norm)


def cut_model(trace: Trace, keep: Mask) -> onnx.ModelProto:
    """The model without the labels that are not kept."""
    path = trace.graph.path
    assert path is not None
    graph = load(path)
    cut(graph, follow(trace, keep))
    return ir.to_proto(graph.model)


def masked_model(trace: Trace, keep: Mask) -> onnx.ModelProto:
    """The original with zeros wherever a removed channel is read."""
    return ir.to_proto(masked(trace.graph, follow(trace, keep)))


def equivalence(path: Path, feeds: Feeds, trace: Trace, keep: Mask) -> float:
    """Run the masked original and the cut model; the largest error relative to the scale of its output."""
    expected = _runner(masked_model(trace, keep), path.parent).run(feeds)
    found = _runner(cut_model(trace, keep), path.parent).run(feeds)
    assert list(expected) == list(found)
    return max(relative_error(expected[name], found[name]) for name in expected)


def worst_equivalence(
    trace: Trace, feeds: Feeds, seeds: Iterable[int] = (0,), shares: Iterable[float] = SHARES
) -> float:
    """The largest error over several random recipes."""
    path = trace.graph.path
    assert path is not None
    return max(equivalence(path, feeds, trace, keep) for keep in random_keeps(trace, seeds, shares))


def random_keeps(trace: Trace, seeds: Iterable[int], shares: Iterable[float] = SHARES) -> Iterator[Mask]:
    """Legal recipes that remove random channels: one for every seed and share."""
    labels = removable(trace)
    for seed in seeds:
        for share in shares:
            order = np.random.default_rng((seed, round(100 * share))).permutation(labels)
            yield legalise(trace, order[: round(share * len(order))].tolist(), order)


def counts(trace: Trace) -> tuple[int, int]:
    """How many of the layers' channels may go, and how many there are."""
    labels = removable(trace)
    own = [traced.layer.labels for traced in trace.layers]
    return sum(int(np.isin(ids, labels).sum()) for ids in own), sum(len(ids) for ids in own)


def reasons(trace: Trace) -> set[str]:
    """Why channels of layers may not go."""
    labels = {label for traced in trace.layers for label in traced.layer.labels.tolist()}
    return {reason.reason for label in labels for reason in trace.frozen.get(label, ())}


def run(model: onnx.ModelProto | Path, feeds: Feeds, folder: Path | None = None) -> dict[str, npt.NDArray]:
    """All outputs of a model."""
    return (Runner(model, providers="cpu", threads=1) if isinstance(model, Path) else _runner(model, folder)).run(feeds)


def _runner(proto: onnx.ModelProto, folder: Path | None) -> Runner:
    return Runner(proto.SerializeToString(), providers="cpu", external_dir=folder, threads=1)


def two_convolutions(random: np.random.Generator, middle: int, kernel: int, before: list, after: list) -> onnx.ModelProto:
    """Two of them without biases; before, after: the shapes of their input and output, [N, C, H, W]."""
    shapes = {"w": (middle, before[1], kernel, kernel), "v": (after[1], middle, kernel, kernel)}
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [("first", ["x", "w"], ["a"]), ("last", ["a", "v"], ["y"])]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in (("x", before), ("y", after))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", reads, makes, name=name) for name, reads, makes in nodes],
        "g", [values[0]], [values[1]], weights,
    )  # fmt: skip
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
