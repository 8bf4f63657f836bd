"""The artifact: what is written comes back bit for bit, in a layout that others can read, and is weighed as it lies."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from datastill import artifact, layout
from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import registered
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.folders import manifest

ODD_NAMES = ("a/b", "..", 'say "x"', "<b>& \u2713\u00e9")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A folder that nobody writes to."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A folder with networks in it that nobody writes to."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder, label=choice("dynamic"))
    return folder


# --- the round trip ---


@pytest.mark.parametrize("label", registered("label"))
def test_a_set_comes_back_bit_for_bit_under_every_label(label: str, tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", label=tiny.chosen("label", label))
    loaded = DistilledDataset.load(tmp_path / "set")
    one, two = made.expand(), loaded.expand()
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.cls, two.cls)
    assert one.labels.kind == two.labels.kind
    assert one.labels.teachers == two.labels.teachers
    assert (one.labels.values is None) == (two.labels.values is None)
    if one.labels.values is not None and two.labels.values is not None:
        assert one.labels.values.dtype == two.labels.values.dtype == torch.float32
        assert torch.equal(one.labels.values, two.labels.values)
    assert (made.recipe, made.info, made.classes) == (loaded.recipe, loaded.info, loaded.classes)
    assert loaded.facts == json.loads(json.dumps(made.facts))


@pytest.mark.parametrize("storage", ["int8", "fp16", "jpeg75"])
@pytest.mark.parametrize("render", ["uint8", "float"])
def test_a_set_comes_back_bit_for_bit_under_every_form_of_storage(storage: str, render: str, tmp_path: Path) -> None:
    store = choice("compensated", storage=storage, render=render, leftover="natural")
    made = tiny.distilled(tmp_path / "set", store=store)
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(made.expand().images, loaded.expand().images)
    assert made.expand().images.dtype == loaded.expand().images.dtype
    assert made.ledger() == loaded.ledger()


def test_networks_come_back_frozen_and_bit_for_bit_and_move_no_random_state(taught: Path) -> None:
    loaded = DistilledDataset.load(taught)
    ctx = tiny.context()
    assert list(loaded.teachers) == ["first", "second"]
    for name, network in loaded.teachers.items():
        kept = ctx.network(name).state_dict()
        assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items())
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_saving_what_was_loaded_writes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    DistilledDataset.load(whole).save(tmp_path / "again")
    for name in [*manifest(whole)["files"], "manifest.json"]:
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("label", registered("label"))
def test_two_runs_of_one_recipe_write_the_same_bytes(label: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny.distilled(tmp_path / name, label=tiny.chosen("label", label))
    names = [*manifest(tmp_path / "one")["files"], "manifest.json"]
    assert {p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one").rglob("*") if p.is_file()} == {
        *names, "run.json",
    }  # fmt: skip
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = distil(tiny.dataset(), tiny.recipe(), device=tiny.device(), reporter=Reporter())
    writers = [(layout, "_write_table"), *((artifact, name) for name in ("save_arrays", "write_bytes", "write_json"))]
    for number, (place, name) in enumerate(writers):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, broken)
            with pytest.raises(OSError, match="no more"):
                made.save(tmp_path / str(number))
        assert not (tmp_path / str(number) / "manifest.json").exists()
        assert made.folder is None


def test_saving_over_another_set_takes_its_manifest_away_first(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DistilledDataset.load(whole)
    made.save(tmp_path)
    monkeypatch.setattr(layout, "_write_table", broken)
    with pytest.raises(OSError, match="no more"):
        made.save(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def broken(*args: object, **kwargs: object) -> None:
    raise OSError("no more")


# --- bytes and layout ---


@pytest.mark.parametrize("label", registered("label"))
def test_the_ledger_is_the_sizes_of_the_files(label: str, tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", label=tiny.chosen("label", label))
    ledger = made.ledger()
    files = [p for p in (tmp_path / "set").rglob("*") if p.is_file()]
    sizes = {p.relative_to(tmp_path / "set").as_posix(): p.stat().st_size for p in files}
    sizes.pop("run.json")
    assert ledger["total"] == sum(sizes.values()) == sum(v for k, v in ledger.items() if k != "total")
    assert ledger["natural images"] == sizes["images.parquet"]
    assert ledger["compensators"] == sizes["arrays.safetensors"]
    assert ledger["items"] == sizes["items.parquet"]
    assert ledger["labels"] == sum(v for k, v in sizes.items() if k.startswith("labels/"))
    assert ledger["teachers"] == sum(v for k, v in sizes.items() if k.startswith("teachers/"))
    assert ledger["metadata"] == sizes["manifest.json"] + sizes["README.md"]
    for name, entry in manifest(tmp_path / "set")["files"].items():
        assert entry["bytes"] == sizes[name]
        assert entry["sha256"] == hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest()


def test_compensators_and_labels_weigh_what_they_must(whole: Path) -> None:
    arrays = load_file(whole / "arrays.safetensors")
    assert {k: (v.dtype, tuple(v.shape)) for k, v in arrays.items()} == {
        "store.compensators": (torch.int8, (4, *tiny.SHAPE))
    }
    logits = load_file(whole / "labels" / "logits.safetensors")
    assert {k: (v.dtype, tuple(v.shape)) for k, v in logits.items()} == {"label.logits": (torch.float16, (24, 4))}


def test_an_unsaved_set_has_no_ledger() -> None:
    made = distil(tiny.dataset(), tiny.recipe(), device=tiny.device(), reporter=Reporter())
    with pytest.raises(DatastillError, match="save this set first"):
        made.ledger()


def test_the_pictures_open_with_plain_pyarrow_in_the_layout_of_the_hugging_face_image_feature(whole: Path) -> None:
    table = pq.read_table(whole / "images.parquet")
    assert table.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert table.schema.field("label").type == pa.int64()
    assert table.schema.field("id").type == pa.string()
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(tiny.dataset().classes)},
        "id": {"_type": "Value", "dtype": "string"},
    }
    train = tiny.dataset().train
    rows = {name: i for i, name in enumerate(train.ids)}
    assert len(table) == 8
    for row in table.to_pylist():
        assert row["image"]["path"].endswith(".webp")
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.format == "WEBP"
            pixels = np.asarray(image).transpose(2, 0, 1)
        assert np.array_equal(pixels, train.pixels[rows[row["id"]]].numpy())
        assert row["label"] == int(train.labels[rows[row["id"]]])


def test_items_open_with_plain_pyarrow_and_rebuild_every_image_by_hand(whole: Path) -> None:
    """As the data card says it, without the library."""
    items = pq.read_table(whole / "items.parquet").to_pylist()
    pictures = pq.read_table(whole / "images.parquet").to_pylist()
    compensators = load_file(whole / "arrays.safetensors")["store.compensators"].numpy()
    images = DistilledDataset.load(whole).expand().images.numpy()
    for i, item in enumerate(items):
        with Image.open(io.BytesIO(pictures[item["picture"]]["image"]["bytes"])) as image:
            x = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        if item["unit"] >= 0:
            x = x + compensators[item["unit"]].astype(np.float32) / np.float32(127)
        assert np.array_equal(np.rint(np.clip(x, 0, 1) * np.float32(255)).astype(np.uint8), images[i])


def test_odd_class_names_survive(tmp_path: Path) -> None:
    data = tiny.dataset(names=ODD_NAMES)
    tiny.distilled(tmp_path / "set", data)
    assert DistilledDataset.load(tmp_path / "set").classes == ODD_NAMES
    metadata = pq.read_schema(tmp_path / "set" / "images.parquet").metadata[b"huggingface"]
    assert tuple(json.loads(metadata)["info"]["features"]["label"]["names"]) == ODD_NAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_the_card_says_what_the_set_is(whole: Path, taught: Path) -> None:
    text = (whole / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: other\n")
    for part in ("real images", "not private", "column S", "natural 8", "compensators 4", "divided by 127"):
        assert part in text
    assert "column D" in (taught / "README.md").read_text(encoding="utf-8")


def test_a_grey_set_loads_without_a_warning(tmp_path: Path) -> None:
    data = tiny.dataset(shape=(1, 8, 8))
    made = tiny.distilled(tmp_path / "set", data)
    assert torch.equal(DistilledDataset.load(tmp_path / "set").expand().images, made.expand().images)


# --- the loader ---


@pytest.mark.parametrize("label", registered("label"))
def test_the_loader_gives_full_batches_and_another_order_every_epoch(label: str) -> None:
    recipe = tiny.recipe(label=tiny.chosen("label", label), student=replace(tiny.STUDENT, batch=7))
    made = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter())
    loader = made.loader(batch_size=7, seed=3)
    assert len(loader) == 4
    pictures = 7 * made.fields.label.pictures_per_item
    epochs = [list(loader), list(loader)]
    for images, targets in epochs[0] + epochs[1]:
        assert images.shape == (pictures, *tiny.SHAPE)
        assert targets.shape == (pictures, 4)
        assert images.dtype == targets.dtype == torch.float32
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    again = list(made.loader(batch_size=7, seed=3))
    assert all(
        torch.equal(a, b) for one, two in zip(epochs[0], again, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_expanding_gives_one_class_and_label_per_image(whole: Path) -> None:
    loaded = DistilledDataset.load(whole)
    expanded = loaded.expand()
    assert len(loaded) == len(expanded.images) == len(expanded.cls) == 24
    assert expanded.classes == 4
    assert expanded.labels is loaded.labels
    lacking = replace(loaded, folder=None)
    with pytest.raises(DatastillError, match="save this set first"):
        lacking.ledger()
