"""How many filters carry the energy: the PFA-En and PFA-KL recipes (paper sections 3.1 and 3.2).

lambda is the distribution of the eigenvalues of the covariance of a layer's responses: descending,
normalised to sum 1. Flat means that no filter repeats another; a Dirac means that one would do.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pfa_onnx.errors import BUG, InternalError
from pfa_onnx.stats import divergence as far
from pfa_onnx.stats.shrinkage import oas
from pfa_onnx.stats.threads import available_cores, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pfa_onnx.recipe import Curve, Divergence, Floats, Method
    from pfa_onnx.stats.covariance import Moments

# The paper's integers are exact, floats are not: gamma * C = 2.0000000001 means 2, not 3 ...
COUNT_SLACK = 1e-9
# ... and energies that sum to 0.9799999999999 reach tau = 0.98.
ENERGY_SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a layer's covariance and what PFA reads off them.

    eigenvalues: [C], descending, raw, negative rounding errors clipped to 0.

    A layer in which nothing varies counts as a Dirac: one channel carries everything. A layer with
    one channel keeps it: kl 0, gamma 1 (the paper's formula is 0/0 there).
    """

    eigenvalues: Floats

    @property
    def channels(self) -> int:
        """How many channels the layer has (C)."""
        return len(self.eigenvalues)

    @cached_property
    def normalised(self) -> Floats:
        """Lambda of the paper: [C], descending, sum 1."""
        if self.eigenvalues[0] > 0:
            shares: Floats = self.eigenvalues / self.eigenvalues.sum()
            return shares
        dirac = np.zeros(self.channels)
        dirac[0] = 1.0
        return dirac

    @cached_property
    def kl(self) -> float:
        """KL(lambda, u) to the uniform distribution u: sum p ln(p C), where 0 ln 0 = 0 (section 3.2.2)."""
        return far.kl(self.normalised)

    @property
    def gamma(self) -> float:
        """The compression factor 1 - KL / ln C of equation (3), in [0, 1]."""
        return self.gamma_by("kl", "linear")

    def gamma_by(self, divergence: Divergence, mapping: Curve) -> float:
        """Return the compression factor by another divergence from u, or another mapping of it; in [0, 1]."""
        distance = self.kl if divergence == "kl" else far.DIVERGENCES[divergence].distance(self.normalised)
        return far.share_kept(distance, self.channels, divergence, mapping)

    def shrunk(self, count: int) -> Spectrum:
        """Return the spectrum of the covariance that oracle approximating shrinkage makes of `count` samples."""
        return Spectrum(oas(self.eigenvalues, count))

    def keep_kl(self) -> int:
        """Return how many channels PFA-KL keeps: ceil(gamma C), at least 1."""
        return count_of(self.gamma, self.channels)

    def keep_energy(self, tau: float) -> int:
        """Return how many channels PFA-En keeps: the smallest k with energy E(k) >= tau, equation (2)."""
        first = int(np.searchsorted(self._cumulative, tau - ENERGY_SLACK))
        return min(first + 1, self.channels)

    def breakpoints(self) -> Floats:
        """Return the taus at which `keep_energy` changes, ascending.

        They are the distinct cumulative energies: each gives another count, and together they give
        every count that any tau can give (energies closer than the slack count as one).
        """
        firsts = np.searchsorted(self._cumulative, self._cumulative - ENERGY_SLACK)
        _, distinct = np.unique(firsts, return_index=True)
        return self._cumulative[distinct]

    @cached_property
    def _cumulative(self) -> Floats:
        """E(k) of equation (1) for k = 1 ... C."""
        return np.minimum(np.cumsum(self.normalised), 1.0)


def spectrum(covariance: Floats) -> Spectrum:
    """Return the spectrum of a covariance [C, C]."""
    with one_blas_thread():
        return _spectrum(covariance)


def spectra(moments: Mapping[str, Moments], done: Callable[[int], None]) -> dict[str, Spectrum]:
    """Return the spectrum of every layer, a layer on every core; `done` is told how many are ready.

    The widest go first: the last one to end is then a short one.
    """
    with one_blas_thread(), ThreadPoolExecutor(available_cores()) as pool:
        widest_first = sorted(moments, key=lambda output: -moments[output].channels)
        waiting = {
            output: pool.submit(lambda one: _spectrum(one.without_rounding().covariance), moments[output])
            for output in widest_first
        }
        for count, _ in enumerate(as_completed(waiting.values()), 1):
            done(count)
        return {output: waiting[output].result() for output in moments}


def _spectrum(covariance: Floats) -> Spectrum:
    ascending = np.linalg.eigvalsh(covariance)
    return Spectrum(np.maximum(ascending[::-1], 0.0))


def asked(spectra: Mapping[str, Spectrum], method: Method) -> dict[str, int]:
    """Return, by layer output, how many channels the method alone asks to keep.

    params, macs and latency are PFA-En with the tau that the search for the target found.
    """
    return {output: _asked(found, method) for output, found in spectra.items()}


def _asked(found: Spectrum, method: Method) -> int:
    if method.name == "kl":
        return count_of(found.gamma_by(method.divergence, method.mapping), found.channels)
    if method.name == "uniform":
        if method.ratio is None:
            raise InternalError("uniform was asked for without a ratio", at="--uniform", fix=BUG)
        return count_of(method.ratio, found.channels)
    if method.tau is None:
        raise InternalError(f"{method.name} was asked for before its tau was known", at=f"--{method.name}", fix=BUG)
    return found.keep_energy(method.tau)


def count_of(share: float, channels: int) -> int:
    """Return how many of the channels a share of them is: rounded up, at least 1."""
    return min(max(math.ceil(share * channels - COUNT_SLACK), 1), channels)
