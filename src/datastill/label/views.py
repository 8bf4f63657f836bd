"""Several stored labels per item: the mean of the networks' logits on each of V views that a seed names.

A label costs fewer bytes than a picture, and a view costs none: crops by whole pixels and flips come back to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_problems
from datastill.fields import Content, Context, Expanded, Label, Labels, SeededViews, register
from datastill.label.static import Static, mean_logits, needs_networks
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.runtime.seeds import rng
from datastill.settings import setting
from datastill.training.supply import Batch, Data, supply
from datastill.training.views import View


def draw_views(views: SeededViews, items: int) -> View:
    """Return the crops and flips of all views of N items; row i * V + v is view v of item i, whatever N and V are.

    A view is one 64-bit word: word i of the generator ("views", v). Its digits are the row and the column of the crop,
    each 0..2 * crop, and whether the view is mirrored. NumPy promises the words of a generator, in every version, but
    not what `integers` makes of them.
    """
    streams = [rng(views.seed, "views", v).bit_generator.random_raw(items) for v in range(views.count)]
    words, side = np.stack(streams, axis=1).ravel(), np.uint64(2 * views.crop + 1)
    shift = np.stack([words % side, words // side % side], axis=1).astype(np.int64)
    mirrored = words // side // side % np.uint64(2) == 1
    return View(
        pad=views.crop,
        shift=torch.from_numpy(shift) if views.crop else None,
        flip=torch.from_numpy(mirrored) if views.flip else None,
    )


@register("label", "views")
@dataclass(frozen=True, kw_only=True)
class Views(Label):
    """V labels per item under a codec. On its t-th visit an item is seen as view t mod V, and as nothing else.

    Crops and flips are those that the recipe's student would draw. With one view labels are static ones, to the bit,
    and students crop and flip freely.
    """

    views: int = setting(2, low=1, high=256, help="labels per item, each of its own crop and flip; 1 is label 'static'")
    codec: LabelCodec = setting(LabelCodec(), help="how logits are stored")

    column = "S"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks, a codec that does not fit the classes, and views that there cannot be."""
        mistakes = needs_networks(self, recipe) + label_problems(self.codec, info.classes)
        student = recipe.student
        different = (2 * student.crop + 1) ** 2 * (2 if student.flip else 1)
        if self.views > 1 and student.resized_crop is not None:
            mistakes.append(
                f"label 'views' needs views that come back to the bit, but student.resized_crop={student.resized_crop} "
                "interpolates; set it to null and use student.crop, or choose label 'static'."
            )
        elif self.views > different:
            mistakes.append(
                f"label 'views' was asked for views={self.views}, but student.crop={student.crop} and "
                f"student.flip={str(student.flip).lower()} give {different} of an item; ask for at most so many, or "
                "let the student crop or flip more."
            )
        if self.views > 1 and student.shuffle_tiles > 1:
            mistakes.append(
                "label 'views' labels crops and flips of pictures as they are, but student.shuffle_tiles="
                f"{student.shuffle_tiles} puts their parts in another order; set it to 1, or choose label 'static'."
            )
        return mistakes

    def rendering(self, recipe: Recipe) -> SeededViews | None:
        """Return the views that the recipe's seed and its student's crops and flips name; None for one view."""
        if self.views == 1:
            return None
        return SeededViews(self.views, recipe.seed, recipe.student.crop, recipe.student.flip)

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return logits of every view, as they come back from the codec."""
        views = self.rendering(ctx.recipe)
        if views is None:
            return Static(codec=self.codec).make(images, ctx, content)
        drawn = draw_views(views, len(images))
        first = torch.arange(len(images)) * views.count
        told = [mean_logits(View().framed(drawn, first + v).apply(images), ctx) for v in range(views.count)]
        return Labels.coded(torch.stack(told, dim=1).flatten(0, 1), self.codec, views)

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
        """Yield batches of views, whose logits are mixed like the pictures.

        Crops and flips of `recipe` are not drawn; its cutout and its augmentation are, for a label knows of neither.
        """
        views = data.labels.views
        if not isinstance(views, SeededViews):
            return Static(codec=self.codec).supply(data, work, recipe, seed, device=device, start=start)
        assert data.labels.values is not None, "labels of views come with values"
        made = Data(data.images, data.cls, data.labels.values.float(), "logits", data.scale).to(device)
        return supply(made, work, recipe, seed, start=start, fixed=draw_views(views, len(data.images)))
