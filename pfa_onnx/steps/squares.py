"""Mean squares of what layers read, beside their responses: what Wanda weighs weights by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import DataError
from pfa_onnx.graph.norms import Operand
from pfa_onnx.graph.taps import squares_tap

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats

Array = npt.NDArray[Any]

TINY = 2.0**-80  # the largest mean square of a layer below which small ones begin to vanish in single precision


class InputSquares:
    """Sums of every layer's mean squares over the samples; sums of parts of the data simply add up."""

    def __init__(self, operands: Mapping[str, Operand], taps: Mapping[str, str]) -> None:
        """Start with no samples. operands: by layer output; taps: the outputs of these layers' responses."""
        self.taps = {output: squares_tap(taps[output]) for output in operands}
        self.sums: dict[str, Floats] = {
            output: np.zeros(operand.shape[operand.axis]) for output, operand in operands.items()
        }

    def add(self, found: Mapping[str, Array], count: int) -> None:
        """Take in a batch's values by tap, of `count` samples; several rows of a sample count as their mean."""
        for output, tap in self.taps.items():
            rows = found[tap].astype(np.float64)
            if not np.isfinite(rows).all():
                fix = "look for NaN and infinity in inputs and weights, or choose another --select"
                raise DataError("the squares of what this layer reads are not finite", at=output, fix=fix)
            self.sums[output] += rows.sum(axis=0) * (count / max(len(rows), 1))

    def doubtful(self, found: Mapping[str, Array]) -> Iterator[str]:
        """Yield the layers whose squares may have overflowed, or vanished, in single precision."""
        for output, tap in self.taps.items():
            if found[tap].dtype == np.float32 and not TINY < found[tap].max(initial=0.0) < np.inf:
                yield output

    def restore(self, sums: Mapping[str, Floats]) -> None:
        """Go on from what was added up before."""
        self.sums.update({output: found.copy() for output, found in sums.items()})
