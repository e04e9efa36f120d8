"""Break files by what of this project's code they reach: libFuzzer, through atheris (pip install atheris).

    python tests/fuzz/guided.py model corpus/ -max_total_time=600
    python tests/fuzz/guided.py recipe -runs=100000

The readers run in this process, one after the other, without onnxruntime: what is no error of this project's own is a
finding, and libFuzzer keeps the file. Targets: model, statistics, recipe, embedded.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import atheris

with atheris.instrument_imports(include=["pfa_onnx", "onnx_ir"]):
    from pfa_onnx.errors import PfaError
    from pfa_onnx.graph.model import load
    from pfa_onnx.graph.protos import to_proto
    from pfa_onnx.stats.statsfile import load_stats
    from pfa_onnx.steps.embedded import read_embedded
    from pfa_onnx.steps.replay import parse_recipe

from fuzz.corpus import build
from fuzz.mutate_files import sealed

FOLDER = Path(tempfile.mkdtemp(prefix="pfa-onnx-guided-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def model(content: bytes) -> None:
    """What can be read can be written again."""
    path = FOLDER / "model.onnx"
    path.write_bytes(content)
    graph = load(path)
    for value in graph.constants.values():
        graph.shape_of(value, {})
    to_proto(graph.model)


def statistics(content: bytes) -> None:
    """With checksums that hold, where it is a zip at all: nothing would get past them otherwise."""
    with suppress(Exception):
        content = sealed(content)
    path = FOLDER / "stats.npz"
    path.write_bytes(content)
    load_stats(path)


def recipe(content: bytes) -> None:
    parse_recipe(content.decode("utf-8", "replace"), at="recipe.json")


def embedded(content: bytes) -> None:
    path = FOLDER / "pruned.onnx"
    path.write_bytes(content)
    read_embedded(path)


TARGETS = {"model": (model, ""), "statistics": (statistics, "stats.npz"), "recipe": (recipe, "report.json"), "embedded": (embedded, "pruned.onnx")}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    target, name = TARGETS[sys.argv.pop(1)]
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    for k, base in enumerate(build(small=True).bases):
        content = base.files.get(name) if name else base.content
        if content is not None:
            (seeds / f"{k}").write_bytes(content)
    folders = [one for one in sys.argv[1:] if not one.startswith("-")]

    def once(content: bytes) -> None:
        with suppress(PfaError):
            target(content)

    atheris.Setup([sys.argv[0], *(one for one in sys.argv[1:] if one.startswith("-")), *folders, str(seeds)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
