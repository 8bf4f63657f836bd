"""Dense labels as methods: what they add to INFER and to random real images, their controls, and the gain on digits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import registered, resolve
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.compare import _labelled_alike
from datastill.measure.rows import own_steps
from datastill.networks import Space, create_network
from datastill.recipe import Choice, DatasetInfo, NetworkRecipe, Recipe, TrainRecipe, choice, compose, method
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset, load
from datastill.training.loop import Learner, train
from datastill.training.predict import accuracy, predict
from reference import tiny
from reference.pages import INFOS

NAMES = ["ladd-infer", "ladd-random"]
DENSE = choice("dense", grid=3)


@pytest.mark.parametrize("of", INFOS.values(), ids=lambda info: info.name)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_label_differs_and_no_student_keeps_small_windows(name: str, of: DatasetInfo) -> None:
    made, base = compose(name, of), compose(name.removeprefix("ladd-"), of)
    wanted = replace(base, method=name, label=made.label, student=replace(base.student, resized_crop=None))
    assert made == wanted
    assert made.label.kind == "dense"
    fields = resolve(made, of)
    assert vars(fields.label) | {"grid": 0} == vars(registered("label")["dense"]()) | {"grid": 0}
    assert fields.label.column == "S"


@pytest.mark.parametrize(
    ("of", "grid"),
    [("digits", 4), ("cifar10", 5), ("imagenet", 5)],
)
def test_small_pictures_have_as_many_boxes_as_stand_a_pixel_apart(of: str, grid: int) -> None:
    made = compose("ladd-random", INFOS[of]).label
    assert made.settings.get("grid", 5) == grid


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_the_paper_stands_beside_sets_that_it_does_not_speak_of(name: str) -> None:
    assert method(name).paper == ()
    assert "reconstructed" in method(name).title


@pytest.mark.parametrize("name", NAMES)
def test_controls_are_what_they_say(name: str) -> None:
    recipe = compose(name, INFOS["digits"])
    made = {control.name: recipe.patched(control.patch) for control in method(name).controls}
    assert set(made) == {
        "global_only", "global_longer", "hard_boxes", "equal_bytes_soft", "equal_bytes_hard", "random_hard",
    } | ({"random_soft", "ladd-infer_hard"} if name == "ladd-infer" else set())  # fmt: skip
    for control in made.values():
        assert (control.student, control.networks) == (recipe.student, recipe.networks)
        resolve(control, INFOS["digits"])
    assert made["global_only"] == replace(recipe, label=Choice("static"))
    assert made["hard_boxes"].label.settings == {"grid": 4, "local": "hard"}
    assert replace(made["hard_boxes"], label=recipe.label) == recipe
    if name == "ladd-infer":
        random = made["random_soft"]
        assert (random.select, random.store, random.match) == (Choice("random"), Choice("pixels"), Choice("none"))
        assert random.label == recipe.label


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> tuple[ArmMaker, dict[str, Arm]]:
    """The method's set and its controls."""
    folder = tmp_path_factory.mktemp("ladd")
    own = tiny.distilled(folder / "set", method="ladd-infer", label=DENSE)
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), folder / "arms")
    arms = {control.name: maker.make(control) for control in method("ladd-infer").controls}
    return maker, {name: arm for name, arm in arms.items() if arm is not None}


def test_arms_are_made_weighed_and_have_the_work_that_they_name(made: tuple[ArmMaker, dict[str, Arm]]) -> None:
    maker, arms = made
    own = maker.own()
    assert len(arms) == len(method("ladd-infer").controls)
    assert {name: arm.column for name, arm in arms.items()} == {
        "random_soft": "S", "ladd-infer_hard": "H", "global_only": "S", "global_longer": "S", "hard_boxes": "S",
        "equal_bytes_soft": "S", "equal_bytes_hard": "H", "random_hard": "H",
    }  # fmt: skip
    assert {own_steps(arm, 100) for name, arm in arms.items() if name != "global_longer"} == {100}
    assert own_steps(arms["global_longer"], 100) == 200
    assert own.distilled.fields.label.pictures_per_item == 2
    for name in ("global_only", "global_longer", "hard_boxes", "ladd-infer_hard"):
        content = arms[name].distilled.content
        assert torch.equal(content.items.picture, own.distilled.content.items.picture)
        assert torch.equal(content.pictures.pixels, own.distilled.content.pictures.pixels)
    assert arms["hard_boxes"].distilled.ledger()["labels"] == arms["global_only"].distilled.ledger()["labels"]
    assert arms["equal_bytes_soft"].distilled.ledger()["total"] <= own.distilled.ledger()["total"]
    assert arms["global_only"].key == arms["global_longer"].key


