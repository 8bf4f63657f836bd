"""Losses against plain float64 sums."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from datastill.recipe import TrainRecipe
from datastill.training.losses import cross_entropy, one_hot, soft_kl, training_loss
from reference import augment


def logits(batch: int, classes: int, scale: float = 5.0, seed: int = 0) -> torch.Tensor:
    return torch.randn((batch, classes), generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("temperature", [1.0, 4.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_soft_kl_agrees_with_plain_sums(classes: int, temperature: float) -> None:
    own, wanted = logits(7, classes), logits(7, classes, seed=1)
    found = soft_kl(own, wanted, temperature)
    assert found.item() == pytest.approx(augment.soft_kl(own.numpy(), wanted.numpy(), temperature), rel=1e-4, abs=1e-7)


def test_soft_kl_is_zero_only_where_logits_agree_up_to_a_constant() -> None:
    wanted = logits(6, 10)
    shifts = torch.tensor([-30.0, -1.0, 0.0, 1.0, 7.0, 40.0])[:, None]
    assert abs(soft_kl(wanted + shifts, wanted, 1.0).item()) < 1e-6
    assert abs(soft_kl(wanted + shifts, wanted, 30.0).item()) < 1e-6
    for row in range(6):
        moved = wanted.clone()
        moved[row, row] += 1.0
        assert soft_kl(moved, wanted, 1.0).item() > 1e-4 or wanted[row].softmax(0)[row] < 1e-3
        assert soft_kl(moved, wanted, 4.0).item() > 1e-5
    assert soft_kl(wanted.roll(1, 0), wanted, 1.0).item() > 0.1


def test_soft_kl_pulls_towards_the_wanted_probabilities() -> None:
    own, wanted = logits(4, 5).requires_grad_(), logits(4, 5, seed=1)
    soft_kl(own, wanted, 2.0).backward()
    assert own.grad is not None
    by_hand = ((own / 2).softmax(1) - (wanted / 2).softmax(1)) / (2.0 * 4)
    torch.testing.assert_close(own.grad, by_hand.detach(), rtol=1e-4, atol=1e-7)


def test_the_temperature_squared_is_a_factor_only_where_it_is_asked_for() -> None:
    own, wanted = logits(4, 5), logits(4, 5, seed=1)
    one = training_loss(TrainRecipe(temperature=30.0), "logits", own, wanted)
    squared = training_loss(TrainRecipe(temperature=30.0, kl_scale="temperature-squared"), "logits", own, wanted)
    torch.testing.assert_close(one, soft_kl(own, wanted, 30.0))
    torch.testing.assert_close(squared, 900.0 * one)


def test_cross_entropy_with_one_hot_targets_is_torchs_own() -> None:
    own, labels = logits(9, 6), torch.arange(9) % 6
    torch.testing.assert_close(cross_entropy(own, one_hot(labels, 6)), functional.cross_entropy(own, labels))
    recipe = TrainRecipe(temperature=7.0)
    assert torch.equal(
        training_loss(recipe, "classes", own, one_hot(labels, 6)), cross_entropy(own, one_hot(labels, 6))
    )


def test_cross_entropy_with_mixed_targets_is_the_mixture_of_both() -> None:
    own, a, b = logits(5, 4), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 3, 1, 1, 0])
    mixed = 0.3 * one_hot(a, 4) + 0.7 * one_hot(b, 4)
    wanted = 0.3 * functional.cross_entropy(own, a) + 0.7 * functional.cross_entropy(own, b)
    torch.testing.assert_close(cross_entropy(own, mixed), wanted)


@pytest.mark.parametrize("kind", ["classes", "logits"])
def test_losses_are_computed_in_float32_whatever_the_network_gives(kind: str) -> None:
    own, wanted = logits(4, 5).bfloat16(), logits(4, 5, seed=1).softmax(1)
    found = training_loss(TrainRecipe(), kind, own, wanted)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    assert torch.equal(found, training_loss(TrainRecipe(), kind, own.float(), wanted))  # type: ignore[arg-type]


def test_huge_logits_give_no_nan() -> None:
    own, wanted = torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_(), torch.tensor([[-1e4, 1e4, 0.0]])
    for loss in (soft_kl(own, wanted, 1.0), cross_entropy(own, wanted.softmax(1))):
        (gradient,) = torch.autograd.grad(loss, own)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_one_hot_has_a_one_at_the_class() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    assert torch.equal(one_hot(labels, 4), functional.one_hot(labels, 4).float())
