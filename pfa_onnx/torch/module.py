"""An ONNX graph as a PyTorch module: the same names, the same numbers, trainable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from pfa_onnx.errors import ModelError, UsageError, is_out_of_memory
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.torch import registry
from pfa_onnx.torch.dtypes import tensor_of
from pfa_onnx.torch.registry import Function, Node, Untrainable
from pfa_onnx.torch.weights import Weights, find_weights


@dataclass(frozen=True)
class Step:
    """One node, ready to run. name: of the node, or of its first output; host: operands that stay in host memory."""

    run: Function
    reads: tuple[str | None, ...]
    writes: tuple[str, ...]
    name: str
    host: tuple[int, ...]
    modal: bool


class OnnxModule(nn.Module):
    """A graph's nodes, run one after the other.

    `state_dict()` has the graph's own initializers: weights as parameters, running means and variances of
    BatchNormalization as buffers, under the names that they have in the file, so that it goes back there
    (`pfa_onnx.torch.to_onnx`). In evaluation mode it computes what onnxruntime computes; in training mode
    BatchNormalization uses the batch and Dropout drops. Weights of half precision are kept in float32.

    Call it with the inputs in the graph's order, or by name. It returns the output, or a tuple if there are several.
    path, sha256: the file that it was made of. input_names, output_names: of the graph.
    Raises ModelError that lists every node that cannot be trained, see `pfa_onnx.torch.operators`.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.path: Path | None = graph.path
        self.sha256 = graph.sha256
        self.input_names = tuple(spec.name for spec in graph.inputs)
        self.output_names = graph.outputs
        weights = find_weights(graph)
        self._steps = tuple(_steps(graph, weights))
        self._fill(graph, weights)
        self._plans: dict[tuple[str, ...], list[tuple[Step, tuple[str, ...]]]] = {}
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the outputs. inputs: tensors (or numpy arrays) [N, ...], as the ONNX model takes them."""
        if len(inputs) + len(named) != len(self.input_names):
            names = ", ".join(self.input_names)
            what = f"{len(inputs) + len(named)} inputs were given"
            raise UsageError(what, at=f"{type(self).__name__}(...)", fix=f"give {names}")
        feeds = dict(zip(self.input_names, inputs, strict=False)) | named
        found = self.compute(feeds, self.output_names)
        answers = tuple(found[name] for name in self.output_names)
        return answers[0] if len(answers) == 1 else answers

    def compute(self, feeds: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Tensor]:
        """Return tensors of the graph by name, whether they are outputs or lie in between."""
        values = self._values(feeds)
        for step, done in self._plan(tuple(wanted)):
            self._run(step, values)
            for name in done:
                del values[name]
        return {name: values[name] for name in wanted}

    def makes(self, name: str) -> bool:
        """Tell whether a node makes a tensor of this name."""
        return any(name in step.writes for step in self._steps)

    def get_parameter(self, target: str) -> nn.Parameter:
        """Return a weight by the name that it has in the file."""
        found = self._parameters.get(target)
        return found if found is not None else super().get_parameter(target)

    def first_not_finite(self, feeds: Mapping[str, Any]) -> str | None:
        """Return the name of the first node that makes something infinite or not a number, or None."""
        values = self._values(feeds)
        with torch.no_grad():
            for step, _ in self._plan(self.output_names):
                self._run(step, values)
                for name in step.writes:
                    made = values.get(name)
                    if isinstance(made, Tensor) and made.is_floating_point() and not torch.isfinite(made).all():
                        return step.name
        return None

    # --- running ------------------------------------------------------------------------------------------

    def _values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {**self._host, **self._buffers, **self._parameters}
        device = next((p.device for p in self._parameters.values() if p is not None), torch.device("cpu"))
        for name in self.input_names:
            given = feeds[name]
            tensor = given if isinstance(given, Tensor) else tensor_of(given)
            values[name] = (tensor.float() if tensor.dtype in _HALF else tensor).to(device)
        return values

    def _run(self, step: Step, values: dict[str, Any]) -> None:
        operands = [None if name is None else values[name] for name in step.reads]
        if any(isinstance(o, Tensor) and o.device.type != "cpu" for o in operands):
            operands = list(_gathered(operands, step.host))
        try:
            made = step.run(*operands, training=self.training) if step.modal else step.run(*operands)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise _uncomputed(step, operands, error) from error
        if len(step.writes) == 1 and not isinstance(made, tuple):
            values[step.writes[0]] = made
        else:
            values.update(zip(step.writes, made, strict=False))

    def _plan(self, wanted: tuple[str, ...]) -> list[tuple[Step, tuple[str, ...]]]:
        """Return the steps that lead to these values, and what nobody needs any more behind each."""
        if wanted not in self._plans:
            needed, chosen = set(wanted), []
            for step in reversed(self._steps):
                if not needed.isdisjoint(step.writes):
                    fresh = {name for name in step.reads if name is not None} - needed
                    chosen.append((step, tuple(fresh)))
                    needed |= fresh
            made = {name for step, _ in chosen for name in step.writes}
            self._plans[wanted] = [(s, tuple(n for n in done if n in made)) for s, done in reversed(chosen)]
        return self._plans[wanted]

    # --- names --------------------------------------------------------------------------------------------

    def _fill(self, graph: Graph, weights: Weights) -> None:
        """Take the graph's constants. torch refuses names with dots, and initializers have them: see `_load`."""
        values = graph.constants
        for name in weights.parameters:
            self._parameters[name] = nn.Parameter(tensor_of(graph.array(values[name])))
        for name in weights.statistics:
            self._buffers[name] = tensor_of(graph.array(values[name]))
        self._host: dict[str, Tensor] = {}
        given = {*self.input_names, *self._parameters, *self._buffers}
        made = {name for step in self._steps for name in step.writes}
        read = {name for step in self._steps for name in step.reads if name is not None} | set(self.output_names)
        for name in sorted(read - given - made):
            tensor = tensor_of(graph.array(values[name]))
            if tensor.is_floating_point():  # it follows the module to another device
                self._buffers[name] = tensor
                self._non_persistent_buffers_set.add(name)
            else:
                self._host[name] = tensor

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Load as every module does; a dot in a name of ours does not mean a module inside."""
        super()._load_from_state_dict(state_dict, prefix, *rest)
        own = {prefix + name for name in (*self._parameters, *self._buffers)}
        unexpected = rest[3]
        unexpected[:] = [key for key in unexpected if key not in own]


def load_module(model: str | Path) -> OnnxModule:
    """Read an ONNX file as a module in evaluation mode.

    Raises ModelError when the file is broken, or has operators that cannot be trained.
    """
    return OnnxModule(load(Path(model)))


_HALF = {torch.float16, torch.bfloat16}


def _gathered(operands: Sequence[Any], host: tuple[int, ...]) -> Iterator[Any]:
    """Bring operands to the accelerator that one of them is on, but for those that Python reads."""
    device = next(o.device for o in operands if isinstance(o, Tensor) and o.device.type != "cpu")
    for index, operand in enumerate(operands):
        yield operand.to(device) if isinstance(operand, Tensor) and index not in host else operand


def _uncomputed(step: Step, operands: Sequence[Any], error: Exception) -> ModelError:
    shapes = ", ".join("x".join(map(str, o.shape)) or "()" for o in operands if isinstance(o, Tensor))
    return ModelError(
        f"PyTorch cannot compute this node of operands of shape {shapes}: {str(error).splitlines()[0][:200]}",
        at=step.name,
        fix="give inputs as the ONNX model takes them, and check that onnxruntime runs it on them",
    )


def _steps(graph: Graph, weights: Weights) -> Iterator[Step]:
    """Yield every node that has to run for a batch; raises ModelError for those that cannot."""
    refused: dict[str, list[str]] = {}
    for node in graph.nodes:
        same = all(graph.is_constant(v) and str(v.name) not in weights.made for v in node.outputs)
        if same or _kind(node) == "Constant":
            continue
        name = str(node.name or node.outputs[0].name)
        entry = registry.find(node)
        try:
            run = None if entry is None else entry.make(Node(node, graph, weights.made, frozenset(weights.statistics)))
        except Untrainable as error:
            refused.setdefault(f"{_kind(node)} with {error}", []).append(name)
            continue
        if entry is None or run is None:
            refused.setdefault(_kind(node), []).append(name)
            continue
        reads = tuple(None if v is None else str(v.name) for v in node.inputs)
        writes = tuple(str(v.name) for v in node.outputs)
        yield Step(run, reads, writes, name, entry.host, entry.modal)
    if refused:
        raise _refusal(refused, graph)


def _kind(node: ir.Node) -> str:
    return node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"


def _refusal(refused: Mapping[str, Sequence[str]], graph: Graph) -> ModelError:
    kinds = ", ".join(f"{kind} ({len(nodes)})" for kind, nodes in sorted(refused.items()))
    return ModelError(
        f"PyTorch cannot train {sum(map(len, refused.values()))} nodes: {kinds}",
        at=f"{next(iter(refused.values()))[0]}, {graph.path}",
        fix="fine-tune in the framework that the model came from; the recipe in the pruned file says what it keeps",
    )
