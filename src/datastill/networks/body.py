"""Body and Network: what every network is made of. B batch, C channels, H W pixels, D features, K classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from datastill.networks.space import Space

Shape = tuple[int, int, int]


class Body(nn.Module, ABC):
    """A network without its normalisation: features, then a head."""

    head: nn.Module

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """Return what the head sees, float[B, D], for normalised images z, float[B, C, H, W]."""

    def forward(self, z: Tensor) -> Tensor:
        """Return logits, float[B, K], for normalised images z, float[B, C, H, W]."""
        logits: Tensor = self.head(self.features(z))
        return logits


class Network(nn.Module):
    """A body behind its own space: it eats pixels.

    Args:
        body: eats normalised images, gives logits; `body.features` gives what its last layer sees.
        space: pixels to the body's input.
        name: the name under which it was asked for.
        classes: K.
        shape: (C, H, W) of one image.
        settings: what was changed from the family's defaults.
    """

    def __init__(
        self, body: Body, space: Space, *, name: str, classes: int, shape: Shape, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.space, self.body = space, body
        self.name, self.classes, self.shape, self.settings = name, classes, shape, dict(settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, float[B, K], for pixels x, float[B, C, H, W] in [0, 1]."""
        logits: Tensor = self.body(self.space.into(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return the inputs of the last linear layer, float[B, D], for pixels x, float[B, C, H, W] in [0, 1]."""
        return self.body.features(self.space.into(x))
