"""The artifact under codecs: packed pictures and coded labels come back, are weighed, and are refused if odd."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from datastill.artifact import DistilledDataset
from datastill.codecs import encode_pictures
from datastill.codecs.pictures import KINDS
from datastill.engine import label_content, make_context
from datastill.export import export
from datastill.label.static import mean_logits
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.folders import claim, manifest, refused

LABELS = ["fp32", "fp16", "int8", "int4", "int3", "topk", "klt"]


def recipe_of(codec: dict[str, Any], label: str = "int8", **store: Any) -> dict[str, Any]:
    return {
        "store": choice("coded", codec=codec, **store), "match": choice("none"),
        "label": choice("static", codec={"kind": label, "k": 2}),
    }  # fmt: skip


def codec_of(name: str, tiles: int) -> dict[str, Any]:
    return {"format": name, "tiles": tiles, "chroma": "420" if name == "webp" else "444", "quality": 70}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A packed set that nobody writes to: 16 pictures, 5 a file, labels in 8 bits."""
    folder = tmp_path_factory.mktemp("artifact") / "set"
    tiny.distilled(folder, **recipe_of(codec_of("avif", 5)))
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "set")


# --- the round trip, and what it weighs ---


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tiles", [1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_comes_back_under_every_picture_codec_and_its_ledger_is_its_files(
    name: str, tiles: int, channels: int, tmp_path: Path
) -> None:
    data = tiny.dataset(shape=(channels, 8, 8))
    changes = recipe_of(codec_of(name, tiles)) | {"label": choice("hard")}
    made = tiny.distilled(tmp_path / "set", data, **changes)
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(made.expand().images, loaded.expand().images)
    assert torch.equal(made.expand().cls, loaded.expand().cls)
    assert loaded.content.pictures.codec == made.content.pictures.codec
    sizes = {p.relative_to(tmp_path / "set").as_posix(): p.stat().st_size
             for p in (tmp_path / "set").rglob("*") if p.is_file() and p.name != "run.json"}  # fmt: skip
    ledger = made.ledger()
    assert ledger == loaded.ledger()
    assert ledger["total"] == sum(sizes.values()) == sum(v for k, v in ledger.items() if k != "total")
    atlases = {k: v for k, v in sizes.items() if k.startswith("pictures/")}
    assert sorted(atlases) == [f"pictures/{i:05d}.{KINDS[name].ending}" for i in range(4 if tiles > 1 else 0)]
    assert ledger["natural images"] == sizes["images.parquet"] + sum(atlases.values())
    loaded.save(tmp_path / "again")
    for file in [*manifest(tmp_path / "set")["files"], "manifest.json"]:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "set" / file).read_bytes(), file


@pytest.mark.parametrize("kind", LABELS)
def test_labels_come_back_as_students_got_them_and_what_was_lost_is_recorded(kind: str, tmp_path: Path) -> None:
    made = tiny.distilled(tmp_path / "set", **recipe_of(codec_of("webp-lossless", 1), kind))
    loaded = DistilledDataset.load(tmp_path / "set")
    assert made.labels.values is not None
    assert loaded.labels.values is not None
    assert loaded.labels.values.dtype == torch.float32
    assert torch.equal(made.labels.values, loaded.labels.values)
    assert loaded.labels.codec == made.labels.codec
    assert manifest(tmp_path / "set")["labels"]["codec"]["kind"] == kind
    lost = manifest(tmp_path / "set")["counts"]["label_error"]
    assert lost.keys() == {"kl", "top1"}
    assert list(lost["kl"]) == ["1", "4", "30"]
    assert max(lost["kl"].values()) < {"fp32": 1e-9, "fp16": 1e-5, "int8": 1e-3}.get(kind, 0.7)
    files = load_file(tmp_path / "set" / "labels" / "logits.safetensors")
    assert {f"label.{name}" for name in made.labels.arrays or {}} == set(files)
    assert made.ledger()["labels"] == (tmp_path / "set" / "labels" / "logits.safetensors").stat().st_size


def test_labels_are_made_on_the_decoded_pictures(whole: Path) -> None:
    loaded = DistilledDataset.load(whole)
    changes = recipe_of(codec_of("avif", 5), "fp32")
    ctx = tiny.context(**changes)
    decoded = mean_logits(loaded.expand().images, ctx)
    real = tiny.dataset().train
    rows = real.labels.argsort(stable=True)[loaded.content.pictures.places]
    clean = mean_logits(real.pixels[rows], ctx)
    assert loaded.labels.values is not None
    step = load_file(whole / "labels" / "logits.safetensors")["label.scale"][:, 1].max().float()
    assert (loaded.labels.values - decoded).abs().max() <= step / 2 + 1e-4
    assert (loaded.labels.values - clean).abs().max() > step


