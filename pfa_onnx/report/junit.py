"""A check as JUnit XML: one suite with a test case for each limit, and two for what they rest on.

A case fails exactly where a limit does not hold, so that the file agrees with the exit code; what could not be
compared or read is skipped, and says why. A check that could not be made is an error: an older file must not be taken
for what it says. No times: the same check gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pfa_onnx.errors import PfaError
from pfa_onnx.report import words
from pfa_onnx.results import CheckReport, Gate

_CHANGED = 50  # names of samples that are listed


@dataclass(frozen=True)
class _Case:
    """One test case. kind: "failure", "error" or "skipped", where it did not pass, and why; out: what it printed."""

    name: str
    kind: str = ""
    message: str = ""
    out: tuple[str, ...] = ()
    details: str = ""


def render(report: CheckReport) -> str:
    """Return the check as XML."""
    cases = [*map(_limit, report.gates), _outputs(report), _data(report)]
    return _suite(cases, f"{report.original.path} -> {report.pruned.path}", _properties(report))


def render_error(original: str, pruned: str, error: PfaError) -> str:
    """Return a check that could not be made as XML: one case, with the error."""
    return _suite([_Case("the check runs", "error", error.what, details=str(error))], f"{original} -> {pruned}", ())


def _suite(cases: Sequence[_Case], pair: str, properties: Iterable[str]) -> str:
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    counts = {"tests": str(len(cases))}
    counts |= {name: str(sum(case.kind == kind for case in cases)) for name, kind in kinds.items()}
    body = [line for case in cases for line in _case(case, pair)]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<testsuites>",
        f"  <testsuite{_attributes({'name': 'pfa-onnx check'} | counts)}>",
        *(f"    {line}" for line in [*properties, *body]),
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _limit(gate: Gate) -> _Case:
    metric = words.metric_of(gate)
    name = f"{words.METRICS.get(metric, metric)} {'>=' if words.is_minimum(gate) else '<='} {gate.limit:.10g}"
    if gate.passed:
        return _Case(name)
    return _Case(name, "failure", words.broken(gate), details=f"value {gate.value}, limit {gate.limit}")


def _outputs(report: CheckReport) -> _Case:
    """Say which answers changed, and which outputs could not be compared."""
    notes = [f"{name}: {found['note']}" for name, found in report.outputs.items() if found.get("note")]
    told = words.accuracy(report)
    out = [told] if told else []
    if report.changed:
        out.append(f"{len(report.changed):,} of {report.data.samples:,} predictions changed")
        out += [f"{one.name}: {one.before} -> {one.after}" for one in report.changed[:_CHANGED]]
        more = len(report.changed) - _CHANGED
        out += [f"... {more:,} more"] if more > 0 else []
    return _Case("outputs are compared", "skipped" if notes else "", "; ".join(notes), tuple(out))


def _data(report: CheckReport) -> _Case:
    skipped = report.data.skipped
    unread = f"{len(skipped):,} input{'s' * (len(skipped) != 1)} could not be read" if skipped else ""
    out = [f"{name}: {why}" for name, why in skipped[:_CHANGED]]
    return _Case("data is read", "skipped" if skipped else "", unread, (words.data_line(report.data, ", "), *out))


def _properties(report: CheckReport) -> Iterator[str]:
    values = {"original": report.original.path, "pruned": report.pruned.path, "verdict": words.verdict(report)}
    steady = {name: value for name, value in report.metrics.items() if name != "latency_ratio"}
    values |= {words.METRICS.get(name, name): f"{value:.10g}" for name, value in steady.items() if value is not None}
    yield "<properties>"
    for name, value in values.items():
        yield f"  <property{_attributes({'name': name, 'value': value})}/>"
    yield "</properties>"


def _case(case: _Case, pair: str) -> Iterator[str]:
    start = f"<testcase{_attributes({'classname': pair, 'name': case.name})}"
    if not case.kind and not case.out:
        yield f"{start}/>"
        return
    yield f"{start}>"
    if case.kind:
        details = _text((case.details or case.message).splitlines())
        yield f"  <{case.kind}{_attributes({'message': case.message})}>{details}</{case.kind}>"
    if case.out:
        yield f"  <system-out>{_text(case.out)}</system-out>"
    yield "</testcase>"


def _attributes(values: dict[str, str]) -> str:
    return "".join(f' {name}="{escape(words.clean(value))}"' for name, value in values.items())


def _text(lines: Iterable[str]) -> str:
    """Return lines as XML holds them: control characters, which it cannot hold, are written out."""
    return "\n".join(escape(words.clean(line)) for line in lines)
