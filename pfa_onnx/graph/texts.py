"""Every name of a file must be text: what reads and what writes it know names in UTF-8 only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from pfa_onnx.errors import ModelError
from pfa_onnx.graph.claims import called


def check_texts(model: onnx.ModelProto) -> None:
    """Raise ModelError for a name or a note that is no UTF-8; numbers are not looked at."""
    try:
        found = next(_broken(model), None)
    except UnicodeDecodeError as error:  # some builds of protobuf raise, others give bytes
        found = "text", error.object
    if found is not None:
        shown = called(found[1].decode("utf-8", "backslashreplace"))
        raise ModelError(f"a {found[0]} is not UTF-8", at=shown, fix="export the model again, with names in UTF-8")


def _broken(message: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the field and the content of every text that is none."""
    if isinstance(message, onnx.TensorProto):  # its numbers stay where they are
        texts: list[tuple[str, Any]] = [("name", message.name), ("doc_string", message.doc_string)]
        texts += [(one.key, one.value) for one in message.external_data]
        yield from ((field, text) for field, text in texts if isinstance(text, bytes))
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in (value,) if hasattr(value, "ListFields") else value:
                yield from _broken(one)
        elif field.type == field.TYPE_STRING:
            for one in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(one, bytes):
                    yield field.name, one
