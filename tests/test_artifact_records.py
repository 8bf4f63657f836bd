"""The artifact under labels of recorded batches: they come back, are weighed, and are refused if odd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

from datastill import evaluate
from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.export import FORMS, export
from datastill.label import replayed
from datastill.measure.arms import Arm
from datastill.measure.proxies.continual import continual
from datastill.recipe import TrainRecipe, choice
from datastill.runtime.progress import Reporter
from datastill.training.supply import Batch
from reference import tiny
from reference.folders import claim, manifest, refused
from reference.pages import blocks, name_of, table

STUDENT = replace(tiny.STUDENT, crop=2, flip=True, mix="cutmix", cutout=3, shuffle_tiles=2)
FIRST, LAST = "labels/00000.safetensors", "labels/00001.safetensors"


def recipe_of(codec: str = "fp16", student: TrainRecipe = STUDENT, **changes: Any) -> dict[str, Any]:
    """Return a recipe whose nine recorded batches of 8 items, three epochs of 24, lie in two files."""
    label = choice("replayed", epochs=3, codec={"kind": codec, "k": 2})
    return {"label": label, "match": choice("none"), "student": student, "seed": 5} | changes


@pytest.fixture(scope="module", autouse=True)
def _small_files() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replayed, "FILE", 5 * 8 * 4)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_cache: None, _small_files: None) -> Path:
    """A set that nobody writes to."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder, **recipe_of())
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "set")


def batches(made: DistilledDataset, steps: int = 20) -> list[Batch]:
    recipe = made.recipe.student
    return list(
        made.fields.label.supply(made.expand(), recipe.work(24, steps), recipe, 0, device=torch.device("cpu"))
    )  # fmt: skip


