"""Step 2: from statistics to a recipe. How many (PFA-En, PFA-KL, a target), which, and what the graph allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property

import numpy as np

from pfa_onnx.errors import DataError, TargetError, UsageError
from pfa_onnx.graph.claims import called
from pfa_onnx.graph.edits import Edits, Mask, Stuck
from pfa_onnx.graph.follow import follow
from pfa_onnx.graph.plan import legalise, settle
from pfa_onnx.graph.planned import Planned
from pfa_onnx.graph.streams import residual_sums
from pfa_onnx.graph.trace import Trace, Traced
from pfa_onnx.nearest import did_you_mean
from pfa_onnx.options import DataOptions, Hooks, PlanOptions
from pfa_onnx.recipe import Coupling, Floats, Ints, Layer, Method, Reason, Wish
from pfa_onnx.responses import PAPER, Responses
from pfa_onnx.stats.coupling import mean_counts, with_streams
from pfa_onnx.stats.parts import WHOLE
from pfa_onnx.stats.pfa import Spectrum, asked
from pfa_onnx.stats.selection import removal_orders, wish
from pfa_onnx.steps.measure import Measured, with_eigenvalues
from pfa_onnx.steps.reconstruction import Reads
from pfa_onnx.steps.replay import Kept, Replayed
from pfa_onnx.steps.selects import scores

ENOUGH_SAMPLES = 10  # samples a channel, below which the spectrum is noticeably underestimated


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided. keep: [labels], True for what stays; edits: how the graph follows; responses: by which."""

    trace: Trace
    method: Method
    spectra: Mapping[str, Spectrum]
    asked: Mapping[str, int]
    keep: Mask
    edits: Edits
    responses: Responses = PAPER


