"""A small vision transformer (arXiv:2010.11929) for small images. B batch, C channels, T tokens, D width, K classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datastill.errors import DatastillError
from datastill.networks.body import Body, Shape
from datastill.networks.registry import network


class Attention(nn.Module):
    """Self-attention, written out: the fused kernels have no second derivative, which matching gradients needs."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, T, D] for the same."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return mixed


class Layer(nn.Module):
    """Attention and a two-layer perceptron of four times the width, each behind its own LayerNorm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))
        self.perceptron = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, T, D] for the same."""
        x = x + self.attention(x)
        y: Tensor = x + self.perceptron(x)
        return y


class ViT(Body):
    """Patches, learned positions, pre-norm layers, LayerNorm, the mean over tokens, one linear layer.

    Args:
        classes: K.
        shape: (C, H, W); positions are learned for these sides, others do not run.
        dim: width D of a token.
        depth: layers.
        heads: attention heads; they divide the width.
        patch: side of a patch in pixels; None takes an eighth of the shorter side, rounded up: about 64 tokens.

    Raises:
        DatastillError: heads that do not divide the width, or a patch outside the image.
    """

    def __init__(self, classes: int, shape: Shape, dim: int, depth: int, heads: int, patch: int | None) -> None:
        super().__init__()
        channels, height, width = shape
        side = min(height, width)
        patch = -(-side // 8) if patch is None else patch
        if heads < 1 or dim % heads or not 1 <= patch <= side:
            raise DatastillError(
                f"vit_tiny was asked for {heads} heads on width {dim} and patches of {patch} pixels on a side of "
                f"{side}; give heads that divide the width and a patch that fits the image."
            )
        # Sides that the patch does not divide are filled up with zeros, which is the mean colour after normalising.
        self.pad = nn.ZeroPad2d((0, -width % patch, 0, -height % patch))
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        tokens = -(-height // patch) * -(-width // patch)
        self.positions = nn.Parameter(torch.zeros(1, tokens, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, z: Tensor) -> Tensor:
        """Return the mean token, float[B, D]."""
        tokens = self.patches(self.pad(z)).flatten(2).transpose(1, 2) + self.positions
        normed: Tensor = self.norm(self.layers(tokens))
        return normed.mean(1)


@network("vit_tiny")
def vit_tiny(
    classes: int, shape: Shape, *, dim: int = 192, depth: int = 6, heads: int = 3, patch: int | None = None
) -> ViT:
    """Six layers of width 192, about 2.7 M parameters."""
    return ViT(classes, shape, dim, depth, heads, patch)
