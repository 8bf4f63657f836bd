"""What a source means: names, DATASTILL_DATA, Parquet files, the Hub, and what is none of these."""

from __future__ import annotations

import importlib.machinery
import io
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datastill.errors import DatastillError
from datastill.sources import hub, list_sources, load


def png(seed: int, side: int = 8) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(
    path: Path,
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    plain: bool = False,
    paths: Sequence[str | None] | None = None,
    seed: int = 0,
    metadata: bytes | None = None,
) -> Path:
    """Write a Parquet file of one random image per label, in the layout of the Hugging Face features or plain."""
    data = [png(seed + i) for i in range(len(labels))]
    given = paths or [None] * len(labels)
    images = data if plain else [{"bytes": b, "path": p} for b, p in zip(data, given, strict=True)]
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({columns[0]: pa.array(images, kind), columns[1]: pa.array(labels)})
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"_type": "ClassLabel", "names": list(names)}}
        metadata = json.dumps({"info": {"features": features}}).encode()
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def test_digits_are_scaled_to_eight_bits_and_split():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (data.name, data.origin, data.shape) == ("digits", "digits", (1, 8, 8))
    assert data.classes == tuple("0123456789")
    assert len(data.train) + len(data.test) == 1797
    assert data.notes[0] == "Grey values 0 to 16 were scaled to 0 to 255."
    assert "20% of each class, drawn with seed 0" in data.notes[1]
    bunch = load_digits()
    for split in (data.train, data.test):
        rows = [int(name.removeprefix("digits/")) for name in split.ids]
        assert split.labels.tolist() == bunch.target[rows].tolist()
        assert split.labels.bincount().min() > 0.9 * len(split) / 10
        want = np.array([[[round(v * 255 / 16) for v in line] for line in image] for image in bunch.images[rows]])
        np.testing.assert_array_equal(split.pixels[:, 0], want)
    assert data.fingerprint == load("digits").fingerprint != load("digits", split_seed=1).fingerprint


def test_digits_can_be_resized_and_restricted():
    data = load("digits", classes=["3", "7"], size=16)
    assert (data.classes, data.shape) == (("3", "7"), (1, 16, 16))


def test_a_name_in_the_data_folder_comes_before_a_built_in_one(tmp_path, monkeypatch):
    write(tmp_path / "digits" / "train.parquet", [0, 1, 1], names=["no", "yes"])
    write(tmp_path / "digits" / "test.parquet", [1, 0], names=["no", "yes"], seed=9)
    monkeypatch.setenv("DATASTILL_DATA", str(tmp_path))
    data = load("digits")
    assert (data.name, data.origin, data.classes) == ("digits", "digits", ("no", "yes"))
    assert data.train.ids == ("train/0", "train/1", "train/2")
    assert data.test.ids == ("test/0", "test/1")
    assert data.train.labels.tolist() == [0, 1, 1]
    with Image.open(io.BytesIO(png(9))) as image:
        np.testing.assert_array_equal(data.test.pixels[0].permute(1, 2, 0), np.asarray(image))


def test_a_path_is_never_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatastillError, match="'digits' is neither"):
        load(Path("digits"))
    write(tmp_path / "digits" / "train.parquet", [0, 0, 1, 1])
    assert load(Path("digits")).origin == str(tmp_path / "digits")
    assert load("./digits").origin == str(tmp_path / "digits")
    assert load("digits").origin == "digits"


def test_a_name_cannot_leave_the_data_folder(tmp_path, monkeypatch):
    write(tmp_path / "outside" / "train.parquet", [0, 0, 1, 1])
    (tmp_path / "inside").mkdir()
    monkeypatch.setenv("DATASTILL_DATA", str(tmp_path / "inside"))
    with pytest.raises(DatastillError, match="'../outside' is neither"):
        load("../outside")


def test_a_data_folder_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("DATASTILL_DATA", "/nowhere/at/all")
    with pytest.raises(DatastillError, match="DATASTILL_DATA is '/nowhere/at/all', which cannot be read"):
        load("digits")


