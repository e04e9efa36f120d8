"""Trained weights back into the file that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.graph.constants import replace_constant
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.steps.apply import check_target, write
from pfa_onnx.torch.module import OnnxModule


def to_onnx(module: OnnxModule, output: str | Path) -> Path:
    """Write the file that the module was read from with the weights that it has now; nothing else changes.

    Raises ModelError when that file has changed since, and UsageError when `output` is that file or cannot be written.
    """
    assert module.path is not None
    output = Path(output)
    check_target(output, module.path)
    write(with_weights(module, module.state_dict()), output)
    return output


def with_weights(module: OnnxModule, state: Mapping[str, torch.Tensor]) -> Graph:
    """Return the graph that the module was made of, with other weights.

    state: as `module.state_dict()`. Raises ModelError when the file has changed, or a weight is not finite.
    """
    assert module.path is not None
    graph = load(module.path)
    if graph.sha256 != module.sha256:
        raise ModelError("the model changed while it was being trained", at=str(module.path), fix="train again")
    refuse_not_finite(state, fix="train with a lower rate")
    values = graph.constants
    for name, tensor in state.items():
        value = values.get(name)
        if value is None:
            raise UsageError(f"the model has no constant {name!r}", at=str(module.path), fix="leave it out")
        replace_constant(graph, value, np.asarray(tensor.detach().cpu().numpy()))
    return graph


def refuse_not_finite(state: Mapping[str, torch.Tensor], fix: str) -> None:
    """Raise ModelError for a weight that is infinite or not a number."""
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError("a weight is not finite", at=name, fix=fix)
