"""Dynamic soft labels: the networks answer on every augmented, mixed batch (INFER+Dyn, arXiv 2408.06927)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from datastill.fields import Content, Context, Expanded, Label, Labels, register
from datastill.label.static import COMBINE, Combine, combined, needs_networks
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.settings import setting
from datastill.training.supply import Batch, Data, supply


@register("label", "dynamic")
@dataclass(frozen=True, kw_only=True)
class Dynamic(Label):
    """No stored labels: a receiver needs the networks, whose bytes count.

    The code of SRe2L and DWA for CIFAR leaves its teacher in training mode while it labels (`teacher_mode` "batch"):
    what is said of an item then depends on the others of its batch.
    """

    teacher_mode: Literal["eval", "batch"] = setting(
        "eval", help="whether BatchNorm answers by its running statistics, or by those of the batch"
    )
    combine: Combine = setting("mean", help=COMBINE)

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
        made = Data(data.images, data.cls, None, "logits", data.scale).to(device)
        networks = [teachers[name].to(device).eval() for name in data.labels.teachers]
        if self.teacher_mode == "batch":
            networks = [_by_batch(network) for network in networks]

        @torch.no_grad()
        def teach(x: Tensor) -> Tensor:
            return combined((network(x).float() for network in networks), self.combine)

        return supply(made, work, recipe, seed, start=start, teach=teach)


def _by_batch(network: Network) -> Network:
    """Return a copy whose BatchNorm layers use the statistics of each batch, and remember none of them."""
    made = copy.deepcopy(network)
    for norm in made.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.training, norm.track_running_stats = True, False
    return made
