"""What other pruners make of the models of export_models.py: onnxsim of the files, Torch-Pruning of the modules.

    pip install torch torchvision timm onnxruntime onnxsim==0.8.1 torch-pruning==1.6.1
    python tests/benchmarks/rivals.py rivals.json zoo/ts zoo/timm                 # files, or folders of them
    python tests/benchmarks/coverage.py zoo/ts zoo/timm --rivals rivals.json      # two more columns

Both are asked for half of the channels, as their documentation does it: `apply_structured_pruning(model, 0.5)` of
the simplified file; `MagnitudePruner` with `MagnitudeImportance(p=2)`, the layers of the model's outputs ignored,
`num_heads` of fused attention given and set right afterwards. Every run is a process of its own with a limit on
processor time. What is in the JSON file already is skipped. For each model and rival:

- outcome: "ok", or why there is no pruned model that runs
- channels: output channels of layers that were shrunk, and of all layers but the outputs'
- left: share of the parameters left
- error: the largest difference to the masked original, relative to its largest output, as coverage.py has it: every
  slice that was removed from a parameter is zero in a copy of the original. null: which slices is not certain.

Torch-Pruning cuts the residual stream of LayerNorm models, which no masked original equals: the mean and variance
over the channels change. That is meant to be fine-tuned away, but it is not exact, and shows as an error.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import export_models
import numpy as np

RATIO = 0.5
ENTRIES = {e.save_as or e.name: e for entries in export_models.FAMILIES.values() for e in entries}
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


# --- Torch-Pruning ------------------------------------------------------------------------------------------


def torch_pruning(path: Path) -> dict[str, Any]:
    """Prune the module that the file was exported from."""
    import torch
    import torch_pruning as tp
    from torch import nn

    torch.set_num_threads(1)
    entry = ENTRIES[path.stem]
    model = export_models.build(entry)
    example = export_models.example_of(entry)
    original = copy.deepcopy(model)
    answers, used = _running(model, example)
    ends = {int(answer.shape[1]) for answer in answers if answer.ndim > 1}
    ignored = [
        m
        for m in model.modules()
        if (isinstance(m, nn.Linear) and m.out_features in ends)
        or (isinstance(m, nn.modules.conv._ConvNd) and m.out_channels in ends)
    ]
    heads = {
        m.qkv: m.num_heads
        for m in model.modules()
        if hasattr(m, "num_heads") and isinstance(getattr(m, "qkv", None), nn.Linear)
    }
    before, count = _widths(model, used, ignored), _count(model, used)
    _remember_what_is_kept(tp.pruner.function.BasePruningFunc)
    pruner = tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=ignored,
        num_heads=heads,
    )
    pruner.step()
    _adapt_sizes(model, pruner)
    with torch.no_grad():
        pruned = _tensors(model(*example))
    after = _widths(model, used, ignored)
    return {
        "channels": [sum(n for name, n in before.items() if after[name] < n), sum(before.values())],
        "left": _count(model, used) / count,
        "error": _error(_tensors(original(*example)), pruned) if _mask(original, model) else None,
    }


def _tensors(answer: Any) -> list[Any]:
    return [answer] if hasattr(answer, "shape") else list(answer)


def _running(model: Any, example: tuple[Any, ...]) -> tuple[list[Any], set[str]]:
    """Return what the model answers, and the modules that take part: heads for training do not."""
    import torch

    ran: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, m in model.named_modules()]
    with torch.no_grad():
        answers = _tensors(model(*example))
    for hook in hooks:
        hook.remove()
    # some layers are not called: what runs reads their weights
    return answers, {name for name, _ in model.named_modules() if {name, name.rpartition(".")[0]} & ran}


def _widths(model: Any, used: set[str], ignored: list[Any]) -> dict[str, int]:
    """Return how many output channels each layer has, the outputs' apart."""
    from torch import nn

    found = {}
    for name, module in model.named_modules():
        if module in ignored or name not in used:
            continue
        if isinstance(module, nn.Linear):
            found[name] = module.weight.shape[0]
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[name] = module.weight.shape[1] * module.groups if module.transposed else module.weight.shape[0]
        elif isinstance(module, nn.MultiheadAttention):
            found[f"{name}.in_proj"] = 3 * module.embed_dim
    return found


