"""Which images of real batches pass, by what each does to the pull on synthetic ones: level 2 of BiLP.

arXiv 2305.18381. N images that a match may look at, K classes, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

Tails = Literal["both", "low", "high"]
Threshold = Literal["quantiles", "normal"]

RECENT = 4096  # effects of a class, of which quantiles are taken
HELD = 0.9  # what is left of a running mean where a batch adds to it


class Sieve:
    """What is remembered of the effects of images, in tensors of a draft's state: a view of them, made at every use.

    open: bool[N], whether an image passes; all do until they are judged. effect: float32[N], of its last judgement, NaN
    before. steps: long[K], batches so far. mean, variance: float64[K], running, of effects. recent, written:
    float32[K, R] and long[K], the last R effects in a ring, and how many ever were. seen: long[2], images of batches,
    and those of them that passed. All of them are on the host.

    Args:
        state: of the draft; what is missing in it is put there.
        rows: N.
        classes: K.
        recent: R.
    """

    def __init__(self, state: dict[str, Tensor], rows: int, classes: int, recent: int = RECENT) -> None:
        begun: dict[str, Callable[[], Tensor]] = {
            "open": lambda: torch.ones(rows, dtype=torch.bool),
            "effect": lambda: torch.full((rows,), torch.nan),
            "steps": lambda: torch.zeros(classes, dtype=torch.long),
            "mean": lambda: torch.zeros(classes, dtype=torch.float64),
            "variance": lambda: torch.zeros(classes, dtype=torch.float64),
            "recent": lambda: torch.zeros(classes, recent),
            "written": lambda: torch.zeros(classes, dtype=torch.long),
            "seen": lambda: torch.zeros(2, dtype=torch.long),
        }
        found = {}
        for name, make in begun.items():
            key = f"sieve.{name}"
            # A resumed run has its state on the device; reading it there would wait at every step.
            found[name] = state[key] = state[key].cpu() if key in state else make()
        self.open, self.effect, self.steps, self.seen = (found[n] for n in ("open", "effect", "steps", "seen"))
        self.mean, self.variance = found["mean"], found["variance"]
        self.recent, self.written = found["recent"], found["written"]

    def count(self, k: int) -> int:
        """Return how many batches of class k there were before this one, and count it."""
        before = int(self.steps[k])
        self.steps[k] += 1
        return before

    def judge(self, k: int, places: Tensor, effects: Tensor, share: float, tails: Tails, threshold: Threshold) -> None:
        """Let the middle of a batch pass from here on, and nothing outside of it.

        Args:
            k: the class.
            places: of the batch, long[B].
            effects: of its images, float[B].
            share: of recent effects, or of a normal law with their mean and variance, that lies outside.
            tails: on which sides.
            threshold: quantiles of recent effects, or the normal law.
        """
        effects = effects.float().cpu()
        self._remember(k, effects)
        low, high = self._quantiles(k, share, tails) if threshold == "quantiles" else self._normal(k, share, tails)
        self.open[places] = (effects >= low) & (effects <= high)
        self.effect[places] = effects

    def passing(self, k: int, places: Tensor) -> Tensor:
        """Return the places that pass, in their order; the one nearest to the mean effect where none does."""
        kept = places[self.open[places]]
        if not len(kept):
            kept = places[(self.effect[places].double() - self.mean[k]).abs().argmin()][None]
        self.seen += torch.tensor([len(places), len(kept)])
        return kept

    def _remember(self, k: int, effects: Tensor) -> None:
        size = self.recent.shape[1]
        new = effects[-size:]
        begin = int(self.written[k]) + len(effects) - len(new)
        self.recent[k, torch.arange(begin, begin + len(new)) % size] = new
        first = not int(self.written[k])
        self.written[k] += len(effects)
        exact = effects.double()
        for running, now in ((self.mean, exact.mean()), (self.variance, exact.var(correction=0))):
            running[k] = now if first else HELD * running[k] + (1 - HELD) * now

    def _quantiles(self, k: int, share: float, tails: Tails) -> tuple[float, float]:
        """Return between which of the recent effects an image passes: `share` of them, rounded, lies outside."""
        size = self.recent.shape[1]
        known = self.recent[k, : min(int(self.written[k]), size)].sort().values
        last = len(known) - 1
        cut = round(share * len(known) / (2 if tails == "both" else 1))
        cut = min(cut, last // 2 if tails == "both" else last)
        return (
            float(known[cut]) if tails != "high" else -torch.inf,
            float(known[last - cut]) if tails != "low" else torch.inf,
        )

    def _normal(self, k: int, share: float, tails: Tails) -> tuple[float, float]:
        far = NormalDist().inv_cdf(1 - share / (2 if tails == "both" else 1)) * float(self.variance[k]) ** 0.5
        mean = float(self.mean[k])
        return mean - far if tails != "high" else -torch.inf, mean + far if tails != "low" else torch.inf
