"""SRe2L, CDA and DWA against their specification: hyper-parameters, profiles, controls, and the papers' numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.label.replayed import LARGEST
from datastill.match import Statistics
from datastill.measure.arms import ArmMaker
from datastill.methods.sre2l import REPLAYED
from datastill.recipe import Choice, DatasetInfo, Recipe, TrainRecipe, choice, compose, method
from datastill.runtime.device import open_device
from datastill.runtime.progress import Reporter
from datastill.sources import load
from datastill.store import Synthetic
from reference.pages import INFOS

METHODS = ("sre2l", "cda", "dwa")
CIFAR, TINY, IMAGENET, DIGITS = (INFOS[name] for name in ("cifar100", "tiny-imagenet", "imagenet", "digits"))


def fields(name: str, info: DatasetInfo, **options: Any) -> tuple[Synthetic, Statistics]:
    found = resolve(compose(name, info, **options), info)
    assert isinstance(found.store, Synthetic)
    assert isinstance(found.match, Statistics)
    return found.store, found.match


# Tables 1.3, 2.3 and 4.3: lr, rounds, block, alpha, variances over means, crops, shifts up to, in both directions.
RECOVERY = {
    ("sre2l", "cifar100"): (0.25, 1000, 100, 0.01, 1.0, False, 4, False),
    ("sre2l", "tiny-imagenet"): (0.1, 4000, 100, 1.0, 1.0, True, 4, True),
    ("sre2l", "imagenet"): (0.25, 4000, 100, 0.01, 1.0, True, 32, False),
    ("cda", "tiny-imagenet"): (0.4, 4000, 100, 0.05, 1.0, True, 4, False),
    ("cda", "imagenet"): (0.25, 4000, 100, 0.01, 1.0, True, 32, False),
    ("dwa", "cifar100"): (0.25, 1000, 100, 0.01, 11.0, False, 4, False),
    ("dwa", "tiny-imagenet"): (0.1, 2000, 200, 0.01, 11.0, True, 4, False),
    ("dwa", "imagenet"): (0.25, 2000, 100, 0.01, 2.0, True, 32, False),
}


@pytest.mark.parametrize(("name", "source"), RECOVERY)
def test_recovery_has_the_hyper_parameters_of_the_specification(name: str, source: str) -> None:
    store, match = fields(name, INFOS[source])
    found = (match.lr, match.rounds, store.block, match.alpha, match.var_weight, match.resized_crop, match.jitter,
             match.two_sided)  # fmt: skip
    assert found == RECOVERY[name, source]
    assert (match.ce, match.first, match.mean_weight, match.betas) == (1.0, 10.0, 1.0, (0.5, 0.9))
    assert match.flip == match.resized_crop
    assert (match.min_scale, match.antialias, match.reference, match.network) == (0.08, True, "running", None)
    assert (match.curriculum, match.milestone) == ("cosine" if name == "cda" else "none", 1.0)
    directed = (15 if source == "imagenet" else 12, 0.015) if name == "dwa" else (0, 0.0)
    assert (match.adjust_steps, match.adjust_rho) == directed
    begun = "real" if name == "dwa" else "noise"
    assert (store.init, store.space, store.bound, store.order) == (begun, "std", True, "across")
    assert (store.storage, store.rounding, store.codec.lossless) == ("uint8", "nearest", True)


TINY_STUDENT = TrainRecipe(
    optimiser="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, decay="all", epochs=100, warmup=5, batch=256, mix="none",
    temperature=20.0, kl_scale="temperature-squared", resized_crop=0.08, flip=True,
)  # fmt: skip
LARGE_STUDENT = TrainRecipe(
    optimiser="adamw", lr=1e-3, weight_decay=0.01, decay="matrices", epochs=300, batch=1024, mix="cutmix",
    mix_alpha=1.0, temperature=20.0, kl_scale="one", resized_crop=0.08, flip=True,
)  # fmt: skip
CIFAR_STUDENT = TrainRecipe(
    optimiser="adamw", lr=1e-3, weight_decay=0.01, decay="all", epochs=400, batch=128, mix="mixup", mix_alpha=0.8,
    temperature=30.0, kl_scale="one", crop=4, flip=True,
)  # fmt: skip


def like(one: TrainRecipe, **changes: Any) -> dict[str, Any]:
    """Return a recipe as a mapping; crops of a border are nothing where there are resized crops."""
    return {k: v for k, v in dataclasses.asdict(dataclasses.replace(one, **changes)).items() if k != "crop"}


def test_students_have_the_hyper_parameters_of_the_specification() -> None:
    for name in METHODS:
        directed = name == "dwa"
        assert compose(name, CIFAR).student == CIFAR_STUDENT
        tiny = {"epochs": 200, "batch": 64, "mix": "cutmix", "mix_alpha": 1.0} if directed else {}
        assert like(compose(name, TINY).student) == like(TINY_STUDENT, **tiny)
        assert like(compose(name, IMAGENET).student) == like(LARGE_STUDENT, **({"batch": 128} if directed else {}))


def test_one_network_is_inverted_and_labels_and_is_trained_as_the_specification_says() -> None:
    for name in METHODS:
        for info in (CIFAR, TINY, IMAGENET):
            assert list(compose(name, info).networks) == ["resnet18"]
        assert compose(name, CIFAR).networks["resnet18"].training == TrainRecipe(
            optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, epochs=200, batch=128, crop=4, flip=True
        )
        training = compose(name, TINY).networks["resnet18"].training
        assert like(training) == like(TrainRecipe(
            optimiser="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, epochs=100 if name == "dwa" else 50, warmup=5,
            batch=256, resized_crop=0.08, flip=True,
        ))  # fmt: skip
        assert list(compose(name, DIGITS).networks) == ["convnet"]


def test_labels_are_networks_in_the_loop_or_their_record_where_it_can_be_held() -> None:
    small = dataclasses.replace(IMAGENET, name="imagenette", classes=10, train_images=9469)
    for name in METHODS:
        for info in (CIFAR, TINY, DIGITS):
            assert compose(name, info).label == Choice("dynamic")
        assert compose(name, small).label == Choice("replayed")
        assert compose(name, IMAGENET, ipc=10).label == Choice("replayed")
        assert compose(name, IMAGENET, ipc=50).label == Choice("dynamic")


def test_the_limit_of_recorded_labels_is_that_of_the_label_itself() -> None:
    assert REPLAYED == LARGEST


def test_faithful_takes_the_habits_of_the_released_code_and_nothing_else() -> None:
    for name in METHODS:
        for info in (CIFAR, TINY, IMAGENET, DIGITS):
            plain, faithful = compose(name, info), compose(name, info, faithful=True)
            store = fields(name, info, faithful=True)[0]
            assert (store.codec.format, store.codec.quality, store.codec.chroma) == ("jpeg", 75, "420")
            assert store.rounding == "truncate"
            wanted = {"teacher_mode": "batch"} if info is CIFAR else plain.label.settings
            assert faithful.label.settings == wanted
            unfiltered = name != "dwa" and bool(plain.match.settings.get("resized_crop"))
            assert faithful.match.settings.get("antialias", True) is not unfiltered
            match = {k: v for k, v in faithful.match.settings.items() if k != "antialias"}
            same = dataclasses.replace(
                faithful, faithful=False, store=plain.store, label=plain.label,
                match=choice("statistics", **match),
            )  # fmt: skip
            assert same == plain


def test_digits_are_never_mirrored_and_shifts_fit_them() -> None:
    for name in METHODS:
        _, match = fields(name, DIGITS)
        student = compose(name, DIGITS).student
        assert (match.flip, match.jitter, student.flip, student.crop) == (False, 1, False, 1)


@pytest.mark.parametrize("name", METHODS)
def test_every_preset_is_a_recipe_that_passes_its_own_checks_and_so_do_its_controls(name: str) -> None:
    for info in INFOS.values():
        recipe = compose(name, info)
        assert Recipe.from_plain(recipe.plain()) == recipe
        resolve(recipe, info)
        for control in method(name).controls:
            patched = recipe.patched(control.patch)
            assert patched.student == recipe.student
            resolve(patched, info)


def test_the_controls_are_those_of_the_specification() -> None:
    common = {"random_soft", "random_hard", "equal_bytes_soft", "equal_bytes_hard", "coded_hard"}
    own = {"sre2l": {"start"}, "cda": {"start", "no_curriculum"}, "dwa": {"no_adjustment", "noise_start", "coupled"}}
    for name in METHODS:
        controls = {control.name: control for control in method(name).controls}
        assert set(controls) == common | own[name] | {f"{name}_hard"}
    cda, dwa = ({c.name: c for c in method(name).controls} for name in ("cda", "dwa"))
    changed = compose("cda", CIFAR).patched(cda["no_curriculum"].patch)
    sre2l = compose("sre2l", CIFAR, changes=["match.resized_crop=true", "match.flip=true"])
    assert resolve(changed, CIFAR).match == resolve(sre2l, CIFAR).match
    directed = fields("dwa", CIFAR)[1]
    for control, wanted in (
        ("no_adjustment", dataclasses.replace(directed, adjust_rho=0.0)),
        ("coupled", dataclasses.replace(directed, var_weight=1.0)),
    ):
        assert resolve(compose("dwa", CIFAR).patched(dwa[control].patch), CIFAR).match == wanted


PAPER = {
    "sre2l": """
        tiny-imagenet 50 D resnet18 41.1 0.4 resnet50 42.2 0.5 resnet101 42.5 0.2
        tiny-imagenet 100 D resnet18 49.7 0.3 resnet50 51.2 0.4 resnet101 51.5 0.3
        imagenet 10 D resnet18 21.3 0.6 resnet50 28.4 0.1 resnet101 30.9 0.1
        imagenet 50 D resnet18 46.8 0.2 resnet50 55.6 0.3 resnet101 60.8 0.5
        imagenet 100 D resnet18 52.8 0.3 resnet50 61.0 0.4 resnet101 62.8 0.2
        imagenet 200 D resnet18 57.0 0.4 resnet50 64.6 0.3 resnet101 65.9 0.3
    """,
    "cda": """
        tiny-imagenet 50 D resnet18 48.7 - resnet50 49.7 - resnet101 50.6 -
        tiny-imagenet 100 D resnet18 53.2 - resnet50 54.4 - resnet101 55.0 -
        imagenet 50 D resnet18 53.5 - resnet50 61.3 - resnet101 61.6 -
        imagenet 100 D resnet18 58.0 - resnet50 65.1 - resnet101 65.9 -
        imagenet 200 D resnet18 63.3 - resnet50 67.6 - resnet101 68.4 -
    """,
    "dwa": """
        cifar10 10 D resnet18 32.6 0.4 convnet 45.0 0.4
        cifar10 50 D resnet18 53.1 0.3 convnet 63.3 0.7
        cifar100 10 D resnet18 39.6 0.6 convnet 47.6 0.4
        cifar100 50 D resnet18 60.9 0.5 convnet 59.0 0.1
        tiny-imagenet 50 D resnet18 52.8 0.2 resnet50 53.7 0.2 resnet101 54.7 0.3
        tiny-imagenet 100 D resnet18 56.0 0.2 resnet50 56.9 0.4 resnet101 57.4 0.3
        imagenet 10 D resnet18 37.9 0.2 resnet50 43.0 0.5 resnet101 46.9 0.4
        imagenet 50 D resnet18 55.2 0.2 resnet50 62.3 0.1 resnet101 63.3 0.7
        imagenet 100 D resnet18 59.2 0.3 resnet50 65.7 0.4 resnet101 66.7 0.2
    """,
}


@pytest.mark.parametrize("name", METHODS)
def test_the_papers_numbers_stand_beside_the_method(name: str) -> None:
    wanted = set()
    for line in PAPER[name].strip().splitlines():
        source, ipc, column, *cells = line.split()
        for student, top1, std in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
            wanted.add((source, int(ipc), student, column, float(top1), None if std == "-" else float(std)))
    found = [(p.source, p.ipc, p.student, p.column, p.top1, p.std) for p in method(name).paper]
    assert set(found) == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize("name", METHODS)
def test_a_few_rounds_on_digits_reach_a_student_and_the_controls_are_made(name: str, tmp_path: Path) -> None:
    data, device = load("digits"), open_device("cpu", "float32")
    changes = ["match.rounds=3", "networks.*.training.steps=3", "networks.*.settings.width=8", "student.epochs=1",
               "student.batch=16"]  # fmt: skip
    recipe = compose(name, data.info, ipc=2, changes=changes)
    made = distil(data, recipe, device=device, reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert len(loaded) == 20
    assert loaded.facts["counts"]["batches"] == 2
    images, targets = next(iter(loaded.loader()))
    assert images.shape == (16, 1, 8, 8)
    assert targets.shape == (16, 10)
    assert targets.isfinite().all()
    maker = ArmMaker(loaded, data, device, Reporter(), tmp_path / "arms")
    arms = {c.name: maker.make(c) for c in method(name).controls if c.needs != "bytes"}
    keys = {maker.own().key} | {arm.key for arm in arms.values() if arm is not None}
    assert len(keys) == 1 + len(arms)  # each is another set to a student
