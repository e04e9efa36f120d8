"""What `inspect` found, as text, JSON and Markdown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pfa_onnx import __version__
from pfa_onnx.inspection import InspectedInput, InspectedLayer, Inspection
from pfa_onnx.report import markdown as md
from pfa_onnx.report import numbers, tables, words
from pfa_onnx.report.as_json import SCHEMA, model_fields, written
from pfa_onnx.report.tables import Column, Table
from pfa_onnx.report.text import joined

_GROUPS = 20  # rows that fit on a screen
_CAUSES = 10
_INPUTS = 6


def render(found: Inspection, *, verbose: bool = False, width: int | None = None, next_step: str | None = None) -> str:
    """Return what was found as plain text; verbose: every layer, and full names."""
    frozen = tables.frozen_table(found, None if verbose else _CAUSES)
    parts: list[str | Table] = [
        words.model_line(found.model),
        *inputs(found, None if verbose else _INPUTS),
        layer_table(found) if verbose else group_table(found, _GROUPS),
        *([frozen] if frozen.rows else []),
        may_go(found),
        *facts(found),
        *([f"next: {next_step}"] if next_step else []),
    ]
    return joined(parts, None if verbose else width)


def line(found: Inspection) -> str:
    """Return the outcome in one line."""
    return may_go(found) + "\n"


def markdown(found: Inspection) -> str:
    """Return what was found as Markdown."""
    frozen = tables.frozen_table(found)
    parts: list[str | Table] = [
        f"**{md.escape(may_go(found))}**",
        "\n".join(f"- {md.escape(text)}" for text in (words.model_line(found.model, ", "), *inputs(found))),
        *(md.escape(text) for text in facts(found)),
        "### Layers",
        group_table(found),
    ]
    if frozen.rows:
        parts += ["### Frozen", frozen]
    return md.joined([*parts, *(md.escape(f"warning: {text}") for text in found.warnings)])


def as_json(found: Inspection) -> str:
    """Return what was found as JSON, schema 1."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "model": model_fields(found.model),
        "inputs": [asdict(one) for one in found.inputs],
        "through_norm": found.through_norm,
        "channels": {
            "all": found.channels + found.outputs,
            "outputs": found.outputs,
            "may_go": found.free,
            "share": found.share,
            "may_go_through_norm": found.wider,
        },
        "batch_norms": asdict(found.batch_norms),
        "pictures": found.pictures,
        "layers": [_fields(layer) for layer in found.layers],
        "warnings": list(found.warnings),
    }
    return written(content)


def _fields(layer: InspectedLayer) -> dict[str, Any]:
    return asdict(layer) | {"may_go": layer.free, "frozen": [asdict(one) for one in layer.frozen] or None}


# --- sentences ---


def may_go(found: Inspection) -> str:
    """Return how many channels may go, and what else could."""
    told = f"{found.free:,} of {found.channels:,} channels may go ({percent(found.free, found.channels)})"
    if found.wider is not None:
        told += f", with --through-norm {found.wider:,} ({percent(found.wider, found.channels)})"
    return told + (f"; the {found.outputs:,} of the outputs stay" if found.outputs else "")


def percent(part: int, whole: int) -> str:
    """Return a share in per cent; all only where it is all."""
    share = 100 * part / max(whole, 1)
    return f"{min(share, 99.9) if part < whole else share:.1f} %"


def inputs(found: Inspection, limit: int | None = None) -> list[str]:
    """Return a line for each input: its name, its shape and its type."""
    more = len(found.inputs) - limit if limit is not None else 0
    rest = [f"... {more} more inputs (-v)"] if more > 0 else []
    return [_input(one) for one in found.inputs[:limit]] + rest


def _input(one: InspectedInput) -> str:
    guessed = not one.shape or any(not isinstance(extent, int) for extent in one.shape[1:])
    taken = f"   taken as {'x'.join(map(str, one.taken))} (--shape)" if guessed else ""
    return words.clean(f"input {one.name} {_extents(one.shape)} {one.dtype}{taken}")


def _extents(shape: tuple[int | str | None, ...]) -> str:
    return f"[{', '.join('?' if extent is None else str(extent) for extent in shape)}]"


def facts(found: Inspection) -> list[str]:
    """Return what else there is to know before the next step."""
    told = []
    norms = found.batch_norms
    if norms.keep is not None:
        there = f"{norms.there} kept, " if norms.there else ""
        told.append(
            f"BatchNormalization: {there}{norms.folded} folded into convolutions by the exporter, which is fine; only "
            f"--select bn and your own training code want it kept: {norms.keep}"
        )
    elif norms.there:
        told.append(f"BatchNormalization: {norms.there} kept, none folded")
    if found.free and not found.pictures:
        arrays = (f"{one.name} {_extents(('samples', *one.shape[1:]))} {one.dtype}" for one in found.inputs)
        told.append(f"data: FILE.npz with {words.clean(', '.join(arrays))}")
    return told


# --- tables ---


def group_table(found: Inspection, limit: int | None = None) -> Table:
    """Return a row for each group of layers that share channels: the `limit` largest, in the order of the graph."""
    groups = tables.grouped(found.layers)
    chosen = sorted(range(len(groups)), key=lambda k: (-_params(groups[k]), k))[:limit]
    columns = (
        Column("group", name=True),
        Column("layers", right=True),
        Column("channels", right=True),
        Column("may go", right=True),
        Column("params", right=True, spare=True),
    )
    return Table(columns, tuple(_row(groups[k]) for k in sorted(chosen)), len(groups) - len(chosen))


def _row(layers: tuple[InspectedLayer, ...]) -> tuple[str, ...]:
    return (
        words.clean(layers[0].node or layers[0].output),
        str(len(layers)),
        numbers.span(layer.channels for layer in layers),
        _may_go(layers),
        numbers.count(_params(layers)),
    )


def layer_table(found: Inspection) -> Table:
    """Return a row for each layer."""
    columns = (
        Column("layer", name=True),
        Column("op"),
        *(Column(title, right=True) for title in ("group", "channels", "may go", "params")),
        Column("output", name=True),
    )
    rows = (
        (
            words.clean(layer.node or layer.output),
            words.clean(layer.op),
            "-" if layer.group is None else str(layer.group),
            f"{layer.channels:,}",
            _may_go((layer,)),
            numbers.count(layer.weight_params),
            words.clean(layer.output),
        )
        for layer in found.layers
    )
    return Table(columns, tuple(rows))


def _may_go(layers: tuple[InspectedLayer, ...]) -> str:
    """Return how many channels may go, with a star where some may not."""
    star = "*" if any(layer.held for layer in layers) else ""
    return star + numbers.span(layer.free for layer in layers)


def _params(layers: tuple[InspectedLayer, ...]) -> int:
    return sum(layer.weight_params for layer in layers)
