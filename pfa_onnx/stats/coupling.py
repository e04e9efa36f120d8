"""What layers that share channels keep: who is asked, and what is made of the answers.

By default every member of a coupled set is asked, and the set keeps the most that any of them asks for
(`selection.wish`): equation (2) of the paper then holds for every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pfa_onnx.recipe import Coupling, Layer
from pfa_onnx.stats.pfa import count_of
from pfa_onnx.stats.selection import coupled_sets


def mean_counts(coupling: Coupling, asked: Mapping[str, int]) -> dict[str, int]:
    """Return the counts with every member of a coupled set asking for what its members ask for on average.

    Members of unlike widths agree on the mean share of their channels; for equal ones that is the mean count.
    """
    counts = dict(asked)
    for layers in coupled_sets(coupling):
        if len(layers) > 1:
            share = sum(asked[layer.output] / layer.channels for layer in layers) / len(layers)
            counts |= {layer.output: count_of(share, layer.channels) for layer in layers}
    return counts


def with_streams(coupling: Coupling, streams: Sequence[Layer]) -> Coupling:
    """Return the coupling in which the sums of residual streams answer for the layers that are added up in them.

    A layer is replaced if sums carry all of its channels that may go; one that is not part of a sum, such as the
    depthwise convolution between two others, answers for itself.
    """
    carried = {label for layer in streams for label in _free(layer, coupling)}
    replaced = [layer for layer in coupling.layers if _free(layer, coupling) and _free(layer, coupling) <= carried]
    names = {layer.output for layer in replaced}
    used = {label for layer in replaced for label in _free(layer, coupling)}
    stay = [layer for layer in coupling.layers if layer.output not in names]
    return replace(coupling, layers=(*stay, *(layer for layer in streams if _free(layer, coupling) & used)))


def _free(layer: Layer, coupling: Coupling) -> set[int]:
    return {label for label in layer.labels.tolist() if label > 0 and label not in coupling.frozen}
