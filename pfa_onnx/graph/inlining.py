"""Model-local functions become the nodes that they stand for: only nodes can be cut."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.claims import called


def inline(model: ir.Model) -> ir.Model:
    """Return the model without functions; raises ModelError where they mean what its operators do not."""
    from onnx_ir.passes.common import InlinePass  # noqa: PLC0415 - only models with functions pay for it

    for function in model.functions.values():
        _adopt(function, model.opset_imports)
        _prefix(function)
    try:
        return InlinePass()(model).model
    except ValueError as error:  # a body that is handed to a function, more operands than it has
        raise ModelError(
            f"its functions cannot be written out: {error}",
            at=str(model.graph.name),
            fix="export the model without functions",
        ) from None


def _adopt(function: ir.Function, versions: dict[str, int]) -> None:
    """Let a function use the model's version of the operators, where that is the same for all that it calls."""
    for domain, version in list(function.opset_imports.items()):
        wanted = versions.get(domain, version)
        if wanted == version:
            continue
        for node in function.all_nodes():
            if node.domain == domain and _since(node, version) != _since(node, wanted):
                raise ModelError(
                    f"a function uses {node.op_type} of opset {version}, and the model uses opset {wanted}",
                    at=called(function.name),
                    fix="export the model without functions",
                )
        function.opset_imports[domain] = wanted


def _prefix(function: ir.Function) -> None:
    """Put the function's name before its nodes' and values': a clash takes longer to mend the more there were."""
    for node in function.all_nodes():
        node.name = f"{function.name}/{node.name or node.op_type}"
        for value in node.outputs:
            if value.name:
                value.name = f"{function.name}/{value.name}"


def _since(node: ir.Node, version: int) -> int | None:
    """Return the version in which the operator last changed; None where it is not known."""
    try:
        return int(onnx.defs.get_schema(node.op_type, version, node.domain).since_version)
    except onnx.defs.SchemaError:
        return None
