"""The proof: the masked original and the cut model run on the same inputs, and must agree up to rounding.

Where activations are quantised, rounding is no small thing: then it is measured, and proven around.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import BUG, InternalError, ModelError, ProofError
from pfa_onnx.graph.choices import choices, shown
from pfa_onnx.graph.dtypes import computed_in
from pfa_onnx.graph.edits import Edits
from pfa_onnx.graph.masking import masked
from pfa_onnx.graph.model import Graph, refuse_changed
from pfa_onnx.graph.quantisers import jitter, rounds, unrounded
from pfa_onnx.recipe import Proof
from pfa_onnx.stats.compare import as_tensors, relative_error
from pfa_onnx.stats.session import Providers, Runner, fixed_batch
from pfa_onnx.steps.serialized import load_runner

Array = npt.NDArray[Any]
Blocks = Sequence[Mapping[str, Array]]
Answers = Sequence[Mapping[str, Any]]

# Rounding, relative to the output's scale, by what the model computes in: sums are taken in another order after a cut.
_TOLERANCE = {"FLOAT16": 2e-2, "BFLOAT16": 1e-1}
_SINGLE = 1e-4
_JITTER = 1e-6  # of an input or weight: a few times what another order of a sum changes
_DRAWS = 4
_FACTOR = 3.0  # a cut may move an output by so many times what jitter did


def prove(graph: Graph, small: Graph, edits: Edits, inputs: Mapping[str, Array], providers: Providers) -> Proof:
    """Run the masked original and the cut model on the same samples (masked equivalence).

    Raises ProofError when their outputs differ by more than rounding, ModelError when external data has changed.
    """
    try:
        return _proven(graph, small, edits, inputs, providers)
    except (ProofError, InternalError):
        refuse_changed(graph)  # then nobody knows which weights were compared
        raise


def _proven(graph: Graph, small: Graph, edits: Edits, inputs: Mapping[str, Array], providers: Providers) -> Proof:
    blocks = _blocks(graph, edits, inputs)
    _check_rewriting(graph, blocks, providers)
    before = _outputs(load_runner(masked(graph, edits), graph, providers), blocks)
    _refuse_nothing(before)
    try:
        after = _outputs(load_runner(small.model, graph, providers), blocks)
    except ModelError as error:
        raise InternalError(f"the cut model does not run: {error.what}", at=str(graph.path), fix=BUG) from error
    errors, limit = _errors(before, after), _limit(graph)
    worst = max(errors.values(), default=0.0)
    samples = min(len(array) for array in inputs.values()) if inputs else 0
    proof = Proof(worst, samples, worst <= limit, errors)
    if proof.passed:
        return proof
    if rounds(graph):
        return _proven_around(proof, _Rounding(graph, small, edits, blocks, providers), before)
    chosen = choices(graph, edits)
    if chosen.reads and all(error <= limit for name, error in errors.items() if name not in chosen.outputs):
        agreed = any(max(_errors([one], [other]).values()) <= limit for one, other in zip(before, after, strict=True))
        return _proven_before(
            chosen.reads, proof, _Rounding(graph, small, edits, blocks, providers), None if agreed else before
        )
    raise _unequal(errors, {}, limit)


def _unequal(errors: Mapping[str, float], limits: Mapping[str, float], limit: float, how: str = "") -> ProofError:
    output = max(errors, key=lambda name: errors[name] / limits.get(name, limit))
    return ProofError(
        f"the cut model differs from the masked original by {errors[output]:.3g} of the output's scale{how} "
        f"(limit {limits.get(output, limit):.3g}); nothing was written",
        at=f"output '{output}'",
        fix=BUG,
    )


def _proven_around(proof: Proof, rounding: _Rounding, before: Answers) -> Proof:
    """Prove a cut of a model that rounds: without its quantisers, and with them up to what rounding does by itself."""
    fixed = _limit(rounding.graph)
    smooth = rounding.errors_without()
    if smooth is not None and not max(smooth.values(), default=0.0) <= fixed:
        raise _unequal(smooth, {}, fixed, " without the quantisers of its activations")
    limits = {name: max(fixed, _FACTOR * noise) for name, noise in rounding.noise(before).items()}
    if not all(error <= limits[name] for name, error in proof.outputs.items()):
        raise _unequal(proof.outputs, limits, fixed)
    without = None if smooth is None else max(smooth.values(), default=0.0)
    return replace(proof, passed=True, limit=max(limits.values()), without_rounding=without)


def _proven_before(reads: list[str], proof: Proof, rounding: _Rounding, before: Answers | None) -> Proof:
    """Prove a cut of a model that chooses: what it chooses by agrees, and so does all behind it, but for ties.

    before: the original's outputs, if the two models agree on none of the inputs: then they may differ by as much as
    changes of next to nothing move them.
    """
    fixed = _limit(rounding.graph)
    found = rounding.errors_of(reads)
    if not max(found.values(), default=0.0) <= fixed:
        raise _unequal(found, {}, fixed, " in what it chooses by")
    if before is not None:
        limits = {name: max(fixed, _FACTOR * noise) for name, noise in rounding.noise(before).items()}
        if not all(error <= limits[name] for name, error in proof.outputs.items()):
            raise _unequal(proof.outputs, limits, fixed)
    return replace(proof, passed=True, before_choices=max(found.values(), default=0.0))


@dataclass(frozen=True, eq=False)
class _Rounding:
    """What quantisers and choices do to a proof."""

    graph: Graph
    small: Graph
    edits: Edits
    blocks: Blocks
    providers: Providers

    def errors_without(self) -> dict[str, float] | None:
        """Return how the two models differ where activations are not quantised; None where that cannot be had."""
        answers = []
        for model in (masked(self.graph, self.edits), self.small.model):
            smooth = unrounded(self.graph, model)
            if smooth is None:
                return None
            answers.append(_outputs(load_runner(smooth, self.graph, self.providers), self.blocks))
        return _errors(*answers)

    def errors_of(self, names: list[str]) -> dict[str, float]:
        """Return how the two models differ in these tensors."""
        models = [shown(self.graph, model, names) for model in (masked(self.graph, self.edits), self.small.model)]
        return _errors(*(_outputs(load_runner(model, self.graph, self.providers), self.blocks) for model in models))

    def noise(self, before: Answers) -> dict[str, float]:
        """Return how far the masked original's outputs move when inputs and weights change by next to nothing."""
        worst: dict[str, float] = {}
        for seed in range(_DRAWS):
            model = masked(self.graph, self.edits)
            jitter(self.graph, model, _JITTER, seed)
            moved = _outputs(load_runner(model, self.graph, self.providers), list(self._jittered(seed)))
            worst = {name: max(error, worst.get(name, 0.0)) for name, error in _errors(before, moved).items()}
        return worst

    def _jittered(self, seed: int) -> Iterator[Mapping[str, Array]]:
        random = np.random.default_rng(seed)
        for feeds in self.blocks:
            yield {name: _moved(array, random) for name, array in feeds.items()}


