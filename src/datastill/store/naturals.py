"""Real images of the training split as pictures of a store."""

from __future__ import annotations

import torch
from torch import Tensor

from datastill.fields import Context, Pictures


def spread(total: int, classes: int, ctx: Context) -> Tensor:
    """Return long[K]: `total` split evenly over classes, the remainder one each to classes in a seeded order."""
    counts = torch.full((classes,), total // classes)
    order = ctx.rng("leftover").permutation(classes)[: total % classes]
    counts[torch.from_numpy(order)] += 1
    return counts


def natural_rows(counts: Tensor, ctx: Context) -> list[Tensor]:
    """Return per class the train rows of its first `counts[k]` selected images."""
    most = int(counts.max())
    if not most:
        return [torch.empty(0, dtype=torch.long) for _ in counts]
    if int(counts.min()) == most:
        return list(ctx.fields.select.start(most, ctx))
    few, many = ctx.fields.select.start(int(counts.min()), ctx), None
    rows = []
    for k, count in enumerate(counts.tolist()):
        if count > few.shape[1]:
            many = ctx.fields.select.start(most, ctx) if many is None else many
            rows.append(many[k, :count])
        else:
            rows.append(few[k])
    return rows


def pictures_of(rows: list[Tensor], ctx: Context) -> Pictures:
    """Return the pictures of these train rows, one after another."""
    return ctx.real.pictures(torch.cat(rows))
