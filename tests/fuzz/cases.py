"""One case: a broken file in a folder of its own, and the command that is to read it. The same seed and number give
the same case."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from fuzz import mutate_files, mutate_graph, mutate_plausible  # noqa: F401 - they register mutations
from fuzz.corpus import TRAINING, Base, Corpus
from fuzz.mutate_bytes import BYTES, spans_of
from fuzz.mutate_model import MODEL, all_tensors, one_of

# how often each target comes; the first is the one that the world sends
TARGETS = {
    "model": 60, "model bytes": 14, "external": 9, "statistics": 5, "checkpoint": 2, "merge": 2, "recipe": 3,
    "embedded": 2, "training": 1, "arrays": 2,
}  # fmt: skip
PLAUSIBLE = 0.4  # of the broken models are not broken as far as anybody sees
VERBS = {"prune": 55, "inspect": 18, "analyze": 10, "check": 12, "finetune": 5}
HOW_MUCH = (("--uniform", "0.5"), ("--kl",), ("--energy", "0.9"), ("--params", "0.7"))
FEW = ("--allow-few-samples", "--providers", "cpu")


@dataclass
class Case:
    """What is run, and on what. written: the files that it may leave when it succeeds."""

    seed: int
    number: int
    target: str
    base: Base
    verb: str
    argv: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    written: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target}: {self.base.name}, {self.verb}, {', '.join(self.done)}"


def make(corpus: Corpus, seed: int, number: int, folder: Path, only: str | None = None) -> Case:
    """Write the files of a case into a folder. only: the one target that is wanted."""
    random = np.random.default_rng((seed, number))
    shares = np.array(list(TARGETS.values())) / sum(TARGETS.values())
    target = str(random.choice(list(TARGETS), p=shares))
    target = only or target
    base = one_of(random, corpus.bases if target in {"model", "model bytes", "external", "arrays"} else corpus.written)
    verb = str(random.choice(list(VERBS), p=np.array(list(VERBS.values())) / sum(VERBS.values())))
    case = Case(seed, number, target, base, verb)
    (folder / "data.npz").write_bytes(base.data.read_bytes())
    (folder / "more.npz").write_bytes(base.more.read_bytes())
    (folder / "model.onnx").write_bytes(base.content)
    {"model": _model, "model bytes": _bytes, "external": _external, "embedded": _embedded, "arrays": _arrays}.get(
        target, _file
    )(case, random, folder)
    return case


def _command(case: Case, random: np.random.Generator, broken: str = "model.onnx") -> None:
    """Say which verb reads the broken model."""
    how = one_of(random, HOW_MUCH)
    data = ("--data", "data.npz")
    case.written = ("report.json",)
    report = ("--json", "report.json")
    if case.verb == "prune":
        more = one_of(random, ((), (), (), ("--repair",), ("--select", "l1"), ("--through-norm",)))
        case.argv = ["prune", broken, *data, *how, *FEW, *more, "-o", "out.onnx", *report]
        case.written = ("out.onnx", "report.json")
    elif case.verb == "inspect":
        case.argv = ["inspect", broken, *report]
    elif case.verb == "analyze":
        case.argv = ["analyze", broken, *data, *FEW, "--save-stats", "stats.npz", *report]
        case.written = ("stats.npz", "report.json")
    elif case.verb == "check":
        models = ("whole.onnx", broken) if random.random() < 0.7 else (broken, "whole.onnx")
        case.argv = ["check", *models, *data, "--no-latency", "--providers", "cpu", *report]
    else:
        models = (broken, "--teacher", "whole.onnx") if random.random() < 0.7 else ("whole.onnx", "--teacher", broken)
        case.argv = ["finetune", *models, "--data", "more.npz", "--any-teacher", *TRAINING, "-o", "out.onnx", *report]
        case.written = ("out.onnx", "report.json")


def _model(case: Case, random: np.random.Generator, folder: Path) -> None:
    model = case.base.proto
    plausible = random.random() < PLAUSIBLE
    some = sorted(n for n, mutate in MODEL.items() if not plausible or mutate.__module__ == mutate_plausible.__name__)
    for _ in range(1 + int(random.random() < 0.35) + int(random.random() < 0.1)):
        _changed(case, random, model, one_of(random, some))
    _write(case, random, folder, model.SerializeToString())


def _changed(case: Case, random: np.random.Generator, model: onnx.ModelProto, name: str) -> None:
    """Apply one mutation, unless what was broken before is in its way."""
    try:
        MODEL[name](random, model)
        case.done.append(name)
    except (ValueError, TypeError, OverflowError, onnx.checker.ValidationError):
        case.done.append(f"{name} (not possible)")


def _bytes(case: Case, random: np.random.Generator, folder: Path) -> None:
    name = one_of(random, sorted(BYTES))
    numbers = [tensor.raw_data for tensor in all_tensors(case.base.proto.graph)]
    content = BYTES[name](random, case.base.content, spans_of(case.base.content, numbers))
    case.done.append(name)
    _write(case, random, folder, content)


def _external(case: Case, random: np.random.Generator, folder: Path) -> None:
    model = case.base.proto
    case.done += mutate_files.external(random, model, folder)
    if random.random() < 0.15:
        _changed(case, random, model, one_of(random, sorted(MODEL)))
    _write(case, random, folder, model.SerializeToString())


def _write(case: Case, random: np.random.Generator, folder: Path, content: bytes) -> None:
    (folder / "whole.onnx").write_bytes(case.base.content)
    (folder / "model.onnx").write_bytes(content)
    _command(case, random)


def _embedded(case: Case, random: np.random.Generator, folder: Path) -> None:
    """The recipe inside a pruned model says something else."""
    model = onnx.load_from_string(case.base.files["pruned.onnx"])
    for item in model.metadata_props:
        if item.key == "pfa_onnx.recipe":
            broken = mutate_files.text(random, item.value.encode())
            item.value = broken[0].decode("utf-8", "replace")
            case.done.append(broken[1])
    case.verb = str(random.choice(["prune", "check", "finetune"]))
    _write(case, random, folder, model.SerializeToString())


def _arrays(case: Case, random: np.random.Generator, folder: Path) -> None:
    """The data is broken."""
    name = "more.npz" if case.verb == "finetune" else "data.npz"
    content, how = mutate_files.archive(random, (folder / name).read_bytes())
    (folder / name).write_bytes(content)
    case.done.append(how)
    _write(case, random, folder, case.base.content)


def _file(case: Case, random: np.random.Generator, folder: Path) -> None:
    """A file that this project wrote is broken; the model is whole."""
    files, target = case.base.files, case.target
    how = one_of(random, HOW_MUCH)
    out = ("-o", "out.onnx", "--json", "report.json")
    case.written = ("out.onnx", "report.json")
    case.verb = target
    if target == "training" and "tuned.partial" not in files:
        target = case.target = "recipe"
    if target == "statistics":
        which = one_of(random, [name for name in ("stats.npz", "wanda.npz") if name in files])
        content, name = mutate_files.archive(random, files[which])
        (folder / which).write_bytes(content)
        more = ("--select", "wanda") if which == "wanda.npz" else ()
        case.argv = ["prune", "model.onnx", "--stats", which, *how, *FEW, *more, *out]
    elif target == "merge":
        content, name = mutate_files.archive(random, files["part1.npz"])
        (folder / "part1.npz").write_bytes(content)
        (folder / "part2.npz").write_bytes(files["part2.npz"])
        case.argv, case.written = ["merge", "part1.npz", "part2.npz", "-o", "all.npz"], ("all.npz",)
    elif target == "checkpoint":
        content, name = mutate_files.archive(random, files["stats.partial"])
        (folder / "stats.npz.partial").write_bytes(content)
        case.argv = ["analyze", "model.onnx", "--data", "data.npz", "-b", "2", *FEW, "--save-stats", "stats.npz", "--resume", *out[2:]]
        case.written = ("stats.npz", "report.json")
    elif target == "training":
        content, name = mutate_files.training(random, files["tuned.partial"])
        (folder / "pruned.onnx").write_bytes(files["pruned.onnx"])
        (folder / "out.onnx.partial").write_bytes(content)
        case.argv = ["finetune", "pruned.onnx", "--teacher", "model.onnx", "--data", "more.npz", *TRAINING, "--resume", *out]
    else:
        content, name = mutate_files.text(random, files["report.json"])
        (folder / "recipe.json").write_bytes(content)
        case.argv = ["prune", "model.onnx", "--recipe", "recipe.json", "--data", "data.npz", "--providers", "cpu", *out]
    case.done.append(name)


def described(case: Case) -> dict[str, object]:
    """What a record keeps of a case."""
    return {"seed": case.seed, "case": case.number, "target": case.target, "base": case.base.name, "verb": case.verb,
            "done": case.done, "command": json.dumps(case.argv)}  # fmt: skip
