"""Crops of real images that a network finds easy, stitched together: RDED (arXiv 2312.03526).

K classes, f x f tiles a picture, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from datastill.codecs import PictureCodec
from datastill.errors import DatastillError, suggestion
from datastill.fields import Content, Context, Items, Pictures, Store, register
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe
from datastill.settings import setting
from datastill.store.cutting import cut, draw_windows, padded, stitched
from datastill.store.naturals import coded, natural_rows, picture_mistakes
from datastill.training.predict import predict
from datastill.training.views import to_unit

VALUES = 1 << 22  # of the crops that stand in memory at once, whatever the size of pictures
LARGE = 112  # pixels of a side from which pictures are made of four crops
SEPARATOR = "\n"  # between the names of the images in one picture: what hardly any name has
HOLDS = """\
{where} holds **parts of real images** of the training set: {parts}, stretched to {height} x {width} pixels. {named}
This set is not private: whoever has it has those parts of those images{lost}."""
BY_ID = "The column `id` of `images.parquet` names {whose}."
BY_PLACE = (
    "The column `place` of `images.parquet` is the image's row in the training split after a stable sort by class."
)
OPENS = """\
`items.parquet` says for every item its class and its row in `images.parquet` (`picture`), which is the item."""


@dataclass(frozen=True)
class _Best:
    """The best crop of each of n images: its window long[n, 3] and score float[n]; and the images by it, best first."""

    order: Tensor
    windows: Tensor
    scores: Tensor


@register("store", "crops")
@dataclass(frozen=True, kw_only=True)
class Crops(Store):
    """Per class, `crops` random crops of `mipc` images; of every image the one with the lowest cross-entropy is kept.

    A crop is judged in the middle of a frame that is zero after normalisation. The best ipc * f * f of a class are its
    pictures: picture q has rank k * ipc + q as its k-th tile, row by row.
    """

    mipc: int = setting(300, low=1, help="candidate images per class; all of them where a class has fewer")
    crops: int = setting(5, low=1, help="random crops of each candidate")
    scale: tuple[float, float] = setting((0.08, 1.0), low=1e-3, high=1.0, help="share of the area that a crop takes")
    factor: int | None = setting(
        None, low=1, high=8, help=f"tiles a side of a picture; none: 2 from {LARGE} pixels on, else 1"
    )
    network: str | None = setting(None, help="a name of the recipe's table of networks; none is its first")
    order: Literal["easiest", "hardest", "random"] = setting(
        "easiest", help="which crops are kept, by the network's cross-entropy; random asks no network"
    )
    rounding: Literal["nearest", "truncate"] = setting("nearest", help="how pixels become 8 bits")
    codec: PictureCodec = setting(PictureCodec(), help="how pictures are stored, applied at the seal")

    def tiles(self, shape: tuple[int, int, int]) -> int:
        """Return f, the tiles a side of a picture of `shape` (C, H, W)."""
        return self.factor or (2 if min(shape[1:]) >= LARGE else 1)

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse too few candidates, a network that there is not, and a codec that cannot hold pictures or names."""
        factor, found = self.tiles(info.shape), picture_mistakes(self.name, self.codec, info)
        wanted = recipe.ipc * factor**2
        if wanted > self.mipc:
            found.append(
                f"store 'crops' takes {wanted} images per class for ipc={recipe.ipc} at {factor} x {factor} tiles, "
                f"but chooses among mipc={self.mipc}; ask for a smaller --ipc, a larger store.mipc or fewer tiles."
            )
        if self.scale[0] > self.scale[1]:
            found.append(f"store 'crops' was given scale={list(self.scale)}; give the smaller share first.")
        if self.codec.packed and factor > 1:
            found.append(
                f"store 'crops' names the {factor**2} real images in each picture, for which a codec that packs "
                "pictures has no place; ask for store.codec.tiles=1, or for factor=1."
            )
        if self.order != "random" and not recipe.networks:
            found.append("store 'crops' asks a network of the recipe, but the table 'networks' is empty.")
        elif self.network is not None and self.network not in recipe.networks:
            near = suggestion(self.network, recipe.networks)
            found.append(f"store 'crops' asks network '{self.network}', which is not in the table 'networks'{near}")
        return found

    def begin(self, ctx: Context) -> Content:
        """Cut, score and stitch, a class at a time.

        Raises: DatastillError for a class that has fewer images than its pictures have tiles.
        """
        factor, size = self.tiles(ctx.info.shape), ctx.info.shape[1:]
        candidates = natural_rows(self._counts(ctx, factor), ctx)
        network = None if self.order == "random" else ctx.network(self.network or ctx.makers[0])
        pixels, rows, losses = [], [], []
        with ctx.reporter.phase("choose crops", len(candidates)) as phase:
            for k, mine in enumerate(candidates):
                images = ctx.real.pictures(mine).pixels.to(ctx.device.torch)
                best = self._best(images, k, network, ctx)
                first = best.order[: ctx.recipe.ipc * factor**2]
                tiles = cut(images[first], best.windows[first, None], _tile(size, factor))[:, 0]
                pixels.append(stitched(self._rounded(tiles).unflatten(0, (factor**2, -1)), size).cpu())
                rows.append(mine[first].view(factor**2, -1).T)
                losses.append(best.scores[first])
                phase.advance()
        pictures = _named(torch.cat(pixels), torch.cat(rows), ctx, self.codec)
        arrays = {} if network is None else {"losses": torch.cat(losses)}
        return Content(Items.of(cls=pictures.cls, picture=torch.arange(len(pictures.cls))), pictures, arrays)

    def _counts(self, ctx: Context, factor: int) -> Tensor:
        """Return how many candidates each class has, long[K]."""
        wanted, counts = ctx.recipe.ipc * factor**2, []
        for name, have in zip(ctx.real.classes, ctx.fields.select.available(ctx), strict=True):
            if have < wanted:
                raise DatastillError(
                    f"class '{name}' has {have} training images, but store 'crops' takes {wanted} per class for "
                    f"ipc={ctx.recipe.ipc} at {factor} x {factor} tiles; ask for a smaller --ipc or fewer tiles, or "
                    "leave the class out with --classes."
                )
            counts.append(min(self.mipc, have))
        return torch.tensor(counts)

    def _best(self, images: Tensor, k: int, network: Network | None, ctx: Context) -> _Best:
        """Choose a crop of each image uint8[n, C, H, W] of class k, and rank the images by it."""
        n, size = len(images), ctx.info.shape[1:]
        windows = draw_windows(ctx.rng("crops", part=k), n, self.crops, self.scale, size)
        if network is None:
            scores = torch.from_numpy(ctx.rng("crop scores", part=k).random((n, self.crops)))
        else:
            scores = self.losses(images, windows, k, network, ctx)
        sign = -1.0 if self.order == "hardest" else 1.0
        index = (sign * scores).argmin(dim=1)
        windows, scores = windows[torch.arange(n), index], scores[torch.arange(n), index]
        return _Best((sign * scores).argsort(stable=True), windows, scores)

    def losses(self, images: Tensor, windows: Tensor, k: int, network: Network, ctx: Context) -> Tensor:
        """Return float32[n, m], the cross-entropy of class k for every crop, on the CPU."""
        size, found = ctx.info.shape[1:], []
        tile = _tile(size, self.tiles(ctx.info.shape))
        together = max(1, VALUES // (self.crops * images[0].numel()))
        for part, wanted in zip(images.split(together), windows.split(together), strict=True):
            x = padded(cut(part, wanted, tile).flatten(0, 1), size, network.space.mean)
            with ctx.device.autocast():
                logits = predict(network, x, device=ctx.device.torch)
            found.append(-functional.log_softmax(logits, dim=1)[:, k].view(len(part), -1))
        return torch.cat(found)

    def _rounded(self, x: Tensor) -> Tensor:
        values = x.clamp(0.0, 1.0) * 255.0
        return (values.round() if self.rounding == "nearest" else values).to(torch.uint8)

    def decode(self, content: Content, rows: Tensor, *, open: bool = False) -> Tensor:
        """Return the pictures in [0, 1]."""
        return to_unit(content.pictures.pixels[content.items.picture[rows]])

    def seal(self, content: Content) -> Content:
        """Return the content with its pictures as a receiver decodes them."""
        return replace(content, pictures=coded(content.pictures, self.codec), arrays={})

    def expand(self, content: Content) -> Tensor:
        """Return uint8[N, C, H, W]."""
        return content.pictures.pixels[content.items.picture]

    def facts(self, content: Content, ctx: Context) -> dict[str, Any]:
        """Return the counts, and from an open content the mean cross-entropy of what was kept ("loss").

        "natural" counts the real images of which a crop is kept, "tiles" the crops in a picture, "candidates" the
        images that were looked at, "crops" the crops of them.
        """
        tiles = self.tiles(ctx.info.shape) ** 2
        candidates = sum(min(self.mipc, have) for have in ctx.fields.select.available(ctx))
        counts = {"natural": len(content.items) * tiles, "items": len(content.items), "tiles": tiles}
        losses = content.arrays.get("losses")
        told = {} if losses is None else {"loss": round(float(losses.mean()), 6)}
        return counts | {"candidates": candidates, "crops": candidates * self.crops} | told

    def told(self, content: Content) -> tuple[str, str]:
        """Return what the data card says of crops."""
        pictures = content.pictures
        height, width = pictures.pixels.shape[2:]
        factor = self.tiles((1, height, width))
        if factor == 1:
            parts, whose = "each picture is one square of an image", "the image of each"
        else:
            parts = f"each picture is {factor} x {factor} tiles, and each tile a square of another image"
            whose = "the images of each, one a line, in the order of the tiles: row by row"
        holds = HOLDS.format(
            where="`pictures/`" if pictures.codec.packed else "`images.parquet`",
            parts=parts,
            height=height // factor,
            width=width // factor,
            named=BY_PLACE if pictures.codec.packed else BY_ID.format(whose=whose),
            lost="" if pictures.codec.lossless else ", but for what the codec lost",
        )
        return holds, OPENS


def _tile(size: Sequence[int], factor: int) -> tuple[int, int]:
    return size[0] // factor, size[1] // factor


def _named(pixels: Tensor, rows: Tensor, ctx: Context, codec: PictureCodec) -> Pictures:
    """Return pictures uint8[P, C, H, W] with the names of the real images in them, train rows long[P, f * f]."""
    of = ctx.real.pictures(rows.flatten())
    tiles = rows.shape[1]
    ids = tuple(SEPARATOR.join(of.ids[i : i + tiles]) for i in range(0, len(of.ids), tiles))
    return Pictures(pixels, of.cls[::tiles], ids, places=of.places if tiles == 1 else None)
