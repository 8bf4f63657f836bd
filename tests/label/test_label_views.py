"""Labels of views that a seed names: which views, what is said of them, and when a student sees which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_error
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, Items, Label, Labels, Pictures, SeededViews
from datastill.label import Static, Views
from datastill.label.views import draw_views
from datastill.recipe import TrainRecipe, Work, choice
from datastill.runtime.seeds import rng
from datastill.training.supply import Batch
from datastill.training.views import View, to_unit
from reference import seeded, tiny
from reference.pages import blocks

CPU = torch.device("cpu")
STUDENT = replace(tiny.STUDENT, crop=2, flip=True)
SEEN = SeededViews(count=3, seed=7, crop=2, flip=True)
PLAIN = TrainRecipe(batch=5, crop=0, flip=False)
COUNT = 12


def images(dtype: torch.dtype = torch.uint8) -> Tensor:
    made = torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return made if dtype == torch.uint8 else made.to(dtype) / 251 % 1


def content() -> Content:
    pictures = Pictures(images(), torch.arange(COUNT) % 4, ())
    return Content(Items.of(cls=pictures.cls, picture=torch.arange(COUNT)), pictures)


def context(views: int = 3, codec: str = "fp32", **changes: Any) -> Context:
    label = choice("views", views=views, codec={"kind": codec})
    made: dict[str, Any] = {"label": label, "student": STUDENT, "seed": 7, "match": choice("none")}
    return tiny.context(**(made | changes))


def expanded(dtype: torch.dtype = torch.uint8, views: SeededViews = SEEN) -> Expanded:
    """Items whose labels say in their first number which row they are."""
    rows = COUNT * views.count
    values = torch.cat(
        [torch.arange(float(rows))[:, None], torch.randn(rows, 3, generator=torch.Generator().manual_seed(1))], dim=1
    )
    return Expanded(images(dtype), torch.arange(COUNT) % 4, Labels("logits", values, views=views), 4)


def supplied(data: Expanded, recipe: TrainRecipe, steps: int = 15, start: int = 0, seed: int = 0) -> Iterator[Batch]:
    label: Label = Views(views=3)
    return label.supply(data, recipe.work(len(data.images), steps), recipe, seed, device=CPU, start=start)


# --- which views ---


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (3, False), (0, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_views_are_those_of_a_loop_over_single_items_to_the_bit(crop: int, flip: bool, dtype: torch.dtype) -> None:
    views, x = replace(SEEN, crop=crop, flip=flip), images(dtype)
    rows = torch.arange(COUNT * 3)
    found = View().framed(draw_views(views, COUNT), rows).apply(x[rows // 3])
    wanted = np.stack([seeded.seen(x[i].numpy(), i, v, views) for i in range(COUNT) for v in range(3)])
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), wanted)


def test_the_page_of_the_artifact_rebuilds_the_same_views() -> None:
    (page,) = (block for block in blocks("artifact.md") if "def render" in block.text)
    names: dict[str, Any] = {}
    exec(compile(page.text, "artifact.md", "exec"), names)
    for views in (SEEN, replace(SEEN, flip=False)):
        for v in range(views.count):
            words = names["words"](views.seed, v, COUNT)
            for i, image in enumerate(images().numpy()):
                found = names["render"](image, words[i], views.crop, views.flip)
                assert np.array_equal(found, seeded.seen(image, i, v, views))


def test_a_view_never_changes_from_one_version_to_the_next() -> None:
    drawn = draw_views(SeededViews(count=2, seed=0, crop=4, flip=True), 3)
    assert drawn.shift is not None
    assert drawn.flip is not None
    assert drawn.shift.tolist() == [[2, 0], [3, 3], [8, 1], [8, 0], [7, 6], [2, 8]]
    assert drawn.flip.tolist() == [False, True, True, False, False, True]


def test_a_view_depends_on_its_item_its_number_and_the_seed_alone() -> None:
    few, more = draw_views(replace(SEEN, count=2), 5), draw_views(SEEN, 9)
    assert few.shift is not None
    assert more.shift is not None
    assert torch.equal(few.shift.view(5, 2, 2), more.shift.view(9, 3, 2)[:5, :2])
    other = draw_views(replace(SEEN, seed=8), 9)
    assert other.shift is not None
    assert not torch.equal(other.shift, more.shift)


def test_crops_and_flips_are_spread_evenly_and_differ_between_the_views_of_an_item() -> None:
    drawn = draw_views(SeededViews(count=2, seed=0, crop=4, flip=True), 4000)
    assert drawn.shift is not None
    assert drawn.flip is not None
    for axis in (0, 1):
        values, counts = drawn.shift[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(9))
        assert counts.min() > 780  # of 889
    assert abs(drawn.flip.double().mean() - 0.5) < 0.02
    codes = (drawn.shift @ torch.tensor([9, 1]) * 2 + drawn.flip.long()).view(4000, 2)
    assert (codes[:, 0] == codes[:, 1]).double().mean() < 0.02


# --- what is said of them ---


def test_each_label_is_what_the_networks_say_of_that_very_view() -> None:
    ctx = context()
    labels = ctx.fields.label.make(images(), ctx, content())
    assert labels.views == SEEN
    assert labels.values is not None
    wanted = seeded.told(images().numpy(), [ctx.network(name) for name in ctx.makers], SEEN)
    torch.testing.assert_close(labels.values.view(COUNT, 3, 4).double(), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted[:, 0] - wanted[:, 1]).abs().mean() > 0.05  # or the order of views would not show


def test_a_float_rendering_is_labelled_in_its_own_pixels() -> None:
    ctx, x = context(), images(torch.float32)
    labels = ctx.fields.label.make(x, ctx, content())
    wanted = seeded.told(x.numpy(), [ctx.network(name) for name in ctx.makers], SEEN)
    assert labels.values is not None
    torch.testing.assert_close(labels.values.view(COUNT, 3, 4).double(), wanted, rtol=1e-4, atol=1e-4)


def test_what_the_codec_lost_is_measured_over_the_labels_of_all_views() -> None:
    ctx, exact = context(codec="int3"), context()
    coded = ctx.fields.label.make(images(), ctx, content())
    whole = exact.fields.label.make(images(), exact, content())
    assert coded.values is not None
    assert whole.values is not None
    assert coded.values.shape == (COUNT * 3, 4)
    assert coded.facts == label_error(whole.values, coded.values)
    assert coded.facts["kl"]["4"] > 1e-4


# --- when a student sees which ---


@pytest.mark.parametrize("recipe", [PLAIN, TrainRecipe(batch=5, crop=4), TrainRecipe(batch=5, resized_crop=0.5)])
def test_on_its_visits_an_item_is_seen_as_one_view_after_the_other_and_as_nothing_else(recipe: TrainRecipe) -> None:
    data, visits = expanded(), torch.zeros(COUNT).long()
    assert data.labels.values is not None
    crossing = 0
    for batch in supplied(data, recipe, steps=29):  # twelve visits, with batches across the border of two
        for b, row in enumerate(batch.rows.tolist()):
            view = int(visits[row]) % 3
            wanted = torch.from_numpy(seeded.seen(data.images[row].numpy(), row, view, SEEN))
            assert torch.equal(batch.x[b], to_unit(wanted))
            assert torch.equal(batch.target[b], data.labels.values[row * 3 + view])
            visits[row] += 1
        crossing += len(set(visits[batch.rows].tolist())) > 1
    assert visits.min() == 12
    assert crossing > 5


def test_a_batch_larger_than_the_set_holds_several_views_of_an_item() -> None:
    data = expanded()
    (batch,) = supplied(data, replace(PLAIN, batch=4 * COUNT), steps=1)
    told = batch.target[:, 0].long().view(4, COUNT)
    assert torch.equal(told // 3, batch.rows.view(4, COUNT))
    assert (told % 3).unique(dim=1).flatten().tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_views_and_their_labels_are_mixed_like_pictures_with_one_label(mix: str) -> None:
    recipe = TrainRecipe(batch=5, crop=4, mix=mix)  # type: ignore[arg-type]
    data, moved = expanded(), False
    plain = supplied(data, PLAIN)
    for step, (batch, unmixed) in enumerate(zip(supplied(data, recipe), plain, strict=True)):
        view = View.draw(rng(0, "view", step), 5, (3, 8, 8), recipe)
        assert torch.equal(batch.rows, unmixed.rows)
        assert torch.equal(batch.x, view.mix(unmixed.x))
        assert torch.equal(batch.target, view.blend(unmixed.target))
        moved |= not torch.equal(batch.x, unmixed.x)
    assert moved


def test_a_cutout_stays_free() -> None:
    data = expanded()
    for batch, whole in zip(supplied(data, replace(PLAIN, cutout=4)), supplied(data, PLAIN), strict=True):
        assert torch.equal(batch.target, whole.target)
        kept = batch.x == whole.x
        assert not kept.all()
        assert (kept | (batch.x == 0)).all()


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_any_step_is_had_again_from_the_seed_alone(mix: str) -> None:
    recipe = replace(PLAIN, mix=mix)  # type: ignore[arg-type]
    whole = list(supplied(expanded(), recipe))
    for start in range(0, 15, 2):
        late = list(supplied(expanded(), recipe, start=start))
        assert len(late) == 15 - start
        for one, two in zip(late, whole[start:], strict=True):
            assert torch.equal(one.x, two.x)
            assert torch.equal(one.target, two.target)
            assert torch.equal(one.rows, two.rows)


def test_hard_classes_are_mixed_beside_the_labels_of_views() -> None:
    recipe = replace(PLAIN, mix="mixup", hard_weight=0.5)
    for step, batch in enumerate(supplied(expanded(), recipe)):
        view = View.draw(rng(0, "view", step), 5, (3, 8, 8), recipe)
        assert batch.mixed is not None
        assert torch.equal(batch.mixed, view.blend(torch.eye(4)[batch.hard]))


# --- one view, and none that can be ---


@pytest.mark.parametrize("codec", ["fp16", "int4", "klt"])
def test_one_view_is_a_static_label_to_the_bit(codec: str) -> None:
    ctx = context(views=1, codec=codec)
    one = ctx.fields.label.make(images(), ctx, content())
    static = Static(codec=LabelCodec(kind=codec))  # type: ignore[arg-type]
    two = static.make(images(), ctx, content())
    assert one.views is None
    assert ctx.fields.label.rendering(ctx.recipe) is None
    assert one.arrays is not None
    assert two.arrays is not None
    assert one.arrays.keys() == two.arrays.keys()
    assert all(torch.equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert one.facts == two.facts
    work = Work(COUNT, 5, 3, 6)
    data = [Expanded(images(), torch.arange(COUNT) % 4, labels, 4) for labels in (one, two)]
    batches = [
        list(label.supply(each, work, STUDENT, 0, device=CPU))
        for label, each in zip((ctx.fields.label, static), data, strict=True)
    ]
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.target, second.target)


def refused(sentence: str, views: int = 3, **changes: Any) -> None:
    with pytest.raises(DatastillError, match=sentence) as error:
        context(views=views, **changes)
    assert str(error.value).endswith(".")


def test_a_student_that_interpolates_is_refused_but_for_one_view() -> None:
    student = replace(STUDENT, resized_crop=0.5)
    refused(r"come back to the bit, but student\.resized_crop=0\.5 interpolates", student=student)
    assert context(views=1, student=student).fields.label.rendering(context(views=1).recipe) is None


def test_a_student_that_shuffles_tiles_is_refused_but_for_one_view() -> None:
    student = replace(STUDENT, shuffle_tiles=2)
    refused(r"pictures as they are, but student\.shuffle_tiles=2 puts their parts in another order", student=student)
    assert context(views=1, student=student).recipe.student.shuffle_tiles == 2


def test_more_views_than_there_are_are_refused() -> None:
    still = replace(STUDENT, crop=0, flip=False)
    refused(r"asked for views=3, but student\.crop=0 and student\.flip=false give 1 of an item", student=still)
    refused("give 2 of an item; ask for at most so many", student=replace(still, flip=True))
    assert context(views=2, student=replace(still, flip=True)).recipe.label.settings["views"] == 2
    assert context(views=9, student=replace(still, crop=1)).recipe.label.settings["views"] == 9


def test_views_without_networks_or_with_a_codec_that_does_not_fit_are_refused() -> None:
    refused("label 'views' asks the networks of the recipe, but the table", networks={}, store=choice("pixels"))
    refused("label codec 'topk' was given k=10 for 4 classes", codec="topk")
    refused(r"'label\.views' must be between 1 and 256, not 0", views=0)
