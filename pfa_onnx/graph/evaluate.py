"""Running single nodes on the host: constants are folded with it, and shapes computed by the graph are followed.

onnx's own reference operators do the work, so every operator set version means what the standard says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference.ops import load_op

from pfa_onnx.errors import ModelError

Array = npt.NDArray[Any]

# Never folded: random numbers differ at every run, subgraphs read more than their inputs, and the
# quantizing operators keep a model small - folding one would turn int8 weights into floats.
_IMPURE = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SplitToSequence",
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip


def is_pure(node: ir.Node) -> bool:
    """Tell whether a node of the standard computes its outputs from its inputs alone."""
    return node.domain in {"", "ai.onnx"} and node.op_type not in _IMPURE


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Compute a node's outputs.

    Raises ModelError when the node is invalid or the reference has no implementation of it.
    """
    proto = ir.serde.serialize_node(node)
    try:
        operator = load_op("", node.op_type, opset)
        context = {"log": _silent, "opsets": {"": opset}, "verbose": 0, "new_ops": None}
        results = operator(proto, context).run(*inputs)
    except Exception as error:
        raise ModelError(
            f"cannot compute {node.op_type} on constants: {str(error).splitlines()[0] if str(error) else error!r}",
            at=str(node.name or node.outputs[0].name),
            fix="export the model with constant folding on",
        ) from error
    return [np.asarray(result) for result in results]


def _silent(*_: object) -> None:
    """Take the reference's log lines and forget them."""
