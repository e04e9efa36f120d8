"""What other pruners make of the same networks: onnxsim of the file, Torch-Pruning of the module.

Each is called as its documentation calls it, with one number that is tuned until as many parameters are left as a
recipe of ours leaves; none of them is trained afterwards.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 256  # the finest share of channels that is tried is one of so many


def onnxsim(path: Path, ratio: float, output: Path) -> None:
    """Remove the filters of smallest norm of the simplified file; batch normalisations get folded."""
    import onnx
    from onnxsim.pruning import apply_structured_pruning

    onnx.save(apply_structured_pruning(copy.deepcopy(_simplified(path)), ratio), output)


def onnxsim_wanda(path: Path, ratio: float, output: Path) -> None:
    """Remove the filters whose norm times the norm of their responses is smallest."""
    import onnx
    from onnxsim.pruning import apply_structured_wanda_pruning

    model = copy.deepcopy(_simplified(path))
    samples = [{model.graph.input[0].name: np.load(path.parent / "calibration.npy")[:1000]}]
    onnx.save(apply_structured_wanda_pruning(model, samples, sparsity=ratio), output)


def torch_pruning(
    path: Path, ratio: float, output: Path, *, everywhere: bool = False, measure_again: bool = False
) -> None:
    """Remove groups of filters of smallest norm, the same share everywhere, or the smallest of all layers.

    measure_again: the statistics of batch normalisations become those of the pruned network on the calibration images.
    """
    import networks
    import torch
    import torch_pruning as tp
    import train
    from torch import nn

    torch.set_num_threads(1)
    model = networks.build(path.stem)
    model.load_state_dict(torch.load(path.with_suffix(".pt")))
    example = np.load(path.parent / "test_x.npy", mmap_mode="r")[:2].copy()
    layers = [m for m in model.eval().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    pruner = tp.pruner.MagnitudePruner(
        model,
        torch.from_numpy(example),
        importance=tp.importance.MagnitudeImportance(p=2),
        global_pruning=everywhere,
        pruning_ratio=ratio,
        ignored_layers=layers[-1:],
    )
    pruner.step()
    if measure_again:
        _measure_again(model, np.load(path.parent / "calibration.npy"))
    train.export(model, output, example, keep=True)


def torch_pruning_everywhere(path: Path, ratio: float, output: Path) -> None:
    """Rank the groups of all layers together."""
    torch_pruning(path, ratio, output, everywhere=True)


def torch_pruning_measured(path: Path, ratio: float, output: Path) -> None:
    """Do so, and measure the statistics of batch normalisations again, which needs no labels either."""
    torch_pruning(path, ratio, output, everywhere=True, measure_again=True)


def _measure_again(model: Any, images: np.ndarray) -> None:
    import torch
    from torch import nn

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for k in range(0, len(images) - 249, 250):
            model(torch.from_numpy(images[k : k + 250]))
    model.eval()


Make = Callable[[Path, float, Path], None]

# name -> the package, what makes the file, what makes one of the same size faster
OTHERS: dict[str, tuple[str, Make, Make]] = {
    "onnxsim": ("onnxsim", onnxsim, onnxsim),
    "onnxsim, Wanda": ("onnxsim", onnxsim_wanda, onnxsim_wanda),
    "Torch-Pruning": ("torch_pruning", torch_pruning, torch_pruning),
    "Torch-Pruning, global": ("torch_pruning", torch_pruning_everywhere, torch_pruning_everywhere),
    "Torch-Pruning, global, BN anew": ("torch_pruning", torch_pruning_measured, torch_pruning_everywhere),
}


def installed() -> list[str]:
    """Return the pruners that can be imported."""
    return [name for name, (module, *_) in OTHERS.items() if importlib.util.find_spec(module)]


class Tuned:
    """One pruner on one network, tuned to footprints."""

    def __init__(self, name: str, path: Path, folder: Path, params: Callable[[Path], int]) -> None:
        _, self._make, self._try = OTHERS[name]
        self._path, self._folder, self._params = path, folder, params
        self._name = name.replace(" ", "_").replace(",", "").lower()
        self._whole = params(path)
        self._left = cache(self._measure)

    def at(self, footprint: float) -> tuple[Path, float] | None:
        """Return the file whose share of parameters left is nearest to a footprint, and its share."""
        low, high = 0, STEPS - 1  # more steps leave less
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._left(middle) > footprint else (low, middle)
        best = min((low, high), key=lambda k: abs(self._left(k) - footprint))
        if not np.isfinite(self._left(best)):
            return None
        if self._make is not self._try:
            self._make(self._path, best / STEPS, self._file(best))
        return self._file(best), self._left(best)

    def _measure(self, step: int) -> float:
        path = self._file(step)
        try:
            self._try(self._path, step / STEPS, path)
            return self._params(path) / self._whole
        except Exception:  # noqa: BLE001 - some refuse to remove nearly everything
            return float("-inf")

    def _file(self, step: int) -> Path:
        return self._folder / f"{self._path.stem}.{self._name}.{step}.onnx"


@cache
def _simplified(path: Path) -> object:
    import onnx
    import onnxsim as simplifier

    return simplifier.simplify(onnx.load(path))[0]