class Decider:
    """Decides for one measured model; spectra and orders are computed once and serve every tau."""

    def __init__(
        self,
        measured: Measured,
        options: PlanOptions,
        hooks: Hooks,
        *,
        timed: Callable[[], Callable[[Edits], float]] | None = None,
        data: DataOptions | None = None,
        replays: bool = False,
    ) -> None:
        """Settle what may go.

        timed: how run time is measured, if it is the target. data: inputs for what the statistics do not hold.
        replays: no data decides.
        """
        self._timed, self._data = timed, data or DataOptions()
        self.measured = measured
        self.options = options
        self.round_to = options.round_to if isinstance(options.round_to, int) else 1
        self.hooks = hooks
        held = {**measured.unmeasured, **self._left_out(), **({} if replays else self._too_few())}
        self.trace = settle(measured.graph, measured.shapes, held.items(), through_norm=options.through_norm)
        self._orders: dict[tuple[str, int, bool], tuple[Ints, ...]] = {}
        self._deciding: dict[tuple[bool, str], dict[str, Spectrum]] = {}

    @cached_property
    def spectra(self) -> dict[str, Spectrum]:
        """The spectrum of every measured layer (paper, section 3.1)."""
        known = self._eigenvalues
        names = (traced.layer.output for traced in self.trace.layers)
        found = {output: Spectrum(known[output]) for output in names if output in known}
        still = [name for name, one in found.items() if one.channels > 1 and not one.eigenvalues.any()]
        if still and not _all_still(found):
            self.hooks.warn(
                f"{len(still)} layers do not vary at all on this data, so that PFA keeps one channel of each, such as "
                f"'{still[0]}': are the inputs what they should be?"
            )
        return found

    @cached_property
    def _eigenvalues(self) -> Mapping[str, Floats]:
        return with_eigenvalues(self.measured, self.hooks).stats.eigenvalues

    @cached_property
    def _streams(self) -> tuple[Layer, ...]:
        """The residual sums that were measured, as if they were layers."""
        found = tuple(traced.layer for traced in residual_sums(self.trace, self._eigenvalues))
        if not found:
            self.hooks.warn("--couple stream: no residual sum was measured, so that layers are asked as without it")
        return found

    @property
    def coupling(self) -> Coupling:
        """What the data half needs of the graph: the measured layers only."""
        layers = tuple(t.layer for t in self.trace.layers if t.layer.output in self.spectra)
        return Coupling(layers, self.trace.frozen)

    def decide(self, method: Method) -> Decision:
        """Return the recipe of a method; raises TargetError when no recipe reaches its target.

        Raises DataError when it asks data that says nothing: where no layer varies, the data is most likely broken.
        """
        asks = method.name != "uniform" or method.select == "pfa"
        if asks and self._data.shard == WHOLE and _all_still(self.spectra):
            raise DataError(
                "no layer varies at all on this data, so that it cannot say which channels are needed",
                at=self.measured.stats.source,
                fix="look at the inputs: they may all be the same, or prepared in another way than the model expects",
            )
        if method.name in {"params", "macs"}:
            method = self._search(method, self._closed_form(method.name))
        elif method.name == "latency":
            assert self._timed is not None
            ratio = self._timed()
            method = self._search(method, lambda keep: ratio(follow(self.trace, keep)))
        return self._decision(method)

    def _decision(self, method: Method) -> Decision:
        while True:
            spectra = self.spectra_for(method)
            counts = asked(spectra, method)
            keep = self.kept(method, counts)
            try:
                responses = self.measured.stats.responses
                return Decision(self.trace, method, spectra, counts, keep, follow(self.trace, keep), responses)
            except Stuck as stuck:  # the rehearsals did not meet this one: freeze what the node reads, plan again
                node = self.trace.graph.nodes[stuck.index]
                reason = Reason(f"{node.op_type} {stuck.why}", str(node.name or node.outputs[0].name))
                more = {label: (reason,) for label in stuck.ids.tolist() if label not in self.trace.frozen}
                if not more:
                    raise
                self.trace = replace(self.trace, frozen={**self.trace.frozen, **more})
                self._orders.clear()

    def kept(self, method: Method, counts: Mapping[str, int]) -> Mask:
        """Return what stays when every layer asks for so many channels."""
        wanted = self._wish(method, counts)
        minimum = self.options.min_channels
        return legalise(self.trace, wanted.remove, wanted.order, round_to=self.round_to, minimum=minimum)

    def replay(self, replayed: Replayed) -> Decision:
        """Return the decision that a recipe holds; raises UsageError where it does not fit this model."""
        recipe = replayed.kept
        unknown = sorted(set(recipe) - {t.layer.output for t in self.trace.layers})
        if unknown:
            raise UsageError(
                f"the recipe has {len(unknown)} layers that this model has not, such as '{called(unknown[0])}'",
                at=replayed.at,
                fix="use a recipe of the same architecture, exported with the same names",
            )
        missing = [t.layer.node for t in self.trace.layers if t.layer.output not in recipe]
        if missing:
            self.hooks.warn(f"{len(missing)} layers are not in the recipe and stay whole, such as '{missing[0]}'")
        keep = np.ones(self.trace.count, dtype=np.bool_)
        for traced in self.trace.layers:
            layer = traced.layer
            if layer.output not in recipe:
                continue
            channels, kept = recipe[layer.output]
            if channels != layer.channels:
                raise UsageError(
                    f"the recipe knows {channels} channels, this model has {layer.channels}",
                    at=layer.node,
                    fix="use a recipe of the same architecture",
                )
            gone = np.delete(layer.labels, list(kept))
            keep[gone] = False
        self._check_fits(keep, recipe)
        decision = follow(self.trace, keep)
        counts = {t.layer.output: int(keep[t.layer.labels].sum()) for t in self.trace.layers}
        return Decision(self.trace, replayed.method, {}, counts, keep, decision, replayed.responses)

    def _check_fits(self, keep: Mask, recipe: Kept) -> None:
        order = np.flatnonzero(~keep)
        legal = legalise(self.trace, order.tolist(), order)
        for traced in self.trace.layers:
            wanted = recipe.get(traced.layer.output)
            if wanted is not None and not np.array_equal(np.flatnonzero(legal[traced.layer.labels]), wanted[1]):
                raise UsageError(
                    f"the recipe keeps {len(wanted[1])} of {wanted[0]} channels, but not those that go together here",
                    at=traced.layer.node,
                    fix="use a recipe of the same architecture, made with the same options",
                )

    # --- which layers take part ------------------------------------------------------------------------

    def _left_out(self) -> dict[str, Reason]:
        layers = self.measured.layers
        found: dict[str, Reason] = {}
        among = {t.layer.output for p in self.options.include for t in _matching(p, layers, "--include")}
        for traced in layers:
            if self.options.include and traced.layer.output not in among:
                found[traced.layer.output] = Reason("is not among --include", traced.layer.node)
        for pattern in self.options.exclude:
            for traced in _matching(pattern, layers, "--exclude"):
                found[traced.layer.output] = Reason(f"is left out by --exclude '{pattern}'", traced.layer.node)
        return found

    def _too_few(self) -> dict[str, Reason]:
        """Fewer samples than channels underestimate the spectrum, and would prune too much."""
        samples = self.measured.stats.samples
        layers = [t for t in self.measured.layers if t.layer.output not in self.measured.unmeasured]
        widest = max((t.layer.channels for t in layers), default=0)
        rows = {t.layer.output: self._rows(t) for t in layers}
        frozen = {
            t.layer.output: Reason(
                f"has {t.layer.channels} channels, which {rows[t.layer.output]} samples cannot describe", t.layer.node
            )
            for t in layers
            if rows[t.layer.output] < t.layer.channels
        }
        if frozen and not self.options.allow_few_samples:
            self.hooks.warn(
                f"{len(frozen)} layers have more channels than the {samples} samples and stay whole; give {widest} "
                "samples or more, or --allow-few-samples"
            )
            return frozen
        if any(rows[t.layer.output] < ENOUGH_SAMPLES * t.layer.channels for t in layers):
            self.hooks.warn(
                f"{samples} samples for layers of up to {widest} channels: with fewer than {ENOUGH_SAMPLES} a channel, "
                "PFA keeps fewer channels than it would with more data"
            )
        return {}

    def _rows(self, traced: Traced) -> int:
        """Return how many samples a layer's spectrum is of; with --pool positions, a sample has several of them."""
        stats = self.measured.stats
        return stats.moments[traced.layer.output].count if stats.responses.pool == "positions" else stats.samples

    # --- how many, and which ---------------------------------------------------------------------------

    def spectra_for(self, method: Method) -> dict[str, Spectrum]:
        """Return the spectra that this method decides by: shrunk, and those of residual sums too, if it says so."""
        key = (method.couple == "stream", method.shrink)
        if key not in self._deciding:
            found = dict(self.spectra)
            if method.couple == "stream":
                found |= {layer.output: Spectrum(self._eigenvalues[layer.output]) for layer in self._streams}
            if method.shrink == "oas":
                moments = self.measured.stats.moments
                found = {output: one.shrunk(moments[output].count) for output, one in found.items()}
            self._deciding[key] = found
        return self._deciding[key]

    def _wish(self, method: Method, counts: Mapping[str, int]) -> Wish:
        asked_for = mean_counts(self.coupling, counts) if method.couple == "mean" else counts
        return wish(self._coupled(method), asked_for, self.orders(method))

    def _coupled(self, method: Method) -> Coupling:
        members = self.coupling
        return with_streams(members, self._streams) if method.couple == "stream" else members

    def orders(self, method: Method) -> tuple[Ints, ...]:
        """Return the labels of every coupled set in the order in which they go."""
        key = (method.select, method.seed, method.couple == "stream")
        if key not in self._orders:
            stats, members = self.measured.stats, self.coupling
            # only what ranks by responses can ask the sums of layers in their place
            ranked = self._coupled(method) if method.select == "pfa" else members
            squares = {output: moments.without_rounding().m2 for output, moments in stats.moments.items()}
            norms = scores(method.select, self.trace, members, stats)
            reads = Reads(self.trace, self._data, self.hooks) if method.select == "reconstruct" else None
            self._orders[key] = removal_orders(ranked, method, squares, norms, reads)
        return self._orders[key]

    def _closed_form(self, name: str) -> Callable[[Mask], float]:
        planned = Planned(self.trace, self.measured.probed)
        cost = planned.parameters if name == "params" else planned.macs
        whole = cost(np.ones(self.trace.count, dtype=np.bool_))
        return lambda keep: cost(keep) / max(whole, 1)

    def _search(self, method: Method, ratio: Callable[[Mask], float]) -> Method:
        """Find the largest tau whose cut model costs at most the target (paper, section 3.2.1).

        Run times are noisy and widths uneven: the search then ends at a tau whose model was measured to fit.

        The recipe is a step function of tau: it changes only where a layer's cumulative energy is reached.
        """
        assert method.target is not None
        spectra = self.spectra_for(method)
        steps = np.unique(np.concatenate([s.breakpoints() for s in spectra.values()] or [np.array([1.0])]))

        @cache
        def cost(k: int) -> float:
            tried = replace(method, tau=float(steps[k]))
            return ratio(self.kept(tried, asked(spectra, tried)))

        low, high = -1, len(steps) - 1  # low always fits (once it is not -1), high + 1 never does
        if cost(high) <= method.target:
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            self.hooks.progress("target", len(steps) - (high - low), len(steps))
            if cost(middle) <= method.target:
                low = middle
            else:
                high = middle
        if low < 0 and cost(0) <= method.target:
            low = 0
        if low < 0:
            raise TargetError(
                f"no recipe has {method.target:.4g} of the original's {method.name}; the least is {cost(0):.4g}",
                at=f"--{method.name} {method.target:g}",
                fix=f"ask for --{method.name} {np.ceil(cost(0) * 1000) / 1000:.3f} or more",
            )
        return replace(method, tau=float(steps[low]))


