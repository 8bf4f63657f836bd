"""DM, DataDAM and ATOM against their specification: hyper-parameters, students, controls, papers' numbers, digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.match import Features
from datastill.match.aligned import Term
from datastill.measure import student as students
from datastill.recipe import OPERATIONS, DatasetInfo, Recipe, compose, method
from datastill.runtime.device import open_device
from datastill.runtime.progress import Reporter
from datastill.sources import load
from datastill.store import Synthetic
from reference.pages import INFOS

ATOMS = ("atom", "atom-spatial", "atom-channel")
ATTENTIVE = ("datadam", "datadam-released", *ATOMS)
METHODS = ("dm", *ATTENTIVE)
CIFAR, TINY, DIGITS = INFOS["cifar10"], INFOS["tiny-imagenet"], INFOS["digits"]
SPATIAL = Term(tap="relu", reduce="channels", power=4.0, normalise=True, weight=100.0)
CHANNEL = dataclasses.replace(SPATIAL, reduce="positions")
EMBED = Term(tap="embed", reduce="none", power=1.0, normalise=False, weight=1.0)


def fields(name: str, info: DatasetInfo, **options: Any) -> tuple[Synthetic, Features]:
    found = resolve(compose(name, info, **options), info)
    assert isinstance(found.store, Synthetic)
    assert isinstance(found.match, Features)
    return found.store, found.match


# Section 3: rounds, real images of a class, network, terms.
TABLE: dict[str, tuple[int, int, str, tuple[Term, ...]]] = {
    "dm": (20_001, 256, "convnet_in", (EMBED,)),
    "datadam": (8001, 64, "convnet", (SPATIAL, EMBED)),
    "datadam-released": (20_001, 64, "convnet", (dataclasses.replace(SPATIAL, power=1.0), EMBED)),
    "atom": (8001, 64, "convnet", (SPATIAL, CHANNEL, EMBED)),
    "atom-spatial": (8001, 64, "convnet", (SPATIAL, EMBED)),
    "atom-channel": (8001, 64, "convnet", (CHANNEL, EMBED)),
}


@pytest.mark.parametrize("name", METHODS)
def test_they_have_the_hyper_parameters_of_the_specification(name: str) -> None:
    for info in (CIFAR, TINY):
        store, match = fields(name, info)
        rounds, batch, arch, terms = TABLE[name]
        if info is TINY and name != "dm":
            terms = (*terms[:-1], dataclasses.replace(EMBED, weight=2.0))
        assert (match.rounds, match.batch, match.network.arch, match.terms) == (rounds, batch, arch, terms)
        assert (match.network.settings, match.steps, match.momentum) == ({"width": 128}, 1, 0.5)
        assert (match.augment, match.operations) == ("one", OPERATIONS)
        assert (store.init, store.space, store.bound, store.storage) == ("real", "std", False, "fp16")
        assert fields(name, info, faithful=True)[0].storage == "fp32"
        made = compose(name, info)
        assert (made.label.kind, made.networks, made.select.kind) == ("hard", {}, "random")


@pytest.mark.parametrize(
    ("name", "source", "low", "high"),
    [("dm", "cifar10", 50, 100), ("datadam", "cifar10", 50, 51), ("atom", "cifar100", 50, 51)],
)
def test_the_rate_is_ten_times_as_high_where_there_are_many_images(name: str, source: str, low: int, high: int) -> None:
    assert [fields(name, INFOS[source], ipc=ipc)[1].lr for ipc in (1, low, high)] == [1.0, 1.0, 10.0]
    assert fields("dm", INFOS["cifar100"], ipc=125)[1].lr == 1.0


def test_small_sets_have_fewer_rounds_and_a_layer_to_look_at_and_digits_are_not_mirrored() -> None:
    for name in METHODS:
        _, match = fields(name, DIGITS, ipc=100)
        assert (match.rounds, match.batch) == (500, 64)
        rates = [fields(name, DIGITS, ipc=ipc)[1].lr for ipc in (1, 9, 10, 100)]
        assert rates == ([0.1] * 4 if name == "dm" else [0.02, 0.02, 0.1, 0.1])
        assert "flip" not in match.operations
        assert match.network.settings == ({"width": 64} if name == "dm" else {"width": 64, "depth": 2})


@pytest.mark.parametrize("name", METHODS)
def test_students_are_trained_as_the_released_code_trains_them(name: str) -> None:
    epochs, batch = (1000, 256) if name == "dm" else (1800, 64)
    recipe = compose(name, CIFAR, ipc=50).student
    assert (recipe.optimiser, recipe.lr, recipe.momentum, recipe.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (recipe.epochs, recipe.batch, recipe.augment, recipe.operations) == (epochs + 1, batch, "one", OPERATIONS)
    assert (recipe.crop, recipe.flip, recipe.mix, recipe.drop, recipe.reset_momentum) == (0, False, "none", 0.1, True)
    assert compose(name, CIFAR, ipc=1).student.batch == 10


@pytest.mark.parametrize("name", METHODS)
def test_every_preset_is_a_recipe_that_passes_its_own_checks_and_so_do_its_controls(name: str) -> None:
    own = {"start"} | ({"no_attention"} if name != "dm" else set())
    found = {control.name: control for control in method(name).controls}
    assert set(found) == {"random_hard", "equal_bytes_hard", "coded_hard"} | own
    for info in INFOS.values():
        recipe = compose(name, info)
        assert Recipe.from_plain(recipe.plain()) == recipe
        resolve(recipe, info)
        for control in found.values():
            patched = recipe.patched(control.patch)
            assert patched.student == recipe.student
            resolve(patched, info)
    if name != "dm":
        unattentive = resolve(compose(name, CIFAR).patched(found["no_attention"].patch), CIFAR).match
        assert unattentive == dataclasses.replace(fields(name, CIFAR)[1], terms=(EMBED,))


PAPER = {
    "dm": """cifar10 100 67.0 0.3; cifar10 200 71.2 0.4; cifar10 500 76.1 0.3; cifar10 1000 79.8 0.3;
        cifar10 1250 80.8 0.3""",
    "datadam": """cifar10 1 32.0 1.2; cifar10 10 54.2 0.8; cifar10 50 67.0 0.4;
        cifar100 1 14.5 0.5; cifar100 10 34.8 0.5; cifar100 50 49.4 0.3;
        tiny-imagenet 1 8.3 0.4; tiny-imagenet 10 18.7 0.3; tiny-imagenet 50 28.7 0.3""",
}
PAPER["datadam-released"] = PAPER["datadam"]


@pytest.mark.parametrize("name", METHODS)
def test_the_papers_own_numbers_stand_beside_the_method_and_no_others(name: str) -> None:
    lines = [line.split() for line in PAPER.get(name, "").split(";") if line.strip()]
    student = "convnet_in" if name == "dm" else "convnet"
    wanted = [(source, int(ipc), student, "H", float(top1), float(std)) for source, ipc, top1, std in lines]
    assert [(p.source, p.ipc, p.student, p.column, p.top1, p.std) for p in method(name).paper] == wanted


@pytest.mark.parametrize("name", METHODS)
def test_a_few_rounds_on_digits_reach_a_student(name: str, tmp_path: Path) -> None:
    data, device = load("digits"), open_device("cpu", "float32")
    changes = ["match.rounds=3", "match.network.settings.width=8", "student.epochs=2"]
    made = distil(data, compose(name, data.info, ipc=2, changes=changes), device=device, reporter=Reporter(),
                  out=tmp_path / "set")  # fmt: skip
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert len(loaded) == 20
    begun = distil(data, made.recipe.patched({"match": "none"}), device=device, reporter=Reporter())
    assert not torch.equal(begun.expand().images, made.expand().images)
    images, targets = next(iter(loaded.loader()))
    assert images.shape == (20, 1, 8, 8)
    assert targets.sum(dim=1).tolist() == [1.0] * 20


def top1(made: DistilledDataset, testing: students.Testing, student: str, seed: int, folder: Path) -> float:
    """Return the accuracy of one student, trained as its set's recipe says."""
    recipe, expanded = made.recipe.student, made.expand()
    steps = students.student_steps(recipe, len(expanded.images), None)
    found = students.run_student(
        made, expanded, testing, student, seed, recipe=recipe, steps=steps,
        device=open_device("cpu", "float32"), reporter=Reporter(), path=folder / "student.json", label="", embed=False,
    )  # fmt: skip
    return float(found["top1"])


@pytest.mark.slow
@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("name", ["dm", "datadam", "datadam-released", "atom", "atom-channel"])
def test_they_beat_random_real_images_on_digits(name: str, ipc: int, tmp_path: Path) -> None:
    data, device = load("digits"), open_device("cpu", "float32")
    testing = students.Testing(data.test.pixels, data.test.labels, "test")
    changes = ["match.rounds=150", "match.network.settings.width=16", "student.epochs=200"]
    control = next(c for c in method(name).controls if c.name == "random_hard")
    gains = []
    for seed in range(3):
        recipe = compose(name, data.info, ipc=ipc, seed=seed, changes=changes)
        sets = [distil(data, r, device=device, reporter=Reporter()) for r in (recipe, recipe.patched(control.patch))]
        student = "convnet_in(width=32)" if name == "dm" else "convnet(width=32, depth=2)"
        mine, random = (top1(made, testing, student, seed, tmp_path) for made in sets)
        gains.append(mine - random)
    assert min(gains) > 0, gains
    assert sum(gains) / 3 > (8.0 if ipc == 1 else 1.0), gains
