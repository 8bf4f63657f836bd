"""INFER's presets against its specification: hyper-parameters, profiles, controls, and the paper's numbers."""

from __future__ import annotations

import dataclasses

import pytest

from datastill.fields import resolve
from datastill.recipe import Choice, DatasetInfo, Recipe, TrainRecipe, compose, method, methods

CIFAR = DatasetInfo("cifar100", 100, (3, 32, 32), 50_000, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
FOUR = ["resnet18", "mobilenetv2", "efficientnet_b0", "shufflenet_g2"]


def info(name: str, side: int, images: int, classes: int = 10, channels: int = 3) -> DatasetInfo:
    return DatasetInfo(name, classes, (channels, side, side), images, (0.5,) * channels, (0.25,) * channels)


def test_infer_on_cifar_has_the_hyper_parameters_of_the_specification() -> None:
    recipe = compose("infer", CIFAR)
    assert recipe.student == TrainRecipe(
        optimiser="adamw", lr=1e-3, weight_decay=0.01, decay="all", betas=(0.9, 0.999), schedule="cosine",
        hold="epoch", warmup=0, epochs=400, steps=None, batch=64, temperature=30.0, kl_scale="one", mix="mixup",
        mix_alpha=0.8, crop=4, flip=True,
    )  # fmt: skip
    teacher = TrainRecipe(
        optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, decay="all", schedule="cosine", hold="epoch",
        warmup=0, epochs=200, steps=None, batch=128, crop=4, flip=True, mix="none",
    )  # fmt: skip
    assert list(recipe.networks) == FOUR
    for name, network in recipe.networks.items():
        assert (network.arch, network.settings, network.training) == (name, {}, teacher)
    assert (recipe.select, recipe.label, recipe.stages) == (Choice("random"), Choice("static"), Choice("once"))
    assert (recipe.store.kind, recipe.match.kind) == ("compensated", "statistics")


def test_recovery_on_cifar_has_the_hyper_parameters_of_the_specification() -> None:
    fields = resolve(compose("infer", CIFAR), CIFAR)
    wanted = {
        "rounds": 1000, "lr": 0.25, "betas": (0.5, 0.9), "alpha": 1.0, "ce": 1.0, "first": 10.0, "jitter": 4,
        "resized_crop": False, "flip": False,
    }  # fmt: skip
    assert {name: getattr(fields.match, name) for name in wanted} == wanted
    store = {"project": "none", "storage": "int8", "leftover": "drop"}
    assert {name: getattr(fields.store, name) for name in store} == store


def test_infer_dyn_differs_from_infer_in_the_labels_and_a_fifth_of_the_epochs() -> None:
    static, dynamic = compose("infer", CIFAR), compose("infer-dyn", CIFAR)
    assert (dynamic.label, dynamic.student.epochs) == (Choice("dynamic"), 80)
    same = dataclasses.replace(
        dynamic,
        method="infer",
        label=static.label,
        student=dataclasses.replace(dynamic.student, epochs=static.student.epochs),
    )
    assert same == static


def test_faithful_takes_the_released_storage_and_nothing_else() -> None:
    plain, faithful = compose("infer", CIFAR), compose("infer", CIFAR, faithful=True)
    assert faithful.store.settings["storage"] == "jpeg75"
    assert dataclasses.replace(faithful, faithful=False, store=plain.store) == plain


@pytest.mark.parametrize(
    ("of", "networks", "rounds", "epochs", "dynamic"),
    [
        (info("cifar10", 32, 50_000), FOUR, 1000, 400, 80),
        (info("my photographs", 32, 60_000), FOUR, 1000, 400, 80),
        (info("fashion", 28, 60_000, channels=1), FOUR, 1000, 400, 80),
        (info("tiny-imagenet", 64, 100_000, 200), FOUR, 2000, 200, 40),
        (info("my photographs", 96, 9_000), FOUR, 2000, 200, 40),
        (info("imagenette", 160, 9_469), FOUR[:3], 2000, 300, 75),
        (info("imagenet", 224, 1_281_167, 1000), FOUR[:3], 2000, 300, 75),
        (info("digits", 8, 1_437, channels=1), ["convnet", "resnet10", "mobilenetv2"], 200, 60, 15),
        (info("my photographs", 224, 4_999), ["convnet", "resnet10", "mobilenetv2"], 200, 60, 15),
        (info("cifar10", 32, 500), FOUR, 1000, 400, 80),
    ],
)
def test_a_set_takes_its_own_profile_or_the_nearest(
    of: DatasetInfo, networks: list[str], rounds: int, epochs: int, dynamic: int
) -> None:
    recipe = compose("infer", of)
    assert list(recipe.networks) == networks
    assert (recipe.match.settings["rounds"], recipe.student.epochs) == (rounds, epochs)
    assert compose("infer-dyn", of).student.epochs == dynamic


def test_larger_pictures_take_the_settings_that_the_specification_infers() -> None:
    tiny = compose("infer", info("tiny-imagenet", 64, 100_000, 200))
    assert (tiny.match.settings["lr"], tiny.match.settings["alpha"], tiny.match.settings["jitter"]) == (0.1, 1.0, 4)
    assert (tiny.match.settings["resized_crop"], tiny.match.settings["flip"]) == (True, True)
    student = tiny.student
    assert (student.optimiser, student.lr, student.momentum, student.weight_decay) == ("sgd", 0.2, 0.9, 1e-4)
    assert (student.warmup, student.batch, student.temperature, student.mix) == (5, 64, 20.0, "mixup")
    assert (student.kl_scale, student.decay) == ("temperature-squared", "all")
    large = compose("infer", info("imagenet", 224, 1_281_167, 1000))
    assert (large.match.settings["lr"], large.match.settings["alpha"], large.match.settings["jitter"]) == (
        0.25,
        0.01,
        32,
    )
    student = large.student
    assert (student.optimiser, student.lr, student.weight_decay, student.decay) == ("adamw", 1e-3, 0.01, "matrices")
    assert (student.batch, student.temperature, student.kl_scale) == (128, 20.0, "one")


def test_crops_and_shifts_fit_small_pictures() -> None:
    digits = compose("infer", info("digits", 8, 1_437, channels=1))
    crops = {digits.student.crop, *(network.training.crop for network in digits.networks.values())}
    assert crops == {digits.match.settings["jitter"]} == {1}
    sixteen = compose("infer", info("stamps", 16, 2_000))
    assert (sixteen.student.crop, sixteen.match.settings["jitter"]) == (2, 2)


@pytest.mark.parametrize(
    ("name", "side", "images"), [("digits", 8, 1_437), ("mnist", 28, 60_000), ("svhn", 64, 73_257)]
)
def test_digits_are_never_mirrored(name: str, side: int, images: int) -> None:
    recipe = compose("infer", info(name, side, images))
    assert not recipe.student.flip
    assert not any(network.training.flip for network in recipe.networks.values())
    assert recipe.match.settings["flip"] is False
    assert compose("infer", info("photographs", side, images)).student.flip


@pytest.mark.parametrize("name", ["infer", "infer-coded", "infer-dyn"])
@pytest.mark.parametrize(
    "of", [CIFAR, info("digits", 8, 1_437, channels=1), info("tiny-imagenet", 64, 100_000, 200), info("x", 224, 9_000)]
)
def test_every_preset_is_a_recipe_that_passes_its_own_checks(name: str, of: DatasetInfo) -> None:
    recipe = compose(name, of)
    assert Recipe.from_plain(recipe.plain()) == recipe
    assert resolve(recipe, of).match.total_rounds == recipe.match.settings["rounds"]


@pytest.mark.parametrize("name", ["infer", "infer-coded", "infer-dyn"])
def test_the_controls_are_those_of_the_specification_and_their_patches_are_recipes(name: str) -> None:
    controls = {control.name: control for control in method(name).controls}
    assert {"random_soft", "random_hard", "natural_only", "noise", "equal_bytes_soft", "equal_bytes_hard",
            "coded_hard"} <= set(controls)  # fmt: skip
    recipe = compose(name, CIFAR)
    for control in controls.values():
        patched = recipe.patched(control.patch)
        assert patched.student == recipe.student
        assert control.says
    soft, hard = recipe.patched(controls["random_soft"].patch), recipe.patched(controls["random_hard"].patch)
    assert (soft.store, soft.match, soft.label) == (Choice("pixels"), Choice("none"), recipe.label)
    assert (hard.store, hard.match, hard.label) == (Choice("pixels"), Choice("none"), Choice("hard"))
    coded = recipe.patched(controls["coded_hard"].patch)
    assert (coded.store, coded.match, coded.label) == (Choice("coded"), Choice("none"), Choice("hard"))
    assert (coded.select, coded.networks) == (Choice("random"), {})
    resolve(soft, CIFAR)
    resolve(hard, CIFAR)
    resolve(coded, CIFAR)


def test_coded_infer_differs_in_how_pictures_and_labels_are_packed_alone() -> None:
    plain, coded = compose("infer", CIFAR), compose("infer-coded", CIFAR)
    assert coded.store.settings["codec"]["format"] == "avif"
    assert coded.label.settings["codec"] == {"kind": "int4"}
    patch = {"method": "infer", "store": plain.store, "label": plain.label}
    assert coded.patched(patch) == plain


# The paper's Table 1: data set and ipc, then ConvNet and ResNet-18 as mean (deviation).
TABLE_1 = {
    ("infer", "S"): """
        cifar10 10        34.0 0.4   32.0 0.5
        cifar10 50        57.0 0.2   60.4 1.6
        cifar100 10       41.0 0.4   45.2 0.04
        cifar100 50       53.8 0.2   62.8 0.4
        cifar100 100      57.0 0.02  66.3 0.1
        tiny-imagenet 10  22.8 0.3   32.0 0.1
        tiny-imagenet 50  32.3 0.3   52.9 0.1
    """,
    ("infer-dyn", "D"): """
        cifar10 10        30.1 0.8   30.7 0.3
        cifar10 50        52.4 0.7   60.7 0.9
        cifar100 10       37.2 0.3   53.4 0.6
        cifar100 50       50.7 0.3   68.9 0.1
        cifar100 100      53.4 0.2   73.3 0.2
        tiny-imagenet 10  24.9 0.3   41.0 0.4
        tiny-imagenet 50  33.9 0.6   54.6 0.4
    """,
}


@pytest.mark.parametrize(("name", "column"), TABLE_1)
def test_the_papers_numbers_stand_beside_the_method_with_their_table(name: str, column: str) -> None:
    wanted = {}
    for line in TABLE_1[name, column].strip().splitlines():
        source, ipc, conv, conv_std, residual, residual_std = line.split()
        wanted[source, int(ipc), "convnet"] = (float(conv), float(conv_std))
        wanted[source, int(ipc), "resnet18"] = (float(residual), float(residual_std))
    paper = [p for p in method(name).paper if p.where == "Table 1"]
    assert {(p.source, p.ipc, p.student): (p.top1, p.std) for p in paper} == wanted
    assert len(paper) == len(wanted)
    assert {p.column for p in method(name).paper} == {column}


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_says_where_it_comes_from(name: str) -> None:
    found = method(name)
    assert found.title
    assert found.cite.startswith("arXiv:")
    assert len({control.name for control in found.controls}) == len(found.controls)
    assert all(p.where for p in found.paper)
