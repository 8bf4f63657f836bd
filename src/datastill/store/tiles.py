"""Learned pictures that are several items each: mosaics of f x f tiles, each stretched to full size.

The multi-formation of IDC (arXiv 2205.14959): natural images lose less by half the resolution than a set does by half
its images. N items, U stored pictures (units), f * f items of each, C channels, H x W pixels, h x w pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from datastill.errors import DatastillError
from datastill.fields import Content, Context, Items, Pictures, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.synthetic import Blocks, Synthetic, drawn_noise, no_pictures
from datastill.training.views import to_unit

GREY = 0.5  # of what a tile lacks where the factor does not divide a side
VALUES = 1 << 22  # of items that are stretched at once in float64, whatever their size
HOLDS = """\
{where} holds **learned pictures**: made by optimisation{began}, and not real images of the training set. Each is a
mosaic of {factor} x {factor} tiles, and each tile is an item at a lower resolution. That does not make the set private:
what networks that saw the images had a hand in can tell of them."""
FROM_REAL = ", each tile begun from a real image made smaller, which it may still show"
OPENS = """\
`items.parquet` says for every item its class and its row in {table} (`{column}`). {count} items have the same row. In
the order of `items.parquet`, they are its tiles: row by row, from the top left. Tile (i, j) is the {height} x {width}
pixels from row {height} * i and column {width} * j on{border}, stretched to {size} pixels: bilinear, corners not
aligned{rounded}."""
BORDER = "; pixels beyond the edge of the picture are a grey of {grey}"
ROUNDED = ", and rounded to whole numbers, halves to the even one"
FLOATS = ("`store.pixels`", "unit", "0.5")
FILES = ("`images.parquet`", "picture", "127.5")


def tile_size(size: Sequence[int], factor: int) -> tuple[int, int]:
    """Return h, w: the pixels of a tile of pictures of H, W pixels, f tiles a side, rounded up."""
    return -(-size[0] // factor), -(-size[1] // factor)


def tile_numbers(items: Items, factor: int) -> Tensor:
    """Return long[N], which tile of its picture each item is: the items of a picture are its tiles, in order.

    `items` hold all tiles of each of their pictures.
    """
    owner = torch.where(items.unit >= 0, items.unit, items.picture)
    number = torch.empty_like(owner)
    number[owner.argsort(stable=True)] = torch.arange(len(owner), device=owner.device) % factor**2
    return number


def tiles_of(pictures: Tensor, tile: Tensor, factor: int) -> Tensor:
    """Return [B, C, h, w]: tile long[B] of each picture [B, C, H, W]; 0 where a tile reaches beyond the picture."""
    height, width = tile_size(pictures.shape[2:], factor)
    below, beside = factor * height - pictures.shape[2], factor * width - pictures.shape[3]
    if below or beside:
        pictures = functional.pad(pictures, (0, beside, 0, below))
    blocks: Tensor = pictures.unflatten(3, (factor, width)).unflatten(2, (factor, height)).permute(0, 2, 4, 1, 3, 5)
    return blocks[torch.arange(len(tile), device=tile.device), tile // factor, tile % factor]


def bordered(tiles: Tensor, tile: Tensor, factor: int, size: Sequence[int], grey: float) -> Tensor:
    """Return tiles [B, C, h, w] that are grey where they reach beyond pictures of H, W pixels."""
    sides = tile_size(size, factor)
    if (factor * sides[0], factor * sides[1]) == tuple(size):
        return tiles
    down, across = (
        place[:, None] * side + torch.arange(side, device=tile.device) < whole
        for place, side, whole in zip((tile // factor, tile % factor), sides, size, strict=True)
    )
    return torch.where((down[:, :, None] & across[:, None, :])[:, None], tiles, grey)


def stretched(tiles: Tensor, size: Sequence[int]) -> Tensor:
    """Return float[B, C, H, W]: tiles float[B, C, h, w] at full size, bilinear, corners not aligned.

    The weights are whole numbers, divided by 4 H W at the end: so tiles of whole numbers in float64 come out without
    any rounding but the last one, and are the same on every machine.
    """
    rows, columns = (_weights(small, large, tiles) for small, large in zip(tiles.shape[2:], size, strict=True))
    with torch.autocast(tiles.device.type, enabled=False):  # 8 bits of a pixel are more than bf16 has
        made: Tensor = rows @ (tiles @ columns.T) / (4 * size[0] * size[1])
    return made


def _weights(small: int, large: int, like: Tensor) -> Tensor:
    """Return [large, small]: 2 * large times what each pixel of a tile gives to each one of the full size."""
    place = ((2 * torch.arange(large, device=like.device) + 1) * small - large).clamp(min=0)
    low, share = place // (2 * large), place % (2 * large)
    weights = like.new_zeros(large, small)
    weights.scatter_add_(1, low[:, None], (2 * large - share)[:, None].to(like.dtype))
    return weights.scatter_add_(1, (low + 1).clamp(max=small - 1)[:, None], share[:, None].to(like.dtype))


@register("store", "tiles")
@dataclass(frozen=True, kw_only=True)
class Tiles(Synthetic):
    """ipc free pictures of each class, of f x f tiles, so that students see f * f * ipc items of it.

    Items of a class stand tile by tile: tile 0 of all its pictures, then tile 1. Pictures are learned and sealed as
    those of `synthetic`, which this is with one tile; then items are rounded to 8 bits where pictures are.
    """

    factor: int = setting(2, low=1, high=8, help="tiles a side of a picture; 1: a picture is an item")
    init: Literal["noise", "real"] = setting(
        "real", help="begun as Gaussian noise around grey, cut to black and white, or as real images made smaller"
    )
    pick: Literal["select", "first"] = setting(
        "select", help="which real images it begins as: those of `select`, or the first of each class in the source"
    )
    resize: Literal["bilinear", "nearest"] = setting(
        "bilinear", help="how real images are made smaller: bilinear with antialiasing, or nearest pixels"
    )
    space: Literal["std", "pixel"] = setting(
        "pixel", help="unit that is learned, hence that of the learning rate: black to white, or deviations"
    )
    cut: Literal["step", "round"] = setting("round", help="when `bound` cuts: after every step, or every round only")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse what `synthetic` refuses, and tiles of which the last would hold nothing."""
        found = super().check(recipe, info)
        sides = zip(tile_size(info.shape[1:], self.factor), info.shape[1:], strict=True)
        if any((self.factor - 1) * side >= whole for side, whole in sides):
            height, width = info.shape[1:]
            found.append(
                f"store '{self.name}' was given factor={self.factor}, but {height} x {width} pixels have no "
                f"{self.factor} x {self.factor} tiles of one size; ask for a smaller factor."
            )
        return found

    def rows(self, each: int, ctx: Context) -> Tensor:
        """Return the train rows long[K, n] of the n real images of each class that tiles begin as.

        Raises: DatastillError for a class that has fewer.
        """
        classes = range(ctx.info.classes)
        own = [ctx.real.of_class(k) for k in classes] if self.pick == "first" else None
        have = ctx.fields.select.available(ctx) if own is None else [len(mine) for mine in own]
        for name, count in zip(ctx.real.classes, have, strict=True):
            if count < each:
                raise DatastillError(
                    f"class '{name}' has {count} images to begin from, but store '{self.name}' takes {each} for "
                    f"ipc={ctx.recipe.ipc} at {self.factor} x {self.factor} tiles; ask for a smaller --ipc, a smaller "
                    "store.factor or store.init=noise, or leave the class out with --classes."
                )
        return super().rows(each, ctx) if own is None else torch.stack([mine[:each] for mine in own])

    def begin(self, ctx: Context) -> Content:
        """Open ipc pictures of every class; with several tiles, no picture is a real one.

        Tile k of picture q begins as image k * ipc + q of its class, so that items stand in the order of these images.

        Raises: DatastillError for a class that has fewer images than tiles, where they begin as real ones.
        """
        if self.factor == 1:
            return super().begin(ctx)
        each, classes, tiles = ctx.recipe.ipc, ctx.info.classes, self.factor**2
        cls, number = torch.arange(classes).repeat_interleave(each * tiles), torch.arange(each).repeat(classes * tiles)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (ctx.info.mean, ctx.info.std))
        none = no_pictures(ctx.info.shape)
        if self.init == "real":
            rows = self.rows(each * tiles, ctx)
            x = torch.cat([self._mosaics(ctx.real.pictures(mine).pixels) for mine in rows])
            pixels = x.sub_(mean).div_(std) if self.space == "std" else x
        else:
            pixels = self.begun(none, mean, std, ctx)
        blocks = Blocks(self.order, self.block or classes, self.group)
        # A set holds all tiles of its pictures: no part of a match ever splits one.
        items = Items.of(cls=cls, set=blocks.sets(cls, number, classes), unit=cls * each + number)
        return Content(items, none, {"pixels": pixels, "mean": mean, "std": std}, ("pixels",))

    def begun(self, pictures: Pictures, mean: Tensor, std: Tensor, ctx: Context) -> Tensor:
        """Return what is learned as it begins, float32[U, C, H, W]; noise is N(0.5, 1 / 16) in pixels (the paper's)."""
        if self.init == "real":
            return super().begun(pictures, mean, std, ctx)
        x = drawn_noise(ctx).div_(4.0).add_(0.5).clamp_(0.0, 1.0)
        return x.sub_(mean).div_(std) if self.space == "std" else x

    def _mosaics(self, images: Tensor) -> Tensor:
        """Return float32[n, C, H, W] of the f * f * n images uint8[., C, H, W] of a class, cut where tiles are."""
        size = images.shape[2:]
        height, width = tile_size(size, self.factor)
        made = torch.empty(len(images) // self.factor**2, *images.shape[1:])
        for k, mine in enumerate(images.chunk(self.factor**2)):
            top, left = k // self.factor * height, k % self.factor * width
            small = (min(height, size[0] - top), min(width, size[1] - left))
            made[:, :, top : top + height, left : left + width] = self._smaller(to_unit(mine), small)
        return made

    def _smaller(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.resize == "nearest":
            return functional.interpolate(x, size, mode="nearest")
        return functional.interpolate(x, size, mode="bilinear", antialias=True)

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return float[B, C, H, W] pixels, 0 black and 1 white: open as they are learned, closed as they are kept.

        Open, it is linear in the pictures, but for the grey of a side that the factor does not divide.
        """
        if self.factor == 1:
            return super().decode(content, rows, open=open)
        tile = tile_numbers(content.items, self.factor)[rows]
        if not open or "pixels" not in content.arrays:
            return to_unit(self._rendered(content, rows, tile))
        pictures = content.arrays["pixels"][content.items.unit[rows]]
        x = self.in_pixels(tiles_of(pictures, tile, self.factor), content)
        return stretched(bordered(x, tile, self.factor, pictures.shape[2:], GREY), pictures.shape[2:])

    def _rendered(self, content: Content, rows: Tensor, tile: Tensor) -> Tensor:
        """Return items as a receiver has them: uint8[B, C, H, W], or float32 where floats are stored."""
        items, arrays = content.items[rows], content.arrays
        top = 255.0 if self.storage == "uint8" else 1.0
        if "pixels" in arrays:
            pictures = arrays["pixels"][items.unit].detach()
            x = self.in_pixels(tiles_of(pictures, tile, self.factor), content)
            x = self.levels(x) if self.storage == "uint8" else self.kept(x)
        else:
            pictures = content.pictures.pixels[items.picture]
            x = tiles_of(pictures, tile, self.factor)
        size = pictures.shape[2:]
        x = stretched(bordered(x.double(), tile, self.factor, size, GREY * top), size)
        return x.round().to(torch.uint8) if self.storage == "uint8" else x.float()

    def expand(self, content: Content) -> Tensor:
        """Return uint8[N, C, H, W], or float32[N, C, H, W] where floats are stored."""
        if self.factor == 1:
            return super().expand(content)
        stored = content.arrays.get("pixels", content.pictures.pixels)
        tile = tile_numbers(content.items, self.factor)
        together = max(1, VALUES // stored[0].numel())
        parts = torch.arange(len(tile)).split(together)
        return torch.cat([self._rendered(content, rows, tile[rows]) for rows in parts])

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return what there is: no real image, so many learned ones, and how many items each of them is ("tiles")."""
        counts = super().facts(content, ctx)
        tiles = self.factor**2
        return counts if tiles == 1 else counts | {"learned": counts["items"] // tiles, "tiles": tiles}

    def told(self, content: Content) -> tuple[str, str]:
        """Return what the data card says of mosaics, and how a tile becomes an item."""
        if self.factor == 1:
            return super().told(content)
        floats = "pixels" in content.arrays
        size = content.arrays.get("pixels", content.pictures.pixels).shape[2:]
        table, column, grey = FLOATS if floats else FILES
        height, width = tile_size(size, self.factor)
        divided = (height * self.factor, width * self.factor) == tuple(size)
        where = "`arrays.safetensors`" if floats else "`pictures/`" if content.pictures.codec.packed else table
        holds = HOLDS.format(where=where, factor=self.factor, began=FROM_REAL if self.init == "real" else "")
        opens = OPENS.format(
            table=table, column=column, count=self.factor**2, height=height, width=width,
            border="" if divided else BORDER.format(grey=grey), size=f"{size[0]} x {size[1]}",
            rounded="" if floats else ROUNDED,
        )  # fmt: skip
        return holds, opens
