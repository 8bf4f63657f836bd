"""Effects of single real images: by their definition, to first order, along directions, in every distance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.fields import Weighing
from datastill.match import influence
from datastill.match.aligned import Aligner, Term
from datastill.match.influence import Side, effects, feature_effects, moved_along, sketched, slope_effects
from datastill.match.slopes import Distance, Meeting, apart, matched_names
from datastill.networks import Network, Space, create_network
from datastill.networks.norms import hasten
from datastill.training.augment import OPERATIONS, Augment, Drawn
from reference import features as plain_features
from reference import influence as plain

SHAPE = (3, 8, 8)
EXACT, TAYLOR = Weighing("exact", 1), Weighing("taylor", 1)
DISTANCES: tuple[Distance, ...] = ("rowcos", "cos", "mse", "l1", "l1_mean")
SKETCH = Weighing("sketch", 24)
CLS = 1


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def images(n: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Return pixels of one class: a pattern under noise."""
    return 0.5 + 0.3 * noise(1, *shape, seed=99) + 0.2 * noise(n, *shape, seed=seed)


def network(shape: tuple[int, int, int] = SHAPE, depth: int = 2) -> Network:
    space = Space([0.5] * shape[0], [0.25] * shape[0])
    settings = {"width": 4, "depth": depth}
    return create_network("convnet_in", classes=3, shape=shape, space=space, seed=0, **settings).double().eval()


def meeting(net: Network, distance: Distance) -> Meeting:
    body = copy.deepcopy(net.body)
    return Meeting(body, matched_names(body, "all", distance), distance)


def views() -> Drawn:
    return Augment(OPERATIONS, "one").draw(np.random.default_rng(3), 3, SHAPE)


def seeing(net: Network, drawn: Drawn | None) -> Callable[[Tensor], Tensor]:
    def see(pixels: Tensor) -> Tensor:
        z = net.space.into(pixels)
        return z if drawn is None else drawn.of(torch.full((len(z),), CLS)).apply(z)

    return see


def stream() -> np.random.Generator:
    return np.random.default_rng(0)


def defined(net: Network, see: Callable[[Tensor], Tensor], own: Tensor, real: Tensor, distance: Distance) -> Tensor:
    """Return the effects by their definition, lengths float[n]; 1-D tensors are no rows."""

    def of_all(mine: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        pairs = [(a, b) for a, b in zip(mine, wanted, strict=True) if a.ndim > 1 or distance != "rowcos"]
        return apart([a for a, _ in pairs], [b for _, b in pairs], distance)

    return plain.lengths(plain.left_out(plain.gradient_pull(net.body, see, own, CLS, of_all), real))


# --- gradients ---


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("fast", [False, True])
def test_exact_effects_of_gradients_are_those_of_the_definition(distance: Distance, fast: bool) -> None:
    net, own, real = network(), images(2, seed=5), images(9)
    see, met = seeing(net, views()), meeting(net, distance)
    if fast:
        hasten(met.body)
    found = slope_effects(met, see, own, real, CLS, EXACT, stream())
    wanted = defined(net, see, own, real, distance)
    assert wanted.max() > 1e-6
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9 * float(wanted.max()))


@pytest.mark.parametrize("how", [EXACT, TAYLOR, Weighing("sketch", 3)])
def test_how_many_are_weighed_at_once_changes_nothing(how: Weighing, monkeypatch: pytest.MonkeyPatch) -> None:
    net, own, real = network(), images(2, seed=5), images(7)
    see, met = seeing(net, None), meeting(net, "rowcos")
    whole = slope_effects(met, see, own, real, CLS, how, stream())
    numbers = sum(t.numel() for t in met.tensors)
    for at_once in (1, 3):
        monkeypatch.setattr(influence, "HELD", at_once * numbers)
        parts = slope_effects(met, see, own, real, CLS, how, stream())
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=0)


