"""Statistics of what reaches BatchNorm, for recovery. N images in G groups, C channels, H W pixels, n = N/G * H * W."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from datastill.errors import DatastillError
from datastill.networks.body import Network


class BatchStatistics(NamedTuple):
    """What one BatchNorm layer met in each group, beside what it remembers; float32 unless the network is float64.

    `var` divides by n. Gradients flow to the images through `mean` and `var`.
    """

    mean: Tensor  # (G, C)
    var: Tensor  # (G, C)
    running_mean: Tensor  # (C,)
    running_var: Tensor  # (C,)


def batch_norms(network: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """Return the names and modules of all BatchNorm2d layers in the order of registration, stem first."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


class Tapped:
    """A frozen copy of a network in eval mode that reports the statistics of every BatchNorm input; see `tap`."""

    def __init__(self, network: Network, like: Tensor) -> None:
        frozen = copy.deepcopy(network).requires_grad_(False)
        for parameter in frozen.parameters():
            parameter.grad = None
        self._record = _Record()
        self._taps: list[_TappedNorm] = []
        for name, norm in batch_norms(frozen):
            self._taps.append(_TappedNorm(name, norm, self._record))
            frozen.set_submodule(name, self._taps[-1])
        _fuse_pools(frozen)
        # Channels-last convolutions need no reordering of the images, and channel sums then run along memory.
        self.network = cast(Network, cast(Any, frozen.eval()).to(memory_format=torch.channels_last))
        with torch.no_grad():
            self.network(like.contiguous(memory_format=torch.channels_last))
        self._taps = [module for module in self._taps if module in self._record.found]
        self._record.found.clear()

    @property
    def names(self) -> list[str]:
        """The names of the layers that fire, in the order of the statistics."""
        return [module.name for module in self._taps]

    def __call__(self, x: Tensor, groups: int = 1) -> tuple[Tensor, list[BatchStatistics]]:
        """Run the copy on several sets of images at once.

        Args:
            x: float[N, C, H, W], pixels in [0, 1]; the images of a group are neighbours.
            groups: G, a divisor of N.

        Returns:
            Logits, float[N, K], and the statistics of each layer that fires, in the order of registration.
        """
        assert len(x) % groups == 0, f"{len(x)} images do not make {groups} equal groups"
        self._record.groups = groups
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        found = self._record.found
        statistics = [BatchStatistics(*found[tap], tap.running_mean, tap.running_var) for tap in self._taps]
        found.clear()
        return logits, statistics


def tap(network: Network, like: Tensor) -> Tapped:
    """Return a frozen copy of a network for recovery (SRe2L, arXiv:2306.13092, eq. 8); the network stays untouched.

    Layers that the forward pass never calls are left out.

    Args:
        network: any network; layers other than BatchNorm2d are not tapped.
        like: float[N, C, H, W], pixels such as will be passed, to see which layers fire.

    Raises:
        DatastillError: a BatchNorm layer that keeps no running statistics.
    """
    return Tapped(network, like)


class _Record:
    """What the taps of one copy share: the groups of this pass, and what each tap found in it."""

    def __init__(self) -> None:
        self.groups = 1
        self.found: dict[_TappedNorm, tuple[Tensor, Tensor]] = {}


class _TappedNorm(nn.Module):
    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, name: str, norm: nn.BatchNorm2d, record: _Record) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise DatastillError(
                f"statistics were asked for, but BatchNorm layer '{name}' keeps none; "
                "take a network whose layers track running statistics."
            )
        mean, var = norm.running_mean, norm.running_var
        exact = torch.float64 if mean.dtype == torch.float64 else torch.float32
        self.name, self.record, self.eps = name, record, norm.eps
        self.register_buffer("running_mean", mean.to(exact, copy=True))
        self.register_buffer("running_var", var.to(exact, copy=True))
        self.register_buffer(
            "weight", torch.ones_like(mean, dtype=exact) if norm.weight is None else norm.weight.to(exact)
        )
        self.register_buffer("bias", torch.zeros_like(mean, dtype=exact) if norm.bias is None else norm.bias.to(exact))
        # timm's BatchNormAct2d carries the dropout and the activation that follow it.
        self.pools = False
        self.after = nn.Sequential(
            *(m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if m is not None)
        )

    def forward(self, h: Tensor) -> Tensor:
        fused = self.pools and h.shape[2] % 2 == 0 and h.shape[3] % 2 == 0
        memory = (self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        y, mean, var = _NormAndMoments.apply(h, *memory, self.record.groups, fused)
        self.record.found[self] = (mean, var)
        if self.pools and not fused:
            return nn.functional.avg_pool2d(y.relu_(), 2)
        return cast(Tensor, self.after(y))


def _fuse_pools(network: nn.Module) -> None:
    """Let taps that a ReLU and a 2x2 average follow in a Sequential do all three: a tenth of a ConvNet's time."""
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for first, (norm, relu, pool) in enumerate(zip(chain, chain[1:], chain[2:], strict=False)):
            if isinstance(norm, _TappedNorm) and type(relu) is nn.ReLU and _halves(pool) and not len(norm.after):
                norm.pools = True
                chain[first + 1], chain[first + 2] = nn.Identity(), nn.Identity()


def _halves(module: nn.Module) -> bool:
    if not isinstance(module, nn.AvgPool2d):
        return False
    sizes = (module.kernel_size, module.stride, module.padding)
    plain = not module.ceil_mode and module.divisor_override is None
    return plain and sizes in ((2, 2, 0), ((2, 2), (2, 2), (0, 0)))


class _NormAndMoments(torch.autograd.Function):
    """BatchNorm in eval mode together with the moments of its input, so that the backward pass is one formula.

    y = a * (h - m) + b and the moments (mean, var) of h per group and channel give
    dh = a * dy + 2/n * dvar * (h - mean) + dmean / n.
    With `pool`, what is returned is the 2x2 average of relu(y), and dy is written once instead of three times.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        groups: int,
        pool: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = h.contiguous(memory_format=torch.channels_last)
        y = torch.batch_norm(h, weight, bias, running_mean, running_var, False, 0.0, eps, False)
        mean, var = _moments(h, groups, running_mean.dtype)
        scale = weight * torch.rsqrt(running_var + eps)
        ctx.set_materialize_grads(False)
        if not pool:
            ctx.save_for_backward(h, mean, scale)
            return y, mean, var
        ctx.save_for_backward(h, mean, scale / 4, y.relu_())
        return nn.functional.avg_pool2d(y, 2), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None) -> tuple[Tensor | None, ...]:
        h, mean, scale, *rectified = ctx.saved_tensors
        dh = _moments_backward(h, mean, dmean, dvar)
        if dy is not None:
            dh = _add_scaled(dh, _unpool(dy, rectified[0]) if rectified else dy, scale)
        return dh, None, None, None, None, None, None, None


def group_moments(h: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each group and channel, (G, C) each, differentiable and in one formula.

    Args:
        h: float[N, C, H, W]; the images of a group are neighbours.
        groups: G, a divisor of N.
    """
    found: tuple[Tensor, Tensor] = _GroupMoments.apply(h, groups)
    return found


class _GroupMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        h = h.contiguous(memory_format=torch.channels_last)
        mean, var = _moments(h, groups, torch.float64 if h.dtype == torch.float64 else torch.float32)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor | None, dvar: Tensor | None) -> tuple[Tensor | None, None]:
        h, mean = ctx.saved_tensors
        return _moments_backward(h, mean, dmean, dvar), None


