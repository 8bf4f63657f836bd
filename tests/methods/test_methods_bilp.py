"""BiLP on DC and IDC: shares, scoring network, controls, and small runs from pruning to a student's batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill import engine
from datastill.artifact import DistilledDataset
from datastill.fields import resolve
from datastill.recipe import DatasetInfo, Recipe, compose, method
from datastill.runtime.progress import Reporter
from datastill.select.bilp import Bilp
from datastill.sources import Dataset, load
from reference import tiny
from reference.pages import INFOS

BASES = {"bilp-dc": "dc", "bilp-idc": "idc"}
METHODS = sorted(BASES)
CIFAR, DIGITS = INFOS["cifar10"], INFOS["digits"]
MNIST = DatasetInfo("mnist", 10, (1, 28, 28), 60_000, (0.1,), (0.3,))
FEW = ["match.rounds=2", "match.outer=2", "match.network.settings.width=8", "match.batch=12", "student.epochs=3"]
PRUNED = ["networks.*.settings.width=8", "networks.*.training.batch=64", "select.every=2", "select.runs=1"]


def selected(name: str, info: DatasetInfo, **options: Any) -> Bilp:
    select = resolve(compose(name, info, **options), info).select
    assert isinstance(select, Bilp)
    return select


@pytest.mark.parametrize("name", METHODS)
def test_shares_follow_the_images_per_class(name: str) -> None:
    for ipc, wanted in {1: (0.1, 0.2), 3: (0.1, 0.2), 10: (0.4, 0.2), 22: (0.4, 0.2), 50: (0.8, 0.1)}.items():
        select = selected(name, CIFAR, ipc=ipc)
        assert (select.keep, select.beta) == wanted
        assert (select.score, select.then, select.every, select.tails, select.threshold) == (
            "loss_early", "random", 10, "both", "quantiles"
        )  # fmt: skip
    assert selected("bilp-idc", DIGITS, ipc=10).keep == pytest.approx(0.8 * 1000 / 1438, abs=0.2)


def test_what_stays_is_enough_to_begin_from() -> None:
    for ipc in (2, 10, 17):
        select = selected("bilp-idc", DIGITS, ipc=ipc)
        assert select.keep * 143 >= min(143, 4 * ipc)
    assert selected("bilp-idc", DIGITS, ipc=30).keep == 1.0
    assert selected("bilp-dc", DIGITS, ipc=3).keep == 0.1  # it begins from noise


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("info", [*INFOS.values(), MNIST], ids=lambda info: info.name)
def test_it_is_the_base_but_for_what_is_pruned_and_reads_back(name: str, info: DatasetInfo) -> None:
    recipe, base = compose(name, info), compose(BASES[name], info)
    resolve(recipe, info)
    assert Recipe.from_plain(recipe.plain()) == recipe
    assert replace(recipe, method=base.method, select=base.select, networks={}) == base
    (scoring,) = recipe.networks.values()
    assert scoring.arch == "convnet_in"
    assert (scoring.training.momentum, scoring.training.weight_decay, scoring.training.augment) == (0.9, 5e-4, "none")


def test_absolute_values_are_weighed_by_leaving_images_out() -> None:
    assert compose("bilp-idc", MNIST).match.settings["distance"] == "l1"
    assert selected("bilp-idc", MNIST).estimate == "exact"
    assert selected("bilp-idc", CIFAR).estimate == selected("bilp-dc", MNIST).estimate == "taylor"


@pytest.mark.parametrize("name", METHODS)
def test_controls_are_recipes_that_fit(name: str) -> None:
    made = compose(name, CIFAR)
    patches = {control.name: control.patch for control in method(name).controls}
    pruning = ["unpruned", "level_1", "level_2"]
    own = pruning if name == "bilp-dc" else ["start", *pruning, "whole_start"]
    assert list(patches) == ["random_hard", "equal_bytes_hard", "coded_hard", *own]
    for patch in patches.values():
        resolve(made.patched(patch), CIFAR)
        assert made.patched(patch).student == made.student
    one, two = (resolve(made.patched(patches[level]), CIFAR).select for level in ("level_1", "level_2"))
    assert isinstance(one, Bilp)
    assert isinstance(two, Bilp)
    assert (one.keep, one.beta, two.keep, two.beta) == (0.4, 0.0, 1.0, 0.2)
    if name == "bilp-idc":  # it begins from what stays, and nothing is matched
        start = made.patched(patches["start"])
        assert (start.match.kind, start.select.settings["keep"], start.select.settings["beta"]) == ("none", 0.4, 0.0)
    assert not method(name).paper


def few(name: str) -> tuple[Dataset, Recipe]:
    data = load("digits", classes=["3", "5", "8"])
    loop = "match.inner_images=16" if "idc" in name else "match.inner=1"
    changes = [*FEW, *(PRUNED if name in BASES else []), loop]
    return data, compose(name, data.info, ipc=2, changes=changes)


@pytest.mark.parametrize("name", METHODS)
def test_digits_are_distilled_saved_loaded_and_learned_from(name: str, tmp_path: Path) -> None:
    data, recipe = few(name)
    made = engine.distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    found = DistilledDataset.load(tmp_path / "set")
    images = found.expand()
    assert torch.equal(images.images, made.expand().images)
    seen = found.facts["counts"]["real_seen"]
    assert seen["drawn"] == 4 * 3 * 12
    assert 0.5 * seen["drawn"] < seen["passed"] < seen["drawn"]
    work = recipe.student.work(len(found))
    batch = next(found.fields.label.supply(images, work, recipe.student, 0, device=tiny.device().torch))
    assert batch.x.shape[1:] == (1, 8, 8)
    assert found.labels.kind == "classes"


@pytest.mark.parametrize("name", METHODS)
def test_the_control_without_pruning_is_the_base_to_the_bit(name: str) -> None:
    data, recipe = few(name)
    (unpruned,) = (control.patch for control in method(name).controls if control.name == "unpruned")
    _, base = few(BASES[name])
    made = []
    for asked in (recipe.patched(unpruned), base):
        ctx = engine.make_context(data, asked, tiny.device(), Reporter())
        made.append(engine.build_content(ctx).arrays["pixels"])
        assert not any(told.startswith("score") for told in ctx.reporter.seconds)
    assert torch.equal(*made)
