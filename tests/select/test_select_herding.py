"""Herding against a direct loop, and against Welling's own form for features of length 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datastill.select.herding import herd
from datastill.training.predict import predict
from reference import selection as plain
from reference import tiny


def features(n: int, dim: int, seed: int, *, unit: bool = False) -> np.ndarray:
    phi = np.random.default_rng(seed).normal(0.3, 1.0, (n, dim))
    return phi / np.linalg.norm(phi, axis=1, keepdims=True) if unit else phi


@pytest.mark.parametrize(("n", "dim", "seed"), [(1, 3, 0), (9, 2, 1), (30, 5, 2), (25, 40, 3)])
def test_herding_is_the_direct_loop_to_the_last_image(n: int, dim: int, seed: int) -> None:
    phi = features(n, dim, seed)
    assert herd(torch.from_numpy(phi), n).tolist() == plain.herding(phi, n)


@pytest.mark.parametrize("seed", range(4))
def test_with_features_of_length_1_it_is_wellings_form(seed: int) -> None:
    phi = features(20, 6, seed, unit=True)
    assert herd(torch.from_numpy(phi), 20).tolist() == plain.welling(phi, 20)
    stretched = phi * np.linspace(0.2, 3.0, 20)[:, None]
    assert herd(torch.from_numpy(stretched), 20).tolist() != plain.welling(stretched, 20)


def test_the_first_is_nearest_to_the_mean_and_all_together_are_the_mean() -> None:
    phi = torch.from_numpy(features(15, 4, 0))
    order = herd(phi, 15)
    assert int(order[0]) == int((phi - phi.mean(0)).norm(dim=1).argmin())
    assert sorted(order.tolist()) == list(range(15))


def test_herded_images_are_nearer_to_the_mean_than_random_ones() -> None:
    phi = torch.from_numpy(features(60, 8, 0))
    gap = float((phi[herd(phi, 8)].mean(0) - phi.mean(0)).norm())
    others = [np.random.default_rng(seed).permutation(60)[:8] for seed in range(20)]
    assert gap < 0.5 * min(float((phi[torch.from_numpy(o)].mean(0) - phi.mean(0)).norm()) for o in others)


def test_equal_images_are_taken_in_the_order_of_their_index() -> None:
    phi = torch.from_numpy(features(5, 33, 0)).repeat(4, 1)
    order = herd(phi, 20).tolist()
    for image in range(5):
        assert [i for i in order if i % 5 == image] == [image, image + 5, image + 10, image + 15]


@pytest.mark.parametrize("network", [None, "second"])
@pytest.mark.parametrize("normalise", [True, False])
def test_features_are_those_of_the_asked_network_on_the_pictures_as_they_are(
    network: str | None, normalise: bool
) -> None:
    ctx = tiny.context(select=tiny.chosen("select", "herding", network=network, normalise=normalise))
    rows = ctx.fields.select.start(6, ctx)
    asked = ctx.network(network or "first")
    for k in range(4):
        mine = ctx.real.of_class(k)
        phi = predict(asked, ctx.real.pictures(mine).pixels, device=torch.device("cpu"), features=True).double().numpy()
        if normalise:
            phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
        assert rows[k].tolist() == mine[plain.herding(phi, 6)].tolist()


def test_the_network_answers_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = tiny.context(select=tiny.chosen("select", "herding"))
    first = ctx.fields.select.start(3, ctx)
    monkeypatch.setattr("datastill.select.ranking.predict", None)
    assert torch.equal(ctx.fields.select.start(5, ctx)[:, :3], first)
