"""The artifact under labels of views: they come back with their views, are weighed, and are refused if odd."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.export import FORMS, export
from datastill.fields import SeededViews
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import augment, seeded, tiny
from reference.folders import claim, manifest, refused

STUDENT = replace(tiny.STUDENT, crop=2, flip=True)
SEEN = SeededViews(count=3, seed=5, crop=2, flip=True)
LOGITS = "labels/logits.safetensors"


def recipe_of(codec: str = "fp16", **changes: Any) -> dict[str, Any]:
    label = choice("views", views=3, codec={"kind": codec, "k": 2})
    return {"label": label, "match": choice("none"), "student": STUDENT, "seed": 5} | changes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A set of 24 items with three labels each that nobody writes to."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder, **recipe_of())
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "set")


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int4", "topk", "klt"])
def test_a_loaded_set_gives_students_the_batches_of_the_one_in_memory(codec: str, tmp_path: Path) -> None:
    made = distil(tiny.dataset(), tiny.recipe(**recipe_of(codec)), device=tiny.device(), reporter=Reporter())
    made.save(tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert loaded.labels.views == made.labels.views == SEEN
    assert made.labels.values is not None
    assert loaded.labels.values is not None
    assert loaded.labels.values.shape == (72, 4)
    assert torch.equal(loaded.labels.values, made.labels.values)
    for batch_size in (7, 24):
        one, two = (each.loader(batch_size, seed=2) for each in (made, loaded))
        for _ in range(4):
            for (x, target), (other_x, other) in zip(one, two, strict=True):
                assert torch.equal(x, other_x)
                assert torch.equal(target, other)


def test_only_labels_are_stored_and_all_of_them_are_weighed(whole: Path, tmp_path: Path) -> None:
    static = tiny.distilled(tmp_path / "static", **recipe_of(label=choice("static")))
    views, stored = DistilledDataset.load(whole), load_file(whole / LOGITS)
    assert {name: tuple(a.shape) for name, a in stored.items()} == {"label.logits": (72, 4)}
    mine, theirs = views.ledger(), static.ledger()
    assert mine["labels"] == (whole / LOGITS).stat().st_size
    assert mine["labels"] - theirs["labels"] == 2 * 24 * 4 * 2
    for kind in ("natural images", "compensators", "items", "teachers"):
        assert mine[kind] == theirs[kind]
    assert manifest(whole)["files"].keys() == manifest(tmp_path / "static")["files"].keys()


def test_the_manifest_says_which_views_and_says_nothing_of_them_elsewhere(whole: Path, tmp_path: Path) -> None:
    labels = manifest(whole)["labels"]
    assert labels["views"] == {"count": 3, "seed": 5, "crop": 2, "flip": True}
    assert labels.keys() == {"kind", "teachers", "codec", "views"}
    assert manifest(whole)["counts"]["label_error"].keys() == {"kl", "top1"}
    one = recipe_of(label=choice("views", views=1))
    for name, changes in {"static": recipe_of(label=choice("static")), "one": one}.items():
        made = tiny.distilled(tmp_path / name, **changes)
        assert made.labels.views is None
        assert manifest(tmp_path / name)["labels"].keys() == {"kind", "teachers", "codec"}
        assert DistilledDataset.load(tmp_path / name).labels.views is None
    assert (tmp_path / "static" / LOGITS).read_bytes() == (tmp_path / "one" / LOGITS).read_bytes()


def test_what_was_loaded_is_saved_as_it_was(whole: Path, tmp_path: Path) -> None:
    DistilledDataset.load(whole).save(tmp_path / "again")
    for name in [*manifest(whole)["files"], "manifest.json"]:
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("flip", [True, False])
def test_the_card_tells_how_to_rebuild_a_view(flip: bool, tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", **recipe_of(student=replace(STUDENT, flip=flip)))
    text = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert "one vector of logits per view of an item (column S)" in text
    assert "row i * 3 + v to view v of item i" in text
    assert "a black border of 2 pixels" in text
    *_, code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = made.expand().images.numpy()
    for i in (0, 13, 23):
        for v in range(3):
            names: dict[str, Any] = {"i": i, "v": v, "hashlib": hashlib, "numpy": np}
            exec(compile(code, "README.md", "exec"), names)
            found = augment.cropped(images[i], 2, (names["a"], names["b"]), bool(names["m"]))
            assert np.array_equal(found, seeded.seen(images[i], i, v, replace(SEEN, flip=flip)))


@pytest.mark.parametrize("rows", [24, 48, 71, 73, 96])
def test_another_number_of_labels_than_views_is_refused(copy: Path, rows: int) -> None:
    save_file({"label.logits": torch.zeros(rows, 4).half()}, copy / LOGITS)
    claim(copy, lambda m: None)
    refused(copy, rf"logits\.safetensors' holds .*\[{rows}, 4\].*, but the manifest says .*\[72, 4\]")


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m["labels"].pop("views"), "belong to the views None, but its recipe makes"),
    (
        lambda m: m["labels"]["views"].update(count=2),
        "'count': 2.*but its recipe makes labels of the views.*'count': 3",
    ),
    (lambda m: m["labels"]["views"].update(more=1), "'more': 1"),
    (lambda m: m["labels"].update(views="all"), "belong to the views all"),
    (lambda m: m["recipe"].update(seed=6), "'seed': 5.*'seed': 6"),
    (lambda m: m["recipe"]["student"].update(crop=3), "'crop': 2.*'crop': 3"),
    (lambda m: m["recipe"]["student"].update(flip=False), "'flip': True.*'flip': False"),
    (lambda m: m["recipe"].update(label="static"), "'count': 3.*but its recipe makes labels of the views None"),
    (lambda m: m["recipe"]["label"].update(views=10**9), "'label.views' must be between 1 and 256, not 1000000000"),
]


@pytest.mark.parametrize(("edit", "said"), EDITS)
def test_views_that_the_recipe_does_not_make_are_refused(copy: Path, edit: Any, said: str) -> None:
    claim(copy, edit)
    refused(copy, said)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_has_one_label_per_picture_and_refuses_those_of_views(whole: Path, form: str, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=r"belong to 3 views of each item; .* distil it with label=static\."):
        export(DistilledDataset.load(whole), form, tmp_path / "out")
    assert not (tmp_path / "out").exists()
