"""Farthest first against a direct loop, and its covering radius against the best there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datastill.runtime.seeds import rng
from datastill.select.kcenter import farthest_first
from datastill.training.predict import predict
from reference import selection as plain
from reference import tiny


def features(n: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 1.0, (n, dim))


@pytest.mark.parametrize(("n", "dim", "seed"), [(1, 3, 0), (9, 2, 1), (30, 5, 2)])
def test_it_is_the_direct_loop_to_the_last_image(n: int, dim: int, seed: int) -> None:
    phi = features(n, dim, seed)
    for first in {0, n // 2}:
        assert farthest_first(torch.from_numpy(phi), n, first).tolist() == plain.farthest_first(phi, n, first)


@pytest.mark.parametrize("seed", range(5))
def test_the_radius_is_at_most_twice_the_best_from_any_first_image(seed: int) -> None:
    phi = features(10, 2, seed)
    for n in (1, 2, 3, 5):
        best = plain.smallest_radius(phi, n)
        for first in range(10):
            chosen = farthest_first(torch.from_numpy(phi), n, first).tolist()
            assert plain.radius(phi, chosen) <= 2 * best + 1e-12


def test_equal_images_are_taken_last_in_the_order_of_their_index() -> None:
    phi = torch.from_numpy(features(4, 7, 0)).repeat(3, 1)
    order = farthest_first(phi, 12, 2).tolist()
    assert {i % 4 for i in order[:4]} == {0, 1, 2, 3}
    assert order[:4] == [i % 4 for i in order[:4]]
    assert order[4:] == list(range(4, 12))


@pytest.mark.parametrize("first", ["mean", "random"])
def test_the_first_image_is_the_one_that_was_asked_for(first: str) -> None:
    ctx = tiny.context(select=tiny.chosen("select", "kcenter", first=first))
    rows = ctx.fields.select.start(6, ctx)
    for k in range(4):
        mine = ctx.real.of_class(k)
        pixels = ctx.real.pictures(mine).pixels
        phi = predict(ctx.network("first"), pixels, device=torch.device("cpu"), features=True).double().numpy()
        phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
        nearest = int(np.linalg.norm(phi - phi.mean(0), axis=1).argmin())
        begin = nearest if first == "mean" else int(rng(0, "select", "kcenter", k).integers(len(mine)))
        assert rows[k].tolist() == mine[plain.farthest_first(phi, 6, begin)].tolist()


def test_a_random_first_image_changes_with_the_seed() -> None:
    contexts = [tiny.context(select=tiny.chosen("select", "kcenter", first="random"), seed=s) for s in (0, 1)]
    one, two = (ctx.fields.select.start(1, ctx) for ctx in contexts)
    assert not torch.equal(one, two)
