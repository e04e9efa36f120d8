"""How far a spectrum is from a flat one, and what share of the channels that keeps (paper section 3.2.2).

The paper measures by KL and maps linearly. It names two other divergences, chi-square and the earth mover's distance,
and says that other mappings lead to other degrees of compression, without naming any.

All distances are to u, the uniform distribution; the worst case, which they are divided by, is that of a Dirac.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pfa_onnx.recipe import Curve, Divergence, Floats


@dataclass(frozen=True)
class Measure:
    """distance: of lambda, [C], descending, sum 1, from u. bound: the distance of a Dirac, for C > 1 channels."""

    distance: Callable[[Floats], float]
    bound: Callable[[int], float]


def kl(shares: Floats) -> float:
    """KL(lambda, u): sum p ln(p C), where 0 ln 0 = 0."""
    positive = shares[shares > 0]
    return max(0.0, float(np.sum(positive * np.log(positive * len(shares)))))


def chi2(shares: Floats) -> float:
    """Pearson's chi-square: sum (p - u)^2 / u = C sum p^2 - 1."""
    return len(shares) * float(np.sum((shares - 1.0 / len(shares)) ** 2))


def emd(shares: Floats) -> float:
    """Earth mover's distance, where neighbouring eigenvalues are one apart: sum |E(k) - k / C|, E of equation (1)."""
    flat = np.arange(1, len(shares) + 1) / len(shares)
    return float(np.sum(np.abs(np.cumsum(shares) - flat)))


DIVERGENCES: Mapping[Divergence, Measure] = {
    "kl": Measure(kl, math.log),
    "chi2": Measure(chi2, lambda channels: channels - 1.0),
    "emd": Measure(emd, lambda channels: (channels - 1.0) / 2.0),
}

# (the divergence over its bound, C) -> the share that stays: all of it at 0, falling to nothing, or one channel, at 1
CURVES: Mapping[Curve, Callable[[float, int], float]] = {
    "linear": lambda far, _: 1.0 - far,
    "sqrt": lambda far, _: math.sqrt(1.0 - far),  # keeps more
    "square": lambda far, _: (1.0 - far) ** 2,  # keeps less
    # geometric, from C channels to one: with KL it is exp(entropy) / C, the effective rank of the covariance
    "exp": lambda far, channels: float(channels) ** -far,
}


def share_kept(distance: float, channels: int, divergence: Divergence = "kl", mapping: Curve = "linear") -> float:
    """Return gamma of equation (3), in [0, 1], for a divergence that was measured; 1 for a single channel."""
    if channels == 1:
        return 1.0
    far = min(max(distance / DIVERGENCES[divergence].bound(channels), 0.0), 1.0)
    return CURVES[mapping](far, channels)
