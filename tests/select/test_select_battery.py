"""What every registered way to select must do, and what the random one is."""

from __future__ import annotations

import pytest
import torch

from datastill.errors import DatastillError
from datastill.fields import Context, registered
from datastill.runtime.seeds import rng
from reference import tiny

SELECTS = sorted(registered("select"))


def looking(name: str, data=None, **changes) -> Context:
    return tiny.context(data, given={}, select=tiny.chosen("select", name), **changes)


@pytest.mark.parametrize("name", SELECTS)
@pytest.mark.parametrize("validation", [0, 9])
def test_rows_are_distinct_and_allowed_and_of_their_class(name: str, validation: int) -> None:
    ctx = looking(name, validation=validation)
    rows = ctx.fields.select.start(9, ctx)
    assert rows.shape == (4, 9)
    assert rows.dtype == torch.long
    assert rows.unique().numel() == rows.numel()
    assert torch.isin(rows, ctx.real.rows).all()
    assert not torch.isin(rows, ctx.real.held_out).any()
    assert torch.equal(tiny.dataset().train.labels[rows], torch.arange(4).repeat_interleave(9).view(4, 9))


@pytest.mark.parametrize("name", SELECTS)
def test_a_larger_choice_extends_a_smaller_one(name: str) -> None:
    ctx = looking(name)
    largest = ctx.fields.select.start(12, ctx)
    for n in range(1, 12):
        assert torch.equal(ctx.fields.select.start(n, ctx), largest[:, :n])


@pytest.mark.parametrize("name", SELECTS)
def test_a_class_with_too_few_images_is_named_with_what_would_do(name: str) -> None:
    ctx = looking(name, tiny.dataset(per_class=(12, 12, 3, 12)))
    with pytest.raises(DatastillError, match=r"class 'class 2' has 3 .* smaller --ipc or leave the class out"):
        ctx.fields.select.start(4, ctx)


def test_random_takes_one_permutation_per_class_that_the_seed_decides() -> None:
    ctx = looking("random")
    labels = tiny.dataset().train.labels
    for k in range(4):
        mine = (labels == k).nonzero().flatten()
        wanted = mine[torch.from_numpy(rng(0, "select", k).permutation(12))]
        assert torch.equal(ctx.fields.select.start(12, ctx)[k], wanted)


def test_random_changes_with_the_seed() -> None:
    one, two = looking("random"), looking("random", seed=1)
    assert not torch.equal(one.fields.select.start(12, one), two.fields.select.start(12, two))
