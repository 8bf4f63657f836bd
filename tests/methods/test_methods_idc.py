"""IDC and IDC-I against their specification: hyper-parameters, rates, students, controls; and small runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datastill import engine
from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.match import Gradients
from datastill.measure import student as students
from datastill.measure.arms import ArmMaker
from datastill.recipe import DatasetInfo, Recipe, choice, compose, method
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset, Images, load
from datastill.store import Tiles
from datastill.training.optim import learning_rate, milestones
from reference import tiny

METHODS = ("idc-i", "idc")


def info(name: str, side: int, images: int = 50_000, classes: int = 10, channels: int = 3) -> DatasetInfo:
    return DatasetInfo(name, classes, (channels, side, side), images, (0.5,) * channels, (0.25,) * channels)


CIFAR10, CIFAR100 = info("cifar10", 32), info("cifar100", 32, classes=100)
SVHN, MNIST, FASHION = (
    info("svhn", 32, 73_257),
    info("mnist", 28, 60_000, 10, 1),
    info("fashion-mnist", 28, 60_000, 10, 1),
)
TEN, HUNDRED = info("photos", 224, 13_000), info("photos", 224, 126_689, 100)
TINY, DIGITS = info("tiny-imagenet", 64, 100_000, 200), info("digits", 8, 1_437, 10, 1)
ALL = [CIFAR10, CIFAR100, SVHN, MNIST, FASHION, TEN, HUNDRED, TINY, DIGITS]


def fields(name: str, of: DatasetInfo, **options: Any) -> tuple[Tiles, Gradients]:
    found = resolve(compose(name, of, **options), of)
    assert isinstance(found.store, Tiles)
    assert isinstance(found.match, Gradients)
    return found.store, found.match


# Table of section 3: factor, distance, rate at ipc 10, networks, updates, images, source, epochs before, pool.
MATCHES = {
    "cifar10": (CIFAR10, 2, "mse", 5e-3, 2000, 100, 2000, "fresh"),
    "cifar100": (CIFAR100, 2, "mse", 5e-3, 2000, 100, 2000, "fresh"),
    "svhn": (SVHN, 2, "mse", 5e-3, 2000, 100, 500, "fresh"),
    "mnist": (MNIST, 2, "l1", 1e-4, 2000, 100, 500, "fresh"),
    "fashion": (FASHION, 2, "l1", 7.65625e-5, 2000, 100, 500, "fresh"),
    "imagenet-10": (TEN, 3, "l1", 3e-3, 500, 100, 500, "early"),
    "imagenet-100": (HUNDRED, 3, "l1", 1e-3, 500, 100, 500, "pool"),
}


@pytest.mark.parametrize("source", MATCHES)
@pytest.mark.parametrize("name", METHODS)
def test_the_match_has_the_hyper_parameters_of_the_specification(name: str, source: str) -> None:
    of, factor, distance, lr, rounds, outer, images, begun = MATCHES[source]
    store, match = fields(name, of)
    assert store.factor == (factor if name == "idc" else 1)
    found = (match.distance, match.rounds, match.outer, match.inner_images, match.source)
    assert found == (distance, rounds, outer, images, begun)
    assert match.lr == pytest.approx(lr, rel=1e-12)
    assert (match.epochs, match.pool) == ((5, 10) if begun == "pool" else (10, 10))
    assert (match.momentum, match.turns, match.tensors, match.inner_on) == (0.5, of.classes, "conv", "real")
    assert (match.batch, match.most, match.inner, match.augment) == (64, 128, None, "all")
    bare = source == "mnist" and name == "idc"
    assert match.operations == (("color", "crop") if bare else ("color", "crop", "cutout"))
    inner, many = match.network.training, of is HUNDRED
    assert (inner.lr, inner.weight_decay, inner.batch) == ((0.1, 1e-4, 128) if many else (0.01, 5e-4, 64))
    assert (inner.optimiser, inner.momentum, inner.schedule, inner.crop, inner.flip) == (
        "sgd",
        0.9,
        "constant",
        0,
        False,
    )
    assert (inner.augment, inner.operations) == ("all", ("color", "crop"))
    assert (inner.mix, inner.mix_alpha) == ("none" if bare else "cutmix", 1.0)
    assert inner.mix_share == (1.0 if source.startswith("imagenet") else 0.5)
    assert (match.network.arch, match.network.settings) == ("convnet_in", {"width": 128})
    assert match.optimise()["pixels"].turns == of.classes


def test_the_rate_follows_pictures_per_class_and_their_side() -> None:
    def rate(of: DatasetInfo, ipc: int) -> float:
        return fields("idc", of, ipc=ipc)[1].lr

    for ipc, wanted in {1: 5e-4, 10: 5e-3, 50: 2.5e-2}.items():
        assert rate(CIFAR10, ipc) == pytest.approx(wanted)
    assert rate(FASHION, 10) == pytest.approx(7.65625e-5)
    assert (rate(TEN, 10), rate(TEN, 20)) == pytest.approx((3e-3, 6e-3))
    assert rate(info("photos", 128, 13_000), 10) == pytest.approx(3e-3 * (128 / 224) ** 2)
    assert rate(TINY, 10) == pytest.approx(4 * 5e-3)
    assert rate(DIGITS, 20) == pytest.approx(2 * rate(DIGITS, 10))


@pytest.mark.parametrize("of", ALL, ids=lambda of: f"{of.name}-{of.classes}")
@pytest.mark.parametrize("name", METHODS)
def test_every_data_set_has_a_recipe_that_fits_and_reads_back(name: str, of: DatasetInfo) -> None:
    recipe = compose(name, of)
    resolve(recipe, of)
    assert Recipe.from_plain(recipe.plain()) == recipe
    assert (recipe.label.kind, recipe.select.kind, recipe.networks) == ("hard", "random", {})


@pytest.mark.parametrize("of", [CIFAR10, CIFAR100, SVHN, MNIST, FASHION], ids=lambda of: of.name)
@pytest.mark.parametrize("name", METHODS)
def test_students_have_the_numbers_of_the_specification(name: str, of: DatasetInfo) -> None:
    student = compose(name, of, ipc=10).student
    assert (student.optimiser, student.lr, student.momentum, student.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (student.epochs, student.batch, student.crop, student.flip) == (1000, 64, 0, False)
    assert (student.schedule, student.drop, student.reset_momentum, student.augment) == ("steps", 0.2, False, "all")
    mirrored = of not in (SVHN, MNIST)
    assert student.operations == tuple(
        n for n in ("color", "crop", "flip", "scale", "rotate") if n != "flip" or mirrored
    )
    assert student.mix == ("none" if (name, of) == ("idc", MNIST) else "cutmix")
    assert (student.mix_alpha, student.mix_share) == (1.0, 0.5)


def test_one_picture_of_svhn_is_cut_and_never_mixed() -> None:
    student = compose("idc-i", SVHN, ipc=1).student
    assert (student.mix, student.operations) == ("none", ("color", "crop", "cutout", "scale", "rotate"))
    assert compose("idc", SVHN, ipc=1).student.mix == "cutmix"
    assert compose("idc-i", CIFAR10, ipc=1).student.mix == "cutmix"


@pytest.mark.parametrize(("of", "name", "ipc", "epochs"), [
    (TEN, "idc-i", 1, 3000), (TEN, "idc-i", 10, 2000), (TEN, "idc-i", 20, 1500), (TEN, "idc", 1, 2000),
    (TEN, "idc", 10, 1000), (TEN, "idc", 20, 1000), (TEN, "idc", 50, 500), (TEN, "idc", 100, 300),
    (HUNDRED, "idc-i", 10, 1300), (HUNDRED, "idc-i", 20, 1000), (HUNDRED, "idc", 10, 600), (HUNDRED, "idc", 20, 600),
])  # fmt: skip
def test_students_of_photographs_have_epochs_by_items(of: DatasetInfo, name: str, ipc: int, epochs: int) -> None:
    student = compose(name, of, ipc=ipc).student
    assert student.epochs == epochs
    assert (student.resized_crop, student.flip, student.mix_share, student.augment) == (0.5, True, 1.0, "none")
    assert (student.lr, student.weight_decay) == ((0.1, 1e-4) if of is HUNDRED else (0.01, 5e-4))


@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize(("of", "name"), [(CIFAR10, "idc"), (CIFAR10, "idc-i"), (TEN, "idc-i"), (HUNDRED, "idc")])
def test_the_rate_of_students_falls_at_two_thirds_and_five_sixths_of_the_epochs(
    of: DatasetInfo, name: str, ipc: int
) -> None:
    student = compose(name, of, ipc=ipc).student
    items = ipc * of.classes * (fields(name, of)[0].factor ** 2)
    work = student.work(items)
    assert work.epoch == math.ceil(items / student.batch)
    first, second = (2 * student.epochs // 3 * work.epoch, 5 * student.epochs // 6 * work.epoch)
    assert milestones(student, work) == [first, second]
    rates = [learning_rate(student, work, step) / student.lr for step in (first - 1, first, second - 1, second)]
    assert rates == pytest.approx([1.0, 0.2, 0.2, 0.04])


def test_batches_are_no_larger_than_the_set() -> None:
    assert compose("idc-i", CIFAR10, ipc=1).student.batch == 10
    assert compose("idc", CIFAR10, ipc=1).student.batch == 40
    assert compose("idc", CIFAR10, ipc=10).student.batch == 64


def test_faithful_adds_the_released_start_and_floats_and_nothing_else() -> None:
    for name in METHODS:
        plain, faithful = (compose(name, CIFAR10, faithful=value) for value in (False, True))
        store, released = (resolve(made, CIFAR10).store for made in (plain, faithful))
        assert isinstance(store, Tiles)
        assert released == replace(store, pick="first", resize="nearest", storage="fp32")
        assert replace(faithful, faithful=False, store=plain.store) == plain
        assert (store.space, store.cut, store.bound, store.storage, store.init) == (
            "pixel",
            "round",
            True,
            "uint8",
            "real",
        )


def test_the_numbers_of_the_paper_are_those_of_its_tables() -> None:
    found = {(name, p.source, p.ipc): p for name in METHODS for p in method(name).paper}
    assert len(found) == 28
    assert {p.student for p in found.values()} == {"convnet_in"}
    assert {p.column for p in found.values()} == {"H"}
    for key, top1 in {("idc", "cifar10", 10): 67.5, ("idc-i", "cifar10", 10): 58.3, ("idc", "fashion-mnist", 50): 86.2,
                      ("idc-i", "fashion-mnist", 50): 89.1, ("idc", "cifar100", 20): 49.0}.items():  # fmt: skip
        assert found[key].top1 == top1
    assert {method(name).cite for name in METHODS} == {"arXiv:2205.14959"}


def test_controls_are_what_they_say() -> None:
    own = {name: {c.name for c in method(name).controls} for name in METHODS}
    assert own["idc"] == own["idc-i"] | {"one_tile"}
    assert own["idc-i"] >= {"random_hard", "equal_bytes_hard", "coded_hard", "start"}
    for name in METHODS:
        recipe = compose(name, CIFAR10)
        made = {c.name: recipe.patched(c.patch) for c in method(name).controls}
        for patched in made.values():
            resolve(patched, CIFAR10)
            assert (patched.student, patched.label) == (recipe.student, recipe.label)
        assert made["start"] == replace(recipe, match=choice("none"))
        assert (made["random_hard"].store.kind, made["random_hard"].match.kind) == ("pixels", "none")


# --- small runs ---

FEW = ["match.rounds=2", "match.outer=2", "match.inner_images=32", "match.batch=8", "match.network.settings.width=8",
       "student.epochs=1"]  # fmt: skip


@pytest.mark.parametrize(("name", "items"), [("idc-i", 20), ("idc", 80)])
def test_a_run_on_digits_from_end_to_end(name: str, items: int, tmp_path: Path) -> None:
    data = load("digits")
    made = distil(data, compose(name, data.info, ipc=2, changes=FEW), device=tiny.device(), reporter=Reporter(),
                  out=tmp_path / "set")  # fmt: skip
    loaded = DistilledDataset.load(tmp_path / "set")
    assert loaded.recipe == made.recipe
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert loaded.content.pictures.pixels.shape == (20, 1, 8, 8)
    assert loaded.expand().images.shape == (items, 1, 8, 8)
    x, target = next(iter(loaded.loader()))
    assert (x.shape, target.shape) == ((min(64, items), 1, 8, 8), (min(64, items), 10))
    assert loaded.facts["counts"]["image_updates"] == 4
    start = distil(data, compose(name, data.info, ipc=2, changes=["match=none"]), device=tiny.device(),
                   reporter=Reporter())  # fmt: skip
    moved = (made.content.pictures.pixels != start.content.pictures.pixels).flatten(1).any(dim=1)
    assert moved.all()


def small(name: str, **changes: Any) -> Recipe:
    recipe = compose(name, data_of().info, ipc=2, changes=FEW)
    return recipe.patched(changes)


def data_of() -> Dataset:
    return tiny.dataset(per_class=24)


def made_of(recipe: Recipe, out: Path | None = None, **options: Any) -> DistilledDataset:
    return distil(data_of(), recipe, device=tiny.device(), reporter=Reporter(), out=out, **options)


def test_one_tile_is_idc_i_to_the_bit() -> None:
    one, other = made_of(small("idc", **{"store.factor": 1})), made_of(small("idc-i"))
    plain = {"store": choice("synthetic", init="real", space="pixel", cut="round")}
    free = made_of(small("idc-i").patched(plain))
    assert torch.equal(one.expand().images, other.expand().images)
    assert torch.equal(free.expand().images, other.expand().images)
    assert one.content.pictures.ids == free.content.pictures.ids


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_goes_on_to_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small(name, **{"match.rounds": 3})
    whole = made_of(recipe)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
    lived = Gradients.round

    def dying(self: Gradients, draft: Any, ctx: Any) -> Any:
        if draft.round == 2:
            raise KeyboardInterrupt
        return lived(self, draft, ctx)

    with monkeypatch.context() as patch:
        patch.setattr(Gradients, "round", dying)
        with pytest.raises(KeyboardInterrupt):
            made_of(recipe, tmp_path / "set")
    again = made_of(recipe, tmp_path / "set", resume=True)
    assert torch.equal(again.expand().images, whole.expand().images)


def test_arms_are_made_beside_a_set_and_differ(tmp_path: Path) -> None:
    own = made_of(small("idc"), tmp_path / "set", source={"asked": "tiny"})
    maker = ArmMaker(own, data_of(), tiny.device(), Reporter(), tmp_path / "arms")
    wanted = ("random_hard", "start", "one_tile")
    arms: dict[str, Any] = {c.name: maker.make(c) for c in method("idc").controls if c.name in wanted}
    assert {arm.column for arm in arms.values()} == {"H"}
    assert {name: len(arm.distilled) for name, arm in arms.items()} == {"random_hard": 8, "start": 32, "one_tile": 8}
    assert arms["random_hard"].random
    assert not arms["start"].random
    assert not torch.equal(arms["start"].distilled.expand().images, own.expand().images)


# --- whether anything is learned: three seeds on digits, paired with random real images ---

# A narrow network, and with it a rate of its own.
QUICK = ["match.rounds=8", "match.outer=10", "match.inner_images=192", "match.batch=32",
         "match.network.settings.width=16"]  # fmt: skip
STEPS, SEEDS = 300, (0, 1, 2)
REAL = {"store": choice("pixels"), "match": choice("none")}


@pytest.fixture
def one_thread() -> None:
    """Such small tensors are slower on two."""
    torch.set_num_threads(1)


def resized(images: Images, by: Callable[[Tensor], Tensor]) -> Images:
    return replace(images, pixels=by(images.pixels.float()).round().clamp(0, 255).to(torch.uint8))


def stretched(x: Tensor, side: int) -> Tensor:
    return functional.interpolate(x, (side, side), mode="bilinear")


def digits(side: int) -> Dataset:
    """Return digits, enlarged beyond their 8 pixels where a tile is to have as many."""
    data = load("digits")
    if side == 8:
        return data
    train, test = (resized(part, lambda x: stretched(x, side)) for part in (data.train, data.test))
    return replace(data, train=train, test=test, fingerprint=f"{data.fingerprint} at {side}")


def top1(data: Dataset, made: DistilledDataset, seed: int, folder: Path) -> float:
    network, _ = students.train_student(
        made, made.expand(), "convnet_in(width=16)", seed, recipe=made.recipe.student, steps=STEPS,
        device=tiny.device(), reporter=Reporter(), checkpoint=folder / "student", label="student",
    )  # fmt: skip
    testing = students.Testing(data.test.pixels, data.test.labels, "test")
    found: float = students.score(network, testing, tiny.device(), embed=False)["top1"]
    return found


def gaps(data: Dataset, name: str, ipc: int, patches: Sequence[dict[str, Any]], folder: Path) -> list[list[float]]:
    """Return by patch of a method, and by seed, how many points students of the method are ahead of those of it."""
    found: list[list[float]] = [[] for _ in patches]
    for seed in SEEDS:
        recipe = compose(name, data.info, ipc=ipc, seed=seed, changes=[*QUICK, f"match.lr={ipc / 10}"])
        recipes = [recipe, *(recipe.patched(patch) for patch in patches)]
        sets = [distil(data, made, device=tiny.device(), reporter=Reporter()) for made in recipes]
        ours, *theirs = (top1(data, made, seed, folder / f"{seed}-{i}") for i, made in enumerate(sets))
        for ahead, other in zip(found, theirs, strict=True):
            ahead.append(ours - other)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "ipc", "side"), [
    ("idc-i", 1, 8), ("idc-i", 10, 8), ("idc", 1, 8), ("idc", 1, 16), ("idc", 10, 16)
])  # fmt: skip
def test_learned_pictures_teach_more_than_random_real_images(name: str, ipc: int, side: int, tmp_path: Path) -> None:
    (ahead,) = gaps(digits(side), name, ipc, [REAL], tmp_path)
    assert min(ahead) > 0, ahead


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_ten_mosaics_of_digits_lose_to_whole_images_because_a_tile_of_four_pixels_is_no_digit(tmp_path: Path) -> None:
    """Every training image at the size of a tile teaches less than ten whole ones; mosaics still gain by learning."""
    data = digits(8)
    start, real = gaps(data, "idc", 10, [{"match": choice("none")}, REAL], tmp_path)
    assert min(start) > 0 > max(real), (start, real)
    blurred = replace(data, train=resized(data.train, lambda x: stretched(smaller(x), 8)), fingerprint="blurred")
    recipe = compose("idc-i", data.info).patched(REAL)
    every = distil(blurred, recipe.patched({"store": choice("pixels", total=len(data.train.labels))}),
                   device=tiny.device(), reporter=Reporter())  # fmt: skip
    ten = distil(data, recipe, device=tiny.device(), reporter=Reporter())
    bound, whole = (top1(data, made, 0, tmp_path / name) for made, name in ((every, "every"), (ten, "ten")))
    assert bound < whole


def smaller(x: Tensor) -> Tensor:
    return functional.interpolate(x, (4, 4), mode="bilinear", antialias=True)
