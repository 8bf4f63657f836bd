"""How a network is trained, teacher and student alike: data, no code.

Part of a recipe, and named again in `datastill.recipe`, where everyone imports it from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from datastill.settings import setting

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


@dataclass(frozen=True)
class Work:
    """How much a training run does: exactly `steps` optimiser steps of `batch` items; an epoch is `epoch` steps."""

    items: int
    batch: int
    epoch: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """How a network is trained, teacher and student alike. The last state is the result, never the best one."""

    optimiser: Literal["sgd", "adamw", "adam"] = setting("sgd")
    lr: float = setting(0.1, low=0.0)
    momentum: float = setting(0.9, low=0.0, high=1.0, help="SGD only")
    betas: tuple[float, float] = setting((0.9, 0.999), low=0.0, high=0.999999, help="Adam and AdamW only")
    weight_decay: float = setting(5e-4, low=0.0)
    decay: Literal["all", "matrices"] = setting("all", help="whether biases and affine parameters decay too")
    schedule: Literal["cosine", "constant", "steps"] = setting("cosine", help="steps: `drop` at each of `milestones`")
    milestones: tuple[float, ...] = setting((), low=0.0, high=1.0, help="shares of the training, for schedule steps")
    drop: float = setting(0.1, low=0.0, help="factor of the rate at a milestone")
    reset_momentum: bool = setting(False, help="whether the optimiser forgets its momentum at a milestone")
    eta: float = setting(1.0, low=1.0, help="length of the cosine, in trainings: 1 ends at zero, 2 at half of lr")
    hold: Literal["epoch", "step"] = setting("epoch", help="how long one learning rate is held")
    warmup: int = setting(0, low=0, help="epochs of linear warm-up from a hundredth of lr")
    epochs: int = setting(200, low=1)
    steps: int | None = setting(None, low=1, help="exactly so many optimiser steps instead of epochs")
    batch: int = setting(128, low=1)
    crop: int = setting(4, low=0, high=64, help="pixels of black padding for random crops")
    resized_crop: float | None = setting(
        None, low=0.01, high=1.0, help="smallest share of the area that a random resized crop keeps, in place of `crop`"
    )
    shuffle_tiles: int = setting(
        1, low=1, high=16, help="columns and rows of tiles that are put in another order before any crop; 1: none"
    )
    flip: bool = setting(True, help="random horizontal flips")
    mix: Literal["none", "mixup", "cutmix"] = setting("none")
    mix_alpha: float = setting(0.8, low=1e-3, high=100.0, help="Beta(alpha, alpha) of the mixing share")
    mix_share: float = setting(1.0, low=0.0, high=1.0, help="share of the batches that are mixed")
    temperature: float = setting(30.0, low=1e-3, help="of teacher and student in the KL loss of soft labels")
    kl_scale: Literal["one", "temperature-squared"] = setting("one", help="factor of the KL loss")
    soft_loss: Literal["kl", "mse"] = setting("kl", help="of soft labels; mse: of centred logits")
    hard_weight: float = setting(
        0.0, low=0.0, help="of a cross-entropy with the classes beside the loss of soft labels"
    )
    cutout: int = setting(0, low=0, help="side in pixels of a black square at a random place")
    nesterov: bool = setting(False, help="SGD only")
    bn_momentum: float | None = setting(
        None, low=0.0, high=1.0, help="of BatchNorm's running statistics; none: the network's own"
    )
    ema: float = setting(
        0.0, low=0.0, high=0.999999, help="decay per step of a mean of the weights, which is then the result; 0: none"
    )
    augment: Literal["none", "one", "all"] = setting(
        "none", help="of network inputs, after crops and flips: one of `operations` a batch, or all of them in turn"
    )
    operations: tuple[Operation, ...] = setting(OPERATIONS, help="of `augment`")

    def work(self, items: int, steps: int | None = None) -> Work:
        """Return the work on `items` items; a given total of steps replaces the recipe's own."""
        epoch = math.ceil(items / self.batch)
        return Work(items, self.batch, epoch, steps or self.steps or epoch * self.epochs)


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe:
    """How one network of the table is made: its architecture, its training and its seed."""

    arch: str
    settings: dict[str, Any] = setting({})
    seed: int = setting(0, low=0)
    training: TrainRecipe = field(default_factory=TrainRecipe)

    def __hash__(self) -> int:
        """Return the same for equal recipes, whatever the order of their settings: a choice may hold one."""
        return hash((self.arch, repr(sorted(self.settings.items())), self.seed, self.training))
