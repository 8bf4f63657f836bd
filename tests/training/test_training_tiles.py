"""Tiles in another order, a cosine that ends early, and a momentum of BatchNorm: how RDED trains its students."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from datastill.recipe import TrainRecipe
from datastill.runtime.seeds import rng
from datastill.training.loop import Learner, train
from datastill.training.optim import learning_rate
from datastill.training.supply import Data, supply
from datastill.training.views import View, edges
from reference import crops as plain

MakeLearner = Callable[..., Learner]


def shuffling(factor: int, **settings: object) -> TrainRecipe:
    return TrainRecipe(shuffle_tiles=factor, **({"crop": 0, "flip": False} | settings))  # type: ignore[arg-type]


def marked(batch: int, height: int, width: int) -> torch.Tensor:
    """Pictures of which every pixel is another number."""
    return torch.arange(batch * 3 * height * width).view(batch, 3, height, width)


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 2), (9, 12, 3), (7, 10, 4), (8, 8, 8)])
def test_tiles_are_shuffled_as_strips_of_single_pictures_are(height: int, width: int, factor: int) -> None:
    x = marked(6, height, width)
    view = View.draw(rng(1, "view"), 6, (3, height, width), shuffling(factor))
    assert view.tiles is not None
    found = view.apply(x)
    for picture, got, (rows, columns) in zip(x, found, view.tiles.tolist(), strict=True):
        assert torch.equal(got, plain.shuffled(picture, rows, columns))
    assert len({tuple(map(tuple, tiles)) for tiles in view.tiles.tolist()}) > 1  # each picture in an order of its own


def test_the_tiles_of_a_picture_stay_the_same_tiles() -> None:
    x = marked(5, 9, 9)
    found = View.draw(rng(2, "view"), 5, (3, 9, 9), shuffling(3)).apply(x)
    for picture, got in zip(x, found, strict=True):
        before, after = (Counter(str(tile.tolist()) for tile in plain.cut_apart(p, 3)) for p in (picture, got))
        assert before == after


@pytest.mark.parametrize(("factor", "arrangements"), [(2, 4), (3, 36)])
def test_only_strips_move_so_that_few_arrangements_occur_and_all_of_them(factor: int, arrangements: int) -> None:
    side = 2 * factor
    x = marked(1, side, side).expand(1000, -1, -1, -1)
    found = View.draw(rng(0, "view"), 1000, (3, side, side), shuffling(factor)).apply(x)
    counts = Counter(tuple(picture.flatten().tolist()) for picture in found)
    assert len(counts) == arrangements == math.factorial(factor) ** 2
    assert min(counts.values()) > 1000 / arrangements / 3


def test_one_tile_is_the_picture_and_draws_nothing() -> None:
    draws, fresh = rng(0, "view"), rng(0, "view")
    view = View.draw(draws, 4, (3, 8, 8), shuffling(1))
    assert view == View()
    assert draws.random() == fresh.random()
    x = marked(4, 8, 8)
    assert view.apply(x) is x
    assert TrainRecipe().shuffle_tiles == 1


def test_tiles_move_before_the_crop_and_the_flip() -> None:
    recipe = shuffling(2, crop=2, flip=True)
    view = View.draw(rng(3, "view"), 6, (3, 8, 8), recipe)
    x = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tiled = View(tiles=view.tiles).apply(x)
    assert torch.equal(view.apply(x), View(pad=view.pad, shift=view.shift, flip=view.flip).apply(tiled))
    resized = View.draw(rng(3, "view"), 6, (3, 8, 8), shuffling(2, resized_crop=0.5))
    tiled = View(tiles=resized.tiles).apply(x)
    assert torch.equal(resized.apply(x), View(window=resized.window).apply(tiled))


def test_what_was_drawn_is_applied_again_to_another_batch_and_moves_with_the_view() -> None:
    view = View.draw(rng(4, "view"), 3, (3, 8, 8), shuffling(2))
    x, places = marked(3, 8, 8), marked(3, 8, 8).float()
    assert torch.equal(view.apply(x).float(), view.apply(places))
    assert torch.equal(view.apply(x), View.draw(rng(4, "view"), 3, (3, 8, 8), shuffling(2)).apply(x))
    moved = view.to(torch.device("meta")).tiles
    assert moved is not None
    assert moved.device.type == "meta"


def test_students_see_shuffled_tiles(data: Data) -> None:
    recipe = shuffling(2, batch=8)
    batches = supply(data, recipe.work(20, 2), recipe, 0)
    for step, batch in enumerate(batches):
        view = View.draw(rng(0, "view", step), 8, (3, 8, 8), recipe)
        assert torch.equal(batch.x, view.apply(data.images[batch.rows]).float() / 255.0)
        assert not torch.equal(batch.x, data.images[batch.rows].float() / 255.0)


def test_strips_have_equal_sides_but_for_the_first_ones() -> None:
    assert edges(8, 2) == [0, 4, 8]
    assert edges(9, 2) == [0, 5, 9]
    assert edges(11, 4) == [0, 3, 6, 9, 11]
    assert edges(7, 1) == [0, 7]


@pytest.mark.parametrize("hold", ["epoch", "step"])
def test_with_a_longer_cosine_the_rate_ends_higher(hold: str) -> None:
    ends = {}
    for eta in (1.0, 2.0, 4.0):
        recipe = TrainRecipe(lr=0.2, epochs=300, batch=10, eta=eta, hold=hold)  # type: ignore[arg-type]
        work = recipe.work(40)
        assert learning_rate(recipe, work, 0) == 0.2
        ends[eta] = learning_rate(recipe, work, work.steps)
        for epoch in (1, 150, 299):
            wanted = 0.1 * (1 + math.cos(math.pi * epoch / (eta * 300)))
            assert learning_rate(recipe, work, epoch * work.epoch) == pytest.approx(wanted)
        if eta == 2.0:
            assert learning_rate(recipe, work, 299 * work.epoch) / 0.2 == pytest.approx(0.5026, abs=1e-4)
    assert ends[1.0] == pytest.approx(0.0, abs=1e-12)
    assert ends[2.0] == pytest.approx(0.1)
    assert ends[4.0] == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)))


def test_the_usual_cosine_is_what_it_was_to_the_bit() -> None:
    recipe = TrainRecipe(lr=0.37, hold="step", batch=10, steps=97)
    work = recipe.work(30)
    for step in range(97):
        assert learning_rate(recipe, work, step) == 0.5 * 0.37 * (1.0 + math.cos(math.pi * step / 97))


def test_after_a_warm_up_the_longer_cosine_begins_at_its_end() -> None:
    recipe = TrainRecipe(lr=1.0, epochs=12, warmup=2, batch=10, eta=2.0)
    work = recipe.work(30)
    assert learning_rate(recipe, work, 2 * work.epoch) == 1.0
    assert learning_rate(recipe, work, 12 * work.epoch) == pytest.approx(0.5)


def norms_after(learner: Learner, data: Data, passes: int) -> list[torch.Tensor]:
    """Return the running statistics of a network that sees one batch so many times, then takes one step on it."""
    (batch,) = supply(data, learner.recipe.work(20, 1), learner.recipe, 0)
    learner.network.train()
    with torch.no_grad():
        for _ in range(passes - 1):
            learner.network(batch.x)
    list(train(learner, [batch]))
    return [b for name, b in learner.network.named_buffers() if "running" in name]


def test_a_momentum_of_nineteen_hundredths_is_two_updates_by_a_tenth(make_learner: MakeLearner, data: Data) -> None:
    twice = norms_after(make_learner(), data, 2)
    once = norms_after(make_learner(bn_momentum=0.19), data, 1)
    usual = norms_after(make_learner(), data, 1)
    assert len(once) == len(twice) > 0
    for one, two, other in zip(once, twice, usual, strict=True):
        torch.testing.assert_close(one, two)
        assert not torch.allclose(one, other)


def test_without_a_momentum_the_network_keeps_its_own(make_learner: MakeLearner) -> None:
    def momenta(learner: Learner) -> set[float | None]:
        return {m.momentum for m in learner.network.modules() if isinstance(m, torch.nn.BatchNorm2d)}

    assert momenta(make_learner()) == {0.1}
    assert momenta(make_learner(bn_momentum=0.0)) == {0.0}
    assert momenta(make_learner(bn_momentum=0.19)) == {0.19}
