"""Everything in one stage."""

from __future__ import annotations

from dataclasses import dataclass

from datastill.fields import Stage, Stages, register
from datastill.recipe import Recipe


@register("stages", "once")
@dataclass(frozen=True, kw_only=True)
class Once(Stages):
    """One stage: the recipe as it is."""

    def plan(self, recipe: Recipe) -> list[Stage]:
        """Return the single stage."""
        return [Stage(0, recipe)]
