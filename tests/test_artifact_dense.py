"""The artifact under dense labels: they come back with their boxes, are weighed, are described, and refused if odd."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.export import FORMS, export
from datastill.fields import FixedBoxes
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.folders import claim, manifest, refused

LOGITS = "labels/logits.safetensors"


def recipe_of(codec: str = "fp16", **settings: Any) -> dict[str, Any]:
    label = choice("dense", **({"grid": 3, "codec": {"kind": codec, "k": 2}} | settings))
    return {"label": label, "match": choice("none")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A set of 24 items with ten labels each that nobody writes to."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder, **recipe_of())
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "set")


@pytest.mark.parametrize("codec", ["fp16", "int4", "topk", "klt"])
@pytest.mark.parametrize("views", ["pair", "flat"])
def test_a_loaded_set_gives_students_the_batches_of_the_one_in_memory(codec: str, views: str, tmp_path: Path) -> None:
    made = distil(tiny.dataset(), tiny.recipe(**recipe_of(codec, views=views)), device=tiny.device(),
                  reporter=Reporter())  # fmt: skip
    made.save(tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert loaded.labels.views == made.labels.views == FixedBoxes(3, 0.625, "side", whole=True)
    assert made.labels.values is not None
    assert loaded.labels.values is not None
    assert loaded.labels.values.shape == (240, 4)
    assert torch.equal(loaded.labels.values, made.labels.values)
    one, two = (each.loader(7, seed=2) for each in (made, loaded))
    for (x, target), (other_x, other) in zip(one, two, strict=True):
        assert len(x) == len(target) == {"pair": 14, "flat": 7}[views]
        assert torch.equal(x, other_x)
        assert torch.equal(target, other)


def test_only_labels_are_stored_and_all_of_them_are_weighed(whole: Path, tmp_path: Path) -> None:
    static = tiny.distilled(tmp_path / "static", label=choice("static"), match=choice("none"))
    dense, stored = DistilledDataset.load(whole), load_file(whole / LOGITS)
    assert {name: tuple(a.shape) for name, a in stored.items()} == {"label.logits": (240, 4)}
    mine, theirs = dense.ledger(), static.ledger()
    assert mine["labels"] == (whole / LOGITS).stat().st_size
    assert mine["labels"] - theirs["labels"] == 24 * 9 * 4 * 2  # items, boxes, classes, bytes of a float16
    for kind in ("natural images", "compensators", "items", "teachers"):
        assert mine[kind] == theirs[kind]
    assert manifest(whole)["files"].keys() == manifest(tmp_path / "static")["files"].keys()


def test_the_manifest_says_which_boxes_and_what_their_labels_say(whole: Path, tmp_path: Path) -> None:
    made = manifest(whole)
    assert made["labels"]["views"] == {"grid": 3, "ratio": 0.625, "ratio_of": "side", "whole": True}
    assert made["counts"]["labels"].keys() == {"agreement", "entropy", "whole"}
    assert len(made["counts"]["labels"]["agreement"]) == 9
    tiny.distilled(tmp_path / "global", **recipe_of(views="global"))
    without = manifest(tmp_path / "global")
    assert "views" not in without["labels"]
    assert "labels" not in without["counts"]


def test_without_boxes_the_file_of_labels_is_that_of_static_ones(tmp_path: Path) -> None:
    tiny.distilled(tmp_path / "global", **recipe_of(views="global"))
    tiny.distilled(tmp_path / "static", label=choice("static"), match=choice("none"))
    assert (tmp_path / "global" / LOGITS).read_bytes() == (tmp_path / "static" / LOGITS).read_bytes()


def test_what_was_loaded_is_saved_as_it_was(whole: Path, tmp_path: Path) -> None:
    DistilledDataset.load(whole).save(tmp_path / "again")
    for name in [*manifest(whole)["files"], "manifest.json"]:
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_card_tells_where_boxes_stand(whole: Path) -> None:
    text = " ".join((whole / "README.md").read_text(encoding="utf-8").split())
    assert "one vector of logits per view of an item (column S)" in text
    assert "row i * 10 + v for label v of item i: the first is that of the whole item" in text
    assert "A box has 5 x 5 pixels. Boxes begin at the rows 0, 2, 3 and the columns 0, 2, 3" in text


@pytest.mark.parametrize("rows", [24, 216, 239, 264])
def test_another_number_of_labels_than_boxes_is_refused(copy: Path, rows: int) -> None:
    save_file({"label.logits": torch.zeros(rows, 4).half()}, copy / LOGITS)
    claim(copy, lambda m: None)
    refused(copy, rf"logits\.safetensors' holds .*\[{rows}, 4\].*, but the manifest says .*\[240, 4\]")


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m["labels"].pop("views"), "belong to the views None, but its recipe makes"),
    (lambda m: m["labels"]["views"].update(grid=2), "'grid': 2.*but its recipe makes labels of the views.*'grid': 3"),
    (lambda m: m["recipe"]["label"].update(own="hard"), "'whole': True.*'whole': False"),
    (lambda m: m["recipe"]["label"].update(views="global"), "'grid': 3.*but its recipe makes labels of the views None"),
    (lambda m: m["recipe"]["label"].update(own="hard", local="hard"), "'logits', which its recipe does not make"),
    (lambda m: m["recipe"]["label"].update(grid=10**6), "'label.grid' must be between 1 and 32, not 1000000"),
]


@pytest.mark.parametrize(("edit", "said"), EDITS)
def test_boxes_that_the_recipe_does_not_make_are_refused(copy: Path, edit: Any, said: str) -> None:
    claim(copy, edit)
    refused(copy, said)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_has_one_label_per_picture_and_refuses_those_of_boxes(whole: Path, form: str, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=r"belong to 10 views of each item; .* distil it with label=static\."):
        export(DistilledDataset.load(whole), form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"weight": 0.5}, {"own": "hard"}, {"local": "hard", "views": "flat"}])
def test_a_loader_refuses_pictures_that_count_differently_or_are_told_in_two_ways(settings: dict[str, Any]) -> None:
    made = distil(tiny.dataset(), tiny.recipe(**recipe_of(**settings)), device=tiny.device(), reporter=Reporter())
    with pytest.raises(DatastillError, match=r"do not all count alike, or are told in two ways.*label\.weight=1"):
        made.loader()


def test_a_loader_gives_one_hot_targets_where_nothing_is_soft() -> None:
    made = distil(tiny.dataset(), tiny.recipe(**recipe_of(own="hard", local="hard")), device=tiny.device(),
                  reporter=Reporter())  # fmt: skip
    images, targets = next(iter(made.loader(6)))
    assert images.shape == (12, *tiny.SHAPE)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
