"""Forgetting: the most forgotten first, those never learned before all; or the other way round."""

from __future__ import annotations

import math

import pytest
import torch

from datastill.recipe import choice
from reference import tiny
from reference.planted import made_up


@pytest.mark.parametrize("order", ["hardest", "easiest"])
def test_counts_decide_and_equal_ones_come_by_index(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = tiny.context(given={}, select=choice("forgetting", order=order), validation=8)
    events = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0)).double()
    events[events == 3] = math.inf
    asked = made_up(monkeypatch, ctx, forgetting=events)
    rows = ctx.fields.select.start(10, ctx)
    sign = -1 if order == "hardest" else 1
    by_row = dict(zip(ctx.real.rows.tolist(), events.tolist(), strict=True))
    for k in range(4):
        mine = sorted(ctx.real.of_class(k).tolist(), key=lambda row: (sign * by_row[row], row))
        assert rows[k].tolist() == mine
        never = [math.isinf(by_row[row]) for row in rows[k].tolist()]
        assert never == sorted(never, reverse=order == "hardest")
        assert any(never)
    assert [(s.epochs, s.runs) for s in asked] == [(20, 1)]
