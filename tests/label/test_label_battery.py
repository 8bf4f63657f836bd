"""What every registered label must do: a new one is tested by existing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import Content, Items, Label, registered
from datastill.recipe import TrainRecipe, choice
from datastill.runtime.progress import Reporter
from datastill.training.supply import Batch
from reference import tiny

LABELS = sorted(registered("label"))
FULL = TrainRecipe(batch=9, epochs=3, crop=2, flip=True, mix="mixup")


def made(name: str) -> DistilledDataset:
    recipe = tiny.recipe(label=tiny.chosen("label", name), match=choice("none"), student=FULL)
    return distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter())


def batches(distilled: DistilledDataset, recipe: TrainRecipe, *, seed: int = 0, start: int = 0) -> Iterator[Batch]:
    expanded = distilled.expand()
    label: Label = distilled.fields.label
    return label.supply(
        expanded, recipe.work(len(expanded.images)), recipe, seed,
        device=torch.device("cpu"), start=start, teachers=distilled.teachers,
    )  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_the_kind_of_a_label_is_that_of_its_column(name: str) -> None:
    distilled = made(name)
    label = distilled.fields.label
    assert distilled.labels.kind == label.kind
    assert label.kind in {"H": ("classes",), "S": ("logits",), "D": ("teachers", "replayed")}[label.column]
    assert (distilled.labels.records is not None) == (label.kind == "replayed")
    assert (distilled.labels.values is not None) == (distilled.labels.kind == "logits")
    assert set(distilled.labels.teachers) == set(distilled.teachers)


@pytest.mark.parametrize("name", LABELS)
def test_batches_are_full_and_as_many_as_the_work_says(name: str) -> None:
    distilled = made(name)
    assert len(distilled) == 24
    found = list(batches(distilled, FULL))
    assert len(found) == 9  # ceil(24 / 9) steps an epoch, three epochs
    pictures = 9 * distilled.fields.label.pictures_per_item
    for batch in found:
        assert batch.x.shape == (pictures, *tiny.SHAPE)
        assert batch.target.shape == (pictures, 4)
        assert batch.x.dtype == batch.target.dtype == torch.float32
        assert batch.x.min() >= 0
        assert batch.x.max() <= 1
        assert not batch.target.requires_grad
        assert torch.equal(batch.hard, distilled.content.items.cls[batch.rows])
    seen = torch.cat([batch.rows[:9] for batch in found])[:72].view(3, 24)
    assert torch.equal(seen.sort(dim=1).values, torch.arange(24).expand(3, -1))


@pytest.mark.parametrize("name", LABELS)
def test_a_supply_begins_anywhere_and_depends_on_nothing_but_its_seed(name: str) -> None:
    distilled = made(name)
    whole, late = list(batches(distilled, FULL)), list(batches(distilled, FULL, start=4))
    assert len(late) == 5
    for one, two in zip(islice(whole, 4, None), late, strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.target, two.target)
        assert torch.equal(one.rows, two.rows)
    other = next(batches(distilled, FULL, seed=1))
    assert torch.equal(other.x, whole[0].x) == (name == "replayed")  # whose batches are the recorded ones


@pytest.mark.parametrize("name", [n for n in LABELS if n not in ("views", "replayed")])  # these two bring views
def test_without_augmentation_batches_are_the_items_themselves(name: str) -> None:
    distilled = made(name)
    plain = TrainRecipe(batch=9, epochs=1, crop=0, flip=False)
    images = distilled.expand().images
    for batch in batches(distilled, plain):
        assert torch.equal(batch.x[:9], images[batch.rows[:9]].float() / 255.0)


@pytest.mark.parametrize("name", LABELS)
def test_labelling_leaves_the_networks_as_they_were(name: str) -> None:
    ctx = tiny.context(label=tiny.chosen("label", name), match=choice("none"))
    networks = [ctx.network(maker) for maker in ctx.makers]
    before = [tiny.state(network) for network in networks]
    pictures = ctx.real.pictures(torch.arange(48))
    content = Content(Items.of(cls=pictures.cls, picture=torch.arange(48)), pictures)
    labels = ctx.fields.label.make(pictures.pixels, ctx, content)
    data: Any = made(name).expand()
    recipe = TrainRecipe(batch=9, steps=3, crop=1)
    work = recipe.work(len(data.images))
    given = dict(zip(ctx.makers, networks, strict=True))
    list(ctx.fields.label.supply(data, work, recipe, 0, device=torch.device("cpu"), teachers=given))
    assert labels.kind == ctx.fields.label.kind
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
        assert not any(module.training for module in network.modules())