def test_packed_tables_hold_numbers_only_and_lead_back_to_the_real_images(whole: Path) -> None:
    table = pq.read_table(whole / "images.parquet")
    assert [(f.name, str(f.type)) for f in table.schema] == [("label", "int32"), ("place", "int32")]
    train = tiny.dataset().train
    rows = train.labels.numpy().argsort(kind="stable")[table["place"].to_numpy()]
    assert train.labels[torch.from_numpy(rows)].tolist() == table["label"].to_pylist()
    assert len(set(rows.tolist())) == 16
    assert manifest(whole)["source"]["fingerprint"] == tiny.dataset().fingerprint
    error = DistilledDataset.load(whole).expand().images.float() - train.pixels[torch.from_numpy(rows)].float()
    assert error.square().mean().sqrt() < 30


def test_what_is_not_a_picture_or_a_label_hardly_grows_with_the_set(tmp_path: Path) -> None:
    """Labels sorted by class, items one after another, places in order: a column with a rule in it costs nothing."""
    data, codec, sizes = tiny.dataset(per_class=1000), {"format": "jpeg", "quality": 1, "tiles": 1 << 13}, []
    for count in (400, 4000):
        made = tiny.distilled(tmp_path / f"{count}", data, **recipe_of(codec, total=count) | {"label": choice("hard")})
        folder = tmp_path / f"{count}"
        sizes.append({name: (folder / name).stat().st_size for name in [*made.facts["files"], "manifest.json"]})
        columns = pq.ParquetFile(folder / "images.parquet").metadata.row_group(0)
        assert columns.column(0).path_in_schema == "label"
        assert columns.column(0).total_compressed_size < 100
    few, much = sizes
    for name in ("items.parquet", "manifest.json", "README.md"):
        assert much[name] - few[name] < 60, name
    assert (
        few["images.parquet"] < 1000
    )  # every tenth image of a class: half a byte each, and what the file says of itself


def test_nobody_who_reads_the_manifest_learns_less_than_the_decoder_and_the_codec(whole: Path) -> None:
    told = manifest(whole)["pictures"]
    assert told["count"] == 16
    assert told["codec"] == {"format": "avif", "quality": 70, "chroma": "444", "tiles": 5}
    assert set(told["decoder"]) == {"pillow", "libavif"}


def test_two_runs_of_one_coded_recipe_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny.distilled(tmp_path / name, **recipe_of(codec_of("avif", 5), "klt"))
    for name in [*manifest(tmp_path / "one")["files"], "manifest.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_compensated_sets_may_be_packed_too(tmp_path: Path) -> None:
    store = choice("compensated", codec=codec_of("avif", 100), leftover="natural")
    made = tiny.distilled(tmp_path / "set", store=store, label=choice("static", codec={"kind": "klt"}))
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(made.expand().images, loaded.expand().images)
    assert {p.name for p in (tmp_path / "set" / "pictures").iterdir()} == {"00000.avif"}


def test_a_label_of_another_kind_forgets_what_the_first_one_lost(whole: Path) -> None:
    loaded = DistilledDataset.load(whole)
    assert "label_error" in loaded.facts["counts"]
    recipe = loaded.recipe.patched({"label": choice("hard")})
    ctx = make_context(tiny.dataset(), recipe, tiny.device(), Reporter())
    other = label_content(ctx, loaded.content, loaded.facts)
    assert "label_error" not in other.facts["counts"]
    assert "label_error" in loaded.facts["counts"]


def test_coded_sets_are_exported_as_they_expand(whole: Path, tmp_path: Path) -> None:
    loaded = DistilledDataset.load(whole)
    images = loaded.expand().images
    export(loaded, "parquet", tmp_path / "parquet")
    table = pq.read_table(tmp_path / "parquet" / "train.parquet")
    for row, wanted in zip(table.to_pylist(), images, strict=True):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), wanted.numpy())
    assert loaded.labels.values is not None
    assert np.allclose(np.stack(table["logits"].to_numpy()), loaded.labels.values)
    export(loaded, "imagefolder", tmp_path / "folder")
    assert len(list((tmp_path / "folder").rglob("*.png"))) == 16


@pytest.mark.parametrize(("kind", "words"), [("int8", "8 bits per class"), ("topk", "label.rest[i]"),
                                             ("klt", "Decompressed with Brotli"), ("fp16", "as they are")])  # fmt: skip
def test_the_card_says_how_packed_pictures_and_coded_labels_are_read(kind: str, words: str, tmp_path: Path) -> None:
    tiny.distilled(tmp_path / "set", **recipe_of(codec_of("avif", 5), kind))
    text = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    for part in (words, "real images", "not private", "AVIF of quality 70", "up to 5 in one file", "8 x 8 tiles"):
        assert part in text, part
    assert "load_dataset" not in text


# --- refusals ---


def test_changed_pixels_name_the_decoder_of_then_and_now_and_the_way_out(copy: Path) -> None:
    def older(made: dict[str, Any]) -> None:
        made["expanded"]["sha256"] = "0" * 64
        made["pictures"]["decoder"] = {"pillow": "11.9", "libavif": "0.9.1"}

    claim(copy, older)
    said = refused(copy, "expands to other pixels than its manifest says: it was made with the decoder")
    assert "pillow 11.9, libavif 0.9.1, and here is pillow" in said
    assert "install those versions, or distil it again" in said


