"""Which node made all channels of a layer one: for people, who would look for the cause in the layer itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pfa_onnx.graph.labels import Labels, unpaired
from pfa_onnx.graph.trace import Trace
from pfa_onnx.recipe import Ints, Reason

Tie = tuple[int, Ints, Ints]  # a node, and the labels that it made the same, position by position


def whole_layers(trace: Trace, lockstep: Iterable[Tie]) -> dict[str, Reason]:
    """Return the layers, by output, whose channels are all one label, and why.

    lockstep: what was tied in order that blocks shrink alike, after what the rules said.
    """
    found, waiting = {}, {}
    for traced in trace.layers:
        layer = traced.layer
        if int(layer.labels[0]) in trace.frozen or not (layer.labels == layer.labels[0]).all():
            continue
        if layer.channels == 1:
            found[layer.output] = Reason("is the only channel of its layer", layer.node)
        else:
            waiting[layer.output] = _own(trace, layer.output, traced.axis)
    return found | _tied(trace, waiting, lockstep)


def _own(trace: Trace, output: str, axis: int) -> Ints:
    assert trace.raw is not None
    return trace.raw.marks[output].vector(axis)


def _tied(trace: Trace, waiting: dict[str, Ints], lockstep: Iterable[Tie]) -> dict[str, Reason]:
    """Merge again, node by node, until each layer is one; the last node that it took is the cause."""
    sets, found = Labels(), {}
    sets.fresh(trace.count if waiting else 0)
    for index, one, other in [*_said(trace.raw.pairs if trace.raw and trace.raw.pairs else {}), *lockstep]:
        if not waiting:
            break
        sets.same(one, other)
        for output in [output for output, own in waiting.items() if sets.together(own)]:
            del waiting[output]
            node = trace.graph.nodes[index]
            why = f"goes with all other channels of its layer: {node.op_type} and nodes before it tie them together"
            found[output] = Reason(why, str(node.name or node.outputs[0].name))
    nodes = {traced.layer.output: traced.layer.node for traced in trace.layers}
    return found | {output: Reason("goes with all other channels of its layer", nodes[output]) for output in waiting}


def _said(pairs: Mapping[int, Ints]) -> Iterable[Tie]:
    for index in sorted(pairs):
        yield index, *unpaired(pairs[index])
