"""What is wrong with the installed onnxruntime, and what it can really start: for `pfa-onnx doctor`.

Every onnxruntime package unpacks into the same folder: installed together they overwrite each other, and
removing one breaks the other. pip does not notice.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from pfa_onnx.errors import PfaError
from pfa_onnx.stats.session import Providers, Runner, load_runtime

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-training",
)


def runtime_conflict() -> str | None:
    """Return what is wrong with the installation and how to repair it, or None."""
    found = _installed()
    if len(found) > 1:
        names = " ".join(found)
        return f"{' and '.join(found)} overwrite each other; pip uninstall {names}, then pip install one of them"
    if not found:
        return "no onnxruntime is installed; pip install onnxruntime, or onnxruntime-gpu for NVIDIA"
    try:
        load_runtime()
    except PfaError as error:
        name = next(iter(found))
        return f"{error.what}; pip uninstall {name}, then pip install {name}"
    return None


def runtime_report() -> dict[str, Any]:
    """Return the package, its version, the providers that start here, and the CUDA it was built for, or None."""
    found = _installed()
    report: dict[str, Any] = {
        "distribution": " + ".join(found) or None,
        "version": " + ".join(found.values()) or None,
        "providers": [],
        "cuda": None,
        "cuda_problem": None,
    }
    try:
        report["cuda"] = getattr(load_runtime(), "cuda_version", None) or None
        tiny = _tiny_model()
    except PfaError:
        return report
    choices: tuple[Providers, ...] = ("cuda", "cpu")
    for choice in choices:
        try:
            report["providers"].append(Runner(tiny, providers=choice).provider)
        except PfaError as error:
            report[f"{choice}_problem"] = error.what
    return report


def _installed() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _tiny_model() -> bytes:
    """Return a model of one Add, which every provider can run."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", one[:1], one[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    return bytes(model.SerializeToString())
