"""Recovery: its loss, the gradient down to the compensators, augmentation, and the whole loop against a plain one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.match import Statistics
from datastill.networks import Network, Space, create_network
from datastill.networks.taps import batch_norms, tap
from datastill.recipe import NetworkRecipe, choice
from datastill.runtime.seeds import rng
from reference import infer, tiny
from reference.taps import recovery_loss, statistics


def network(arch: str = "convnet", seed: int = 0, **settings: Any) -> Network:
    """Return a network whose BatchNorms remember roughly, not exactly, what the tiny set's images give."""
    data = tiny.dataset()
    space = Space(data.mean, data.std)
    made = create_network(arch, classes=4, shape=tiny.SHAPE, space=space, seed=seed, **({"width": 8} | settings))
    with torch.no_grad():
        for _, norm in batch_norms(made):
            norm.momentum = 0.7
        made.train()(data.train.pixels.float() / 255.0)
    return made.eval().requires_grad_(False)


def networks(**settings: Any) -> dict[str, Network]:
    return {"first": network(seed=0, **settings), "second": network(seed=1, **settings)}


def match(**settings: Any) -> Statistics:
    return Statistics(**({"rounds": 4, "lr": 0.1, "jitter": 2} | settings))


def in_double(ctx: Context, content: Content, given: dict[str, Network]) -> None:
    """Bring the arrays of a content, and the networks that the match will meet, to float64."""
    for name, value in content.arrays.items():
        content.arrays[name] = value.double()
    for name, made in given.items():
        double = copy.deepcopy(made).double()
        ctx.memo["tapped", name] = tap(double, torch.zeros(1, *tiny.SHAPE, dtype=torch.float64))


def drafted(ctx: Context, content: Content, parts: list[Any]) -> Draft:
    found = ctx.fields.match
    return Draft(
        ctx.fields.store,
        content,
        parts,
        found.optimise(),
        rounds=found.total_rounds,
        classes=4,
        device=ctx.device.torch,
    )


def opened(**changes: Any) -> tuple[Context, Content, dict[str, Network]]:
    given = networks()
    ctx = tiny.context(given=given, **({"ipc": 5} | changes))
    return ctx, ctx.fields.store.begin(ctx), given


def learned_gradient(draft: Draft) -> Tensor:
    leaf = draft._leaves["compensators"]  # what optimisers step is otherwise nobody's business
    assert leaf.grad is not None
    return leaf.grad


# --- the loss ---


