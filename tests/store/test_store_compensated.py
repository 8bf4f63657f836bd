"""INFER's store: the budget, the order of its items, Clip, rounding, and the renderings that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.engine import build_content
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Pictures
from datastill.recipe import choice
from datastill.store import Compensated
from datastill.store.compensated import Budget
from reference import infer, tiny

TABLE = [  # K, M, ipc, N, natural, compensators, leftover, items: the specification's own
    (10, 4, 10, 7, 70, 28, 2, 350),
    (10, 4, 50, 35, 350, 140, 10, 1750),
    (100, 4, 10, 9, 900, 36, 64, 4500),
    (100, 4, 50, 48, 4800, 192, 8, 24000),
    (100, 4, 100, 96, 9600, 384, 16, 48000),
    (200, 4, 10, 9, 1800, 36, 164, 9000),
    (200, 4, 50, 49, 9800, 196, 4, 49000),
    (1000, 3, 10, 9, 9000, 27, 973, 36000),
    (1000, 3, 50, 49, 49000, 147, 853, 196000),
]


def opened(**changes: Any) -> tuple[Context, Content]:
    """Return a context on networks that are never asked, and its freshly opened content."""
    ctx = tiny.context(given={}, **changes)
    return ctx, ctx.fields.store.begin(ctx)


def with_patterns(content: Content, scale: float = 0.5, seed: int = 0) -> Content:
    """Return the content with random compensators, of this deviation in normalised units."""
    u = torch.randn(content.arrays["compensators"].shape, generator=torch.Generator().manual_seed(seed))
    return replace(content, arrays=content.arrays | {"compensators": scale * u})


def one_picture(values: Tensor, u: Tensor, store: Compensated, **arrays: Tensor) -> tuple[Content, Tensor]:
    """Return a content of one grey picture under one compensator in pixel units (std 1), and its only row."""
    items = Items.of(cls=torch.zeros(1, dtype=torch.long), unit=torch.zeros(1), picture=torch.zeros(1))
    made = {"compensators": u.view(1, 1, *u.shape), "std": torch.ones(1, 1, 1, 1)} | arrays
    content = Content(items, Pictures(values.view(1, 1, *values.shape), torch.zeros(1).long(), ("a",)), made)
    return content, torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(("classes", "makers", "ipc", "n", "natural", "compensators", "leftover", "items"), TABLE)
def test_the_budget_is_that_of_the_specification(classes, makers, ipc, n, natural, compensators, leftover, items):
    assert Budget.of(ipc, classes, makers) == Budget(n, natural, compensators, leftover, items)


def test_the_budget_is_the_largest_that_fits_for_all_small_numbers() -> None:
    for classes in range(1, 13):
        for makers in range(1, 8):
            for ipc in range(1, 41):
                found = Budget.of(ipc, classes, makers)
                assert found.sets == infer.budget(ipc, classes, makers)
                assert found.natural + found.compensators + found.leftover == ipc * classes
                assert 0 <= found.leftover < classes + makers
                assert found.items == (makers + 1) * found.sets * classes


def test_the_budget_is_exact_where_floats_are_not() -> None:
    assert int(33 / (6 / 5 + 1)) == 14
    assert Budget.of(33, 5, 6).sets == 15


def test_the_smallest_ipc_buys_one_set_and_one_less_buys_none() -> None:
    for classes in range(1, 13):
        for makers in range(1, 9):
            smallest = Budget.smallest_ipc(classes, makers)
            assert Budget.of(smallest, classes, makers).sets >= 1
            assert Budget.of(smallest - 1, classes, makers).sets == 0


def test_an_ipc_that_buys_nothing_is_refused_with_the_smallest_that_does() -> None:
    with pytest.raises(
        DatastillError, match=r"no room at ipc=1 with 4 classes and 2 networks; ask for --ipc 2 or more"
    ):
        opened(ipc=1)
    opened(ipc=2)
    many = {f"network {i}": tiny.NETWORKS["first"] for i in range(5)}
    with pytest.raises(DatastillError, match=r"4 classes and 5 networks; ask for --ipc 3 or more"):
        opened(ipc=2, networks=many)


def test_a_recipe_without_networks_is_refused() -> None:
    with pytest.raises(DatastillError, match="one compensator per network, but the table 'networks' is empty"):
        opened(networks={}, label=choice("hard"), match=choice("none"))


def test_items_follow_class_maker_and_set() -> None:
    ctx, content = opened(ipc=5)  # N = 3, M = 2
    items, makers, sets = content.items, 2, 3
    expected = [
        (k, 0, n, j - 1, n * makers + j - 1 if j else -1, k * sets + n)
        for k in range(4)
        for j in range(makers + 1)
        for n in range(sets)
    ]
    columns = (items.cls, items.stage, items.set, items.maker, items.unit, items.picture)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
    assert torch.equal(items.cls.bincount(), torch.full((4,), (makers + 1) * sets))
    assert torch.equal(content.pictures.cls, torch.arange(4).repeat_interleave(sets))
    assert content.arrays["compensators"].shape == (sets * makers, *tiny.SHAPE)


def test_the_pictures_are_the_selected_images_one_set_after_another() -> None:
    ctx, content = opened(ipc=5)
    rows = ctx.fields.select.start(3, ctx)
    assert torch.equal(content.pictures.pixels.view(4, 3, *tiny.SHAPE), tiny.dataset().train.pixels[rows])
    assert content.pictures.ids == tuple(tiny.dataset().train.ids[int(r)] for r in rows.flatten())


def test_a_larger_ipc_extends_the_naturals_of_a_smaller_one() -> None:
    (_, small), (_, large) = opened(ipc=3), opened(ipc=8)
    few, many = len(small.pictures.cls) // 4, len(large.pictures.cls) // 4
    assert (few, many) == (2, 5)
    first = large.pictures.pixels.view(4, many, *tiny.SHAPE)[:, :few]
    assert torch.equal(first, small.pictures.pixels.view(4, few, *tiny.SHAPE))


@pytest.mark.parametrize(("ipc", "leftover"), [(4, 4), (5, 2), (6, 0), (7, 4)])
def test_leftover_budget_buys_at_most_one_more_natural_image_per_class(ipc: int, leftover: int) -> None:
    ctx, content = opened(ipc=ipc, store=choice("compensated", leftover="natural"))
    budget = Budget.of(ipc, 4, 2)
    assert budget.leftover == leftover
    spare = content.items[(content.items.set == budget.sets).nonzero().flatten()]
    assert len(spare) == leftover == len(content.items) - budget.items
    assert spare.cls.bincount(minlength=4).max() <= 1
    assert (spare.maker == -1).all()
    assert (spare.unit == -1).all()
    assert torch.equal(content.pictures.cls[spare.picture], spare.cls)
    assert len(set(content.pictures.ids)) == len(content.pictures.ids) == budget.natural + leftover
    facts = ctx.fields.store.facts(content, ctx)
    assert facts["natural"] + facts["compensators"] + facts["leftover"] == facts["nominal"] == ipc * 4
    assert facts["leftover"] == 0
    plain = opened(ipc=ipc)[1]
    assert torch.equal(content.items.unit[: budget.items], plain.items.unit)
    assert torch.equal(content.pictures.pixels[: budget.natural], plain.pictures.pixels)


def test_leftover_budget_goes_to_classes_that_have_an_image_more() -> None:
    data = tiny.dataset(per_class=(12, 2, 12, 2))  # two of each are in the sets of ipc 4
    store = choice("compensated", leftover="natural")
    ctx = tiny.context(data, given={}, ipc=4, store=store)
    content = ctx.fields.store.begin(ctx)
    assert Budget.of(4, 4, 2).leftover == 4
    assert content.items.cls[content.items.set == 2].tolist() == [0, 2]
    assert ctx.fields.store.facts(content, ctx)["leftover"] == 2


def test_leftover_budget_above_one_image_per_class_stays_unspent() -> None:
    networks = {f"network {i}": tiny.NETWORKS["first"] for i in range(5)}
    ctx = tiny.context(given={}, networks=networks, ipc=4, store=choice("compensated", leftover="natural"))
    content = ctx.fields.store.begin(ctx)
    assert Budget.of(4, 4, 5).leftover == 7
    assert (content.items.set == 1).sum() == 4
    assert ctx.fields.store.facts(content, ctx)["leftover"] == 3


def test_dropped_leftover_is_reported() -> None:
    ctx, content = opened(ipc=4)
    facts = ctx.fields.store.facts(content, ctx)
    assert {k: facts[k] for k in ("nominal", "natural", "compensators", "leftover", "sets", "items")} == {
        "nominal": 16, "natural": 8, "compensators": 4, "leftover": 4, "sets": 2, "items": 24,
    }  # fmt: skip


@pytest.mark.parametrize("storage", ["int8", "fp16"])
@pytest.mark.parametrize("render", ["uint8", "float"])
def test_without_rounds_every_item_is_its_natural_to_the_bit(storage: str, render: str) -> None:
    store = choice("compensated", storage=storage, render=render)
    never_asked: dict[str, Any] = dict.fromkeys(tiny.NETWORKS)
    ctx = tiny.context(given=never_asked, store=store, match=choice("statistics", rounds=0))
    sealed = ctx.fields.store.seal(build_content(ctx))
    images, naturals = ctx.fields.store.expand(sealed), sealed.pictures.pixels[sealed.items.picture]
    assert images.dtype == (torch.uint8 if render == "uint8" else torch.float32)
    assert torch.equal(images, naturals if render == "uint8" else naturals.float() / 255.0)


def test_all_256_grey_values_survive_rendering() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(16, 16)
    store = Compensated()
    content, _ = one_picture(values, torch.zeros(16, 16), store)
    assert torch.equal(store.expand(store.seal(content))[0, 0], values)


def test_clip_of_a_sum_does_not_notice_a_compensator_clamped_to_one() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(0, 256, (64, 64), dtype=np.uint8))
    values[0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    u = torch.from_numpy(rng.normal(0, 1.5, (64, 64)).astype(np.float32))
    store = Compensated(render="float")
    free, row = one_picture(values, u, store)
    clamped, _ = one_picture(values, u.clamp(-1, 1), store)
    assert (u.abs() > 1).float().mean() > 0.3
    assert torch.equal(store.decode(free, row), store.decode(clamped, row))


def test_the_open_form_adds_without_clip_unless_projection_is_asked_for() -> None:
    values, u = torch.full((8, 8), 200, dtype=torch.uint8), torch.full((8, 8), 0.7)
    for project, top in (("none", 200 / 255 + 0.7), ("forward", 1.0)):
        store = Compensated(project=project)  # type: ignore[arg-type]  # a Literal that a loop cannot keep
        content, row = one_picture(values, u, store)
        torch.testing.assert_close(store.decode(content, row, open=True), torch.full((1, 1, 8, 8), top))
        assert torch.equal(store.decode(content, row), torch.ones(1, 1, 8, 8))


def test_the_two_projections_agree_to_the_bit_while_nothing_saturates() -> None:
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.integers(64, 192, (16, 16), dtype=np.uint8))
    u = torch.from_numpy(rng.uniform(-0.2, 0.2, (16, 16)).astype(np.float32))
    content, row = one_picture(values, u, Compensated())
    none = Compensated(project="none").decode(content, row, open=True)
    assert torch.equal(none, Compensated(project="forward").decode(content, row, open=True))


def gradient(values: Tensor, u: Tensor, project: Any) -> Tensor:
    """Return d(sum of open pixels) / du over the K pictures values uint8[K, H, W] that share u float[H, W]."""
    k = len(values)
    items = Items.of(cls=torch.arange(k), unit=torch.zeros(k), picture=torch.arange(k))
    leaf = u.clone().view(1, 1, *u.shape).requires_grad_()
    pictures = Pictures(values.unsqueeze(1), torch.arange(k), ("",) * k)
    content = Content(items, pictures, {"compensators": leaf, "std": torch.ones(1, 1, 1, 1)}, ("compensators",))
    Compensated(project=project).decode(content, torch.arange(k), open=True).sum().backward()
    assert leaf.grad is not None
    return leaf.grad[0, 0]


def test_a_pixel_gets_no_gradient_under_forward_only_where_all_images_are_saturated() -> None:
    values = torch.tensor([[[250, 250, 10, 100]], [[250, 100, 10, 100]], [[250, 100, 200, 100]]], dtype=torch.uint8)
    u = torch.tensor([[0.5, 0.5, -0.5, 0.1]])
    assert gradient(values, u, "forward").tolist() == [[0.0, 2.0, 1.0, 3.0]]
    assert gradient(values, u, "none").tolist() == [[3.0, 3.0, 3.0, 3.0]]


def test_on_the_bound_of_clip_the_derivative_is_one() -> None:
    values = torch.tensor([[[0, 255, 255, 0]]], dtype=torch.uint8)
    assert gradient(values, torch.tensor([[0.0, 0.0, 1e-3, -1e-3]]), "forward").tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_one_compensator_gathers_the_gradient_of_all_its_items_and_of_no_other() -> None:
    _, content = opened(ipc=5)
    leaf = content.arrays["compensators"].requires_grad_()
    weights = torch.randn(len(content.items), *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    (Compensated().decode(content, torch.arange(len(content.items)), open=True) * weights).sum().backward()
    assert leaf.grad is not None
    std = torch.tensor(tiny.dataset().std).view(-1, 1, 1)
    for unit in range(len(leaf)):
        mine = weights[content.items.unit == unit]
        assert len(mine) == 4
        torch.testing.assert_close(leaf.grad[unit], mine.sum(dim=0) * std)


def test_int8_rounding_is_off_by_at_most_half_a_step() -> None:
    _, content = opened(ipc=5)
    content = with_patterns(content, scale=1.5)
    u = (content.arrays["compensators"] * content.arrays["std"]).clamp(-1, 1)
    kept = Compensated().seal(content).arrays["compensators"]
    assert kept.dtype == torch.int8
    assert kept.min() >= -127
    assert (kept.double() / 127 - u.double()).abs().max() <= 1 / 254 + 1e-7
    assert (u.abs() == 1).any()


def test_fp16_keeps_eleven_bits_of_the_clamped_compensator() -> None:
    _, content = opened(ipc=5, store=choice("compensated", storage="fp16"))
    content = with_patterns(content, scale=1.5)
    u = (content.arrays["compensators"] * content.arrays["std"]).clamp(-1, 1)
    kept = Compensated(storage="fp16").seal(content).arrays["compensators"]
    assert kept.dtype == torch.float16
    assert torch.equal(kept, u.half())
    assert (kept.double() - u.double()).abs().max() <= 2.0**-12


@pytest.mark.parametrize("storage", ["int8", "fp16"])
def test_sealing_what_is_sealed_changes_nothing(storage: Any) -> None:
    store = Compensated(storage=storage)
    sealed = store.seal(with_patterns(opened(ipc=5)[1]))
    again = store.seal(sealed)
    assert torch.equal(again.arrays["compensators"], sealed.arrays["compensators"])
    assert torch.equal(store.expand(again), store.expand(sealed))


def test_every_int8_point_is_its_own_rounding() -> None:
    points = torch.arange(-127, 128, dtype=torch.int8).view(1, 255)
    store = Compensated()
    content, _ = one_picture(torch.zeros(1, 255, dtype=torch.uint8), points, store)
    assert torch.equal(store.seal(content).arrays["compensators"].flatten(), points.flatten())


def test_rendered_items_are_the_clipped_sum_to_the_nearest_grey_value() -> None:
    _, content = opened(ipc=5)
    store = Compensated()
    sealed = store.seal(with_patterns(content))
    u = sealed.arrays["compensators"].double() / 127
    x = sealed.pictures.pixels[sealed.items.picture].double() / 255
    wanted = torch.where((sealed.items.unit >= 0).view(-1, 1, 1, 1), x + u[sealed.items.unit.clamp(min=0)], x)
    exact = 255 * wanted.clamp(0, 1)
    assert (store.expand(sealed).double() - exact).abs().max() <= 0.5 + 1e-4
    smooth = Compensated(render="float").expand(sealed)
    assert smooth.dtype == torch.float32
    assert (smooth.double() - wanted.clamp(0, 1)).abs().max() < 1e-6
    assert torch.equal((smooth * 255).round().to(torch.uint8), store.expand(sealed))


def test_expanding_in_blocks_gives_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = opened(ipc=5)
    store = Compensated()
    sealed = store.seal(with_patterns(content))
    whole = store.expand(sealed)
    monkeypatch.setattr("datastill.store.compensated.CHUNK", 7)
    assert torch.equal(store.expand(sealed), whole)


def test_decoding_some_rows_is_decoding_all_and_taking_them() -> None:
    _, content = opened(ipc=5)
    content, rows = with_patterns(content), torch.tensor([30, 2, 17, 2])
    every = Compensated().decode(content, torch.arange(len(content.items)), open=True)
    assert torch.equal(Compensated().decode(content, rows, open=True), every[rows])


def test_the_bound_holds_compensators_in_pixel_units_after_every_step() -> None:
    _, content = opened(ipc=5)
    content, store = with_patterns(content, scale=3.0), Compensated(bound=16 / 255)
    before = content.arrays["compensators"].clone()
    store.settle(content)
    u = content.arrays["compensators"] * content.arrays["std"]
    assert u.abs().max().item() == pytest.approx(16 / 255, rel=1e-6)
    inside = (before * content.arrays["std"]).abs() < 16 / 255
    assert torch.equal(content.arrays["compensators"][inside], before[inside])
    assert inside.any()
    free = with_patterns(opened(ipc=5)[1], scale=3.0)
    Compensated().settle(free)
    assert torch.equal(free.arrays["compensators"], before)


def test_a_bound_above_one_is_refused() -> None:
    with pytest.raises(DatastillError, match=r"'store\.bound' must be between 0\.0 and 1\.0, not 2\.0"):
        opened(store=choice("compensated", bound=2.0))


def test_what_clip_cuts_off_is_measured() -> None:
    ctx, content = opened(ipc=2)  # N = 1: two compensators of four items each
    content.arrays["compensators"] += torch.tensor([-50.0, 0.0]).view(2, 1, 1, 1)
    facts = ctx.fields.store.facts(content, ctx)
    naturals = content.pictures.pixels
    assert facts["saturated_share"] == pytest.approx(0.5)
    assert naturals.shape[0] == 4
    numbers = tiny.SHAPE[0] * tiny.SHAPE[1] * tiny.SHAPE[2]
    assert facts["compensator_norms"] == [pytest.approx(50 * numbers**0.5, rel=1e-6), 0.0]
    assert facts["compensator_max"] == pytest.approx(50 * max(tiny.dataset().std))
