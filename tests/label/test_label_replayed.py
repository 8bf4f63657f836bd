"""Labels of recorded batches: what the networks said, of the very batches that every student then sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_error
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, Items, Labels, Pictures
from datastill.label import Dynamic, Replayed, replayed
from datastill.recipe import TrainRecipe, choice
from datastill.training.records import form_of
from datastill.training.supply import Batch
from reference import tiny
from reference.pages import table

CPU = torch.device("cpu")
COUNT = 20
STUDENT = TrainRecipe(batch=6, epochs=3, crop=2, flip=True, mix="mixup")  # four steps an epoch
MIXES = {
    "none": replace(STUDENT, mix="none"),
    "mixup": STUDENT,
    "cutmix": replace(STUDENT, mix="cutmix", cutout=3, shuffle_tiles=2),
    "windows": replace(STUDENT, mix="cutmix", resized_crop=0.3),
}


def images(dtype: torch.dtype = torch.uint8) -> Tensor:
    made = torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return made if dtype == torch.uint8 else made.to(dtype) / 255


def content() -> Content:
    pictures = Pictures(images(), torch.arange(COUNT) % 4, ())
    return Content(Items.of(cls=pictures.cls, picture=torch.arange(COUNT)), pictures)


def context(student: TrainRecipe = STUDENT, codec: str = "fp32", kind: str = "replayed", **settings: Any) -> Context:
    told = settings if kind == "dynamic" else settings | {"codec": {"kind": codec}}
    return tiny.context(label=choice(kind, **told), student=student, seed=7, match=choice("none"))


def expanded(ctx: Context, dtype: torch.dtype = torch.uint8) -> Expanded:
    x = images(dtype)
    return Expanded(x, torch.arange(COUNT) % 4, ctx.fields.label.make(x, ctx, content()), 4)


def batches(
    ctx: Context, data: Expanded, recipe: TrainRecipe = STUDENT, steps: int = 12, seed: int = 7, start: int = 0
) -> Iterator[Batch]:
    given = {name: ctx.network(name) for name in ctx.makers} if data.labels.kind == "teachers" else None
    return ctx.fields.label.supply(
        data, recipe.work(COUNT, steps), recipe, seed, device=CPU, start=start, teachers=given
    )  # fmt: skip


def same(one: Batch, two: Batch) -> bool:
    pairs = [(one.x, two.x), (one.target, two.target), (one.hard, two.hard), (one.rows, two.rows)]
    return all(torch.equal(a, b) for a, b in pairs)


# --- a replay is the run with networks in the loop ---


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_replay_is_to_the_bit_what_networks_in_the_loop_say_to_the_student_of_the_recipes_seed(
    name: str, dtype: torch.dtype
) -> None:
    student = MIXES[name]
    ctx, live = context(student), context(student, kind="dynamic")
    again = list(batches(ctx, expanded(ctx, dtype), student))
    asked = list(batches(live, expanded(live, dtype), student))
    assert len(again) == len(asked) == 12
    assert all(same(one, two) for one, two in zip(again, asked, strict=True))
    assert {batch.kind for batch in again} == {"logits"}


def test_networks_that_answer_by_the_batch_are_recorded_as_such() -> None:
    ctx, live = context(teacher_mode="batch"), context(kind="dynamic", teacher_mode="batch")
    again, asked = list(batches(ctx, expanded(ctx))), list(batches(live, expanded(live)))
    assert all(same(one, two) for one, two in zip(again, asked, strict=True))


@pytest.mark.parametrize(("codec", "off"), [("fp16", 1e-3), ("int8", 0.02)])
def test_codecs_change_labels_a_little_and_pixels_not_at_all(codec: str, off: float) -> None:
    ctx, exact = context(codec=codec), context()
    coded, whole = list(batches(ctx, expanded(ctx))), list(batches(exact, expanded(exact)))
    furthest = max(float((one.target - two.target).abs().max()) for one, two in zip(coded, whole, strict=True))
    assert 0 < furthest < off * max(float(batch.target.abs().max()) for batch in whole)
    assert all(torch.equal(one.x, two.x) for one, two in zip(coded, whole, strict=True))


def test_the_share_of_mixing_never_enters_a_label() -> None:
    """The networks saw the mixed picture; blending what they said would mix twice."""
    ctx = context()
    networks = [ctx.network(name) for name in ctx.makers]
    for batch in batches(ctx, expanded(ctx)):
        with torch.no_grad():
            said = torch.stack([network(batch.x) for network in networks]).mean(dim=0)
        torch.testing.assert_close(batch.target, said)


# --- which batch, when ---


def test_students_differ_by_nothing_that_a_seed_or_settings_of_views_would_draw() -> None:
    ctx = context()
    data = expanded(ctx)
    whole = list(batches(ctx, data))
    own = replace(STUDENT, crop=0, flip=False, mix="none", resized_crop=0.5, cutout=2)
    for seed, recipe in ((0, STUDENT), (1, own)):
        assert all(same(one, two) for one, two in zip(batches(ctx, data, recipe, seed=seed), whole, strict=True))


def test_after_the_last_record_comes_the_first_one_again() -> None:
    ctx = context(epochs=2)
    found = list(batches(ctx, expanded(ctx), steps=19))
    assert len(found) == 19
    for step, batch in enumerate(found):
        assert same(batch, found[step % 8])
    assert not any(same(one, two) for one, two in pairwise(found))


@pytest.mark.parametrize("per_file", [1, 3, 8, 100])
def test_a_replay_begins_at_any_step_however_many_batches_a_file_holds(
    per_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replayed, "FILE", per_file * 6 * 4)
    ctx = context(epochs=2)
    data = expanded(ctx)
    assert data.labels.records is not None
    assert len(data.labels.records.files) == -(-8 // per_file)
    whole = list(batches(ctx, data, steps=19))
    for start in range(20):
        late = list(batches(ctx, data, steps=19, start=start))
        assert len(late) == 19 - start
        assert all(same(one, two) for one, two in zip(late, whole[start:], strict=True))


@pytest.mark.parametrize("codec", ["fp32", "klt"])
def test_files_hold_the_same_batches_cut_otherwise(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(codec=codec)
    whole = list(batches(ctx, expanded(ctx)))
    monkeypatch.setattr(replayed, "FILE", 5 * 6 * 4)
    for one, two in zip(batches(ctx, expanded(ctx)), whole, strict=True):
        assert torch.equal(one.x, two.x)
        torch.testing.assert_close(one.target, two.target, rtol=0, atol=0.5 if codec == "klt" else 0)


def test_as_many_batches_are_recorded_as_the_recipes_student_trains_or_as_was_asked() -> None:
    label: Any = {"kind": "replayed"}
    for student, epochs, count in [(STUDENT, None, 12), (replace(STUDENT, steps=5), None, 5), (STUDENT, 7, 28)]:
        recipe = tiny.recipe(student=student, label=choice(label["kind"]))
        assert Replayed(epochs=epochs).recording(recipe, COUNT).count == count
    windows = tiny.recipe(student=MIXES["windows"])
    assert (Replayed().recording(windows, COUNT).crop, Replayed().recording(tiny.recipe(), COUNT).crop) == (0, 1)


def test_hard_classes_are_mixed_as_the_record_says() -> None:
    recipe = replace(MIXES["cutmix"], hard_weight=0.5)
    ctx, live = context(recipe), context(recipe, kind="dynamic")
    for one, two in zip(
        batches(ctx, expanded(ctx), recipe), batches(live, expanded(live), recipe), strict=True
    ):  # fmt: skip
        assert one.mixed is not None
        assert two.mixed is not None
        assert torch.equal(one.mixed, two.mixed)


# --- what is measured and refused ---


def test_what_the_codec_lost_is_the_mean_over_files_by_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed, "FILE", 9 * 6 * 4)
    ctx, exact = context(codec="int3"), context()
    coded, whole = expanded(ctx).labels, expanded(exact).labels
    assert coded.records is not None
    assert whole.records is not None
    three = LabelCodec(kind="int3")
    lost = [
        label_error(
            whole.records.logits(i, 4, whole.codec).flatten(0, 1), coded.records.logits(i, 4, three).flatten(0, 1)
        )
        for i in range(2)
    ]
    assert coded.facts["kl"]["4"] == pytest.approx((9 * lost[0]["kl"]["4"] + 3 * lost[1]["kl"]["4"]) / 12)
    assert coded.facts["top1"] == pytest.approx((9 * lost[0]["top1"] + 3 * lost[1]["top1"]) / 12)
    assert coded.facts["kl"]["4"] > 1e-4
    assert whole.facts["kl"]["4"] == 0


def test_a_student_with_other_batches_is_refused_before_its_first_one() -> None:
    ctx = context()
    data = expanded(ctx)
    with pytest.raises(
        DatastillError, match=r"batches of 7 items was asked for, but .* whole batches of 6; train with"
    ):
        batches(ctx, data, replace(STUDENT, batch=7))


def test_more_logits_than_memory_bears_are_refused_before_a_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed, "LARGEST", 12 * 6 * 4)
    ctx = context()
    expanded(ctx)
    monkeypatch.setattr(replayed, "LARGEST", 12 * 6 * 4 - 1)
    monkeypatch.setattr(Dynamic, "supply", None)
    with pytest.raises(
        DatastillError, match=r"would hold 288 logits \(12 batches of 6 items, 4 classes\), and at most"
    ):
        expanded(ctx)


def test_without_networks_or_with_a_codec_that_does_not_fit_nothing_is_recorded() -> None:
    with pytest.raises(DatastillError, match="label 'replayed' asks the networks of the recipe, but the table"):
        tiny.context(label=choice("replayed"), networks={}, store=choice("pixels"), match=choice("none"))
    with pytest.raises(DatastillError, match="label codec 'topk' was given k=10 for 4 classes"):
        context(codec="topk")
    with pytest.raises(DatastillError, match=r"'label\.epochs' must be at least 1, not 0"):
        context(epochs=0)


def test_students_whose_draws_have_no_place_in_a_record_are_refused() -> None:
    for changes, says in (
        ({"augment": "one"}, "it cannot for student.augment=one; set it to none, or choose label 'dynamic'"),
        ({"mix_share": 0.5}, "with student.mix_share=0.5 some are not mixed; set it to 1, or choose label 'dynamic'"),
    ):
        with pytest.raises(DatastillError, match=says):
            context(replace(STUDENT, **changes))
    assert context(replace(STUDENT, mix="none", mix_share=0.5)).recipe.student.mix_share == 0.5


def test_the_labels_say_nothing_else() -> None:
    ctx = context()
    labels: Labels = expanded(ctx).labels
    assert (labels.kind, labels.values, labels.teachers, labels.views) == ("replayed", None, (), None)
    assert (ctx.fields.label.column, ctx.fields.label.name) == ("D", "replayed")
    assert labels.facts.keys() == {"kl", "top1"}


def test_the_bytes_of_the_page_are_those_of_a_record() -> None:
    for classes_and_ipc, *sizes in table("labels.md", "bytes"):
        classes, ipc = map(int, classes_and_ipc.split(", "))
        items, student = classes * ipc, replace(STUDENT, batch=128)
        form = form_of(student, items)
        views = sum(dtype.itemsize * prod(shape) for dtype, shape in form.values())
        records = [Replayed(epochs=e).recording(tiny.recipe(student=student), items).count for e in (50, 400)]
        wanted = [2 * classes * items * each for each in (1, 8)]
        wanted += [count * (views + 2 * classes * 128) for count in records]
        for size, exact in zip(sizes, wanted, strict=True):
            number, unit = size.split()
            assert float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] == pytest.approx(exact, rel=0.005)
