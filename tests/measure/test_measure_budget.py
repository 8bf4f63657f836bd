"""Spending bytes: what is chosen, that it never costs more, and what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import features

from datastill import DistilledDataset, load
from datastill.codecs import PictureCodec
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure import budget as module
from datastill.measure.budget import Budget, Trial, folder_bytes, named, read_bytes
from datastill.recipe import compose
from datastill.runtime.device import open_device
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.sources import Dataset
from reference import tiny


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def search(data: Dataset, size: int, **options: Any) -> Budget:
    recipe = compose("datastill", data.info)
    recipe = replace(recipe, student=replace(recipe.student, batch=16))
    given: dict[str, Any] = {"steps": 4, "device": open_device("cpu", "float32"), "reporter": Reporter()}
    return Budget(size, data, recipe, **given | options)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4MB", 4_000_000), ("20 kB", 20_000), ("1.5MiB", 1_572_864), ("123", 123), ("7b", 7), ("0.5GB", 500_000_000)],
)
def test_bytes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "four", "4 megs", "-4MB", "1e6", "0", "0.1B", "MB"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(DatastillError, match="--budget"):
        read_bytes(text)


def bought(found: Budget, folder: Path) -> int:
    """Search, distil what was found, and return what its folder weighs."""
    recipe = found.choose().recipe
    distil(
        found.dataset, recipe, device=found.device, reporter=Reporter(), out=folder, command=found.command,
        source=found.source,
    )  # fmt: skip
    return folder_bytes(folder)


@pytest.mark.parametrize("command", ["", "datastill distill digits --budget {} --out DIR"])
def test_a_budget_that_cannot_hold_a_class_names_the_smallest_that_can(
    command: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is recorded, so a budget that takes more digits to write weighs more."""
    monkeypatch.setattr(module, "STUDENT", "convnet(width=8)")
    with pytest.raises(DatastillError, match="cannot hold one image of each of 10 classes; the smallest") as said:
        search(digits, 5, command=command.format("5")).choose()
    needed = re.search(r"is ([\d,]+) bytes", str(said.value))
    assert needed
    smallest = int(needed[1].replace(",", ""))
    spent = bought(search(digits, smallest, command=command.format(smallest)), tmp_path / "set")
    assert smallest - 120 < spent <= smallest
    assert len(DistilledDataset.load(tmp_path / "set")) >= 10
    with pytest.raises(DatastillError, match="cannot hold one image"):
        search(digits, smallest - 120, command=command.format(smallest - 120)).choose()


def test_qualities_that_do_not_fit_are_not_tried(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUDENT", "convnet(width=8)")
    with pytest.raises(DatastillError, match="the smallest") as said:
        search(digits, 5).choose()
    smallest = int(str(said.value).split(" is ")[1].split()[0].replace(",", ""))
    found = search(digits, smallest).choose()
    assert max(t.codec.quality for t in found.trials) < max(module.QUALITIES)
    assert all(t.images >= 10 for t in found.trials)


def test_a_single_trial_is_told_as_one(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    only = Trial(PictureCodec(format="avif", quality=30, tiles=1024), "hard", 10, 12.0, 41.0)
    monkeypatch.setattr(Budget, "_trials", lambda self, folder: [only])
    _, why, others = search(digits, 20_000, labels=("hard", "soft")).choose().says
    assert why.endswith("41.0 %, of 1 trial.")
    assert others == "Nothing else fits; soft labels do not fit."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": ("hard", "sotf")}, "there is no label to try 'sotf'; did you mean 'soft'"),
        ({"labels": ("soft",)}, "hard labels are always tried; ask for hard, or for hard,soft"),
        ({"labels": ()}, "hard labels are always tried"),
        ({"steps": 0}, "--steps must be at least 1, not 0"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_any_work(
    options: dict[str, Any], said: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "distil", lambda *args, **given: pytest.fail("a set was made"))
    with pytest.raises(DatastillError, match=said):
        search(digits, 20_000, **options).choose()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("ipc=11", "ipc"),
        ("store.codec.quality=30", "store"),
        ("label=hard", "label"),
        ("validation=100", "validation"),
    ],
)
def test_what_the_budget_decides_cannot_be_set_beside_it(change: str, field: str, digits: Dataset) -> None:
    found = replace(search(digits, 20_000), recipe=compose("datastill", digits.info, changes=[change]))
    with pytest.raises(DatastillError, match=f"--budget decides ipc, .*; leave out what sets '{field}'"):
        found.choose()


def test_another_method_is_refused_beside_a_budget(digits: Dataset) -> None:
    with pytest.raises(DatastillError, match="give it without --method, --ipc and --recipe"):
        replace(search(digits, 20_000), recipe=compose("herding", digits.info)).choose()


def test_how_images_are_chosen_is_kept_with_the_networks_that_it_asks() -> None:
    data = tiny.dataset()
    changes = ["select=herding", "networks.*.training.steps=4", "networks.*.training.batch=8"]
    base = compose("datastill", data.info).with_networks("convnet(width=8)").changed(changes)
    recipe = replace(search(data, 10_000_000), recipe=base).choose().recipe
    assert recipe.select.kind == "herding"
    assert list(recipe.networks) == ["convnet(width=8)"]


def test_without_avif_the_search_takes_webp_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and known(name))
    monkeypatch.setattr(module, "STUDENT", "convnet(width=8)")
    monkeypatch.setattr(module, "QUALITIES", (30, 75))
    found = search(tiny.dataset(per_class=(60, 60, 60, 60)), 18_000).choose()
    assert " images as webp at quality " in found.says[0]
    assert found.recipe.store.settings["codec"]["chroma"] == "420"


