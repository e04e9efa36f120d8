"""Back to training: an ONNX graph as a PyTorch module, and its weights back into the same file.

    import pfa_onnx.torch

    model = pfa_onnx.torch.load("small.onnx")        # a torch.nn.Module, forward equal to onnxruntime
    ...                                              # any training loop
    pfa_onnx.torch.to_onnx(model, "tuned.onnx")      # the same graph, names and metadata, with the new weights

    pfa_onnx.torch.slice_module(network, "small.onnx")   # or: the network's own code, made as small as the file

Needs PyTorch: pip install 'pfa-onnx[torch]'.
"""

from __future__ import annotations

from pfa_onnx.errors import UsageError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise UsageError(
        "PyTorch is not installed", at=f"import {error.name}", fix="pip install 'pfa-onnx[torch]'"
    ) from error

from pfa_onnx.torch.files import to_onnx
from pfa_onnx.torch.module import OnnxModule
from pfa_onnx.torch.module import load_module as load
from pfa_onnx.torch.recipes import slice_module, slice_state_dict
from pfa_onnx.torch.registry import names as operators

__all__ = ["OnnxModule", "load", "operators", "slice_module", "slice_state_dict", "to_onnx"]
