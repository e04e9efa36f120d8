"""Why channels stay although nobody asked for them: a colour for each kind of reason, the most expensive first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pfa_onnx.results import LayerResult

COLOURS = 5  # kinds with a colour of their own; more could not be told apart
_VARYING = re.compile(r"'[^']*'|\d[\d,.]*")


class Causes:
    """The kinds of root causes in a report. One kind: the same words but for numbers and names."""

    def __init__(self, layers: Iterable[LayerResult]) -> None:
        weights: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for layer in layers:
            for cause in layer.frozen if layer.held else ():
                kind = _kind(cause.reason)
                weights[kind] += layer.weight_params
                examples.setdefault(kind, cause.reason)
        ranked = sorted(weights, key=lambda kind: (-weights[kind], kind))
        self._rank = {kind: min(place, COLOURS) for place, kind in enumerate(ranked)}
        self._examples = [examples[kind] for kind in ranked]

    def of(self, layer: LayerResult) -> str:
        """Return the class of the colour for what holds this layer back."""
        ranks = (self._rank.get(_kind(cause.reason), COLOURS) for cause in layer.frozen)
        return f"held-{min(ranks, default=COLOURS)}"

    def mark(self, reason: str) -> str:
        """Return a swatch, as HTML, for a reason."""
        return f'<i class="swatch held-{self._rank.get(_kind(reason), COLOURS)}"></i>'

    def legend(self) -> Iterator[tuple[str, str]]:
        """Yield each colour's class and what it stands for."""
        for place, example in enumerate(self._examples[:COLOURS]):
            alone = len(_VARYING.findall(example)) == 0
            yield f"held-{place}", example if alone else f"{_VARYING.sub('…', example)}"
        if len(self._examples) > COLOURS:
            yield f"held-{COLOURS}", f"{len(self._examples) - COLOURS} other reasons"


def _kind(reason: str) -> str:
    return _VARYING.sub("#", reason)
