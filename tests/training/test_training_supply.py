"""Batches: full ones, from an endless chain of permutations, any of which can be had again."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.recipe import TrainRecipe, Work
from datastill.training.supply import Batch, Data, batch_rows, batch_visits, supply
from datastill.training.views import View, to_unit

PLAIN = TrainRecipe(crop=0, flip=False, batch=8)
MIXED = TrainRecipe(crop=1, mix="mixup", batch=8)


def work(items: int, batch: int, steps: int) -> Work:
    return Work(items, batch, -(-items // batch), steps)


@given(items=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_batch_is_full_and_every_item_comes_equally_often(items: int, batch: int, seed: int) -> None:
    made = work(items, batch, 12)
    rows = [batch_rows(made, seed, step) for step in range(12)]
    assert {len(r) for r in rows} == {batch}
    stream = np.concatenate(rows)
    whole = len(stream) // items * items
    for start in range(0, whole, items):
        assert sorted(stream[start : start + items]) == list(range(items))
    rest = stream[whole:]
    assert len(set(rest)) == len(rest)


def test_any_step_can_be_had_again_in_any_order() -> None:
    made = work(23, 8, 30)
    forward = [batch_rows(made, 5, step) for step in range(30)]
    for step in (29, 3, 17, 3, 0):
        assert np.array_equal(batch_rows(made, 5, step), forward[step])


@given(items=st.integers(1, 20), batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_visits_count_how_often_an_item_came_before(items: int, batch: int, seed: int) -> None:
    made, seen = work(items, batch, 9), [0] * items
    for step in range(9):
        for row, visit in zip(batch_rows(made, seed, step), batch_visits(made, step), strict=True):
            assert visit == seen[row]
            seen[row] += 1


def test_permutations_differ_between_epochs_and_seeds() -> None:
    made = work(30, 30, 3)
    orders = [tuple(batch_rows(made, seed, step)) for seed in (0, 1) for step in range(3)]
    assert len(set(orders)) == 6
    assert tuple(range(30)) not in orders


def test_a_set_smaller_than_the_batch_fills_it_by_repeating(data: Data) -> None:
    few = Data(data.images[:5], data.classes[:5], None, "classes")
    made = work(5, 16, 2)
    (one, _) = supply(few, made, PLAIN, 0, teach=lambda x: x.flatten(1))
    assert one.x.shape == (16, 3, 8, 8)
    counts = one.rows.bincount(minlength=5)
    assert counts.min() >= 3
    assert counts.sum() == 16


def test_labels_belong_to_their_items_in_every_batch(data: Data) -> None:
    marked = Data(data.images, data.classes, torch.arange(20.0)[:, None].expand(20, 3), "logits")
    for batch in supply(marked, work(20, 8, 6), PLAIN, 0):
        assert torch.equal(batch.target[:, 0].long(), batch.rows)
        assert torch.equal(batch.hard, data.classes[batch.rows])
        assert torch.equal(batch.x, to_unit(data.images[batch.rows]))
        assert batch.kind == "logits"


def test_crops_and_flips_leave_labels_alone(data: Data) -> None:
    assert data.targets is not None
    for batch in supply(data, work(20, 8, 4), TrainRecipe(crop=4, flip=True, batch=8), 0):
        assert torch.equal(batch.target, data.targets[batch.rows])
        assert not torch.equal(batch.x, to_unit(data.images[batch.rows]))


def same(one: Batch, two: Batch) -> bool:
    pairs = [(one.x, two.x), (one.target, two.target), (one.hard, two.hard), (one.rows, two.rows)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_starting_later_is_skipping_batches(data: Data, mix: str) -> None:
    recipe = TrainRecipe(crop=2, mix=mix, batch=8)  # type: ignore[arg-type]
    made = work(20, 8, 9)
    whole = list(supply(data, made, recipe, 3))
    assert len(whole) == 9
    for start in range(10):
        rest = list(supply(data, made, recipe, 3, start=start))
        assert len(rest) == 9 - start
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    again = list(islice(supply(data, work(20, 8, 500), recipe, 3), 9))
    assert all(same(a, b) for a, b in zip(again, whole, strict=True))
    other = next(supply(data, made, recipe, 4))
    assert not same(other, whole[0])


def test_views_differ_between_the_batches(data: Data) -> None:
    few = Data(data.images[:1], data.classes[:1], torch.ones(1, 1), "classes")
    recipe = TrainRecipe(crop=4, batch=1)
    seen = {batch.x.numpy().tobytes() for batch in supply(few, work(1, 1, 30), recipe, 0)}
    assert len(seen) > 20


def test_bytes_and_the_same_numbers_as_floats_give_the_same_batches(data: Data) -> None:
    floats = Data(to_unit(data.images), data.classes, data.targets, data.kind)
    made = work(20, 8, 3)
    for one, two in zip(supply(data, made, MIXED, 0), supply(floats, made, MIXED, 0), strict=True):
        assert same(one, two)
        assert one.x.dtype == torch.float32
        assert one.x.is_contiguous(memory_format=torch.channels_last)
        assert one.x.min() >= 0
        assert one.x.max() <= 1
    assert torch.equal(floats.images, to_unit(data.images))


def test_a_teacher_answers_on_the_very_pixels_of_the_batch(data: Data) -> None:
    asked: list[torch.Tensor] = []

    def teach(x: torch.Tensor) -> torch.Tensor:
        asked.append(x)
        return x.mean((2, 3))

    untold = Data(data.images, data.classes, None, "logits")
    for batch in supply(untold, work(20, 8, 3), MIXED, 0, teach=teach):
        assert asked[-1] is batch.x
        assert torch.equal(batch.target, batch.x.mean((2, 3)))
    assert len(asked) == 3
    with pytest.raises(AssertionError, match="need a teacher"):
        next(supply(untold, work(20, 8, 3), MIXED, 0))


def test_fixed_views_take_the_place_of_free_ones_in_turn(data: Data) -> None:
    many = Data(data.images, data.classes, torch.arange(40.0)[:, None].expand(40, 3), "logits")
    flip = torch.arange(40) % 2 == 1  # view 0 of an item is itself, view 1 its mirror image
    visits = [0] * 20
    for batch in supply(many, work(20, 8, 12), TrainRecipe(crop=4, batch=8), 0, fixed=View(flip=flip)):
        for b, row in enumerate(batch.rows.tolist()):
            picture = to_unit(data.images[row])
            assert torch.equal(batch.x[b], picture.flip(2) if visits[row] % 2 else picture)
            assert batch.target[b, 0] == 2 * row + visits[row] % 2
            visits[row] += 1
    assert max(visits) == 5


def answers(x: torch.Tensor) -> torch.Tensor:
    """Affine in the pixels."""
    weights = torch.randn(192, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x.double().flatten(1) @ weights + 1.5).float()


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_an_affine_teacher_says_the_same_stored_or_in_the_loop(data: Data, mix: str) -> None:
    recipe = TrainRecipe(crop=0, flip=False, mix=mix, batch=8)  # type: ignore[arg-type]
    made = work(20, 8, 5)
    static = Data(data.images, data.classes, answers(to_unit(data.images)), "logits")
    dynamic = Data(data.images, data.classes, None, "logits")
    for one, two in zip(supply(static, made, recipe, 0), supply(dynamic, made, recipe, 0, teach=answers), strict=True):
        assert torch.equal(one.x, two.x)
        torch.testing.assert_close(one.target, two.target, rtol=0, atol=1e-5 if mix == "mixup" else 0)


def test_data_move_and_have_a_length(data: Data) -> None:
    moved = data.to(torch.device("cpu"))
    assert len(moved) == 20
    assert torch.equal(moved.images, data.images)
    assert Data(data.images, data.classes, None, "logits").to(torch.device("cpu")).targets is None