def test_only_random_images_with_the_same_dense_labels_stand_beside_dense_ones(
    made: tuple[ArmMaker, dict[str, Arm]],
) -> None:
    maker, arms = made
    assert _labelled_alike(arms["random_soft"], maker.own())
    assert arms["random_soft"].random
    for name in ("global_only", "hard_boxes", "equal_bytes_soft", "random_hard"):
        assert not _labelled_alike(arms[name], maker.own())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_runs_on_digits_from_images_to_a_students_batch(name: str, tmp_path: Path) -> None:
    data, device = load("digits"), tiny.device()
    changes = ["networks.*.training.steps=2", *(["match.rounds=1"] if name == "ladd-infer" else [])]
    recipe = compose(name, data.info, ipc=1 if name == "ladd-random" else 4, changes=changes)
    recipe = recipe.with_networks("convnet(width=8),convnet(width=10)")
    distil(data, recipe, device=device, reporter=Reporter(), out=tmp_path / "set")
    made = DistilledDataset.load(tmp_path / "set")
    assert made.labels.values is not None
    assert made.labels.values.shape == (17 * len(made), 10)
    images, targets = next(iter(made.loader(8)))
    assert images.shape == (16, 1, 8, 8)
    assert targets.shape == (16, 10)


# --- the trial of the specification: digits at 16 x 16, one real image per class, 300 steps, five seeds ---

LABELLER = NetworkRecipe(
    arch="convnet",
    settings={"width": 16},
    training=TrainRecipe(lr=0.05, epochs=8, batch=64, crop=1, flip=False),
)
TRIAL = TrainRecipe(
    optimiser="adamw", lr=2e-3, weight_decay=0.01, steps=300, batch=10, crop=0, flip=False, temperature=1.0
)


@cache
def _digits() -> Dataset:
    data = load("digits")

    def larger(pixels: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(pixels.float(), (16, 16), mode="bilinear", align_corners=False).round().byte()

    train, test = (replace(part, pixels=larger(part.pixels)) for part in (data.train, data.test))
    return replace(data, name="digits at 16", train=train, test=test, fingerprint="digits at 16")


@cache
def _trial(**label: str) -> list[float]:
    """Return the test accuracy of five students on one real image per class."""
    torch.set_num_threads(1)  # networks this small only wait for a second one
    data, device = _digits(), tiny.device()
    recipe = Recipe(
        method="ladd-random", ipc=1, select=choice("random"), store=choice("pixels"), match=choice("none"),
        label=choice("dense", **label), stages=choice("once"), student=TRIAL, networks={"labeller": LABELLER},
    )  # fmt: skip
    made = distil(data, recipe, device=device, reporter=Reporter())
    expanded, found = made.expand(), []
    for seed in range(5):
        network = create_network(
            "convnet", classes=10, shape=(1, 16, 16), space=Space(data.mean, data.std), seed=seed, width=16
        )
        learner = Learner(network, TRIAL, TRIAL.work(len(made)), seed, device)
        for _ in train(learner, made.fields.label.supply(expanded, learner.work, TRIAL, seed, device=device.torch)):
            pass
        found.append(accuracy(predict(network, data.test.pixels, device=device.torch), data.test.labels))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dense_labels_beat_hard_ones_by_eight_points_on_random_digits() -> None:
    assert sum(_trial(own="hard")) / 5 - sum(_trial(own="hard", views="global")) / 5 > 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_not_the_boxes_but_what_is_said_of_them() -> None:
    assert sum(_trial(own="hard")) / 5 - sum(_trial(own="hard", local="hard")) / 5 > 8
