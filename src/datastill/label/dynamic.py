"""Dynamic soft labels: the networks answer on every augmented, mixed batch (INFER+Dyn, arXiv 2408.06927)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.fields import Content, Context, Expanded, Label, Labels, register
from datastill.label.static import needs_networks
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.training.supply import Batch, Data, supply


@register("label", "dynamic")
@dataclass(frozen=True, kw_only=True)
class Dynamic(Label):
    """No stored labels: a receiver needs the networks, whose bytes count."""

    column = "D"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks."""
        return needs_networks(self, recipe)

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return the names of the networks that will answer."""
        return Labels("teachers", None, ctx.makers)

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
        """Yield batches whose targets are the mean logits of `teachers` on the very pixels of the batch."""
        assert teachers is not None, "dynamic labels come with teachers"
        made = Data(data.images, data.cls, None, "logits").to(device)
        networks = [teachers[name].to(device).eval() for name in data.labels.teachers]

        @torch.no_grad()
        def teach(x: Tensor) -> Tensor:
            total: Tensor = networks[0](x).float()
            for network in networks[1:]:
                total = total + network(x).float()
            return total / len(networks)

        return supply(made, work, recipe, seed, start=start, teach=teach)
