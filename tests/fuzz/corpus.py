"""What is broken: small models, with data for them, and every kind of file that this project writes and reads again.

Everything is made here, from seeds, in one folder that lasts as long as the run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
from networks import NETWORKS, exports, feeds

SAMPLES = 6
TRAINED = 24  # fewer are refused
TRAINING = ("--epochs", "2", "--providers", "cpu")
LARGEST = 40_000  # bytes of an export that is worth breaking: every case reads it several times
FAMILY = ("plain", "residual_add", "gemm_plain", "attention", "depthwise", "grouped_conv", "fp16", "local_function")
SAMPLE = Path(__file__).resolve().parents[2] / "sample_models" / "fashion" / "model.onnx"


@dataclass(frozen=True)
class Base:
    """A model that is whole. more: data enough to train with; files: what this project wrote about it, for some."""

    name: str
    content: bytes
    data: Path
    more: Path
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def proto(self) -> onnx.ModelProto:
        """A copy to break."""
        return onnx.load_from_string(self.content)


@dataclass(frozen=True)
class Corpus:
    """All that cases are made of."""

    bases: tuple[Base, ...]

    @property
    def written(self) -> tuple[Base, ...]:
        """Models about which there are files."""
        return tuple(base for base in self.bases if base.files)


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="pfa-onnx-fuzz-")


def build(*, small: bool = False) -> Corpus:
    """Make the corpus. small: of a few models only, for a run of seconds."""
    folder = Path(_folder().name)
    protos = {name: make(np.random.default_rng(1)) for name, make in NETWORKS.items() if not small or name in FAMILY}
    if not small:
        protos |= {
            f"export {p.parent.name}/{p.stem}": onnx.load(p, load_external_data=False)
            for p in exports()
            if p.stat().st_size <= LARGEST and p.parent.name == "exports"
        }
        protos["sample"] = onnx.load(SAMPLE)
    bases = []
    for k, (name, proto) in enumerate(protos.items()):
        paths = folder / f"{k}.npz", folder / f"{k}.more.npz"
        for path, samples in zip(paths, (SAMPLES, TRAINED), strict=True):
            np.savez(path, **feeds(proto, np.random.default_rng(2), n=samples))
        bases.append(Base(name, proto.SerializeToString(), *paths))
    written = _in_a_child(folder, [base for base in bases if base.name in FAMILY])
    return Corpus(tuple(replace(base, files=written.get(base.name, {})) for base in bases))


def _in_a_child(folder: Path, bases: list[Base]) -> dict[str, dict[str, bytes]]:
    """Write the files in a process of their own: what forks later must not have started onnxruntime."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for base in bases:
                _write(folder / base.name, base)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("the corpus cannot be made")
    return {b.name: {p.name: p.read_bytes() for p in sorted((folder / b.name).iterdir())} for b in bases}


def _write(folder: Path, base: Base) -> None:
    """Let the verbs write what they write about one model, and an analysis and a training stop on their way."""
    from pfa_onnx.cli import main
    from pfa_onnx.steps import resume

    folder.mkdir()
    os.chdir(folder)
    Path("model.onnx").write_bytes(base.content)
    data = ["--data", str(base.data), "--providers", "cpu", "-q"]
    few = ["--allow-few-samples", "--uniform", "0.5"]
    _quietly(main, ["prune", "model.onnx", *data, *few, "-o", "pruned.onnx", "--json", "report.json"])
    _quietly(main, ["analyze", "model.onnx", *data, "--save-stats", "stats.npz"])
    _quietly(main, ["analyze", "model.onnx", *data, "--select", "wanda", "--save-stats", "wanda.npz"], may_fail=True)
    for part in "12":
        _quietly(main, ["analyze", "model.onnx", *data, "--shard", f"{part}/2", "--save-stats", f"part{part}.npz"])
    kept = {name: resume.Checkpoints.__dict__[name] for name in ("due", "done")}
    resume.Checkpoints.due = property(lambda self: True)
    resume.Checkpoints.done = lambda self: None
    _quietly(main, ["analyze", "model.onnx", *data, "-b", "2", "--save-stats", "stop.npz"])
    for name, method in kept.items():
        setattr(resume.Checkpoints, name, method)
    Path("stop.npz").unlink()
    Path("stop.npz.partial").rename("stats.partial")
    _train(main, base)
    Path("model.onnx").unlink()


def _train(main, base: Base) -> None:
    """Keep a training's checkpoint, where PyTorch is there and can run the model."""
    try:
        from pfa_onnx.torch.trainer import Trainer
    except ImportError:
        return
    save, kept = Trainer._save, Path("tuned.partial")

    def saved(trainer) -> None:
        save(trainer)
        kept.write_bytes(trainer.checkpoint.read_bytes())

    Trainer._save = saved
    more = ["--teacher", "model.onnx", "--data", str(base.more), *TRAINING, "-o", "tuned.onnx"]
    _quietly(main, ["finetune", "pruned.onnx", *more], may_fail=True)
    Trainer._save = save


def _quietly(main, argv: list[str], *, may_fail: bool = False) -> None:
    told = StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        code = main(argv)
    if code != 0 and not may_fail:
        raise RuntimeError(f"{' '.join(argv)}: {told.getvalue()}")
