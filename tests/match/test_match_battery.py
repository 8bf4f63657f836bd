"""What every registered match must do, and what the two controls among them are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Match, registered
from datastill.recipe import choice
from reference import tiny

MATCHES = sorted(registered("match"))


def started(name: str, **changes: Any) -> tuple[Context, Match, Content]:
    """Return a context on cached networks, its match and a freshly opened content: N = 2, four units."""
    ctx = tiny.context(match=tiny.chosen("match", name), **changes)
    return ctx, ctx.fields.match, ctx.fields.store.begin(ctx)


def learned(content: Content) -> dict[str, Tensor]:
    return {name: content.arrays[name] for name in content.learned}


@pytest.mark.parametrize("name", MATCHES)
def test_parts_are_disjoint_and_numbered_and_meet_networks_of_the_table(name: str) -> None:
    ctx, match, content = started(name)
    parts = match.parts(content.items, ctx.makers)
    assert [p.index for p in parts] == list(range(len(parts)))
    rows = torch.cat([p.rows for p in parts]) if parts else torch.empty(0)
    assert rows.unique().numel() == rows.numel()
    assert {p.network for p in parts} <= {*ctx.makers, ""}
    assert bool(parts) == (match.total_rounds > 0)


@pytest.mark.parametrize("name", MATCHES)
def test_a_run_is_finite_and_the_same_every_time_and_in_every_grouping(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [learned(engine.build_content(started(name)[0])) for _ in range(2)]
    monkeypatch.setitem(engine.GROUP_VALUES, "cpu", 0)
    alone = learned(engine.build_content(started(name)[0]))
    for key, value in found[0].items():
        assert value.isfinite().all()
        assert torch.equal(value, found[1][key])
        torch.testing.assert_close(value, alone[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MATCHES)
def test_a_run_changes_with_the_seed_where_anything_is_learned(name: str) -> None:
    one, two = (learned(engine.build_content(started(name, seed=seed)[0])) for seed in (0, 1))
    moved = any(value.abs().sum() > 0 for value in one.values())
    assert moved == any(not torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize("name", MATCHES)
def test_metrics_are_one_finite_number_per_part(name: str) -> None:
    ctx, match, content = started(name)
    parts = match.parts(content.items, ctx.makers)
    for group in engine._groups(parts, ctx):
        draft = Draft(
            ctx.fields.store, content, group, match.optimise(),
            rounds=match.total_rounds, classes=4, device=ctx.device.torch,
        )  # fmt: skip
        match.begin(draft, ctx)
        for value in match.round(draft, ctx).values():
            assert value.shape == (len(group),)
            assert value.isfinite().all()
            assert not value.requires_grad


@pytest.mark.parametrize("name", MATCHES)
def test_networks_and_their_files_stay_as_they_were(name: str) -> None:
    ctx, match, content = started(name)
    networks = {maker: ctx.network(maker) for maker in ctx.makers}
    before = {maker: tiny.state(network) for maker, network in networks.items()}
    files = [ctx.bank.folder(ctx.training(maker)) / "network.safetensors" for maker in ctx.makers]
    written = [file.read_bytes() for file in files]
    match.facts(ctx, engine.build_content(ctx), ctx.fields.store.seal(content))
    for maker, network in networks.items():
        assert all(torch.equal(before[maker][key], value) for key, value in network.state_dict().items())
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert [file.read_bytes() for file in files] == written


@pytest.mark.parametrize("name", MATCHES)
def test_facts_of_a_match_are_plain_data(name: str) -> None:
    ctx, match, _ = started(name)
    content = engine.build_content(ctx)
    facts = match.facts(ctx, content, ctx.fields.store.seal(content))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_noise_has_the_norms_it_was_given_in_the_units_of_the_store() -> None:
    norms = [0.0, 1.5, 20.0, 3.0]
    ctx = tiny.context(match=choice("noise", norms=norms))
    u = engine.build_content(ctx).arrays["compensators"]
    assert u.flatten(1).norm(dim=1).tolist() == pytest.approx(norms, rel=1e-6)
    assert u.shape == (4, *tiny.SHAPE)


def test_noise_is_gaussian_and_different_for_every_unit() -> None:
    data = tiny.dataset(shape=(3, 32, 32))
    numbers = 3 * 32 * 32
    ctx = tiny.context(data, given=dict.fromkeys(tiny.NETWORKS), match=choice("noise", norms=[numbers**0.5] * 4))  # type: ignore[arg-type]  # never asked
    u = engine.build_content(ctx).arrays["compensators"].flatten(1)
    assert u.std(dim=1).tolist() == pytest.approx([1.0] * 4, abs=0.01)
    assert u.mean(dim=1).abs().max() < 0.05
    share = (u.abs() < 1.0).float().mean(dim=1)
    assert share.tolist() == pytest.approx([0.6827] * 4, abs=0.03)
    assert torch.corrcoef(u).fill_diagonal_(0.0).abs().max() < 0.06


def test_noise_for_another_number_of_compensators_is_refused() -> None:
    with pytest.raises(DatastillError, match="match 'noise' was given 3 norms for 4 compensators; give one for each"):
        engine.build_content(tiny.context(match=choice("noise", norms=[1.0, 2.0, 3.0])))


def test_none_learns_nothing() -> None:
    ctx = tiny.context(match=choice("none"))
    content = engine.build_content(ctx)
    assert not content.arrays["compensators"].any()
    sealed = ctx.fields.store.seal(content)
    naturals = sealed.pictures.pixels[sealed.items.picture]
    assert torch.equal(ctx.fields.store.expand(sealed), naturals)


@pytest.mark.parametrize(("name", "lacks"), [("statistics", "gradients and sets"), ("noise", "compensators")])
def test_what_needs_compensators_is_refused_with_a_store_that_has_none(name: str, lacks: str) -> None:
    with pytest.raises(DatastillError, match=f"match '{name}' needs {lacks}, which no other choice here provides"):
        tiny.context(given={}, store=choice("pixels"), match=tiny.chosen("match", name))
