"""Students that augment network inputs, under every kind of label: pixels change, labels and their order do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.fields import Content, Expanded, Items, Label, Labels, Pictures
from datastill.label import Dynamic
from datastill.recipe import TrainRecipe, choice
from datastill.training.supply import Batch
from reference import tiny

CPU = torch.device("cpu")
COUNT, STEPS = 12, 6
STUDENT = replace(tiny.STUDENT, crop=1, flip=True, mix="mixup", augment="none")
KINDS: dict[str, dict[str, Any]] = {
    "hard": {}, "static": {}, "views": {"views": 3}, "dense": {"grid": 3}, "dynamic": {}
}  # fmt: skip
SCALE = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.25, 0.3]])


def images() -> Tensor:
    return torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def made(kind: str) -> tuple[Label, Expanded, dict[str, Any]]:
    """Return a label, a set that it labelled, and the networks that answer in the loop."""
    ctx = tiny.context(label=choice(kind, **KINDS[kind]), student=STUDENT, match=choice("none"))
    pictures = Pictures(images(), torch.arange(COUNT) % 4, ())
    content = Content(Items.of(cls=pictures.cls, picture=torch.arange(COUNT)), pictures)
    labels: Labels = ctx.fields.label.make(pictures.pixels, ctx, content)
    teachers = {name: ctx.network(name) for name in ctx.makers}
    return ctx.fields.label, Expanded(pictures.pixels, pictures.cls, labels, 4, SCALE), teachers


def batches(given: tuple[Label, Expanded, dict[str, Any]], recipe: TrainRecipe, start: int = 0) -> Iterator[Batch]:
    label, data, teachers = given
    work = recipe.work(COUNT, STEPS)
    return label.supply(data, work, recipe, 5, device=CPU, start=start, teachers=teachers)


@pytest.mark.parametrize("compose", ["one", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_augmented_and_labels_stay_in_their_order(kind: str, compose: Any) -> None:
    given, recipe = made(kind), replace(STUDENT, augment=compose)
    found, plainly = list(batches(given, recipe)), list(batches(given, STUDENT))
    assert len(found) == STEPS
    for one, two in zip(found, plainly, strict=True):
        assert torch.equal(one.rows, two.rows)
        assert one.x.shape == two.x.shape
        assert torch.equal(one.target, two.target) == (kind != "dynamic")
    assert sum(not torch.equal(one.x, two.x) for one, two in zip(found, plainly, strict=True)) >= STEPS - 1
    for one, two in zip(batches(given, recipe, start=4), found[4:], strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.target, two.target)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_into_sight_is_the_mean_of_the_set(kind: str) -> None:
    """Under cutout alone every emptied pixel has the mean colour, which no picture has."""
    recipe = replace(STUDENT, augment="one", operations=("cutout",), mix="none", crop=0)
    for batch in batches(made(kind), recipe):
        mean = (batch.x - SCALE[0][None, :, None, None]).abs().amax(dim=1) < 1e-6
        assert mean.sum((1, 2)).min() >= 4
        assert mean.sum((1, 2)).max() <= 16


def test_networks_in_the_loop_answer_for_the_augmented_pixels() -> None:
    given = made("dynamic")
    assert isinstance(given[0], Dynamic)
    for batch in batches(given, replace(STUDENT, augment="all")):
        with torch.no_grad():
            said = torch.stack([network(batch.x) for network in given[2].values()]).mean(dim=0)
        torch.testing.assert_close(batch.target, said)