def test_known_sets_take_the_literatures_mean_and_deviation_and_their_subsets_their_own(tmp_path, monkeypatch):
    names = [f"c{i}" for i in range(10)]
    write(tmp_path / "cifar10" / "train.parquet", list(range(10)), names=names)
    write(tmp_path / "cifar10" / "test.parquet", list(range(10)), names=names, seed=50)
    monkeypatch.setenv("DATASTILL_DATA", str(tmp_path))
    whole = load("cifar10")
    assert (whole.mean, whole.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert load("cifar10", classes=["c1", "c2"]).mean != whole.mean
    assert load(tmp_path / "cifar10").mean != whole.mean


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for i in range(3):
        write(tmp_path / "set" / f"train-0000{i}-of-00003.parquet", [i, i], seed=10 * i)
    write(tmp_path / "set" / "validation-00000-of-00001.parquet", [2, 1, 0], seed=90)
    data = load(tmp_path / "set")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [2, 1, 0]
    assert data.classes == ("0", "1", "2")


def test_files_in_one_subfolder_are_found_and_other_splits_are_left_aside(tmp_path):
    for split in ("train", "test", "val"):
        write(tmp_path / "set" / "data" / f"{split}.parquet", [0, 1])
    data = load(tmp_path / "set")
    assert data.notes == ("Left aside: val.parquet.",)
    assert len(data.train) == len(data.test) == 2


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label"), ("image", "labels")])
@pytest.mark.parametrize("plain", [False, True])
def test_the_usual_columns_are_known(tmp_path, columns, plain):
    file = write(tmp_path / "set.parquet", ["b", "a", "b", "a"], columns=columns, plain=plain)
    data = load(file)
    assert (data.name, data.origin, data.classes) == ("set", str(file), ("a", "b"))
    labels = dict(zip(data.train.ids + data.test.ids, [*data.train.labels, *data.test.labels], strict=True))
    assert {name: int(label) for name, label in labels.items()} == {"set/0": 1, "set/1": 0, "set/2": 1, "set/3": 0}
    pixels = dict(zip(data.train.ids + data.test.ids, [*data.train.pixels, *data.test.pixels], strict=True))
    for i in range(4):
        with Image.open(io.BytesIO(png(i))) as image:
            np.testing.assert_array_equal(pixels[f"set/{i}"].permute(1, 2, 0), np.asarray(image))


def test_columns_of_other_names_are_found_by_the_metadata(tmp_path):
    file = write(tmp_path / "set.parquet", [0, 1, 0, 1], columns=("picture", "species"), names=["cat", "dog"])
    assert load(file).classes == ("cat", "dog")


def test_paths_name_the_images_where_each_has_its_own(tmp_path):
    own = write(tmp_path / "own.parquet", [0, 0, 1, 1], paths=["x/1.png", "x/2.png", "y/1.png", "y/2.png"])
    data = load(own)
    assert sorted(data.train.ids + data.test.ids) == ["x/1.png", "x/2.png", "y/1.png", "y/2.png"]
    shared = write(tmp_path / "shared.parquet", [0, 0, 1, 1], paths=["1.png", "2.png", "1.png", "2.png"])
    data = load(shared)
    assert sorted(data.train.ids + data.test.ids) == [f"shared/{i}" for i in range(4)]


def test_class_names_with_slashes_are_text_and_never_paths(tmp_path, cache):
    names = ["../../escape", "T-shirt/top"]
    data = load(write(tmp_path / "set.parquet", [0, 0, 1, 1], names=names))
    assert data.classes == tuple(names)
    inside = [path for path in tmp_path.rglob("*") if cache not in path.parents and path != cache]
    assert inside == [tmp_path / "set.parquet"]
    assert not list(cache.rglob("*escape*"))
    assert not list(cache.rglob("*shirt*"))


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}', b"\xff"])
def test_metadata_that_do_not_parse_are_passed_over(tmp_path, metadata):
    assert load(write(tmp_path / "set.parquet", [7, 7, 9, 9], metadata=metadata)).classes == ("7", "9")


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        ([0, 2, 1, 0], {"names": ["a", "b"]}, r"row 1 of .*set.parquet' has label 2, and its class names allow 0 to 1"),
        ([0, -1, 1, 0], {"names": ["a", "b"]}, "has label -1"),
        ([0, 1, None, 0], {}, r"has 1 empty label\(s\)"),
        ([0.5, 1.0, 0.5, 1.0], {}, "labels must be integers or strings"),
        ([0, 0, 1, 1], {"names": ["a", "b", "c"]}, "class 'c' of 'set' has no readable image to train on"),
        ([0, 0, 0], {}, "needs at least two classes and has only '0'"),
        (
            [0, 1],
            {"columns": ("picture", "label")},
            r"has no image column \(image or img\); its columns are picture, label",
        ),
        ([0, 1], {"columns": ("image", "class")}, r"has no label column \(label or fine_label or labels\)"),
        (pa.array([], pa.int64()), {}, "has no rows"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_said_in_a_sentence(tmp_path, labels, options, sentence):
    with pytest.raises(DatastillError, match=sentence):
        load(write(tmp_path / "set.parquet", labels, **options))


def test_a_test_file_with_a_class_of_its_own_is_refused(tmp_path):
    write(tmp_path / "set" / "train.parquet", ["cat", "dog"])
    write(tmp_path / "set" / "test.parquet", ["cat", "dgo"])
    with pytest.raises(
        DatastillError, match="test.parquet' has the class 'dgo', which the training split lacks; did you"
    ):
        load(tmp_path / "set")


def test_a_test_file_without_a_train_file_is_refused(tmp_path):
    for name in ("test.parquet", "val.parquet"):
        write(tmp_path / "set" / name, [0, 1])
    with pytest.raises(DatastillError, match="Parquet files for test, val but no train.parquet"):
        load(tmp_path / "set")


def test_pictures_that_are_not_in_the_file_are_bad_and_never_looked_for(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(0))
    images = [{"bytes": png(i), "path": None} for i in range(4)] + [{"bytes": None, "path": str(secret)}]
    table = pa.table({"image": images, "label": [0, 0, 1, 1, 1]})
    pq.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(DatastillError, match=r"the picture 'set/4' is empty \(0 bytes\); mend or remove it"):
        load(tmp_path / "set.parquet")
    assert load(tmp_path / "set.parquet", skip_bad=True).bad == ("set/4",)


def test_a_damaged_parquet_file_is_named(tmp_path):
    file = write(tmp_path / "set.parquet", [0, 0, 1, 1])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DatastillError, match="set.parquet' cannot be read as Parquet: "):
        load(file)