def _count(model: Any, used: set[str]) -> int:
    return sum(p.numel() for name, m in model.named_modules() if name in used for p in m.parameters(recurse=False))


def _remember_what_is_kept(base: Any) -> None:
    """Make every parameter that Torch-Pruning cuts know which of its original slices are left, by axis."""
    cut = base._prune_parameter_and_grad

    def remembering(self: Any, weight: Any, keep_idxs: list[int], pruning_dim: int) -> Any:
        result = cut(self, weight, keep_idxs, pruning_dim)
        kept = dict(getattr(weight, "_kept", {}))
        axis = pruning_dim % weight.ndim
        kept[axis] = np.asarray(kept.get(axis, range(weight.shape[axis])))[keep_idxs]
        result._kept = kept
        return result

    base._prune_parameter_and_grad = remembering


def _adapt_sizes(model: Any, pruner: Any) -> None:
    """Correct the sizes that modules remember, as Torch-Pruning's examples do."""
    from torchvision.models import VisionTransformer

    for module in model.modules():
        if isinstance(module, VisionTransformer):
            module.hidden_dim = module.conv_proj.out_channels
        qkv = getattr(module, "qkv", None)
        if qkv in pruner.num_heads:
            module.num_heads = pruner.num_heads[qkv]
            module.head_dim = qkv.out_features // (3 * module.num_heads)
            if hasattr(module, "attn_dim"):
                module.attn_dim = module.num_heads * module.head_dim


def _mask(original: Any, pruned: Any) -> bool:
    """Zero what was removed; False where it is not known."""
    import torch

    cut = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            kept = getattr(cut[name], "_kept", {})
            left = torch.ones_like(parameter, dtype=torch.bool)
            for axis, indices in kept.items():
                gone = np.setdiff1d(np.arange(parameter.shape[axis]), indices)
                left.index_fill_(axis, torch.from_numpy(gone), 0)
            if int(left.sum()) != cut[name].numel():
                return False
            parameter.mul_(left)
    return True


# --- onnxsim ------------------------------------------------------------------------------------------------


def onnxsim(path: Path) -> dict[str, Any]:
    """Prune the file."""
    import onnx
    import onnxsim as rival
    from onnxsim.pruning import apply_structured_pruning

    original = onnx.load(path)
    simplified = rival.simplify(original)[0]
    pruned = apply_structured_pruning(copy.deepcopy(simplified), RATIO)
    before, after = _weights(simplified), _weights(pruned)
    feeds = _feeds(simplified)
    answers = _run(pruned, feeds)
    ends = {answer.shape[1] for answer in answers if answer.ndim > 1}
    widths = {name: n for name, n in _onnx_widths(simplified, before) if n not in ends}
    cut = dict(_onnx_widths(pruned, after))
    masked = _onnx_mask(simplified, before, after)
    return {
        "channels": [sum(n for name, n in widths.items() if cut.get(name, n) < n), sum(widths.values())],
        "left": _parameters(pruned) / _parameters(original),
        "error": _error(_run(simplified, feeds), answers) if masked else None,
    }


def _weights(model: Any) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _parameters(model: Any) -> int:
    floats = (1, 10, 11, 16)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in floats and len(t.dims))


def _onnx_widths(model: Any, weights: dict[str, np.ndarray]) -> Iterator[tuple[str, int]]:
    """Yield each layer's output and how many channels that has."""
    for node in model.graph.node:
        weight = next((weights[name] for name in node.input[1:2] if name in weights), None)
        if node.op_type not in _LAYERS or weight is None or weight.ndim < 2:
            continue
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "ConvTranspose":
            yield node.output[0], weight.shape[1] * attributes.get("group", 1)
        elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB")):
            yield node.output[0], weight.shape[-1]
        else:
            yield node.output[0], weight.shape[0]


