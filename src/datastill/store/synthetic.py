"""Learned pixels: one picture per item, free in every pixel.

The parameterization of SRe2L (arXiv 2306.13092) and of most methods after it. N items, K classes, C channels, H W
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datastill.codecs import PictureCodec
from datastill.fields import Content, Context, Items, Pictures, Store, register
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.naturals import coded, picture_mistakes
from datastill.training.views import to_unit

CHUNK = 2048  # items per rounded block, so that a large set never stands in memory twice as floats
HOLDS = """\
{where} holds **learned pictures**: made by optimisation{began}, and not real images of the training set{but}. That
does not make the set private: what networks that saw the images had a hand in can tell of them."""
FROM_REAL = ", each begun from a real image, which it may still show"
UNMOVED = ", but for those that `id` or `place` names, which are"
FLOATS = """\
`items.parquet` says for every item its class and its row in `store.pixels` (`unit`), which is the item: pixels where 0
is black and 1 is white."""
FILES = """\
`items.parquet` says for every item its class and its row in `images.parquet` (`picture`), which is the item."""


@dataclass(frozen=True)
class Blocks:
    """How items are put into sets, which are matched as one batch each.

    across: set (j, q) holds image j of the classes q * b to q * b + b - 1, one of each (SRe2L).
    class-major: all images of class 0, then of class 1, and so on, cut into sets of b (G-VBSM); with `group`, so many
    images of class 0, then of class 1, up to the last class, then the next ones of class 0.
    """

    order: Literal["across", "class-major"]
    size: int
    group: int | None = None

    def sets(self, cls: Tensor, number: Tensor, classes: int) -> Tensor:
        """Return the set, long[N], of each item; cls and number (of the image in its class) are long[N]."""
        if self.order == "across":
            return number * -(-classes // self.size) + cls // self.size
        each = int(number.max()) + 1
        group = self.group or each
        before = number // group * group  # images of every class that stand in front of this one's group
        place = before * classes + cls * (each - before).clamp(max=group) + number - before
        return place // self.size


@register("store", "synthetic")
@dataclass(frozen=True, kw_only=True)
class Synthetic(Store):
    """ipc free pictures of each class, begun as noise or as real images.

    Open, pixels are float32[N, C, H, W] in units of the data set's deviation ("std"), or from 0 to 1 ("pixel");
    sealed, they are uint8 pictures, or float16 or float32 arrays from 0 to 1, beyond that where `bound` is off.
    """

    init: Literal["noise", "real"] = setting(
        "noise", help="begun as Gaussian noise of the data set's mean and deviation, or as the images of `select`"
    )
    space: Literal["std", "pixel"] = setting(
        "std",
        help="unit that is learned, hence that of the learning rate: deviations of the data set, or black to white",
    )
    bound: bool = setting(True, help="whether pixels are cut to black and white after every step")
    cut: Literal["step", "round"] = setting("step", help="when `bound` cuts: after every step, or every round only")
    storage: Literal["uint8", "fp16", "fp32"] = setting("uint8", help="pictures of 8 bits, or arrays of floats")
    rounding: Literal["nearest", "truncate"] = setting("nearest", help="to 8 bits")
    codec: PictureCodec = setting(PictureCodec(), help="how pictures of 8 bits are stored")
    block: int | None = setting(None, low=1, help="items of a set, matched as one batch; none: as many as classes")
    order: Literal["across", "class-major"] = setting(
        "across", help="sets of one image of each of several classes, or of all images of a class, then of the next"
    )
    group: int | None = setting(
        None, low=1, help="images of a class that stand together in class-major order; none: all of them"
    )

    provides = frozenset({"gradients", "sets"})
    kinds = ("learned images", "learned images")

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a codec that cannot hold the pictures, one beside arrays of floats, and groups across classes."""
        if self.group is not None and self.order == "across":
            return [
                f"store '{self.name}' was given group={self.group}, which is of class-major order, but order=across; "
                "set order to class-major, or leave group out."
            ]
        if self.storage == "uint8":
            return picture_mistakes(self.name, self.codec, info)
        if self.codec != PictureCodec() or self.rounding != "nearest":
            return [
                f"store '{self.name}' keeps arrays of floats with storage={self.storage}; leave its codec and rounding "
                "alone, or ask for storage=uint8."
            ]
        return []

    def begin(self, ctx: Context) -> Content:
        """Open ipc pictures of every class, items in the order (class, image).

        The noise of a class is a stream of its own, so that a larger ipc begins like a smaller one. Of real images,
        pictures are kept beside what is learned, so that one that did not move is known as the real image that it is.

        Raises: DatastillError for a class that has fewer images than ipc, where they begin as real ones.
        """
        each, classes = ctx.recipe.ipc, ctx.info.classes
        cls, number = torch.arange(classes).repeat_interleave(each), torch.arange(each).repeat(classes)
        if self.init == "real":
            pictures = ctx.real.pictures(self.rows(each, ctx).flatten())
            picture = torch.arange(len(cls))
        else:
            pictures = no_pictures(ctx.info.shape)
            picture = torch.full_like(cls, -1)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (ctx.info.mean, ctx.info.std))
        pixels = self.begun(pictures, mean, std, ctx)
        blocks = Blocks(self.order, self.block or classes, self.group)
        items = Items.of(
            cls=cls, set=blocks.sets(cls, number, classes), unit=torch.arange(len(cls)), picture=picture
        )  # fmt: skip
        return Content(items, pictures, {"pixels": pixels, "mean": mean, "std": std}, ("pixels",))

    def rows(self, each: int, ctx: Context) -> Tensor:
        """Return the train rows long[K, n] of the n real images of each class that pictures begin as."""
        return ctx.fields.select.start(each, ctx)

    def begun(self, pictures: Pictures, mean: Tensor, std: Tensor, ctx: Context) -> Tensor:
        """Return what is learned as it begins, float32[P, C, H, W] in the learned unit, from pictures or as noise."""
        if self.init == "real":
            x = to_unit(pictures.pixels)
            return x.sub_(mean).div_(std) if self.space == "std" else x
        noise = drawn_noise(ctx)
        return noise if self.space == "std" else noise.mul_(std).add_(mean)

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return float32[B, C, H, W] pixels, 0 black and 1 white: open as they are learned, closed as they are kept."""
        items, arrays = content.items[rows], content.arrays
        if "pixels" not in arrays:
            return to_unit(content.pictures.pixels[items.picture])
        x = self.in_pixels(arrays["pixels"][items.unit], content)
        return x if open else self.kept(x)

    def in_pixels(self, x: Tensor, content: Content) -> Tensor:
        """Return what is learned or kept as floats, float[B, C, h, w], with 0 black and 1 white."""
        arrays = content.arrays
        x = x.float() if x.dtype == torch.float16 else x
        if self.space == "std" and "std" in arrays:  # sealed arrays are pixels in either space
            x = x * arrays["std"] + arrays["mean"]
        return x

    def kept(self, x: Tensor) -> Tensor:
        """Return pixels as they come back from where they are kept, but for what a codec loses."""
        if self.storage == "uint8":
            return self.levels(x) / 255.0
        x = x.clamp(0.0, 1.0) if self.bound else x
        return x.half().float() if self.storage == "fp16" else x

    def levels(self, x: Tensor) -> Tensor:
        """Return pixels as the whole numbers from 0 to 255 that 8 bits keep of them, as floats."""
        scaled = x.clamp(0.0, 1.0) * 255.0
        return scaled.round() if self.rounding == "nearest" else scaled.floor()

    def settle(self, content: Content, when: Literal["step", "round"] = "step") -> None:
        """Cut pixels, channel by channel, to what black and white are in the learned unit."""
        if not self.bound or when != self.cut:
            return
        x, low, high = content.arrays["pixels"].data, torch.zeros(()), torch.ones(())
        if self.space == "std":
            mean, std = content.arrays["mean"], content.arrays["std"]
            low, high = -mean / std, (1.0 - mean) / std
        low, high = low.to(x), high.to(x)
        torch.minimum(torch.maximum(x, low, out=x), high, out=x)

    def seal(self, content: Content) -> Content:
        """Round to pictures under the codec, or to arrays of floats."""
        if not content.learned:
            return content
        items, learned = content.items, content.arrays["pixels"].detach()
        rounded = [self.in_pixels(part, content) for part in learned.split(CHUNK)]
        none = torch.full_like(items.unit, -1)
        if self.storage != "uint8":
            dtype = torch.float16 if self.storage == "fp16" else torch.float32
            pixels = torch.cat([self.kept(x).to(dtype) for x in rounded])
            return Content(replace(items, picture=none), no_pictures(pixels.shape[1:]), {"pixels": pixels})
        levels = torch.cat([self.levels(x).to(torch.uint8) for x in rounded])
        one = torch.empty(len(levels), dtype=torch.long)  # an item of each unit
        one[items.unit] = torch.arange(len(items))
        pictures = coded(_named(levels, items[one], content.pictures), self.codec)
        return Content(replace(items, unit=none, picture=items.unit), pictures)

    def expand(self, content: Content) -> Tensor:
        """Return uint8[N, C, H, W], or float32[N, C, H, W] where floats are stored."""
        if "pixels" not in content.arrays:
            return content.pictures.pixels[content.items.picture]
        return content.arrays["pixels"][content.items.unit].float()

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return what there is: no real image, so many learned ones, and in how many sets they were matched."""
        count = len(content.items)
        return {"natural": 0, "learned": count, "items": count, "batches": len(content.items.set.unique())}

    def told(self, content: Content) -> tuple[str, str]:
        """Return what the data card says of learned pictures."""
        floats = "pixels" in content.arrays
        packed = content.pictures.codec.packed
        real = any(content.pictures.ids) or (packed and bool((_places(content.pictures) >= 0).any()))
        where = "`arrays.safetensors`" if floats else "`pictures/`" if packed else "`images.parquet`"
        began = FROM_REAL if self.init == "real" else ""
        return HOLDS.format(where=where, began=began, but=UNMOVED if real else ""), FLOATS if floats else FILES


