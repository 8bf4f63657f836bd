"""One student: exactly so many steps, looked at once, the same again after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.measure import student as measured
from datastill.measure.student import run_student, score, student_steps, train_student
from datastill.networks import Space, create_network
from datastill.recipe import TrainRecipe, choice
from datastill.runtime.progress import Reporter
from datastill.training import bank
from reference import tiny

STUDENT = "convnet(width=8)"


@pytest.fixture(scope="module")
def own(_own_cache: None) -> DistilledDataset:
    return distil(tiny.dataset(), tiny.recipe(), device=tiny.device(), reporter=Reporter())


def on_test() -> measured.Testing:
    test = tiny.dataset().test
    return measured.Testing(test.pixels, test.labels, "test")


def ran(own: DistilledDataset, path: Path, *, steps: int = 6, seed: int = 0, embed: bool = False) -> dict[str, Any]:
    return run_student(
        own, own.expand(), on_test(), STUDENT, seed, recipe=own.recipe.student, steps=steps, device=tiny.device(),
        reporter=Reporter(), path=path, label="student", embed=embed,
    )  # fmt: skip


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k != "seconds"}


class Answers(torch.nn.Module):
    """A network that answers from a list."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def test_a_score_counts_right_answers_in_all_and_by_class() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    guesses = torch.tensor([0, 0, 0, 1, 1, 0, 0, 1])
    network: Any = Answers(torch.eye(3)[guesses])
    found = score(network, measured.Testing(torch.zeros(8, 3, 8, 8), labels, "test"), tiny.device(), embed=False)
    assert found == {"top1": 50.0, "per_class": [75.0, 50.0, 0.0]}


def test_a_class_without_test_images_leaves_no_hole_in_the_results() -> None:
    network: Any = Answers(torch.eye(3)[torch.tensor([0, 1])])
    images = measured.Testing(torch.zeros(2, 3, 8, 8), torch.tensor([0, 0]), "validation")
    found = score(network, images, tiny.device(), embed=False)
    assert json.loads(json.dumps(found, allow_nan=False))["top1"] == 50.0


