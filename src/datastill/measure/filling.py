"""The largest set that a number of bytes holds, found by weighing sets as they lie on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache


def filled(weigh: Callable[[int], int], budget: int, low: int, high: int) -> int:
    """Return the largest count in low..high whose bytes are at most `budget`; `low` where not even that fits.

    Bytes grow with the count, nearly in a straight line, so that the answer is closed in from both sides along the
    chord; each weighing makes a set, and none is made twice.
    """
    weighed = lru_cache(maxsize=None)(weigh)
    if weighed(low) > budget:
        return low
    if low < high and weighed(guess := min(high, 4 * low)) < budget:
        per_image = max(1, (weighed(guess) - weighed(low)) // max(1, guess - low))
        high = min(high, guess + (budget - weighed(guess)) * 2 // per_image + 1)
    else:
        high = min(high, 4 * low)
    while high - low > 1:
        slope = (weighed(high) - weighed(low)) / (high - low)
        middle = low + round((budget - weighed(low)) / max(slope, 1e-9))
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if weighed(middle) <= budget else (low, middle)
    return high if weighed(high) <= budget else low
