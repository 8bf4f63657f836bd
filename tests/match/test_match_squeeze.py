"""Learned pictures under cross-entropy and statistics: SRe2L, CDA, and that INFER's loss is the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Part
from datastill.match import Statistics
from datastill.match.crops import resized_crop, smallest_share
from datastill.networks import Network, Space, create_network
from datastill.networks.taps import batch_norms, tap
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from reference import squeeze, tiny

CROPS = {"resized_crop": True, "flip": True}


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


def context(store: dict[str, Any] | None = None, given: dict[str, Network] | None = None, **match: Any) -> Context:
    settings = {"rounds": 6, "lr": 0.1, "jitter": 2} | match
    return tiny.context(
        given=given or {"first": network(seed=0), "second": network(seed=1)},
        ipc=3, store=choice("synthetic", **(store or {})), match=choice("statistics", **settings),
    )  # fmt: skip


def statistics(ctx: Context) -> Statistics:
    found = ctx.fields.match
    assert isinstance(found, Statistics)
    return found


def learned(**options: Any) -> Tensor:
    return engine.build_content(context(**options)).arrays["pixels"]


def shifts(part: int, rounds: int, jitter: int) -> list[tuple[int, int]]:
    drawn = [rng(0, 0, part, t, "view").integers(0, jitter + 1, 2) for t in range(rounds)]
    return [(int(down), int(right)) for down, right in drawn]


# --- parts ---


def test_parts_are_the_sets_of_the_store_against_the_first_network_or_the_one_asked_for() -> None:
    for asked, name in ((None, "first"), ("second", "second")):
        ctx = context({"block": 3}, network=asked)
        content = ctx.fields.store.begin(ctx)
        parts = ctx.fields.match.parts(content.items, ctx.makers)
        assert [(p.index, p.network, p.alone) for p in parts] == [(i, name, False) for i in range(6)]
        plain = squeeze.sets_across(4, 3, 3)
        assert [[divmod(int(row), 3) for row in p.rows] for p in parts] == plain


def test_parts_of_different_sizes_do_not_share_a_pass() -> None:
    ctx = context({"block": 3})
    content = ctx.fields.store.begin(ctx)
    groups = engine._groups(ctx.fields.match.parts(content.items, ctx.makers), ctx)
    assert [[len(part.rows) for part in group] for group in groups] == [[3], [1], [3], [1], [3], [1]]


def test_sets_in_one_pass_learn_what_they_learn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    together = learned()
    monkeypatch.setitem(engine.GROUP_VALUES, "cpu", 0)
    torch.testing.assert_close(together, learned(), rtol=0, atol=1e-5)


def test_a_network_that_is_not_in_the_table_and_an_empty_table_are_refused() -> None:
    with pytest.raises(
        DatastillError, match="match 'statistics' was given network=frist, but the table 'networks' has"
    ):
        context(network="frist")
    with pytest.raises(
        DatastillError, match="match 'statistics' asks networks of the recipe, but the table 'networks'"
    ):
        tiny.context(given={}, store=choice("synthetic"), label=choice("hard"), networks={})


# --- the loss ---


def test_without_weight_of_the_statistics_the_loss_is_the_cross_entropy_bit_for_bit() -> None:
    z, target = torch.rand(4, *tiny.SHAPE, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    found, tapped = Statistics(alpha=0.0), tap(network(), torch.zeros(1, *tiny.SHAPE))
    ce, distance = found.losses(tapped, z, target, 1)
    assert torch.equal(found.ce * ce + found.alpha * distance, nn.functional.cross_entropy(tapped(z)[0], target)[None])


def test_weights_of_means_and_variances_are_those_of_the_plain_loss() -> None:
    given = network("resnet10").double()
    z = torch.rand(4, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mean_weight, var_weight in ((1.0, 1.0), (1.0, 11.0), (0.3, 0.0), (0.0, 2.0)):
        found = Statistics(mean_weight=mean_weight, var_weight=var_weight, first=7.0)
        ce, distance = found.losses(tap(given, z), z, torch.eye(4).double(), 1)
        plain = squeeze.loss_of(given, given.space.into(z), torch.arange(4), 0.3, 7.0, mean_weight, var_weight)
        torch.testing.assert_close(ce[0] + 0.3 * distance[0], plain)


def test_without_the_variances_the_gradient_is_that_of_cross_entropy_and_means() -> None:
    given = network().double()
    x = torch.rand(4, *tiny.SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ce, distance = Statistics(var_weight=0.0).losses(tap(given, x), x, torch.eye(4).double(), 1)
    (found,) = torch.autograd.grad((ce + distance).sum(), x)
    tapped = tap(given, x)
    logits, layers = tapped(x)
    means = sum((10.0 if i == 0 else 1.0) * (s.running_mean - s.mean[0]).norm() for i, s in enumerate(layers))
    (wanted,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.arange(4)) + means, x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_the_loss_of_infer_is_that_of_sre2l_on_the_same_pictures() -> None:
    given = {"first": network(seed=0), "second": network(seed=1)}
    free = context({"init": "real"}, given)
    shared = tiny.context(given=given, ipc=5, match=choice("statistics", rounds=6, jitter=2))
    found = []
    for ctx in (free, shared):
        content = ctx.fields.store.begin(ctx)
        part = ctx.fields.match.parts(content.items, ctx.makers)[0]
        x = ctx.fields.store.decode(content, part.rows, open=True)
        tapped = tap(given[part.network], x)
        found.append(statistics(ctx).losses(tapped, x, torch.eye(4), 1))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_in_the_learned_unit_agrees_with_a_directional_finite_difference() -> None:
    given = {"first": network(seed=0), "second": network(seed=1)}
    ctx = context(given=given, alpha=0.3)
    content = ctx.fields.store.begin(ctx)
    content.arrays = {name: value.double() for name, value in content.arrays.items()}
    ctx.memo["tapped", "first"] = tap(given["first"].double(), torch.zeros(1, *tiny.SHAPE, dtype=torch.float64))
    (part, *_) = ctx.fields.match.parts(content.items, ctx.makers)
    draft = drafted(ctx, content, [part])
    direction = torch.randn((4, *tiny.SHAPE), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    start = content.arrays["pixels"][part.rows]
    shift = shifts(part.index, 1, 2)[0]

    def loss(step: float) -> float:
        z = torch.roll(start + step * direction, shift, (2, 3))
        return squeeze.loss_of(given["first"], z, torch.arange(4), 0.3, 10.0, 1.0, 1.0).item()

    draft.step = lambda: None  # type: ignore[method-assign]  # the gradient itself is wanted
    ctx.fields.match.round(draft, ctx)
    gradient = draft._leaves["pixels"].grad
    assert gradient is not None
    slope = (gradient * direction).sum().item()
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def drafted(ctx: Context, content: Content, parts: list[Part]) -> Draft:
    match = ctx.fields.match
    return Draft(
        ctx.fields.store, content, parts, match.optimise(),
        rounds=match.total_rounds, classes=4, device=ctx.device.torch,
    )  # fmt: skip


# --- the loop ---


@pytest.mark.parametrize(
    ("init", "arch", "settings"), [("noise", "convnet", {"width": 12}), ("real", "resnet10", {"width": 8})]
)
def test_the_engine_agrees_with_the_plain_loop(init: str, arch: str, settings: Any) -> None:
    given = {"first": network(arch, 0, **settings), "second": network(arch, 1, **settings)}
    rounds, lr, jitter = 12, 0.02, 2
    ctx = context({"init": init, "block": 3}, given, rounds=rounds, lr=lr, jitter=jitter, alpha=0.3, network="second")
    start = ctx.fields.store.begin(ctx)
    content = engine.build_content(ctx)
    for part in ctx.fields.match.parts(content.items, ctx.makers):
        plain = squeeze.recover(
            given["second"], start.arrays["pixels"][part.rows], content.items.cls[part.rows],
            shifts(part.index, rounds, jitter), lr=lr, alpha=0.3,
        )  # fmt: skip
        gap = (content.arrays["pixels"][part.rows] - plain).abs().max().item()
        assert gap < 2e-4, (part.index, gap)
        assert (plain - start.arrays["pixels"][part.rows]).abs().max() > 3 * lr


def test_every_pixel_lies_between_black_and_white_after_every_round() -> None:
    ctx = context(lr=0.5)
    content = ctx.fields.store.begin(ctx)
    assert (ctx.fields.store.decode(content, torch.arange(12), open=True) < 0).any()
    draft = drafted(ctx, content, ctx.fields.match.parts(content.items, ctx.makers))
    for draft.round in range(3):
        ctx.fields.match.round(draft, ctx)
        x, _ = draft.batch(draft.rows)
        assert x.min() >= -1e-6
        assert x.max() <= 1 + 1e-6


def test_recovery_lowers_cross_entropy_and_statistics_and_reports_the_forms_that_there_are() -> None:
    ctx = tiny.context(
        ipc=3, store=choice("synthetic"), match=choice("statistics", rounds=40, lr=0.1, jitter=1, alpha=0.1)
    )
    start, content = ctx.fields.store.begin(ctx), engine.build_content(ctx)
    store, match = ctx.fields.store, ctx.fields.match
    before = match.facts(ctx, start, store.seal(start))["losses"]
    after = match.facts(ctx, content, store.seal(content))["losses"]
    assert after.keys() == {"first"}  # the other networks of the table meet no set
    assert list(after["first"]) == ["open", "rendered"]
    for form in ("open", "rendered"):
        for term in ("cross-entropy", "statistics"):
            assert after["first"][form][term] < 0.7 * before["first"][form][term]


def test_networks_stay_bit_for_bit_what_they_were() -> None:
    given = {"first": network(seed=0), "second": network(seed=1)}
    before = {name: tiny.state(made) for name, made in given.items()}
    engine.build_content(context({"init": "real"}, given, adjust_steps=3, adjust_rho=0.5))
    for name, made in given.items():
        assert all(torch.equal(before[name][key], value) for key, value in made.state_dict().items())
        assert not any(module.training for module in made.modules())
        assert all(p.grad is None and not p.requires_grad for p in made.parameters())


# --- the augmentation, and CDA's curriculum of it ---


def test_the_cosine_has_the_values_of_the_paper() -> None:
    values = [smallest_share("cosine", 1.0, t, 4000, 0.08) for t in (0, 1000, 2000, 3000, 3999, 4000)]
    assert values == pytest.approx([1.0, 0.8653, 0.54, 0.2147, 0.08, 0.08], abs=5e-5)


@pytest.mark.parametrize("curriculum", ["cosine", "linear", "step"])
@pytest.mark.parametrize("milestone", [0.25, 0.5, 1.0])
def test_a_curriculum_falls_from_the_whole_to_its_end_at_the_milestone(curriculum: Any, milestone: float) -> None:
    values = [smallest_share(curriculum, milestone, t, 400, 0.08) for t in range(401)]
    assert values[0] == 1.0
    end = int(400 * milestone)
    assert values[end:] == [0.08] * (401 - end)
    assert values[end - 1] > 0.08
    assert all(later <= earlier for earlier, later in zip(values, values[1:], strict=False))
    middle = {"cosine": 0.54, "linear": 0.54, "step": 1.0}[curriculum]
    assert values[end // 2] == pytest.approx(middle)


def test_in_the_first_round_of_a_curriculum_the_whole_image_is_seen() -> None:
    found = Statistics(rounds=9, jitter=0, resized_crop=True, curriculum="cosine")
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        assert torch.equal(found._augment(x, rng(seed, "view"), 0), x)
    assert not all(torch.equal(found._augment(x, rng(seed, "view"), 8), x) for seed in range(20))


def test_crops_keep_at_least_the_smallest_share() -> None:
    spots = torch.arange(1024.0).view(1, 1, 32, 32)
    for smallest in (0.08, 0.5, 0.9):
        shares = []
        for seed in range(60):
            cut = resized_crop(spots, rng(seed, "view"), False, smallest)
            side = (cut.max() - cut.min()).item() / 1023.0  # of the height, nearly
            shares.append(side)
        assert min(shares) > (smallest * 3 / 4) ** 0.5 - 0.12
        assert min(shares) < smallest**0.5 + 0.15


def test_cda_with_its_milestone_at_the_beginning_is_sre2l_bit_for_bit() -> None:
    plain = learned(**CROPS)
    assert torch.equal(learned(**CROPS, curriculum="cosine", milestone=0.0), plain)
    assert not torch.equal(learned(**CROPS, curriculum="cosine"), plain)
    assert not torch.equal(learned(**CROPS, min_scale=0.5), plain)


def test_a_curriculum_without_crops_is_refused() -> None:
    with pytest.raises(
        DatastillError, match="was given curriculum=cosine, which is of resized crops, but resized_crop"
    ):
        context(curriculum="cosine")


def test_two_sided_shifts_cover_both_directions() -> None:
    spot = torch.zeros(1, 1, 16, 16)
    spot[:, :, 0, 0] = 1.0
    found, match = set(), Statistics(jitter=2, two_sided=True)
    for round_ in range(300):
        rolled = match._augment(spot, rng(0, 0, 0, round_, "view"))
        found.add(divmod(int(rolled[0].flatten().argmax()), 16))
    wanted = {(down % 16, right % 16) for down in range(-2, 3) for right in range(-2, 3)}
    assert found == wanted


# --- resume ---


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("after", [1, 4, 6, 7, 11])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    adjusted: bool, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sets of six rounds each, in one pass or, against networks of their own, one after another."""
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
    directed = {"adjust_steps": 3, "adjust_rho": 0.5} if adjusted else {}
    recipe = tiny.recipe(
        ipc=3, store=choice("synthetic", init="real"), label=choice("hard"),
        match=choice("statistics", rounds=6, lr=0.1, jitter=2, **CROPS, **directed),
    )  # fmt: skip

    def run(name: str, **options: Any) -> None:
        engine.distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / name, **options)

    run("plain")
    match, plain, rounds = type(tiny.context(given={}).fields.match), Statistics.round, 0

    def fragile(self: Any, draft: Any, ctx: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == after + 1:
            raise KeyboardInterrupt
        return plain(self, draft, ctx)

    monkeypatch.setattr(match, "round", fragile)
    if adjusted or after < 6:  # all sets in one pass take six rounds
        with pytest.raises(KeyboardInterrupt):
            run("set")
    monkeypatch.setattr(match, "round", plain)
    run("set", resume=True)
    for path in (tmp_path / "plain").rglob("*"):
        if path.is_file() and path.name != "run.json":
            assert (tmp_path / "set" / path.relative_to(tmp_path / "plain")).read_bytes() == path.read_bytes()
