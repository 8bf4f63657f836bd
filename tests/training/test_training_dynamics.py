"""Scores from training: against a plain replay, on the rows they are given, made once and then found."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.recipe import DatasetInfo, NetworkRecipe, TrainRecipe
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import derive
from datastill.training import dynamics as module
from datastill.training.bank import Training
from datastill.training.dynamics import EARLY, Scores, Scoring, forgetting_events, score
from datastill.training.supply import Data, supply
from reference import selection as plain

INFO = DatasetInfo("tiny", 3, (3, 8, 8), 20, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPE = NetworkRecipe(arch="convnet", settings={"width": 8}, training=TrainRecipe(lr=0.05, batch=8, epochs=3))
NETWORK = Training("first", RECIPE, INFO, "rows", "float32")


def scoring(**changes: Any) -> Scoring:
    return dataclasses.replace(Scoring(NETWORK, epochs=4, runs=2, seed=0), **changes)


def refuse() -> Data:
    raise AssertionError("scores that are there already need no data")


@pytest.fixture
def noisy(data: Data) -> Data:
    """The pictures with three labels that are wrong."""
    classes = data.classes.clone()
    classes[[2, 7, 12]] = (classes[[2, 7, 12]] + 1) % 3
    return Data(data.images, classes, torch.eye(3)[classes], "classes")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps an epoch, the last one filled from the next permutation."""
    monkeypatch.setattr(module, "EARLY", dataclasses.replace(EARLY, batch=8))


def test_the_recipe_is_the_one_of_the_specification() -> None:
    (training, *_) = scoring(epochs=5).trainings
    wanted = TrainRecipe(
        optimiser="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="constant", epochs=5, batch=256,
        crop=0, flip=False, mix="none",
    )  # fmt: skip
    assert training.recipe.training == wanted


@pytest.mark.usefixtures("small_batches")
def test_scores_are_those_of_a_plain_replay(noisy: Data, cpu: Device, tmp_path: Path) -> None:
    asked = scoring(epochs=8)
    found = score(asked, lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path)
    runs = []
    for training in asked.trainings:
        recipe = training.recipe.training
        work = recipe.work(20)
        assert (work.epoch, work.steps) == (3, 24)
        told = supply(noisy, work, recipe, training.recipe.seed)
        runs.append(plain.dynamics(training.build(), told, noisy.images, noisy.classes, work.epoch))
    loss, el2n = (torch.stack([run[i] for run in runs]).mean(0).double() for i in (0, 1))  # type: ignore[misc]  # tensors
    torch.testing.assert_close(found.loss, loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.el2n, el2n, rtol=1e-3, atol=1e-5)
    events = [sum(pair) / 2 for pair in zip(*(run[2] for run in runs), strict=True)]
    assert found.forgetting.tolist() == events
    assert sum(e for e in events if e < math.inf) > 0
    assert math.inf in events
    assert 0.0 in events
    assert found.curve.shape == (2, 8)
    assert found.curve.mean() == pytest.approx(float(found.loss.mean()))


@pytest.mark.usefixtures("small_batches")
def test_the_loss_of_the_last_epochs_is_asked_for_and_addressed_by_itself(
    noisy: Data, cpu: Device, tmp_path: Path
) -> None:
    def found(**changes: Any) -> Scores:
        return score(scoring(runs=1, **changes), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path)

    whole, last = found(epochs=4), found(epochs=4, last=2)
    torch.testing.assert_close(last.loss.mean(), whole.curve[0, 2:].mean())
    assert torch.equal(last.curve, whole.curve)
    assert scoring(last=2).key != scoring().key
    assert scoring().key == digest_of([module.VERSION, [training.key for training in scoring().trainings]])


def test_a_batch_larger_than_the_set_holds_its_rows_several_times(noisy: Data, cpu: Device, tmp_path: Path) -> None:
    found = score(scoring(), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path)
    assert found.loss.shape == found.el2n.shape == found.forgetting.shape == (20,)
    assert not found.loss.isnan().any()
    assert (found.el2n <= math.sqrt(2)).all()


