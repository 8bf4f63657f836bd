"""When a network is left, and when its training between image updates stops: by counts, or by accuracy.

The controller of CAFE (arXiv 2203.01531) and the two fixed rules that it stands beside. K classes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from datastill.match.paired import ClassImages, pixels_of
from datastill.settings import setting

COUNTED = ("networks", "image updates", "epochs", "networks cut short", "phases cut short")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long a network is met: an image update, a phase of training, another image update, and so on.

    fresh: one image update, no training. fixed: `outer` updates with `inner` epochs between two of them. dynamic: by
    the accuracy on real training images that are drawn anew each time. The network is left once its accuracies after
    the last `window` updates differ by less than `settle`: it has learned what it will. A phase ends once those after
    its last `window` epochs differ by more than `move`: it is another network. Both thresholds are near the noise of a
    query, so its size is given for all classes together; `most_outer` and `most_inner` bound what may never come.
    """

    kind: Literal["fresh", "fixed", "dynamic"] = setting("fresh")
    outer: int = setting(20, low=1, help="image updates in the life of a network, for kind=fixed")
    inner: int = setting(10, low=0, help="epochs between two image updates, for kind=fixed")
    settle: float = setting(0.04, low=0.0, high=1.0, help="range of accuracies below which a network is left")
    move: float = setting(0.03, low=0.0, high=1.0, help="range of accuracies above which a phase of training ends")
    window: int = setting(10, low=2, help="accuracies that a range is taken of")
    query: int = setting(1280, low=1, help="real images of a query, spread evenly over the classes")
    most_outer: int = setting(50, low=1, help="image updates after which a network is left in any case")
    most_inner: int = setting(50, low=1, help="epochs after which a phase ends in any case")

    @property
    def asks(self) -> bool:
        """Whether it decides by accuracy."""
        return self.kind == "dynamic"

    @property
    def longest(self) -> tuple[int, int]:
        """The most image updates of a network, and the most epochs between two of them."""
        return {"fresh": (1, 0), "fixed": (self.outer, self.inner), "dynamic": (self.most_outer, self.most_inner)}[
            self.kind
        ]

    def each(self, classes: int) -> int:
        """Return how many images of each of so many classes a query holds."""
        return max(1, round(self.query / classes))

    @property
    def trains(self) -> bool:
        """Whether a network is ever trained."""
        outer, inner = self.longest
        return outer > 1 and inner > 0


class Controller:
    """The life of one network under a policy: told of updates and epochs, it says when each comes to an end.

    Attributes:
        updates: of the images, so far.
        epochs: of the network, so far; `phase` of them since the last update.
        cut: how often the bound of updates and that of epochs decided.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.updates = self.epochs = self.phase = 0
        self.cut = (0, 0)
        self._life: deque[float] = deque(maxlen=policy.window)
        self._phase: deque[float] = deque(maxlen=policy.window)

    def updated(self, accuracy: float = 0.0) -> bool:
        """Count an image update and return whether the network is left, before any phase of training."""
        self.updates += 1
        self.phase = 0
        self._phase.clear()
        self._life.append(accuracy)
        spread = self._range(self._life)
        if self.policy.asks and spread is not None and spread < self.policy.settle:
            return True
        over = self.updates >= self.policy.longest[0]
        self.cut = (self.cut[0] + (over and self.policy.asks), self.cut[1])
        return over

    def trained(self, accuracy: float = 0.0) -> bool:
        """Count an epoch and return whether the phase ends."""
        self.epochs += 1
        self.phase += 1
        self._phase.append(accuracy)
        spread = self._range(self._phase)
        if self.policy.asks and spread is not None and spread > self.policy.move:
            return True
        over = self.phase >= self.policy.longest[1]
        self.cut = (self.cut[0], self.cut[1] + (over and self.policy.asks))
        return over

    def counted(self) -> list[int]:
        """Return what `COUNTED` names, of this network."""
        return [1, self.updates, self.epochs, *self.cut]

    def _range(self, window: deque[float]) -> float | None:
        """Return the largest less the smallest of a full window; None while it fills."""
        return max(window) - min(window) if len(window) == self.policy.window else None


@torch.no_grad()
def query_accuracy(network: nn.Module, real: ClassImages, rng: np.random.Generator, each: int) -> float:
    """Return the accuracy of the network's head in [0, 1], the mean over K classes, on real images as they are.

    They are drawn anew, `each` of every class, or all where a class has fewer. One batch, in the mode that the network
    is in, and one reading back. The released code adds a share 1/K of the accuracy before, so that its values rise
    without any training; here each is a mean of its own.
    """
    drawn = real.draw(rng, each)
    logits = network(pixels_of(real, torch.cat(drawn)))
    said = logits.argmax(dim=1).split([len(places) for places in drawn])
    right = [(of_class == k).double().mean() for k, of_class in enumerate(said)]
    return float(torch.stack(right).mean())
