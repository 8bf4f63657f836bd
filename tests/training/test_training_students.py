"""How papers' students are trained: augmented network inputs, batches mixed in part, rates that drop at milestones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.recipe import OPERATIONS, DatasetInfo, Recipe, TrainRecipe, Work, choice
from datastill.runtime.seeds import rng
from datastill.settings import build, chosen, plain
from datastill.training.loop import Learner, train
from datastill.training.optim import learning_rate, make_optimiser, milestones
from datastill.training.supply import Batch, Data, draw_batch, scale_of, supply
from datastill.training.views import View, to_unit
from reference import augment, tiny

MakeLearner = Callable[..., Learner]
SHAPE = (3, 8, 8)
DSA = TrainRecipe(batch=8, crop=0, flip=False, augment="one")
IDC = TrainRecipe(batch=8, crop=0, flip=False, augment="all", mix="cutmix", mix_alpha=1.0, mix_share=0.5)
FULL = TrainRecipe(batch=8, crop=2, flip=True, cutout=3, mix="mixup", shuffle_tiles=2)
SCALE = scale_of(DatasetInfo("", 3, SHAPE, 20, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))


@pytest.fixture
def scaled(data: Data) -> Data:
    return replace(data, scale=SCALE)


def views(recipe: TrainRecipe, count: int = 30) -> list[View]:
    return [View.draw(rng(0, "view", step), recipe.batch, SHAPE, recipe) for step in range(count)]


def same_view(one: View, two: View) -> bool:
    """Whether two views agree in all but what is done to network inputs."""
    names = ("tiles", "shift", "window", "flip", "partner", "hole")
    pairs = [(getattr(one, name), getattr(two, name)) for name in names]
    tensors = all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)
    return tensors and (one.lam, one.box, one.pad, one.side) == (two.lam, two.box, two.pad, two.side)


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("x", "target", "hard", "rows"))


# --- what is drawn ---


@pytest.mark.parametrize("compose", ["one", "all"])
def test_augmentation_is_drawn_after_all_that_was_drawn_before_there_was_any(compose: Literal["one", "all"]) -> None:
    for old, new in zip(views(FULL), views(replace(FULL, augment=compose)), strict=True):
        assert same_view(old, new)
        assert old.inputs is None
        assert new.inputs is not None
        assert len(set(new.inputs.kinds.tolist())) == 1
    one, two = (draw_batch(made.work(20), SHAPE, made, 0, 2)[0] for made in (FULL, replace(FULL, augment=compose)))
    assert np.array_equal(one, two)


def test_batches_take_different_operations_and_a_batch_takes_one() -> None:
    kinds = [OPERATIONS[view.inputs.kinds[0]] for view in views(DSA, 60) if view.inputs is not None]
    assert set(kinds) == set(OPERATIONS)
    digits = replace(DSA, operations=("color", "crop"))
    assert {OPERATIONS[v.inputs.kinds[0]] for v in views(digits) if v.inputs is not None} == {"color", "crop"}


def test_a_share_of_the_batches_is_mixed_and_the_others_are_not() -> None:
    whole, half = views(replace(IDC, mix_share=1.0), 400), views(IDC, 400)
    mixed = [view for view in half if view.partner is not None]
    assert 160 < len(mixed) < 240
    for all_mixed, view in zip(whole, half, strict=True):
        if view.partner is None:
            assert (view.lam, view.box) == (1.0, None)
        else:
            assert same_view(view, all_mixed)
    assert all(view.partner is None for view in views(replace(IDC, mix_share=0.0)))


def test_unmixed_batches_keep_pictures_and_labels(scaled: Data) -> None:
    recipe = replace(IDC, augment="none")
    for step, batch in enumerate(supply(scaled, recipe.work(20, 20), recipe, 0)):
        view = draw_batch(recipe.work(20, 20), SHAPE, recipe, 0, step)[1]
        assert scaled.targets is not None
        if view.partner is None:
            assert torch.equal(batch.x, to_unit(scaled.images[batch.rows]))
            assert torch.equal(batch.target, scaled.targets[batch.rows])


def test_the_box_of_cutmix_is_that_of_idc() -> None:
    """A side of int(side * sqrt(1 - lam)), half of it rounded down on either side of the middle (arXiv 2205.14959)."""
    for step in range(200):
        view, stream = View.draw(rng(step), 8, (3, 9, 8), replace(IDC, mix_share=1.0)), rng(step)
        lam = stream.beta(1.0, 1.0)
        stream.permutation(8)
        edges = []
        for side in (9, 8):
            middle, half = int(stream.integers(side)), int(side * math.sqrt(1 - lam)) // 2
            edges += [max(middle - half, 0), min(middle + half, side)]
        assert view.box == tuple(edges)
        assert view.lam == pytest.approx(1 - (edges[1] - edges[0]) * (edges[3] - edges[2]) / 72)


def test_recipes_without_it_keep_their_hash() -> None:
    neutral = {"augment": "none", "operations": OPERATIONS, "mix_share": 1.0, "milestones": (), "drop": 0.1}
    assert chosen(TrainRecipe(**neutral, reset_momentum=False)) == {}  # type: ignore[arg-type]
    assert chosen(IDC).keys() == {"batch", "crop", "flip", "augment", "mix", "mix_alpha", "mix_share"}


def test_operations_and_milestones_are_read_and_written() -> None:
    recipe = TrainRecipe(augment="all", operations=("crop", "color"), schedule="steps", milestones=(2 / 3, 5 / 6))
    mistakes: list[str] = []
    assert build(TrainRecipe, plain(recipe), "", mistakes) == recipe
    assert mistakes == []
    changed = tiny.recipe().changed(["student.augment=one", "student.operations=[flip]", "student.milestones=[0.5]"])
    assert (changed.student.operations, changed.student.milestones) == (("flip",), (0.5,))
    assert Recipe.from_plain(changed.plain()) == changed
    with pytest.raises(DatastillError, match=r"'student\.operations\[0\]' is 'flop'; did you mean 'flip' or 'crop'"):
        tiny.recipe().changed(["student.operations=[flop]"])


# --- what a student sees ---


@pytest.mark.parametrize("recipe", [DSA, IDC, replace(FULL, augment="all"), replace(FULL, augment="one", crop=0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_inputs_are_augmented_between_what_moves_pixels_and_what_mixes_them(
    recipe: TrainRecipe, dtype: torch.dtype, scaled: Data
) -> None:
    seen = scaled if dtype == torch.uint8 else replace(scaled, images=to_unit(scaled.images))
    work = recipe.work(20, 9)
    mean, deviation = SCALE[:, :, None, None]
    for step, batch in enumerate(supply(seen, work, recipe, 3)):
        rows, view = draw_batch(work, SHAPE, recipe, 3, step)
        stream = rng(3, "view", step)
        View.draw(stream, 8, SHAPE, replace(recipe, augment="none"))  # what is drawn before
        u = stream.random((8, 12))
        u[:, 0] = u[0, 0]
        z = ((to_unit(view.apply(seen.images[rows])) - mean) / deviation).numpy()
        made = [augment.operated(z[i], u[i], recipe.operations, recipe.augment) for i in range(8)]
        wanted = view.mix(torch.from_numpy(np.stack(made)).float() * deviation + mean)
        torch.testing.assert_close(batch.x, wanted, rtol=0, atol=2e-5)
        assert batch.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recipe", [DSA, IDC])
def test_augmented_batches_come_again_from_the_seed(recipe: TrainRecipe, scaled: Data) -> None:
    work = recipe.work(20, 9)
    whole = list(supply(scaled, work, recipe, 3))
    for start in (0, 4, 8):
        rest = list(supply(scaled, work, recipe, 3, start=start))
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert not same(next(supply(scaled, work, recipe, 4)), whole[0])


def test_without_a_scale_nothing_is_augmented_blindly(data: Data) -> None:
    assert data.scale is None
    with pytest.raises(AssertionError, match="needs the mean and the deviation"):
        next(supply(data, DSA.work(20), DSA, 0))


def test_views_take_their_augmentation_along() -> None:
    view = View.draw(rng(0), 6, SHAPE, replace(DSA, crop=2))
    x = torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(0))
    moved = view.to(torch.device("cpu"))
    assert torch.equal(moved.show(x, SCALE), view.show(x, SCALE))
    still = view.framed(View(), torch.arange(6))
    assert still.inputs is view.inputs
    assert torch.equal(still.show(x, SCALE), replace(view, shift=None).show(x, SCALE))
    assert not torch.equal(still.show(x, SCALE), x)


def test_the_scale_of_a_set_comes_with_its_data(scaled: Data) -> None:
    assert scaled.to(torch.device("cpu")).scale is not None
    ctx = tiny.context(match=choice("none"), label=choice("hard"), store=choice("pixels"))
    found = ctx.real.data().scale
    assert found is not None
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), [ctx.info.mean, ctx.info.std], rtol=1e-6)


def test_a_distilled_set_trains_augmented_students() -> None:
    student = replace(tiny.STUDENT, augment="one")
    made = tiny.distilled(None, match=choice("none"), label=choice("hard"), store=choice("pixels"), student=student)
    found = made.expand().scale
    assert found is not None
    assert torch.equal(found, scale_of(made.info))
    images, targets = next(iter(made.loader(6)))
    plainly = next(iter(replace(made, recipe=replace(made.recipe, student=tiny.STUDENT)).loader(6)))
    assert torch.equal(targets, plainly[1])
    assert not torch.equal(images, plainly[0])


# --- rates ---


def rates(recipe: TrainRecipe, work: Work) -> list[float]:
    return [learning_rate(recipe, work, step) for step in range(work.steps)]


def dc_student(epochs: int) -> TrainRecipe:
    """Return the student of DC (arXiv 2006.05929) for E epochs, as it is in the released code."""
    return TrainRecipe(
        lr=0.01, batch=256, schedule="steps", epochs=epochs + 1, milestones=((epochs // 2 + 2) / (epochs + 1),),
        reset_momentum=True, crop=0, flip=False,
    )  # fmt: skip


@pytest.mark.parametrize("items", [10, 256, 500, 1000])
@pytest.mark.parametrize("epochs", [4, 5, 99, 300, 301, 1000, 1800])
def test_a_student_of_dc_drops_its_rate_where_the_released_code_does(epochs: int, items: int) -> None:
    recipe = dc_student(epochs)
    work = recipe.work(items)
    each, first = math.ceil(items / 256), epochs // 2 + 2
    assert work.steps == (epochs + 1) * each
    assert milestones(recipe, work) == [first * each]
    if work.steps < 5000:
        wanted = [0.01] * (first * each) + [0.001] * ((epochs + 1 - first) * each)
        assert rates(recipe, work) == pytest.approx(wanted, rel=1e-12)


def test_every_epoch_can_be_said_as_a_share() -> None:
    for epochs in (7, 49, 301, 1001, 1801, 3000):
        for k in range(1, epochs):
            recipe = TrainRecipe(schedule="steps", epochs=epochs, batch=10, milestones=(k / epochs,))
            assert milestones(recipe, recipe.work(25)) == [3 * k]


@pytest.mark.parametrize("epochs", [400, 1000, 1300, 2000])
def test_a_student_of_idc_drops_its_rate_at_two_thirds_and_at_five_sixths(epochs: int) -> None:
    recipe = TrainRecipe(lr=0.01, schedule="steps", epochs=epochs, batch=64, milestones=(2 / 3, 5 / 6), drop=0.2)
    work = recipe.work(100)
    first, second = 2 * epochs // 3, 5 * epochs // 6
    assert milestones(recipe, work) == [2 * first, 2 * second]
    for epoch, factor in ((0, 1.0), (first - 1, 1.0), (first, 0.2), (second - 1, 0.2), (second, 0.04)):
        assert learning_rate(recipe, work, 2 * epoch) == pytest.approx(0.01 * factor)


def test_milestones_follow_a_given_number_of_steps() -> None:
    recipe = replace(dc_student(300), batch=10)
    short = recipe.work(35, 100)
    assert (short.epoch, short.steps) == (4, 100)
    assert milestones(recipe, short) == [48]  # 152 of 301 epochs are 12.6 of 25
    assert milestones(replace(recipe, hold="step"), short) == [50]
    assert rates(replace(recipe, hold="step"), short).count(0.01) == 50


def test_no_rate_drops_before_the_first_epoch_is_over_nor_under_another_schedule() -> None:
    recipe = TrainRecipe(lr=1.0, schedule="steps", milestones=(0.0, 0.5), batch=10, steps=3)
    assert set(rates(recipe, recipe.work(100))) == {1.0}
    assert rates(replace(recipe, hold="step"), recipe.work(100)) == pytest.approx([1.0, 0.01, 0.01])
    other = replace(recipe, schedule="constant", steps=30)
    assert milestones(other, other.work(100)) == []
    assert set(rates(other, other.work(100))) == {1.0}


def test_warm_up_comes_first() -> None:
    recipe = TrainRecipe(lr=1.0, schedule="steps", milestones=(0.5,), drop=0.5, batch=10, epochs=4, warmup=1)
    found = rates(recipe, recipe.work(20))
    assert found == pytest.approx([0.01, 0.01, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])


# --- momentum ---

FORGETFUL: dict[str, Any] = {"schedule": "steps", "milestones": (0.5,), "epochs": 4, "reset_momentum": True}


def trained(learner: Learner, told: list[Batch]) -> Learner:
    for _ in train(learner, told[learner.step :]):
        pass
    return learner


def batches(learner: Learner, data: Data) -> list[Batch]:
    return list(supply(data, learner.work, learner.recipe, 0))


def weights(learner: Learner) -> list[Tensor]:
    return [p.detach().clone() for p in learner.network.parameters()]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_forgotten_momentum_is_that_of_an_optimiser_built_anew(
    optimiser: str, make_learner: MakeLearner, data: Data
) -> None:
    forgetful = make_learner(optimiser=optimiser, **FORGETFUL)
    told = batches(forgetful, data)
    rebuilt = make_learner(optimiser=optimiser, **(FORGETFUL | {"reset_momentum": False}))
    assert milestones(rebuilt.recipe, rebuilt.work) == [6]
    for step in train(rebuilt, told[:6]):
        assert step.index < 6
    rebuilt.optimiser = make_optimiser(rebuilt.network, rebuilt.recipe)
    trained(rebuilt, told)
    keeps = trained(make_learner(optimiser=optimiser, **(FORGETFUL | {"reset_momentum": False})), told)
    trained(forgetful, told)
    for got, wanted, other in zip(weights(forgetful), weights(rebuilt), weights(keeps), strict=True):
        assert torch.equal(got, wanted)
        assert not torch.equal(got, other)


def test_a_training_that_forgets_goes_on_from_a_checkpoint_to_the_same_bits(
    make_learner: MakeLearner, data: Data, tmp_path: Path
) -> None:
    whole = make_learner(**FORGETFUL)
    told = batches(whole, data)
    whole.save(tmp_path / "0")
    for step in train(whole, told):
        whole.save(tmp_path / str(step.index + 1))
    for start in range(13):
        again = make_learner(**FORGETFUL)
        again.load(tmp_path / str(start))
        trained(again, told)
        assert torch.equal(again.losses, whole.losses)
        for one, two in zip(weights(again), weights(whole), strict=True):
            assert torch.equal(one, two)
