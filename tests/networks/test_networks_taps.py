"""Taps against hooks and plain means and variances: logits, statistics, gradients, groups, and what stays untouched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.errors import DatastillError
from datastill.networks import Space, create_network
from datastill.networks.taps import Tapped, batch_norms, tap
from reference.taps import recovery_loss, statistics

CASES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    ("convnet", {"width": 24}, (3, 16, 16)),
    ("convnet", {"width": 8}, (1, 8, 8)),
    ("convnet", {"width": 8, "depth": 3}, (3, 12, 20)),  # the last map before pooling has odd sides
    ("resnet18", {"width": 8}, (3, 16, 16)),
    ("resnet50", {"width": 4}, (3, 16, 16)),
    ("mobilenetv2", {"width": 0.25}, (3, 16, 16)),
    ("efficientnet_b0", {"width": 0.25}, (3, 16, 16)),
    ("shufflenet_g2", {"width": 0.5}, (3, 16, 16)),
]


def build(name: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> Any:
    """Return a network in eval mode whose BatchNorms remember roughly, not exactly, what images give."""
    space = Space([0.4] * shape[0], [0.25] * shape[0])
    network = create_network(name, classes=4, shape=shape, space=space, seed=0, **settings).train()
    norms: list[Any] = [norm for _, norm in batch_norms(network)]
    generator = torch.Generator().manual_seed(5)

    def draw(norm: nn.BatchNorm2d, low: float, high: float) -> Tensor:
        return torch.empty(norm.num_features).uniform_(low, high, generator=generator)

    with torch.no_grad(), torch.random.fork_rng():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.copy_(draw(norm, 0.6, 1.4))
            norm.bias.copy_(draw(norm, -0.3, 0.3))
            norm.weight[0] = 0.0
            norm.weight[1] *= -1.0
        network(torch.rand(16, *shape, generator=generator))
        for norm in norms:
            norm.running_mean += draw(norm, -0.3, 0.3) * norm.running_var.sqrt()
            norm.running_var *= draw(norm, 0.7, 1.4)
    return network.eval()


def images(count: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def tapped_loss(tapped: Tapped, x: Tensor, groups: int) -> Tensor:
    logits, found = tapped(x, groups=groups)
    size = len(x) // groups
    labels = torch.arange(size) % 4
    return torch.stack(
        [
            recovery_loss(
                logits[g * size : (g + 1) * size],
                labels,
                [(s.mean[g], s.var[g], s.running_mean, s.running_var) for s in found],
            )
            for g in range(groups)
        ]
    ).sum()


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_taps_agree_with_hooks_in_logits_statistics_and_gradients(name, settings, shape, dtype, tolerance) -> None:
    network = build(name, settings, shape).to(dtype)
    x = images(4, shape, dtype)
    logits, found = tap(network, x)(x)
    plain_logits, plain = statistics(network, x)
    assert relative(logits, plain_logits) < tolerance
    assert len(found) == len(plain)
    for layer, reference in zip(found, plain, strict=True):
        assert relative(layer.mean[0], reference[0]) < tolerance
        assert relative(layer.var[0], reference[1]) < tolerance
        assert torch.equal(layer.running_mean, reference[2])
        assert torch.equal(layer.running_var, reference[3])
        assert layer.mean.dtype == dtype
    ours = torch.autograd.grad(tapped_loss(tap(network, x), x, 1), x)[0]
    theirs = torch.autograd.grad(recovery_loss(plain_logits, torch.arange(4), plain), x)[0]
    assert relative(ours, theirs) < tolerance * 5


@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_groups_in_one_pass_equal_groups_one_by_one(name, settings, shape) -> None:
    tapped = tap(build(name, settings, shape).double(), images(1, shape, torch.float64))
    x = images(12, shape, torch.float64)
    together = torch.autograd.grad(tapped_loss(tapped, x, 3), x)[0]
    apart = torch.cat(
        [torch.autograd.grad(tapped_loss(tapped, part, 1), part)[0] for part in map(leaf, x.detach().split(4))]
    )
    assert relative(together, apart) < 1e-11


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


@pytest.mark.parametrize("which", ["logits", "mean", "var"])
def test_each_output_alone_carries_its_gradient(which) -> None:
    network, x = build(*CASES[0]).double(), images(4, (3, 16, 16), torch.float64)

    def pick(logits: Tensor, found: Sequence[tuple[Tensor, ...]]) -> Tensor:
        values = [logits] if which == "logits" else [layer[0 if which == "mean" else 1] for layer in found]
        return torch.stack([((value + 0.3) ** 2).sum() for value in values]).sum()

    ours = torch.autograd.grad(pick(*tap(network, x)(x)), x)[0]
    theirs = torch.autograd.grad(pick(*statistics(network, x)), x)[0]
    assert relative(ours, theirs) < 1e-9


def test_the_gradient_agrees_with_a_finite_difference() -> None:
    network = build("efficientnet_b0", {"width": 0.25}, (3, 16, 16)).double()
    x = images(4, (3, 16, 16), torch.float64)
    tapped = tap(network, x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slope = (torch.autograd.grad(tapped_loss(tapped, x, 2), x)[0] * direction).sum()
    with torch.no_grad():
        up, down = (tapped_loss(tapped, x + step * direction, 2) for step in (1e-7, -1e-7))
    assert ((up - down) / 2e-7).item() == pytest.approx(slope.item(), rel=1e-5)


def test_statistics_stay_float32_and_close_under_bfloat16_autocast() -> None:
    network, x = build("convnet", {"width": 24}, (3, 16, 16)), images(8, (3, 16, 16))
    tapped = tap(network, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, found = tapped(x, groups=2)
        rounded = tapped_loss(tapped, x, 2)
    assert logits.dtype == torch.bfloat16
    _, exact = tapped(x, groups=2)
    for low, full in zip(found, exact, strict=True):
        assert low.mean.dtype == low.var.dtype == torch.float32
        assert low.mean.shape == (2, 24)
        assert relative(low.mean, full.mean) < 1e-2
        assert relative(low.var, full.var) < 1e-2
    gradient = torch.autograd.grad(rounded, x)[0]
    assert relative(gradient, torch.autograd.grad(tapped_loss(tapped, x, 2), x)[0]) < 0.1


def test_variance_survives_a_mean_far_from_zero() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).mean((2, 3))

    x = 3000.0 + torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    head: Any = Head().eval()
    _, found = Tapped(head, x)(x)
    expected = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(found[0].var[0].double(), expected, rtol=1e-3, atol=0)


def test_efficientnet_fires_48_of_its_49_batch_norms() -> None:
    network = build("efficientnet_b0", {"width": 0.25}, (3, 16, 16))
    tapped = tap(network, images(1, (3, 16, 16)))
    names = [name for name, _ in batch_norms(network)]
    assert len(names) == 49
    assert tapped.names == [name for name in names if name != "body.layers.3.expand.1"]


def test_the_stem_comes_first_in_the_order_of_registration() -> None:
    network = build("resnet18", {"width": 8}, (3, 16, 16))
    tapped = tap(network, images(1, (3, 16, 16)))
    assert tapped.names == [name for name, _ in batch_norms(network)]
    assert tapped.names[0] == "body.stem.1"


def test_the_residue_vanishes_with_finite_gradient_when_the_memory_is_the_batchs_own() -> None:
    network, x = build("convnet", {"width": 16}, (3, 16, 16)).double(), images(4, (3, 16, 16), torch.float64)
    norms: list[Any] = [norm for _, norm in batch_norms(network)]
    for _ in range(3):  # each layer's input depends on the layers before it
        _, found = statistics(network, x)
        for norm, layer in zip(norms, found, strict=True):
            norm.running_mean.copy_(layer[0].detach())
            norm.running_var.copy_(layer[1].detach())
    tapped = tap(network, x)
    logits, layers = tapped(x)
    residue = sum((s.mean[0] - s.running_mean).norm() + (s.var[0] - s.running_var).norm() for s in layers)
    assert residue.item() < 1e-12
    assert torch.autograd.grad(residue + logits.sum() * 0, x)[0].isfinite().all()


def test_the_residue_is_linear_in_the_weight_of_the_first_layer() -> None:
    network, x = build("convnet", {"width": 16}, (3, 16, 16)), images(4, (3, 16, 16))
    logits, found = tap(network, x)(x)
    layers = [(s.mean[0], s.var[0], s.running_mean, s.running_var) for s in found]
    values = [recovery_loss(logits, torch.arange(4), layers, first=first).item() for first in (0.0, 1.0, 2.0, 10.0)]
    assert values[2] - values[0] == pytest.approx(2 * (values[1] - values[0]), rel=1e-4)
    assert values[3] - values[0] == pytest.approx(10 * (values[1] - values[0]), rel=1e-4)


def test_what_is_tapped_is_the_input_of_batch_norm_not_its_output() -> None:
    network = build("convnet", {"width": 16}, (3, 16, 16))
    x = images(4, (3, 16, 16))
    seen = network.body.blocks[0](network.space.into(x))
    _, found = tap(network, x)(x)
    torch.testing.assert_close(found[0].mean[0], seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_original_stays_bit_for_bit_what_it_was() -> None:
    network = build("resnet18", {"width": 8}, (3, 16, 16)).train()
    before, kinds = copy.deepcopy(network.state_dict()), [type(m) for m in network.modules()]
    x = images(4, (3, 16, 16))
    tapped = tap(network, x)
    tapped_loss(tapped, x, 2).backward()
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [type(m) for m in network.modules()] == kinds
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for p in tapped.network.parameters())
    assert not any(module.training for module in tapped.network.modules())


def test_the_copy_does_not_follow_the_original() -> None:
    network, x = build("convnet", {"width": 16}, (3, 16, 16)), images(2, (3, 16, 16))
    tapped = tap(network, x)
    before = tapped(x)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(1)
    after = tapped(x)
    assert torch.equal(before[0], after[0])
    assert all(
        torch.equal(a, b) for old, new in zip(before[1], after[1], strict=True) for a, b in zip(old, new, strict=True)
    )


def test_a_network_without_batch_norm_gives_its_logits_and_no_statistics() -> None:
    network, x = build("convnet_in", {"width": 16}, (3, 16, 16)), images(2, (3, 16, 16))
    logits, found = tap(network, x)(x)
    assert found == []
    torch.testing.assert_close(logits, network(x), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_without_memory_is_refused_by_name() -> None:
    network = build("convnet", {"width": 16}, (3, 16, 16))
    network.body.blocks[1] = nn.BatchNorm2d(16, track_running_stats=False)
    with pytest.raises(DatastillError, match=r"BatchNorm layer 'body\.blocks\.1' keeps none"):
        tap(network, images(2, (3, 16, 16)))


def test_a_batch_norm_without_scale_and_shift_is_tapped_too() -> None:
    network, x = build("convnet", {"width": 16}, (3, 16, 16)), images(2, (3, 16, 16))
    network.body.blocks[1] = nn.BatchNorm2d(16, affine=False).eval()
    torch.testing.assert_close(tap(network, x)(x)[0], network(x), rtol=1e-4, atol=1e-5)
