"""The cut: apply edits to a fresh copy of the model. It knows no operator but those that carry constants.

A constant that several nodes read is un-shared when they need different parts of it; the first reader keeps the
name. Behind an Identity, Cast, Transpose or a reshape that only adds extents of 1, the constant at the root is cut
and the chain stays; a constant computed in any other way is folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from pfa_onnx.graph.constants import tensor_like
from pfa_onnx.graph.declarations import Array, Use
from pfa_onnx.graph.edits import Edits, Gather, Mask, Steps, gather_step
from pfa_onnx.graph.evaluate import is_pure
from pfa_onnx.graph.model import Graph, captured
from pfa_onnx.recipe import Taken

_QUANTIZING = {"DequantizeLinear", "QuantizeLinear"}
_SAME_ORDER = {"Squeeze", "Unsqueeze", "Reshape", "Flatten"}


class Cutter:
    """Applies edits to a graph, which is changed in place."""

    def __init__(self, graph: Graph, edits: Edits) -> None:
        self.graph = graph
        self.gathers = dict(edits.gathers)
        self.replaced = dict(edits.replaced)
        self.edits = edits
        self.taken: dict[str, Taken] = {}
        self._index = {id(node): k for k, node in enumerate(graph.nodes)}
        self._names = {
            str(v.name) for n in graph.model.graph.all_nodes() for v in (*n.inputs, *n.outputs) if v is not None
        }
        self._uses = self._all_uses()

    def apply(self) -> None:
        """Rewrite attributes and constants, drop what nothing reads any more, and mend the noted shapes."""
        for (index, name), wanted in self.edits.attributes.items():
            _set_attribute(self.graph.nodes[index], name, wanted)
        for value in self._edited_values():
            self._edit(value)
        for use, array in self.replaced.items():  # operands that were left out, or are computed from shapes
            self._read_new(use, f"{self._label(use)}_size", array)
        for use, (which, wanted) in self.edits.overridden.items():
            self._override(use, which, wanted)
        self._mend_shapes()
        self._drop_dead()

    # --- constants -----------------------------------------------------------------------------------

    def _all_uses(self) -> dict[int, list[Use]]:
        uses: dict[int, list[Use]] = {}
        for index, node in enumerate(self.graph.nodes):
            for i, value in enumerate(node.inputs):
                if value is not None:
                    uses.setdefault(id(value), []).append((index, i))
            for value in captured(node):
                uses.setdefault(id(value), []).append((index, -1))
        return uses

    def _edited_values(self) -> Iterator[ir.Value]:
        """Yield constants with an edited reader, those made last first, so that chains are cut from their end."""
        done: set[int] = set()
        while True:
            waiting = {
                id(value): value
                for index, i in (*self.gathers, *self.replaced)
                if (value := self._operand(index, i)) is not None
                and self.graph.is_constant(value)
                and id(value) not in done
            }
            if not waiting:
                return
            last = max(waiting.values(), key=lambda v: -1 if v.producer() is None else self._index[id(v.producer())])
            done.add(id(last))
            yield last

    def _operand(self, index: int, i: int) -> ir.Value | None:
        inputs = self.graph.nodes[index].inputs
        return inputs[i] if i < len(inputs) else None

    def _edit(self, value: ir.Value) -> None:
        """Cut one constant, once for every set of readers that need the same part of it."""
        parts: dict[bytes, list[Use]] = {}
        for use in self._uses[id(value)]:
            parts.setdefault(self._signature(use), []).append(use)
        whole = self.graph.array(value)
        owner = self._owner(value, parts)
        arrays = {s: self._cut_array(whole, uses[0]) if s else whole for s, uses in parts.items()}
        for signature, uses in parts.items():
            if signature != owner:
                shared = self._fresh(str(value.name), arrays[signature])
                self._note(str(shared.name), value, uses[0])
                for index, i in uses:
                    self.graph.nodes[index].replace_input_with(i, shared)
        if owner and self._pass_back(value, parts[owner][0]):
            self._note(str(value.name), value, parts[owner][0], handed=True)
        elif owner and self._in_place(value, arrays[owner]):
            self._note(str(value.name), value, parts[owner][0])
        elif owner:
            shared = self._fresh(str(value.name), arrays[owner])
            self._note(str(shared.name), value, parts[owner][0])
            for index, i in parts[owner]:
                self.graph.nodes[index].replace_input_with(i, shared)
        for use in self._uses[id(value)]:
            self.gathers.pop(use, None)
            self.replaced.pop(use, None)

    def _note(self, name: str, value: ir.Value, use: Use, *, handed: bool = False) -> None:
        """Remember what a new constant, or a smaller one of the same name, was taken from."""
        if use not in self.replaced:
            steps = self.gathers[use].steps if use in self.gathers else ()
            self.taken[name] = Taken(str(value.name), steps, handed)

    def _owner(self, value: ir.Value, parts: dict[bytes, list[Use]]) -> bytes:
        """Choose who keeps the name: the first reader, unless somebody reads the whole who cannot be redirected."""
        fixed = value.is_graph_output() or any(i < 0 for _, i in parts.get(b"", []))
        return b"" if fixed else next(iter(parts))

    def _signature(self, use: Use) -> bytes:
        if use in self.replaced:
            return b"=" + self.replaced[use].tobytes() + str(self.replaced[use].shape).encode()
        if use in self.gathers:
            return b"@" + b"|".join(str(axes).encode() + at.tobytes() for axes, at, _ in self.gathers[use].steps)
        return b""

    def _cut_array(self, whole: Array, use: Use) -> Array:
        if use in self.replaced:
            return self.replaced[use].astype(whole.dtype)
        for axes, at, extents in self.gathers[use].steps:
            whole = gather_step(whole, axes, at, extents)
        return np.ascontiguousarray(whole)

    def _in_place(self, value: ir.Value, array: Array) -> bool:
        """Replace the content of an initializer or of a Constant node."""
        node = value.producer()
        if node is None:
            value.const_value = tensor_like(array, str(value.name), value.const_value)
            value.shape = ir.Shape(array.shape)
            return True
        if node.op_type != "Constant":
            return False
        for name in list(node.attributes):
            del node.attributes[name]
        node.attributes["value"] = ir.AttrTensor("value", tensor_like(array, "", None))
        return True

    def _pass_back(self, value: ir.Value, use: Use) -> bool:
        """Hand a gather on to the constant that a simple chain starts from."""
        node = value.producer()
        if node is None or use not in self.gathers or not node.inputs or node.inputs[0] is None:
            return False
        if node.op_type == "ConstantOfShape":  # all elements are equal: fewer of them are made
            shape = self._cut_array(self.graph.array(value), use).shape
            self.replaced[self._index[id(node)], 0] = np.array(shape, dtype=np.int64)
            return True
        source = self.graph.array(node.inputs[0]).shape
        axes = _axes_before(node, source, self.graph.array(value).shape)
        if axes is None:
            return False
        steps = self.gathers[use].steps
        index = self._index[id(node)]
        if node.op_type in _QUANTIZING and not self._cut_scales(node, steps, len(source)):
            return False
        if node.op_type == "Reshape":
            target = self._cut_array(self.graph.array(value), use).shape
            written = self.graph.array(_given(node.inputs[1])).astype(np.int64).ravel()
            wanted = np.array([w if w <= 0 else n for w, n in zip(written, target, strict=True)], dtype=np.int64)
            if not np.array_equal(wanted, written):
                self.replaced[index, 1] = wanted
        self.gathers[index, 0] = Gather(
            tuple((tuple(axes[a] for a in step), at, extents) for step, at, extents in steps)
        )
        return True

    def _cut_scales(self, node: ir.Node, steps: Steps, rank: int) -> bool:
        """Cut scales and zero points along; False where blocks of channels lost different ones."""
        index = self._index[id(node)]
        axis = (node.attributes["axis"].value if "axis" in node.attributes else 1) % max(rank, 1)
        along = [step for step in steps if axis in step[0]]
        if any(len(axes) > 1 for axes, _, _ in along):
            return False
        for i in range(1, len(node.inputs)):
            if along and self.graph.array(_given(node.inputs[i])).size > 1:
                self.gathers[index, i] = Gather(tuple(((0,), at, extents) for _, at, extents in along))
        return True

    def _fresh(self, name: str, array: Array) -> ir.Value:
        """Register a new initializer."""
        fresh = self._unused(name)
        tensor = tensor_like(array, fresh, None)
        value = ir.Value(name=fresh, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.model.graph.register_initializer(value)
        if self.graph.model.ir_version < 4:
            self.graph.model.graph.inputs.append(value)
        return value

    def _unused(self, name: str) -> str:
        """Return a name that nothing has."""
        k = 1
        while f"{name}_{k}" in self._names:
            k += 1
        self._names.add(f"{name}_{k}")
        return f"{name}_{k}"

    def _read_new(self, use: Use, name: str, array: Array) -> None:
        index, i = use
        node = self.graph.nodes[index]
        if i >= len(node.inputs):
            node.resize_inputs(i + 1)
        node.replace_input_with(i, self._fresh(name, array))

    def _override(self, use: Use, which: Mask, wanted: Array) -> None:
        """Let one reader of a computed operand read other numbers at some places."""
        reader = self.graph.nodes[use[0]]
        value = _given(reader.inputs[use[1]])
        constants = [self._fresh(f"{self._label(use)}_size", array) for array in (which, wanted)]
        name = self._unused(f"{self._label(use)}_size")
        result = ir.Value(name=name, type=value.type, shape=value.shape)
        self.graph.model.graph.insert_before(
            reader, ir.Node("", "Where", [*constants, value], name=name, outputs=[result])
        )
        reader.replace_input_with(use[1], result)

    def _label(self, use: Use) -> str:
        return str(self.graph.nodes[use[0]].name or self.graph.nodes[use[0]].outputs[0].name)

    # --- what is left over ---------------------------------------------------------------------------

    def _mend_shapes(self) -> None:
        """Correct the shapes noted for tensors; dynamic extents stay dynamic."""
        for node in self.graph.nodes:
            for value in node.outputs:
                if value.shape is None or value.is_graph_output():
                    continue
                if self.graph.is_constant(value):
                    value.shape = None
                elif str(value.name) in self.edits.extents:
                    now = self.edits.extents[str(value.name)]
                    dims = enumerate(value.shape)
                    value.shape = ir.Shape([now.get(k, d) if isinstance(d, int) else d for k, d in dims])

    def _drop_dead(self) -> None:
        """Remove constants, and what computed sizes, that only the original's readers needed."""
        graph = self.graph.model.graph
        for node in reversed(self.graph.nodes):
            if (
                is_pure(node)
                and not any(v.uses() or v.is_graph_output() for v in node.outputs)
                and self._was_read(node)
            ):
                graph.remove(node, safe=True)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and self._uses.get(id(value)):
                del graph.initializers[name]
                if value.is_graph_input():
                    graph.inputs.remove(value)

    def _was_read(self, node: ir.Node) -> bool:
        return any(self._uses.get(id(v)) for v in node.outputs)


