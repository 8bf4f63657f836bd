"""Networks that a match meets, and the real and synthetic images that meet in them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from datastill.fields import Context
from datastill.match import Gradients
from datastill.match.lives import Life, fresh, pooled
from datastill.match.paired import ClassImages, pixels_of
from datastill.networks import Network
from datastill.recipe import choice
from datastill.runtime.device import open_device
from reference import tiny

TRAINING = {"lr": 0.05, "momentum": 0.9, "schedule": "constant", "batch": 16, "crop": 1, "flip": False}


def started(**settings: Any) -> tuple[Context, Gradients]:
    network = {"arch": "convnet_in", "settings": {"width": 4}, "training": TRAINING}
    ctx = tiny.context(ipc=2, networks={}, match=tiny.chosen("match", "gradients", **{"network": network} | settings),
                       store=choice("synthetic"), label=choice("hard"))  # fmt: skip
    assert isinstance(ctx.fields.match, Gradients)
    return ctx, ctx.fields.match


def living(ctx: Context, match: Gradients) -> tuple[Network, Life]:
    network = fresh(match.network, ctx, 0)
    return network, Life(network, match.network, ctx, 0, items=48, limit=9)


def test_a_life_goes_on_where_it_stood() -> None:
    ctx, match = started()
    data = ctx.real.data()
    (one, first), (two, second) = living(ctx, match), living(ctx, match)
    first.learn(data, 5)
    second.learn(data, 2)
    second.learn(data, 3)
    assert first.work.epoch == 3
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(fresh(match.network, ctx, 0).parameters()))


def test_a_life_in_16_bits_sees_its_own_steps_inside_a_round() -> None:
    half = open_device("cpu", "bf16")
    ctx = replace(started()[0], device=half)
    match, data, found = started()[1], ctx.real.data(), []
    for outer in (nullcontext(), half.autocast()):  # as the engine opens one around every round
        network, life = living(ctx, match)
        with outer:
            life.learn(data, 6)
        found.append([p.detach() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_ask_for_no_more_gradients_after_learning_than_before() -> None:
    ctx, match = started()
    network, life = living(ctx, match)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.ndim == 4)
    before = [p.detach().clone() for p in network.parameters()]
    life.learn(ctx.real.data(), 1)
    assert [p.requires_grad for p in network.parameters()] == [p.ndim == 4 for p in network.parameters()]
    # A bias before an instance norm has no say.
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert all(m for m, (name, _) in zip(moved, network.named_parameters(), strict=True) if "head" in name)


def test_networks_of_a_pool_differ_and_are_copies_of_what_is_kept() -> None:
    ctx, match = started()
    one, two, again = (pooled(match.network, ctx, index, 1) for index in (0, 1, 0))
    weights = [next(network.parameters()).detach() for network in (one, two, again)]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert all(p.requires_grad for p in one.parameters())
    with torch.no_grad():
        weights[0].zero_()
    assert next(pooled(match.network, ctx, 0, 1).parameters()).any()


def test_norms_on_a_cpu_are_the_quick_ones() -> None:
    ctx, match = started()
    (norm,) = (m for m in fresh(match.network, ctx, 0).modules() if isinstance(m, nn.GroupNorm))
    assert type(norm) is not nn.GroupNorm


def test_real_images_are_drawn_by_class_and_none_twice() -> None:
    ctx, _ = started()
    real = ClassImages(ctx)
    drawn = real.draw(ctx.rng("real"), 5)
    assert [len(places) for places in drawn] == [5] * 4
    for k, places in enumerate(drawn):
        assert places.unique().numel() == 5
        assert (real.cls[places] == k).all()
    assert [len(places) for places in real.draw(ctx.rng("real"), 500)] == [12] * 4
    some = real.draw(ctx.rng("real"), 5, range(1, 3))
    assert [int(real.cls[places[0]]) for places in some] == [1, 2]
    assert real.draw(ctx.rng("real"), 5, range(0)) == []
    x = pixels_of(real, drawn[0])
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x * 255, real.images[drawn[0]].float())


def test_a_class_has_one_view_of_a_step_and_another_one_later() -> None:
    ctx, match = started(augment="one")
    one, again, later, other = (match.drawn(ctx, *at) for at in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert len(one) == ctx.info.classes
    assert torch.equal(one.color, again.color)
    assert not torch.equal(one.color, later.color)
    assert not torch.equal(one.color, other.color)
    images = torch.linspace(-2.0, 2.0, 4 * 3 * 8 * 8).view(4, 3, 8, 8)
    index = torch.tensor([2, 2, 2, 2])
    whole = one.of(index).apply(images)
    assert torch.equal(whole[:2], one.of(index[:2]).apply(images[:2]))
