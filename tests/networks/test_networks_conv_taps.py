"""Taps on convolutions against plain hooks: order, statistics, gradients, groups, skipping, and patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.networks import Network, Space, create_network
from datastill.networks.conv_taps import InputTaps, patch_moments
from datastill.networks.taps import tap
from reference.conv_taps import Layer, statistics

CASES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    ("convnet", {"width": 12}, (3, 16, 16)),
    ("convnet", {"width": 8, "depth": 3}, (3, 12, 20)),
    ("convnet_in", {"width": 8}, (1, 8, 8)),
    ("resnet18", {"width": 8}, (3, 16, 16)),
    ("mobilenetv2", {"width": 0.25}, (3, 16, 16)),
    ("efficientnet_b0", {"width": 0.25}, (3, 16, 16)),
    ("shufflenet_g2", {"width": 0.5}, (3, 16, 16)),
    ("wrn_16_2", {"width": 8}, (3, 16, 16)),
]


def build(name: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> Network:
    """Return a network in float64 and eval mode whose BatchNorms remember what noise gives."""
    space = Space([0.4] * shape[0], [0.25] * shape[0])
    network = create_network(name, classes=4, shape=shape, space=space, seed=0, **settings).double().train()
    with torch.random.fork_rng():  # dropout
        network(torch.rand(16, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    return network.eval().requires_grad_(False)


def images(count: int, shape: tuple[int, int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, dtype=torch.float64, generator=generator).requires_grad_()


def weighed(stats: list[tuple[Tensor, ...]]) -> Tensor:
    """A number in which every statistic counts differently."""
    flat = torch.cat([s.flatten() for layer in stats for s in layer])
    return (flat * torch.linspace(-1.0, 2.0, len(flat), dtype=flat.dtype)).sum()


@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_taps_agree_with_hooks_in_order_statistics_and_gradients(name, settings, shape) -> None:
    network, x = build(name, settings, shape), images(4, shape)
    taps = InputTaps(network, x, patch=4)
    logits, found, remembered = taps(x)
    plain_logits, plain = statistics(network, x, 4)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-9, atol=1e-9)
    assert [(h.name, h.kind == "conv") for h in taps.hooks] == [(layer.name, layer.conv) for layer in plain]
    assert taps.hooks[0].kind == "conv"
    mine: list[tuple[Tensor, ...]] = []
    for stats, running, layer in zip(found, remembered, plain, strict=True):
        assert stats is not None
        mine.append(stats)
        assert len(stats) == (4 if layer.conv else 2)
        assert all(torch.equal(a, b) for a, b in zip(running or (), layer.remembered, strict=True))
        for a, b in zip(stats, layer.stats, strict=True):
            torch.testing.assert_close(a[0], b, rtol=1e-9, atol=1e-11)
    (ours,) = torch.autograd.grad(weighed(mine), x)
    (theirs,) = torch.autograd.grad(weighed([layer.stats for layer in plain]), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("name", "settings", "shape"), [CASES[1], CASES[3]])
def test_groups_in_one_pass_equal_groups_one_by_one(name, settings, shape) -> None:
    network, x = build(name, settings, shape), images(6, shape)
    taps = InputTaps(network, x[:1], patch=4)
    _, together, _ = taps(x, 3)
    for g, part in enumerate(x.split(2)):
        _, alone, _ = taps(part)
        for a, b in zip(together, alone, strict=True):
            assert a is not None
            assert b is not None
            for one, other in zip(a, b, strict=True):
                torch.testing.assert_close(one[g], other[0], rtol=1e-10, atol=1e-12)


def test_skipped_convolutions_say_nothing_and_change_nothing_else() -> None:
    network, x = build(*CASES[3]), images(4, (3, 16, 16))
    taps = InputTaps(network, x)
    logits, every, _ = taps(x)
    skipped = [hook.kind == "conv" and i % 4 == 0 for i, hook in enumerate(taps.hooks)]
    fewer_logits, fewer, _ = taps(x, skipped=skipped)
    assert torch.equal(logits, fewer_logits)
    assert any(skipped)
    for out, a, b in zip(skipped, every, fewer, strict=True):
        assert (b is None) == out
        assert b is None or all(torch.equal(one, other) for one, other in zip(a or (), b, strict=True))


def test_without_convolutions_they_are_the_taps_on_batch_norm_to_the_bit() -> None:
    network, x = build(*CASES[3]).float(), images(4, (3, 16, 16)).detach().float()
    taps, plain = InputTaps(network, x, convs=False), tap(network, x)
    (logits, found, remembered), (plain_logits, norms) = taps(x, 2), plain(x, 2)
    assert torch.equal(logits, plain_logits)
    assert [hook.name for hook in taps.hooks] == plain.names
    for stats, running, norm in zip(found, remembered, norms, strict=True):
        assert all(torch.equal(a, b) for a, b in zip((*(stats or ()), *(running or ())), norm, strict=True))


def test_networks_stay_untouched_and_layers_that_never_fire_are_left_out() -> None:
    network = build("efficientnet_b0", {"width": 0.25}, (3, 16, 16))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = images(2, (3, 16, 16))
    taps = InputTaps(network, x)
    taps(x)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(m._forward_pre_hooks for m in network.modules())
    convs = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert sum(hook.kind == "conv" for hook in taps.hooks) == convs - 1  # the first block expands nothing


# --- patches ---


@pytest.mark.parametrize(("sides", "patch"), [((8, 8), 4), ((7, 10), 4), ((1, 1), 4), ((3, 16), 5)])
def test_patches_of_a_constant_map_have_its_value_and_no_variance(sides: tuple[int, int], patch: int) -> None:
    mean, var = patch_moments(torch.full((4, 3, *sides), 0.3, dtype=torch.float64), 2, patch)
    assert mean.shape == var.shape == (2, math.ceil(sides[0] / patch) * math.ceil(sides[1] / patch))
    torch.testing.assert_close(mean, torch.full_like(mean, 0.3))
    assert var.abs().max() < 1e-30


def test_patches_are_told_apart_by_their_place_and_by_nothing_else() -> None:
    z = torch.zeros(2, 3, 8, 8)
    z[:, :, :4, 4:] = 1.0
    z[:, :, 4:, :4] = torch.tensor([2.0, 4.0, 6.0])[:, None, None]
    mean, var = patch_moments(z, 1, 4)
    assert mean.tolist() == [[0.0, 1.0, 4.0, 0.0]]
    torch.testing.assert_close(var, torch.tensor([[0.0, 0.0, 8.0 / 3.0, 0.0]]))


def test_the_gradient_of_patches_is_that_of_finite_differences() -> None:
    for sides in ((8, 8), (6, 5)):
        z = torch.rand(2, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: patch_moments(z, 2, 4), (z,))
        assert torch.autograd.gradcheck(lambda z: patch_moments(z, 1, 4)[1], (z,))


def test_half_precision_maps_are_summed_in_single_precision() -> None:
    z = torch.rand(8, 4, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    mean, var = patch_moments(z, 2, 4)
    assert (mean.dtype, var.dtype) == (torch.float32, torch.float32)
    (dz,) = torch.autograd.grad((mean + var).sum(), z)
    assert dz.dtype == torch.bfloat16


def test_the_plain_twin_sees_what_a_layer_writes_into_its_input() -> None:
    """The twin copies: a layer behind a convolution may change what reached it."""
    network, x = build("resnet18", {"width": 8}, (3, 16, 16)), images(2, (3, 16, 16))
    _, layers = statistics(network, x, 4)
    first: Layer = layers[0]
    torch.testing.assert_close(first.stats[0], network.space.into(x).mean((0, 2, 3)))
