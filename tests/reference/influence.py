"""What one real image does to the pull on synthetic ones, by its definition: the pull with it, less the pull without.

arXiv 2305.18381. Every pull is computed from the images themselves, so that no algebra is shared with the fast way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reference.gradients import gradients

Pull = Callable[[Tensor], Tensor]


def left_out(pull: Pull, real: Tensor) -> Tensor:
    """Return ITE(x) = G(B) - G(B without x) of each image of B float[n, ...], float[n, *G]."""
    whole, rows = pull(real), torch.arange(len(real))
    return torch.stack([whole - pull(real[rows != i]) for i in rows])


def lengths(effects: Tensor) -> Tensor:
    """Return float[n]."""
    return effects.flatten(1).norm(dim=1)


def gradient_pull(
    network: nn.Module,
    see: Callable[[Tensor], Tensor],
    synthetic: Tensor,
    cls: int,
    distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor],
) -> Pull:
    """Return G of gradient matching, of images of one class, at their pixels float[N, C, H, W].

    see: makes network inputs of pixels. distance: of the gradients at all parameters.
    """

    def pull(real: Tensor) -> Tensor:
        leaf = synthetic.detach().clone().requires_grad_()
        wanted = gradients(network, see(real), cls, graph=False)
        (found,) = torch.autograd.grad(distance(gradients(network, see(leaf), cls, graph=True), wanted), leaf)
        return found

    return pull


def quantile_pass(effects: Sequence[float], recent: Sequence[float], beta: float) -> list[bool]:
    """Return which pass that lie between the order statistics of `recent`: round(beta / 2 * n) lie beyond either."""
    known = sorted(recent)
    cut = round(beta / 2 * len(known))
    return [known[cut] <= s <= known[len(known) - 1 - cut] for s in effects]