def test_the_loss_is_that_of_the_plain_hooks() -> None:
    given, found = network().double(), match(first=7.0)
    z, target = (
        torch.rand(8, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.eye(4),
    )
    ce, distance = found.losses(tap(given, z), z, target.repeat(2, 1).double(), 2)
    for g in range(2):
        logits, layers = statistics(given, z[4 * g : 4 * g + 4])
        plain_ce = nn.functional.cross_entropy(logits, torch.arange(4))
        both = recovery_loss(logits, torch.arange(4), layers, weight=1.0, first=7.0)
        torch.testing.assert_close(ce[g], plain_ce)
        torch.testing.assert_close(ce[g] + distance[g], both)


def test_the_distance_is_linear_in_the_weight_of_the_first_layer() -> None:
    given = network(depth=1).double()
    z = torch.rand(4, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = [
        match(first=w).losses(tap(given, z), z, torch.eye(4).double(), 1)[1].item() for w in (0.0, 1.0, 2.0, 10.0)
    ]
    assert values[1] > values[0]
    assert values[2] - values[0] == pytest.approx(2 * (values[1] - values[0]), rel=1e-12)
    assert values[3] - values[0] == pytest.approx(10 * (values[1] - values[0]), rel=1e-12)


def test_the_distance_vanishes_with_a_finite_gradient_where_the_memory_is_the_batchs_own() -> None:
    given = network(depth=1).double()
    z = torch.rand(4, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ((_, norm),), (_, (layer,)) = batch_norms(given), tap(given, z)(z)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(layer.mean[0].detach())
    norm.running_var.copy_(layer.var[0].detach())
    ce, distance = match().losses(tap(given, z), z, torch.eye(4).double(), 1)
    assert distance.item() == 0.0
    gradient = torch.autograd.grad((ce + distance).sum(), z, retain_graph=True)[0]
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, torch.autograd.grad(ce.sum(), z)[0])


def test_networks_without_batch_norm_are_refused_before_any_work() -> None:
    for arch, settings in (
        ("convnet", {"norm": "instance"}),
        ("convnet_in", {}),
        ("vit_tiny", {"dim": 24, "depth": 1}),
    ):
        table = {"odd": NetworkRecipe(arch=arch, settings=settings), "first": tiny.NETWORKS["first"]}
        with pytest.raises(DatastillError, match="match 'statistics' reads BatchNorm layers, but network 'odd'"):
            tiny.context(given={}, networks=table)
        tiny.context(given={}, networks=table, match=choice("none"))


# --- its gradient ---


def test_the_gradient_of_a_compensator_is_the_sum_of_its_images_gradients_rolled_back() -> None:
    ctx, content, given = opened(match=choice("statistics", rounds=4, jitter=2))
    in_double(ctx, content, given)
    content.arrays["compensators"].normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    found = ctx.fields.match
    assert isinstance(found, Statistics)
    part = found.parts(content.items, ctx.makers)[1]
    draft = drafted(ctx, content, [part])
    shift = tuple(ctx.rng("view", part=part.index).integers(0, 3, 2).tolist())
    assert shift != (0, 0)

    z = torch.roll(ctx.fields.store.decode(content, part.rows, open=True), shift, (2, 3)).requires_grad_()
    ce, distance = found.losses(ctx.memo["tapped", part.network], z, torch.eye(4).double(), 1)
    at_images = torch.autograd.grad((ce + distance).sum(), z)[0]
    back = torch.roll(at_images, (-shift[0], -shift[1]), (2, 3)).sum(dim=0, keepdim=True)

    draft.step = lambda: None  # type: ignore[method-assign]  # the gradient itself is wanted
    found.round(draft, ctx)
    torch.testing.assert_close(learned_gradient(draft), back * content.arrays["std"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("project", ["none", "forward"])
def test_the_gradient_agrees_with_a_directional_finite_difference(project: str) -> None:
    ctx, content, given = opened(store=choice("compensated", project=project), match=choice("statistics", jitter=3))
    in_double(ctx, content, given)
    u = content.arrays["compensators"]
    u.normal_(std=0.4, generator=torch.Generator().manual_seed(3))
    found = ctx.fields.match
    assert isinstance(found, Statistics)
    parts = found.parts(content.items, ctx.makers)[:3]
    draft = drafted(ctx, content, parts)
    units = torch.tensor([int(content.items.unit[p.rows[0]]) for p in parts])
    assert torch.equal(units, units.sort().values)
    direction = torch.randn(3, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def loss(step: float) -> float:
        moved = u.clone()
        moved[units] += step * direction
        there = Content(content.items, content.pictures, content.arrays | {"compensators": moved})
        total = 0.0
        for part in parts:
            shift = tuple(ctx.rng("view", part=part.index).integers(0, 4, 2).tolist())
            z = torch.roll(ctx.fields.store.decode(there, part.rows, open=True), shift, (2, 3))
            logits, layers = statistics(copy.deepcopy(given[part.network]).double(), z)
            total += recovery_loss(logits, torch.arange(4), layers).item()
        return total

    draft.step = lambda: None  # type: ignore[method-assign]  # the gradient itself is wanted
    found.round(draft, ctx)
    slope = (learned_gradient(draft) * direction).sum().item()
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_gradients_of_several_sets_in_one_pass_equal_separate_passes() -> None:
    ctx, content, given = opened(ipc=8)
    in_double(ctx, content, given)
    content.arrays["compensators"].normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    parts = [p for p in ctx.fields.match.parts(content.items, ctx.makers) if p.network == "second"]
    assert len(parts) == 5

    def gradients(group: list[Any]) -> Tensor:
        draft = drafted(ctx, content, group)
        draft.step = lambda: None  # type: ignore[method-assign]  # the gradient itself is wanted
        ctx.fields.match.round(draft, ctx)
        return learned_gradient(draft)

    together, apart = gradients(parts), torch.cat([gradients([part]) for part in parts])
    torch.testing.assert_close(together, apart, rtol=1e-11, atol=1e-13)


# --- its augmentation ---


def test_shifts_cover_zero_to_jitter_on_both_axes_and_are_never_negative() -> None:
    spot = torch.zeros(2, 1, 16, 16)
    spot[:, :, 0, 0] = 1.0
    found = set()
    for round_ in range(400):
        rolled = match(jitter=4)._augment(spot, rng(0, 0, 0, round_, "view"))
        assert torch.equal(rolled[0], rolled[1])
        found.add(divmod(int(rolled[0].flatten().argmax()), 16))
    assert found == {(down, right) for down in range(5) for right in range(5)}


def test_no_augmentation_leaves_images_as_they_are() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(match(jitter=0)._augment(x, rng(0, "view")), x)


def test_one_flip_decision_holds_for_the_whole_batch() -> None:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = match(jitter=0, flip=True)
    seen = [bool(torch.equal(found._augment(x, rng(i, "view")), x.flip(3))) for i in range(40)]
    assert 10 < sum(seen) < 30
    assert all(torch.equal(found._augment(x, rng(i, "view")), x) for i in range(40) if not seen[i])


def test_one_resized_crop_holds_for_the_whole_batch_and_passes_gradients() -> None:
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1, 1).requires_grad_()
    found = match(jitter=0, resized_crop=True)
    cut = [found._augment(x, rng(i, "view")) for i in range(10)]
    assert all(c.shape == x.shape for c in cut)
    assert all(torch.equal(c[0], c[1]) and torch.equal(c[0], c[2]) for c in cut)
    assert len({c.sum().item() for c in cut}) > 5
    assert torch.autograd.grad(cut[0].sum(), x)[0].isfinite().all()


def test_augmentation_of_a_part_depends_on_its_round_and_not_on_its_neighbours() -> None:
    ctx, _, _ = opened()
    draws = {(p, r): tuple(ctx.rng("view", part=p, round=r).integers(0, 1000, 2)) for p in range(5) for r in range(5)}
    assert len(set(draws.values())) == 25
    assert draws == {(p, r): tuple(rng(0, 0, p, r, "view").integers(0, 1000, 2)) for p in range(5) for r in range(5)}


# --- the whole loop ---


@pytest.mark.parametrize("project", ["none", "forward"])
@pytest.mark.parametrize(("arch", "settings", "ipc"), [("convnet", {"width": 12}, 5), ("resnet10", {"width": 8}, 2)])
def test_the_engine_agrees_with_the_plain_loop_over_twenty_steps(
    project: str, arch: str, settings: dict[str, Any], ipc: int
) -> None:
    given = {"first": network(arch, 0, **settings), "second": network(arch, 1, **settings)}
    rounds, lr, jitter = 20, 0.02, 2
    ctx = tiny.context(
        given=given, ipc=ipc, store=choice("compensated", project=project),
        match=choice("statistics", rounds=rounds, lr=lr, jitter=jitter, alpha=0.3),
    )  # fmt: skip
    content = engine.build_content(ctx)
    naturals = content.pictures.pixels.view(4, -1, *tiny.SHAPE)
    for part in ctx.fields.match.parts(content.items, ctx.makers):
        unit = int(content.items.unit[part.rows[0]])
        n, maker = divmod(unit, 2)
        assert part.network == ("first", "second")[maker]
        shifts = [
            tuple(np.asarray(rng(0, 0, part.index, t, "view").integers(0, jitter + 1, 2)).tolist())
            for t in range(rounds)
        ]
        plain = infer.recover(given[part.network], naturals[:, n], shifts, lr=lr, alpha=0.3, project=project)
        gap = (content.arrays["compensators"][unit] - plain).abs().max().item()
        assert gap < 1e-4, (unit, gap)
        assert plain.abs().max() > 5 * lr


def test_a_grouped_run_learns_what_runs_one_by_one_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    given = networks()

    def learned(ipc: int, values: int) -> Tensor:
        monkeypatch.setitem(engine.GROUP_VALUES, "cpu", values)
        ctx = tiny.context(given=given, ipc=ipc, match=choice("statistics", rounds=12, lr=0.02, jitter=2))
        return engine.build_content(ctx).arrays["compensators"]

    grouped, apart = learned(8, 1 << 30), learned(8, 0)
    torch.testing.assert_close(grouped, apart, rtol=0, atol=1e-6)
    assert grouped.abs().min() > 0


def test_parts_are_the_images_of_one_set_and_network_in_the_order_of_classes() -> None:
    ctx, content, _ = opened(store=choice("compensated", leftover="natural"))
    parts = ctx.fields.match.parts(content.items, ctx.makers)
    assert [p.index for p in parts] == list(range(6))
    assert [p.network for p in parts] == ["first"] * 3 + ["second"] * 3
    for part in parts:
        items = content.items[part.rows]
        assert items.cls.tolist() == [0, 1, 2, 3]
        assert len(items.set.unique()) == len(items.unit.unique()) == len(items.maker.unique()) == 1
    seen = torch.cat([p.rows for p in parts])
    assert torch.equal(seen.sort().values, (content.items.unit >= 0).nonzero().flatten())


def test_recovery_lowers_what_it_optimises_and_reports_it_for_every_form() -> None:
    ctx = tiny.context(ipc=5, match=choice("statistics", rounds=25, lr=0.05, jitter=1, alpha=0.1))
    content = engine.build_content(ctx)
    facts = ctx.fields.match.facts(ctx, content, ctx.fields.store.seal(content))

    def loss(network: str, form: str) -> float:
        found = facts["losses"][network][form]
        return float(found["cross-entropy"] + 0.1 * found["statistics"])

    for network in ctx.makers:
        assert loss(network, "open") < 0.8 * loss(network, "natural")
        assert loss(network, "rendered") < loss(network, "natural")


def test_the_reported_losses_are_those_of_the_plain_hooks() -> None:
    ctx, content, given = opened(ipc=2)
    content.arrays["compensators"].normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    sealed = ctx.fields.store.seal(content)
    facts = ctx.fields.match.facts(ctx, content, sealed)
    images = ctx.fields.store.expand(sealed).float() / 255
    for unit, (name, made) in enumerate(given.items()):
        logits, _ = statistics(made, images[content.items.unit == unit])
        ce = nn.functional.cross_entropy(logits, torch.arange(4)).item()
        assert facts["losses"][name]["rendered"]["cross-entropy"] == pytest.approx(ce, abs=1e-4)


def test_networks_stay_bit_for_bit_what_they_were() -> None:
    given = networks()
    before = {name: tiny.state(made) for name, made in given.items()}
    ctx = tiny.context(given=given, ipc=5)
    content = engine.build_content(ctx)
    ctx.fields.match.facts(ctx, content, ctx.fields.store.seal(content))
    assert content.arrays["compensators"].abs().sum() > 0
    for name, made in given.items():
        assert all(torch.equal(before[name][key], value) for key, value in made.state_dict().items())
        assert not made.training
        assert all(p.grad is None and not p.requires_grad for p in made.parameters())
