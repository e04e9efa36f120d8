"""What a cut model will cost, in closed form: no cut is made, so that a target can be searched in no time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.cost import is_attention, node_macs, weights
from pfa_onnx.graph.declarations import Factor, Use
from pfa_onnx.graph.edits import Mask
from pfa_onnx.graph.labels import varying
from pfa_onnx.graph.trace import Trace


@dataclass(frozen=True)
class Planned:
    """Costs of cuts of one traced model. samples: how many the trace's shapes are for."""

    trace: Trace
    samples: int = 1

    def parameters(self, keep: Mask) -> int:
        """Count the parameters left; a constant that readers need different parts of counts once for each."""
        total = 0
        for name, shape in self._weights.items():
            uses = self._uses.get(name, [])
            parts = {self._part(use, keep) if use else (prod(shape), b"") for use in uses} or {(prod(shape), b"")}
            total += sum(count for count, _ in parts)
        return total

    def macs(self, keep: Mask) -> int:
        """Count the multiply-accumulates of one sample that are left."""
        return round(sum(macs * self._share(index, keep) for index, macs in self._macs.items())) // self.samples

    @cached_property
    def _weights(self) -> dict[str, tuple[int, ...]]:
        return weights(self.trace.graph)

    @cached_property
    def _macs(self) -> dict[int, int]:
        found = {k: node_macs(self.trace.graph, n, self.trace.shapes) for k, n in enumerate(self.trace.graph.nodes)}
        return {k: n for k, n in found.items() if n}

    @cached_property
    def _uses(self) -> dict[str, list[Use | None]]:
        """Return, by the name of the constant at the root, who reads it; None stands for a reader of the whole."""
        graph = self.trace.graph
        found: dict[str, list[Use | None]] = {}
        for index, node in enumerate(graph.nodes):
            if all(graph.is_constant(v) for v in node.outputs):
                continue
            for i, value in enumerate(node.inputs):
                if value is not None and graph.is_constant(value):
                    use = (index, i) if (index, i) in self.trace.binds else None
                    found.setdefault(_root(value), []).append(use)
        return found

    def _part(self, use: Use, keep: Mask) -> tuple[int, bytes]:
        """Return how many elements one reader still needs, and which part that is."""
        factors = [f for f in self.trace.binds[use] if varying(f.ids)]
        value = self.trace.graph.nodes[use[0]].inputs[use[1]]
        assert value is not None
        shape = self.trace.graph.shape_of(value, dict(self.trace.shapes))
        signature = b"".join(keep[f.ids].tobytes() for f in factors)
        return round(prod(shape) * kept_share(factors, keep)), signature

    def _share(self, index: int, keep: Mask) -> float:
        """Return which share of a node's multiply-accumulates is left."""
        node = self.trace.graph.nodes[index]
        output = str(node.outputs[0].name)
        binds = [self.trace.binds.get((index, i)) for i in (0, 1)]
        for factors in binds:
            if factors is not None and any(f.role != "along" for f in factors):
                rows = keep[self.trace.marks[output].ids].mean() if output in self.trace.across else 1.0
                return kept_share(factors, keep) * float(rows)
        made, read = (self.trace.marks.get(str(v.name)) for v in (node.outputs[0], node.inputs[0]) if v is not None)
        if is_attention(node) and made is not None and read is not None:  # Q K^T, and its product with V
            operands = [(v, x) for v, x in ((node.inputs[0], read), (node.outputs[0], made)) if v is not None]
            parts = [(prod(x.shape), self._kept(str(v.name), keep)) for v, x in operands]
            return sum(size * kept for size, kept in parts) / max(sum(size for size, _ in parts), 1)
        share = self._kept(output, keep) if made is not None else 1.0
        if read is not None and read.axes and read.axes[-1] == read.rank - 1:  # what is summed over
            share *= float(keep[read.ids].mean())
        return share

    def _kept(self, name: str, keep: Mask) -> float:
        """Return which share of a tensor is left; in an outer product of channels both sides shrink."""
        labels = (x[name] for x in (self.trace.marks, self.trace.across) if name in x)
        return prod(float(keep[x.ids].mean()) for x in labels)


def kept_share(factors: list[Factor] | tuple[Factor, ...], keep: Mask) -> float:
    """Return which share of a constant is left: a position goes if any of its factors does."""
    axes = [axis for f in factors for axis in varying(f.ids)]
    if len(axes) == len(set(axes)):
        return prod(float(keep[f.ids].mean()) for f in factors)
    shape = np.broadcast_shapes(*[f.ids.shape for f in factors])
    kept = np.ones(shape, dtype=np.bool_)
    for factor in factors:
        kept &= keep[factor.ids]
    return float(kept.mean())


def _root(value: ir.Value) -> str:
    """Return the name of the constant that a chain of operators starts from."""
    node = value.producer()
    while (
        node is not None
        and node.op_type not in {"Constant", "ConstantOfShape"}
        and node.inputs
        and node.inputs[0] is not None
    ):
        value = node.inputs[0]
        node = value.producer()
    return str(value.name)
