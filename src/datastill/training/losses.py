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


def training_loss(recipe: TrainRecipe, kind: TargetKind, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss that a training recipe prescribes for targets of this kind, in float32."""
    if kind == "classes":
        return cross_entropy(logits, targets)
    scale = 1.0 if recipe.kl_scale == "one" else recipe.temperature**2
    return soft_kl(logits, targets, recipe.temperature, scale)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return float[B, K] from long[B]."""
    return torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
