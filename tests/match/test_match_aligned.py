"""The means of classes in a network against a plain loop over classes, in float64, and what the papers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.match.aligned import Aligner, Term, taps
from datastill.networks import Network, Space, create_network
from datastill.training.augment import OPERATIONS, Augment, Drawn
from reference import features as plain

CLASSES, SHAPE = 3, (3, 8, 8)
EMBED = Term()


def spatial(power: float = 4.0, weight: float = 100.0) -> Term:
    return Term(tap="relu", reduce="channels", power=power, normalise=True, weight=weight)


def channel(power: float = 4.0, weight: float = 100.0) -> Term:
    return Term(tap="relu", reduce="positions", power=power, normalise=True, weight=weight)


def convnet(norm: str = "instance", seed: int = 0, **settings: Any) -> Network:
    made = {"width": 4, "depth": 2, "norm": norm} | settings
    space = Space((0.5, 0.45, 0.4), (0.25, 0.2, 0.3))
    return create_network("convnet", classes=CLASSES, shape=SHAPE, space=space, seed=seed, **made).double().train()


def images(*counts: int, seed: int = 0) -> list[Tensor]:
    """Return float64 pixels of each class, patterns of the class under noise."""
    made = torch.Generator().manual_seed(seed)
    patterns = torch.rand(len(counts), *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return [
        (p + 0.3 * torch.randn(n, *SHAPE, generator=made, dtype=torch.float64))
        for p, n in zip(patterns, counts, strict=True)
    ]


def views(seed: int = 0) -> Drawn:
    return Augment(OPERATIONS, "one").draw(np.random.default_rng(seed), CLASSES, SHAPE)


def aligned(
    network: Network,
    terms: Sequence[Term],
    real: list[Tensor],
    synthetic: list[Tensor],
    *,
    drawn: Drawn | None = None,
    room: int = 10**6,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient at all synthetic pixels, `room` images at once."""
    aligner = Aligner(network, terms, len(real), drawn=drawn, most=room * int(np.prod(SHAPE)))
    whole, places = torch.cat(real), torch.arange(sum(map(len, real))).split([len(x) for x in real])
    wanted = aligner.real(lambda at: whole[at], places)
    items = torch.arange(sum(map(len, synthetic))).split([len(x) for x in synthetic])
    return aligner.slopes(torch.cat(synthetic), items, aligner.distance(wanted))


def looped(network: Network, real: list[Tensor], synthetic: list[Tensor], **how: Any) -> tuple[Tensor, Tensor]:
    leaves = [x.clone().requires_grad_() for x in synthetic]
    value = plain.loss(network, real, leaves, **how)
    return value.detach(), torch.cat(torch.autograd.grad(value, leaves))


DATADAM = {"spatial_weight": 100.0}
ATOM = DATADAM | {"channel_weight": 100.0}
LISTS: dict[str, tuple[tuple[Term, ...], dict[str, Any]]] = {
    "dm": ((EMBED,), {}),
    "datadam": ((spatial(), EMBED), DATADAM),
    "datadam p=1": ((spatial(1.0), EMBED), DATADAM | {"power": 1.0}),
    "datadam p=2": ((spatial(2.0), EMBED), DATADAM | {"power": 2.0}),
    "atom": ((spatial(), channel(), EMBED), ATOM),
    "channels alone": ((channel(), EMBED), {"channel_weight": 100.0}),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("room", [1, 4, 7, 10**6])
def test_any_cut_is_the_loop_over_classes_where_images_do_not_meet(name: str, room: int) -> None:
    terms, how = LISTS[name]
    real, synthetic = images(5, 3, 6, seed=1), images(2, 4, 1, seed=2)
    value, dx = aligned(convnet(), terms, real, synthetic, drawn=views(), room=room)
    wanted, gradient = looped(convnet(), real, synthetic, drawn=views(), **how)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dx, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LISTS)
