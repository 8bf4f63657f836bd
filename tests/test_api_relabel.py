"""Sets that are labelled anew: the same images to the bit, other labels, and what the manifest says of both."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill import DatastillError, DistilledDataset, distill, relabel
from datastill.cli import main
from datastill.engine import label_content, make_context
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.folders import manifest

AVIF = {"format": "avif", "quality": 60, "chroma": "444", "tiles": 16}
SETS: dict[str, dict[str, Any]] = {
    "infer": {},
    "coded": {"store": choice("coded", per_class=5, codec=AVIF), "match": choice("none")},
    "synthetic": {"store": choice("synthetic"), "match": choice("none")},
}
LABELS = {
    "static": ["label.codec.kind=int4"],
    "views": ["label.views=3", "student.crop=2"],
    "replayed": ["label.epochs=2", "student.mix=cutmix"],
    "dynamic": [],
    "hard": [],
}


@pytest.fixture(scope="module", params=SETS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A set with static labels that nobody writes to."""
    folder = tmp_path_factory.mktemp("relabel") / "set"
    tiny.distilled(folder, **SETS[request.param])
    return folder


def anew(folder: Path, label: str, out: Path, *changes: str, **options: Any) -> DistilledDataset:
    given: dict[str, Any] = {"dataset": tiny.dataset(), "device": "cpu", "precision": "float32"}
    return relabel(folder, label, out=out, changes=changes, **given | options)


@pytest.mark.parametrize("label", LABELS)
def test_new_labels_are_those_that_the_same_images_get_in_memory(made: Path, label: str, tmp_path: Path) -> None:
    anew(made, label, tmp_path / "new", *LABELS[label])
    old, new = DistilledDataset.load(made), DistilledDataset.load(tmp_path / "new")
    assert torch.equal(old.expand().images, new.expand().images)
    assert (new.labels.kind, new.recipe.label.kind) == (new.fields.label.kind, label)
    recipe = old.recipe.changed([f"label={label}", *LABELS[label]])
    assert new.recipe == recipe
    ctx = make_context(tiny.dataset(), recipe, tiny.device(), Reporter())
    wanted = label_content(ctx, old.content, {}).labels
    assert (new.labels.views, new.labels.teachers) == (wanted.views, wanted.teachers)
    assert (new.labels.values is None) == (wanted.values is None)
    if wanted.values is not None and new.labels.values is not None:
        assert torch.equal(new.labels.values, wanted.values)
    if wanted.records is not None:
        assert new.labels.records is not None
        for one, two in zip(new.labels.records.files, wanted.records.files, strict=True):
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list(tmp_path.glob(".*"))


def test_images_are_the_files_that_they_were(made: Path, tmp_path: Path) -> None:
    anew(made, "hard", tmp_path / "new")
    for name in manifest(made)["files"]:
        if not name.startswith("labels/") and name != "README.md":
            assert (tmp_path / "new" / name).read_bytes() == (made / name).read_bytes(), name
    assert not (tmp_path / "new" / "labels").exists()


def test_the_manifest_says_what_the_set_was_before_and_before_that(made: Path, tmp_path: Path) -> None:
    anew(made, "hard", tmp_path / "hard", command="datastill relabel")
    anew(tmp_path / "hard", "static", tmp_path / "static", "label.codec.kind=fp32")
    first, second = manifest(tmp_path / "hard"), manifest(tmp_path / "static")
    before = hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()
    assert first["relabelled"]["manifest"] == before
    assert first["relabelled"]["label"] == {"kind": "static"}
    assert first["relabelled"].keys() == {"manifest", "label", "versions", "device", "command"}
    assert first["command"] == "datastill relabel"
    assert "label_error" not in first["counts"]
    assert second["relabelled"]["label"] == {"kind": "hard"}
    assert second["relabelled"]["command"] == "datastill relabel"
    assert second["relabelled"]["relabelled"] == first["relabelled"]
    assert "relabelled" not in manifest(made)
    same = ("source", "real_bytes", "expanded", "data", "pictures", "items", "arrays")
    assert all(manifest(made)[key] == first[key] == second[key] for key in same)


