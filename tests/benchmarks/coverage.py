"""How much of well-known architectures can be cut, and is every cut right? Prints a Markdown table.

    python tests/benchmarks/coverage.py zoo/ts zoo/timm > coverage.md      # folders of .onnx files, or files
    python tests/benchmarks/coverage.py zoo/ts --why                       # every frozen reason, not just the first

export_models.py makes the files. Every model is measured by a process of its own with a time limit. Columns:

- channels: how many output channels of layers may go, of all those that are not outputs of the model
  (in brackets: with --through-norm, where that makes a difference)
- left: share of the parameters left when half of every removable set of channels is cut
- error: the worst difference to the masked original, relative to the output's scale, over several random cuts
- effect: how much the mildest of these cuts changed the masked original: an error far below it proves something
- seconds: tracing, planning and cutting once, without the run that learns the shapes

rivals.py writes a file for --rivals, which adds a column for each other pruner: the share of the channels that lie in
layers it shrank, and of the parameters left at half; "wrong" where the masked original answers something else.

The exit code is the number of models with a problem.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from pfa_onnx.errors import ModelError
from pfa_onnx.graph import cost
from pfa_onnx.graph.cut import cut
from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.masking import masked
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.graph.plan import legalise, removable, settle
from pfa_onnx.graph.taps import probe
from pfa_onnx.graph.trace import Trace
from pfa_onnx.stats.compare import relative_error
from pfa_onnx.stats.session import Runner

TOLERANCE = 1e-4
SHARES = (0.3, 0.5, 0.8, 1.0)  # of all removable labels, drawn at random; the rest is legalised
_EXTENT = 64  # for dimensions that are not written in the file, other than the batch


# --- one model ----------------------------------------------------------------------------------------------


def measure(path: Path) -> dict[str, Any]:
    """Measure one model."""
    graph = load(path)
    feeds = _feeds(graph)
    clock = time.perf_counter()
    shapes = _shapes(graph, feeds)
    probed = time.perf_counter() - clock

    clock = time.perf_counter()
    trace = settle(graph, shapes)
    settled = time.perf_counter() - clock
    may_go = removable(trace)
    problems: list[str] = []
    # shapes were learned on two samples; no batch size may have got into the cut model
    original = Runner(path, providers="cpu", threads=1)
    try:
        feeds = _feeds(graph, batch=3)
        reference = original.run(feeds)
    except ModelError:  # the exporter wrote the batch size into the graph
        feeds = _feeds(graph)
        reference = original.run(feeds)
    del original

    clock = time.perf_counter()
    halved = load(path)
    parameters = cost.parameters(halved)
    order = np.random.default_rng(0).permutation(may_go)
    keep = legalise(trace, _half_of_each(trace, may_go), order)
    cut(halved, follow(trace, keep))
    seconds = settled + time.perf_counter() - clock
    plans = [keep]
    for k, share in enumerate(SHARES):
        order = np.random.default_rng(100 + k).permutation(may_go)
        plans.append(legalise(trace, order[: round(share * len(order))].tolist(), order))

    errors, effects = [], []
    for keep in plans:
        error, effect = _compare(path, trace, keep, feeds, reference, problems)
        errors.append(error)
        effects.append(effect)
    counts = _channels(trace, may_go)
    through = None
    if any("--through-norm" in reason for reason, _ in _reasons(trace)):
        wider = settle(graph, shapes, through_norm=True)
        also = removable(wider)
        through = _channels(wider, also)
        order = np.random.default_rng(0).permutation(also)
        keep = legalise(wider, order[: len(order) // 2].tolist(), order)
        errors.append(_compare(path, wider, keep, feeds, reference, problems)[0])
    return {
        "through": through,
        "layers": len(trace.layers),
        "channels": counts,
        "left": cost.parameters(halved) / max(parameters, 1),
        "error": max(errors),
        "effect": min(effects) if len(may_go) else 0.0,
        "probe": probed,
        "settle": settled,
        "seconds": seconds,
        "frozen": _reasons(trace),
        "blunt": [_where(graph, index) for index in sorted(trace.blunt)],
        "problems": problems + [f"error {e:.1e}" for e in errors if not e < TOLERANCE][:1],
    }


def _feeds(graph: Graph, batch: int = 2) -> dict[str, Any]:
    """Return random inputs; `batch` samples where the file leaves that open."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in graph.inputs:
        shape = [n or (batch if axis == 0 else _EXTENT) for axis, n in enumerate(spec.shape)]
        whole = np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_
        values = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)
        feeds[spec.name] = values.astype(spec.dtype)
    return feeds


