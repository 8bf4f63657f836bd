"""What every registered way to select must do, and what the random one is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.engine import make_context
from datastill.errors import DatastillError
from datastill.fields import Context, Pictures, Real, registered, resolve
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.sources import Dataset
from reference import tiny

SELECTS = sorted(registered("select"))


def looking(name: str, data: Dataset | None = None, **changes: Any) -> Context:
    """Return a context of a choice; the random one may ask for no network."""
    given: dict[str, Any] | None = {} if name == "random" else None
    return tiny.context(data, given=given, select=tiny.chosen("select", name), **changes)


class Untested(Dataset):
    """A data set whose test split must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        assert name != "test", "a choice looked at the test split"
        return super().__getattribute__(name)


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
def test_unequal_counts_take_the_first_of_what_equal_ones_take(name: str) -> None:
    ctx = looking(name)
    whole = ctx.fields.select.start(12, ctx)
    for counts in ([3, 1, 12, 7], [0, 5, 0, 1], [0, 0, 0, 0]):
        picked = ctx.fields.select.pick(counts, ctx)
        assert [len(rows) for rows in picked] == counts
        for rows, mine in zip(picked, whole, strict=True):
            assert rows.dtype == torch.long
            assert torch.equal(rows, mine[: len(rows)])


@pytest.mark.parametrize("name", SELECTS)
def test_a_small_class_hinders_no_other_that_is_asked_for_more(name: str) -> None:
    ctx = looking(name, tiny.dataset(per_class=(12, 12, 3, 12)))
    picked = ctx.fields.select.pick([12, 7, 3, 4], ctx)
    assert [len(rows) for rows in picked] == [12, 7, 3, 4]
    labels = tiny.dataset(per_class=(12, 12, 3, 12)).train.labels
    assert [set(labels[rows].tolist()) for rows in picked] == [{0}, {1}, {2}, {3}]
    with pytest.raises(DatastillError, match=r"class 'class 2' has 3 training images, but .* 4 per class"):
        ctx.fields.select.pick([1, 1, 4, 1], ctx)


@pytest.mark.parametrize("name", SELECTS)
def test_a_class_with_too_few_images_is_named_with_what_would_do(name: str) -> None:
    ctx = looking(name, tiny.dataset(per_class=(12, 12, 3, 12)))
    with pytest.raises(DatastillError, match=r"class 'class 2' has 3 .* smaller --ipc or leave the class out"):
        ctx.fields.select.start(4, ctx)


@pytest.mark.parametrize("name", SELECTS)
def test_nothing_but_allowed_training_rows_is_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset(seed=3)  # of this test alone, so that nothing is in the cache
    guarded = Untested(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    recipe = tiny.recipe(select=tiny.chosen("select", name), validation=9)
    seen: list[Tensor] = []
    pictures = Real.pictures

    def noted(real: Real, rows: Tensor) -> Pictures:
        seen.append(rows)
        return pictures(real, rows)

    monkeypatch.setattr(Real, "pictures", noted)
    ctx = make_context(guarded, recipe, tiny.device(), Reporter())
    rows = ctx.fields.select.start(5, ctx)
    assert not any(torch.isin(looked, ctx.real.held_out).any() for looked in [rows, *seen])
    pixels = data.train.pixels.clone()
    pixels[ctx.real.held_out] = 0
    blank = dataclasses.replace(data, train=dataclasses.replace(data.train, pixels=pixels), fingerprint="blank")
    other = make_context(blank, recipe, tiny.device(), Reporter())
    assert torch.equal(other.fields.select.start(5, other), rows), "held-out pictures made a difference"


@pytest.mark.parametrize("name", [name for name in SELECTS if name != "random"])
def test_a_network_that_is_not_there_is_refused_before_any_work(name: str) -> None:
    info = tiny.dataset().info
    asking = {"keep": 0.5} if name == "bilp" else {}  # with all images kept it asks none
    with pytest.raises(DatastillError, match=f"select '{name}' asks a network of the recipe, but the table"):
        resolve(tiny.recipe(select=choice(name, **asking), networks={}), info)
    with pytest.raises(DatastillError, match=f"'{name}' asks network 'secnd', which is not .* mean 'second'"):
        resolve(tiny.recipe(select=choice(name, network="secnd")), info)
    resolve(tiny.recipe(select=choice(name, network="second")), info)


@pytest.mark.parametrize("name", SELECTS)
def test_small_classes_are_refused_before_any_network_is_trained(name: str) -> None:
    ctx = tiny.context(given={}, select=tiny.chosen("select", name))
    with pytest.raises(DatastillError, match="class 'class 0' has 12 training images"):
        ctx.fields.select.start(13, ctx)
    assert not ctx.reporter.seconds


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
