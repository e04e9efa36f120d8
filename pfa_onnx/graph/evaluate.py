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

_NEWEST = 25

# Never folded: random numbers differ at every run, and subgraphs read more than their inputs.
_IMPURE = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    "If", "Loop", "Scan", "DynamicQuantizeLinear",
    "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceAt", "SplitToSequence",
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip


# onnxruntime's own had 16 and 4 bits before the standard's did.
_OWN_NAME = {"DequantizeLinear", "QuantizeLinear"}


def is_pure(node: ir.Node) -> bool:
    """Tell whether a node of the standard, or one that means the same, computes its outputs from its inputs alone."""
    blocked = "block_size" in node.attributes and node.attributes["block_size"].value  # scales that no axis can follow
    standard = node.domain in {"", "ai.onnx"} or (node.domain == "com.microsoft" and node.op_type in _OWN_NAME)
    return standard and node.op_type not in _IMPURE and not blocked


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Compute a node's outputs.

    Raises ModelError when the node is invalid or the reference has no implementation of it.
    """
    proto = ir.serde.serialize_node(node)
    try:
        operator = _operator(node.op_type, opset if node.domain != "com.microsoft" else _NEWEST)
        context = {"log": _silent, "opsets": {"": opset}, "verbose": 0, "new_ops": None}
        results = operator(proto, context).run(*inputs)
    except Exception as error:
        raise ModelError(
            f"cannot compute {node.op_type} on constants: {str(error).splitlines()[0] if str(error) else error!r}",
            at=str(node.name or node.outputs[0].name),
            fix="export the model with constant folding on",
        ) from error
    return [np.asarray(result) for result in results]


def _operator(kind: str, opset: int) -> Any:
    """Return the reference's operator; of some it knows newer versions only, which read older nodes as well."""
    for version in range(opset, _NEWEST + 1):
        try:
            return load_op("", kind, version)
        except RuntimeError:
            continue
    return load_op("", kind, opset)


def _silent(*_: object) -> None:
    """Take the reference's log lines and forget them."""
