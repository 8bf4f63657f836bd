"""Real images, as they are or under a codec: nothing learned, one picture per item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datastill.codecs import PictureCodec
from datastill.fields import Content, Context, Items, Store, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.naturals import coded, natural_rows, picture_mistakes, pictures_of, spread
from datastill.training.views import to_unit


@register("store", "pixels")
@dataclass(frozen=True, kw_only=True)
class Pixels(Store):
    """`total` images spread over the classes, or `per_class` of each (the recipe's ipc where neither is given)."""

    per_class: int | None = setting(None, low=1)
    total: int | None = setting(None, low=1)
    codec: PictureCodec = setting(PictureCodec(), help="how pictures are stored, applied at the seal")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse two counts at once, fewer images than classes, and a codec that cannot hold the pictures."""
        said, found = f"store '{self.name}' was given", picture_mistakes(self.name, self.codec, info)
        if self.total is not None and self.per_class is not None:
            found.append(f"{said} per_class={self.per_class} and total={self.total}; give one of them.")
        elif self.total is not None and self.total < info.classes:
            found.append(f"{said} total={self.total} for {info.classes} classes; give at least one each.")
        return found

    def begin(self, ctx: Context) -> Content:
        """Take the selected real images."""
        classes = ctx.info.classes
        each = torch.full((classes,), self.per_class or ctx.recipe.ipc)
        rows = natural_rows(each if self.total is None else spread(self.total, ctx), ctx)
        pictures = pictures_of(rows, ctx, self.codec)
        return Content(Items.of(cls=pictures.cls, picture=torch.arange(len(pictures.cls))), pictures)

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return the pictures in [0, 1]."""
        return to_unit(content.pictures.pixels[content.items.picture[rows]])

    def seal(self, content: Content) -> Content:
        """Return the content with its pictures as a receiver decodes them."""
        return replace(content, pictures=coded(content.pictures, self.codec))

    def expand(self, content: Content) -> Tensor:
        """Return uint8[N, C, H, W]."""
        return content.pictures.pixels[content.items.picture]

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return the count of pictures."""
        return {"natural": len(content.pictures.cls), "items": len(content.items)}
