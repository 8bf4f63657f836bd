"""Real images of the training split as pictures of a store."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from datastill.codecs import PictureCodec, decode_pictures, encode_pictures, picture_problems
from datastill.errors import DatastillError
from datastill.fields import Context, Pictures
from datastill.recipe import DatasetInfo


def spread(total: int, ctx: Context, taken: int = 0) -> Tensor:
    """Return long[K]: `total` split over the classes as evenly as their images allow, `taken` of each being gone.

    What does not come out even goes, one each, to classes in a seeded order. Raises: DatastillError where there are
    fewer images than `total`.
    """
    have = torch.tensor([max(0, count - taken) for count in ctx.fields.select.available(ctx)])
    if total > int(have.sum()):
        raise DatastillError(
            f"{total} images were asked for, but there are {int(have.sum())} to choose from; ask for fewer."
        )
    counts = torch.zeros_like(have)
    while (left := total - int(counts.sum())) > 0:
        open_ = (counts < have).nonzero().flatten()
        share = left // len(open_)
        if share:
            counts[open_] = torch.minimum(counts[open_] + share, have[open_])
            continue
        order = torch.from_numpy(ctx.rng("leftover").permutation(len(have)))
        counts[order[torch.isin(order, open_)][:left]] += 1
    return counts


def natural_rows(counts: Tensor, ctx: Context) -> list[Tensor]:
    """Return per class the train rows of its first `counts[k]` selected images."""
    if not int(counts.max()):
        return [torch.empty(0, dtype=torch.long) for _ in counts]
    return ctx.fields.select.pick(counts.tolist(), ctx)


def pictures_of(rows: list[Tensor], ctx: Context, codec: PictureCodec) -> Pictures:
    """Return the pictures of these train rows, one list after another, not yet coded.

    For a codec that packs, each list is sorted: which image stands where says nothing, and names cost fewer bytes so.
    """
    return ctx.real.pictures(torch.cat([r.sort().values for r in rows] if codec.packed else rows))


def picture_mistakes(store: str, codec: PictureCodec, info: DatasetInfo) -> list[str]:
    """Return one sentence for each reason why a store cannot keep the set's pictures under a codec."""
    return [f"store '{store}': {problem}" for problem in picture_problems(codec, info.shape)]


def coded(pictures: Pictures, codec: PictureCodec) -> Pictures:
    """Return pictures under a codec: as a receiver decodes them, with the files where it loses something."""
    if codec.lossless:
        return replace(pictures, codec=codec)
    if pictures.encoded is not None and pictures.codec == codec:
        return pictures  # coded once more, they would lose once more
    files = encode_pictures(pictures.pixels, codec)
    channels, height, width = pictures.pixels.shape[1:]
    pixels = decode_pictures(files, codec, len(pictures.cls), (channels, height, width))
    return replace(pictures, pixels=pixels, codec=codec, encoded=tuple(files))
