"""A bar for each layer, coloured by why channels stay; it unfolds to the layer's spectrum and correlations.

Unfolding is the browser's own (details, summary): keys, screen readers and pages without scripts have it too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pfa_onnx.report import numbers, tables
from pfa_onnx.report.html.causes import Causes
from pfa_onnx.report.html.parts import section, text
from pfa_onnx.results import LayerResult, Report

NARROWEST = 20  # percent of the page, so that layers of a few channels can be seen
_FIRST = 24  # channels that are listed in their order of removal


def layers(report: Report, causes: Causes) -> Iterator[str]:
    """Yield the section."""
    widest = max((layer.channels for layer in report.layers), default=1)
    bars = (line for index, layer in enumerate(report.layers) for line in _layer(index, layer, report, widest, causes))
    note = "Each bar is as long as its layer is wide. Open one to see its spectrum, and how its channels correlate."
    legend = _legend(report, causes)
    buttons = '<p class="buttons" data-script hidden><button type="button" id="all">Open all</button></p>'
    yield from section("Layers", legend, buttons, '<div class="layers">', *bars, "</div>", note=note)


def _legend(report: Report, causes: Causes) -> str:
    there = {kind for layer in report.layers for kind, _ in parts_of(layer)}
    stays = (("asked", "the method asks for it"), ("more", "layers that go together, or the width, need it"))
    shown = [(kind, f"stays: {why}") for kind, why in stays if kind in there]
    shown += [(kind, f"frozen: {reason}") for kind, reason in causes.legend()]
    shown += [("gone", "removed")] if "gone" in there else []
    items = "".join(f'<li><i class="swatch {kind}"></i>{text(meaning)}</li>' for kind, meaning in shown)
    return f'<ul class="legend">{items}</ul>'


def parts_of(layer: LayerResult) -> Iterator[tuple[str, int]]:
    """Yield the parts of a layer's bar, which sum to its channels: (asked | held | more | gone, channels)."""
    kept = len(layer.keep)
    held = min(layer.held, kept)
    more = max(0, kept - max(layer.asked, held))
    parts = (("asked", kept - held - more), ("held", held), ("more", more), ("gone", layer.channels - kept))
    yield from ((kind, number) for kind, number in parts if number)


def _layer(index: int, layer: LayerResult, report: Report, widest: int, causes: Causes) -> Iterator[str]:
    kept = len(layer.keep)
    colours = {"held": causes.of(layer)}
    segments = "".join(
        f'<i class="{colours.get(kind, kind)}" style="flex-grow:{number}"></i>' for kind, number in parts_of(layer)
    )
    width = NARROWEST + (100 - NARROWEST) * layer.channels / widest
    yield f'<details class="layer" data-layer="{index}">'
    yield (
        f'<summary><span class="name">{text(tables.name_of(layer))}</span> '
        f'<span class="counts"><b>{kept:,}</b> of {layer.channels:,}</span>'
        f'<span class="bar" style="width:{width:.1f}%" aria-hidden="true">{segments}</span></summary>'
    )
    yield '<div class="panel"><div class="figures"></div>'
    yield f"<ul>{''.join(f'<li>{text(fact)}</li>' for fact in _facts(layer, report))}</ul></div></details>"


def _facts(layer: LayerResult, report: Report) -> Iterator[str]:
    """Yield what there is to say of a layer, for those who see no figure too."""
    kept = len(layer.keep)
    yield f"{layer.op}, {kept:,} of {layer.channels:,} channels stay, the method asks for {layer.asked:,}"
    if layer.eigenvalues:
        enough = numbers.channels_for(layer.eigenvalues, 0.95)
        yield f"spread {numbers.fraction(layer.gamma)}" + (f", 95 % of the energy in {enough:,}" if enough else "")
    yield f"measured on {layer.samples:,} samples"
    others = sum(other.group == layer.group for other in report.layers) - 1 if layer.group is not None else 0
    if others:
        yield f"goes together with {others} other layer{'s' * (others != 1)} (group {layer.group})"
    for cause in layer.frozen:
        yield f"{layer.held:,} frozen: {cause.reason} ({cause.node})"
    details = report.details.layers.get(layer.output) if report.details is not None else None
    gone = layer.channels - kept
    if details is not None and gone:
        first = ", ".join(map(str, details.order[: min(gone, _FIRST)]))
        yield f"removed, in this order: {first}" + (f", ... {gone - _FIRST} more" if gone > _FIRST else "")
