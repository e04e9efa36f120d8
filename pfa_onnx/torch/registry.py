"""The table of operators: what each node of a graph is in PyTorch.

An entry is a maker: it reads a node once, its attributes and the operands that never change, and returns the function
that runs for every batch. What can be settled before the first batch is settled by the maker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.model import Graph

Array = npt.NDArray[Any]
Function = Callable[..., Any]  # tensors, or None for what is left out -> a tensor, or a tuple of them
Maker = Callable[["Node"], Function]

FAMILIES = (
    "attention",
    "contraction",
    "edges",
    "elementwise",
    "indexing",
    "microsoft",
    "movement",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "regions",
    "resizing",
    "sequences",
    "shapes",
)


class Untrainable(Exception):  # noqa: N818 - turned into a ModelError that names every such node
    """A maker found a form of its operator that it cannot make; the message says which, in lower case."""


@dataclass(frozen=True)
class Operator:
    """One entry.

    trains: the operands that are weights if nothing but initializers make them: "vectors" means that any operand is,
    if it is a vector as long as some layer is wide.
    host: operands that stay in the host's memory, since they are sizes, axes or indices that Python reads.
    modal: the function takes training=, whether the module is being trained.
    """

    make: Maker
    trains: tuple[int, ...] | str = ()
    host: tuple[int, ...] = ()
    modal: bool = False


OPERATORS: dict[tuple[str, str], Operator] = {}


def operator(
    *names: str,
    domain: str = "",
    trains: tuple[int, ...] | str = (),
    host: tuple[int, ...] = (),
    modal: bool = False,
) -> Callable[[Maker], Maker]:
    """Register a maker for these operators of a domain; see `Operator`."""

    def register(make: Maker) -> Maker:
        for name in names:
            OPERATORS[domain, name] = Operator(make, trains, host, modal)
        return make

    return register


def find(node: ir.Node) -> Operator | None:
    """Return the entry of a node's operator, if there is one."""
    _load()
    return OPERATORS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def names() -> list[str]:
    """Return every operator that there is, sorted; those that are not of the standard with their domain."""
    _load()
    return sorted(f"{domain}.{name}" if domain else name for domain, name in OPERATORS)


def _load() -> None:
    for family in FAMILIES:
        import_module(f"pfa_onnx.torch.ops.{family}")


@dataclass(frozen=True)
class Node:
    """What a maker sees of a node.

    trained: the names of values that are made of weights, so never constant here. statistics: the names of running
    means and variances that training updates.
    """

    node: ir.Node
    graph: Graph
    trained: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()

    @property
    def op(self) -> str:
        """The operator's name."""
        return self.node.op_type

    @property
    def opset(self) -> int:
        """The version of the node's operator set."""
        domain = "" if self.node.domain == "ai.onnx" else self.node.domain
        return self.graph.model.opset_imports.get(domain, self.graph.opset)

    @property
    def inputs(self) -> int:
        """How many operands there are, those that are left out in between included."""
        return len(self.node.inputs)

    @property
    def outputs(self) -> int:
        """How many outputs there are, up to the last that has a name."""
        return max((k + 1 for k, value in enumerate(self.node.outputs) if value.name), default=0)

    def given(self, index: int) -> bool:
        """Tell whether there is such an operand."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def updates(self, index: int) -> bool:
        """Tell whether an operand is a running mean or variance that training updates."""
        value = self.node.inputs[index]
        while value is not None and str(value.name) not in self.statistics:
            node = value.producer()
            if node is None or node.op_type != "Identity":
                return False
            value = node.inputs[0]
        return value is not None

    def constant(self, index: int) -> Array | None:
        """Return an operand's content if it is the same for every batch, and no weight."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None or not self.graph.is_constant(value) or str(value.name) in self.trained:
            return None
        return self.graph.array(value)

    def numbers(self, index: int) -> list[int] | None:
        """Return a constant operand as a list of whole numbers; None where it is not constant or not there."""
        found = self.constant(index)
        return None if found is None else [int(n) for n in np.asarray(found).ravel()]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute as plain Python: numbers, strings, lists of them, numpy for a tensor."""
        found: Mapping[str, ir.Attr] = self.node.attributes
        if name not in found:
            return default
        attribute = found[name]
        if attribute.type == ir.AttributeType.TENSOR:
            return np.asarray(attribute.value.numpy())
        if isinstance(attribute.value, Iterable) and not isinstance(attribute.value, str | bytes):
            return list(attribute.value)
        return attribute.value
