"""Who may import whom, read from the source: also inside functions, where it does not show at start-up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pfa_onnx"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350


def imported(path: Path) -> set[str]:
    """Every module that a file imports, with the names that may be modules; relative imports are spelled out."""
    found: set[str] = set()
    here = ("pfa_onnx", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    return found


def importers_of(module: str, folder: str = "") -> set[str]:
    inside = [path for path in FILES if (PACKAGE / folder) in path.parents or path.parent == PACKAGE / folder]
    return {
        str(path.relative_to(PACKAGE))
        for path in inside
        if any(name == module or name.startswith(f"{module}.") for name in imported(path))
    }


def test_there_is_something_to_read():
    assert len(FILES) > 30
    assert "graph/cut.py" in importers_of("onnx_ir", "graph")
    assert importers_of("onnxruntime") != set()


def test_only_the_session_imports_onnxruntime():
    assert importers_of("onnxruntime") == {"stats/session.py"}


@pytest.mark.parametrize(
    "module", ["pfa_onnx.stats", "pfa_onnx.pipeline", "pfa_onnx.cli", "pfa_onnx.report", "onnxruntime"]
)
def test_graph_never_imports(module):
    assert importers_of(module, "graph") == set()


@pytest.mark.parametrize("module", ["pfa_onnx.graph", "pfa_onnx.pipeline", "pfa_onnx.cli", "pfa_onnx.report"])
def test_stats_never_imports(module):
    assert importers_of(module, "stats") == set()


def test_only_its_own_package_imports_torch():
    assert {name for name in importers_of("torch") if not name.startswith("torch/")} == set()


def test_the_bridge_is_loaded_only_when_it_is_asked_for():
    assert importers_of("pfa_onnx.torch", "") - set(importers_of("pfa_onnx.torch", "torch")) == {"pipeline.py"}


def test_only_the_command_line_is_imported_by_nothing_else():
    assert {name for name in importers_of("pfa_onnx.cli") if not name.startswith(("cli", "__main__"))} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_is_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST
