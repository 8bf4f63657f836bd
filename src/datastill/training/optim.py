"""Optimisers and schedules from a training recipe, and their state as named arrays."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from datastill.recipe import TrainRecipe, Work


def make_optimiser(network: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over every parameter that wants a gradient."""
    wanted = [p for p in network.parameters() if p.requires_grad]
    if recipe.decay == "all":
        groups = [{"params": wanted, "weight_decay": recipe.weight_decay}]
    else:
        groups = [
            {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0},
        ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def learning_rate(recipe: TrainRecipe, work: Work, step: int) -> float:
    """Return the rate of optimiser step `step` (0-based) of `work.steps`.

    Cosine to zero, or to lr * (1 + cos(pi / eta)) / 2 where eta is above 1 (half of lr at 2, RDED, arXiv 2312.03526);
    with hold = "epoch" an epoch keeps the rate of its first step, which is the usual per-epoch cosine where the steps
    are whole epochs. Steps: multiplied by `drop` at each of `milestones`.
    """
    at = step - step % work.epoch if recipe.hold == "epoch" else step
    warm = recipe.warmup * work.epoch
    if at < warm:
        return recipe.lr * (0.01 + 0.99 * at / warm)
    if recipe.schedule != "cosine":
        return recipe.lr * recipe.drop ** sum(at >= milestone for milestone in milestones(recipe, work))
    return 0.5 * recipe.lr * (1.0 + math.cos(math.pi * (at - warm) / (recipe.eta * max(work.steps - warm, 1))))


def milestones(recipe: TrainRecipe, work: Work) -> list[int]:
    """Return the steps at which the rate drops, and nothing for other schedules.

    Shares of the work are rounded down to whole epochs where a rate is held for one, so they follow a given number of
    steps. Epoch k of n is said as k / n and met exactly, whatever a float loses. No rate drops before the first epoch,
    or the first step, is over.
    """
    if recipe.schedule != "steps":
        return []
    unit = work.epoch if recipe.hold == "epoch" else 1
    return [unit * max(1, math.floor(share * work.steps / unit + 1e-6)) for share in recipe.milestones]


def optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors named `INDEX.NAME`."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def load_optimiser_arrays(optimiser: torch.optim.Optimizer, arrays: dict[str, Tensor]) -> None:
    """Give the optimiser back what `optimiser_arrays` returned."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        index, _, key = name.partition(".")
        like = parameters[int(index)]
        # Files hold tensors contiguously, but fused kernels walk a parameter and its state in the order of memory.
        if value.shape == like.shape and value.stride() != like.stride():
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