def test_columns_of_numbers_are_not_pictures(tmp_path):
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]], "label": [0, 1]}), tmp_path / "set.parquet")
    with pytest.raises(DatastillError, match="column 'image' of .* it must hold encoded pictures"):
        load(tmp_path / "set.parquet")


def test_a_copied_parquet_file_is_the_same_set(tmp_path):
    file = write(tmp_path / "set.parquet", [0, 0, 1, 1])
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "set.parquet").write_bytes(file.read_bytes())
    one, two = load(file), load(tmp_path / "far" / "set.parquet")
    assert one.fingerprint == two.fingerprint
    assert one.origin != two.origin


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("cifar", "'cifar' is neither a data set that is known by name, .*; did you mean 'cifar10' or 'cifar100'"),
        ("no/such/folder", "nor a folder or Parquet file that is there"),
        ("hf:justaname", "write hf:OWNER/NAME"),
    ],
)
def test_a_source_that_means_nothing_is_refused_with_near_names(source, sentence):
    with pytest.raises(DatastillError, match=sentence):
        load(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(DatastillError, match="is neither a folder nor a Parquet file; unpack or convert it first"):
        load(tmp_path / "set.zip")


def test_sources_are_listed_with_what_they_need(tmp_path, monkeypatch):
    write(tmp_path / "mine" / "train.parquet", [0, 1])
    write(tmp_path / "mnist" / "train.parquet", [0, 1])
    monkeypatch.setenv("DATASTILL_DATA", str(tmp_path))
    monkeypatch.setattr("datastill.sources.dataset.hub_installed", lambda: False)
    found = {one.name: one for one in list_sources()}
    builtin = {"cifar10", "cifar100", "digits", "fashion-mnist", "imagenette", "mnist", "svhn", "tiny-imagenet"}
    assert found.keys() == builtin | {"mine"}
    assert {name for name, one in found.items() if one.at_hand} == {"digits", "mine", "mnist"}
    assert found["mnist"].where == found["mine"].where == "DATASTILL_DATA"
    assert found["svhn"].where == 'needs pip install "datastill[hub]", or svhn/train.parquet in DATASTILL_DATA'
    monkeypatch.setattr("datastill.sources.dataset.hub_installed", lambda: True)
    assert {one.name: one.where for one in list_sources()}["svhn"].startswith("downloaded from ufldl-stanford/svhn")


@pytest.mark.parametrize("source", ["cifar10", "hf:someone/something"])
def test_without_the_hub_extra_one_sentence_says_what_would_do(source, monkeypatch):
    monkeypatch.setattr(hub, "hub_installed", lambda: False)
    with pytest.raises(DatastillError, match=r'needs pip install "datastill\[hub\]"') as error:
        load(source)
    assert ("or set DATASTILL_DATA to a folder that holds cifar10/train.parquet" in str(error.value)) == (
        source == "cifar10"
    )


class FakeTable:
    """As much of a table of the `datasets` library as is asked of it."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any], decoding: bool = True) -> None:
        self.rows, self.features, self.decoding = rows, features, decoding
        self._fingerprint = "f" * 16

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows]

    def __iter__(self) -> Any:
        assert not self.decoding, "the library would decode the pictures itself"
        return iter(self.rows)

    def cast_column(self, column: str, feature: Any) -> FakeTable:
        return FakeTable(self.rows, self.features | {column: feature}, decoding=feature.decode)

    def select_columns(self, columns: list[str]) -> FakeTable:
        kept = [{column: row[column] for column in columns} for row in self.rows]
        return FakeTable(kept, {column: self.features[column] for column in columns}, self.decoding)


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the `datasets` library; returns the list of what was asked of it."""
    asked: list[tuple[Any, ...]] = []
    module = types.ModuleType("datasets")
    module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
    classes = types.SimpleNamespace(names=["no", "yes"])

    def load_dataset(repository: str, config: str | None, *, revision: str | None) -> dict[str, FakeTable]:
        asked.append((repository, config, revision))
        if repository == "someone/broken":
            raise ConnectionError("no route\nlong story")
        label = "fine_label" if repository == "uoft-cs/cifar100" else "label"
        named = classes if repository != "someone/unnamed" else types.SimpleNamespace()
        values: list[Any] = [0, 1, 1] if repository != "someone/unnamed" else ["low", "top", "low"]
        rows = [{"img": {"bytes": png(i), "path": None}, label: value} for i, value in enumerate(values)]
        table = FakeTable(rows, {"img": types.SimpleNamespace(), "coarse_label": classes, label: named})
        return {"train": table, "valid": table, "extra": table}

    module.load_dataset = load_dataset  # type: ignore[attr-defined]  # a stand-in
    module.Image = lambda decode: types.SimpleNamespace(decode=decode)  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_built_in_names_and_hub_names_reach_the_hub(library):
    data = load("cifar100")
    assert (data.name, data.origin, data.classes) == ("cifar100", "cifar100", ("no", "yes"))
    assert data.train.ids == ("train/0", "train/1", "train/2")
    assert data.test.ids == ("valid/0", "valid/1", "valid/2")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.notes == ("Left aside: extra.",)
    with Image.open(io.BytesIO(png(2))) as image:
        assert torch.equal(data.train.pixels[2], torch.from_numpy(np.array(image)).permute(2, 0, 1))
    other = load("hf:someone/something@abc")
    assert (other.name, other.origin) == ("someone/something", "hf:someone/something@abc")
    load("svhn")
    assert library == [
        ("uoft-cs/cifar100", None, None),
        ("someone/something", None, "abc"),
        ("ufldl-stanford/svhn", "cropped_digits", None),
    ]


def test_hub_labels_without_names_are_numbered_in_order(library):
    data = load("hf:someone/unnamed")
    assert data.classes == ("low", "top")
    assert data.train.labels.tolist() == [0, 1, 0]


def test_a_failed_download_is_said_in_a_sentence(library):
    with pytest.raises(
        DatastillError, match="'someone/broken' could not be had from the Hugging Face Hub: no route; check"
    ):
        load("hf:someone/broken")
