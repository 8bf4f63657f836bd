"""The losses of students and teachers, by the kind of their targets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from datastill.recipe import TrainRecipe

TargetKind = Literal["classes", "logits"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over B of -sum_c t_c log softmax(logits)_c; both float[B, K], rows of targets t sum to 1."""
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()


def soft_kl(logits: Tensor, wanted: Tensor, temperature: float, scale: float = 1.0) -> Tensor:
    """Return scale * mean over B of KL(softmax(wanted / T) || softmax(logits / T)).

    Both arguments are logits, float[B, K]. No factor T^2 unless `scale` says so (arXiv 2408.06927).
    """
    log_p = functional.log_softmax(wanted.float() / temperature, dim=1)
    log_s = functional.log_softmax(logits.float() / temperature, dim=1)
    return scale * (log_p.exp() * (log_p - log_s)).sum(dim=1).mean()


def soft_mse(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over B and K of the squared difference of centred logits, both float[B, K].

    What the KL loss becomes at high temperatures: KL = MSE / (2 T^2) with an error that vanishes as T grows.
    """
    gap = wanted.float() - logits.float()
    return (gap - gap.mean(dim=1, keepdim=True)).square().mean()


def training_loss(
    recipe: TrainRecipe, kind: TargetKind, logits: Tensor, targets: Tensor, hard: Tensor | None = None
) -> Tensor:
    """Return the loss that a training recipe prescribes for targets of this kind, in float32.

    hard: float[B, K], classes mixed like the pictures; wanted where the recipe weighs them beside soft labels.
    """
    if kind == "classes":
        return cross_entropy(logits, targets)
    if recipe.soft_loss == "mse":
        loss = soft_mse(logits, targets)
    else:
        scale = 1.0 if recipe.kl_scale == "one" else recipe.temperature**2
        loss = soft_kl(logits, targets, recipe.temperature, scale)
    return loss if hard is None else loss + recipe.hard_weight * cross_entropy(logits, hard)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return float[B, K] from long[B]."""
    return torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
