"""When nothing goes: said aloud, with the largest reason, because a file that is just as large looks like a success."""

from __future__ import annotations

from collections import Counter

from pfa_onnx.errors import TargetError
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.ops.refusals import way_out
from pfa_onnx.graph.plan import removable
from pfa_onnx.graph.trace import Trace
from pfa_onnx.options import Hooks
from pfa_onnx.recipe import Reason
from pfa_onnx.steps.decide import Decision

# what a reason says -> what a user can do about it
_FIXES = {
    "--through-norm": "add --through-norm",
    "samples cannot describe": "give at least as many samples, or add --allow-few-samples",
    "--include": "change --include",
    "--exclude": "change --exclude",
}


def refuse_if_nothing_can_go(decision: Decision) -> None:
    """Raise TargetError where not one channel of any layer may go, whatever the data says."""
    trace = decision.trace
    if len(removable(trace)):
        return
    reason, count = largest_reason(trace)
    found = way_out(trace.graph)
    if found is not None:
        what, names, fix = found
        raise TargetError(f"nothing can be removed: {what} are left alone ({names})", at=_path(trace.graph), fix=fix)
    total = sum(traced.layer.channels for traced in trace.layers)
    fix = next((fix for part, fix in _FIXES.items() if part in reason.reason), "see all reasons: pfa-onnx analyze -v")
    raise TargetError(
        f"nothing can be removed: all {total:,} channels have to stay, {count:,} of them because: {reason.reason}",
        at=reason.node,
        fix=fix,
    )


def warn_if_nothing_goes(decision: Decision, hooks: Hooks) -> bool:
    """Warn where a recipe keeps every channel of every layer; tell whether it does."""
    trace = decision.trace
    if not all(decision.keep[traced.layer.labels].all() for traced in trace.layers):
        return False
    short = sum(decision.asked.get(t.layer.output, t.layer.channels) < t.layer.channels for t in trace.layers)
    if not short:
        hooks.warn("nothing was removed: the method asks to keep every channel of every layer")
        return True
    kept = "what they are coupled with, --round-to and --min-channels put them back"
    if trace.frozen and any(label in trace.frozen for t in trace.layers for label in t.layer.labels.tolist()):
        reason, count = largest_reason(trace)
        kept += f", or they are frozen, most of them ({count:,}) because: {reason.reason} ({reason.node})"
    hooks.warn(f"nothing was removed: {short} layers ask to lose channels, but {kept}")
    return True


def largest_reason(trace: Trace) -> tuple[Reason, int]:
    """Return what holds most channels of layers, and how many; that a channel is an output is the last to be told."""
    held = Counter(
        reason for t in trace.layers for label in t.layer.labels.tolist() for reason in trace.frozen.get(label, ())[:1]
    )
    return max(held.items(), key=lambda item: (not item[0].reason.startswith("is the graph output"), item[1]))


def _path(graph: Graph) -> str:
    return str(graph.path) if graph.path is not None else "the model"