def _all_still(spectra: Mapping[str, Spectrum]) -> bool:
    """Whether there are layers of several channels, and none of them varies."""
    wide = [one for one in spectra.values() if one.channels > 1]
    return bool(wide) and not any(one.eigenvalues.any() for one in wide)


def _names(traced: Traced) -> tuple[str, str, str]:
    layer = traced.layer
    return layer.node, layer.output, layer.weight


def _matching(pattern: str, layers: tuple[Traced, ...], flag: str) -> list[Traced]:
    found = [traced for traced in layers if any(fnmatchcase(name, pattern) for name in _names(traced))]
    if not found:
        fix = f"{_meant(pattern, layers)}; list them with `pfa-onnx inspect MODEL -v`"
        raise UsageError(f"{flag} '{pattern}' matches no layer", at=flag, fix=fix)
    return found


def _meant(pattern: str, layers: tuple[Traced, ...]) -> str:
    """Return what may have been meant by a pattern that matches nothing."""
    inside = f"*{pattern.strip('*')}*"
    count = sum(any(fnmatchcase(name, inside) for name in _names(traced)) for traced in layers)
    if count and pattern.strip("*"):  # a name that is only a part of the layers' names
        return f"did you mean '{inside}', which matches {count} of {len(layers)}?"
    example = f"names look like '{layers[0].layer.node}'" if layers else "there is none"
    return did_you_mean(pattern, [traced.layer.node for traced in layers]) or example