def test_with_batch_norm_all_classes_meet_in_one_batch_and_a_loop_over_classes_is_something_else(name: str) -> None:
    terms, how = LISTS[name]
    real, synthetic = images(5, 3, 6, seed=1), images(2, 4, 3, seed=2)
    value, dx = aligned(convnet("batch"), terms, real, synthetic, drawn=views(), room=1)
    wanted, gradient = looped(convnet("batch"), real, synthetic, drawn=views(), joint=True, **how)
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dx, gradient, rtol=1e-10, atol=1e-10)
    apart, other = looped(convnet("batch"), real, synthetic, drawn=views(), **how)
    assert abs(apart - wanted) > 1e-2 * wanted
    assert not torch.allclose(other, gradient, rtol=1e-2)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", LISTS)
def test_gradients_are_central_differences(norm: str, name: str) -> None:
    terms, _ = LISTS[name]
    real, synthetic = images(4, 4, 4, seed=1), images(2, 2, 2, seed=2)
    _, dx = aligned(convnet(norm), terms, real, synthetic)
    way = torch.randn(dx.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step = 1e-6
    ends = [
        aligned(convnet(norm), terms, real, list((torch.cat(synthetic) + sign * step * way).split(2)))[0]
        for sign in (1, -1)
    ]
    assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float((dx * way).sum()), rel=1e-4)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_equal_images_under_equal_views_are_no_distance_apart(norm: str) -> None:
    same = images(4, 3, 2)
    value, dx = aligned(convnet(norm), LISTS["atom"][0], same, same, drawn=views())
    assert value < 1e-20
    assert dx.abs().max() < 1e-12


def test_attention_without_weight_is_dm_and_atom_without_channels_is_datadam_to_the_bit() -> None:
    real, synthetic = images(4, 4, 4, seed=1), images(2, 2, 2, seed=2)

    def run(*terms: Term) -> tuple[Tensor, Tensor]:
        return aligned(convnet(), terms, real, synthetic, drawn=views())

    for one, other in [
        (run(EMBED), run(spatial(weight=0.0), Term(weight=100 * 0.01))),
        (run(spatial(), EMBED), run(spatial(), channel(weight=0.0), EMBED)),
    ]:
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    twice = run(Term(weight=2.0))
    assert torch.equal(twice[0], 2 * run(EMBED)[0])