def _shapes(graph: Graph, feeds: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    model, wanted = probe(graph)
    content = model.SerializeToString()
    runner = Runner(content, providers="cpu", external_dir=graph.directory, threads=1, early_shapes=True)
    found = runner.run(feeds, list(wanted))
    shapes = {wanted[tap]: tuple(int(n) for n in shape) for tap, shape in found.items()}
    return shapes | {name: array.shape for name, array in feeds.items()}


def _runner(model: onnx.ModelProto, graph: Graph) -> Runner:
    return Runner(model.SerializeToString(), providers="cpu", external_dir=graph.directory, threads=1)


def _half_of_each(trace: Trace, may_go: np.ndarray) -> list[int]:
    """Return half of every set of labels that the same layers carry."""
    carriers: dict[int, list[int]] = {label: [] for label in may_go.tolist()}
    for k, traced in enumerate(trace.layers):
        for label in np.unique(traced.layer.labels).tolist():
            if label in carriers:
                carriers[label].append(k)
    sets: dict[tuple[int, ...], list[int]] = {}
    for label in may_go.tolist():
        sets.setdefault(tuple(carriers[label]), []).append(label)
    # every second one: blocks then lose equally many, and nothing has to be restored
    return [label for labels in sets.values() for label in labels[1::2]]


def _compare(
    path: Path, trace: Trace, keep: np.ndarray, feeds: dict[str, Any], reference: dict[str, Any], problems: list[str]
) -> tuple[float, float]:
    """Return how far the cut model is from the masked original, and that from the original."""
    edits = follow(trace, keep)
    fresh = load(path)
    cut(fresh, edits)
    pruned = ir.to_proto(fresh.model)
    _check(pruned, path, problems)
    if edits.sums:  # the mask of a product of activations may have the traced batch in it
        feeds = _feeds(trace.graph)
        reference = _runner(ir.to_proto(trace.graph.model), trace.graph).run(feeds)
    got = _runner(pruned, trace.graph).run(feeds)
    del fresh, pruned
    expected = _runner(ir.to_proto(masked(trace.graph, edits)), trace.graph).run(feeds)
    return (
        max(relative_error(expected[name], got[name]) for name in expected),
        max(relative_error(reference[name], expected[name]) for name in expected),
    )


def _check(model: onnx.ModelProto, path: Path, problems: list[str]) -> None:
    """Note what the ONNX checker finds, unless it finds fault with the original too."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker has many
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except Exception:  # noqa: BLE001
            return
        problems.append(f"checker: {' '.join(str(error).split())[:200]}")


def _channels(trace: Trace, may_go: np.ndarray) -> tuple[int, int, int]:
    """Count the channels of layers: (removable, not outputs of the model, all)."""
    removed = inner = total = 0
    for traced in trace.layers:
        for label in traced.layer.labels.tolist():
            why = trace.frozen.get(label, ())
            total += 1
            inner += not any(reason.reason.startswith("is the graph output") for reason in why)
        removed += int(np.isin(traced.layer.labels, may_go).sum())
    return removed, inner, total


def _reasons(trace: Trace) -> list[tuple[str, int]]:
    """Return why layers' channels are frozen and how many are, the most first. The first reason counts."""
    found: Counter[str] = Counter()
    for traced in trace.layers:
        for label in traced.layer.labels.tolist():
            why = trace.frozen.get(label, ())
            if why and not any(reason.reason.startswith("is the graph output") for reason in why):
                found[f"{why[0].reason} ({why[0].node})"] += 1
    return found.most_common()


def _where(graph: Graph, index: int) -> str:
    node = graph.nodes[index]
    return f"{node.op_type} {node.name or node.outputs[0].name}"


# --- all of them --------------------------------------------------------------------------------------------


def measured(path: Path, timeout: float) -> dict[str, Any]:
    """Measure in a process of its own; {"problems": [...]} when that fails."""
    command = [sys.executable, __file__, str(path), "--one"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"problems": [f"more than {timeout:g} s"]}
    if done.returncode:
        return {"problems": [(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]]}
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, found: dict[str, Any], others: list[str]) -> str:
    """Return one line of the table; `others`: the cells of other pruners."""
    more = "".join(f" {cell} |" for cell in others)
    trouble = "; ".join(found["problems"])
    if "layers" not in found:
        return f"| {name} | | | | | | | **{trouble}** |{more}"
    removed, inner, _ = found["channels"]
    reason, count = (found["frozen"] or [("", 0)])[0]
    through = f" ({100 * found['through'][0] / max(inner, 1):.1f} %)" if found.get("through") else ""
    note = f"**{trouble}**" if trouble else f"{count}: {reason}" if count else ""
    return (
        f"| {name} | {found['layers']} | {100 * removed / max(inner, 1):.1f} %{through} of {inner} | {100 * found['left']:.0f} % "
        f"| {found['error']:.0e} | {found['effect']:.0e} | {found['seconds']:.1f} | {note} |{more}"
    )


