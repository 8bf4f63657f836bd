"""EL2N: the hardest first, and wrong labels are hardest."""

from __future__ import annotations

import pytest
import torch

from datastill.recipe import choice
from reference import tiny
from reference.planted import LEARNING, WRONG, made_up, mislabelled


def test_the_largest_scores_come_first_and_equal_ones_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = tiny.context(given={}, select=choice("el2n"), validation=8)
    scores = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0)).double()
    asked = made_up(monkeypatch, ctx, el2n=scores)
    rows = ctx.fields.select.start(10, ctx)
    by_row = dict(zip(ctx.real.rows.tolist(), scores.tolist(), strict=True))
    for k in range(4):
        assert rows[k].tolist() == sorted(ctx.real.of_class(k).tolist(), key=lambda row: (-by_row[row], row))
    assert [(s.epochs, s.runs) for s in asked] == [(5, 3)]


def test_wrong_labels_are_hardest() -> None:
    data, wrong = mislabelled()
    ctx = tiny.context(data, select=choice("el2n", **LEARNING))
    hardest = ctx.fields.select.start(WRONG, ctx)
    assert int(torch.isin(hardest, wrong).sum()) >= len(wrong) - 1
