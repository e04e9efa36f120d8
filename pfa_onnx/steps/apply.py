"""Step 3: cut, prove, write. Nothing is written unless the proof holds, and never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from pfa_onnx import __version__
from pfa_onnx.errors import InternalError, ModelError, ProofError, UsageError
from pfa_onnx.graph.cut import cut
from pfa_onnx.graph.edits import Edits
from pfa_onnx.graph.masking import masked
from pfa_onnx.graph.model import EMBED_LIMIT, Graph, load
from pfa_onnx.recipe import Proof
from pfa_onnx.stats.compare import relative_error
from pfa_onnx.stats.session import Providers, Runner, fixed_batch
from pfa_onnx.steps.decide import Decision
from pfa_onnx.steps.serialized import runnable

Array = npt.NDArray[Any]

METADATA_KEY = "pfa_onnx.recipe"
# Rounding, relative to the output's scale: sums are taken in another order after a cut.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float": 1e-4}


def cut_copy(graph: Graph, edits: Edits) -> Graph:
    """Read the model again and cut the copy; the original graph stays as it is."""
    assert graph.path is not None
    fresh = load(graph.path)
    if fresh.sha256 != graph.sha256:
        raise ModelError("the model changed while it was being analysed", at=str(graph.path), fix="run again")
    cut(fresh, edits)
    return Graph(fresh.model, graph.path, graph.sha256)


def prove(graph: Graph, small: Graph, edits: Edits, inputs: Mapping[str, Array], providers: Providers) -> Proof:
    """Run the masked original and the cut model on the same samples (masked equivalence).

    Raises ProofError when their outputs differ by more than rounding.
    """
    with runnable(masked(graph, edits), graph) as model:
        reference = Runner(model, providers=providers, external_dir=graph.directory)
    with runnable(ir.to_proto(small.model), graph) as model:
        try:
            pruned = Runner(model, providers=providers, external_dir=graph.directory)
        except ModelError as error:
            raise InternalError(
                f"the cut model does not load: {error.what}", at=str(graph.path), fix=_REPORT_BUG
            ) from error
    count = fixed_batch(graph.inputs)
    samples = min(len(array) for array in inputs.values()) if inputs else 0
    errors: dict[str, float] = {}
    worst, limit = 0.0, max((_TOLERANCE.get(d, 0.0) for d in _weight_types(graph)), default=0.0) or 1e-4
    # a product of activations may have the batch folded into an axis of its heads: as in the traced run, then
    step = count or (1 if edits.sums or edits.narrowed else max(samples, 1))
    for start in range(0, max(samples, 1), step):
        feeds = {name: _block(array, start, step) for name, array in inputs.items()}
        before, after = reference.run(feeds), pruned.run(feeds)
        for name in before:
            errors[name] = max(errors.get(name, 0.0), _difference(before[name], after[name]))
            worst = max(worst, errors[name])
    proof = Proof(worst, samples, worst <= limit, errors)
    if not proof.passed:
        output = max(errors, key=lambda name: errors[name])
        raise ProofError(
            f"the cut model differs from the masked original by {worst:.3g} of the output's scale (limit {limit:g}); "
            "nothing was written",
            at=f"output '{output}'",
            fix=_REPORT_BUG,
        )
    return proof


_REPORT_BUG = "this is a bug in pfa-onnx: please report it with the model"


def _weight_types(graph: Graph) -> set[str]:
    return {
        v.const_value.dtype.name.lower() for v in graph.model.graph.initializers.values() if v.const_value is not None
    }


def _block(array: Array, start: int, count: int) -> Array:
    """Return `count` samples from `start`; the last one is repeated where there are fewer."""
    block = array[start : start + count]
    return np.concatenate([block, np.repeat(block[-1:], count - len(block), axis=0)]) if len(block) < count else block


def _difference(before: Any, after: Any) -> float:
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        return 0.0 if repr(before) == repr(after) else float("inf")
    if before.shape != after.shape:
        return float("inf")
    if before.dtype.kind in "biu":  # class numbers and the like: ties may fall either way, a share of them
        return 0.0 if np.array_equal(before, after) else _flipped(before, after)
    return relative_error(before, after) if before.dtype.kind == "f" else float(not np.array_equal(before, after))


def _flipped(before: Array, after: Array) -> float:
    return float(np.mean(before != after))


def embed_recipe(small: Graph, decision: Decision, original_sha256: str, *, redrawn: int | None = None) -> None:
    """Store the recipe in the model's metadata: enough to cut the same channels elsewhere.

    redrawn: the seed by which all weights were drawn anew, if they were.
    """
    keep = {
        t.layer.output: {
            "channels": t.layer.channels,
            "keep": np.flatnonzero(decision.keep[t.layer.labels]).tolist(),
            "node": t.layer.node,
            "weight": t.layer.weight,
        }
        for t in decision.trace.layers
    }
    method = {k: v for k, v in vars(decision.method).items() if v is not None}
    content: dict[str, Any] = {
        "layers": keep,
        "method": method,
        "original_sha256": original_sha256,
        "schema": 1,
        "version": __version__,
    }
    if decision.trace.through_norm:
        content["through_norm"] = True
    if redrawn is not None:
        content["redrawn"] = redrawn
    small.model.metadata_props[METADATA_KEY] = json.dumps(content, sort_keys=True, separators=(",", ":"))


def serialized(small: Graph) -> onnx.ModelProto:
    """Return the cut model as it will be written: weights inside the file where they fit."""
    proto = ir.to_proto(small.model)
    if small.directory is not None and _total(small) < EMBED_LIMIT:
        onnx.load_external_data_for_model(proto, str(small.directory))
    return proto


def _total(small: Graph) -> int:
    return sum(v.const_value.nbytes for v in small.model.graph.initializers.values() if v.const_value is not None)


def model_bytes(small: Graph) -> int:
    """Return how many bytes the cut model takes."""
    return _total(small) if _total(small) >= EMBED_LIMIT else serialized(small).ByteSize()


def check_target(output: Path, model: Path) -> None:
    """Refuse, before any work is done, an output that cannot or must not be written; raises UsageError."""
    if output.exists() and (output.samefile(model) or output.is_dir()):
        what = "is a folder" if output.is_dir() else "is the model itself"
        raise UsageError(f"the output {what}: {output}", at="--output", fix="choose another file")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", at="--output", fix=f"mkdir -p {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"cannot write into {output.parent}", at="--output", fix="choose another folder")


def write(small: Graph, output: Path) -> int:
    """Write the model: at any moment there is the old file or the new one. Returns its bytes on disk."""
    if _total(small) >= EMBED_LIMIT:
        return _write_external(small, output)
    content = serialized(small).SerializeToString(deterministic=True)
    _replace(output, content)
    return len(content)


def _write_external(small: Graph, output: Path) -> int:
    """Protobuf cannot hold it: the weights lie beside the model, under a name that changes with them."""
    digest = hashlib.sha256(str(sorted(small.model.metadata_props.items())).encode()).hexdigest()
    data = output.with_name(f"{output.name}.{digest[:8]}.data")
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        temporary = Path(folder) / output.name
        ir.save(small.model, temporary, external_data=data.name)
        size = temporary.stat().st_size + (Path(folder) / data.name).stat().st_size
        (Path(folder) / data.name).replace(data)
        temporary.replace(output)
    return size


def _replace(path: Path, content: bytes) -> None:
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        fix = "free some space, or choose another folder"
        raise UsageError(f"cannot write the model: {error.strerror}", at=str(path), fix=fix) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
