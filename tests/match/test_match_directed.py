"""Directed weight adjustment (DWA): how far weights move, what stays, and that each set has a network of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill import engine
from datastill.draft import Draft
from datastill.fields import Context
from datastill.match.directed import adjusted
from datastill.networks import Network, Space, create_network
from datastill.networks.taps import batch_norms
from datastill.recipe import choice
from reference import squeeze, tiny

DWA: dict[str, Any] = {"adjust_steps": 12, "adjust_rho": 0.2, "var_weight": 11.0}


def network(arch: str = "convnet", seed: int = 0, **settings: Any) -> Network:
    """Return a network whose BatchNorms remember roughly what the tiny set's images give."""
    data = tiny.dataset()
    made = create_network(
        arch, classes=4, shape=tiny.SHAPE, space=Space(data.mean, data.std), seed=seed, **({"width": 8} | settings)
    )
    with torch.no_grad():
        for _, norm in batch_norms(made):
            norm.momentum = 0.7
        made.train()(data.train.pixels.float() / 255.0)
    return made.eval().requires_grad_(False)


def images(count: int = 4) -> tuple[Tensor, Tensor]:
    data = tiny.dataset()
    rows = [int((data.train.labels == k).nonzero()[0]) for k in range(count)]
    return data.train.pixels[rows].float() / 255.0, functional.one_hot(torch.arange(count), 4).float()


def away(one: nn.Module, other: nn.Module) -> float:
    gaps = [(a - b).double().square().sum() for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    return float(torch.stack(gaps).sum().sqrt())


def cross_entropy(made: Network, x: Tensor, target: Tensor) -> float:
    return float(functional.cross_entropy(made(x), target))


@pytest.mark.parametrize(("arch", "settings"), [("convnet", {}), ("resnet10", {})])
@pytest.mark.parametrize(("steps", "rho"), [(1, 0.015), (12, 0.015), (12, 0.5)])
def test_weights_move_at_most_rho_and_the_loss_rises(arch: str, settings: Any, steps: int, rho: float) -> None:
    given = network(arch, **settings)
    before, (x, target) = tiny.state(given), images()
    moved = adjusted(given, x, target, steps, rho)
    assert 0.3 * rho < away(moved, given) <= rho + 1e-6
    assert cross_entropy(moved, x, target) > cross_entropy(given, x, target)
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())
    for (name, mine), theirs in zip(moved.named_buffers(), given.buffers(), strict=True):
        assert torch.equal(mine, theirs), name
    assert not any(p.requires_grad or p.grad is not None for p in (*moved.parameters(), *given.parameters()))
    assert not any(module.training for module in moved.modules())


def test_one_step_is_the_whole_way_along_the_gradient() -> None:
    given, (x, target) = network(), images()
    assert away(adjusted(given, x, target, 1, 0.1), given) == pytest.approx(0.1, rel=1e-5)


def test_no_steps_and_no_way_leave_the_weights_bit_for_bit() -> None:
    given, (x, target) = network(), images()
    for steps, rho in ((0, 0.5), (5, 0.0)):
        assert away(adjusted(given, x, target, steps, rho), given) == 0.0


def test_one_class_alone_works_and_a_zero_gradient_is_a_zero_step() -> None:
    given, (x, target) = network(), images(1)
    assert away(adjusted(given, x, target, 3, 0.1), given) > 0
    assert away(adjusted(given, x, torch.zeros_like(target), 3, 0.1), given) == 0.0


def test_the_way_is_that_of_the_plain_loop() -> None:
    given, (x, target) = network("resnet10").double(), images()
    plain = squeeze.moved(given, given.space.into(x.double()), torch.arange(4), 5, 0.3)
    assert away(adjusted(given, x.double(), target.double(), 5, 0.3), plain) < 1e-12


def context(store: dict[str, Any] | None = None, **match: Any) -> Context:
    settings = {"rounds": 6, "lr": 0.1, "jitter": 2, "alpha": 0.1} | match
    return tiny.context(
        given={"first": network(), "second": network(seed=1)},
        ipc=3, store=choice("synthetic", **(store or {})), match=choice("statistics", **settings),
    )  # fmt: skip