# --- the round trip ---


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int4", "topk", "klt"])
def test_a_loaded_set_gives_students_the_batches_of_the_one_in_memory(codec: str, tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", **recipe_of(codec))
    for one, two in zip(batches(made), batches(DistilledDataset.load(tmp_path / "set")), strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.rows, two.rows)
        torch.testing.assert_close(one.target, two.target, rtol=0, atol=1e-5 if codec == "klt" else 0)


def test_what_was_loaded_is_saved_as_it_was(whole: Path, tmp_path: Path) -> None:
    DistilledDataset.load(whole).save(tmp_path / "again")
    assert {FIRST, LAST} <= manifest(whole)["files"].keys()
    for name in [*manifest(whole)["files"], "manifest.json"]:
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_ledger_counts_views_and_labels_as_they_lie_on_disk(whole: Path) -> None:
    ledger = DistilledDataset.load(whole).ledger()
    files = [whole / FIRST, whole / LAST]
    assert ledger["labels"] == sum(path.stat().st_size for path in files)
    assert ledger["teachers"] == 0
    values = sum(a.numel() * a.element_size() for path in files for a in load_file(path).values())
    # A batch of B items: 2 K bytes of logits each, then rows, tiles, shift, hole and partner; flips, share and box.
    assert values == 9 * (8 * (2 * 4 + 1 + 4 + 2 + 4 + 1) + 1 + 8 + 8)
    assert 0 < ledger["labels"] - values < 2 * 1000  # names, types and shapes


def test_the_manifest_says_which_batches_there_are(whole: Path) -> None:
    labels = manifest(whole)["labels"]
    assert labels == {
        "kind": "replayed", "teachers": [], "codec": {"kind": "fp16", "k": 2, "error": 0.01},
        "records": {"count": 9, "batch": 8, "crop": 2, "cutout": 3, "per_file": 5},
    }  # fmt: skip
    text = (whole / "README.md").read_text(encoding="utf-8")
    assert "recorded batches, one vector of logits per item of a batch (column D)" in text
    assert "9 recorded batches of 8 items, 5 in each file but the last" in text
    assert len([name for name in manifest(whole)["files"] if name.startswith("labels/")]) == 2


@pytest.mark.parametrize(
    "student", [STUDENT, replace(STUDENT, mix="mixup", cutout=0), replace(STUDENT, crop=0, flip=False, mix="none")]
)
def test_a_batch_is_rebuilt_from_the_files_as_the_page_of_the_artifact_says(
    student: TrainRecipe, tmp_path: Path
) -> None:
    (page,) = (block for block in blocks("artifact.md") if "def batch_of" in block.text)
    names: dict[str, Any] = {}
    exec(compile(page.text, "artifact.md", "exec"), names)
    made = tiny.distilled(tmp_path / "set", **recipe_of("fp32", student))
    images = made.expand().images.numpy().astype(np.float64) / 255
    said = manifest(tmp_path / "set")["labels"]["records"]
    for step, batch in enumerate(islice(batches(made), 9)):
        file, n = divmod(step, said["per_file"])
        arrays = load_numpy(tmp_path / "set" / f"labels/{file:05d}.safetensors")
        found = names["batch_of"](arrays, n, images, said["crop"], said["cutout"])
        assert np.abs(found - batch.x.numpy()).max() < 1e-6
        assert np.array_equal(arrays["label.logits"].reshape(-1, 8, 4)[n], batch.target.numpy())
    listed = {name for row in table("artifact.md", "records") for name in name_of(row[0])}
    assert {name for name in arrays if name.startswith("view.")} <= listed


def test_a_loader_goes_on_from_epoch_to_epoch_and_begins_anew(whole: Path) -> None:
    loader = DistilledDataset.load(whole).loader(seed=3)
    epochs = [list(loader) for _ in range(4)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(epochs[0], epochs[3], strict=True))
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    with pytest.raises(DatastillError, match="whole batches of 8"):
        next(iter(DistilledDataset.load(whole).loader(batch_size=7)))


# --- what is refused ---


@pytest.mark.parametrize("name", [FIRST, LAST])
def test_a_record_whose_items_stand_in_another_order_fails_its_checksum(copy: Path, name: str) -> None:
    arrays = load_file(copy / name)
    arrays["view.rows"] = arrays["view.rows"].flip(1).contiguous()
    save_file(arrays, copy / name)
    refused(copy, f"'{copy / name}' is not the file that the manifest describes: its SHA-256 differs")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_short_damaged_and_missing_files_are_refused(copy: Path) -> None:
    cut(copy / LAST)
    refused(copy, r"00001\.safetensors' has \d+ bytes, but the manifest says")
    claim(copy)
    refused(copy, r"00001\.safetensors' is damaged")
    (copy / LAST).unlink()
    refused(copy, r"00001\.safetensors' is named in the manifest but is not there")
    claim_without = manifest(copy)
    claim_without["files"].pop(LAST)
    (copy / "manifest.json").write_text(json.dumps(claim_without), encoding="utf-8")
    refused(copy, "does not name 'labels/00001.safetensors', which its other entries need")


ARRAYS: list[tuple[str, Callable[[dict[str, torch.Tensor]], object], str]] = [
    (LAST, lambda a: a.update({n: v[:3].clone() for n, v in a.items()}), "records batches as"),
    (FIRST, lambda a: a.pop("view.lam"), "records batches as"),
    (FIRST, lambda a: a["view.rows"].fill_(24), "has values of 'rows' that no batch of this set can have"),
    (FIRST, lambda a: a["view.partner"].fill_(0), "has values of 'partner'"),
    (FIRST, lambda a: a.update({"label.logits": a["label.logits"][:39].clone()}), r"holds .*\[39, 4\].*\[40, 4\]"),
    (LAST, lambda a: a.update({"label.logits": a["label.logits"].float()}), "float32"),
    (LAST, lambda a: a["label.logits"].fill_(float("nan")), "holds logits that are no numbers"),
    (LAST, lambda a: a.update({"more": torch.zeros(2)}), "holds an array 'more', which belongs to no recorded batch"),
]


@pytest.mark.parametrize(("name", "edit", "said"), ARRAYS)
def test_arrays_that_are_no_records_are_refused_by_file(copy: Path, name: str, edit: Any, said: str) -> None:
    arrays = load_file(copy / name)
    edit(arrays)
    save_file(arrays, copy / name)
    claim(copy)
    refused(copy, f"{Path(name).stem}.*{said}")


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m["labels"].pop("records"), "not a manifest of this format"),
    (lambda m: m["labels"]["records"].pop("per_file"), "not a manifest of this format"),
    (lambda m: m["labels"]["records"].update(per_file=0), "9 recorded batches, 0 in a file"),
    (lambda m: m["labels"]["records"].update(count=-3), "-3 recorded batches, 5 in a file"),
    (lambda m: m["labels"]["records"].update(count=10**12), "does not name 'labels/00002.safetensors'"),
    (lambda m: m["labels"]["records"].update(count=8), "'count': 8.*but its recipe records .*'count': 9"),
    (lambda m: m["labels"]["records"].update(more=1), "'more': 1"),
    (lambda m: m["labels"]["records"].update(per_file=6), r"00000\.safetensors' records batches as"),
    (lambda m: m["recipe"]["student"].update(batch=6), "'batch': 8.*but its recipe records .*'batch': 6"),
    (lambda m: m["recipe"]["student"].update(crop=3), "'crop': 2.*'crop': 3"),
    (lambda m: m["recipe"]["student"].update(flip=False), r"00000\.safetensors' records batches as"),
    (lambda m: m["recipe"]["label"].update(epochs=2), "'count': 9.*'count': 6"),
    (lambda m: m["recipe"].update(label="dynamic"), "says that its labels are 'replayed', which its recipe does not"),
    (lambda m: m["labels"].update(kind="teachers"), "says that its labels are 'teachers', which its recipe does not"),
]


