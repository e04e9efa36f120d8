"""Nodes that turn a response into rows: pooled over space by the mean, or some of its positions as they are.

(The paper's way, the maximum, is in `taps`: there are several ways to write it.)
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

POSITIONS = 16  # of every sample: neighbours repeat each other, and each row costs the square of the channels
GOLDEN = (5**0.5 - 1) / 2
FINE = 1 << 16


def mean_nodes(
    source: str, tap: str, rank: int, axis: int, opset: int, *, reduce: bool = False
) -> list[onnx.NodeProto]:
    """Return nodes that pool by the mean over all axes but samples and channels. reduce: by a reduction in any case."""
    if axis == 1 and rank > 2 and not reduce:  # runs on the blocked layout of convolutions
        pool = helper.make_node("GlobalAveragePool", [source], [f"{tap}/pooled"], name=f"{tap}/pool")
        return [pool, helper.make_node("Flatten", [f"{tap}/pooled"], [tap], name=tap, axis=1)]
    axes = [a for a in range(1, rank) if a != axis]
    if not axes:
        return [helper.make_node("Identity", [source], [tap], name=tap)]
    return _reduce("ReduceMean", source, tap, axes, opset)


def square_nodes(
    source: str, tap: str, rank: int, axis: int, opset: int, *, double: bool = False
) -> list[onnx.NodeProto]:
    """Return nodes that give the mean square of every channel over all other axes but samples, [rows, C]."""
    kind = onnx.TensorProto.DOUBLE if double else onnx.TensorProto.FLOAT
    wide = helper.make_node("Cast", [source], [f"{tap}/wide"], name=f"{tap}/wide", to=kind)
    square = helper.make_node("Mul", [f"{tap}/wide"] * 2, [f"{tap}/square"], name=f"{tap}/square")
    axes = [a for a in range(1, rank) if a != axis]
    if not axes:
        return [wide, square, helper.make_node("Identity", [f"{tap}/square"], [tap], name=tap)]
    return [wide, square, *_reduce("ReduceMean", f"{tap}/square", tap, axes, opset)]


def check_nodes(source: str, tap: str, rank: int, axis: int, opset: int) -> list[onnx.NodeProto]:
    """Return nodes that give zero, [rows, C], but NaN where anything is NaN or infinite: maxima pass over NaN."""
    zero = f"{tap}/zero"
    axes = [a for a in range(1, rank) if a != axis]
    if not axes:
        return [helper.make_node("Sub", [source, source], [tap], name=tap)]
    off = helper.make_node("Sub", [source, source], [zero], name=zero)
    return [off, *_reduce("ReduceMean", zero, tap, axes, opset)]


def positions_of(extent: int, count: int) -> list[int]:
    """Return which of `extent` positions are samples: one of each of `count` equal stretches, all where there are few.

    Where in its stretch it lies follows the golden ratio, so that rows and columns of an image do not line up.
    """
    count = min(count, extent)
    starts = [k * extent // count for k in range(count + 1)]
    return [
        start + (end - start) * jitter // FINE
        for start, end, jitter in zip(starts, starts[1:], _jitter(count), strict=False)
    ]


def position_nodes(source: str, tap: str, shape: tuple[int, ...], axis: int, count: int) -> list[onnx.NodeProto]:
    """Return nodes that give the responses at `positions_of` the positions, [rows * count, C], sample by sample.

    The extent is read as the model runs: it may be another one than that of `shape`, but the count stays.
    """
    channels, rank = shape[axis], len(shape)
    extent = prod(n for a, n in enumerate(shape) if a not in {0, axis})
    count = min(count, extent)
    if rank == 2 or not count:
        return [helper.make_node("Identity", [source], [tap], name=tap)]
    nodes = []
    if axis not in {1, rank - 1}:
        order = [a for a in range(rank) if a != axis]
        nodes.append(
            helper.make_node("Transpose", [source], [f"{tap}/turned"], name=f"{tap}/turn", perm=[*order, axis])
        )
        source, axis = f"{tap}/turned", rank - 1
    flat, along = ([0, channels, -1], 2) if axis == 1 else ([0, -1, channels], 1)
    nodes += _values(tap, "flat", flat)
    nodes.append(helper.make_node("Reshape", [source, f"{tap}/flat"], [f"{tap}/rows"], name=f"{tap}/rows"))
    nodes += _index_nodes(tap, f"{tap}/rows", along, count)
    nodes.append(
        helper.make_node("Gather", [f"{tap}/rows", f"{tap}/index"], [f"{tap}/some"], name=f"{tap}/some", axis=along)
    )
    some = f"{tap}/some"
    if along == 2:
        nodes.append(helper.make_node("Transpose", [some], [f"{tap}/last"], name=f"{tap}/last", perm=[0, 2, 1]))
        some = f"{tap}/last"
    return [*nodes, *_values(tap, "whole", [-1, channels]), _node("Reshape", some, f"{tap}/whole", tap)]


def _index_nodes(tap: str, rows: str, along: int, count: int) -> list[onnx.NodeProto]:
    """Compute `positions_of` the extent that the axis has, in integers."""
    steps = np.arange(count + 1)
    nodes = [
        helper.make_node("Shape", [rows], [f"{tap}/shape"], name=f"{tap}/shape"),
        *_values(tap, "along", along),
        helper.make_node("Gather", [f"{tap}/shape", f"{tap}/along"], [f"{tap}/extent"], name=f"{tap}/extent"),
        *_values(tap, "first", steps[:-1]),
        *_values(tap, "second", steps[1:]),
        *_values(tap, "count", count),
        *_values(tap, "jitter", _jitter(count)),
        *_values(tap, "fine", FINE),
    ]
    for step, end in (("first", "start"), ("second", "end")):
        nodes.append(_node("Mul", f"{tap}/{step}", f"{tap}/extent", f"{tap}/{step}/times"))
        nodes.append(_node("Div", f"{tap}/{step}/times", f"{tap}/count", f"{tap}/{end}"))
    return [
        *nodes,
        _node("Sub", f"{tap}/end", f"{tap}/start", f"{tap}/width"),
        _node("Mul", f"{tap}/width", f"{tap}/jitter", f"{tap}/scaled"),
        _node("Div", f"{tap}/scaled", f"{tap}/fine", f"{tap}/offset"),
        _node("Add", f"{tap}/start", f"{tap}/offset", f"{tap}/index"),
    ]


def _jitter(count: int) -> list[int]:
    return [int((k + 1) * GOLDEN % 1.0 * FINE) for k in range(count)]


def _node(kind: str, one: str, other: str, out: str) -> onnx.NodeProto:
    return helper.make_node(kind, [one, other], [out], name=out)


def _values(tap: str, name: str, value: object) -> list[onnx.NodeProto]:
    tensor = numpy_helper.from_array(np.asarray(value, np.int64))
    return [helper.make_node("Constant", [], [f"{tap}/{name}"], name=f"{tap}/{name}", value=tensor)]


def _reduce(kind: str, source: str, tap: str, axes: list[int], opset: int) -> list[onnx.NodeProto]:
    if opset < 18:
        return [helper.make_node(kind, [source], [tap], name=tap, axes=axes, keepdims=0)]
    return [*_values(tap, "axes", axes), helper.make_node(kind, [source, f"{tap}/axes"], [tap], name=tap, keepdims=0)]
