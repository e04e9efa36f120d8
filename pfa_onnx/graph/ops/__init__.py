"""One rule per operator family.

Adding an operator is one function here and one row in the table test. An operator without a rule freezes what
it reads: nothing is ever assumed to be element-wise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

import onnx_ir as ir

from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked, along
from pfa_onnx.graph.ops.refusals import LOST, refusal

Rule = Callable[[Context], None]

RULES: dict[tuple[str, str], Rule] = {}

_FAMILIES = (
    "attention",
    "contraction",
    "einsum",
    "elementwise",
    "indexing",
    "joining",
    "microsoft",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "reshaping",
    "scattering",
)


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for these operators of a domain."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[domain, operator] = function
        return function

    return register


def rule_for(node: ir.Node) -> Rule:
    """Return the rule of a node's operator; `unknown` where there is none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return RULES.get((domain, node.op_type), unknown)


def unknown(c: Context) -> None:
    """Freeze what an operator without a rule reads; what it makes carries no channels.

    So do nodes whose rule lost track of them, when a cut was rehearsed.
    """
    why = refusal(c.node) if rule_for(c.node) is unknown else LOST
    freeze_inputs(c, f"is read by {c.node.op_type}, {why}")
    c.opaque(f"is made by {c.node.op_type}, {why}")


def refuse_inputs(c: Context, how: str) -> None:
    """Freeze what the current node reads, and what it makes, saying how the node uses it."""
    freeze_inputs(c, f"is read by {c.node.op_type} {how}")
    c.opaque(f"is made by {c.node.op_type} {how}")


def computed(c: Context) -> None:
    """Treat what is computed from shapes alone, but too large to follow, as data that may not change."""
    for i in range(len(c.node.inputs)):
        c.steady(i)
    c.opaque("is computed from shapes")


def met_along(c: Context, axes: Iterable[int]) -> int | None:
    """Return which of these axes carries the channels of what the output meets in its readers, if one does."""
    rank = len(c.out_shape())
    for use in c.node.outputs[0].uses():
        for value in use.node.inputs:
            x = None if value is None else c.marks.get(str(value.name))
            if x is not None and x.rank == rank and len(x.axes) == 1 and x.axes[0] in axes:
                return x.axes[0]
    return None


def learned(c: Context, whole: Sequence[int]) -> Marked:
    """Return the labels of input 0, a learned constant: born along the last axis of those that stay whole."""
    shape = c.operand_shape(0)
    wide = [a for a in whole if shape[a] > 1]
    if not wide or not is_learned(c):
        return c.mark(0)
    axis = wide[-1]
    labels = c.born(0, axis)
    ids = along(labels, axis, len(shape))
    c.bind(0, Factor(ids, "made"))
    return Marked(ids, (*shape[:axis], len(labels), *shape[axis + 1 :]), (axis,))


def is_learned(c: Context) -> bool:
    """Tell whether the constant input 0 was learned: whole numbers are indices, and no channels."""
    value = c.input(0)
    return value is not None and c.graph.array(value).dtype.kind == "f"


def freeze_inputs(c: Context, why: str) -> None:
    """Freeze everything that the current node reads."""
    for i in c.activations():
        c.freeze(c.mark(i).ids, why)


for _family in _FAMILIES:
    import_module(f"{__name__}.{_family}")