@pytest.mark.parametrize("how", [EXACT, TAYLOR])
def test_vectorised_graphs_give_the_same(how: Weighing) -> None:
    net, real = network(), images(7)
    met, leaf = meeting(net, "rowcos"), images(2, seed=5).requires_grad_()
    z, wanted = net.space.into(leaf), net.space.into(real)
    vectors, h = met.slope(z, CLS, graph=True), met.real(wanted, CLS)
    found = []
    for together in (False, True):
        side = Side(
            leaf, vectors, influence.moved_slopes(met, leaf, z, CLS), partial(apart, distance="rowcos"), together
        )
        each = list(influence.slope_of_each(met, wanted, CLS, 3, together=together))
        assert [len(part[0]) for part in each] == [3, 3, 1]
        mean = [torch.cat(of).mean(0) for of in zip(*each, strict=True)]
        torch.testing.assert_close(mean, h, rtol=1e-9, atol=1e-12)
        found.append(effects(side, h, each, 7, how, stream()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=0)


def test_squared_distances_have_no_higher_order_and_their_effects_sum_to_nothing() -> None:
    net, own, real = network(), images(2, seed=5), images(9)
    see, met = seeing(net, None), meeting(net, "mse")
    exact, first = (slope_effects(met, see, own, real, CLS, how, stream()) for how in (EXACT, TAYLOR))
    torch.testing.assert_close(first, exact, rtol=1e-10, atol=0)
    all_of = plain.left_out(plain.gradient_pull(net.body, see, own, CLS, partial(apart, distance="mse")), real)
    assert float(all_of.sum(0).norm()) < 1e-12 * float(plain.lengths(all_of).sum())


def test_the_first_order_of_cosines_is_near_and_nearer_with_more_images() -> None:
    net, own = network(), images(2, seed=5)
    see, met = seeing(net, None), meeting(net, "rowcos")
    errors = []
    for n in (16, 64):
        exact, first = (slope_effects(met, see, own, images(n), CLS, how, stream()) for how in (EXACT, TAYLOR))
        errors.append(float(((first - exact) / exact).abs().mean()))
    assert errors[1] < 0.05
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("distance", ["rowcos", "mse"])
def test_along_every_direction_a_sketch_is_the_first_order_itself(distance: Distance) -> None:
    small = (1, 8, 8)
    net, real = network(small, 1), images(6, shape=small)
    met, leaf = meeting(net, distance), images(1, 5, small).requires_grad_()
    hasten(met.body)
    z, wanted = net.space.into(leaf), net.space.into(real)
    vectors, h = met.slope(z, CLS, graph=True), met.real(wanted, CLS)
    side = Side(leaf, vectors, influence.moved_slopes(met, leaf, z, CLS), partial(apart, distance=distance), False)
    each = list(influence.slope_of_each(met, wanted, CLS, 6, together=False))
    units = torch.eye(leaf.numel(), dtype=torch.double).view(-1, *leaf.shape)
    found = sketched(side, h, each, 6, units) * leaf.numel() ** 0.5
    torch.testing.assert_close(found, effects(side, h, each, 6, TAYLOR, stream()), rtol=1e-9, atol=0)


def test_sketches_have_the_size_of_the_first_order_and_follow_from_their_stream() -> None:
    net, own, real = network(), images(2, seed=5), images(12)
    see, met = seeing(net, None), meeting(net, "mse")
    first = slope_effects(met, see, own, real, CLS, TAYLOR, stream())
    one, two = (slope_effects(met, see, own, real, CLS, SKETCH, stream()) for _ in range(2))
    assert torch.equal(one, two)
    assert float(((one - first) / first).abs().mean()) < 0.3
    other = slope_effects(met, see, own, real, CLS, SKETCH, np.random.default_rng(1))
    assert not torch.equal(one, other)


def test_the_pull_is_the_slope_of_the_distance() -> None:
    net, own, real = network(), images(1, seed=5), images(5)
    see = seeing(net, None)
    distance = partial(apart, distance="mse")
    pull = plain.gradient_pull(net.body, see, own, CLS, distance)(real)
    wanted = plain.gradients(net.body, see(real), CLS, graph=False)
    along, step = noise(*own.shape, seed=7), 1e-5
    ends = [distance(plain.gradients(net.body, see(own + s * step * along), CLS, graph=False), wanted) for s in (1, -1)]
    assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float((pull * along).sum()), rel=1e-6)


def test_rows_without_a_gradient_have_no_effect_and_no_error() -> None:
    leaf = noise(1, 1, 2, 3).requires_grad_()
    gone = torch.tensor([[0.0], [1.0]], dtype=torch.double)
    vectors = [leaf[0, 0] * gone]
    phi = [noise(5, 2, 3, seed=1) * gone]
    side = Side(leaf, vectors, moved_along(leaf, vectors), partial(apart, distance="rowcos"), False)
    for how in (EXACT, TAYLOR, Weighing("sketch", 4)):
        found = effects(side, [phi[0].mean(0)], [phi], 5, how, stream())
        assert found.isfinite().all()
        assert (found > 0).all()


