"""Distances of gradients, and the two ways from them to pixels, beside plain ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datastill.match import slopes
from datastill.match.slopes import Distance, Meeting, Slopes, apart, matched_names
from datastill.networks import Network, Space, create_network
from datastill.networks.norms import hasten
from reference import gradients as plain

DISTANCES: tuple[Distance, ...] = ("rowcos", "cos", "mse", "l1", "l1_mean")
SHAPES = ((3, 2, 3, 3), (4, 5, 2), (2, 6), (7,))


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.double) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def lists(seed: int, scale: float = 1.0) -> list[Tensor]:
    return [scale * noise(*shape, seed=seed + i) for i, shape in enumerate(SHAPES)]


def net(classes: int = 3, side: int = 16, arch: str = "convnet_in", **settings: Any) -> Network:
    space = Space([0.5] * 3, [0.25] * 3)
    made = create_network(arch, classes=classes, shape=(3, side, side), space=space, seed=0, **{"width": 4} | settings)
    return made.double().eval()


def meeting(network: Network, distance: Distance = "rowcos", tensors: slopes.Tensors = "weights") -> Meeting:
    body = copy.deepcopy(network.body)
    return Meeting(body, matched_names(body, tensors, distance), distance)


def inputs(counts: Sequence[int], side: int = 16, seed: int = 0) -> list[Tensor]:
    return [noise(n, 3, side, side, seed=seed + k) for k, n in enumerate(counts)]


def reals(met: Meeting, real: Sequence[Tensor]) -> Iterator[Slopes]:
    return (met.real(x, k) for k, x in enumerate(real))


# --- distances ---


def by_hand(mine: Sequence[Tensor], wanted: Sequence[Tensor], distance: str) -> float:
    """Return a distance from numbers, one at a time."""
    if distance == "rowcos":
        return float(plain.row_cosines(mine, wanted))
    flat = [[float(v) for a in side for v in a.flatten()] for side in (mine, wanted)]
    pairs = list(zip(*flat, strict=True))
    if distance == "cos":
        lengths = [sum(v * v for v in side) ** 0.5 for side in flat]
        return 1 - sum(a * b for a, b in pairs) / (lengths[0] * lengths[1] + 1e-6)
    if distance == "l1_mean":
        return sum(
            float((row - other).abs().mean()) for a, b in zip(mine, wanted, strict=True)
            for row, other in zip(a, b, strict=True)
        )  # fmt: skip
    return sum(abs(a - b) if distance == "l1" else (a - b) ** 2 for a, b in pairs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_sums_over_rows_or_numbers(distance: Distance) -> None:
    last = 3 if distance == "rowcos" else 4
    mine, wanted = lists(0)[:last], lists(10)[:last]
    assert float(apart(mine, wanted, distance)) == pytest.approx(by_hand(mine, wanted, distance), rel=1e-12)


def test_cosines_of_rows_ignore_lengths_and_count_rows() -> None:
    mine, wanted = lists(0)[:3], lists(10)[:3]
    rows = sum(len(a) for a in mine)
    assert float(apart(mine, mine, "rowcos")) == pytest.approx(0.0, abs=1e-5)
    assert float(apart(mine, [-a for a in mine], "rowcos")) == pytest.approx(2 * rows, rel=1e-6)
    once, scaled = apart(mine, wanted, "rowcos"), apart([3 * a for a in mine], [5 * b for b in wanted], "rowcos")
    assert float(once) == pytest.approx(float(scaled), rel=1e-6)


def test_a_gradient_as_small_as_the_floor_is_half_a_row_away_from_itself() -> None:
    row = torch.zeros(4, 9, dtype=torch.double)
    row[:, 0] = 1e-3
    assert float(apart([row], [row], "rowcos")) == pytest.approx(4 * 0.5, rel=1e-9)
    expected = sum(1e-6 / (float(r.square().sum()) + 1e-6) for r in lists(0, 0.01)[2])
    assert float(apart(lists(0, 0.01)[2:3], lists(0, 0.01)[2:3], "rowcos")) == pytest.approx(expected, rel=1e-9)


def test_rows_of_a_convnet_of_three_blocks_and_what_is_matched_of_it() -> None:
    network = create_network("convnet_in", classes=10, shape=(3, 32, 32), space=Space([0.5] * 3, [0.25] * 3), seed=0)
    parameters = dict(network.body.named_parameters())
    rows = [len(parameters[name]) for name in matched_names(network.body, "weights", "rowcos")]
    assert sum(rows) == 394
    assert matched_names(network.body, "all", "rowcos") == matched_names(network.body, "weights", "rowcos")
    assert matched_names(network.body, "all", "mse") == list(parameters)
    assert {parameters[name].ndim for name in matched_names(network.body, "conv", "l1")} == {4}
    assert len(matched_names(network.body, "conv", "l1")) == 3


# --- pixels ---


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_backward_pass_for_all_classes_gives_the_same(distance: Distance) -> None:
    network = net()
    met = meeting(network, distance, "all")
    synthetic, real = inputs((2, 1, 3)), inputs((5, 4, 6), seed=10)
    leaves = [s.clone().requires_grad_() for s in synthetic]

    def measured(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return plain.row_cosines(a, b) if distance == "rowcos" else apart(a, b, distance)

    total = plain.objective(network.body, leaves, real, lambda _, z: z, measured)
    wanted = torch.autograd.grad(total, leaves)
    found, losses = met.looped(synthetic, reals(met, real))
    assert float(losses.sum()) == pytest.approx(float(total.detach()), rel=1e-10)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "most"), [(torch.double, 1e-12), (torch.float, 1e-5)])
@pytest.mark.parametrize("distance", ["rowcos", "mse"])
@pytest.mark.parametrize("chunk", [1 << 22, 2 * 2 * 3 * 16 * 16])
def test_many_classes_in_one_pass_give_what_one_after_another_gives(
    dtype: torch.dtype, most: float, distance: Distance, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slopes.TOGETHER, "cpu", chunk)
    network = net().to(dtype)
    met, looped = meeting(network, distance), meeting(network, distance)
    synthetic, real = [[x.to(dtype) for x in inputs(c, seed=s)] for c, s in (((2, 2, 2), 0), ((5, 4, 6), 10))]
    one, two = met.batched(synthetic, reals(met, real)), looped.looped(synthetic, reals(looped, real))
    for mine, theirs in zip([*one[0], one[1]], [*two[0], two[1]], strict=True):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) < most


def test_classes_of_unlike_sizes_and_without_images_run_one_after_another() -> None:
    network = net()
    met, real = meeting(network), inputs((5, 4, 6), seed=10)
    synthetic = inputs((2, 0, 3))
    one, two = met.batched(synthetic, reals(met, real)), met.looped(synthetic, reals(met, real))
    assert [len(found) for found in one[0]] == [2, 0, 3]
    assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    assert one[1][1] == 0.0


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("distance", ["rowcos", "mse"])
def test_gradients_at_pixels_are_what_differences_give(distance: Distance, fast: bool) -> None:
    network = net(side=32, width=8)
    if fast:
        hasten(network)
    met, real = meeting(network, distance), inputs((4,), side=32, seed=10)
    (start,), along = inputs((2,), side=32), noise(2, 3, 32, 32, seed=99)
    (slope,), _ = met.looped([start], reals(met, real))
    step = 1e-6  # a larger one crosses the kink of a ReLU
    ends = [met.looped([start + sign * step * along], reals(met, real))[1].sum() for sign in (1, -1)]
    assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float((slope * along).sum()), rel=1e-7)


def test_a_class_moves_by_its_own_images_alone() -> None:
    network = net()
    met = meeting(network)
    synthetic, real = inputs((2, 2, 2)), inputs((5, 5, 5), seed=10)
    before, _ = met.looped(synthetic, reals(met, real))
    synthetic[1], real[2] = synthetic[1] + 1.0, real[2] + 1.0
    after, _ = met.looped(synthetic, reals(met, real))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_images_that_are_the_real_batch_stay_where_they_are() -> None:
    network = net()
    met, real = meeting(network), inputs((4, 4), seed=10)
    found, losses = met.looped([real[0], real[1] + 0.5], reals(met, real))
    assert float(losses[0]) == pytest.approx(0.0, abs=2e-3)
    assert float(found[0].abs().max()) < 1e-3 * float(found[1].abs().max())


def test_large_images_take_several_passes_to_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    met, (x,) = meeting(net()), inputs((7,), seed=10)
    whole = met.real(x, 1)
    monkeypatch.setitem(slopes.TOGETHER, "cpu", 3 * 3 * 16 * 16)
    for one, two in zip(met.real(x, 1), whole, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-14)


def test_only_what_is_matched_asks_for_a_gradient() -> None:
    body = net().body
    met = Meeting(body, matched_names(body, "conv", "mse"), "mse")
    assert {p.ndim for p in body.parameters() if p.requires_grad} == {4}
    assert len(met.slope(inputs((2,))[0], 0)) == 2
    loss = functional.cross_entropy(body(inputs((2,))[0]), torch.zeros(2, dtype=torch.long))
    wanted = torch.autograd.grad(loss, [p for p in body.parameters() if p.requires_grad])
    for mine, theirs in zip(met.slope(inputs((2,))[0], 0), wanted, strict=True):
        assert torch.equal(mine, theirs)


def test_a_dead_row_has_a_finite_gradient() -> None:
    wanted = [noise(2, 5, seed=0)]
    mine = torch.zeros(2, 5, dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(apart([mine], wanted, "rowcos"), mine)
    assert slope.isfinite().all()
