"""Randomness as a function of names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datastill.runtime.seeds import derive, rng, torch_seeded


def test_the_same_names_give_the_same_stream() -> None:
    one, two = rng(3, "view", 7), rng(3, "view", 7)
    one.random(5)
    again = rng(3, "view", 7)
    assert np.array_equal(two.random(50), again.random(50))
    assert np.array_equal(one.random(3), rng(3, "view", 7).random(8)[5:])


def test_other_seeds_names_or_orders_give_other_streams() -> None:
    asked: list[tuple[int, tuple[object, ...]]] = [
        (0, ()), (1, ()), (0, ("a",)), (0, ("a", 0)), (0, (0, "a")), (0, ("a", 1)), (0, ("a0",)), (0, ("a", 0, 0)),
        (-1, ()), (10**30, ()), (0, ("",)),
    ]  # fmt: skip
    assert len({rng(seed, *names).bytes(16) for seed, names in asked}) == len(asked)


def test_many_neighbouring_seeds_do_not_collide() -> None:
    derived = {derive(seed, "view", step) for seed in range(30) for step in range(300)}
    assert len(derived) == 9000
    assert all(0 <= value < 2**63 for value in derived)


def test_streams_are_uniform_across_steps_not_only_within_one() -> None:
    first = np.array([rng(0, "view", step).random() for step in range(4000)])
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_a_stream_stays_what_it_is() -> None:
    """Seeds of results on disk: whoever changes the derivation changes every number that was ever measured."""
    assert derive(0, "order", 0) == 1370560536841482319
    assert rng(0, "order", 0).permutation(8).tolist() == [1, 5, 4, 6, 7, 2, 3, 0]


def test_torch_is_seeded_inside_the_block_and_restored_after_it() -> None:
    before = torch.get_rng_state()
    with torch_seeded(0, "init"):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch_seeded(0, "init"):
        assert torch.equal(torch.rand(4), inside)
    with torch_seeded(1, "init"):
        assert not torch.equal(torch.rand(4), inside)
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_is_restored_after_an_error_and_blocks_nest() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), torch_seeded(0):
        raise KeyError(torch.rand(1))
    assert torch.equal(torch.get_rng_state(), before)
    with torch_seeded(0):
        plain = torch.rand(2)
    with torch_seeded(0):
        first = torch.rand(1)
        with torch_seeded(5):
            torch.rand(9)
        second = torch.rand(1)
    assert torch.equal(torch.cat([first, second]), plain)
