"""Real images as they are: nothing learned, one picture per item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datastill.fields import Content, Context, Items, Store, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.naturals import natural_rows, pictures_of, spread
from datastill.training.views import to_unit


@register("store", "pixels")
@dataclass(frozen=True, kw_only=True)
class Pixels(Store):
    """`total` images spread over the classes, or `per_class` of each (the recipe's ipc where neither is given)."""

    per_class: int | None = setting(None, low=1)
    total: int | None = setting(None, low=1)

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse two counts at once, and fewer images than classes."""
        if self.total is not None and self.per_class is not None:
            return [f"store 'pixels' was given per_class={self.per_class} and total={self.total}; give one of them."]
        if self.total is not None and self.total < info.classes:
            return [f"store 'pixels' was given total={self.total} for {info.classes} classes; give at least one each."]
        return []

    def begin(self, ctx: Context) -> Content:
        """Take the selected real images."""
        classes = ctx.info.classes
        total = self.total if self.total is not None else (self.per_class or ctx.recipe.ipc) * classes
        rows = natural_rows(spread(total, classes, ctx), ctx)
        pictures = pictures_of(rows, ctx)
        return Content(Items.of(cls=pictures.cls, picture=torch.arange(len(pictures.cls))), pictures)

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return the pictures in [0, 1]."""
        return to_unit(content.pictures.pixels[content.items.picture[rows]])

    def seal(self, content: Content) -> Content:
        """Return the content: pictures are exact already."""
        return content

    def expand(self, content: Content) -> Tensor:
        """Return uint8[N, C, H, W]."""
        return content.pictures.pixels[content.items.picture]

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return the count of pictures."""
        return {"natural": len(content.pictures.cls), "items": len(content.items)}
