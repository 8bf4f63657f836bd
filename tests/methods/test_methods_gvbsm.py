"""G-VBSM's preset against its specification, and a whole run on digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import resolve
from datastill.recipe import Choice, DatasetInfo, Recipe, compose, method
from datastill.runtime.progress import Reporter
from datastill.sources import load
from reference import tiny


def info(name: str, side: int, images: int, classes: int = 10, channels: int = 3) -> DatasetInfo:
    return DatasetInfo(name, classes, (channels, side, side), images, (0.5,) * channels, (0.25,) * channels)


C10, C100 = info("cifar10", 32, 50_000), info("cifar100", 32, 50_000, 100)
TINY, LARGE = info("tiny-imagenet", 64, 100_000, 200), info("imagenet", 224, 1_281_167, 1000)
DIGITS = info("digits", 8, 1_437, channels=1)


def settings(of: DatasetInfo, *names: str, faithful: bool = False) -> tuple[Any, ...]:
    fields = resolve(compose("gvbsm", of, faithful=faithful), of)
    return tuple(getattr(fields.match, name) for name in names)


def test_recovery_has_the_settings_of_the_specification() -> None:
    names = ("lr", "rounds", "alpha", "first", "densify", "densify_tau", "densify_scale", "bias_correction")
    for of, lr in ((C10, 0.05), (C100, 0.05), (TINY, 0.05), (LARGE, 0.1)):
        assert settings(of, *names) == (lr, 4000, 0.01, 10.0, 1.0, 4.0, "released", False)
        assert settings(of, "betas", "jitter", "flip", "convs", "backbones") == ((0.5, 0.9), 32, True, True, None)
    others = ("average", "drop", "patch", "real_batch", "crop", "resized_crop")
    assert settings(C10, *others) == settings(C100, *others) == (0.8, 0.4, 4, 64, 4, False)
    assert settings(TINY, *others) == (0.8, 0.4, 4, 64, 8, False)
    assert settings(LARGE, *others) == (0.4, 0.0, 16, 256, 0, True)


@pytest.mark.parametrize(
    ("of", "block", "faithful", "codec"),
    [(C10, 100, 100, None), (C100, 100, 50, None), (TINY, 100, 50, None), (LARGE, 80, 40, "jpeg")],
)
def test_sets_are_class_major_and_those_of_the_scripts_are_of_one_card(
    of: DatasetInfo, block: int, faithful: int, codec: str | None
) -> None:
    plain, released = compose("gvbsm", of, ipc=50).store, compose("gvbsm", of, ipc=50, faithful=True).store
    group = {"group": 5} if of is TINY else {}
    assert plain == Choice("synthetic", {"block": block, "order": "class-major"} | group)
    assert (released.settings["block"], released.settings["rounding"]) == (faithful, "truncate")
    assert released.settings.get("codec", {}).get("format") == codec


def test_faithful_changes_the_sets_the_rounding_and_the_filter_of_crops_alone() -> None:
    for of in (C10, TINY, LARGE):
        plain, released = compose("gvbsm", of), compose("gvbsm", of, faithful=True)
        same = dataclasses.replace(released, faithful=False, store=plain.store, match=plain.match)
        assert same == plain
        changed = {k: v for k, v in released.match.settings.items() if plain.match.settings.get(k) != v}
        assert changed == ({"antialias": False} if of is LARGE else {})


def test_networks_are_those_of_the_paper_as_far_as_there_are_such_and_weakly_trained() -> None:
    five = ["resnet18", "convnet_in", "mobilenetv2", "wrn_16_2", "shufflenet_g2"]
    for of, epochs in ((C10, 5), (C100, 50)):
        recipe = compose("gvbsm", of)
        assert list(recipe.networks) == five
        for network in recipe.networks.values():
            made = network.training
            assert (made.optimiser, made.lr, made.momentum, made.weight_decay) == ("sgd", 0.05, 0.9, 0.0)
            assert (made.schedule, made.batch, made.epochs, made.crop, made.flip) == ("constant", 64, epochs, 4, True)
    widths = [compose("gvbsm", C10).networks[n].settings for n in five]
    assert widths == [{}, {}, {"width": 0.5}, {}, {"width": 0.5}]
    recipe = compose("gvbsm", TINY)
    made = recipe.networks["resnet18"].training
    assert list(recipe.networks) == five
    assert (made.lr, made.schedule, made.weight_decay, made.batch, made.epochs, made.crop) == (
        0.1, "cosine", 0.0, 128, 50, 8,
    )  # fmt: skip
    assert list(compose("gvbsm", LARGE).networks) == ["resnet18", "mobilenetv2", "efficientnet_b0", "shufflenet_g2"]


def test_students_are_those_of_the_specification() -> None:
    for of, wanted in (
        (C10, ("adamw", 1e-3, 0.0, 1000, 100, 0.15)),
        (C100, ("sgd", 0.1, 5e-4, 1000, 64, 0.15)),
        (TINY, ("sgd", 0.1, 5e-4, 100, 100, 0.1)),
        (LARGE, ("adamw", 1e-3, 0.01, 300, 1024, 0.1)),
    ):
        s = compose("gvbsm", of).student
        assert (s.optimiser, s.lr, s.weight_decay, s.epochs, s.batch, s.hard_weight) == wanted
        assert (s.soft_loss, s.mix, s.mix_alpha, s.resized_crop, s.flip, s.decay) == (
            "mse", "cutmix", 1.0, 0.08, True, "matrices",
        )  # fmt: skip
        assert (s.schedule, s.hold, s.eta, s.momentum) == ("cosine", "epoch", 1.0, 0.9)


def test_labels_are_recorded_where_they_can_be_held_and_of_equal_norms_for_imagenet() -> None:
    assert compose("gvbsm", C10, ipc=50).label == Choice("replayed")
    assert compose("gvbsm", C100, ipc=50).label == Choice("replayed")
    for ipc in (1, 10):
        assert compose("gvbsm", LARGE, ipc=ipc).label == Choice("replayed", {"combine": "norm_mean"})
    assert compose("gvbsm", LARGE, ipc=50).label == Choice("dynamic", {"combine": "norm_mean"})


@pytest.mark.parametrize("of", [C10, C100, TINY, LARGE, DIGITS, info("fashion", 28, 60_000, channels=1)])
@pytest.mark.parametrize("faithful", [False, True])
def test_recipes_fit_their_sets_and_so_do_the_controls(of: DatasetInfo, faithful: bool) -> None:
    recipe = compose("gvbsm", of, faithful=faithful)
    resolve(recipe, of)
    assert Recipe.from_plain(recipe.plain()) == recipe
    for control in method("gvbsm").controls:
        if control.needs != "bytes":
            resolve(recipe.patched(control.patch), of)


def test_digits_are_never_mirrored_nor_cut_nor_rolled_away() -> None:
    recipe = compose("gvbsm", DIGITS)
    assert recipe.match.settings["flip"] is recipe.student.flip is False
    assert recipe.student.resized_crop is None
    assert (recipe.student.crop, recipe.match.settings["crop"], recipe.match.settings["jitter"]) == (1, 1, 1)
    assert recipe.match.settings["rounds"] % len(recipe.networks) == 0


def test_controls_are_there_and_change_what_they_say() -> None:
    patches = {control.name: dict(control.patch) for control in method("gvbsm").controls}
    assert {"gvbsm_hard", "random_soft", "random_hard", "equal_bytes_soft", "equal_bytes_hard", "start"} <= set(patches)
    assert patches["one_backbone"] == {"match.backbones": 1}
    assert patches["no_convs"] == {"match.drop": 1.0}
    assert patches["no_average"] == {"match.average": 0.0}
    assert patches["spread"] == {"match.densify_scale": "mean"}
    assert method("gvbsm").cite == "arXiv:2311.17950"


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    found = {(p.where, p.source, p.ipc, p.student): (p.top1, p.std) for p in method("gvbsm").paper}
    assert len(found) == 26
    assert found["Table 5", "cifar100", 10, "resnet18"] == (59.5, 0.4)
    assert found["Table 5", "cifar10", 50, "convnet_in"] == (54.3, 0.3)
    assert found["Table 4", "imagenet", 50, "resnet101"] == (61.0, 0.4)
    assert found["Table 2", "imagenet", 50, "mobilenetv2"] == (48.66, None)
    assert {p.column for p in method("gvbsm").paper} == {"D"}


def test_a_whole_run_on_digits(tmp_path: Path) -> None:
    data = load("digits")
    recipe = compose(
        "gvbsm", data.info, ipc=2,
        changes=["match.rounds=6", "networks.*.training.steps=3", "networks.*.settings.width=0.25",
                 "networks.resnet10.settings.width=8", "networks.convnet_in.settings.width=8",
                 "student.epochs=2", "student.batch=10"],
    )  # fmt: skip
    made = distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    seen, again = made.expand(), loaded.expand()
    assert torch.equal(seen.images, again.images)
    assert seen.images.dtype == torch.uint8
    assert seen.cls.bincount().tolist() == [2] * 10
    label, work = loaded.fields.label, recipe.student.work(20)
    batches = list(label.supply(again, work, recipe.student, 0, device=torch.device("cpu")))
    assert (label.column, len(batches)) == ("D", work.steps)
    assert all(b.target.isfinite().all() and b.mixed is not None for b in batches)
    assert set(loaded.facts["counts"]["losses"]) == {"resnet10", "convnet_in", "mobilenetv2"}
