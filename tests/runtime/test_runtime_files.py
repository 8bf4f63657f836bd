"""Whole files or none: what writers leave behind when they fail, and how damaged files are named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from datastill.errors import DatastillError
from datastill.runtime import files
from datastill.runtime.files import (
    digest_of,
    load_arrays,
    read_json,
    save_arrays,
    sha256_file,
    write_atomic,
    write_bytes,
    write_json,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_file_is_written_whole_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write(part: Path) -> None:
        part.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        assert part.parent == path.parent
        part.write_bytes(b"whole")

    write_atomic(path, write)
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_failing_writer_leaves_the_old_file_and_no_part(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write(part: Path) -> None:
        part.write_bytes(b"half of the new")
        raise error

    with pytest.raises(DatastillError if isinstance(error, OSError) else type(error)):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_a_sentence(number: int, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(part: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(DatastillError) as caught:
        write_atomic(path, write)
    assert str(caught.value) == (
        f"the disk is full: '{path}' could not be written; free some space, then run the same command with --resume."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_known_from_the_text_of_the_arrays_writer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(DatastillError, match="the disk is full: "):
        save_arrays(tmp_path / "x", {"a": torch.zeros(2)})

    def broken(*_: object, **__: object) -> None:
        raise SafetensorError("no such thing")

    monkeypatch.setattr(files, "save_file", broken)
    with pytest.raises(DatastillError, match=r"cannot write '.*x': no such thing; nothing was changed"):
        save_arrays(tmp_path / "x", {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(DatastillError, match=r"cannot write '.*file/inside': .*; nothing was changed\."):
        write_bytes(tmp_path / "file" / "inside", b"x")

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)  # the administrator may write to a read-only folder
    with pytest.raises(DatastillError, match=r"cannot write '.*other': Permission denied; nothing was changed\."):
        write_bytes(tmp_path / "other", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write to a read-only folder")
def test_a_read_only_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(DatastillError, match="Permission denied; nothing was changed"):
        write_bytes(folder / "x", b"x")
    assert list(folder.iterdir()) == []


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatastillError, match="cannot write"):
        write_bytes(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_comes_back_equal_with_its_keys_in_their_own_order(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, "ü"], "a": {"y": True, "x": 0.1}}
    write_json(tmp_path / "a.json", value)
    write_json(tmp_path / "b.json", dict(value))
    found = read_json(tmp_path / "a.json")
    assert found == value
    assert [*found, *found["a"]] == ["b", "a", "y", "x"]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_missing_and_damaged_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=r"'.*none\.json' does not exist"):
        read_json(tmp_path / "none.json")
    for text in (b"", b"{", b"\xff", b"{'a': 1}"):
        (tmp_path / "bad.json").write_bytes(text)
        with pytest.raises(DatastillError, match=r"'.*bad\.json' is not readable as JSON"):
            read_json(tmp_path / "bad.json")
    with pytest.raises(DatastillError, match="is not readable as JSON"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_arrays_come_back_bit_equal(dtype: torch.dtype, tmp_path: Path) -> None:
    arrays = {
        "flat": (numbers(7) * 50).to(dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
        "number": (numbers(seed=1) * 50).to(dtype),
        "last": (numbers(2, 3, 4, 5) * 50).to(dtype).contiguous(memory_format=torch.channels_last),
        "turned": (numbers(4, 6) * 50).to(dtype).T,
    }
    save_arrays(tmp_path / "a.safetensors", arrays)
    found = load_arrays(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], value)


def test_arrays_are_written_the_same_in_any_order_and_without_their_graph(tmp_path: Path) -> None:
    a, b = numbers(3).requires_grad_(), numbers(2, 2, seed=1)
    save_arrays(tmp_path / "one", {"a": a, "b": b}, {"k": "v"})
    save_arrays(tmp_path / "two", {"b": b, "a": a}, {"k": "v"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert not load_arrays(tmp_path / "one")["a"].requires_grad


def test_arrays_that_share_memory_are_written_each(tmp_path: Path) -> None:
    whole = numbers(6)
    arrays = {"whole": whole, "again": whole, "part": whole[1:4], "other": whole[3:]}
    save_arrays(tmp_path / "shared", arrays)
    found = load_arrays(tmp_path / "shared")
    assert all(torch.equal(found[name], value) for name, value in arrays.items())


def test_missing_and_damaged_arrays_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(DatastillError, match=r"'.*a\.safetensors' does not exist"):
        load_arrays(path)
    save_arrays(path, {"a": numbers(100), "b": numbers(3)})
    whole = path.read_bytes()
    longer_header = (len(whole) * 2).to_bytes(8, "little") + whole[8:]
    for damaged in (b"", whole[:5], whole[:60], whole[:-1], whole + b"x", b"\0" * len(whole), longer_header):
        path.write_bytes(damaged)
        with pytest.raises(DatastillError, match=r"'.*a\.safetensors' is damaged"):
            load_arrays(path)
    with pytest.raises(DatastillError, match="is damaged"):
        load_arrays(tmp_path)


def test_a_files_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    write_bytes(tmp_path / "x", data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_digests_know_values_not_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2, 3]}) == digest_of({"b": [2, 3], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": True}, {"a": None}, {"b": 1}, [1], [[1]], 1, "a"]
    assert len({digest_of(value) for value in different}) == len(different)
    assert digest_of([0.1]) == digest_of((0.1,))
