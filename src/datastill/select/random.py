"""Uniform random real images, without replacement within a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.fields import Context, Select, register
from datastill.runtime.seeds import rng
from datastill.select.ranking import rows_by_class


@register("select", "random")
@dataclass(frozen=True, kw_only=True)
class Random(Select):
    """One seeded permutation per class; a larger choice extends a smaller one."""

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k.

        Raises: DatastillError naming the first class that has too few images.
        """
        chosen = []
        for k, rows in enumerate(rows_by_class(counts, ctx)):
            order = rng(ctx.recipe.seed, "select", k).permutation(len(rows))[: counts[k]]
            chosen.append(rows[torch.from_numpy(order)])
        return chosen
