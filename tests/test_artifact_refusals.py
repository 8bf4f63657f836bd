"""The artifact: what a stranger's folder claims is checked before it is read, and refused in a sentence."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from datastill.recipe import choice
from reference import tiny
from reference.folders import claim, refused


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


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "set")


def change_arrays(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    arrays = load_file(path)
    edit(arrays)
    save_file(arrays, path)


def change_table(path: Path, name: str, values: Any) -> None:
    table = pq.read_table(path)
    at = table.schema.get_field_index(name)
    column = pa.array(values, type=table.schema.field(name).type)
    pq.write_table(table.set_column(at, table.schema.field(name), column), path)


def webp(shape: tuple[int, ...], value: int = 0) -> bytes:
    """Return a lossless WebP; its planes differ where there are three, since three equal ones are a grey picture."""
    out, pixels = io.BytesIO(), np.full(shape, value, np.uint8)
    if len(shape) == 3:
        pixels[..., 0] += 1
    Image.fromarray(pixels).save(out, "WEBP", lossless=True)
    return out.getvalue()


def change_pictures(folder: Path, row: int, data: bytes) -> None:
    path = folder / "images.parquet"
    files = pq.read_table(path)["image"].to_pylist()
    files[row]["bytes"] = data
    change_table(path, "image", files)


def test_a_picture_in_another_format_than_the_manifest_names_is_not_decoded(copy: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "PNG")
    change_pictures(copy, 3, out.getvalue())
    claim(copy, lambda m: None)
    refused(copy, "picture 3' is not in a format that can be read")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"holds no distilled set: there is no manifest\.json in it")
    refused(tmp_path / "nowhere", "holds no distilled set")


@pytest.mark.parametrize("text", ["", "{", "\x00", "not json"])
def test_a_manifest_that_is_not_json_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    refused(copy, "not readable as JSON")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{}", '{"format": 2}'])
def test_a_manifest_of_another_form_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    refused(copy, "not a manifest of this format")


@pytest.mark.parametrize("number", [0, 1, 3, "2", None])
def test_another_format_number_is_refused(copy: Path, number: Any) -> None:
    claim(copy, lambda m: m.update(format=number))
    refused(copy, rf"has format {number}, but this version reads format 2; distil it again")


def test_every_missing_entry_of_the_manifest_is_refused(whole: Path, copy: Path) -> None:
    needed = ("format", "recipe", "data", "files", "pictures", "items", "arrays", "labels", "expanded")
    for name in needed:
        shutil.copy(whole / "manifest.json", copy / "manifest.json")
        claim(copy, lambda m, name=name: m.pop(name))  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
        refused(copy, "not a manifest of this format")


FILES = ["images.parquet", "items.parquet", "arrays.safetensors", "labels/logits.safetensors", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, f"{name}' is named in the manifest but is not there")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_refused_by_name(copy: Path, name: str) -> None:
    size = (copy / name).stat().st_size
    with open(copy / name, "ab") as file:
        file.write(b"\0")
    refused(copy, f"{name}' has {size + 1} bytes, but the manifest says {size}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_changed_byte_is_refused_by_name(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    refused(copy, f"{name}' is not the file that the manifest describes")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "labels/../../outside", ".."])
def test_a_path_that_leaves_the_folder_is_refused_before_anything_is_read(copy: Path, name: str) -> None:
    (copy.parent / "outside").write_bytes(b"x")
    claim(copy, lambda m: m.update(files={name: {"bytes": 1, "sha256": "0"}} | m["files"]))
    refused(copy, f"names '{name}', which lies outside it; nothing was read")


def test_a_link_that_leaves_the_folder_is_refused(copy: Path) -> None:
    outside = copy.parent / "outside.parquet"
    (copy / "images.parquet").rename(outside)
    (copy / "images.parquet").symlink_to(outside)
    refused(copy, r"names 'images\.parquet', which lies outside it")


@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_that_the_manifest_does_not_name_is_not_opened(copy: Path, name: str) -> None:
    claim(copy, lambda m: m["files"].pop(name))
    refused(copy, f"does not name '{name}'")


def test_networks_that_the_manifest_does_not_name_are_not_opened(taught: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(taught, tmp_path / "set")
    claim(folder, lambda m: m["files"].pop("teachers/1.safetensors"))
    refused(folder, "does not name 'teachers/1.safetensors'")


def test_a_picture_larger_than_declared_is_refused_before_it_is_decoded(copy: Path) -> None:
    change_pictures(copy, 3, webp((9, 8, 3)))
    claim(copy, lambda m: None)
    refused(copy, "picture 3' is too large to be opened safely: 8x9 pixels, and at most 64 pixels are allowed")


@pytest.mark.parametrize("shape", [(8, 8), (4, 16, 3), (7, 8, 3)])
def test_a_picture_of_another_shape_is_refused(copy: Path, shape: tuple[int, ...]) -> None:
    change_pictures(copy, 3, webp(shape))
    claim(copy, lambda m: None)
    refused(copy, "picture 3 is .*, but the manifest says")


@pytest.mark.parametrize("data", [b"", b"nothing", webp((8, 8, 3))[:20]])
def test_a_damaged_picture_is_refused(copy: Path, data: bytes) -> None:
    change_pictures(copy, 3, data)
    claim(copy, lambda m: None)
    refused(copy, "picture 3")


def test_a_changed_picture_is_noticed_even_where_every_hash_was_made_to_fit(copy: Path) -> None:
    change_pictures(copy, 3, webp((8, 8, 3), 77))
    claim(copy, lambda m: None)
    refused(copy, "expands to other pixels than its manifest says")


@pytest.mark.parametrize(
    ("column", "value"),
    [("cls", -1), ("cls", 4), ("picture", -2), ("picture", 8), ("unit", -2), ("unit", 4), ("maker", -2), ("maker", 2),
     ("set", -1), ("stage", -1)],
)  # fmt: skip
def test_items_that_point_nowhere_are_refused(copy: Path, column: str, value: int) -> None:
    values = pq.read_table(copy / "items.parquet")[column].to_pylist()
    change_table(copy / "items.parquet", column, [*values[:5], value, *values[6:]])
    claim(copy, lambda m: None)
    refused(copy, f"has values of '{column}' outside")


@pytest.mark.parametrize("value", [-1, 4])
def test_pictures_of_a_class_that_there_is_not_are_refused(copy: Path, value: int) -> None:
    labels = pq.read_table(copy / "images.parquet")["label"].to_pylist()
    change_table(copy / "images.parquet", "label", [value, *labels[1:]])
    claim(copy, lambda m: None)
    refused(copy, "has values of 'label' outside 0..3")


@pytest.mark.parametrize(("name", "column"), [("items.parquet", "cls"), ("images.parquet", "label")])
def test_empty_cells_are_refused(copy: Path, name: str, column: str) -> None:
    values = pq.read_table(copy / name)[column].to_pylist()
    change_table(copy / name, column, [None, *values[1:]])
    claim(copy, lambda m: None)
    refused(copy, f"{name}' has empty cells")


@pytest.mark.parametrize(("entry", "name"), [("items", "items"), ("pictures", "images")])
def test_another_number_of_rows_is_refused(copy: Path, entry: str, name: str) -> None:
    claim(copy, lambda m: m.update({entry: m[entry] | {"count": 9} if entry == "pictures" else 9}))
    refused(copy, rf"{name}\.parquet' has \d+ rows, but the manifest says 9")


@pytest.mark.parametrize("name", ["images.parquet", "items.parquet"])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\xff" * 40 + b"\x10\0\0\0PAR1"])
def test_a_file_that_is_no_parquet_is_refused(copy: Path, name: str, data: bytes) -> None:
    (copy / name).write_bytes(data)
    claim(copy, lambda m: None)
    refused(copy, f"{name}' is not a readable Parquet file")


def test_a_table_without_a_column_is_refused(copy: Path) -> None:
    table = pq.read_table(copy / "items.parquet")
    pq.write_table(table.drop_columns(["unit"]), copy / "items.parquet")
    claim(copy, lambda m: None)
    refused(copy, "set")


ARRAY_EDITS: list[tuple[Callable[[dict[str, torch.Tensor]], object], str]] = [
    (lambda a: a.update({"store.compensators": a["store.compensators"].float()}), "float32"),
    (lambda a: a.update({"store.compensators": a["store.compensators"][:3].clone()}), r"\[3, 3, 8, 8\]"),
    (lambda a: a.update({"store.more": torch.zeros(1)}), "more"),
    (lambda a: a.clear(), "holds {}"),
]


@pytest.mark.parametrize(("edit", "said"), ARRAY_EDITS)
def test_arrays_that_are_not_what_the_manifest_says_are_refused(copy: Path, edit: Any, said: str) -> None:
    change_arrays(copy / "arrays.safetensors", edit)
    claim(copy, lambda m: None)
    refused(copy, rf"arrays\.safetensors' holds .*{said}.*, but the manifest says|{said}, but the manifest says")


@pytest.mark.parametrize("shape", [[4, 3, 8, 7], [4, 192], [24]])
def test_arrays_that_fit_no_picture_are_refused(copy: Path, shape: list[int]) -> None:
    made = torch.zeros(shape, dtype=torch.int8)
    change_arrays(copy / "arrays.safetensors", lambda a: a.update({"store.compensators": made}))
    claim(copy, lambda m: m["arrays"]["compensators"].update(shape=shape))
    refused(copy, "set")


@pytest.mark.parametrize("codec", ["gif", "../../x", None, 3])
def test_pictures_of_an_unknown_codec_are_refused(copy: Path, codec: Any) -> None:
    claim(copy, lambda m: m["pictures"].update(codec=codec))
    refused(copy, f"there is no codec of pictures '{codec}'")


def test_damaged_arrays_are_refused(copy: Path) -> None:
    (copy / "arrays.safetensors").write_bytes(b"\xff" * 64)
    claim(copy, lambda m: None)
    refused(copy, r"arrays\.safetensors' is damaged")


@pytest.mark.parametrize(
    "made", [torch.zeros(24, 5).half(), torch.zeros(23, 4).half(), torch.zeros(24, 4), torch.zeros(24, 4).bfloat16()]
)
def test_labels_of_another_shape_or_type_are_refused(copy: Path, made: torch.Tensor) -> None:
    change_arrays(copy / "labels" / "logits.safetensors", lambda a: a.update({"label.logits": made}))
    claim(copy, lambda m: None)
    refused(copy, r"logits\.safetensors' holds")


@pytest.mark.parametrize("kind", ["classes", "teachers", "probabilities", "", None])
def test_labels_of_a_kind_that_the_recipe_does_not_make_are_refused(copy: Path, kind: Any) -> None:
    claim(copy, lambda m: m["labels"].update(kind=kind))
    refused(copy, "which its recipe does not make")


RECIPE_EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda r: r["store"].update(kind="compensate"), "there is no store 'compensate'; did you mean 'compensated'"),
    (lambda r: r["label"].update(kind="../static"), "there is no label '../static'"),
    (lambda r: r["match"].update(kind="os.system"), "there is no match 'os.system'"),
    (lambda r: r["store"].update(colour=1), "there is no setting 'store.colour'"),
    (lambda r: r["store"].update(storage="int4"), "'store.storage' is 'int4'"),
    (lambda r: r.update(surprise=1), "there is no setting 'surprise'"),
    (lambda r: r.pop("label"), "the setting 'label' is missing"),
    (lambda r: r.update(ipc="many"), "'ipc' must be a whole number"),
]


@pytest.mark.parametrize(("edit", "said"), RECIPE_EDITS)
def test_unknown_names_in_the_recipe_are_refused(copy: Path, edit: Any, said: str) -> None:
    claim(copy, lambda m: edit(m["recipe"]))
    refused(copy, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"shape": [3, -8, 8]}, "are not supported"), ({"shape": [2, 8, 8]}, "are not supported"),
     ({"shape": [3, 100000, 100000]}, "are not supported"), ({"shape": [3, 8]}, "must hold 3 values"),
     ({"mean": [0.5]}, "one mean and one deviation per channel"), ({"std": []}, "one mean and one deviation"),
     ({"extra": 1}, "there is no setting 'data.extra'"), ({"classes": 5}, "not a manifest of this format")],
)  # fmt: skip
def test_a_data_set_that_there_cannot_be_is_refused(copy: Path, change: dict[str, Any], said: str) -> None:
    claim(copy, lambda m: m["data"].update(change))
    refused(copy, said)


def test_networks_of_another_recipe_are_refused(taught: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(taught, tmp_path / "set")
    claim(folder, lambda m: m["recipe"]["networks"]["second"]["settings"].update(width=9))
    refused(folder, r"teachers/1\.safetensors' does not hold the weights of a network 'convnet'")
    claim(folder, lambda m: m["recipe"]["networks"]["second"].update(arch="convnt"))
    refused(folder, "there is no network 'convnt'")
    claim(folder, lambda m: m["recipe"]["networks"].pop("second"))
    refused(folder, "set")


def test_nothing_is_unpickled(copy: Path) -> None:
    """A pickle under the name of an array file is no array file."""
    (copy / "arrays.safetensors").write_bytes(
        b"\x80\x04\x95\x17\0\0\0\0\0\0\0\x8c\x08builtins\x94\x8c\x04exit\x94\x93\x94."
    )
    claim(copy, lambda m: None)
    refused(copy, r"arrays\.safetensors' is damaged")