def test_attention_is_of_unit_length_and_blind_to_scale_and_to_what_it_sums_over() -> None:
    f = torch.rand(5, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for power in (1.0, 2.0, 3.0, 4.0):
        for term, wanted in ((spatial(power), plain.spatial), (channel(power), plain.channel)):
            z = term.reduced(f)
            torch.testing.assert_close(z, wanted(f, power))
            assert (z >= 0).all()
            torch.testing.assert_close(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
            torch.testing.assert_close(term.reduced(3.7 * f), z)
    torch.testing.assert_close(spatial(3.0).reduced(f[:, [2, 0, 3, 1]]), spatial(3.0).reduced(f))
    torch.testing.assert_close(channel(3.0).reduced(f.flip(2, 3)), channel(3.0).reduced(f))
    unscaled = Term(tap="relu", reduce="channels").reduced(f)
    torch.testing.assert_close(unscaled, f.sum(1).flatten(1))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_of_nothing_is_nothing_and_has_a_finite_gradient(power: float) -> None:
    f = torch.zeros(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    for term in (spatial(power), channel(power)):
        z = term.reduced(f)
        assert not z.any()
        (gradient,) = torch.autograd.grad(z.sum(), f)
        assert gradient.isfinite().all()


def test_the_distance_of_means_is_at_most_the_mean_distance_of_pairs() -> None:
    real, synthetic, network = images(4, 4, 4, seed=1), images(2, 3, 2, seed=2), convnet()
    value, _ = aligned(network, (EMBED,), real, synthetic)
    pairs = [
        torch.cdist(network.features(r), network.features(s)).square().mean()
        for r, s in zip(real, synthetic, strict=True)
    ]
    assert 0 < value <= torch.stack(pairs).sum()


def test_the_order_of_images_in_a_class_does_not_matter() -> None:
    real, synthetic = images(4, 4, 4, seed=1), images(2, 3, 2, seed=2)
    one, _ = aligned(convnet(), LISTS["atom"][0], real, synthetic, drawn=views(), room=2)
    other, _ = aligned(convnet(), LISTS["atom"][0], [x.flip(0) for x in real], [x.flip(0) for x in synthetic],
                       drawn=views(), room=2)  # fmt: skip
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_weights_ask_for_no_gradient_and_stay_as_they_are() -> None:
    network = convnet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    aligned(network, LISTS["atom"][0], images(3, 3, 3), images(1, 1, 1), drawn=views())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_view_is_the_same_for_both_sides_whatever_their_sizes_and_identity_changes_nothing() -> None:
    real = images(6, 6, 6)
    synthetic = [x[:1] for x in real]
    repeated = [x[:1].expand(4, -1, -1, -1) for x in real]  # a batch of one image, seen alike
    value, _ = aligned(convnet(), (EMBED,), repeated, synthetic, drawn=views(), room=2)
    assert value < 1e-20
    still = Augment((), "one").draw(np.random.default_rng(0), CLASSES, SHAPE)
    one, other = (aligned(convnet(), (EMBED,), real, images(2, 2, 2, seed=2), drawn=d) for d in (None, still))
    assert torch.equal(one[0], other[0])
    moved, _ = aligned(convnet(), (EMBED,), real, images(2, 2, 2, seed=2), drawn=views())
    assert moved != one[0]


def test_all_other_taps_are_found_in_the_order_of_the_network() -> None:
    network = convnet(depth=3)
    assert taps(network) == ["relu", "relu", "relu_last", "embed"]
    cafe = (Term(tap="embed", weight=2.0), Term(tap="relu", weight=0.1), Term(tap="relu_last"))
    real, synthetic = images(4, 4, 4, seed=1), images(2, 2, 2, seed=2)
    value, _ = aligned(network, cafe, real, synthetic, room=3)
    wanted = torch.zeros((), dtype=torch.float64)
    for r, s in zip(real, synthetic, strict=True):
        (relus_r, embed_r), (relus_s, embed_s) = (plain.activations(network, network.space.into(x)) for x in (r, s))
        for weight, a, b in zip([0.1, 0.1, 1.0, 2.0], [*relus_r, embed_r], [*relus_s, embed_s], strict=True):
            wanted += weight * (a.mean(0) - b.mean(0)).square().sum()
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


def test_other_networks_have_the_features_of_their_head_alone() -> None:
    space = Space((0.5, 0.45, 0.4), (0.25, 0.2, 0.3))
    network = create_network("resnet10", classes=CLASSES, shape=SHAPE, space=space, seed=0, width=8).double().train()
    assert taps(network) == ["embed"]
    real, synthetic = images(4, 4, 4, seed=1), images(2, 2, 2, seed=2)
    value, dx = aligned(network, (EMBED,), real, synthetic)
    means = [network.features(torch.cat(side)).unflatten(0, (CLASSES, -1)).mean(1) for side in (real, synthetic)]
    torch.testing.assert_close(value, (means[0] - means[1]).square().sum(), rtol=1e-10, atol=0)
    assert dx.abs().max() > 0


def test_in_bf16_powers_and_means_stay_in_float32() -> None:
    network = convnet(width=16).float()
    real, synthetic = ([x.float() for x in images(8, 8, 8, seed=s)] for s in (1, 2))
    wanted, _ = aligned(network, LISTS["atom"][0], real, synthetic)
    with torch.autocast("cpu", torch.bfloat16):
        value, dx = aligned(network, LISTS["atom"][0], real, synthetic)
    assert value.dtype == dx.dtype == torch.float32
    assert float(value) == pytest.approx(float(wanted), rel=0.02)
    large = torch.full((1, 2, 2, 2), 20.0, dtype=torch.bfloat16)
    assert spatial().reduced(large.float()).isfinite().all()
