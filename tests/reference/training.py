"""Training the plain way: torch's own unfused optimiser, loss and per-epoch cosine, step by step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill.recipe import TrainRecipe
from datastill.training.supply import Batch


def train(network: nn.Module, batches: Iterable[Batch], recipe: TrainRecipe, epoch: int) -> list[Tensor]:
    """Train on batches, an epoch being `epoch` of them, in recipe.epochs whole epochs; returns every step's loss."""
    if recipe.optimiser == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, foreach=False
        )
    else:
        kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(network.parameters(), recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    network.train()
    losses = []
    for step, batch in enumerate(batches):
        logits = network(batch.x.contiguous())
        if batch.kind == "classes":
            loss = functional.cross_entropy(logits, batch.target)
        else:
            wanted = functional.softmax(batch.target / recipe.temperature, dim=1)
            own = functional.log_softmax(logits / recipe.temperature, dim=1)
            loss = functional.kl_div(own, wanted, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        if (step + 1) % epoch == 0:
            schedule.step()
    return losses
