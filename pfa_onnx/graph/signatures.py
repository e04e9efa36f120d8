"""What a node says against what the standard says of its operator: how much it reads and makes, and its attributes.

onnxruntime asks the same of every node; asked first, it is a clear refusal before any rule reads an attribute that is
something else than it should be.
"""

from __future__ import annotations

from functools import lru_cache

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, defs

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.claims import ELEMENT_TYPES, called

_EXPORT = "export the model again"
_NEWEST = defs.onnx_opset_version()
_STANDARD = {"", "ai.onnx.ml"}  # domains of which onnx has the operators

_TYPES = {"to", "dtype", "output_dtype", "output_datatype", "stash_type"}  # attributes that name an element type
_LARGEST = 1 << 31


def check_node(node: NodeProto, version: int | None, *, inside: bool = False) -> None:
    """Raise ModelError unless a node has what its operator needs, and nothing else.

    version: of its domain, None where the file does not say. inside: a function, whose attributes may be left open.
    """
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) < len(names) or "" in names:
        raise broken(node, "has an attribute twice" if "" not in names else "has an attribute without a name")
    for attribute in node.attribute:
        if attribute.ref_attr_name and not inside:
            raise broken(
                node, f"refers to an attribute {called(attribute.ref_attr_name)!r} of a function, and is in none"
            )
    domain = "" if node.domain == "ai.onnx" else node.domain
    known = domain in _STANDARD and version is not None and (domain != "" or version <= _NEWEST)
    schema = _schema(node.op_type, domain, version or 0) if known else None
    if schema is not None:
        _check_against(node, schema)


def broken(node: NodeProto, what: str) -> ModelError:
    """Return the error of a node that is not what it should be."""
    name = node.name or next((name for name in node.output if name), "")
    return ModelError(f"a node {called(node.op_type)} {what}", at=called(name), fix=_EXPORT)


@lru_cache(maxsize=1024)
def _schema(operator: str, domain: str, version: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, version, domain)
    except defs.SchemaError:
        return None


def _check_against(node: NodeProto, schema: defs.OpSchema) -> None:
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 1000 else f"{least} or more"
            raise broken(node, f"has {count} {what}, where it takes {wanted}")
    for attribute in node.attribute:
        found = schema.attributes.get(attribute.name)
        if found is None:
            raise broken(node, f"has the attribute {called(attribute.name)!r}, which its operator has not")
        wanted = str(getattr(found.type, "name", found.type))
        if wanted != AttributeProto.AttributeType.Name(attribute.type):
            raise broken(node, f"has an attribute {attribute.name!r} that is not of type {wanted}")
        if attribute.name in _TYPES and attribute.i not in ELEMENT_TYPES | {0}:
            raise broken(node, f"has the unknown element type {attribute.i} as its {attribute.name}")
    given = {attribute.name for attribute in node.attribute}
    for name, found in schema.attributes.items():
        if found.required and name not in given:
            raise broken(node, f"lacks its attribute {name!r}")


def operators_of(model: ModelProto | FunctionProto) -> dict[str, int]:
    """Return the version of every domain; raises ModelError where it is said twice, or is none."""
    versions: dict[str, int] = {}
    for one in model.opset_import:
        domain = "" if one.domain == "ai.onnx" else one.domain
        what = f"the operator set {called(domain or 'ai.onnx')} has"
        if not 0 < one.version < _LARGEST:
            raise ModelError(f"{what} version {one.version}", at="opset_import", fix=_EXPORT)
        known = versions.setdefault(domain, one.version)
        if known != one.version:
            raise ModelError(f"{what} two versions: {known} and {one.version}", at="opset_import", fix=_EXPORT)
    return versions
