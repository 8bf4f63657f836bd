"""Level 1 of BiLP: what stays, how many, what is then picked, and that nothing else is ever looked at."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.engine import make_context
from datastill.errors import DatastillError
from datastill.fields import Context, Pictures, Real, registered, resolve
from datastill.match.statistics import _plain_moments, _tapped
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from datastill.select.bilp import TRAINED, Bilp
from datastill.training.dynamics import Scores
from datastill.training.trials import Trials
from reference import tiny
from reference.planted import LEARNING, made_up, mislabelled
from reference.selection import pruned

ROWS = 40  # of four classes, eight of 48 held out


def looking(*, data: Any = None, **settings: Any) -> Context:
    return tiny.context(data, given={}, select=choice("bilp", **settings), validation=8)


def some(seed: int = 0, levels: int = 1000) -> Tensor:
    return torch.randint(0, levels, (ROWS,), generator=torch.Generator().manual_seed(seed)).double()


def classes_of(ctx: Context) -> list[int]:
    return tiny.dataset().train.labels[ctx.real.rows].tolist()


def by_hand(ctx: Context, scores: Tensor, keep: float, **options: Any) -> list[int]:
    """Return the rows that stay, the plain way."""
    balanced = options.pop("balanced", True)
    stay = pruned(scores.tolist(), classes_of(ctx) if balanced else None, keep, **options)
    return ctx.real.rows[stay].tolist()


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("levels", [1000, 4])
def test_the_easiest_share_of_each_class_stays_and_ties_go_by_index(
    keep: float, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = looking(keep=keep)
    scores = some(levels=levels)
    made_up(monkeypatch, ctx, loss=scores)
    pool = ctx.pool
    assert pool.tolist() == by_hand(ctx, scores, keep)
    assert pool.tolist() == sorted(set(pool.tolist()))
    counts = tiny.dataset().train.labels[pool].bincount()
    assert counts.tolist() == [max(1, round(keep * 10))] * 4


def test_a_planted_order_is_found_and_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = torch.arange(ROWS).double()
    for order, wanted in (("easiest", slice(0, 7)), ("hardest", slice(3, 10))):
        ctx = looking(keep=0.7, order=order)
        made_up(monkeypatch, ctx, loss=planted)
        found = [sorted(set(ctx.pool.tolist()) & set(ctx.real.of_class(k).tolist())) for k in range(4)]
        assert found == [ctx.real.of_class(k)[wanted].tolist() for k in range(4)]


@pytest.mark.parametrize(
    ("score", "field"), [("el2n", "el2n"), ("forgetting", "forgetting"), ("loss_converge", "loss")]
)
def test_every_score_of_networks_keeps_its_small_ones(score: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = looking(keep=0.4, score=score)
    scores = some(seed=1, levels=3)
    scores[::7] = math.inf  # never learned
    made_up(monkeypatch, ctx, **{field: scores})
    assert ctx.pool.tolist() == by_hand(ctx, scores, 0.4)


def test_utilities_keep_their_large_ones_and_the_order_of_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, asked = looking(keep=0.4, score="monte_carlo", trials=30, share=0.3, steps=7), []
    worth = some(seed=2, levels=3)

    def told(trials: Trials, *_: object, **__: object) -> Tensor:
        asked.append(trials)
        return worth

    monkeypatch.setattr("datastill.select.bilp.utilities", told)
    assert ctx.pool.tolist() == by_hand(ctx, -worth, 0.4)
    ctx.fields.select.start(2, ctx)
    (trials,) = asked
    assert (trials.trials, trials.share, trials.steps, trials.seed) == (30, 0.3, 7, 0)
    assert trials.network.data_key == ctx.real.key


def test_balance_is_of_ratios_and_without_it_easy_classes_win(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset(per_class=(24, 12, 6, 6))
    ctx = tiny.context(data, given={}, select=choice("bilp", keep=0.5))
    made_up(monkeypatch, ctx, loss=torch.arange(48).double())
    assert data.train.labels[ctx.pool].bincount().tolist() == [12, 6, 3, 3]
    ctx = looking(keep=0.25, balanced=False)
    scores = torch.tensor([float(k != 2) for k in classes_of(ctx)])
    made_up(monkeypatch, ctx, loss=scores)
    assert ctx.pool.tolist() == ctx.real.of_class(2).tolist()
    assert ctx.pool.tolist() == by_hand(ctx, scores, 0.25, balanced=False)
    with pytest.raises(DatastillError, match=r"class 'class 0' keeps 0 of its 10 .* raise select.keep"):
        ctx.fields.select.start(1, ctx)


def held(count: int, **settings: Any) -> int:
    first, end = Bilp(**settings)._held(count)
    return end - first


@given(st.integers(1, 6000), st.integers(1, 9))
def test_the_share_that_stays_and_the_one_that_goes_agree(count: int, tenths: int) -> None:
    """Whether one writes 0.3, or what 1 - 0.7 is in binary."""
    keep, dropped = tenths / 10, 1 - tenths / 10
    stays = held(count, keep=keep)
    assert stays == held(count, keep=1 - dropped)
    assert stays == 1 or abs(stays - keep * count) < 0.5 + 1e-9


def test_released_rounding_is_that_of_the_released_code() -> None:
    assert held(5000, keep=0.9) == 4500
    assert held(5000, keep=0.9, rounding="released") == 4501  # 1 - 0.9 is a little under a tenth
    assert held(500, keep=1 - 0.9996, rounding="released") == 1
    for count in (1, 3, 10, 77):
        assert held(count, keep=1e-6) == held(count, keep=1e-6, rounding="released") == 1


def test_released_rounding_keeps_the_rows_of_the_released_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = looking(keep=0.35, rounding="released")
    made_up(monkeypatch, ctx, loss=some())
    assert ctx.pool.tolist() == by_hand(ctx, some(), 0.35, released=True)  # 10 - floor(6.5) = 4


def test_windows_that_meet_share_no_row_and_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    for rounding in ("ours", "released"):
        parts.clear()
        for low, high in ((0.0, 0.29), (0.29, 0.55), (0.55, 1.0)):
            ctx = looking(window=[low, high], rounding=rounding)
            made_up(monkeypatch, ctx, loss=some())
            parts += ctx.pool.tolist()
        assert sorted(parts) == ctx.real.rows.tolist()


def test_keep_is_a_share_of_the_window_and_never_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = looking(window=[0.2, 0.6], keep=0.5)
    made_up(monkeypatch, ctx, loss=torch.arange(ROWS).double())
    assert ctx.pool.tolist() == sorted(row for k in range(4) for row in ctx.real.of_class(k)[2:4].tolist())
    assert held(10, window=(0.5, 0.51), keep=0.1) == 0


def test_nothing_pruned_is_the_method_itself_to_the_bit_and_asks_no_network_for_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> Scores:
        raise AssertionError("nothing is pruned, so nothing need be scored")

    monkeypatch.setattr("datastill.select.ranking.score", refuse)
    match = choice("statistics", rounds=3, lr=0.1, jitter=1, reference="plain")  # looks at real images
    plain, same = (
        tiny.distilled(None, match=match, select=select, validation=8)
        for select in (choice("random"), choice("bilp", keep=1.0))
    )
    assert torch.equal(plain.content.pictures.pixels, same.content.pictures.pixels)
    assert plain.content.pictures.ids == same.content.pictures.ids
    assert plain.content.arrays
    for name in plain.content.arrays:
        assert torch.equal(plain.content.arrays[name], same.content.arrays[name])
    assert plain.labels.values is not None
    assert same.labels.values is not None
    assert torch.equal(plain.labels.values, same.labels.values)


def test_random_ones_are_those_of_select_random_without_what_was_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.context(given={}, select=choice("random"), validation=8)
    whole = base.fields.select.start(10, base)
    for keep in (0.3, 0.6, 1.0):
        ctx = looking(keep=keep)
        made_up(monkeypatch, ctx, loss=some())
        stay = set(ctx.pool.tolist())
        wanted = [[row for row in rows if row in stay] for rows in whole.tolist()]
        assert ctx.fields.select.start(round(10 * keep), ctx).tolist() == wanted


def test_the_store_begins_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = torch.arange(ROWS).double()
    base = tiny.context(given={}, select=choice("random"), validation=8)
    for then in ("easiest", "hardest", "whole"):
        ctx = looking(keep=0.5, then=then)
        made_up(monkeypatch, ctx, loss=planted)
        rows = ctx.fields.select.start(5, ctx)
        five = torch.stack([ctx.real.of_class(k)[:5] for k in range(4)])
        wanted = {"easiest": five, "hardest": five.flip(1), "whole": base.fields.select.start(5, base)}[then]
        assert torch.equal(rows, wanted)
        assert ctx.pool.tolist() == sorted(five.flatten().tolist())
    assert ctx.fields.select.start(10, ctx).shape == (4, 10)  # whole: more than stay


def test_what_is_there_to_begin_from_is_counted_without_a_network_and_is_all_that_stores_ask_for() -> None:
    def counted(**settings: Any) -> list[int]:
        ctx = tiny.context(tiny.dataset(per_class=(24, 12, 6, 12)), given={}, select=choice("bilp", **settings))
        return ctx.fields.select.available(ctx)

    assert counted() == counted(keep=0.5, then="whole") == [24, 12, 6, 12]
    assert counted(keep=0.5) == [12, 6, 3, 6]
    few = choice("bilp", keep=0.5, epochs=1, runs=1)
    spread = tiny.distilled(
        None, tiny.dataset(per_class=(24, 12, 6, 12)), select=few, store=choice("pixels", total=20),
        match=choice("none"), label=choice("hard"),
    )  # fmt: skip
    counts = spread.content.items.cls.bincount().tolist()
    assert counts[2] == 3  # all that stay of the small class; the others take the rest
    assert sorted(counts) == [3, 5, 6, 6]


@pytest.mark.parametrize("store", sorted(registered("store")))
def test_every_store_looks_at_what_stays_alone(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = choice("bilp", keep=0.5, epochs=1, runs=1)
    looked: list[Tensor] = []
    pictures = Real.pictures

    def noted(real: Real, rows: Tensor) -> Pictures:
        looked.append(rows)
        return pictures(real, rows)

    monkeypatch.setattr(Real, "pictures", noted)
    ctx = tiny.context(select=few, store=tiny.chosen("store", store), match=choice("none"),
                       ipc=4 if store == "compensated" else 1)  # fmt: skip
    ctx.fields.store.begin(ctx)
    assert all(torch.isin(rows, ctx.pool).all() for rows in looked)


def test_too_few_that_stay_are_refused_before_any_network_is_trained() -> None:
    ctx = looking(keep=0.3)
    with pytest.raises(DatastillError, match=r"'class 0' keeps 3 of its 10 .* starts from 4 per class; raise"):
        ctx.fields.select.start(4, ctx)
    assert not ctx.reporter.seconds


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": 0.0}, r"'select\.keep' must be between"),
        ({"keep": 1.2}, r"'select\.keep' must be between"),
        ({"window": [0.6, 0.6]}, "first number must be below its second"),
        ({"score": "monte_carlo", "balanced": False}, "compare images of one class alone; leave select.balanced"),
        ({"score": "loss_late"}, r"'select\.score' is 'loss_late'"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DatastillError, match=said):
        resolve(tiny.recipe(select=choice("bilp", **settings)), tiny.dataset().info)


def test_one_image_of_a_class_has_no_utility() -> None:
    ctx = tiny.context(tiny.dataset(per_class=(12, 1, 12, 12)), given={},
                       select=choice("bilp", keep=0.5, score="monte_carlo"))  # fmt: skip
    with pytest.raises(DatastillError, match="class 'class 1' has fewer than two training images"):
        ctx.fields.select.start(1, ctx)


def test_scoring_networks_are_those_that_suit_the_score_or_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for score, (epochs, runs) in TRAINED.items():
        ctx = looking(keep=0.5, score=score)
        asked = made_up(monkeypatch, ctx, loss=some(), el2n=some(), forgetting=some())
        ctx.fields.select.start(2, ctx)
        assert [(s.epochs, s.runs, s.last) for s in asked] == [(epochs, runs, 10 if score == "loss_converge" else None)]
    ctx = looking(keep=0.5, epochs=7, runs=4, network="second")
    asked = made_up(monkeypatch, ctx, loss=some())
    ctx.fields.select.start(2, ctx)
    assert [(s.epochs, s.runs, s.network.name) for s in asked] == [(7, 4, "second")]


def test_a_match_looks_at_what_stays_and_networks_are_trained_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    match = choice("statistics", rounds=1, reference="plain")
    ctx = tiny.context(select=choice("bilp", keep=0.5), match=match)
    made_up(monkeypatch, ctx, loss=torch.arange(48).double())
    found = ctx.fields.match._wanted(ctx, "first")  # type: ignore[attr-defined]  # statistics, as asked
    pixels = tiny.dataset().train.pixels[ctx.pool]
    assert len(pixels) == 24
    wanted = _plain_moments(_tapped(ctx, "first"), pixels, tiny.device().torch)
    torch.testing.assert_close(found, wanted)
    assert ctx.training("first").data_key == ctx.real.key == tiny.context(match=match).real.key


def test_a_pruned_set_is_made_saved_loaded_and_trained_on(tmp_path: Path) -> None:
    few = choice("bilp", keep=0.5, epochs=2, runs=1)
    made = tiny.distilled(tmp_path / "set", select=few, validation=8)
    loaded = DistilledDataset.load(tmp_path / "set")
    images = loaded.expand().images
    assert torch.equal(images, made.expand().images)
    ctx = tiny.context(select=few, validation=8)
    rows = ctx.real.rows_of(loaded.content.pictures)
    assert torch.isin(rows, ctx.pool).all()
    trained = loaded.recipe.student
    batch = next(loaded.fields.label.supply(loaded.expand(), trained.work(len(images), 1), trained, 0,
                                            device=tiny.device().torch))  # fmt: skip
    assert batch.x.shape == (8, 3, 8, 8)


def test_held_out_pictures_and_the_test_split_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset(seed=5)
    few = {"keep": 0.5, "epochs": 2, "runs": 1, "trials": 2, "steps": 2}
    for score in ("loss_early", "monte_carlo"):
        recipe = tiny.recipe(select=choice("bilp", score=score, **few), validation=8)
        ctx = make_context(data, recipe, tiny.device(), Reporter())
        pixels = data.train.pixels.clone()
        pixels[ctx.real.held_out] = 0
        test = dataclasses.replace(data.test, pixels=data.test.pixels * 0)
        blank = dataclasses.replace(data, train=dataclasses.replace(data.train, pixels=pixels), test=test,
                                    fingerprint=f"blank {score}")  # fmt: skip
        other = make_context(blank, recipe, tiny.device(), Reporter())
        assert torch.equal(ctx.pool, other.pool)
        assert not torch.isin(ctx.pool, ctx.real.held_out).any()


def test_wrong_labels_do_not_stay() -> None:
    data, wrong = mislabelled()
    ctx = tiny.context(data, select=choice("bilp", keep=0.8, **LEARNING))
    assert int(torch.isin(ctx.pool, wrong).sum()) <= 1
    assert len(ctx.pool) == 128


def test_loss_error_and_probability_of_the_class_give_one_order() -> None:
    """With q = 1 - p_y: q^2 C / (C - 1) <= |p - y|^2 <= 2 q^2, hence loss, EL2N and q rank nearly alike."""
    for classes in (2, 10, 100):
        logits = 3 * torch.randn(500, classes, generator=torch.Generator().manual_seed(classes)).double()
        p = logits.softmax(1)
        q = p[:, 1:].sum(1)
        square = q.square() + p[:, 1:].square().sum(1)
        low, high = q.square() * classes / (classes - 1), 2 * q.square()
        assert (low <= square * (1 + 1e-9)).all()
        assert (square <= high * (1 + 1e-9)).all()
        if classes == 2:
            torch.testing.assert_close(low, square)
