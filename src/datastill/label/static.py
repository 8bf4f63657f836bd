"""Static soft labels: the mean of the networks' logits on each finished item, stored once (arXiv 2408.06927)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_problems
from datastill.fields import Context, Expanded, Label, Labels, register
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.settings import setting
from datastill.training.predict import predict
from datastill.training.supply import Batch, Data, supply


def mean_logits(images: Tensor, ctx: Context) -> Tensor:
    """Return float32[N, K]: the mean over the table's networks of their logits, each in evaluation mode."""
    total: Tensor | None = None
    with ctx.reporter.phase("label", len(ctx.makers)) as phase:
        for name in ctx.makers:
            logits = predict(ctx.network(name), images, device=ctx.device.torch)
            total = logits if total is None else total + logits
            phase.advance()
    assert total is not None, "checked: the table of networks is not empty"
    return total / len(ctx.makers)


def needs_networks(label: Label, recipe: Recipe) -> list[str]:
    """Return the sentence for a label whose networks are missing."""
    if recipe.networks:
        return []
    return [f"label '{label.name}' asks the networks of the recipe, but the table 'networks' is empty."]


@register("label", "static")
@dataclass(frozen=True, kw_only=True)
class Static(Label):
    """Mean logits under a codec. Logits and not probabilities, so that the temperature stays the student's choice."""

    codec: LabelCodec = setting(LabelCodec(), help="how logits are stored")

    column = "S"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks, and a codec that does not fit the classes."""
        return needs_networks(self, recipe) + label_problems(self.codec, info.classes)

    def make(self, images: Tensor, ctx: Context) -> Labels:
        """Return logits of un-augmented images, as they come back from the codec."""
        return Labels.coded(mean_logits(images, ctx), self.codec)

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
        """Yield batches whose logits are mixed like the pictures; crops and flips leave labels as they are."""
        assert data.labels.values is not None, "static labels come with values"
        made = Data(data.images, data.cls, data.labels.values.float(), "logits").to(device)
        return supply(made, work, recipe, seed, start=start)
