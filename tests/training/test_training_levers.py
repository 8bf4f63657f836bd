"""Levers of a training recipe: classes beside soft labels, centred squares, averaged weights, cut-out squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.recipe import TrainRecipe
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.training import bank
from datastill.training.bank import run_training
from datastill.training.loop import Learner
from datastill.training.losses import cross_entropy, one_hot, soft_kl, soft_mse, training_loss
from datastill.training.supply import Data, supply
from datastill.training.views import View
from reference import augment

MakeLearner = Callable[..., Learner]


def soft(data: Data) -> Data:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(5)) * 8
    return Data(data.images, data.classes, logits, "logits")


def trained(learner: Learner, data: Data, path: Path) -> Learner:
    def batches(start: int) -> Any:
        return supply(data, learner.work, learner.recipe, learner.seed, start=start)

    run_training(learner, batches, path, Reporter(), "train")
    return learner


def weights(learner: Learner) -> list[Tensor]:
    return [p.detach().clone() for p in learner.network.parameters()]


def test_at_thirty_degrees_the_kl_loss_is_the_squared_one() -> None:
    draw = torch.Generator().manual_seed(0)
    own, wanted = (3 * torch.randn(200, 100, generator=draw) for _ in range(2))
    for temperature, within in ((30.0, 0.01), (4.0, 0.25)):
        ratio = soft_kl(own, wanted, temperature) / (soft_mse(own, wanted) / (2 * temperature**2))
        assert ratio.item() == pytest.approx(1.0, abs=within)
    assert soft_mse(own + torch.randn(200, 1, generator=draw), own).item() < 1e-9


def test_the_squared_loss_is_a_plain_mean() -> None:
    own, wanted = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    # wanted - own = -1, -2, -3; less their mean: 1, 0, -1.
    assert soft_mse(own, wanted).item() == pytest.approx(2 / 3)
    assert training_loss(TrainRecipe(soft_loss="mse"), "logits", own, wanted).item() == pytest.approx(2 / 3)


def test_classes_are_weighed_beside_soft_labels_and_mixed_like_the_pictures(data: Data) -> None:
    recipe = TrainRecipe(batch=8, mix="mixup", crop=1, hard_weight=0.5, temperature=4.0)
    plain = TrainRecipe(batch=8, mix="mixup", crop=1, temperature=4.0)
    told, work = soft(data), recipe.work(20, 5)
    pairs = zip(supply(told, work, recipe, 0), supply(told, work, plain, 0), strict=True)
    for step, (batch, without) in enumerate(pairs):
        assert torch.equal(batch.x, without.x)
        assert without.mixed is None
        assert batch.mixed is not None
        view = View.draw(rng(0, "view", step), 8, (3, 8, 8), recipe)
        assert torch.equal(batch.mixed, view.blend(one_hot(batch.hard, 3)))
        own = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        found = training_loss(recipe, "logits", own, batch.target, batch.mixed)
        by_hand = soft_kl(own, batch.target, 4.0) + 0.5 * cross_entropy(own, batch.mixed)
        assert found.item() == pytest.approx(by_hand.item())


def test_hard_labels_get_no_second_copy_of_themselves(data: Data) -> None:
    recipe = TrainRecipe(batch=8, hard_weight=0.5)
    assert next(iter(supply(data, recipe.work(20, 1), recipe, 0))).mixed is None


def test_a_mean_of_weights_is_that_of_a_direct_loop(make_learner: MakeLearner, data: Data, tmp_path: Path) -> None:
    learner = make_learner(ema=0.9, epochs=4)
    live = make_learner(epochs=4)
    mean = weights(live)
    seen = 0

    def watch(twin: Learner) -> None:
        nonlocal seen
        decay = min(0.9, (1 + seen) / (10 + seen))
        for value, parameter in zip(mean, twin.network.parameters(), strict=True):
            value.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
        seen += 1

    run_training(
        live, lambda start: supply(data, live.work, live.recipe, 0, start=start), tmp_path / "b", Reporter(), "", watch
    )
    trained(learner, data, tmp_path / "a")
    assert torch.equal(learner.losses, live.losses)  # the mean only looks on
    for got, wanted, last in zip(weights(learner), mean, weights(live), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        assert not torch.equal(got, last)


def test_without_memory_the_mean_is_the_last_weights(make_learner: MakeLearner, data: Data, tmp_path: Path) -> None:
    averaged, last = make_learner(ema=1e-9), make_learner()
    trained(averaged, data, tmp_path / "a")
    trained(last, data, tmp_path / "b")
    for got, wanted in zip(weights(averaged), weights(last), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
    assert last.mean == []


def test_batch_norm_is_measured_anew_under_averaged_weights(
    make_learner: MakeLearner, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "SETTLING", 2)
    learner = trained(make_learner(ema=0.5), data, tmp_path / "a")
    batches = list(supply(data, learner.work, learner.recipe, 0, start=learner.work.steps - 2))
    norm = next(m for m in learner.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=(0, 2, 3))))
    with torch.no_grad():
        learner.network.eval()
        for batch in batches:
            learner.network(batch.x)
    handle.remove()
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.stack(seen).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_a_mean_goes_on_from_a_checkpoint_to_the_same_bits(
    make_learner: MakeLearner, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(make_learner(ema=0.9), data, tmp_path / "a")
    monkeypatch.setattr(bank, "CHECKPOINT_SECONDS", -1.0)
    cut = make_learner(ema=0.9)

    def stop(learner: Learner) -> None:
        if learner.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(
            cut, lambda start: supply(data, cut.work, cut.recipe, 0, start=start), tmp_path / "b", Reporter(), "", stop
        )
    again = trained(make_learner(ema=0.9), data, tmp_path / "b")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize("side", [1, 3, 4])
def test_a_cut_out_square_is_black_and_the_rest_is_as_it_was(side: int) -> None:
    recipe = TrainRecipe(crop=0, flip=False, cutout=side)
    view = View.draw(rng(3, "view"), 6, (3, 8, 8), recipe)
    assert view.hole is not None
    images = torch.from_numpy(rng(3, "images").integers(1, 256, (6, 3, 8, 8)).astype(np.uint8))
    found = view.apply(images)
    for i, (row, column) in enumerate(view.hole.tolist()):
        wanted = augment.cut_out(images[i].numpy(), side, (row, column))
        assert np.array_equal(found[i].numpy(), wanted)
    assert images.min() > 0  # the pictures themselves are left alone


def test_a_recipe_without_a_square_draws_what_it_always_drew() -> None:
    plain, cut = TrainRecipe(mix="mixup"), TrainRecipe(mix="mixup", cutout=2)
    one, two = (View.draw(rng(0, "view"), 4, (3, 8, 8), recipe) for recipe in (plain, cut))
    assert one.hole is None
    assert torch.equal(one.shift, two.shift)  # type: ignore[arg-type]  # both have one
    assert torch.equal(one.flip, two.flip)  # type: ignore[arg-type]  # both have one


def test_nesterov_reaches_the_optimiser(make_learner: MakeLearner) -> None:
    assert make_learner(nesterov=True).optimiser.defaults["nesterov"] is True
    assert make_learner().optimiser.defaults["nesterov"] is False
