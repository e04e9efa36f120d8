"""What tests of PyTorch modules share: run a small model by onnxruntime and by `pfa_onnx.torch`, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import pfa_onnx.torch


def same(model: onnx.ModelProto, feeds: Mapping[str, Any], *, atol: float = 1e-5) -> None:
    """All outputs agree: shape, kind of elements, and values, whole numbers exactly.

    The module computes half precision in float32, so the number of bits is not compared.
    """
    session = _session(model)
    expected = session.run(None, dict(feeds))
    found = module_of(model)(**feeds)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for output, want, tensor in zip(session.get_outputs(), expected, found, strict=True):
        compare(output.name, want, tensor, atol)


def module_of(model: onnx.ModelProto) -> pfa_onnx.torch.OnnxModule:
    """The model as a module."""
    with tempfile.TemporaryDirectory(prefix="pfa-onnx-torch-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return pfa_onnx.torch.load(path)


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(name: str, want: Any, found: Any, atol: float) -> None:
    """One output agrees; a sequence agrees tensor by tensor."""
    if isinstance(want, list):
        assert isinstance(found, list), name
        assert len(found) == len(want), name
        for index, (one, other) in enumerate(zip(want, found, strict=True)):
            compare(f"{name}[{index}]", one, other, atol)
        return
    array = found.detach().cpu().numpy()
    assert array.shape == want.shape, f"{name}: {array.shape} instead of {want.shape}"
    kinds = {"u": "i"}  # torch has no uint16 and uint32 worth the name
    assert kinds.get(array.dtype.kind, array.dtype.kind) == kinds.get(want.dtype.kind, want.dtype.kind), name
    if want.dtype.kind == "f":
        np.testing.assert_allclose(array, want.astype(np.float64), atol=atol, rtol=atol, err_msg=name)
    else:
        np.testing.assert_array_equal(array, want, err_msg=name)


def operator_model(
    op: str,
    operands: Sequence[Any],
    *,
    opset: int,
    outputs: int = 1,
    fixed: Collection[int] = (),
    domain: str = "",
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model of one node, and what to feed it. operands: arrays, None for one that is left out.

    fixed: the positions of the operands that are initializers.
    """
    arrays = {f"x{k}": np.asarray(a) for k, a in enumerate(operands) if a is not None}
    names = ["" if a is None else f"x{k}" for k, a in enumerate(operands)]
    stored = {f"x{k}" for k in fixed}
    kind = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, [f"y{k}" for k in range(outputs)], domain=domain, **attributes)],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, kind(a.dtype), a.shape)
            for name, a in arrays.items()
            if name not in stored
        ],
        [onnx.ValueInfoProto(name=f"y{k}") for k in range(outputs)],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items() if name in stored],
    )
    versions = [onnx.helper.make_opsetid("", opset)]
    versions += [onnx.helper.make_opsetid(domain, 1)] if domain else []
    ir_version = 8 if opset < 19 else 9 if opset < 21 else 10
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=ir_version)
    return model, {name: a for name, a in arrays.items() if name not in stored}


@dataclass(frozen=True)
class Row:
    """One line of a table: an operator, the version of its set, its operands and its attributes."""

    op: str
    opset: int
    operands: Sequence[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __str__(self) -> str:
        attributes = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.op}-{self.opset}-{attributes}".replace(" ", "")

    def model(self, *, fixed: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """Build it. fixed: all operands but the first are initializers."""
        positions = [k for k, a in enumerate(self.operands) if k and a is not None] if fixed else []
        return operator_model(
            self.op, self.operands, opset=self.opset, outputs=self.outputs, fixed=positions, **self.attributes
        )


def each_way(rows: Sequence[Row]) -> list[Any]:
    """Parameters (row, fixed): every row with computed operands, and with constant ones if there are any."""
    return [
        pytest.param(row, fixed, id=f"{row}-{'constant' if fixed else 'fed'}")
        for row in rows
        for fixed in ((False, True) if sum(a is not None for a in row.operands) > 1 else (False,))
    ]


def gradient(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Any:
    """The derivative of the sum of the first output's squares by the first input."""
    given = {name: torch.from_numpy(np.array(a)) for name, a in feeds.items()}
    first = given[next(iter(given))].requires_grad_()
    made = module_of(model)(**given)
    (made[0] if isinstance(made, tuple) else made).square().sum().backward()
    return first.grad.numpy()


def has_slope(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    """The derivative is not nought, and is what onnxruntime's numbers rise by, in some direction."""
    found, name, session = gradient(model, feeds), next(iter(feeds)), _session(model)
    step = np.random.default_rng(0).normal(0, 1e-2, found.shape).astype(np.float32)
    ends = [session.run(None, {**feeds, name: feeds[name] + sign * step})[0] for sign in (1, -1)]
    rise = np.subtract(*(np.square(end.astype(np.float64)).sum() for end in ends)) / 2
    assert np.abs(found).sum() > 0
    assert float((found * step).sum()) == pytest.approx(rise, rel=1e-2, abs=1e-2)


def runs_elsewhere(row: Row, *, fixed: bool) -> None:
    """The node runs where its first operand is on a device whose memory Python cannot read, with the same shapes.

    Torch's device "meta" has no memory at all: to read a size from it fails, as it is slow on an accelerator.
    """
    model, feeds = row.model(fixed=fixed)
    module = module_of(model)
    expected = module(**feeds)
    moved = module.to("meta")
    values = {**module._host, **moved._buffers, **moved._parameters}
    values |= {name: torch.from_numpy(np.array(a)) for name, a in feeds.items()}
    values["x0"] = values["x0"].to("meta")
    (step,) = module._steps
    module._run(step, values)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for name, want in zip(step.writes, expected, strict=True):
        assert values[name].device.type == "meta"
        assert values[name].shape == want.shape
        assert values[name].dtype == want.dtype
