"""Instance norm whose gradients are cheap where channels lie side by side in memory, the second ones too.

On a CPU, torch's group norm is fast in one order of memory and convolutions and pooling in the other, and its gradient
is differentiated as a long chain of elementary operations. B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

PLANE = (2, 3)
LARGE = 1024  # H * W from which torch's forward pass is fast in either order


def hasten(network: nn.Module) -> None:
    """Let every instance norm (group norm of one channel a group) of a network run as here, in place; same numbers.

    For a CPU: parameters, their names and what is saved stay as they were. Batches must have four dimensions.
    """
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine and module.num_groups == module.num_channels:
            module.__class__ = _InstanceNorm


class _InstanceNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        given = (input, self.weight, self.bias)
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in given):
            return _answered(*given, self.eps)
        out: Tensor = _Norm.apply(*given, self.eps)
        return out


class _Norm(Function):
    """y = n * weight + bias with n = (x - mean) r, r = 1 / sqrt(var + eps), of each image and channel."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        n, r = _normalised(x, eps)
        ctx.save_for_backward(x, weight, n, r)
        return torch.addcmul(bias.view(1, -1, 1, 1), n, weight.view(1, -1, 1, 1))

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, n, r = ctx.saved_tensors
        affine = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        found: tuple[Tensor | None, ...] = _Slope.apply(g, x, weight, n, r, affine)
        return *found, None


def _answered(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return y where no gradient is asked for: fewer passes over memory."""
    if x.shape[2] * x.shape[3] >= LARGE or x.is_contiguous():
        return functional.group_norm(x, x.shape[1], weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # no copy where channels lie side by side
        flat = flat if flat.dtype == torch.float64 else flat.float()
        centred = flat - flat.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + eps)
        out = torch.addcmul(bias, centred, scale * weight)
    return out.view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return n float[B, C, H, W] and r float[B, C, 1, 1]."""
    batch, channels, height, width = x.shape
    if height * width >= LARGE or x.is_contiguous():
        made = torch.native_group_norm(x, None, None, batch, channels, height * width, channels, eps)
        return made[0], made[2].view(batch, channels, 1, 1)
    n = x - x.mean(PLANE, keepdim=True)
    r = n.square().mean(PLANE, keepdim=True).add_(eps).rsqrt_()
    return n.mul_(r), r


class _Slope(Function):
    """The gradients of `_Norm` at x, weight and bias, as functions of g, x and weight; n and r follow from x.

    With means m of each image and channel: dx = r weight (g - m(g) - n m(g n)), dweight = sum of g n, dbias = sum of g.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, n: Tensor, r: Tensor, affine: bool
    ) -> tuple[Tensor | None, ...]:
        g_mean, a = g.mean(PLANE, keepdim=True), (g * n).mean(PLANE, keepdim=True)
        ctx.save_for_backward(g, weight, n, r, g_mean, a)
        ctx.set_materialize_grads(False)
        dx = torch.addcmul(g, n, a, value=-1.0).sub_(g_mean).mul_(r * weight.view(1, -1, 1, 1))
        if not affine:
            return dx, None, None
        size = g.shape[2] * g.shape[3]
        return dx, a.sum((0, 2, 3)).mul_(size), g_mean.sum((0, 2, 3)).mul_(size)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_dx: Tensor | None, of_dweight: Tensor | None, of_dbias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g, weight, n, r, g_mean, a = ctx.saved_tensors
        scale = weight.view(1, -1, 1, 1)
        at_g, at_x, at_weight = torch.zeros_like(g), torch.zeros_like(g), None
        if of_dx is not None:
            h, h_mean, b = of_dx, of_dx.mean(PLANE, keepdim=True), (of_dx * n).mean(PLANE, keepdim=True)
            both = (h * g).mean(PLANE, keepdim=True) - h_mean * g_mean
            at_g = torch.addcmul(h, n, b, value=-1.0).sub_(h_mean).mul_(r * scale)
            s = r.square().mul_(scale).neg_()
            at_x = (h * (s * a)).addcmul_(g, s * b).addcmul_(n, s * (both - 3 * a * b))
            at_x.sub_(s * (a * h_mean + b * g_mean))
            at_weight = (both - a * b).mul_(r).sum((0, 2, 3)).mul_(g.shape[2] * g.shape[3])
        if of_dweight is not None:
            wanted = of_dweight.view(1, -1, 1, 1)
            at_g = at_g.addcmul_(n, wanted)
            at_x = at_x.add_(torch.addcmul(g, n, a, value=-1.0).sub_(g_mean).mul_(r * wanted))
        if of_dbias is not None:
            at_g = at_g.add_(of_dbias.view(1, -1, 1, 1))
        return at_g, at_x, at_weight, None, None, None