# --- what the numbers mean ---


def flat(real: Tensor, distance: Callable[[Any, Any], Tensor], how: Weighing, own: Tensor | None = None) -> Tensor:
    """Return the effects where an image is its own vector."""
    leaf = (torch.zeros(1, real.shape[1], 1, 1, dtype=torch.double) if own is None else own).requires_grad_()
    vectors = [leaf.flatten()]
    side = Side(leaf, vectors, moved_along(leaf, vectors), distance, False)
    return effects(side, [real.mean(0)], [[real]], len(real), how, stream())


def squares(mine: Any, wanted: Any) -> Tensor:
    return torch.stack([(a - b).square().sum() for a, b in zip(mine, wanted, strict=True)]).sum()


def test_an_image_at_the_mean_does_nothing_and_one_far_away_does_most() -> None:
    real = noise(8, 5)
    real[3] *= 100
    real[5] = (real.sum(0) - real[5]) / 7  # the mean of all, itself among them
    found = flat(real, squares, TAYLOR)
    assert float(found[5]) < 1e-12 * float(found.max())
    assert int(found.argmax()) == 3
    torch.testing.assert_close(found, 2 * (real - real.mean(0)).norm(dim=1) / 7)


def test_absolute_values_see_an_image_only_where_leaving_it_out_turns_a_sign() -> None:
    real = torch.tensor([[1.0, 5.0], [1.0, 6.0], [1.0, 7.0], [-4.0, 8.0]], dtype=torch.double)  # mean -0.25, 6.5
    distance = partial(apart, distance="l1")
    own = torch.zeros(1, 2, 1, 1, dtype=torch.double)
    found = flat(real, distance, EXACT, own.clone())
    assert found.tolist() == [0.0, 0.0, 0.0, 2.0]  # without the last, the mean of the first number is 1
    assert flat(real, distance, TAYLOR, own.clone()).tolist() == [0.0] * 4


# --- features ---


@pytest.mark.parametrize("augment", [False, True])
def test_effects_of_features_are_those_of_the_definition_however_estimated(augment: bool) -> None:
    terms = (Term(tap="relu", reduce="channels", power=4, normalise=True, weight=100.0), Term())
    net, drawn = network(), views() if augment else None
    own, real = images(2, seed=5), images(7)
    aligner = Aligner(copy.deepcopy(net), terms, 3, drawn=drawn, most=10**6)

    class Only(Drawn):
        """Of class 1 whatever is asked: the plain loss is told of one class alone."""

        def of(self, cls: Tensor) -> Drawn:
            return super().of(torch.full_like(cls, CLS))

    def pull(some: Tensor) -> Tensor:
        leaf = own.clone().requires_grad_()
        seen = None if drawn is None else Only(**vars(drawn))
        loss = plain_features.loss(net, [some], [leaf], drawn=seen, spatial_weight=100.0)
        return torch.autograd.grad(loss, leaf)[0]

    all_of = plain.left_out(pull, real)
    wanted = plain.lengths(all_of)
    assert wanted.min() > 1e-6
    assert float(all_of.sum(0).norm()) < 1e-12 * float(wanted.sum())
    for how in (EXACT, TAYLOR):
        for parts in (1, 3):
            found = feature_effects(aligner, own, real.split(-(-7 // parts)), CLS, how, stream())
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=0)


def test_features_move_along_a_direction_as_their_graph_says() -> None:
    net = network()
    hasten(net)
    aligner = Aligner(net, (Term(),), 3, most=10**6)
    leaf, along = images(2, seed=5).requires_grad_(), noise(2, *SHAPE, seed=8)
    vectors = [v.mean(0) for v in aligner.vectors(leaf, CLS)]
    (found,) = moved_along(leaf, vectors)(along)
    ends = [aligner.vectors(leaf.detach() + s * 1e-6 * along, CLS)[0].mean(0) for s in (1, -1)]
    torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    real = images(10)
    first = feature_effects(aligner, leaf, [real], CLS, TAYLOR, stream())
    sketch = feature_effects(aligner, leaf, [real], CLS, Weighing("sketch", 96), stream())
    assert float(((sketch - first) / first).abs().mean()) < 0.25
