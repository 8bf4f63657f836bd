"""A control of INFER: Gaussian noise where the compensators were, each with the 2-norm of the one that it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.fields import Context, Items, Match, Part, register

if TYPE_CHECKING:
    from datastill.draft import Draft


@register("match", "noise")
@dataclass(frozen=True, kw_only=True)
class Noise(Match):
    """Every learned unit becomes seeded Gaussian noise of the given 2-norm, in the store's own units, before Clip.

    norms: one number per unit, in the order of the units.
    """

    norms: tuple[float, ...]

    requires = frozenset({"compensators"})

    @property
    def total_rounds(self) -> int:
        """Return 1: a single draw."""
        return 1

    def parts(self, items: Items, makers: tuple[str, ...]) -> list[Part]:
        """Return one part per unit. Raises: DatastillError for another number of norms than units."""
        units = int(items.unit.max()) + 1
        if len(self.norms) != units:
            raise DatastillError(
                f"match 'noise' was given {len(self.norms)} norms for {units} compensators; give one for each."
            )
        return [Part(u, (items.unit == u).nonzero().flatten(), "") for u in range(len(self.norms))]

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Draw and scale the noise of every part."""
        drawn = []
        for part in draft.parts:
            noise = torch.from_numpy(ctx.rng("noise", part=part.index).standard_normal(ctx.info.shape)).float()
            drawn.append(noise * (self.norms[part.index] / noise.norm()))
        draft.fill("compensators", torch.stack(drawn))
        return {}