def learned(store: dict[str, Any] | None = None, **match: Any) -> Tensor:
    return engine.build_content(context(store, **match)).arrays["pixels"]


def test_without_a_way_equal_weights_and_from_noise_it_is_sre2l_bit_for_bit() -> None:
    plain = learned()
    assert torch.equal(learned({"init": "noise"}, adjust_steps=12, adjust_rho=0.0, var_weight=1.0), plain)
    assert torch.equal(learned({"init": "noise"}, adjust_steps=0, adjust_rho=0.5, var_weight=1.0), plain)
    assert not torch.equal(learned(adjust_steps=12, adjust_rho=0.5), plain)
    assert not torch.equal(learned(var_weight=2.0), plain)


def test_the_engine_agrees_with_the_plain_loop() -> None:
    rounds, lr, jitter = 12, 0.02, 2
    ctx = context({"init": "real", "block": 3}, rounds=rounds, lr=lr, jitter=jitter, **DWA)
    start, content = ctx.fields.store.begin(ctx), engine.build_content(ctx)
    for part in ctx.fields.match.parts(content.items, ctx.makers):
        shifts = [
            tuple(ctx.rng("view", part=part.index, round=t).integers(0, jitter + 1, 2).tolist()) for t in range(rounds)
        ]
        plain = squeeze.recover(
            ctx.network("first"), start.arrays["pixels"][part.rows], content.items.cls[part.rows], shifts,
            lr=lr, alpha=0.1, var_weight=11.0, steps=12, rho=0.2,
        )  # fmt: skip
        assert (content.arrays["pixels"][part.rows] - plain).abs().max() < 3e-4


def test_each_set_meets_a_network_of_its_own_whatever_ran_before_it() -> None:
    whole, ctx = learned({"init": "real"}, **DWA), context({"init": "real"}, **DWA)
    content, match = ctx.fields.store.begin(ctx), ctx.fields.match
    parts = match.parts(content.items, ctx.makers)
    assert all(part.alone for part in parts)
    assert [len(group) for group in engine._groups(parts, ctx)] == [1, 1, 1]
    last = parts[-1]
    draft = Draft(
        ctx.fields.store, content, [last], match.optimise(), rounds=6, classes=4, device=ctx.device.torch
    )  # fmt: skip
    match.begin(draft, ctx)
    for draft.round in range(6):
        match.round(draft, ctx)
    draft.commit()
    assert torch.equal(content.arrays["pixels"][last.rows], whole[last.rows])


def test_the_images_of_the_first_round_are_those_that_the_weights_are_moved_on() -> None:
    ctx = context({"init": "real"}, **DWA)
    content, match = ctx.fields.store.begin(ctx), ctx.fields.match
    (part, *_) = match.parts(content.items, ctx.makers)
    draft = Draft(ctx.fields.store, content, [part], match.optimise(), rounds=6, classes=4, device=ctx.device.torch)
    match.begin(draft, ctx)
    shift = tuple(ctx.rng("view", part=part.index).integers(0, 3, 2).tolist())
    z = torch.roll(ctx.fields.store.decode(content, part.rows, open=True), shift, (2, 3))
    wanted = adjusted(ctx.network("first"), z, torch.eye(4), 12, 0.2)
    logits, _ = draft.memo["adjusted"](z)
    torch.testing.assert_close(logits, wanted(z), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, ctx.network("first")(z), atol=1e-3)


def test_the_moved_network_is_not_asked_for_labels_and_not_measured_with() -> None:
    ctx = context({"init": "real"}, **DWA)
    content = engine.build_content(ctx)
    sealed = ctx.fields.store.seal(content)
    facts = ctx.fields.match.facts(ctx, content, sealed)["losses"]["first"]["rendered"]
    made = ctx.network("first")
    images_ = ctx.fields.store.expand(sealed).float() / 255.0
    rows = [part.rows for part in ctx.fields.match.parts(content.items, ctx.makers)]
    plain = sum(cross_entropy(made, images_[r], torch.eye(4)) for r in rows) / len(rows)
    assert facts["cross-entropy"] == pytest.approx(plain, abs=1e-3)
