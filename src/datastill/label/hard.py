"""Hard labels: the class, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.fields import Content, Context, Expanded, Label, Labels, register
from datastill.networks import Network
from datastill.recipe import TrainRecipe, Work
from datastill.training.losses import one_hot
from datastill.training.supply import Batch, Data, supply


@register("label", "hard")
@dataclass(frozen=True, kw_only=True)
class Hard(Label):
    """One-hot targets, mixed like the pictures, under plain cross-entropy."""

    column = "H"

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return labels without values: items carry their class."""
        return Labels("classes")

    def supply(
        self,
        data: Expanded,
        work: Work,
        recipe: TrainRecipe,
        seed: int,
        *,
        device: torch.device,
        start: int = 0,
        teachers: Mapping[str, Network] | None = None,
    ) -> Iterator[Batch]:
        """Yield batches with one-hot targets."""
        made = Data(data.images, data.cls, one_hot(data.cls, data.classes), "classes", data.scale).to(device)
        return supply(made, work, recipe, seed, start=start)