def _moments_backward(h: Tensor, mean: Tensor, dmean: Tensor | None, dvar: Tensor | None) -> Tensor | None:
    if dmean is None and dvar is None:
        return None
    per_value = len(mean) * h.shape[1] / h.numel()
    slope = torch.zeros_like(mean) if dvar is None else dvar * (2 * per_value)
    offset = torch.zeros_like(mean) if dmean is None else dmean * per_value
    return _affine(h, slope, mean, offset)


def _unpool(dy: Tensor, y: Tensor) -> Tensor:
    """Return dy, (N, C, H / 2, W / 2), repeated to the size of y and 0 where y is."""
    batch, channels, height, width = dy.shape
    blocks = (batch, height, 2, width, 2, channels)
    repeated = dy.permute(0, 2, 3, 1).reshape(batch, height, 1, width, 1, channels).expand(blocks)
    rows = torch.ops.aten.threshold_backward(repeated, y.permute(0, 2, 3, 1).view(blocks), 0)
    return cast(Tensor, rows.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2))


def _moments(h: Tensor, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of channels-last h, (G, C) each, accumulated in at least float32."""
    if h.device.type != "cpu":
        var, mean = torch.var_mean(_rows(h, groups).to(dtype), 1, correction=0)
        return mean, var
    # The statistics kernel of BatchNorm is two-pass, threaded and vectorised: measured 25 times as fast as
    # torch.var_mean along the same axes. With momentum 0 the running tensors that it wants stay as they are.
    zeros, ones = h.new_zeros(h.shape[1], dtype=dtype), h.new_ones(h.shape[1], dtype=dtype)
    found = [torch.batch_norm_update_stats(part, zeros, ones, 0.0) for part in h.chunk(groups)]
    return torch.stack([mean for mean, _ in found]), torch.stack([var for _, var in found])


def _affine(h: Tensor, slope: Tensor, centre: Tensor, offset: Tensor) -> Tensor:
    """Return slope * (h - centre) + offset, with (G, C) coefficients, in the type of h."""
    groups, channels = slope.shape
    if h.dtype == slope.dtype:
        rows = torch.addcmul((offset - slope * centre).unsqueeze(1), slope.unsqueeze(1), _rows(h, groups))
        return rows.view(len(h), *h.shape[2:], channels).permute(0, 3, 1, 2)
    # BatchNorm's kernel takes float32 coefficients for 16-bit values; rounding them would bias a whole channel.
    one = torch.ones_like(slope[0])
    parts = [
        torch.batch_norm(part, slope[g], offset[g], centre[g], one, False, 0.0, 0.0, False)
        for g, part in enumerate(h.chunk(groups))
    ]
    return parts[0] if groups == 1 else torch.cat(parts)


def _add_scaled(dh: Tensor | None, dy: Tensor, scale: Tensor) -> Tensor:
    """Return dh + scale * dy with a (C,) scale, into dh where there is one."""
    if dy.dtype == scale.dtype:
        scale = scale.view(1, -1, 1, 1)
        return dy * scale if dh is None else dh.addcmul_(dy, scale)
    zero = torch.zeros_like(scale)
    scaled = torch.batch_norm(dy, scale, zero, zero, torch.ones_like(scale), False, 0.0, 0.0, False)
    return scaled if dh is None else dh.add_(scaled)


def _rows(h: Tensor, groups: int) -> Tensor:
    """Return channels-last h as (G, n, C), without a copy."""
    return h.permute(0, 2, 3, 1).reshape(groups, -1, h.shape[1])
