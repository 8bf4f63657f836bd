"""Every registered network against the counts of the papers' networks, and one battery for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from datastill.networks import Space, create_network, list_networks
from datastill.networks.taps import batch_norms

SMALL: dict[str, dict[str, Any]] = {
    "convnet": {"width": 16},
    "convnet_in": {"width": 16},
    "efficientnet_b0": {"width": 0.25},
    "mobilenetv2": {"width": 0.25},
    "resnet10": {"width": 8},
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "resnet101": {"width": 4},
    "shufflenet_g2": {"width": 0.5},
    "vit_tiny": {"dim": 32, "depth": 2, "heads": 2},
    "wrn_16_2": {"width": 8},
}
DEAD = {"body.layers.3.expand.0.weight", "body.layers.3.expand.1.weight", "body.layers.3.expand.1.bias"}

# Name, side, parameters at 10, 100 and 200 classes, BatchNorm layers and channels, state bytes at 10 and 100 classes.
COUNTS = [
    ("resnet18", 32, (11_173_962, 11_220_132, 11_271_432), 20, 4_800, (44_734_408, 44_919_088)),
    ("resnet34", 32, (21_282_122, 21_328_292, 21_379_592), 36, 8_512, (85_196_872, 85_381_552)),
    ("resnet50", 32, (23_520_842, 23_705_252, 23_910_152), 53, 26_560, (94_296_272, 95_033_912)),
    ("resnet101", 32, (42_512_970, 42_697_380, 42_902_280), 104, 52_672, (170_474_088, 171_211_728)),
    ("mobilenetv2", 32, (2_296_922, 2_412_212, 2_540_312), 57, 17_544, (9_328_496, 9_789_656)),
    ("efficientnet_b0", 32, (3_599_686, 3_628_576, 3_660_676), 49, 19_760, (14_557_216, 14_672_776)),
    ("shufflenet_g2", 32, (887_582, 959_672, 1_039_772), 49, 9_888, (3_629_824, 3_918_184)),
    ("wrn_16_2", 32, (691_674, 703_284, 716_184), 13, 912, (2_774_096, 2_820_536)),
    ("convnet", 32, (320_010, 504_420, 709_320), 3, 384, (1_283_136, 2_020_776)),
    ("convnet", 64, (467_850, 652_260, 857_160), 4, 512, (1_875_528, 2_613_168)),
    ("convnet", 128, (615_690, 800_100, 1_005_000), 5, 640, (2_467_920, 3_205_560)),
    ("convnet", 256, (763_530, 947_940, 1_152_840), 6, 768, (3_060_312, 3_797_952)),
]


def build(name: str, classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), **settings: Any) -> Any:
    space = Space([0.5] * shape[0], [0.25] * shape[0])
    return create_network(name, classes=classes, shape=shape, space=space, seed=0, **settings)


def images(count: int, shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_battery_covers_every_registered_network() -> None:
    assert sorted(SMALL) == list_networks()


@pytest.mark.parametrize(("name", "side", "sizes", "norms", "channels", "state"), COUNTS)
def test_counts_are_those_of_the_papers_networks(name, side, sizes, norms, channels, state) -> None:
    with torch.device("meta"):
        networks = [build(name, classes, (3, side, side)) for classes in (10, 100, 200)]
    assert tuple(map(parameters, networks)) == sizes
    layers = [layer for _, layer in batch_norms(networks[0])]
    assert (len(layers), sum(layer.num_features for layer in layers)) == (norms, channels)
    stored = [sum(t.numel() * t.element_size() for t in n.body.state_dict().values()) for n in networks[:2]]
    assert tuple(stored) == state


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160)],
)
def test_resnets_at_224_pixels_have_the_imagenet_stem(name, size) -> None:
    with torch.device("meta"):
        network = build(name, 1000, (3, 224, 224))
        maps = network.body.stem(torch.zeros(1, 3, 224, 224))
    assert parameters(network) == size
    assert maps.shape == (1, 64, 56, 56)


def test_a_group_norm_convnet_has_as_many_parameters_as_a_batch_norm_one() -> None:
    assert parameters(build("convnet_in")) == parameters(build("convnet")) == 320_010
    assert not batch_norms(build("convnet_in"))
    assert parameters(build("convnet", norm="none")) == 320_010 - 3 * 2 * 128


@pytest.mark.parametrize(
    ("side", "depth"), [(8, 1), (16, 2), (28, 3), (32, 3), (48, 4), (64, 4), (96, 5), (128, 5), (224, 6), (256, 6)]
)
def test_convnet_depth_follows_the_side(side, depth) -> None:
    with torch.device("meta"):
        network = build("convnet", shape=(3, side, side))
    assert len(batch_norms(network)) == depth


def test_a_grey_28_pixel_image_is_padded_so_that_the_last_map_is_4_by_4() -> None:
    network = build("convnet", shape=(1, 28, 28))
    assert network.body.blocks[0].padding == (3, 3)
    assert network.features(images(2, (1, 28, 28))).shape == (2, 2048)
    assert build("convnet", shape=(3, 28, 28)).features(images(2, (3, 28, 28))).shape == (2, 128 * 9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 24, 40)])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_logits_and_features_have_the_promised_shapes(name, shape) -> None:
    network = build(name, 7, shape, **SMALL[name]).eval()
    x = images(2, shape)
    with torch.no_grad():
        logits, features = network(x), network.features(x)
        last = network.body.head if isinstance(network.body.head, nn.Linear) else network.body.head[-1]
        assert logits.shape == (2, 7)
        assert features.shape == (2, last.in_features)
        torch.testing.assert_close(last(features), logits)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "last"), [("mobilenetv2", 4), ("efficientnet_b0", 2), ("shufflenet_g2", 4)])
def test_the_last_map_of_a_32_pixel_image_has_the_papers_side(name, last) -> None:
    network = build(name, **SMALL[name]).eval()
    assert network.body.layers(images(1, (3, 32, 32))).shape[2:] == (last, last)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_parameter_but_the_dead_expansion_gets_a_finite_gradient(name) -> None:
    network = build(name, **SMALL[name]).train()
    with torch.random.fork_rng():  # dropout
        nn.functional.cross_entropy(network(images(4, (3, 32, 32))), torch.arange(4)).backward()
    without = {n for n, p in network.named_parameters() if p.grad is None}
    assert without == (DEAD if name == "efficientnet_b0" else set())
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert all(p.grad.abs().sum() > 0 for n, p in network.named_parameters() if p.grad is not None and p.dim() > 1)


def test_the_dead_expansion_of_efficientnet_holds_1088_parameters() -> None:
    sizes = {n: p.numel() for n, p in build("efficientnet_b0").named_parameters()}
    assert sum(sizes[name] for name in DEAD) == 1088


@pytest.mark.parametrize("name", sorted(SMALL))
def test_memory_format_does_not_change_the_logits(name) -> None:
    network = build(name, **SMALL[name]).eval().double()
    x = images(2, (3, 32, 32)).double()
    with torch.no_grad():
        plain = network(x)
        last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-9, atol=1e-10)


def test_dropout_before_efficientnets_head_acts_in_training_only() -> None:
    network = build("efficientnet_b0", **SMALL["efficientnet_b0"])
    features = torch.ones(1, network.body.head[1].in_features)
    with torch.random.fork_rng():
        assert not torch.equal(network.body.head(features), network.body.head(features))
    network.eval()
    assert torch.equal(network.body.head(features), network.body.head(features))


@pytest.mark.parametrize("width", [0.1, 0.35, 0.75, 1.4])
@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_b0", "shufflenet_g2"])
def test_any_width_multiplier_keeps_channel_counts_valid(name, width) -> None:
    with torch.device("meta"):
        assert build(name, width=width).eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_channels_are_shuffled_between_the_groups() -> None:
    from datastill.networks.shufflenet import Shuffle

    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 3)
    for format_ in (torch.contiguous_format, torch.channels_last):
        y = Shuffle(2)(x.contiguous(memory_format=format_))
        assert y[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
        assert y.is_contiguous(memory_format=format_)


def test_vit_has_about_sixty_four_tokens_and_fills_up_odd_sides() -> None:
    assert build("vit_tiny", **SMALL["vit_tiny"]).body.positions.shape[1] == 64
    assert build("vit_tiny", shape=(1, 28, 28), **SMALL["vit_tiny"]).body.positions.shape[1] == 49
    assert build("vit_tiny", shape=(3, 30, 30), **SMALL["vit_tiny"]).body.positions.shape[1] == 64
    with torch.device("meta"):
        assert 2_000_000 < parameters(build("vit_tiny")) < 3_000_000
