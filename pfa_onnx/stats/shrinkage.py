"""Oracle approximating shrinkage of a covariance (Chen, Wiesel, Eldar and Hero, IEEE Trans. Signal Processing 2010).

Few samples make the largest eigenvalues too large and the smallest too small, so that PFA removes too much. OAS mixes
the covariance S of C channels with the identity of the same trace, (1 - rho) S + rho tr(S) / C I, by equation (23):

    rho = ((1 - 2/C) tr(S^2) + tr(S)^2) / ((n + 1 - 2/C) (tr(S^2) - tr(S)^2 / C)), at most 1.

It only moves eigenvalues towards their mean, so that they are all it needs. Their order stays, and so do correlations'
signs and which channels are dead: only how many channels stay is decided by what is shrunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pfa_onnx.recipe import Floats


def oas_weight(eigenvalues: Floats, freedom: int) -> float:
    """Return rho, in [0, 1], from the eigenvalues of S; freedom: n, the samples less one that the mean has taken."""
    channels = len(eigenvalues)
    scaled = eigenvalues / (eigenvalues.max(initial=0.0) or 1.0)  # squares of tiny responses would vanish
    trace, squares = float(scaled.sum()), float(np.sum(scaled**2))
    above = (1.0 - 2.0 / channels) * squares + trace**2
    below = (freedom + 1.0 - 2.0 / channels) * (squares - trace**2 / channels)
    return 1.0 if below <= above else max(0.0, above / below)


def oas(eigenvalues: Floats, count: int) -> Floats:
    """Return the eigenvalues of the shrunk covariance of `count` samples, [C], descending like those that came."""
    weight = oas_weight(eigenvalues, max(count - 1, 0))
    shrunk: Floats = (1.0 - weight) * eigenvalues + weight * eigenvalues.mean()
    return shrunk
