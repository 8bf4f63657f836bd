"""Uniform random real images, without replacement within a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.fields import Context, Select, register
from datastill.runtime.seeds import rng


@register("select", "random")
@dataclass(frozen=True, kw_only=True)
class Random(Select):
    """One seeded permutation per class; a larger choice extends a smaller one."""

    def start(self, n: int, ctx: Context) -> Tensor:
        """Return train rows long[K, n].

        Raises: DatastillError naming the first class that has fewer than n images.
        """
        chosen = []
        for k, name in enumerate(ctx.real.classes):
            rows = ctx.real.of_class(k)
            if len(rows) < n:
                raise DatastillError(
                    f"class '{name}' has {len(rows)} training images, but this recipe starts from {n} per class; "
                    f"ask for a smaller --ipc or leave the class out with --classes."
                )
            order = rng(ctx.recipe.seed, "select", k).permutation(len(rows))[:n]
            chosen.append(rows[torch.from_numpy(order)])
        return torch.stack(chosen)
