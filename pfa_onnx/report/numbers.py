"""Numbers as people read them: 11.69 M, 46.8 MB, -32.4 %."""

from __future__ import annotations

import math
from collections.abc import Iterable

_UNITS = ("k", "M", "G", "T", "P")


def count(number: int) -> str:
    """Return 9,876 as it is and larger numbers with two decimals: 11.69 M."""
    return f"{number:,}" if number < 10_000 else _scaled(number, decimals=2)


def size(number: int) -> str:
    """Return a number of bytes, in powers of 1000: 46.8 MB."""
    return f"{number:,} B" if number < 10_000 else f"{_scaled(number, decimals=1)}B"


def milliseconds(number: float) -> str:
    """Return 12.3 ms, 1,235 ms."""
    return f"{number:.3g} ms" if number < 999.5 else f"{number:,.0f} ms"


def _scaled(number: int, *, decimals: int) -> str:
    exponent = 1
    # 999,999 is 1.00 M, not 1000.00 k: what counts is the rounded number
    while round(number / 1000**exponent, decimals) >= 1000 and exponent < len(_UNITS):
        exponent += 1
    return f"{number / 1000**exponent:.{decimals}f} {_UNITS[exponent - 1]}"


def change(before: float, after: float) -> str:
    """Return the relative change in percent, and never a zero for a change."""
    if before == after:
        return "0.0 %"
    if not before or not math.isfinite(before) or not math.isfinite(after):
        return "-"
    percent = (after / before - 1) * 100
    return f"{percent:+.1f} %" if abs(percent) >= 0.05 else f"{percent:+.1g} %"


def fraction(value: float | None, decimals: int = 2) -> str:
    """Return a ratio, or - where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def against(value: float, limit: float) -> tuple[str, str]:
    """Return a value and its limit with as many digits as it takes to see which is larger."""
    for decimals in range(5, 18):
        texts = f"{value:.{decimals}f}", f"{limit:.{decimals}f}"
        if value == limit or texts[0] != texts[1]:
            return texts
    return repr(value), repr(limit)


def span(values: Iterable[int]) -> str:
    """Return the one number that all values are, or the smallest and the largest: 30-46."""
    found = sorted(values)
    return f"{found[0]:,}" if found[0] == found[-1] else f"{found[0]:,}-{found[-1]:,}"


# --- the energy of a spectrum ---

BLOCKS = "▁▂▃▄▅▆▇█"


def cumulative(eigenvalues: Iterable[float]) -> list[float]:
    """Return the share of the energy in the first k directions, k = 1..C; nothing when there is no energy."""
    values = [max(value, 0.0) for value in eigenvalues]
    total = math.fsum(values)
    if not values or not math.isfinite(total) or total <= 0:
        return []
    shares, running = [], 0.0
    for value in values:
        running += value
        shares.append(min(running / total, 1.0))
    return shares


def channels_for(eigenvalues: Iterable[float], energy: float) -> int | None:
    """Return the fewest directions that carry this share of the energy."""
    shares = cumulative(eigenvalues)
    return next((k for k, share in enumerate(shares, 1) if share >= energy - 1e-12), None)


def bar(eigenvalues: Iterable[float]) -> str:
    """Return the cumulative energy at eight equal steps of the channels: the sooner it fills, the more is redundant."""
    shares = cumulative(eigenvalues)
    if not shares:
        return "-"
    steps = len(BLOCKS)
    reached = (shares[math.ceil(len(shares) * step / steps) - 1] for step in range(1, steps + 1))
    return "".join(BLOCKS[max(0, math.ceil(share * steps - 1e-6) - 1)] for share in reached)
