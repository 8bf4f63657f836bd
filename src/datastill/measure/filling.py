"""The largest set that a number of bytes holds, found by weighing sets as they lie on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache


def filled(weigh: Callable[[int], int], budget: int, low: int, high: int, *, slack: float = 0.0) -> int:
    """Return the largest count in low..high whose bytes are at most `budget`; `low` where not even that fits.

    Bytes grow with the count, nearly in a straight line: the next count is where the line through the last two would
    meet the budget, and what fits and what does not close in from both sides. Each weighing makes a set, and none is
    made twice.

    slack: share of the budget that may stay unused, for the sake of fewer weighings; 0 finds the very largest.
    """
    weighed = lru_cache(maxsize=None)(weigh)
    if weighed(low) > budget or low == high:
        return low
    over = high + 1  # the least count that is known, or by the range's end decided, not to fit
    before, last = low, min(high, 4 * low)
    while True:
        if weighed(last) <= budget:
            low = max(low, last)
        else:
            over = min(over, last)
        if over - low <= 1 or budget - weighed(low) <= slack * budget:
            return low
        slope = (weighed(last) - weighed(before)) / (last - before)
        wanted = last + int((budget - weighed(last)) // slope) if slope > 0 else (low + over) // 2
        before, last = last, min(max(wanted, low + 1), over - 1)
