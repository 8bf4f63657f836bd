"""RDED's preset against its specification: factor, batch, student, controls; and a small run from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.measure.arms import ArmMaker
from datastill.methods.rded import batch
from datastill.recipe import Choice, DatasetInfo, Recipe, TrainRecipe, choice, compose, method
from datastill.runtime.progress import Reporter
from datastill.sources import load
from datastill.store.crops import Crops
from reference import tiny
from reference.pages import PAGES, name_of, table


def info(name: str, side: int, images: int, classes: int = 10, channels: int = 3) -> DatasetInfo:
    return DatasetInfo(name, classes, (channels, side, side), images, (0.5,) * channels, (0.25,) * channels)


CIFAR10, CIFAR100 = info("cifar10", 32, 50_000), info("cifar100", 32, 50_000, 100)
TINY, IMAGENET = info("tiny-imagenet", 64, 100_000, 200), info("imagenet", 224, 1_281_167, 1000)
WOOF, DIGITS = info("imagewoof", 224, 9_025), info("digits", 8, 1_437, channels=1)
INFOS = [CIFAR10, CIFAR100, TINY, IMAGENET, WOOF, info("conv5", 128, 9_469), DIGITS, info("few", 224, 900)]


def test_students_have_the_numbers_of_the_specification() -> None:
    assert compose("rded", CIFAR10).student == TrainRecipe(
        optimiser="adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01, decay="matrices", schedule="cosine",
        eta=2.0, hold="epoch", warmup=0, epochs=300, steps=None, batch=50, crop=0, resized_crop=None, shuffle_tiles=1,
        flip=True, mix="cutmix", mix_alpha=1.0, temperature=20.0, kl_scale="one", soft_loss="kl", hard_weight=0.0,
        bn_momentum=None,
    )  # fmt: skip


@pytest.mark.parametrize("of", INFOS, ids=lambda of: f"{of.name}-{of.shape[1]}")
def test_the_student_is_shown_as_many_tiles_as_the_store_stitches(of: DatasetInfo) -> None:
    recipe = compose("rded", of)
    store = resolve(recipe, of).store
    assert isinstance(store, Crops)
    factor = store.tiles(of.shape)
    assert recipe.student.shuffle_tiles == factor == (2 if of.shape[1] >= 128 else 1)
    assert recipe.student.resized_crop == (0.5 if factor == 2 else None)
    assert recipe.student.crop == 0
    assert recipe.student.flip == (of.name != "digits")


@pytest.mark.parametrize(("of", "ipc", "size"), [
    (CIFAR10, 1, 10), (CIFAR10, 10, 50), (CIFAR10, 50, 100), (CIFAR100, 1, 20), (CIFAR100, 10, 100),
    (CIFAR100, 50, 200), (IMAGENET, 10, 100), (IMAGENET, 50, 200), (TINY, 1, 100), (TINY, 10, 100), (TINY, 50, 100),
    (WOOF, 1, 10), (WOOF, 10, 50), (WOOF, 50, 100), (info("cifar10", 32, 500, 5), 1, 5), (CIFAR10, 4, 10),
    (CIFAR10, 20, 50), (CIFAR10, 200, 100),
])  # fmt: skip
def test_the_batch_follows_the_rule_and_is_never_larger_than_the_set(of: DatasetInfo, ipc: int, size: int) -> None:
    assert batch(of, ipc) == compose("rded", of, ipc=ipc).student.batch == size


@pytest.mark.parametrize("of", INFOS, ids=lambda of: f"{of.name}-{of.shape[1]}")
def test_one_network_chooses_and_labels(of: DatasetInfo) -> None:
    recipe = compose("rded", of)
    infer = compose("infer", of)
    (name,) = recipe.networks
    assert recipe.networks[name] == infer.networks[name]
    assert name == ("convnet" if of.train_images < 5000 else "resnet18")
    assert (recipe.select, recipe.store, recipe.match) == (Choice("random"), Choice("crops"), Choice("none"))
    assert (recipe.label, recipe.stages) == (Choice("dynamic"), Choice("once"))
    assert Recipe.from_plain(recipe.plain()) == recipe


def test_candidates_and_crops_are_those_of_the_specification() -> None:
    store = resolve(compose("rded", CIFAR100), CIFAR100).store
    assert isinstance(store, Crops)
    assert (store.mipc, store.crops, store.scale, store.order) == (300, 5, (0.08, 1.0), "easiest")
    assert (store.rounding, store.codec.format) == ("nearest", "webp-lossless")


def test_faithful_adds_the_released_habits_and_nothing_else() -> None:
    plain, faithful = (compose("rded", WOOF, faithful=value) for value in (False, True))
    store = resolve(faithful, WOOF).store
    assert isinstance(store, Crops)
    assert (store.codec.format, store.codec.quality, store.codec.chroma, store.codec.tiles) == ("jpeg", 75, "420", 1)
    assert store.rounding == "truncate"
    assert dataclasses.replace(store, codec=Crops().codec, rounding="nearest") == Crops()
    assert faithful.student == dataclasses.replace(plain.student, bn_momentum=0.19)
    assert dataclasses.replace(faithful, faithful=False, store=plain.store, student=plain.student) == plain


def test_no_number_that_was_read_second_hand_stands_beside_it() -> None:
    assert method("rded").paper == ()
    assert method("rded").cite == "arXiv:2312.03526"


@pytest.mark.parametrize("of", [CIFAR100, WOOF], ids=lambda of: of.name)
def test_controls_are_what_they_say(of: DatasetInfo) -> None:
    recipe = compose("rded", of)
    made = {c.name: recipe.patched(c.patch) for c in method("rded").controls}
    assert set(made) == {"rded_hard", "rded_stored", "random_soft", "random_hard", "random_crops", "hardest_crops",
                         "equal_bytes_soft", "equal_bytes_hard"}  # fmt: skip
    for patched in made.values():
        assert (patched.student, patched.networks) == (recipe.student, recipe.networks)
        resolve(patched, of)
    assert made["random_soft"].store == made["random_hard"].store == Choice("pixels")
    assert made["random_soft"].label == made["random_crops"].label == made["hardest_crops"].label == recipe.label
    assert made["random_hard"].label == made["rded_hard"].label == Choice("hard")
    assert made["random_crops"].store == choice("crops", order="random")
    assert made["hardest_crops"].store == choice("crops", order="hardest")


def test_the_page_lists_the_controls_and_the_settings_that_the_preset_has() -> None:
    listed = sorted(name_of(row[0])[0] for row in table("rded.md", "rded-controls"))
    assert listed == sorted(control.name for control in method("rded").controls)
    words = " ".join(PAGES["rded.md"].split())
    store, student = Crops(), compose("rded", CIFAR100).student
    assert f"`store.mipc` images are drawn, without replacement ({store.mipc};" in words
    assert f"`store.crops` random squares are cut ({store.crops})" in words
    assert f"a share of {store.scale[0]} to {store.scale[1]:g} of the area" in words
    assert f"AdamW at {student.lr}, weight decay {student.weight_decay} on matrices alone" in words
    assert f"{student.epochs} epochs, CutMix on every batch" in words
    assert f"at a temperature of {student.temperature:g}, without a factor" in words
    assert f"RDED takes {student.eta:g}," in words


def test_too_many_images_for_the_candidates_are_refused_with_what_would_do() -> None:
    resolve(compose("rded", WOOF, ipc=75), WOOF)
    with pytest.raises(Exception, match="takes 304 images per class for ipc=76 at 2 x 2 tiles"):
        resolve(compose("rded", WOOF, ipc=76), WOOF)
    resolve(compose("rded", WOOF, ipc=76, changes=["store.mipc=304"]), WOOF)


def test_a_run_on_digits_from_end_to_end(tmp_path: Path) -> None:
    changes = ["networks.*.training.steps=4", "store.mipc=20", "store.crops=2", "student.epochs=1"]
    data = load("digits")
    recipe = compose("rded", data.info, ipc=2, changes=changes)
    made = distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert len(loaded) == 20
    assert loaded.recipe == made.recipe
    assert torch.equal(loaded.expand().images, made.expand().images)
    rows = {name: row for row, name in enumerate(data.train.ids)}
    named = torch.tensor([rows[name] for name in loaded.content.pictures.ids])
    assert torch.equal(data.train.labels[named], loaded.content.pictures.cls)
    whole = (data.train.pixels[named] == loaded.content.pictures.pixels).flatten(1).all(dim=1)
    assert not whole.all()  # they are parts of the images that they name
    x, target = next(iter(loaded.loader()))
    assert (x.shape, target.shape) == ((10, 1, 8, 8), (10, 10))
    with torch.no_grad():
        (network,) = loaded.teachers.values()
        assert torch.allclose(network(x), target, atol=1e-4)  # the very network that judged, on the mixed batch


def test_arms_are_made_beside_it_and_differ(tmp_path: Path) -> None:
    own = tiny.distilled(
        tmp_path / "set", method="rded", store=choice("crops"), match=choice("none"), label=choice("dynamic"), ipc=2,
        networks={"first": tiny.NETWORKS["first"]},
    )  # fmt: skip
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    arms: dict[str, Any] = {c.name: maker.make(c) for c in method("rded").controls}
    kept = {name: arm.distilled for name, arm in arms.items()}
    assert {name: arm.column for name, arm in arms.items()} == {
        "rded_hard": "H", "rded_stored": "S", "random_soft": "D", "random_hard": "H", "random_crops": "D",
        "hardest_crops": "D", "equal_bytes_soft": "S", "equal_bytes_hard": "H",
    }  # fmt: skip
    for name in ("rded_hard", "rded_stored"):
        assert torch.equal(kept[name].content.pictures.pixels, own.content.pictures.pixels)
    pixels = [made.content.pictures.pixels for made in (own, *(kept[n] for n in ("random_crops", "hardest_crops")))]
    assert not any(torch.equal(pixels[i], pixels[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    counts = {name: made.facts["counts"] for name, made in kept.items()}
    assert own.facts["counts"]["loss"] < counts["hardest_crops"]["loss"]
    assert arms["random_soft"].random
    assert arms["random_hard"].random
    assert not arms["random_crops"].random
    assert kept["equal_bytes_hard"].ledger()["total"] <= own.ledger()["total"]