def rival(found: dict[str, Any] | None) -> str:
    """Return the cell of another pruner."""
    if not found:
        return ""
    if found["outcome"] != "ok":
        return f"fails: {found['outcome'].replace('|', '/')[:80]}"
    shrunk, total = found["channels"]
    text = f"{100 * shrunk / max(total, 1):.1f} % ({100 * found['left']:.0f} % left)"
    error = found["error"]
    if error is None:
        return f"{text}, not checked"
    return text if error < TOLERANCE else f"wrong by {error:.0e}: {text}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help=".onnx files, or folders of them")
    parser.add_argument("--timeout", type=float, default=200, help="seconds for one model")
    parser.add_argument("--json", type=Path, help="also write everything that was measured, by file")
    parser.add_argument("--rivals", type=Path, help="what rivals.py wrote: more columns")
    parser.add_argument("--why", action="store_true", help="print every frozen reason below the table")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try:
            print(json.dumps(measure(options.paths[0])))
        except Exception as error:  # noqa: BLE001 - told in one line
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            print(f"{type(error).__name__} at {where}: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        return 0
    files = [f for path in options.paths for f in (sorted(path.glob("*.onnx")) if path.is_dir() else [path])]
    others = json.loads(options.rivals.read_text()) if options.rivals else {}
    names = sorted({name for found in others.values() for name in found}, key=str.lower)
    columns = ["model", "layers", "channels", "left", "error", "effect", "seconds", "most frozen by", *names]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    results = {}
    for path in files:
        results[str(path)] = found = measured(path, options.timeout)
        print(row(path.stem, found, [rival(others.get(path.stem, {}).get(name)) for name in names]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    if options.why:
        for path, found in results.items():
            print(f"\n{Path(path).stem}: {found.get('settle', 0):.1f} s to settle")
            for text in [
                *(f"blunt: {b}" for b in found.get("blunt", ())),
                *(f"{n}: {r}" for r, n in found.get("frozen", ())),
            ]:
                print(f"- {text}")
    return sum(bool(found["problems"]) for found in results.values())


if __name__ == "__main__":
    sys.exit(main())
