"""No match: the store stays as it began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from datastill.fields import Context, Match, register

if TYPE_CHECKING:
    from datastill.draft import Draft


@register("match", "none")
@dataclass(frozen=True, kw_only=True)
class None_(Match):
    """Nothing is matched."""

    @property
    def total_rounds(self) -> int:
        """Return 0."""
        return 0

    def round(self, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        """Return nothing; never called, since there are no parts."""
        return {}
