"""Loading folders: layout, splits, conversions, bad files, the cache."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datastill.sources.decoding as decoding
from datastill.errors import DatastillError
from datastill.recipe import DatasetInfo
from datastill.sources import Dataset, encode_picture, encoded_train_bytes, load


def picture(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> Image.Image:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def tree(root: Path, counts: dict[str, int], **kind: int) -> Path:
    """Write counts[folder] PNG files into each folder below root."""
    for place, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            picture(1000 * place + i, **kind).save(root / folder / f"{i:03d}.png")
    return root


def same(a: Dataset, b: Dataset) -> bool:
    return (
        a.fingerprint == b.fingerprint
        and torch.equal(a.train.pixels, b.train.pixels)
        and torch.equal(a.test.pixels, b.test.pixels)
        and torch.equal(a.train.labels, b.train.labels)
        and torch.equal(a.test.labels, b.test.labels)
        and (a.train.ids, a.test.ids, a.notes, a.bad) == (b.train.ids, b.test.ids, b.notes, b.bad)
    )


def test_a_folder_with_train_and_test_gives_its_pixels_labels_and_names(tmp_path):
    root = tree(tmp_path / "pets", {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2})
    data = load(root)
    assert (data.name, data.origin, data.classes, data.notes) == ("pets", str(root), ("cat", "dog"), ())
    assert data.train.ids == (*(f"train/cat/00{i}.png" for i in range(3)), "train/dog/000.png", "train/dog/001.png")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1, 1]
    assert data.train.labels.dtype == torch.int64
    for split in (data.train, data.test):
        assert len(split) == len(split.ids) == len(split.pixels)
        for row, name in enumerate(split.ids):
            np.testing.assert_array_equal(split.pixels[row].permute(1, 2, 0), np.asarray(Image.open(root / name)))
    rows = torch.tensor([4, 0])
    assert torch.equal(data.train.batch(rows), torch.stack([data.train.pixels[4], data.train.pixels[0]]))
    assert data.raw_train_bytes == 5 * 3 * 8 * 8
    assert data.info == DatasetInfo("pets", 2, (3, 8, 8), 5, data.mean, data.std)


def test_mean_and_deviation_are_those_of_the_training_pixels(tmp_path):
    data = load(tree(tmp_path / "set", {"train/a": 4, "train/b": 4, "test/a": 9, "test/b": 1}))
    pixels = data.train.pixels.double() / 255
    assert data.mean == tuple(round(v, 4) for v in pixels.mean((0, 2, 3)).tolist())
    assert data.std == tuple(round(v, 4) for v in pixels.std((0, 2, 3), correction=0).tolist())


def test_a_constant_channel_has_deviation_one(tmp_path):
    root = tree(tmp_path / "set", {"a": 0, "b": 0})
    for i, folder in enumerate("aabb"):
        Image.new("L", (8, 8), 0).save(root / folder / f"{i}.png")
    data = load(root)
    assert (data.mean, data.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_a_test_split_are_known(tmp_path, name):
    root = tree(tmp_path / "set", {"train/a": 2, "train/b": 2, f"{name}/a": 1, f"{name}/b": 1})
    assert load(root).test.ids == (f"{name}/a/000.png", f"{name}/b/000.png")


def test_beside_a_test_split_the_validation_split_is_left_aside_and_said_so(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    data = load(root)
    assert data.test.ids == ("test/a/000.png", "test/b/000.png")
    assert data.notes == ("Left aside: val/.",)


def test_a_class_may_be_called_train(tmp_path):
    assert load(tree(tmp_path / "set", {"plane": 3, "train": 3, "test": 3})).classes == ("plane", "test", "train")


def test_images_in_deeper_folders_belong_to_the_class_and_hidden_and_other_files_to_none(tmp_path):
    root = tree(tmp_path / "set", {"a/deep/er": 2, "b": 2, ".hidden": 1, "b/.cache": 1})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "b" / ".secret.png").write_bytes(b"no image")
    (root / "list.csv").write_text("no image")
    data = load(root)
    assert data.classes == ("a", "b")
    assert sorted(data.train.ids + data.test.ids) == [
        "a/deep/er/000.png",
        "a/deep/er/001.png",
        "b/000.png",
        "b/001.png",
    ]


def test_links_may_leave_the_folder_and_may_not_go_in_circles(tmp_path):
    elsewhere = tree(tmp_path / "elsewhere", {"b": 3})
    root = tree(tmp_path / "set", {"a": 2})
    (root / "b").symlink_to(elsewhere / "b")
    (root / "a" / "again").symlink_to(root / "a")
    data = load(root)
    assert Counter(name.split("/")[0] for name in data.train.ids + data.test.ids) == {"a": 2, "b": 3}


def test_a_missing_test_split_is_stratified_seeded_and_written_down(tmp_path, cache):
    root = tree(tmp_path / "set", {"a": 10, "b": 5, "c": 2})
    data = load(root)
    assert data.test.labels.bincount().tolist() == [2, 1, 1]
    assert data.train.labels.bincount().tolist() == [8, 4, 1]
    assert data.notes == (
        "No test split was given: 20% of each class, drawn with seed 0, are the test split "
        "(13 training and 4 test images).",
    )
    (record,) = (cache / "splits").glob("*.json")
    assert json.loads(record.read_text()) == {
        "name": "set",
        "train": list(data.train.ids),
        "test": list(data.test.ids),
    }
    shutil.rmtree(cache)
    assert same(load(root), data)
    others = [load(root, split_seed=seed).test.ids for seed in range(1, 4)]
    assert any(ids != data.test.ids for ids in others)
    assert len(load(root, test_fraction=0.5).test) == 5 + 2 + 1


def test_the_split_of_a_class_does_not_depend_on_the_other_classes_sizes(tmp_path):
    one = load(tree(tmp_path / "one", {"a": 10, "b": 4})).test.ids
    two = load(tree(tmp_path / "two", {"a": 10, "b": 9})).test.ids
    assert [name for name in one if name < "b"] == [name for name in two if name < "b"]


def test_classes_keeps_only_these_in_that_order(tmp_path):
    root = tree(tmp_path / "set", {f"{split}/{c}": 2 for split in ("train", "test") for c in "abc"})
    data = load(root, classes=["c", "a"])
    assert data.classes == ("c", "a")
    assert {
        name.split("/")[1]: label for name, label in zip(data.train.ids, data.train.labels.tolist(), strict=True)
    } == {
        "c": 0,
        "a": 1,
    }
    assert data.notes == ("Kept 2 of 3 classes.",)
    assert load(root).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("counts", "options", "sentence"),
    [
        ({}, {}, "has no class folders; 'set' needs one folder of images per class"),
        ({"a": 3}, {}, "'set' needs at least two classes and has only 'a'"),
        ({"a": 3, "b": 0}, {}, "class 'b' of 'set' has no readable image to train on"),
        ({"a": 3, "b": 1}, {}, r"class 'b' has 1 readable image\(s\), and two are needed"),
        ({"train/a": 1, "train/b": 1, "test/c": 1}, {}, "has the class folder 'c', which the training split lacks"),
        ({"train/a": 1, "train/b": 1, "test/a": 0}, {}, "the test folder .* holds no image"),
        (
            {"test/a": 1, "test/b": 1, "val/a": 1},
            {},
            "holds test/, val/ but no train/ with a folder of images per class",
        ),
        ({"cat": 2, "dog": 2}, {"classes": ["cat", "dgo"]}, "no class of 'set' called 'dgo'; did you mean 'dog'"),
        ({"cat": 2, "dog": 2}, {"classes": ["cat"]}, "needs at least two classes and has only 'cat'"),
        ({"cat": 2, "dog": 2}, {"classes": ["cat", "cat"]}, "asked for twice"),
        ({"cat": 2, "dog": 2}, {"classes": []}, "needs at least two classes and has none"),
        ({"cat": 2, "dog": 2}, {"size": 7}, "ask for a size from 8 to 512"),
        ({"cat": 2, "dog": 2}, {"size": 513}, "ask for a size from 8 to 512"),
        ({"cat": 2, "dog": 2}, {"test_fraction": 1.0}, "ask for one between 0 and 1"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path, counts, options, sentence):
    (tmp_path / "set").mkdir()
    tree(tmp_path / "set", counts)
    with pytest.raises(DatastillError, match=sentence):
        load(tmp_path / "set", **options)


def test_a_class_without_test_images_is_noted(tmp_path):
    data = load(tree(tmp_path / "set", {"train/a": 1, "train/b": 1, "test/a": 1}))
    assert data.notes == ("Class 'b' has no test image.",)


@pytest.mark.parametrize(
    ("sides", "asked", "want"),
    [
        ([(8, 8)], None, 8),
        ([(64, 64)], None, 64),
        ([(65, 65)], None, 64),
        ([(20, 30)], None, 32),
        ([(64, 70), (80, 64), (10, 10)], None, 64),
        ([(10, 12), (20, 70), (100, 100)], None, 32),
        ([(8, 8)], 16, 16),
        ([(96, 96)], 96, 96),
    ],
)
def test_sizes_follow_the_stated_rule(tmp_path, sides, asked, want):
    root = tmp_path / "set"
    for folder in "ab":
        (root / folder).mkdir(parents=True)
        for i in range(3):
            height, width = sides[i % len(sides)]
            picture(i, height, width).save(root / folder / f"{i}.png")
    data = load(root, size=asked)
    assert data.shape == (3, want, want)
    kept = len(sides) == 1 and sides[0] == (want, want)
    assert any("resized" in note for note in data.notes) == (not kept)
    if not kept:
        assert f"shorter side is {want} pixels (bicubic, antialiased) and cropped at the centre" in data.notes[-1]


def test_a_set_is_grey_only_if_all_its_images_are(tmp_path):
    root = tree(tmp_path / "set", {"a": 2, "b": 2}, channels=1)
    Image.fromarray(np.full((8, 8), 257 * 9, np.uint16)).save(root / "a" / "deep.png")
    Image.new("1", (8, 8), 1).save(root / "b" / "bits.png")
    grey = load(root)
    assert grey.shape == (1, 8, 8)
    assert "1 16-bit grey image was brought to 8 bits (v / 257, rounded)." in grey.notes
    picture(5).save(root / "b" / "colour.png")
    colour = load(root)
    assert colour.shape == (3, 8, 8)
    assert "5 grey images were made RGB, because the set has colour images." in colour.notes
    pixels = dict(zip(colour.train.ids + colour.test.ids, [*colour.train.pixels, *colour.test.pixels], strict=True))
    assert torch.equal(pixels["a/deep.png"], torch.full((3, 8, 8), 9, dtype=torch.uint8))


def test_grey_webp_files_make_a_grey_set_and_one_colour_file_a_colour_set(tmp_path):
    root = tree(tmp_path / "set", {"a": 0, "b": 0})
    planes = [np.asarray(picture(i, channels=1))[None] for i in range(4)]
    for i, folder in enumerate("aabb"):
        (root / folder / f"{i}.webp").write_bytes(encode_picture(planes[i]))
    data = load(root)
    assert data.shape == (1, 8, 8)
    for name, pixels in zip(data.train.ids, data.train.pixels, strict=True):
        np.testing.assert_array_equal(pixels, planes[int(Path(name).stem)])
    (root / "b" / "5.webp").write_bytes(encode_picture(planes[0].repeat(3, 0)))
    assert load(root).shape == (3, 8, 8)


def test_conversions_are_counted_in_the_notes(tmp_path):
    root = tree(tmp_path / "set", {"a": 2, "b": 2})
    picture(0).convert("RGBA").save(root / "a" / "alpha.png")
    picture(1).convert("P").save(root / "a" / "palette.png")
    picture(2).convert("CMYK").save(root / "b" / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).save(root / "b" / "turned.jpg", exif=exif)
    picture(4).save(root / "b" / "moving.webp", save_all=True, append_images=[picture(5)])
    notes = load(root).notes
    assert notes[1:] == (
        "1 palette image was made RGB.",
        "1 image with transparency was laid on white.",
        "1 CMYK image was made RGB.",
        "1 image was turned upright as the EXIF orientation says.",
        "1 image has several frames, of which the first was taken.",
    )


def bad_files(root: Path) -> list[str]:
    """Spoil a tree of images with one file of each kind; returns their names."""
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "b" / "short.jpg").write_bytes(_jpeg()[:-700])
    (root / "b" / "text.gif").write_text("hello")
    picture(0, 4, 40).save(root / "b" / "tiny.png")
    return ["a/empty.png", "b/short.jpg", "b/text.gif", "b/tiny.png"]


def _jpeg() -> bytes:
    out = io.BytesIO()
    picture(9, 64, 64).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("number", range(4))
def test_each_bad_file_stops_the_load_and_is_named(tmp_path, number):
    root = tree(tmp_path / "set", {"a": 2, "b": 3})
    names = bad_files(root)
    for name in names[:number] + names[number + 1 :]:
        (root / name).unlink()
    sentence = f"in 'set', the picture '{names[number]}' .*; mend or remove it, or skip such files with --skip-bad"
    with pytest.raises(DatastillError, match=sentence):
        load(root)
    (root / names[number]).unlink()
    assert load(root).bad == ()


def test_bad_files_can_be_skipped_and_are_listed_and_counted(tmp_path):
    root = tree(tmp_path / "set", {"a": 6, "b": 5}, channels=1)
    clean = load(root)
    bad = bad_files(root)
    data = load(root, skip_bad=True)
    assert data.bad == tuple(bad)
    assert data.notes[-1] == "4 unreadable files were skipped: a/empty.png, b/short.jpg, b/text.gif, b/tiny.png."
    # The truncated JPEG is in colour and large, as its header shows; neither may count, since it is not in the set.
    assert data.shape == (1, 8, 8)
    assert data.fingerprint == clean.fingerprint


def test_a_class_with_bad_files_only_is_refused_even_when_they_are_skipped(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 2, "train/b": 0, "test/a": 1})
    (root / "train" / "b" / "x.png").write_bytes(b"")
    with pytest.raises(DatastillError, match="class 'b' of 'set' has no readable image to train on"):
        load(root, skip_bad=True)


def test_a_test_split_with_bad_files_only_is_refused(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 2, "train/b": 2, "test/a": 0})
    (root / "test" / "a" / "x.png").write_bytes(b"")
    with pytest.raises(DatastillError, match="'set' has no readable test image"):
        load(root, skip_bad=True)


def test_the_second_load_comes_from_the_cache_and_is_equal(tmp_path, monkeypatch):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    first = load(root)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding, "read_planes", never)
    monkeypatch.setattr(decoding, "picture_facts", never)
    assert same(load(root), first)
    for change in (
        {"size": 16},
        {"split_seed": 1},
        {"skip_bad": True},
        {"test_fraction": 0.4},
        {"classes": ["b", "a"]},
    ):
        with pytest.raises(AssertionError, match="decoded again"):
            load(root, **change)


def test_a_changed_file_is_decoded_again(tmp_path):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    first = load(root)
    file = root / first.train.ids[0]
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 0] ^= 1
    before = file.stat()
    Image.fromarray(pixels).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = load(root)
    assert int((first.train.pixels != second.train.pixels).sum()) == 1
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "meta", "no meta", "other shape"])
def test_a_damaged_cache_entry_is_made_anew(tmp_path, cache, damage):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    first = load(root)
    fingerprint, pixels = first.fingerprint, first.train.pixels.clone()
    (meta,) = (cache / "decoded").glob("*/meta.json")
    array = meta.parent / "pixels.npy"
    content = bytearray(array.read_bytes())
    content[-5] ^= 64
    {
        "flip": lambda: array.write_bytes(content),
        "cut": lambda: array.write_bytes(content[:-40]),
        "empty": lambda: array.write_bytes(b""),
        "meta": lambda: meta.write_text("{"),
        "no meta": meta.unlink,
        "other shape": lambda: np.save(array, np.zeros((2, 3, 8, 8), np.uint8)),
    }[damage]()
    again = load(root)
    assert again.fingerprint == fingerprint
    assert torch.equal(again.train.pixels, pixels)


def test_writing_to_the_pixels_does_not_reach_the_cache(tmp_path):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    load(root).train.pixels.zero_()
    assert load(root).train.pixels.any()


def test_an_unusable_cache_folder_is_named(tmp_path, monkeypatch):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatastillError, match=r"file.* cannot be written: .*DATASTILL_CACHE"):
        load(root)


def test_two_processes_that_load_at_once_agree(tmp_path, cache):
    root = tree(tmp_path / "set", {"a": 40, "b": 40}, height=20, width=24)
    code = "import sys; from datastill.sources import load; print(load(sys.argv[1]).fingerprint)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=100)[0].strip() for process in both]
    assert said == [load(root).fingerprint] * 2
    assert len(list((cache / "decoded").glob("*/meta.json"))) == 1
    assert not list((cache / "decoded").glob("*/*.part"))


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path):
    root = tree(tmp_path / "set", {"a": 4, "b": 3})
    shutil.copytree(root, tmp_path / "far" / "set")
    assert load(root).fingerprint == load(tmp_path / "far" / "set").fingerprint


def test_renaming_a_class_or_a_file_or_moving_an_image_changes_the_fingerprint(tmp_path):
    prints = {load(tree(tmp_path / "0" / "set", {"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 1})).fingerprint}
    moves = [("train/a", "train/aa"), ("train/a/000.png", "train/a/zzz.png"), ("test/a/000.png", "test/b/009.png")]
    for number, (old, new) in enumerate(moves, 1):
        root = tmp_path / str(number) / "set"
        shutil.copytree(tmp_path / "0" / "set", root)
        (root / old).rename(root / new)
        if new == "train/aa":
            (root / "test/a").rename(root / "test/aa")
        prints.add(load(root).fingerprint)
    assert len(prints) == 4


def test_encoded_bytes_are_the_sum_over_training_images_and_measured_once(tmp_path, cache):
    data = load(tree(tmp_path / "set", {"a": 4, "b": 3}))
    for codec in ("webp", "png"):
        want = sum(len(encode_picture(image.numpy(), codec)) for image in data.train.pixels)
        assert encoded_train_bytes(data, codec) == want
    assert encoded_train_bytes(data) == encoded_train_bytes(data, "webp") != encoded_train_bytes(data, "png")
    records = sorted((cache / "encoded").glob("*.json"))
    assert len(records) == 2
    for record in records:
        record.write_text(record.read_text().replace('"bytes": ', '"bytes": 1'))
    assert encoded_train_bytes(data, "png") == int(f"1{want}")
    for record in records:
        record.write_text("{}")
    assert encoded_train_bytes(data, "png") == want
