"""The losses of students and teachers, by the kind of their targets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from datastill.recipe import TrainRecipe

TargetKind = Literal["classes", "logits"]


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean over B of -sum_c t_c log softmax(logits)_c; both float[B, K], rows of targets t sum to 1.

    weight: float[B], here and below: what each row counts, in a sum over B in place of the mean.
    """
    return _over_rows(-(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1), weight)


def soft_kl(
    logits: Tensor, wanted: Tensor, temperature: float, scale: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Return scale * mean over B of KL(softmax(wanted / T) || softmax(logits / T)).

    Both arguments are logits, float[B, K]. No factor T^2 unless `scale` says so (arXiv 2408.06927).
    """
    log_p = functional.log_softmax(wanted.float() / temperature, dim=1)
    log_s = functional.log_softmax(logits.float() / temperature, dim=1)
    return scale * _over_rows((log_p.exp() * (log_p - log_s)).sum(dim=1), weight)


def soft_mse(logits: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean over B and K of the squared difference of centred logits, both float[B, K].

    What the KL loss becomes at high temperatures: KL = MSE / (2 T^2) with an error that vanishes as T grows.
    """
    gap = wanted.float() - logits.float()
    squares = (gap - gap.mean(dim=1, keepdim=True)).square()
    return squares.mean() if weight is None else _over_rows(squares.mean(dim=1), weight)


def _over_rows(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses.mean() if weight is None else (losses * weight).sum()


def training_loss(
    recipe: TrainRecipe,
    kind: TargetKind,
    logits: Tensor,
    targets: Tensor,
    hard: Tensor | None = None,
    weight: Tensor | None = None,
    hard_weight: Tensor | None = None,
) -> Tensor:
    """Return the loss that a training recipe prescribes for targets of this kind, in float32.

    Args:
        recipe: temperature and weights.
        kind: of targets.
        logits: of the network, float[B, K].
        targets: float[B, K].
        hard: float[B, K], classes mixed like the pictures; wanted where they are weighed beside soft labels.
        weight: float[B], what the loss of each row's target counts, in a sum; None: the mean over B.
        hard_weight: float[B], the same of the cross-entropy with `hard`; None: the recipe's weight times `weight`.
    """
    if kind == "classes":
        return cross_entropy(logits, targets, weight)
    if recipe.soft_loss == "mse":
        loss = soft_mse(logits, targets, weight)
    else:
        scale = 1.0 if recipe.kl_scale == "one" else recipe.temperature**2
        loss = soft_kl(logits, targets, recipe.temperature, scale, weight)
    if hard is None:
        return loss
    if hard_weight is not None:
        return loss + cross_entropy(logits, hard, hard_weight)
    return loss + recipe.hard_weight * cross_entropy(logits, hard, weight)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return float[B, K] from long[B]."""
    return torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
