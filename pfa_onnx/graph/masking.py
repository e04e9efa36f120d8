"""The proof's other half: a copy of the original in which everything that was read of a removed channel is zero.

It is never written. It is made from the original and the edits' record of what was read, not from the cut model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper

from pfa_onnx.graph import protos
from pfa_onnx.graph.declarations import Use
from pfa_onnx.graph.edits import Edits, Mask, Narrowed, gather_step
from pfa_onnx.graph.external import unmap
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.taps import drop_unread
from pfa_onnx.recipe import Ints


def masked(graph: Graph, edits: Edits) -> ir.Model:
    """Return the masked original; its masked weights are made one by one, when they are written.

    Statistics that may run over the kept channels only do so: they are gathered before, and spread out again behind.
    """
    mask = _Masking(graph, edits)
    for use, gone in edits.reads.items():
        mask.constant(use, gone)
    for use, kept in edits.sums.items():
        mask.activation(use, kept)
    for use, narrowed in edits.narrowed.items():
        mask.narrow(use, narrowed)
    drop_unread(mask.proto, [value.name for value in mask.proto.graph.output])
    return mask.finished()


class _Masking:
    """Changes to one copy of a model; every one of them is to one reader only."""

    def __init__(self, graph: Graph, edits: Edits) -> None:
        self.proto = protos.to_proto(graph.model)
        self._graph = graph
        self._edits = edits
        self._place = {id(node): k for k, node in enumerate(graph.model.graph)}
        self._late: dict[str, ir.LazyTensor] = {}

    def finished(self) -> ir.Model:
        """Return the copy as a model."""
        model = protos.from_proto(self.proto)
        if self._graph.directory is not None:
            ir.external_data.set_base_dir(model.graph, self._graph.directory)
        for name, tensor in self._late.items():
            if name in model.graph.initializers:
                model.graph.initializers[name].const_value = tensor
        return model

    def constant(self, use: Use, gone: tuple[tuple[tuple[int, ...], Mask], ...]) -> None:
        """Let a contraction read a copy of its constant that is zero where a channel was removed."""
        value = self._graph.nodes[use[0]].inputs[use[1]]
        assert value is not None
        maker = value.producer()
        scaled = maker if maker is not None and maker.op_type == "DequantizeLinear" else None
        source = scaled.inputs[0] if scaled is not None else value
        assert source is not None
        name = self._add_late(f"pfa_onnx/masked/{use[0]}/{use[1]}", source, scaled, gone)
        if scaled is not None:
            copy = ir.serde.serialize_node(scaled)
            copy.name, copy.input[0], copy.output[0] = f"{name}/float", name, f"{name}/float"
            self.proto.graph.node.append(copy)
            name = copy.output[0]
        self._node(use[0]).input[use[1]] = name

    def _add_late(
        self, name: str, source: ir.Value, scaled: ir.Node | None, gone: tuple[tuple[tuple[int, ...], Mask], ...]
    ) -> str:
        """Add the place of an initializer that is a copy of a constant, with zeros."""
        whole = self._graph.array(source)
        shape, dtype = whole.shape, ir.Tensor(whole).dtype

        def make() -> ir.Tensor[npt.NDArray[Any]]:
            array = self._graph.array(source)
            zero = self._zero_point(scaled, array.ndim).astype(array.dtype)
            for axes, mask in gone:
                shape = tuple(array.shape[a] if a in axes else 1 for a in range(array.ndim))
                array = np.where(np.broadcast_to(mask.reshape(shape), array.shape), zero, array)
            if isinstance(source.const_value, ir.ExternalTensor):
                unmap(source.const_value)
            return ir.Tensor(array, name=name)

        self._late[name] = ir.LazyTensor(make, dtype, ir.Shape(shape), name=name)
        self.proto.graph.initializer.append(onnx.TensorProto(name=name, data_type=int(dtype), dims=shape))
        self._declare(name, int(dtype), shape)
        return name

    def _zero_point(self, scaled: ir.Node | None, rank: int) -> npt.NDArray[Any]:
        """Return what stands for zero in a quantized constant, broadcastable to it."""
        if scaled is None or len(scaled.inputs) < 3 or scaled.inputs[2] is None:
            return np.zeros((), dtype=np.int64)
        axis = (scaled.attributes["axis"].value if "axis" in scaled.attributes else 1) % rank
        return self._graph.array(scaled.inputs[2]).reshape([-1 if a == axis else 1 for a in range(rank)])

    def activation(self, use: Use, kept: Mask) -> None:
        """Let a sum over channels read zero where one was removed."""
        name = f"pfa_onnx/summed/{use[0]}/{use[1]}"
        read = self._node(use[0]).input[use[1]]
        self._add(f"{name}/kept", kept)
        # Where and Sub take any type, so that the operand's need not be known
        self._make("Sub", [read, read], f"{name}/zero")
        self._make("Where", [f"{name}/kept", read, f"{name}/zero"], name)
        self._node(use[0]).input[use[1]] = name

    def narrow(self, use: Use, narrowed: Narrowed) -> None:
        """Let a node see the kept channels only; a normalisation's result gets its old width back.

        What then stands where a channel was removed does not matter: it is zero wherever it is read.
        """
        node, name, kept = self._node(use[0]), f"pfa_onnx/kept/{use[0]}", narrowed.kept
        axis = max(a for a, n in enumerate(kept.shape) if n > 1)
        count = int(kept.sum(axis=axis).max())
        front = np.take(np.argsort(~kept, axis=axis, kind="stable"), range(count), axis=axis)
        self._pick(node.input[use[1]], f"{name}/in", front, axis)
        node.input[use[1]] = f"{name}/in"
        self._narrow_parameters(use[0])
        if narrowed.passes:
            output, node.output[0] = node.output[0], f"{name}/out"
            self._pick(f"{name}/out", output, np.maximum(kept.cumsum(axis=axis) - 1, 0), axis)

    def _narrow_parameters(self, index: int) -> None:
        for i, value in enumerate(self._graph.nodes[index].inputs):
            if (index, i) in self._edits.gathers and value is not None:
                array = self._graph.array(value)
                for step in self._edits.gathers[index, i].steps:
                    array = gather_step(array, *step)
                self._node(index).input[i] = self._add(f"pfa_onnx/kept/{index}/{i}", array)

    def _pick(self, source: str, target: str, at: Ints, axis: int) -> None:
        """Take positions along an axis: the same everywhere, or others in every block."""
        name = f"{target}/pick"
        if at.size == at.shape[axis]:
            self._make("Gather", [source, self._add(name, at.ravel())], target, axis=axis)
            return
        extents = self._add(f"{name}/extents", np.array([at.shape[axis]]))
        here = self._add(f"{name}/here", np.arange(at.ndim) == axis)
        self._make("Shape", [source], f"{name}/shape")
        self._make("Where", [here, extents, f"{name}/shape"], f"{name}/wanted")
        self._make("Expand", [self._add(name, at), f"{name}/wanted"], f"{name}/wide")
        self._make("GatherElements", [source, f"{name}/wide"], target, axis=axis)

    def _node(self, index: int) -> onnx.NodeProto:
        node: onnx.NodeProto = self.proto.graph.node[self._place[id(self._graph.nodes[index])]]
        return node

    def _make(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.proto.graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    def _add(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add an initializer; until IR version 4 it had to be an input too."""
        self.proto.graph.initializer.append(ir.to_proto(ir.Tensor(array, name=name)))
        self._declare(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return name

    def _declare(self, name: str, kind: int, shape: tuple[int, ...]) -> None:
        if self.proto.ir_version < 4:
            self.proto.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
