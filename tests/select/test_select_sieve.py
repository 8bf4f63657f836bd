"""What passes of a batch by its effects: quantiles, the normal law, tails, and what is remembered."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from datastill.select.sieve import Sieve
from reference.influence import quantile_pass

ROWS, CLASSES = 60, 2


def opened(state: dict[str, Tensor] | None = None, recent: int = 4096) -> Sieve:
    return Sieve({} if state is None else state, ROWS, CLASSES, recent)


def some(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("n", [10, 20, 40])
def test_the_middle_of_the_recent_effects_passes(n: int, beta: float) -> None:
    sieve, places = opened(), torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))[:n]
    first, second = some(n), some(n, 1)
    sieve.judge(0, places, first, beta, "both", "quantiles")
    assert sieve.open[places].tolist() == quantile_pass(first.tolist(), first.tolist(), beta)
    assert int((~sieve.open[places]).sum()) == 2 * round(beta / 2 * n)
    sieve.judge(0, places, second, beta, "both", "quantiles")
    assert sieve.open[places].tolist() == quantile_pass(second.tolist(), torch.cat([first, second]).tolist(), beta)
    untouched = torch.isin(torch.arange(ROWS), places, invert=True)
    assert sieve.open[untouched].all()


def test_one_side_alone_may_be_cut() -> None:
    effects = torch.arange(10.0)
    for tails, stays in (("low", range(2, 10)), ("high", range(8)), ("both", range(1, 9))):
        sieve = opened()
        sieve.judge(0, torch.arange(10), effects, 0.2, tails, "quantiles")  # type: ignore[arg-type]  # literals
        assert sieve.passing(0, torch.arange(10)).tolist() == list(stays)


def test_an_image_at_the_mean_and_one_far_away_are_both_left_out() -> None:
    effects = torch.cat([torch.tensor([0.0, 100.0]), 1 + some(18)])
    sieve = opened()
    sieve.judge(0, torch.arange(20), effects, 0.1, "both", "quantiles")
    assert sieve.passing(0, torch.arange(20)).tolist() == list(range(2, 20))


def test_equal_effects_all_pass() -> None:
    for threshold in ("quantiles", "normal"):
        sieve = opened()
        sieve.judge(0, torch.arange(20), torch.ones(20), 0.4, "both", threshold)
        assert len(sieve.passing(0, torch.arange(20))) == 20


def test_recent_effects_are_a_ring_of_each_class() -> None:
    sieve = opened(recent=8)
    batches = [some(5, seed) for seed in range(4)]
    for effects in batches:
        sieve.judge(0, torch.arange(5), effects, 0.4, "both", "quantiles")
    kept = torch.cat(batches)[-8:]
    assert sorted(sieve.recent[0].tolist()) == sorted(kept.tolist())
    assert sieve.open[:5].tolist() == quantile_pass(batches[-1].tolist(), kept.tolist(), 0.4)
    assert sieve.written.tolist() == [20, 0]
    sieve.judge(1, torch.arange(20, 40), some(20), 0.4, "both", "quantiles")  # more than the ring holds
    assert sorted(sieve.recent[1].tolist()) == sorted(some(20)[-8:].tolist())


def test_the_normal_law_has_running_moments() -> None:
    sieve, places = opened(), torch.arange(30)
    one, two = some(30).double(), 2 * some(30, 1).double()
    sieve.judge(0, places, one, 0.2, "both", "normal")
    assert (float(sieve.mean[0]), float(sieve.variance[0])) == pytest.approx(
        (float(one.mean()), float(one.var(correction=0))), rel=1e-6
    )
    sieve.judge(0, places, two, 0.2, "both", "normal")
    mean = 0.9 * float(one.mean()) + 0.1 * float(two.mean())
    variance = 0.9 * float(one.var(correction=0)) + 0.1 * float(two.var(correction=0))
    assert (float(sieve.mean[0]), float(sieve.variance[0])) == pytest.approx((mean, variance), rel=1e-6)
    far = NormalDist().inv_cdf(0.9) * variance**0.5
    assert sieve.open[:30].tolist() == [mean - far <= s <= mean + far for s in two.tolist()]
    assert not sieve.open[:30].all()


def test_where_none_passes_the_one_nearest_to_the_mean_does() -> None:
    sieve = opened()
    effects = torch.tensor([0.0, 9.0, 4.0, 5.0, 5.5, 1.0])
    sieve.judge(0, torch.arange(6), effects, 0.9, "both", "quantiles")
    assert sieve.open[:6].any()
    sieve.open[:6] = False
    assert sieve.passing(0, torch.tensor([1, 0, 2, 5])).tolist() == [2]  # the mean is 4.08
    assert sieve.passing(0, torch.tensor([5])).tolist() == [5]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_something_always_passes_and_keeps_its_order(n: int, share: float) -> None:
    for tails in ("both", "low", "high"):
        for threshold in ("quantiles", "normal"):
            sieve, places = opened(), torch.arange(n).flip(0)
            sieve.judge(0, places, some(n, n), share, tails, threshold)
            kept = sieve.passing(0, places).tolist()
            assert kept
            assert kept == [p for p in places.tolist() if p in kept]


def test_all_that_is_remembered_stands_in_the_state() -> None:
    state: dict[str, Tensor] = {}
    for seed in range(3):
        assert opened(state).count(0) == seed
        opened(state).judge(0, torch.arange(10), some(10, seed), 0.2, "both", "quantiles")
        opened(state).passing(0, torch.arange(10))
    again = opened({name: value.clone() for name, value in state.items()})
    assert again.count(0) == 3
    assert again.count(1) == 0
    assert again.seen[0] == 30
    assert again.written.tolist() == [30, 0]
    assert again.effect[:10].tolist() == some(10, 2).tolist()
    assert again.effect[10:].isnan().all()
