"""The draft: gradients at pixels chained into what is learned, one optimiser per array, schedules, and resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.draft import Draft
from datastill.fields import Content, Context, Optimise, Part
from datastill.recipe import choice
from datastill.runtime.files import load_arrays, save_arrays
from reference import tiny

PLAN = {"compensators": Optimise(0.25, (0.5, 0.9), 1e-8, "cosine")}


def opened(**changes: Any) -> tuple[Context, Content, list[Part]]:
    ctx = tiny.context(given={}, **({"ipc": 5} | changes))
    content = ctx.fields.store.begin(ctx)
    return ctx, content, ctx.fields.match.parts(content.items, ctx.makers)


def drafted(
    ctx: Context, content: Content, parts: list[Part], rounds: int = 10, plan: dict[str, Optimise] = PLAN
) -> Draft:
    return Draft(ctx.fields.store, content, parts, plan, rounds=rounds, classes=4, device=torch.device("cpu"))


def rate(draft: Draft) -> float:
    return float(draft._optimisers["compensators"].param_groups[0]["lr"])


def noise(shape: Any, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(draft: Draft, steps: int) -> None:
    for _ in range(steps):
        x, _ = draft.batch(draft.rows)
        draft.pull(draft.rows, noise(x.shape, draft.round))
        draft.step()
        draft.round += 1


def test_the_cosine_starts_at_lr_is_half_of_it_at_half_time_and_ends_near_zero() -> None:
    draft = drafted(*opened(), rounds=1000)
    rates = []
    for draft.round in range(1000):
        draft.step()
        rates.append(rate(draft))
    assert rates[0] == 0.25
    assert rates[500] == pytest.approx(0.125, rel=1e-12)
    assert 0 < rates[999] < 1e-6
    assert rates[999] == pytest.approx(6.17e-7, rel=1e-2)
    assert sum(rates) == pytest.approx(125.125, rel=1e-6)
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))


def test_a_constant_schedule_holds_its_rate() -> None:
    draft = drafted(*opened(), plan={"compensators": Optimise(0.1)})
    for draft.round in range(10):
        draft.step()
        assert rate(draft) == 0.1


def test_a_batch_is_the_open_form_and_hard_targets_in_the_order_asked_for() -> None:
    ctx, content, parts = opened()
    content.arrays["compensators"] += noise(content.arrays["compensators"].shape, 0)
    draft = drafted(ctx, content, parts[:2])
    x, target = draft.batch(draft.rows)
    rows = torch.cat([parts[0].rows, parts[1].rows])
    assert torch.equal(draft.rows, rows)
    assert torch.equal(x, ctx.fields.store.decode(content, rows, open=True))
    assert x.is_leaf
    assert x.requires_grad
    assert torch.equal(target, torch.eye(4).repeat(2, 1))
    some = rows[torch.tensor([6, 1])]
    x, target = draft.batch(some)
    assert torch.equal(x, ctx.fields.store.decode(content, some, open=True))
    assert target.argmax(dim=1).tolist() == content.items.cls[some].tolist()


def test_pulls_add_up_until_the_step() -> None:
    ctx, content, parts = opened()
    whole, halves = (drafted(ctx, content, parts[:2]) for _ in range(2))
    dx = noise((8, *tiny.SHAPE), 0)
    whole.pull(whole.rows, dx)
    halves.pull(halves.rows[:3], dx[:3])
    halves.pull(halves.rows[3:], dx[3:])
    mine, theirs = (d._leaves["compensators"].grad for d in (whole, halves))
    assert mine is not None
    assert theirs is not None
    torch.testing.assert_close(mine, theirs)
    wanted = torch.stack([dx[:4].sum(dim=0), dx[4:].sum(dim=0)]) * content.arrays["std"]
    torch.testing.assert_close(mine, wanted)


def test_a_step_is_adams() -> None:
    ctx, content, parts = opened()
    draft = drafted(ctx, content, parts[:1], rounds=3)
    u = torch.nn.Parameter(torch.zeros(1, *tiny.SHAPE))
    adam = torch.optim.Adam([u], betas=(0.5, 0.9), eps=1e-8)
    for step, share in enumerate((1.0, 0.75, 0.25)):
        dx = noise((4, *tiny.SHAPE), step)
        draft.pull(draft.rows, dx)
        draft.step()
        draft.round += 1
        adam.param_groups[0]["lr"] = 0.25 * share
        u.grad = dx.sum(dim=0, keepdim=True) * content.arrays["std"]
        adam.step()
    torch.testing.assert_close(draft.arrays()["learned.compensators"], u.detach())


def test_parts_that_run_in_turn_do_not_disturb_each_other() -> None:
    ctx, content, parts = opened()
    before = content.arrays["compensators"].clone()
    first = drafted(ctx, content, parts[:2])
    run(first, 3)
    assert torch.equal(content.arrays["compensators"], before)
    first.commit()
    after = content.arrays["compensators"].clone()
    moved = (after != before).flatten(1).any(dim=1)
    units = {int(content.items.unit[p.rows[0]]) for p in parts[:2]}
    assert moved.nonzero().flatten().tolist() == sorted(units)
    second = drafted(ctx, content, parts[2:])
    run(second, 3)
    second.commit()
    assert torch.equal(content.arrays["compensators"][moved], after[moved])
    assert (content.arrays["compensators"][~moved] != 0).flatten(1).any(dim=1).all()


def test_the_store_projects_after_every_step() -> None:
    ctx, content, parts = opened(store=choice("compensated", bound=0.01))
    draft = drafted(ctx, content, parts)
    run(draft, 1)
    u = draft.arrays()["learned.compensators"] * content.arrays["std"]
    assert u.abs().max().item() == pytest.approx(0.01, rel=1e-6)


def test_a_draft_goes_on_from_its_arrays_bit_for_bit(tmp_path: Any) -> None:
    ctx, content, parts = opened()
    unbroken = drafted(ctx, content, parts)
    run(unbroken, 10)
    for at in (0, 1, 6, 10):
        early = drafted(ctx, content, parts)
        run(early, at)
        save_arrays(tmp_path / "draft.safetensors", early.arrays())
        late = drafted(ctx, content, parts)
        late.load(load_arrays(tmp_path / "draft.safetensors"))
        assert late.round == at
        run(late, 10 - at)
        mine, theirs = unbroken.arrays(), late.arrays()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_a_match_keeps_in_its_state_goes_on_and_its_memo_does_not(tmp_path: Any) -> None:
    ctx, content, parts = opened()
    early = drafted(ctx, content, parts)
    run(early, 2)
    early.state |= {"mean/first.1": noise((3, 2), 0), "visits": torch.tensor([1, 2, 3])}
    early.memo["made again"] = object()
    save_arrays(tmp_path / "draft.safetensors", early.arrays())
    late = drafted(ctx, content, parts)
    assert late.state == late.memo == {}
    late.load(load_arrays(tmp_path / "draft.safetensors"))
    assert late.state.keys() == early.state.keys()
    assert all(torch.equal(early.state[name], value) for name, value in late.state.items())
    assert all(early.state[name].dtype == value.dtype for name, value in late.state.items())
    assert late.memo == {}


def test_a_draft_knows_the_classes_of_its_rows_without_asking_the_device() -> None:
    ctx, content, parts = opened()
    assert drafted(ctx, content, parts[1:3]).cls.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_filling_writes_units_in_ascending_order() -> None:
    ctx, content, parts = opened()
    draft = drafted(ctx, content, parts)
    values = torch.arange(6.0).view(6, 1, 1, 1).expand(6, *tiny.SHAPE)
    draft.fill("compensators", values)
    draft.commit()
    assert torch.equal(content.arrays["compensators"], values)


def test_a_part_of_a_content_is_a_copy_with_its_own_numbers() -> None:
    _, content, parts = opened()
    content = replace(content, arrays=content.arrays | {"compensators": noise((6, *tiny.SHAPE), 0)})
    part, units = content.part(parts[4].rows)
    assert torch.equal(part.arrays["compensators"], content.arrays["compensators"][units])
    assert torch.equal(content.pictures.pixels[content.items.picture[parts[4].rows]], part.pictures.pixels)
    assert part.items.unit.tolist() == [0, 0, 0, 0]
    assert part.items.picture.tolist() == [0, 1, 2, 3]
    part.arrays["compensators"].zero_()
    assert content.arrays["compensators"].abs().min() > 0