def test_pictures_are_scored_alike_in_any_cut(
    noisy: Data, cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(scoring(), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path / "whole")
    monkeypatch.setattr(module, "CHUNK", 7)
    cut = score(scoring(), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path / "cut")
    torch.testing.assert_close(vars(cut), vars(whole), rtol=1e-4, atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
def test_forgetting_is_counted_from_occurrence_to_occurrence(told: list[tuple[int, bool]]) -> None:
    rows, right = [row for row, _ in told], [was for _, was in told]
    found = forgetting_events(torch.tensor(rows), torch.tensor(right), 6)
    assert found.tolist() == plain.forgetting(rows, right, 6)


def test_forgetting_by_hand() -> None:
    """Item 0 is forgotten twice, 1 is learned late, 2 is never learned, 3 never occurs."""
    rows = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0])
    right = torch.tensor([True, False, False, False, False, False, True, True, False])
    assert forgetting_events(rows, right, 4).tolist() == [2.0, 0.0, math.inf, math.inf]


def test_scores_are_made_once_and_kept_in_one_file(noisy: Data, cpu: Device, tmp_path: Path) -> None:
    first, again = Reporter(), Reporter()
    one = score(scoring(), lambda: noisy, device=cpu, reporter=first, root=tmp_path)
    assert list(first.seconds) == ["score with first (convnet)"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [f"{scoring().key}.safetensors"]
    two = score(scoring(), refuse, device=cpu, reporter=again, root=tmp_path)
    assert not again.seconds
    assert all(torch.equal(vars(one)[name], vars(two)[name]) for name in vars(one))
    assert load_arrays(tmp_path / f"{scoring().key}.safetensors").keys() == vars(one).keys()


def test_scores_are_kept_in_the_cache_where_no_folder_is_named(
    noisy: Data, cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path))
    score(scoring(), lambda: noisy, device=cpu, reporter=Reporter())
    assert (tmp_path / "scores" / f"{scoring().key}.safetensors").exists()


def test_a_run_that_is_broken_off_leaves_nothing(noisy: Data, cpu: Device, tmp_path: Path) -> None:
    class Stopping(Reporter):
        def phase(self, name: str, total: int, done: int = 0) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(scoring(), lambda: noisy, device=cpu, reporter=Stopping(), root=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    score(scoring(), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path)


def test_two_at_once_train_once(noisy: Data, cpu: Device, tmp_path: Path) -> None:
    asked: list[int] = []

    def told() -> Data:
        asked.append(1)
        return noisy

    def work() -> None:
        score(scoring(), told, device=cpu, reporter=Reporter(), root=tmp_path)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def network(**changes: Any) -> dict[str, Any]:
    return {"network": dataclasses.replace(NETWORK, **changes)}


def test_a_key_knows_everything_that_decides_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    different: list[dict[str, Any]] = [
        {}, {"epochs": 5}, {"runs": 3}, {"seed": 1}, network(data_key="other rows"), network(precision="bf16"),
        network(recipe=dataclasses.replace(RECIPE, settings={"width": 9})),
        network(recipe=dataclasses.replace(RECIPE, arch="resnet10")),
        network(info=dataclasses.replace(INFO, mean=(0.5, 0.5, 0.4))),
    ]  # fmt: skip
    keys = [scoring(**changes).key for changes in different]
    assert len(set(keys)) == len(keys)
    same: list[dict[str, Any]] = [
        network(name="second"),
        network(recipe=dataclasses.replace(RECIPE, seed=5, training=TrainRecipe(epochs=9))),
        network(info=dataclasses.replace(INFO, name="renamed")),
    ]
    assert {scoring(**changes).key for changes in same} == {keys[0]}
    monkeypatch.setattr(module, "EARLY", dataclasses.replace(EARLY, lr=0.02))
    assert scoring().key not in keys


def test_seeds_are_derived_from_the_recipes_and_differ() -> None:
    seeds = [training.recipe.seed for training in scoring(runs=3, seed=7).trainings]
    assert seeds == [derive(7, "scoring", run) for run in range(3)]
    assert len(set(seeds)) == 3


def test_networks_that_have_not_learned_are_known() -> None:
    def scores(*last: float) -> Scores:
        empty = torch.empty(0)
        return Scores(empty, empty, empty, torch.tensor([[3.0, value] for value in last]))

    assert scores(1.0, 2.0).learned(100)
    assert not scores(4.5, 4.7).learned(100)
    assert not scores(math.nan).learned(100)


def test_the_mode_of_a_network_is_that_of_training_while_it_trains(
    noisy: Data, cpu: Device, tmp_path: Path, make_network: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass at an epoch's end must leave BatchNorm and dropout as the next step needs them."""
    modes: list[bool] = []
    network = make_network()
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    monkeypatch.setattr(Training, "build", lambda _: network)
    score(scoring(runs=1, epochs=2), lambda: noisy, device=cpu, reporter=Reporter(), root=tmp_path)
    assert modes == [True, False, True, False]
