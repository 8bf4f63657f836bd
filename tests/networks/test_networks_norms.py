"""Instance norm with cheap gradients: the numbers of torch's, in every derivative that is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from datastill.networks import Space, create_network
from datastill.networks.norms import LARGE, hasten


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def norms(channels: int) -> tuple[nn.GroupNorm, nn.GroupNorm]:
    """Return torch's layer and ours, with the same parameters."""
    plain = nn.GroupNorm(channels, channels).double()
    with torch.no_grad():
        plain.weight.copy_(seeded(channels, seed=1))
        plain.bias.copy_(seeded(channels, seed=2))
    fast = copy.deepcopy(plain)
    hasten(fast)
    return plain, fast


@pytest.mark.parametrize("side", [4, 32])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_it_gives_what_group_norm_gives(side: int, order: torch.memory_format) -> None:
    plain, fast = norms(3)
    x = seeded(2, 3, side, side, seed=3).contiguous(memory_format=order)
    assert (side * side >= LARGE) == (side == 32)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        found = fast(x)
    torch.testing.assert_close(found, plain(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.global_random  # torch's checks draw directions
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_gradients_are_right_for_images_and_parameters(order: torch.memory_format) -> None:
    _, fast = norms(3)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = functional_call(fast, {"weight": weight, "bias": bias}, (x,))
        return out

    x = seeded(2, 3, 4, 5, seed=3).contiguous(memory_format=order).requires_grad_()
    given = (x, fast.weight.detach().requires_grad_(), fast.bias.detach().requires_grad_())
    assert gradcheck(run, given)
    assert gradgradcheck(run, given)


def test_a_whole_network_has_the_same_second_gradients() -> None:
    space = Space([0.5] * 3, [0.25] * 3)
    plain = create_network("convnet_in", classes=4, shape=(3, 16, 16), space=space, seed=0, width=4).double()
    fast = copy.deepcopy(plain)
    hasten(fast)
    found = []
    for network in (plain, fast):
        x = seeded(3, 3, 16, 16, seed=4).requires_grad_()
        tensors = list(network.body.parameters())
        first = torch.autograd.grad(network(x)[:, 1].square().sum(), tensors, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), [x, *tensors]))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_only_instance_norms_are_changed() -> None:
    layers = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.GroupNorm(4, 4, affine=False), nn.GroupNorm(4, 4))
    hasten(layers)
    assert [type(layer).__module__.startswith("datastill") for layer in layers] == [False, False, False, True]


def test_under_autocast_it_stays_in_32_bits() -> None:
    _, fast = norms(3)
    fast.float()
    x = seeded(2, 3, 4, 4).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fast(x.bfloat16())
    assert out.dtype == torch.float32
    (dx,) = torch.autograd.grad(out.square().sum(), x)
    assert dx.isfinite().all()


@pytest.mark.parametrize("side", [4, 32])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_statistics_are_not_taken_in_16_bits_where_no_gradient_is_asked_for(
    side: int, order: torch.memory_format
) -> None:
    plain, fast = (layer.float() for layer in norms(3))
    x = (100 + seeded(2, 3, side, side)).to(torch.bfloat16).contiguous(memory_format=order)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = fast(x).float()
    torch.testing.assert_close(found, plain(x.float()).detach(), rtol=2**-8, atol=2**-8)
