"""The cache folder, and locks that hold between processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import platformdirs
import pytest

from datastill.errors import DatastillError
from datastill.runtime.cache import cache_dir, locked

HOLD = """
import sys
from pathlib import Path
from datastill.runtime.cache import locked

path = Path(sys.argv[1])
with locked(path):
    print("held", flush=True)
    sys.stdin.readline()
    path.with_suffix(".left").touch()
"""


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    for unset in (lambda: monkeypatch.setenv("DATASTILL_CACHE", ""), lambda: monkeypatch.delenv("DATASTILL_CACHE")):
        unset()
        assert cache_dir() == Path(platformdirs.user_cache_dir("datastill"))
    assert not (tmp_path / "mine").exists()


def test_a_lock_keeps_a_second_process_out_until_the_first_one_leaves(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "thing"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(f"{path}.lock").acquire(timeout=0.05)
        release = threading.Timer(0.2, lambda: print(file=other.stdin, flush=True))
        release.start()
        with locked(path):
            assert path.with_suffix(".left").exists()
        release.join()
    assert other.returncode == 0


def test_who_waits_for_a_lock_gets_it_though_its_folder_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "work" / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = HOLD.replace("with locked", 'print("waits", flush=True)\nwith locked', 1)
    with locked(path):
        other = subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "waits\n"
        time.sleep(0.3)  # it asks again and again by now
        shutil.rmtree(path.parent)
    said, errors = other.communicate("\n", timeout=30)
    assert (said, errors, other.returncode) == ("held\n", "", 0)
    assert path.with_suffix(".left").exists()


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "x"):
        raise KeyError
    with locked(tmp_path / "x"), locked(tmp_path / "y"):
        pass


def test_an_error_of_the_block_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), locked(tmp_path / "x"):
        raise PermissionError("of the block itself")


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(DatastillError, match=r"'.*file' cannot be written: .*DATASTILL_CACHE"),
        locked(tmp_path / "file" / "x"),
    ):
        pass