def _moved(array: Array, random: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    return (array * (1 + random.normal(scale=_JITTER, size=array.shape))).astype(array.dtype)


def _check_rewriting(graph: Graph, blocks: Blocks, providers: Providers) -> None:
    """Where control flow was written out at loading, the graph and the file must agree before anything is cut."""
    if not graph.rewritten:
        return
    assert graph.path is not None
    file = _outputs(Runner(graph.path, providers=providers), blocks)
    errors = _errors(file, _outputs(load_runner(graph.model, graph, providers), blocks))
    output = max(errors, key=lambda name: errors[name])
    if not errors[output] <= _limit(graph):
        raise ProofError(
            f"with its control flow written out, the model differs from its file by {errors[output]:.3g} of the "
            "output's scale; nothing was written",
            at=f"output '{output}'",
            fix=BUG,
        )


def _outputs(runner: Runner, blocks: Blocks) -> list[dict[str, Any]]:
    """Run a model. Only one is loaded at a time, since each takes as much memory as an inference."""
    return [runner.run(feeds) for feeds in blocks]


def _blocks(graph: Graph, edits: Edits, inputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
    """Return the samples as they are run: in blocks of a fixed batch, or one by one where the edits ask for it."""
    samples = min(len(array) for array in inputs.values()) if inputs else 0
    # a product of activations may have the batch folded into an axis of its heads: as in the traced run, then
    step = fixed_batch(graph.inputs) or (1 if edits.sums or edits.narrowed else max(samples, 1))
    return [
        {name: _block(array, start, step) for name, array in inputs.items()}
        for start in range(0, max(samples, 1), step)
    ]


def _errors(before: Answers, after: Answers) -> dict[str, float]:
    """Return every output's worst difference, relative to its scale."""
    errors: dict[str, float] = {}
    for one, other in zip(before, after, strict=True):
        for name in one:
            errors[name] = max(errors.get(name, 0.0), _difference(one[name], other[name]))
    return errors


def _limit(graph: Graph) -> float:
    return max((_TOLERANCE.get(dtype.name, _SINGLE) for dtype in computed_in(graph)), default=_SINGLE)


def _refuse_nothing(before: Answers) -> None:
    """Refuse a model that gives no number at all: NaN is not unequal to NaN, and nothing would be proven."""
    for name in before[0] if before else ():
        parts = [answer[name] for answer in before]
        floats = [part for part in parts if isinstance(part, np.ndarray) and part.dtype.kind == "f" and part.size]
        if floats and all(np.isnan(part).all() for part in floats):
            raise ProofError(
                "the masked original gives nothing but NaN, so that nothing can be proven; nothing was written",
                at=f"output '{name}'",
                fix="look for NaN and infinity in inputs and weights, or add --no-proof",
            )


def _block(array: Array, start: int, count: int) -> Array:
    """Return `count` samples from `start`; the last one is repeated where there are fewer."""
    block = array[start : start + count]
    return np.concatenate([block, np.repeat(block[-1:], count - len(block), axis=0)]) if len(block) < count else block


def _difference(before: Any, after: Any) -> float:
    before, after = as_tensors(before, after)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):  # sequences
        return max((_difference(one, other) for one, other in zip(before, after, strict=True)), default=0.0)
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        return 0.0 if repr(before) == repr(after) else float("inf")
    if before.shape != after.shape:
        return float("inf")
    if before.dtype.kind in "biu":  # class numbers and the like: ties may fall either way, a share of them
        return 0.0 if np.array_equal(before, after) else _flipped(before, after)
    return relative_error(before, after) if before.dtype.kind == "f" else float(not np.array_equal(before, after))


def _flipped(before: Array, after: Array) -> float:
    return float(np.mean(before != after))