def test_changed_pixels_under_the_same_decoder_are_laid_to_the_files(copy: Path) -> None:
    claim(copy, lambda m: m["expanded"].update(sha256="0" * 64))
    refused(copy, "its files were changed, for the decoder is the one that made it .*get it again, or distil it again")


def test_another_atlas_of_the_same_size_is_noticed(copy: Path) -> None:
    first, second = (copy / "pictures" / f"0000{i}.avif" for i in (0, 1))
    shutil.copy(second, first)
    claim(copy, lambda m: None)
    refused(copy, "expands to other pixels")


def test_a_missing_atlas_is_refused(copy: Path) -> None:
    (copy / "pictures" / "00002.avif").unlink()
    refused(copy, r"pictures/00002\.avif' is named in the manifest but is not there")


def test_an_atlas_that_the_manifest_does_not_name_is_not_opened(copy: Path) -> None:
    claim(copy, lambda m: m["files"].pop("pictures/00001.avif"))
    refused(copy, r"does not name 'pictures/00001\.avif'")


def test_a_link_that_leaves_the_folder_is_refused(copy: Path) -> None:
    outside = copy.parent / "outside.avif"
    (copy / "pictures" / "00001.avif").rename(outside)
    (copy / "pictures" / "00001.avif").symlink_to(outside)
    refused(copy, r"names 'pictures/00001\.avif', which lies outside it")


def test_a_truncated_atlas_is_refused(copy: Path) -> None:
    path = copy / "pictures" / "00001.avif"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(copy, "has .* bytes, but the manifest says")
    claim(copy, lambda m: None)
    refused(copy, "atlas 1'")


def test_an_atlas_of_another_size_is_refused_before_it_is_decoded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = DistilledDataset.load(copy).content.pictures.codec
    (data,) = encode_pictures(torch.zeros((5, 3, 16, 16), dtype=torch.uint8), codec)
    (copy / "pictures" / "00000.avif").write_bytes(data)
    claim(copy, lambda m: None)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    refused(copy, "atlas 0' is too large to be opened safely")


PICTURE_EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda p: p["codec"].update(tiles=4), r"atlas 0' is too large to be opened safely|does not name"),
    (lambda p: p["codec"].update(tiles=6), "atlas"),
    (lambda p: p["codec"].update(tiles=1), "set"),
    (lambda p: p["codec"].update(tiles=0), "'codec.tiles' must be between"),
    (lambda p: p["codec"].update(format="png"), r"does not name 'pictures/00000\.png'"),
    (lambda p: p["codec"].update(format="tiff"), "there is no codec of pictures 'tiff'"),
    (lambda p: p["codec"].update(quality=1000), "'codec.quality' must be between 0 and 100"),
    (lambda p: p["codec"].update(more=1), "there is no setting 'codec.more'"),
    (lambda p: p.update(count=10**15), "does not name 'pictures/00004.avif'"),
    (lambda p: p.update(count=17), "images.parquet' has 16 rows, but the manifest says 17"),
    (lambda p: p.update(count=-1), "images.parquet' has 16 rows, but the manifest says -1"),
    (lambda p: p.pop("decoder"), "set"),
]


@pytest.mark.parametrize(("edit", "said"), PICTURE_EDITS)
def test_claims_about_pictures_that_do_not_hold_are_refused(copy: Path, edit: Any, said: str) -> None:
    def change(made: dict[str, Any]) -> None:
        edit(made["pictures"])
        if "decoder" not in made["pictures"]:
            made["expanded"]["sha256"] = "0" * 64  # only then is the decoder asked for

    claim(copy, change)
    refused(copy, said)


@pytest.mark.parametrize("value", [-2, 48])
def test_places_outside_the_training_split_are_refused(copy: Path, value: int) -> None:
    path = copy / "images.parquet"
    table = pq.read_table(path)
    places = [value, *table["place"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "place", [np.array(places, np.int32)]), path)
    claim(copy, lambda m: None)
    refused(copy, "has values of 'place' outside -1..47")


LABEL_EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: c.update(kind="int4"), r"logits\.safetensors' holds"),
    (lambda c: c.update(kind="klt"), r"logits\.safetensors' holds"),
    (lambda c: c.update(kind="int7"), "'codec.kind' is 'int7'"),
    (lambda c: c.update(kind="topk", k=4), "ask for fewer than there are"),
    (lambda c: c.update(surprise=1), "there is no setting 'codec.surprise'"),
    (lambda c: c.clear(), r"logits\.safetensors' holds"),
]


@pytest.mark.parametrize(("edit", "said"), LABEL_EDITS)
def test_claims_about_labels_that_do_not_hold_are_refused(copy: Path, edit: Any, said: str) -> None:
    claim(copy, lambda m: edit(m["labels"]["codec"]))
    refused(copy, said)


def test_coded_labels_of_another_form_are_refused(copy: Path) -> None:
    path = copy / "labels" / "logits.safetensors"
    arrays = load_file(path)
    save_file({name: value[:15].clone() for name, value in arrays.items()}, path)
    claim(copy, lambda m: None)
    refused(copy, r"logits\.safetensors' holds")