def test_an_interrupted_student_keeps_its_whole_curve(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ran(own, tmp_path / "one.json")
    interrupt(own, tmp_path / "two.json", monkeypatch)
    assert ran(own, tmp_path / "two.json")["item_accuracy"] == whole["item_accuracy"]


def interrupt(own: DistilledDataset, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a student after its fourth step, with a checkpoint after every one."""
    watch = measured._Curve.watch

    def stopping(self: Any, learner: Any) -> None:
        if learner.step == 4:
            raise KeyboardInterrupt
        watch(self, learner)

    with monkeypatch.context() as patch:
        patch.setattr(bank, "CHECKPOINT_SECONDS", -1.0)
        patch.setattr(measured._Curve, "watch", stopping)
        with pytest.raises(KeyboardInterrupt):
            ran(own, path)
    assert path.with_suffix(".checkpoint.safetensors").exists()
    assert not path.exists()


def test_steps_are_the_recipes_or_those_asked_for() -> None:
    recipe = TrainRecipe(epochs=400, batch=64)
    assert student_steps(recipe, 4500, None) == 71 * 400 == 28400
    assert student_steps(replace(recipe, epochs=80), 4500, None) == 71 * 80
    assert student_steps(recipe, 24000, None) == 375 * 400 == 150000
    assert student_steps(recipe, 350, None) == 2400
    assert student_steps(recipe, 1000, 28400) == 28400
    assert student_steps(replace(recipe, steps=7), 1000, None) == 7


def test_exactly_so_many_steps_of_so_many_items_are_made(
    own: DistilledDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes: list[int] = []
    label = type(own.fields.label)
    plain = label.supply

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        for batch in plain(self, *args, **options):
            sizes.append(len(batch.x))
            yield batch

    monkeypatch.setattr(label, "supply", watched)
    found = ran(own, tmp_path / "student.json", steps=7)
    assert sizes == [8] * 7
    assert (found["steps"], found["batch"]) == (7, 8)
    assert len(found["losses"]) == 7


def test_the_same_seed_gives_the_same_student_and_another_seed_another(own: DistilledDataset, tmp_path: Path) -> None:
    one, two, other = (without_time(ran(own, tmp_path / f"{i}.json", seed=seed)) for i, seed in enumerate((0, 0, 1)))
    assert one == two
    assert one["losses"] != other["losses"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_student_starts_from_the_initialisation_of_its_seed(own: DistilledDataset, seed: int, tmp_path: Path) -> None:
    still = replace(tiny.STUDENT, lr=0.0, weight_decay=0.0)
    network, _ = train_student(
        own, own.expand(), STUDENT, seed, recipe=still, steps=1, device=tiny.device(), reporter=Reporter(),
        checkpoint=tmp_path / "student.safetensors", label="student",
    )  # fmt: skip
    space = Space(own.info.mean, own.info.std)
    fresh = create_network("convnet", classes=4, shape=tiny.SHAPE, space=space, seed=seed, width=8)
    for mine, wanted in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("label", ["static", "views", "hard", "dynamic"])
def test_an_interrupted_student_ends_as_an_unbroken_one(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = distil(tiny.dataset(), tiny.recipe(label=choice(label)), device=tiny.device(), reporter=Reporter())
    unbroken = ran(own, tmp_path / "one.json")
    interrupt(own, tmp_path / "two.json", monkeypatch)
    resumed = ran(own, tmp_path / "two.json")
    for name in ("top1", "per_class", "losses", "steps"):
        assert resumed[name] == unbroken[name]
    assert not (tmp_path / "two.checkpoint.safetensors").exists()


def test_the_test_images_are_looked_at_only_after_the_last_step(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    test, plain, training = on_test(), vars(measured)["predict"], vars(measured)["run_training"]

    def predicting(network: Any, images: Tensor, **options: Any) -> Tensor:
        if images.data_ptr() == test.images.data_ptr():
            events.append("test")
        return plain(network, images, **options)

    def learning(*args: Any, **options: Any) -> None:
        training(*args, **options)
        events.append("trained")

    monkeypatch.setattr(measured, "predict", predicting)
    monkeypatch.setattr(measured, "run_training", learning)
    found = run_student(
        own, own.expand(), test, STUDENT, 0, recipe=own.recipe.student, steps=6, device=tiny.device(),
        reporter=Reporter(), path=tmp_path / "student.json", label="student", embed=False,
    )  # fmt: skip
    assert events == ["trained", "test"]
    assert [step for step, _ in found["item_accuracy"]] == [1, 2, 3, 4, 5, 6]


def test_a_student_learns_the_set(own: DistilledDataset, tmp_path: Path) -> None:
    found = ran(own, tmp_path / "student.json", steps=60)
    assert found["top1"] > 60
    assert found["losses"][-1] < found["losses"][0]


def test_the_embedding_holds_a_spot_per_test_image(own: DistilledDataset, tmp_path: Path) -> None:
    found = ran(own, tmp_path / "student.json", embed=True)
    spots = found["embedding"]
    assert len(spots["x"]) == len(spots["y"]) == len(tiny.dataset().test)
    assert spots["cls"] == tiny.dataset().test.labels.tolist()


def test_a_trained_student_is_returned_with_its_counts(own: DistilledDataset, tmp_path: Path) -> None:
    network, counts = train_student(
        own, own.expand(), STUDENT, 0, recipe=own.recipe.student, steps=5, device=tiny.device(), reporter=Reporter(),
        checkpoint=tmp_path / "student.safetensors", label="student",
    )  # fmt: skip
    assert network.settings == {"width": 8}
    assert counts["steps"] == 5
    assert counts["seconds"] > 0
