"""Monte-Carlo utilities: against a plain loop, on halves that never meet, made once, and low for wrong labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from datastill.recipe import DatasetInfo, NetworkRecipe, TrainRecipe
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.training import trials as module
from datastill.training.bank import Training
from datastill.training.losses import one_hot
from datastill.training.supply import Data
from datastill.training.trials import Trials, first_halves, mean_utilities, utilities
from reference import selection as plain
from reference.planted import mislabelled

INFO = DatasetInfo("tiny", 4, (3, 8, 8), 160, (0.5,) * 3, (0.25,) * 3)
RECIPE = NetworkRecipe(arch="convnet", settings={"width": 8}, training=TrainRecipe(lr=0.05, batch=8, epochs=3))
NETWORK = Training("first", RECIPE, INFO, "rows", "float32")


def asked(**changes: Any) -> Trials:
    return dataclasses.replace(Trials(NETWORK, trials=4, share=0.2, steps=2, seed=0), **changes)


@pytest.fixture
def planted() -> Data:
    """160 pictures, one label in ten of which is wrong."""
    train = mislabelled()[0].train
    return Data(train.pixels, train.labels, one_hot(train.labels, 4), "classes")


def refuse() -> Data:
    raise AssertionError("utilities that are there already need no data")


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_utilities_are_those_of_a_plain_loop(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(12) % 3
    first = first_halves(classes, 3, seed)
    drawn = torch.rand(count, 12, generator=generator) < 0.4
    held = drawn & (first == (torch.arange(count) % 2 == 0)[:, None])
    accuracy = 100 * torch.rand(count, 3, generator=generator).double()
    found = mean_utilities(held, accuracy, classes, first)
    wanted = plain.utilities(held.tolist(), accuracy.tolist(), classes.tolist(), first.tolist())
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_a_row_that_no_trial_drew_has_the_mean_of_its_class_and_not_zero() -> None:
    held = torch.tensor([[True, False, False, False], [False, False, True, False]])
    accuracy = torch.tensor([[30.0], [50.0]], dtype=torch.float64)
    found = mean_utilities(held, accuracy, torch.zeros(4).long(), torch.tensor([True, True, False, False]))
    assert found.tolist() == [40.0] * 4


def test_halves_have_the_same_share_of_every_class() -> None:
    classes = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2])
    first = first_halves(classes, 3, seed=0)
    assert [int(first[classes == k].sum()) for k in range(3)] == [1, 3, 1]
    assert not torch.equal(first, first_halves(classes, 3, seed=1))


def test_students_train_on_one_half_and_are_scored_on_the_other(
    planted: Data, cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    scored: list[Tensor] = []
    taught, accuracies = module._taught, module._accuracies

    def note_taught(training: Training, data: Data, rows: Tensor, device: Device) -> nn.Module:
        trained.append(rows)
        return taught(training, data, rows, device)

    def note_scored(network: nn.Module, data: Data, rows: Tensor, device: Device) -> Tensor:
        scored.append(rows)
        return accuracies(network, data, rows, device)

    monkeypatch.setattr(module, "_taught", note_taught)
    monkeypatch.setattr(module, "_accuracies", note_scored)
    utilities(asked(), lambda: planted, device=cpu, reporter=Reporter(), root=tmp_path)
    first = first_halves(planted.classes, 4, 0)
    for trial, (own, other) in enumerate(zip(trained, scored, strict=True)):
        assert (first[own] == (trial % 2 == 0)).all()
        assert torch.equal(other, (first != (trial % 2 == 0)).nonzero().flatten())
        assert planted.classes[own].bincount().tolist() == [4] * 4  # a fifth of 20
    assert len({tuple(rows.tolist()) for rows in trained}) == 4


def test_utilities_are_made_once_and_all_that_decides_them_is_in_their_key(
    planted: Data, cpu: Device, tmp_path: Path
) -> None:
    found = utilities(asked(), lambda: planted, device=cpu, reporter=Reporter(), root=tmp_path)
    again = Reporter()
    assert torch.equal(utilities(asked(), refuse, device=cpu, reporter=again, root=tmp_path), found)
    assert not again.seconds
    assert found.shape == (160,)
    assert found.dtype == torch.float64
    changes: list[dict[str, Any]] = [{"trials": 6}, {"share": 0.4}, {"steps": 3}, {"seed": 1},
                                     {"network": dataclasses.replace(NETWORK, data_key="others")}]  # fmt: skip
    keys = {asked(**change).key for change in changes}
    assert len(keys | {asked().key}) == 6
    # How the network itself is trained for its recipe says nothing here, and neither does its seed.
    other = dataclasses.replace(RECIPE, seed=5, training=TrainRecipe(lr=1.0))
    assert asked(network=dataclasses.replace(NETWORK, recipe=other)).key == asked().key


def test_wrong_labels_are_worth_less_to_a_student(
    planted: Data, cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUDENT", dataclasses.replace(module.STUDENT, batch=8, lr=0.05))
    trials = asked(trials=40, share=0.05, steps=10)  # one image of each class
    found = utilities(trials, lambda: planted, device=cpu, reporter=Reporter(), root=tmp_path)
    wrong = torch.zeros(160, dtype=torch.bool)
    wrong[mislabelled()[1]] = True
    for k in range(4):
        mine = planted.classes == k
        assert found[wrong & mine].mean() < found[~wrong & mine].mean() - 10