def drawn_noise(ctx: Context) -> Tensor:
    """Return standard normal float32[K * ipc, C, H, W], a stream for each class: a larger ipc extends a smaller one."""
    shape = (ctx.recipe.ipc, *ctx.info.shape)
    drawn = [ctx.rng("pixels", part=k).standard_normal(shape, np.float32) for k in range(ctx.info.classes)]
    return torch.from_numpy(np.concatenate(drawn))


def no_pictures(shape: tuple[int, ...]) -> Pictures:
    """Return no pictures, of this shape (C, H, W)."""
    return Pictures(torch.empty((0, *shape), dtype=torch.uint8), torch.empty(0, dtype=torch.long), ())


def _places(pictures: Pictures) -> Tensor:
    return torch.full_like(pictures.cls, -1) if pictures.places is None else pictures.places


def _named(levels: Tensor, items: Items, begun: Pictures) -> Pictures:
    """Return learned pictures uint8[P, C, H, W] of items, named where they are still the real image they began as."""
    ids, places = [""] * len(levels), torch.full_like(items.cls, -1)
    if len(begun.cls):
        still = (levels == begun.pixels[items.picture]).flatten(1).all(dim=1)
        ids = [begun.ids[p] if kept else "" for p, kept in zip(items.picture, still, strict=True)]
        places = torch.where(still, _places(begun)[items.picture], -1)
    return Pictures(levels, items.cls, tuple(ids), places=places)
