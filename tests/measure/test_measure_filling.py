"""The largest count that fits, against a look at every count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastill.measure.filling import filled


def by_hand(weigh: Callable[[int], int], budget: int, low: int, high: int) -> int:
    fitting = [count for count in range(low, high + 1) if weigh(count) <= budget]
    return max(fitting, default=low)


@given(
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    base=st.integers(0, 500),
    low=st.integers(1, 5),
    budget=st.integers(0, 4000),
)
def test_the_largest_count_that_fits_is_found(steps: list[int], base: int, low: int, budget: int) -> None:
    high = low + len(steps) - 1
    seen: list[int] = []

    def weigh(count: int) -> int:
        seen.append(count)
        return base + sum(steps[: count - low + 1])

    assert filled(weigh, budget, low, high) == by_hand(weigh, budget, low, high)


@pytest.mark.parametrize("budget", [0, 99, 100, 1234, 10**9])
def test_few_sets_are_made_and_none_twice(budget: int) -> None:
    seen: list[int] = []

    def weigh(count: int) -> int:
        seen.append(count)
        return 50 + 17 * count + count // 100

    found = filled(weigh, budget, 3, 100_000)
    assert found == by_hand(lambda c: 50 + 17 * c + c // 100, budget, 3, 100_000)
    assert len(seen) == len(set(seen)) <= 12
