"""Space: pixels in [0, 1] to network input and back. B batch, C channels, H W pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datastill.errors import DatastillError


class Space(nn.Module):
    """Channel-wise normalisation with the statistics of the set that the network was trained on.

    The statistics are buffers, so that they travel with the network's state as `space.mean` and `space.std`.

    Args:
        mean: C numbers, in units of pixels in [0, 1].
        std: C numbers above 0, in the same units.

    Raises:
        DatastillError: the two differ in length, are empty, or a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise DatastillError(
                f"a space was given {len(mean)} means and {len(std)} deviations; give one of each per channel."
            )
        if min(std) <= 0:
            raise DatastillError(f"a space divides by its deviations, but was given {min(std)}; give numbers above 0.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def channels(self) -> int:
        """The number C of channels."""
        return self.mean.shape[1]

    def into(self, x: Tensor) -> Tensor:
        """Return network input for pixels: (x - mean) / std, float[B, C, H, W]."""
        return (x - self.mean) / self.std

    def back(self, z: Tensor) -> Tensor:
        """Return pixels for network input: z * std + mean, float[B, C, H, W], not clipped."""
        return z * self.std + self.mean

    def forward(self, x: Tensor) -> Tensor:
        """Same as `into`."""
        return self.into(x)

    def arrays(self) -> dict[str, Tensor]:
        """Return what a receiver has to store: mean and std, float32[C] each."""
        return {"mean": self.mean.detach().flatten(), "std": self.std.detach().flatten()}
