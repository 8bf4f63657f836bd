"""G-VBSM's matching: what it shares with SRe2L, averages, drops, turns and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill import engine
from datastill.errors import DatastillError
from datastill.fields import Context
from datastill.match import Statistics, Various
from datastill.match.various import _Averages
from datastill.networks.taps import tap
from datastill.recipe import NetworkRecipe, choice
from datastill.runtime.seeds import rng
from reference import tiny
from reference.backbones import NETWORKS, drafted, network, opened, run, various

# What is left of the method when all that it adds to SRe2L is taken away.
BARE: dict[str, Any] = {"average": 0.0, "convs": False, "densify": 0.0}


# --- what it shares with SRe2L ---


@pytest.mark.parametrize("crops", [{}, {"resized_crop": True, "flip": True}])
def test_without_what_it_adds_loss_and_gradient_are_those_of_sre2l_to_the_bit(crops: dict[str, Any]) -> None:
    networks = {name: NETWORKS[name] for name in ("first",)}
    same = {"rounds": 6, "lr": 0.25, "alpha": 0.01, "jitter": 4} | crops
    for arch in ("convnet", "resnet10"):
        learned, told, slopes = [], [], []
        for match in (choice("statistics", **same), choice("various", **(same | BARE))):
            ctx = tiny.context(
                given={"first": network(arch)}, ipc=3, networks=networks, store=choice("synthetic"), match=match
            )
            content = ctx.fields.store.begin(ctx)
            parts = ctx.fields.match.parts(content.items, ctx.makers)
            draft = drafted(ctx, content, parts)
            step = draft.step
            draft.step = lambda: None  # type: ignore[method-assign]  # the gradient itself is wanted
            ctx.fields.match.round(draft, ctx)
            slope = draft._leaves["pixels"].grad
            assert slope is not None
            slopes.append(slope)
            draft._leaves["pixels"].grad, draft.step = None, step  # type: ignore[method-assign]  # back to the own one
            draft.state.clear()
            told.append(run(draft, ctx, 6))
            learned.append(draft.arrays()["learned.pixels"])
        assert torch.equal(*slopes)
        assert torch.equal(*learned)
        for mine, theirs in zip(*told, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_sets_across_classes_and_whole_runs_are_those_of_sre2l_to_the_bit() -> None:
    same: dict[str, Any] = {"rounds": 5, "lr": 0.25, "alpha": 0.01, "jitter": 4, "flip": True}
    learned = []
    for match in (choice("statistics", **same), choice("various", **(same | BARE | {"drop": 1.0}))):
        ctx = tiny.context(
            given={"first": network()}, ipc=3, networks={"first": NETWORKS["first"]},
            store=choice("synthetic", block=2), match=match,
        )  # fmt: skip
        learned.append(engine.build_content(ctx).arrays["pixels"])
    assert torch.equal(*learned)


def test_the_distance_is_sre2ls_where_only_batch_norm_is_matched() -> None:
    z = torch.rand(8, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    ctx, _ = opened({"convs": False}, networks={"third": NETWORKS["third"]})
    target = torch.eye(4).repeat(2, 1)
    mine = various(ctx).losses(various(ctx)._target(ctx, "third"), z, target, 2)
    theirs = Statistics().losses(tap(ctx.network("third"), z), z, target, 2)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


# --- averages and drops ---


def test_an_average_has_the_value_of_the_past_and_the_gradient_of_the_present() -> None:
    ctx, content = opened()
    draft = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers))
    kept = torch.ones(2, 3, dtype=torch.bool)
    seen = torch.zeros(2, 5)
    for visit in range(1, 31):
        found = torch.full((2, 5), 3.0, requires_grad=True)
        seen = _Averages(various(ctx), draft, "first", kept)(found, 1)
        torch.testing.assert_close(seen, torch.full((2, 5), 3.0 * (1 - 0.8**visit)))
        assert torch.equal(torch.autograd.grad(seen.sum(), found)[0], torch.ones(2, 5))
    assert 3.0 - float(seen.detach().max()) == pytest.approx(3 * 0.8**30, rel=1e-3)
    assert list(draft.state) == ["average/first/1"]


def test_bias_correction_shows_a_constant_as_it_is_from_the_first_visit_on() -> None:
    ctx, content = opened({"bias_correction": True})
    draft = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers))
    kept = torch.tensor([[True], [False]])
    for _ in range(3):
        seen = _Averages(various(ctx), draft, "first", kept)(torch.full((2, 5), 3.0), 0)
        torch.testing.assert_close(seen[0], torch.full((5,), 3.0))
        assert seen.isfinite().all()
    assert draft.state["visits/first/0"].flatten().tolist() == [3.0, 0.0]
    assert not draft.state["average/first/0"][1].any()


def test_dropped_convolutions_count_nothing_and_their_averages_stay() -> None:
    ctx, content = opened({"drop": 1.0})
    draft = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers))
    hooks = various(ctx)._target(ctx, "third").taps.hooks
    told = run(draft, ctx, 3)
    assert float(told[1]["statistics"].abs().max()) == 0.0  # instance norm alone has no hook left
    assert float(told[2]["statistics"].min()) > 0.0
    norms = {f"average/third/{i}" for i, hook in enumerate(hooks) if hook.kind == "norm"}
    assert {name for name in draft.state if "third" in name} == norms


def test_drops_are_drawn_for_each_convolution_part_and_round_and_never_for_batch_norm() -> None:
    ctx, content = opened({"drop": 0.4})
    draft = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers))
    taps = various(ctx)._target(ctx, "third").taps
    norm = torch.tensor([hook.kind == "norm" for hook in taps.hooks])
    seen = []
    for draft.round in range(200):
        seen.append(various(ctx)._kept(draft, ctx, taps))
        assert torch.equal(seen[-1], various(ctx)._kept(draft, ctx, taps))
    share = torch.stack(seen).float().mean(0)
    assert share[:, norm].eq(1.0).all()
    assert (share[:, ~norm] - 0.6).abs().max() < 0.15
    assert not torch.equal(seen[0][0], seen[0][1])
    everything = drafted(*opened({"drop": 0.0}), draft.parts)
    assert various(opened({"drop": 0.0})[0])._kept(everything, ctx, taps).all()


def test_a_dropped_hook_of_one_part_is_none_of_another_parts_affair() -> None:
    ctx, content = opened()
    match, parts = various(ctx), various(ctx).parts(content.items, ctx.makers)
    met, (x, target) = match._target(ctx, "third"), drafted(ctx, content, parts).batch(content_rows(parts))
    every = torch.ones(len(parts), len(met.taps.hooks), dtype=torch.bool)
    some = every.clone()
    some[0, 0] = False
    (_, whole), (_, less) = (match.losses(met, x, target, len(parts), kept) for kept in (every, some))
    assert less[0] < whole[0]
    assert torch.equal(less[1:], whole[1:])


def content_rows(parts: list[Any]) -> Tensor:
    return torch.cat([part.rows for part in parts])


def test_the_distance_is_linear_in_the_weight_of_the_first_hook_which_is_the_picture_itself() -> None:
    ctx, _ = opened()
    z, target = torch.rand(4, *tiny.SHAPE, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    met = various(ctx)._target(ctx, "third")
    values = [float(Various(first=w).losses(met, z, target, 1)[1]) for w in (0.0, 1.0, 10.0)]
    assert values[1] > values[0]
    assert values[2] - values[0] == pytest.approx(10 * (values[1] - values[0]), rel=1e-5)
    assert met.taps.hooks[0].name == "body.stem.0"


# --- turns and parts ---


def test_networks_take_turns_and_each_is_met_equally_often() -> None:
    ctx, content = opened({"rounds": 9})
    draft, met = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers)), []
    target = various(ctx)._target

    def noted(ctx: Context, name: str) -> Any:
        met.append(name)
        return target(ctx, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Various, "_target", lambda _, ctx, name: noted(ctx, name))
        run(draft, ctx, 9)
    assert met == ["first", "second", "third"] * 3


def test_of_fewer_backbones_the_first_ones_take_turns() -> None:
    ctx, content = opened({"backbones": 2})
    draft = drafted(ctx, content, various(ctx).parts(content.items, ctx.makers))
    run(draft, ctx, 4)
    assert {name.split("/")[1] for name in draft.state} == {"first", "second"}
    facts = various(ctx).facts(ctx, content, ctx.fields.store.seal(content))
    assert list(facts["losses"]) == ["first", "second"]
    with pytest.raises(DatastillError, match="was given backbones=4, but the table 'networks' has 3; ask for at most"):
        opened({"backbones": 4})


def test_parts_are_the_sets_of_the_store_and_share_a_pass_where_they_are_of_one_size() -> None:
    ctx, content = opened(ipc=5)  # 20 pictures in sets of 8, 8 and 4
    parts = various(ctx).parts(content.items, ctx.makers)
    assert [len(part.rows) for part in parts] == [8, 8, 4]
    assert [content.items.cls[part.rows].unique().tolist() for part in parts] == [[0, 1], [1, 2, 3], [3]]
    assert [[p.index for p in group] for group in engine._groups(parts, ctx)] == [[0, 1], [2]]


def test_a_grouped_run_learns_what_runs_one_by_one_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(values: int) -> Tensor:
        monkeypatch.setitem(engine.GROUP_VALUES, "cpu", values)
        return engine.build_content(opened({"rounds": 6, "lr": 0.02})[0]).arrays["pixels"]

    torch.testing.assert_close(learned(1 << 30), learned(0), rtol=0, atol=1e-5)


def test_networks_without_anything_to_tap_are_refused() -> None:
    odd = {"odd": NetworkRecipe(arch="convnet_in", settings={"width": 8})}
    with pytest.raises(DatastillError, match="reads BatchNorm layers alone with convs=false, but network 'odd' has no"):
        opened({"convs": False}, networks=odd)
    opened(networks=odd)
    with pytest.raises(DatastillError, match="match 'various' asks networks of the recipe, but the table"):
        opened(networks={}, label=choice("hard"))


# --- augmentation ---


def test_crops_leave_a_border_in_the_mean_colour_and_are_one_draw_for_the_batch() -> None:
    colour = (0.5, 0.45, 0.4)
    x, found, seen = torch.ones(2, 3, 8, 8), Various(crop=2, jitter=0), set()
    for i in range(300):
        cut = found._augment(x, rng(i, "view"), colour)
        assert cut.shape == x.shape
        assert torch.equal(cut[0], cut[1])
        inside = cut[0, 0] == 1.0
        assert torch.equal(cut[0, :, ~inside], torch.tensor(colour)[:, None].expand(3, int((~inside).sum())))
        seen.add((tuple(inside.any(1).tolist()), tuple(inside.any(0).tolist())))
    assert len(seen) == 25
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(found._augment(leaf, rng(0, "view"), colour).sum(), leaf)
    assert set(slope.unique().tolist()) <= {0.0, 1.0}
