"""What `pfa-onnx doctor` finds: versions, what really runs, and what is wrong with the installation."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

from pfa_onnx import __version__

_NEEDED = ("onnx", "onnx-ir", "numpy", "Pillow", "threadpoolctl", "click", "rich")


def examine() -> tuple[str, bool]:
    """Return the report, and whether all is well."""
    rows = [("python", platform.python_version()), ("pfa-onnx", __version__)]
    problems: list[tuple[str, str]] = []
    for package in _NEEDED:
        version = _version(package)
        rows.append((package, version or "missing"))
        if version is None:
            problems.append((f"{package} is not installed", f"pip install {package}"))
    runtime, found, hints = _runtime()
    rows += runtime
    problems += found
    widest = max(len(name) for name, _ in rows)
    lines = [f"{name:<{widest}}  {value}" for name, value in rows]
    lines += [f"hint: {hint}" for hint in hints]
    lines += [f"error: {what}\n  at: {sys.prefix}\n  fix: {fix}" for what, fix in problems]
    return "\n".join([*lines, "all is well" if not problems else f"{len(problems)} to repair"]) + "\n", not problems


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _runtime() -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]:
    """Return rows, problems and hints about onnxruntime."""
    try:
        from pfa_onnx.stats.runtime import runtime_conflict, runtime_report  # noqa: PLC0415
    except ImportError as error:
        return [("onnxruntime", "unknown")], [(f"cannot look: {error}", "pip install --force-reinstall pfa-onnx")], []
    report = runtime_report()
    packages, providers = report["distribution"], report["providers"]
    rows = [
        ("onnxruntime", f"{packages} {report['version']}" if packages else "missing"),
        ("runs on", ", ".join(providers) or "nothing"),
    ]
    problems = []
    conflict = runtime_conflict()
    if conflict:
        problems.append(_repair(conflict, str(packages or "").split(" + ")))
    elif "cpu" not in providers:
        what = f"onnxruntime does not run here: {report.get('cpu_problem') or 'no provider starts'}"
        problems.append((what, f"pip install --force-reinstall {packages}"))
    return rows, problems, _hints(report)


def _repair(conflict: str, packages: list[str]) -> tuple[str, str]:
    """Return what is wrong and one command that repairs it."""
    what, _, fix = conflict.partition("; ")
    if len(packages) > 1:
        best = "onnxruntime-gpu" if "onnxruntime-gpu" in packages else packages[-1]
        fix = f"pip uninstall -y {' '.join(packages)} && pip install {best}"
    return what, fix


def _hints(report: dict[str, Any]) -> list[str]:
    """Return what a person with an NVIDIA GPU may want to know; without one, nothing is wrong."""
    if "cuda" in report["providers"]:
        return [f"CUDA {report['cuda']} starts: --providers auto uses it"] if report["cuda"] else []
    if not report["cuda"]:
        return []
    why = report.get("cuda_problem") or "CUDA does not start"
    return [f"{why}; with an NVIDIA GPU: pip install 'pfa-onnx[cuda]'"]