@pytest.mark.parametrize(("edit", "said"), EDITS)
def test_batches_that_the_recipe_does_not_record_are_refused(copy: Path, edit: Any, said: str) -> None:
    claim(copy, edit)
    refused(copy, said)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_refuses_labels_that_belong_to_no_picture(whole: Path, form: str, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=r"belong to 9 recorded batches; .* label it anew with label=static\."):
        export(DistilledDataset.load(whole), form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_memory_of_some_classes_refuses_batches_of_all_of_them(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="belong to recorded batches of all of them; label it anew"):
        continual(
            DistilledDataset.load(whole), tiny.dataset(), run=tmp_path, groups=2, device=tiny.device(),
            reporter=Reporter(),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_a_student_meets_has_the_records_in_its_key(whole: Path, copy: Path) -> None:
    first = Arm("a", "", DistilledDataset.load(whole))
    assert first.key == Arm("b", "", DistilledDataset.load(copy)).key
    arrays = load_file(copy / LAST)
    arrays["label.logits"][0] += 1
    save_file(arrays, copy / LAST)
    claim(copy)
    assert first.key != Arm("a", "", DistilledDataset.load(copy)).key


def test_students_of_recorded_batches_are_measured_in_column_d_with_the_bytes_of_their_labels(
    whole: Path, tmp_path: Path
) -> None:
    results = evaluate(
        whole, ["convnet(width=8)"], 1, dataset=tiny.dataset(), steps=12, controls=["random_soft", "other_steps"],
        device="cpu", run=tmp_path / "run",
    )  # fmt: skip
    rows = {row["arm"]: row for row in results["rows"]}
    assert rows.keys() == {"infer", "random_soft", "other_steps"}
    assert {row["column"] for row in rows.values()} == {"D"}
    assert rows["infer"]["label_bytes"] == DistilledDataset.load(whole).ledger()["labels"]
    assert rows["random_soft"]["label_bytes"] > 0
    assert rows["other_steps"]["steps"] == 4  # as for stored labels: in the loop it would be three times as many
    assert rows["infer"]["same_work"]