def _onnx_mask(simplified: Any, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> bool:
    """Zero what was removed; False where it is not certain. Random weights tell their slices apart."""
    from onnx import numpy_helper

    if before.keys() != after.keys():
        return False
    cut = [
        t
        for t in simplified.graph.initializer
        if before[t.name].dtype.kind == "f" and before[t.name].shape != after[t.name].shape
    ]
    known: list[np.ndarray] = []
    for tensor in sorted(cut, key=lambda t: -len(t.dims)):  # equal values in a bias: as the weights were cut
        whole, left = before[tensor.name], after[tensor.name]
        kept = _kept(whole, left, known)
        if kept is None:
            return False
        known += kept
        masked = np.zeros_like(whole)
        masked[np.ix_(*kept)] = left
        tensor.CopyFrom(numpy_helper.from_array(masked, tensor.name))
    return True


def _kept(whole: np.ndarray, cut: np.ndarray, known: list[np.ndarray]) -> list[np.ndarray] | None:
    """Return which slices of `whole` are in `cut`, by axis; None when values do not tell."""
    if whole.ndim != cut.ndim:
        return None
    flat = whole.ravel()
    order = np.argsort(flat, kind="stable")
    kept = []
    for axis in range(whole.ndim):
        probes = np.moveaxis(cut, axis, 0).reshape(cut.shape[axis], -1)[:, :16]
        first = np.searchsorted(flat, probes, sorter=order)
        last = np.searchsorted(flat, probes, side="right", sorter=order)
        found = []
        for i, j in zip(first, last, strict=True):
            # a value may stand in several places; most of a slice's values stand in the right one
            places = (np.unravel_index(order[a:b], whole.shape)[axis] for a, b in zip(i, j, strict=True))
            votes = Counter(at for several in places for at in set(several.tolist())).most_common(2)
            if not votes:
                return None
            found.append(-1 if len(votes) == 2 and votes[0][1] == votes[1][1] else votes[0][0])
        kept.append(np.array(found))
        if -1 in found:
            fitting = {k.tobytes(): k for k in known if len(k) == len(found) and (k == kept[-1])[kept[-1] >= 0].all()}
            if len(fitting) != 1:
                return None
            kept[-1] = next(iter(fitting.values()))
    return kept if np.array_equal(whole[np.ix_(*kept)], cut) else None


def _feeds(model: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model.graph.input:
        shape = [d.dim_value or 2 for d in spec.type.tensor_type.shape.dim]
        feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def _run(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# --- both ---------------------------------------------------------------------------------------------------


def _error(expected: list[Any], got: list[Any]) -> float:
    """Return the largest difference, relative to the largest value, over all outputs; infinite if shapes differ."""
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in (one, other))
        if a.shape != b.shape or not np.isfinite(b).all():
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-30)))
    return worst


RIVALS: dict[str, Callable[[Path], dict[str, Any]]] = {"onnxsim": onnxsim, "Torch-Pruning": torch_pruning}


def _alone(path: Path, rival: str, seconds: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "-", str(path), "--one", rival, "--seconds", str(seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TIMM_FUSED_ATTN": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = done.stdout.strip().splitlines()
    if lines and lines[-1].startswith("{"):
        return json.loads(lines[-1])
    late = done.returncode == -signal.SIGXCPU
    return {"outcome": f"more than {seconds} s" if late else f"exit code {done.returncode}"}


def _one(path: Path, rival: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    try:
        return {"outcome": "ok"} | RIVALS[rival](path)
    except Exception as error:  # noqa: BLE001 - told in one line
        text = next(iter(str(error).strip().splitlines()), "")
        return {"outcome": f"{type(error).__name__}: {' '.join(text.split())[:160]}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a JSON file, added to")
    parser.add_argument("paths", nargs="+", type=Path, help=".onnx files that export_models.py made, or folders")
    parser.add_argument("--only", choices=RIVALS, help="one of the two")
    parser.add_argument("--seconds", type=int, default=120, help="processor time for one model and rival")
    parser.add_argument("--one", choices=RIVALS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        resource.setrlimit(resource.RLIMIT_CPU, (options.seconds, options.seconds + 5))
        print(json.dumps(_one(options.paths[0], options.one)))
        return
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    for path in [f for p in options.paths for f in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]:
        found = results.setdefault(path.stem, {})
        for rival in [options.only] if options.only else RIVALS:
            if rival not in found:
                found[rival] = _alone(path, rival, options.seconds)
                print(json.dumps({"model": path.stem, "rival": rival} | found[rival]), flush=True)
                options.results.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