def test_what_the_images_took_is_kept_and_what_labels_took_is_new(made: Path, tmp_path: Path) -> None:
    reporter = Reporter({"label": 1000.0, "another": 5.0})
    anew(made, "static", tmp_path / "new", reporter=reporter)
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (made, tmp_path / "new"))
    assert 0 < after["seconds"]["label"] < 100
    assert "another" not in after["seconds"]
    images = {name: s for name, s in before["seconds"].items() if not name.startswith(("label", "train "))}
    assert images.items() <= after["seconds"].items()
    assert after["origin"] == before["origin"]


def test_a_set_that_nobody_timed_is_not_timed_by_its_labels_alone(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "set", ignore=shutil.ignore_patterns("run.json"))
    anew(tmp_path / "set", "hard", tmp_path / "new")
    assert not (tmp_path / "new" / "run.json").exists()


def refused(sentence: str, folder: Any, label: str, out: Path, *changes: str, **options: Any) -> None:
    with pytest.raises(DatastillError, match=sentence) as error:
        anew(folder, label, out, *changes, **options)
    assert str(error.value).endswith((".", "?"))


@pytest.fixture(scope="module")
def infer(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    folder = tmp_path_factory.mktemp("relabel") / "set"
    tiny.distilled(folder)
    return folder


def test_only_what_students_are_told_can_be_changed(infer: Path, tmp_path: Path) -> None:
    refused("'ipc=3' would change more than what students are told", infer, "hard", tmp_path / "new", "ipc=3")
    refused(r"'store\.render=float' would change more", infer, "hard", tmp_path / "new", "store.render=float")
    refused("there is no label 'statc'; did you mean 'static'", infer, "statc", tmp_path / "new")
    refused(r"there is no setting 'label\.view'", infer, "static", tmp_path / "new", "label.view=3")
    refused("give 9 of an item; ask for at most so many", infer, "views", tmp_path / "new", "label.views=10")
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_written_over(infer: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "file", infer):
        refused("is not an empty folder; choose another --out", infer, "hard", out)
    (tmp_path / "empty").mkdir()
    anew(infer, "hard", tmp_path / "empty")
    assert DistilledDataset.load(tmp_path / "empty").labels.kind == "classes"


def test_a_run_that_is_killed_leaves_no_half_of_a_set(
    infer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DistilledDataset, "_manifest", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            anew(infer, "hard", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert anew(infer, "hard", tmp_path / "new").folder == tmp_path / "new"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_another_data_set_and_a_set_in_memory_are_refused(infer: Path, tmp_path: Path) -> None:
    refused("is not the data set that", infer, "static", tmp_path / "new", dataset=tiny.dataset(seed=1))
    kept = distill(tiny.dataset(), tiny.recipe(label=choice("hard"), match=choice("none")), device="cpu")
    refused(r"labelled anew from its folder; save this one first", kept, "static", tmp_path / "new")
    refused("holds no distilled set", tmp_path / "nowhere", "static", tmp_path / "new")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def test_the_command_labels_anew_from_the_manifest_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert run("distill", "digits", "--method", "random", "--ipc", "2", "--classes", "0,1", "--device", "cpu",
               "--teachers", "convnet(width=8)", "--set", "networks.*.training.epochs=1", "--set", "label=hard",
               "--set", "student.epochs=2", "--out", old) == 0  # fmt: skip
    words = ("relabel", old, "--label", "replayed", "--set", "label.codec.kind=int8", "--out", new, "--device", "cpu")
    monkeypatch.setattr(sys, "argv", ["datastill", *words])
    assert run(*words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "labels: replayed" in said
    made = DistilledDataset.load(new)
    assert made.recipe.label == choice("replayed", codec={"kind": "int8"})
    assert f"{made.ledger()['labels']:,}" in said
    assert made.facts["command"].startswith("datastill relabel")
    assert "--out DIR" in made.facts["command"]
    assert run("relabel", old, "--label", "static", "--out", new) == 2
    assert "is not an empty folder; choose another --out" in capsys.readouterr().err
    assert run("relabel", old, "--label", "static", "--set", "ipc=2", "--out", new + "er") == 2
