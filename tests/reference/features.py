"""Distribution matching written down class by class, after the papers: slow, plain, in whatever precision it is given.

DM (arXiv 2110.04181), DataDAM (arXiv 2310.00093), ATOM (arXiv 2405.01373). Activations are caught by hooks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datastill.networks import Network
from datastill.training.augment import Drawn


def activations(network: Network, z: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the output of every ReLU of a ConvNet, float[B, C, h, w], and its features float[B, D], of inputs z."""
    caught: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out: caught.append(out.clone()))
        for module in network.modules()
        if isinstance(module, nn.ReLU)
    ]
    embedded = network.body.features(z)
    for hook in hooks:
        hook.remove()
    return caught, embedded


def spatial(f: Tensor, power: float) -> Tensor:
    """Return the attention map of each image, float[B, h * w], of length 1."""
    maps = [(image.abs() ** power).sum(0).flatten() for image in f]
    return torch.stack([m / max(m.norm(), m.new_tensor(1e-12)) for m in maps])


def channel(f: Tensor, power: float) -> Tensor:
    """Return the attention of each image to channels, float[B, C], of length 1."""
    maps = [(image.abs() ** power).sum((1, 2)) for image in f]
    return torch.stack([m / max(m.norm(), m.new_tensor(1e-12)) for m in maps])


def looked_at(
    network: Network, z: Tensor, power: float, spatial_weight: float, channel_weight: float
) -> list[tuple[float, Tensor]]:
    """Return what is set side by side, float[B, D] each, with its weight before the factor of all attention."""
    relus, embedded = activations(network, z)
    found = [(1.0, embedded)]
    for f in relus[:-1]:
        found += [(spatial_weight, spatial(f, power)), (channel_weight, channel(f, power))]
    return found


def loss(
    network: Network,
    real: list[Tensor],
    synthetic: list[Tensor],
    *,
    drawn: Drawn | None = None,
    power: float = 4.0,
    spatial_weight: float = 0.0,
    channel_weight: float = 0.0,
    embed_weight: float = 1.0,
    joint: bool = False,
) -> Tensor:
    """Return the loss of pixels float[n, C, H, W] of each class, class by class, or in one batch of each side."""

    def inputs(x: Tensor, k: int) -> Tensor:
        z = (x - network.space.mean) / network.space.std
        return z if drawn is None else drawn.of(torch.full((len(x),), k)).apply(z)

    def looked(side: list[Tensor]) -> list[list[tuple[float, Tensor]]]:
        z = [inputs(x, k) for k, x in enumerate(side)]
        if not joint:
            return [looked_at(network, of_class, power, spatial_weight, channel_weight) for of_class in z]
        whole = looked_at(network, torch.cat(z), power, spatial_weight, channel_weight)
        sizes = [len(x) for x in side]
        return [[(w, f.split(sizes)[k]) for w, f in whole] for k in range(len(side))]

    total = torch.zeros((), dtype=real[0].dtype)
    for mine, theirs in zip(looked(synthetic), looked(real), strict=True):
        for place, ((weight, s), (_, r)) in enumerate(zip(mine, theirs, strict=True)):
            scale = embed_weight if place == 0 else weight
            total = total + scale * (r.detach().mean(0) - s.mean(0)).square().sum()
    return total