def test_no_class_gives_more_than_half_of_its_images_to_choose_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset(per_class=(90, 90, 3, 90))
    held = search(data, 16_000)._held()
    assert held.validation == 4
    assert Real(data, held.validation).of_class(2).numel() == 2


def test_a_class_of_one_image_is_refused_unless_the_whole_set_fits() -> None:
    data = tiny.dataset(per_class=(90, 90, 1, 90))
    with pytest.raises(DatastillError, match="class 'class 2' has one training image in all; add some, or leave"):
        search(data, 18_000).choose()
    assert search(data, 10_000_000).choose().says[0].startswith("The whole training set fits: 271 images")


def test_a_budget_that_holds_the_whole_set_says_so_and_tries_nothing(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "_trials", lambda self, folder: pytest.fail("nothing has to be tried"))
    found = search(digits, 10_000_000).choose()
    assert found.says[0].startswith("The whole training set fits: 1,438 images as webp-lossless")
    assert found.recipe.store.settings["total"] == len(digits.train)
    made = distil(digits, found.recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    assert made.content.items.cls.bincount().tolist() == digits.train.labels.bincount().tolist()


def test_the_best_trial_is_bought_and_the_rest_is_told(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, coarse = (PictureCodec(format="avif", quality=q, tiles=1024) for q in (75, 30))
    trials = [Trial(fine, "hard", 300, 28.0, 71.0), Trial(coarse, "hard", 700, 12.0, 80.5)]
    monkeypatch.setattr(Budget, "_trials", lambda self, folder: trials)
    found = search(digits, 20_000).choose()
    assert found.recipe.store.settings["codec"]["quality"] == 30
    assert found.recipe.label.kind == "hard"
    assert found.recipe.networks == {}
    bought, why, others = found.says
    assert "with hard labels" in bought
    assert "avif at quality 30 (12 bytes each)" in bought
    assert "143 held-out training images" in why
    assert "80.5 %, of 2 trials" in why
    assert "300 images as avif at quality 75 with hard labels: 71.0 %" in others
    assert "soft labels, which need trained networks, were not tried" in others


def test_a_search_tries_every_quality_and_what_the_law_expects_most_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tiny.dataset(per_class=(60, 60, 60, 60))
    monkeypatch.setattr(module, "STUDENT", "convnet(width=8)")
    found = search(data, 16_000)
    trials = found._trials(tmp_path)
    assert {t.codec.quality for t in trials} >= set(module.QUALITIES)
    assert all(0 <= t.top1 <= 100 for t in trials)
    assert {t.label for t in trials} == {"hard"}
    for quality in module.QUALITIES:
        sizes = sorted(t.images for t in trials if t.codec.quality == quality)
        assert sizes[0] >= 4
        assert sizes[-1] <= 240 - 24  # the images that were held out are not among them
    for trial in trials:  # what was tried would have fitted
        assert found._weigh(trial.codec, "hard", trial.images, found._held()) <= 16_000 * 1.03


def test_choices_are_made_without_a_look_at_test_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = tiny.dataset(per_class=(40, 40, 40, 40))
    monkeypatch.setattr(module, "STUDENT", "convnet(width=8)")
    blank = replace(data, test=replace(data.test, pixels=data.test.pixels[:0], labels=data.test.labels[:0], ids=()))
    assert search(blank, 15_500).choose().recipe.validation == 0


def spend(data: Dataset, size: int, quality: int, folder: Path) -> int:
    """Fill a budget at a quality, distil what was found, and return what its folder weighs."""
    found = search(data, size)
    codec = PictureCodec(format="avif", quality=quality, tiles=1024)
    recipe = found._recipe(codec, "hard", found._fill(codec, "hard"))
    distil(data, recipe, device=found.device, reporter=Reporter(), out=folder, command="", source=None)
    return folder_bytes(folder)


def test_a_budget_is_spent_and_not_exceeded(digits: Dataset, tmp_path: Path) -> None:
    for i, size in enumerate((16_000, 21_500, 30_000)):
        spent = spend(digits, size, 60, tmp_path / str(i))
        assert 0.9 * size < spent <= size


@pytest.mark.slow
@pytest.mark.timeout(600)  # some three hundred sets are made
def test_fifty_budgets_are_never_exceeded(digits: Dataset, tmp_path: Path) -> None:
    draw = rng(0, "budgets")
    for i in range(50):
        size, quality = int(np.exp(draw.uniform(np.log(16_000), np.log(60_000)))), int(draw.integers(20, 90))
        assert spend(digits, size, quality, tmp_path / str(i)) <= size


def test_a_folder_weighs_what_its_files_and_directories_do(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(1234))
    directories = (path.stat().st_size for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"))
    assert folder_bytes(tmp_path) == 1234 + sum(max(4096, size) for size in directories)


def test_codecs_are_named_as_people_say_them() -> None:
    assert named(PictureCodec(format="avif", quality=45)) == "avif at quality 45"
    assert named(PictureCodec()) == "webp-lossless"
