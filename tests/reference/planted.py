"""A set in which some images have the label of another class, and scores that are made up."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from torch import Tensor

from datastill.fields import Context
from datastill.sources import Dataset
from datastill.training.dynamics import Scores, Scoring
from reference import tiny

WRONG = 4  # images of each class whose label is wrong
LEARNING = {"epochs": 25, "runs": 2}  # enough for 160 images


@cache
def mislabelled() -> tuple[Dataset, Tensor]:
    """Return a set with 40 images per class, one in ten under the label of the next class, and which rows those are."""
    data = tiny.dataset(per_class=40)
    labels = data.train.labels.clone()
    wrong = torch.cat([(labels == k).nonzero().flatten()[:WRONG] for k in range(4)])
    labels[wrong] = (labels[wrong] + 1) % 4
    train = dataclasses.replace(data.train, labels=labels)
    return dataclasses.replace(data, train=train, fingerprint="mislabelled"), wrong


def made_up(monkeypatch: pytest.MonkeyPatch, ctx: Context, **scores: Tensor) -> list[Scoring]:
    """Let networks say these scores, one for each allowed row; returns what is asked for."""
    asked: list[Scoring] = []
    empty = torch.full((len(ctx.real.rows),), torch.nan)
    told = Scores(**({"loss": empty, "el2n": empty, "forgetting": empty} | scores), curve=torch.zeros(1, 1))

    def answer(scoring: Scoring, *_: object, **__: object) -> Scores:
        asked.append(scoring)
        return told

    monkeypatch.setattr("datastill.select.ranking.score", answer)
    return asked
