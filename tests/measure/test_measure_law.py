"""The law of images and bytes: planted constants come back, and so does the best quality along a budget."""

from __future__ import annotations

import numpy as np
import pytest

from datastill.measure.law import Law

PLANTED = Law(20.0, 300.0, 0.4, 90.0, 0.8)


def trials(law: Law, noise: float = 0.0) -> list[tuple[float, float, float]]:
    draw = np.random.Generator(np.random.Philox(0))
    points = [(n, size) for size in (70.0, 120.0, 200.0, 320.0) for n in (400_000 / size, 100_000 / size)]
    return [(n, size, float(law.error(n, size)) + noise * draw.standard_normal()) for n, size in points]


def test_errors_of_a_planted_law_come_back() -> None:
    found = Law.fit(trials(PLANTED))
    for n, size, error in trials(PLANTED):
        assert float(found.error(n, size)) == pytest.approx(error, abs=0.5)


def test_the_best_size_along_a_budget_is_that_of_the_planted_law() -> None:
    found = Law.fit(trials(PLANTED, noise=0.2))
    sizes = np.linspace(70, 320, 251)
    wanted, got = (sizes[np.argmin(law.error(400_000 / sizes, sizes))] for law in (PLANTED, found))
    # The curve is flat around its lowest point: what counts is how little is lost there.
    assert PLANTED.error(400_000 / got, got) - PLANTED.error(400_000 / wanted, wanted) < 0.3


def test_more_images_and_more_bytes_never_raise_the_expected_error() -> None:
    found = Law.fit(trials(PLANTED, noise=3.0))
    grid = np.geomspace(10, 10_000, 20)
    assert (np.diff(found.error(grid, 100.0)) <= 0).all()
    assert (np.diff(found.error(1000.0, grid)) <= 0).all()
    assert found.floor >= 0
