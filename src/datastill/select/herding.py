"""Herding: images whose running mean of features stays nearest to the mean of their class.

Welling, "Herding dynamical weights to learn", ICML 2009; as iCaRL picks exemplars (arXiv 1611.07725, algorithm 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datastill.fields import Context, register
from datastill.select.ranking import ByFeatures, distances, rows_by_class


@register("select", "herding")
@dataclass(frozen=True, kw_only=True)
class Herding(ByFeatures):
    """Image t of a class is the one that brings the sum of t features nearest to t times the mean of the class."""

    def pick(self, counts: Sequence[int], ctx: Context) -> list[Tensor]:
        """Return train rows long[counts[k]] of each class k, in the order in which they are picked.

        Raises: DatastillError naming the first class that has too few images.
        """
        rows = rows_by_class(counts, ctx)
        phis = self.features(rows, ctx)
        return [mine[herd(phi, n)] for mine, phi, n in zip(rows, phis, counts, strict=True)]


def herd(phi: Tensor, n: int) -> Tensor:
    """Return long[n], the first n of phi float64[N, D]: argmin_i of norm(t * mean - sum of those before - phi_i)."""
    mean, total = phi.mean(0), torch.zeros_like(phi[0])
    picked: list[int] = []
    for t in range(1, n + 1):
        far = distances(phi, t * mean - total)
        far[picked] = math.inf
        picked.append(int(far.argmin()))
        total = total + phi[picked[-1]]
    return torch.tensor(picked, dtype=torch.long)
