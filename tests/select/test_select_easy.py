"""Easy images first: order, window, and that the window keeps wrong labels out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.engine import make_context
from datastill.errors import DatastillError
from datastill.fields import Context, resolve
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.planted import LEARNING, made_up, mislabelled


def looking(**settings: Any) -> Context:
    return tiny.context(given={}, select=choice("easy", **settings), validation=8)


def by_hand(ctx: Context, scores: Tensor, k: int) -> list[int]:
    """Return the rows of a class from the smallest score to the largest, equal ones by index."""
    pairs = [(float(s), int(row)) for s, row in zip(scores, ctx.real.rows, strict=True)]
    mine = set(ctx.real.of_class(k).tolist())
    return [row for _, row in sorted(pairs) if row in mine]


@pytest.mark.parametrize("score", ["loss", "el2n"])
def test_the_smallest_scores_come_first_and_equal_ones_by_index(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = looking(score=score)
    scores = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0)).double()
    made_up(monkeypatch, ctx, **{score: scores})
    rows = ctx.fields.select.start(10, ctx)
    for k in range(4):
        assert rows[k].tolist() == by_hand(ctx, scores, k)


def test_windows_that_meet_share_no_image_and_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = (0.0, 0.29, 0.35, 0.8, 1.0)
    parts = []
    for low, high in zip(edges, edges[1:], strict=False):
        ctx = looking(window=[low, high])
        made_up(monkeypatch, ctx, loss=torch.rand(40, generator=torch.Generator().manual_seed(1)).double())
        n = round(high * 10) - round(low * 10)
        parts.append(ctx.fields.select.start(n, ctx) if n else torch.empty(4, 0, dtype=torch.long))
    whole = looking()
    made_up(monkeypatch, whole, loss=torch.rand(40, generator=torch.Generator().manual_seed(1)).double())
    assert torch.equal(torch.cat(parts, dim=1), whole.fields.select.start(10, whole))


def test_a_window_that_cannot_hold_the_images_is_refused_before_networks_are_trained() -> None:
    ctx = looking(window=[0.2, 0.6])
    with pytest.raises(DatastillError, match=r"'class 0' has 4 of its 10 .* select.window=\[0.2, 0.6\], .* from 5 per"):
        ctx.fields.select.start(5, ctx)
    assert not ctx.reporter.seconds


@pytest.mark.parametrize("window", [[0.5, 0.5], [0.6, 0.2]])
def test_a_window_that_holds_nothing_is_refused(window: list[float]) -> None:
    with pytest.raises(DatastillError, match="first number must be below its second"):
        resolve(tiny.recipe(select=choice("easy", window=window)), tiny.dataset().info)


@pytest.mark.parametrize("window", [[0.0, 1.5], [-0.1, 1.0], [0.5]])
def test_a_window_is_two_shares(window: list[float]) -> None:
    with pytest.raises(DatastillError, match=r"select\.window"):
        resolve(tiny.recipe(select=choice("easy", window=window)), tiny.dataset().info)


def test_networks_are_asked_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = tiny.context(given={}, select=choice("easy", network="second", epochs=7, runs=4), seed=5)
    asked = made_up(monkeypatch, ctx, loss=torch.zeros(48))
    ctx.fields.select.start(2, ctx)
    ctx.fields.select.start(3, ctx)
    (scoring,) = asked
    assert (scoring.network.name, scoring.epochs, scoring.runs, scoring.seed) == ("second", 7, 4, 5)
    assert scoring.network.data_key == ctx.real.key


def test_the_easy_window_holds_almost_no_wrong_label() -> None:
    data, wrong = mislabelled()
    for score in ("loss", "el2n"):
        ctx = tiny.context(data, select=choice("easy", score=score, window=[0.0, 0.8], **LEARNING))
        rows = ctx.fields.select.start(32, ctx)
        held = int(torch.isin(rows, wrong).sum())
        assert held <= 1, f"{score}: {held} of {len(wrong)} wrong labels among {rows.numel()} images"


def test_networks_that_have_hardly_learned_are_told_of() -> None:
    told: list[str] = []

    class Hearing(Reporter):
        def say(self, text: str) -> None:
            told.append(text)

    for epochs in (1, 25):
        recipe = tiny.recipe(select=choice("easy", epochs=epochs, runs=1))
        ctx = make_context(mislabelled()[0], recipe, tiny.device(), Hearing())
        ctx.fields.select.start(2, ctx)
        ctx.fields.select.start(3, ctx)
    (said,) = told
    assert "hardly learned" in said
    assert "raise select.epochs above 1" in said
