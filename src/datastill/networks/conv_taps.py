"""Statistics of what reaches convolutions and BatchNorm, for recovery by several networks (G-VBSM, arXiv:2311.17950).

N images in G groups, C channels, H W pixels; P patches of p x p pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from datastill.networks.body import Network
from datastill.networks.taps import group_moments, tap

Moments = tuple[Tensor, ...]  # mean, variance; of a convolution also mean and variance of patches; float[G, ...] each


class Hook(NamedTuple):
    """One tapped layer: its name in the network and its kind; both kinds are tapped at their input."""

    name: str
    kind: Literal["norm", "conv"]


class InputTaps:
    """A frozen copy of a network in eval mode that reports the statistics of its layers' inputs.

    Args:
        network: any network; it stays untouched.
        like: float[N, C, H, W], pixels such as will be passed, to see which layers fire.
        convs: whether convolutions are tapped beside BatchNorm.
        patch: p, the side of a patch in pixels.

    Raises:
        DatastillError: a BatchNorm layer that keeps no running statistics.
    """

    def __init__(self, network: Network, like: Tensor, *, convs: bool = True, patch: int = 4) -> None:
        self.patch, self._groups = patch, 1
        self._tapped = tap(network, like)
        self._found: dict[str, Moments] = {}
        self._asked: frozenset[str] = frozenset()
        layers = [name for name, module in self._tapped.network.named_modules() if isinstance(module, nn.Conv2d)]
        for name in layers if convs else []:
            self._listen(name, self._tapped.network.get_submodule(name))
        fired = set(self._fired(layers, like)) if convs else set()
        kinds = dict.fromkeys(self._tapped.names, "norm") | dict.fromkeys(fired, "conv")
        self.hooks = [
            Hook(name, "norm" if kinds[name] == "norm" else "conv")
            for name, _ in self._tapped.network.named_modules()
            if name in kinds
        ]
        """The layers that fire, in the order of registration."""

    def _listen(self, name: str, layer: nn.Module) -> None:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in self._asked:  # here and not later: a layer behind may write into its input
                moments = group_moments(args[0], self._groups)
                self._found[name] = (*moments, *patch_moments(args[0], self._groups, self.patch))

        layer.register_forward_pre_hook(note)

    @torch.no_grad()
    def _fired(self, layers: Sequence[str], like: Tensor) -> list[str]:
        self._asked = frozenset(layers)
        self._tapped(like)
        fired = list(self._found)
        self._found.clear()
        return fired

    def __call__(
        self, x: Tensor, groups: int = 1, skipped: Sequence[bool] = ()
    ) -> tuple[Tensor, list[Moments | None], list[Moments | None]]:
        """Run the copy on several sets of images at once.

        Args:
            x: float[N, C, H, W], pixels in [0, 1]; the images of a group are neighbours.
            groups: G, a divisor of N.
            skipped: for each hook, whether it is left out; only convolutions can be. Empty: none is.

        Returns:
            Logits, float[N, K]; per hook the statistics of its input in each group, (mean, variance) of BatchNorm and
            (mean, variance, patch mean, patch variance) of a convolution, float[G, C] and float[G, P], None where it
            was skipped; per hook what BatchNorm remembers, (mean, variance), None for a convolution.
        """
        left = skipped or [False] * len(self.hooks)
        self._groups = groups
        self._asked = frozenset(h.name for h, out in zip(self.hooks, left, strict=True) if h.kind == "conv" and not out)
        logits, norms = self._tapped(x, groups)
        of_norm = dict(zip(self._tapped.names, norms, strict=True))
        found: list[Moments | None] = []
        remembered: list[Moments | None] = []
        for hook in self.hooks:
            norm = of_norm.get(hook.name)
            found.append(self._found.get(hook.name) if norm is None else (norm.mean, norm.var))
            remembered.append(None if norm is None else (norm.running_mean, norm.running_var))
        self._found.clear()
        return logits, found, remembered


def patch_moments(z: Tensor, groups: int, patch: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each group and patch position, float[G, P] each, over images and channels.

    Maps whose sides are no multiple of the patch are stretched to the next one, bilinear, so P is the product of the
    sides over `patch`, rounded up.

    Args:
        z: float[N, C, H, W]; the images of a group are neighbours.
        groups: G, a divisor of N.
        patch: side of a patch, in pixels of the map.
    """
    height, width = z.shape[2:]
    sides = [-(-height // patch) * patch, -(-width // patch) * patch]
    if sides != [height, width]:
        z = functional.interpolate(z, sides, mode="bilinear", align_corners=False)
    found: tuple[Tensor, Tensor] = _PatchMoments.apply(z, groups, patch)
    return found


class _PatchMoments(torch.autograd.Function):
    """Both moments in one formula: dz = 2/n * dvar * (z - mean) + dmean / n, with n values behind each moment."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, groups: int, patch: int) -> tuple[Tensor, Tensor]:
        rows = z.permute(0, 2, 3, 1).to(torch.float64 if z.dtype == torch.float64 else torch.float32)
        mean = _pooled(rows.mean(3), groups, patch)
        var = _pooled((rows - _spread(mean, len(z), patch)).square().mean(3), groups, patch)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, mean)
        ctx.patch = patch
        return mean.flatten(1), var.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor | None, dvar: Tensor | None) -> tuple[Tensor | None, None, None]:
        if dmean is None and dvar is None:
            return None, None, None
        z, mean = ctx.saved_tensors
        per_value = mean.numel() / z.numel()

        def everywhere(values: Tensor | None, factor: float) -> Tensor:
            shaped = torch.zeros_like(mean) if values is None else values.view_as(mean) * factor
            return _spread(shaped, len(z), ctx.patch)

        slope, offset = everywhere(dvar, 2 * per_value), everywhere(dmean, per_value)
        offset = offset - slope * _spread(mean, len(z), ctx.patch)
        dz = torch.addcmul(offset, slope, z.permute(0, 2, 3, 1).to(mean.dtype))
        return dz.permute(0, 3, 1, 2).to(z.dtype), None, None


def _pooled(rows: Tensor, groups: int, patch: int) -> Tensor:
    """Return float[G, H / p, W / p], means of float[N, H, W] over the images of a group and the values of a patch."""
    images, height, width = rows.shape
    shape = (groups, images // groups, height // patch, patch, width // patch, patch)
    return rows.reshape(shape).mean((1, 3, 5))


def _spread(values: Tensor, images: int, patch: int) -> Tensor:
    """Return float[N, H, W, 1] for what `_pooled` returns: each value repeated over its patch and its images."""
    wide = values.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return wide.repeat_interleave(images // len(values), 0).unsqueeze(3)
