"""DC and DSA against their specification: hyper-parameters, students, controls, the papers' numbers, and digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.match import Gradients
from datastill.measure import student as students
from datastill.methods.condensation import REAL, matched, operations, student
from datastill.recipe import OPERATIONS, DatasetInfo, Recipe, compose, method
from datastill.runtime.device import open_device
from datastill.runtime.progress import Reporter
from datastill.sources import load
from datastill.store import Synthetic
from datastill.training.optim import learning_rate, milestones
from reference.pages import INFOS

METHODS = ("dc", "dsa")
CIFAR, TINY, DIGITS = INFOS["cifar10"], INFOS["tiny-imagenet"], INFOS["digits"]


def fields(name: str, info: DatasetInfo, **options: Any) -> tuple[Synthetic, Gradients]:
    found = resolve(compose(name, info, **options), info)
    assert isinstance(found.store, Synthetic)
    assert isinstance(found.match, Gradients)
    return found.store, found.match


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("info", [CIFAR, TINY])
def test_they_have_the_hyper_parameters_of_the_specification(name: str, info: DatasetInfo) -> None:
    store, match = fields(name, info)
    assert (match.rounds, match.lr, match.momentum, match.batch) == (1001, 0.1, 0.5, 256)
    assert (match.distance, match.tensors, match.turns, match.source, match.inner_on) == (
        "rowcos", "weights", 1, "fresh", "store"
    )  # fmt: skip
    assert (match.outer, match.inner, match.most, match.bn) == (None, None, None, "exact")
    assert (match.network.arch, match.network.settings) == ("convnet_in", {"width": 128})
    inner = match.network.training
    assert (inner.optimiser, inner.lr, inner.momentum, inner.weight_decay) == ("sgd", 0.01, 0.0, 0.0)
    assert (inner.schedule, inner.batch, inner.crop, inner.flip) == ("constant", 256, 0, False)
    augment = "none" if name == "dc" else "one"
    assert (match.augment, inner.augment) == (augment, augment)
    assert (store.init, store.space, store.bound, store.storage) == (
        "noise" if name == "dc" else "real", "std", False, "fp16"
    )  # fmt: skip
    assert fields(name, info, faithful=True)[0].storage == "fp32"
    made = compose(name, info)
    assert (made.label.kind, made.networks) == ("hard", {})


def test_both_sides_networks_and_students_have_the_operations_of_the_data_set() -> None:
    assert operations(CIFAR) == OPERATIONS
    assert operations(DIGITS) == ("color", "crop", "cutout", "scale", "rotate")
    for info in (CIFAR, DIGITS):
        made, (_, match) = compose("dsa", info), fields("dsa", info)
        assert match.operations == match.network.training.operations == made.student.operations == operations(info)


def test_small_sets_have_a_narrower_network() -> None:
    assert matched(DIGITS).settings == {"width": 64}
    assert matched(CIFAR, batch=64).training.batch == 64


@pytest.mark.parametrize(("name", "epochs"), [("dc", 300), ("dsa", 1000)])
def test_students_are_trained_as_the_released_code_trains_them(name: str, epochs: int) -> None:
    recipe = compose(name, CIFAR, ipc=50).student
    assert (recipe.optimiser, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (recipe.batch, recipe.crop, recipe.flip, recipe.mix, recipe.augment) == (
        256, 0, False, "none", "none" if name == "dc" else "one"
    )  # fmt: skip
    work = recipe.work(500)
    assert (work.epoch, work.steps) == (2, 2 * (epochs + 1))
    rates = [learning_rate(recipe, work, step) for step in range(0, work.steps, work.epoch)]
    assert rates == pytest.approx([0.01] * (epochs // 2 + 2) + [0.001] * (epochs - epochs // 2 - 1))
    assert milestones(recipe, work) == [2 * (epochs // 2 + 2)]
    assert recipe.reset_momentum


def test_no_picture_stands_in_a_batch_of_students_twice() -> None:
    assert compose("dc", CIFAR, ipc=1).student.batch == 10
    assert compose("dc", CIFAR, ipc=10).student.batch == 100
    assert student(CIFAR, 30, 300, weight_decay=0.0).weight_decay == 0.0
    assert student(CIFAR, 30, 300).batch == 256


def test_controls_are_of_column_h_and_one_is_the_start_where_that_is_real_images() -> None:
    assert [c.name for c in method("dc").controls] == ["random_hard", "equal_bytes_hard", "coded_hard"]
    assert [c.name for c in method("dsa").controls] == [
        "random_hard", "equal_bytes_hard", "coded_hard", "start", "unaugmented"
    ]  # fmt: skip
    for name in METHODS:
        made = compose(name, CIFAR)
        for control in method(name).controls:
            patched = made.patched(control.patch)
            resolve(patched, CIFAR)
            assert patched.label.kind == "hard"
            assert patched.student == made.student
    assert compose("dsa", CIFAR).patched(REAL).match.kind == "none"
    unaugmented = compose("dsa", CIFAR).patched(method("dsa").controls[-1].patch)
    assert unaugmented.match.settings["augment"] == "none"
    assert unaugmented.match.settings["network"]["training"]["augment"] == "one"


def test_the_papers_numbers_are_of_hard_labels_and_of_their_own_network() -> None:
    for name, count in (("dc", 14), ("dsa", 14)):
        rows = method(name).paper
        assert len(rows) == count
        assert {(row.column, row.student, row.std) for row in rows} == {("H", "convnet_in", None)}
    found = {(row.source, row.ipc): row.top1 for row in method("dsa").paper}
    assert (found["cifar10", 10], found["cifar100", 1], found["mnist", 50]) == (52.1, 13.9, 99.2)
    assert ("cifar100", 50) not in found


# --- digits ---

FEW = ("match.rounds=2", "match.network.settings.width=8", "match.batch=32", "student.epochs=5")


@pytest.mark.parametrize("name", METHODS)
def test_digits_are_distilled_saved_loaded_and_learned_from(name: str, tmp_path: Path) -> None:
    data, device = load("digits", classes=["3", "5", "8"]), open_device("cpu", "float32")
    recipe = compose(name, data.info, ipc=2, changes=[*FEW, "match.outer=2", "match.inner=2"])
    made = distil(data, recipe, device=device, reporter=Reporter(), out=tmp_path / "set")
    found = DistilledDataset.load(tmp_path / "set")
    images = found.expand()
    assert torch.equal(images.images, made.expand().images)
    assert images.images.shape == (6, 1, 8, 8)
    assert images.images.min() < 0 < images.images.max()
    assert found.facts["counts"]["image_updates"] == 4
    assert found.ledger()["learned images"] >= 6 * 64 * 2
    work = recipe.student.work(6)
    batch = next(found.fields.label.supply(images, work, recipe.student, 0, device=device.torch))
    assert batch.x.shape == (6, 1, 8, 8)
    assert batch.target.shape == (6, 3)


def accuracies(recipe: Recipe, folder: Path, seeds: int = 3) -> list[float]:
    data, device = load("digits"), open_device("cpu", "float32")
    testing = students.Testing(data.test.pixels, data.test.labels, "test")
    found = []
    for seed in range(seeds):
        mine = recipe.changed([f"seed={seed}"])
        made = distil(data, mine, device=device, reporter=Reporter())
        result = students.run_student(
            made, made.expand(), testing, "convnet_in(width=32)", seed, recipe=recipe.student,
            steps=students.student_steps(recipe.student, len(made), None), device=device, reporter=Reporter(),
            path=folder / f"{seed}.json", label="student", embed=False,
        )  # fmt: skip
        found.append(float(result["top1"]))
    return found


# Far fewer updates than the presets have; those that begin from noise at ten pictures per class need larger ones.
FEWER: dict[tuple[str, int], list[str]] = {
    ("dc", 1): ["match.rounds=20", "match.network.settings.width=32", "student.epochs=101"],
    ("dsa", 1): ["match.rounds=20", "match.network.settings.width=32", "student.epochs=101"],
    ("dc", 10): ["match.rounds=6", "match.inner=20", "match.lr=0.5"],
    ("dsa", 10): ["match.rounds=4", "match.outer=5", "match.inner=10", "match.network.settings.width=32",
                  "student.epochs=101"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "ipc"), FEWER)
def test_students_learn_more_from_them_than_from_random_real_images(name: str, ipc: int, tmp_path: Path) -> None:
    recipe = compose(name, load("digits").info, ipc=ipc, changes=["match.batch=64", *FEWER[name, ipc]])
    mine, random = accuracies(recipe, tmp_path / "mine"), accuracies(recipe.patched(REAL), tmp_path / "random")
    assert all(a > b for a, b in zip(mine, random, strict=True)), (mine, random)
