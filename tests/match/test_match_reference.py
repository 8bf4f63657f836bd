"""Statistics of the training images as they are, in the place of the running ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from datastill.engine import build_content
from datastill.fields import Context
from datastill.match import Statistics, statistics
from datastill.networks.taps import tap
from datastill.recipe import choice
from reference import tiny
from reference.taps import statistics as hooked


def asked(reference: str) -> Context:
    return tiny.context(match=choice("statistics", rounds=4, lr=0.1, jitter=1, reference=reference))


def test_plain_moments_are_those_of_all_training_images_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOMENT_BATCH", 7)  # the last batch is shorter
    ctx, match = asked("plain"), Statistics(reference="plain")
    found = match._wanted(ctx, "first")
    pixels = ctx.real.data().images.float() / 255.0
    _, layers = hooked(ctx.network("first"), pixels)
    assert found is not None
    assert len(found) == len(layers) == 1
    for (mean, var), layer in zip(found, layers, strict=True):
        torch.testing.assert_close(mean, layer[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(var, layer[1], rtol=1e-4, atol=1e-5)


def test_against_plain_moments_the_training_images_have_no_distance_left() -> None:
    ctx, match = asked("plain"), Statistics(reference="plain")
    network = tap(ctx.network("first"), torch.zeros(1, *tiny.SHAPE))
    data = ctx.real.data()
    pixels, target = data.images.float() / 255.0, functional.one_hot(data.classes, 4).float()
    _, running = match.losses(network, pixels, target, 1)
    _, plain = match.losses(network, pixels, target, 1, match._wanted(ctx, "first"))
    assert float(plain) < 1e-3 < 0.1 < float(running)


def test_the_reference_changes_what_is_learned() -> None:
    assert not torch.equal(
        build_content(asked("plain")).arrays["compensators"], build_content(asked("running")).arrays["compensators"]
    )
