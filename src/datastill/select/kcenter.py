"""k-center: images that leave no image of their class far from a chosen one.

Gonzalez 1985 (farthest first); Sener and Savarese, arXiv 1708.00489, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datastill.fields import Context, register
from datastill.runtime.seeds import rng
from datastill.select.ranking import ByFeatures, distances, rows_by_class
from datastill.settings import setting


@register("select", "kcenter")
@dataclass(frozen=True, kw_only=True)
class KCenter(ByFeatures):
    """Farthest first: each image is the one farthest from all that were picked before it.

    Its covering radius is at most twice the smallest possible one, from any first image.
    """

    first: Literal["mean", "random"] = setting(
        "mean", help="the first image of a class: nearest to the mean of its features, or any"
    )

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k, in the order in which they are picked.

        Raises: DatastillError naming the first class that has too few images.
        """
        rows, chosen = rows_by_class(counts, ctx), []
        for k, (mine, phi) in enumerate(zip(rows, self.features(rows, ctx), strict=True)):
            if self.first == "mean":
                begin = int(distances(phi, phi.mean(0)).argmin())
            else:
                begin = int(rng(ctx.recipe.seed, "select", "kcenter", k).integers(len(phi)))
            chosen.append(mine[farthest_first(phi, counts[k], begin)])
        return chosen


def farthest_first(phi: Tensor, n: int, first: int) -> Tensor:
    """Return long[n] of phi float64[N, D]: `first`, then argmax_i of the distance to the nearest picked one."""
    picked, nearest = [first], torch.full((len(phi),), math.inf, dtype=phi.dtype)
    while len(picked) < n:
        nearest = torch.minimum(nearest, distances(phi, phi[picked[-1]]))
        nearest[picked[-1]] = -math.inf
        picked.append(int(nearest.argmax()))
    return torch.tensor(picked[:n], dtype=torch.long)