def cut(graph: Graph, edits: Edits) -> None:
    """Cut a freshly loaded graph, in place."""
    cutter = Cutter(graph, edits)
    cutter.apply()
    graph.taken = cutter.taken


def _axes_before(node: ir.Node, before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int] | None:
    """Return {output axis: input axis} for operators that only rename axes, None for all others."""
    if node.op_type in {"Identity", "Cast", *_QUANTIZING}:
        return {a: a for a in range(len(after))}
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].value if "perm" in node.attributes else range(len(before))[::-1]
        return {new: int(old) for new, old in enumerate(perm)}
    if node.op_type in _SAME_ORDER:
        was, now = [a for a, n in enumerate(before) if n != 1], [a for a, n in enumerate(after) if n != 1]
        if [before[a] for a in was] == [after[a] for a in now] and (node.op_type != "Reshape" or len(node.inputs) > 1):
            return dict(zip(now, was, strict=True))
    return None


def _set_attribute(node: ir.Node, name: str, wanted: Any) -> None:
    if wanted is None:
        node.attributes.pop(name, None)
    elif isinstance(wanted, list):
        node.attributes[name] = ir.AttrInt64s(name, [int(n) for n in wanted])
    elif isinstance(wanted, float):
        node.attributes[name] = ir.AttrFloat32(name, wanted)
    else:
        node.attributes[name] = ir.AttrInt64(name, int(wanted))


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
