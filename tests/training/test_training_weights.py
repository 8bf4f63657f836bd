"""Losses of rows that count differently, or are told in two ways, against sums over single rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.recipe import TrainRecipe
from datastill.training.losses import TargetKind, cross_entropy, one_hot, soft_kl, soft_mse, training_loss

KINDS: list[tuple[TargetKind, dict[str, Any]]] = [
    ("classes", {}),
    ("logits", {"temperature": 4.0}),
    ("logits", {"temperature": 4.0, "kl_scale": "temperature-squared"}),
    ("logits", {"soft_loss": "mse"}),
    ("logits", {"temperature": 2.0, "hard_weight": 0.5}),
]


def values(seed: int, rows: int = 6) -> Tensor:
    return 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def told(kind: TargetKind) -> tuple[Tensor, Tensor]:
    hot = one_hot(torch.tensor([0, 1, 2, 3, 4, 0]), 5)
    return (hot if kind == "classes" else values(1)), hot


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_weights_make_a_sum_of_the_losses_of_single_rows(kind: TargetKind, settings: dict[str, Any]) -> None:
    recipe, own, (wanted, hot) = TrainRecipe(**settings), values(0), told(kind)
    weight = torch.tensor([0.3, 0.0, 1.5, 0.1, 0.2, 2.0])
    hard = hot if recipe.hard_weight else None
    each = [
        training_loss(recipe, kind, own[i : i + 1], wanted[i : i + 1], None if hard is None else hard[i : i + 1])
        for i in range(6)
    ]
    found = training_loss(recipe, kind, own, wanted, hard, weight)
    torch.testing.assert_close(found, (torch.stack(each) * weight).sum())


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_equal_weights_are_the_mean(kind: TargetKind, settings: dict[str, Any]) -> None:
    recipe, own, (wanted, hot) = TrainRecipe(**settings), values(0), told(kind)
    hard = hot if recipe.hard_weight else None
    torch.testing.assert_close(
        training_loss(recipe, kind, own, wanted, hard, torch.full((6,), 1 / 6)),
        training_loss(recipe, kind, own, wanted, hard),
    )


def test_rows_may_be_told_in_two_ways() -> None:
    own, (wanted, hot), recipe = values(0), told("logits"), TrainRecipe(temperature=4.0, hard_weight=9.0)
    weight, of_hard = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 0.5]), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0, 0.0, 0.0])
    found = training_loss(recipe, "logits", own, wanted, hot, weight, of_hard)
    by_hand = cross_entropy(own[:3], hot[:3]) + 1.5 * soft_kl(own[3:], wanted[3:], 4.0)
    torch.testing.assert_close(found, by_hand)


def test_the_soft_loss_at_temperature_one_is_the_cross_entropy_less_the_entropy_of_the_labels() -> None:
    own, wanted = values(0).requires_grad_(), values(1)
    q = wanted.softmax(1)
    entropy = -(q * q.log()).sum(1).mean()
    torch.testing.assert_close(cross_entropy(own, q), soft_kl(own, wanted, 1.0) + entropy, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(soft_kl(own, wanted, 1.0), own)
    torch.testing.assert_close(gradient, (own.softmax(1) - q).detach() / 6, rtol=1e-4, atol=1e-7)


def test_the_gradient_of_weighted_rows_agrees_with_finite_differences() -> None:
    own, wanted, weight = values(0).requires_grad_(), values(1), torch.tensor([0.3, 0.0, 1.5, 0.1, 0.2, 2.0])
    for loss in (lambda x: soft_kl(x, wanted, 2.0, weight=weight), lambda x: soft_mse(x, wanted, weight)):
        (gradient,) = torch.autograd.grad(loss(own), own)
        for row, column in ((0, 1), (1, 2), (5, 4)):
            step = torch.zeros_like(own)
            step[row, column] = 1e-2
            slope = (loss(own.detach() + step) - loss(own.detach() - step)) / 2e-2
            assert gradient[row, column].item() == pytest.approx(slope.item(), rel=1e-2, abs=1e-4)
