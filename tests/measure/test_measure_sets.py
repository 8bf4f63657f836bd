"""Distilled sets are made once, kept in the cache, and copied whole to whoever asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill import engine
from datastill.artifact import DistilledDataset
from datastill.engine import WORK
from datastill.errors import DatastillError
from datastill.measure.sets import made_set
from datastill.runtime.cache import cache_dir
from datastill.runtime.files import read_json, sha256_file
from datastill.runtime.progress import Reporter
from reference import tiny, together

DATA = tiny.dataset(seed=7)  # of this file alone, so that nothing of it is in the cache


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The commands of the sets that were really made, in a cache of its own."""
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "cache"))
    commands: list[str] = []
    plain: Callable[..., Any] = vars(engine)["_realise"]

    def counted(ctx: Any, dataset: Any, work: Any, command: str, *more: Any) -> Any:
        commands.append(command)
        return plain(ctx, dataset, work, command, *more)

    monkeypatch.setattr(engine, "_realise", counted)
    return commands


def placed(folder: Path, command: str = "", data: Any = None, **changes: Any) -> DistilledDataset:
    return made_set(data or DATA, tiny.recipe(**changes), folder, device=tiny.device(), reporter=Reporter(),
                    source={"asked": "here"}, command=command)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_set_is_made_once_and_copied_whole(made: list[str], tmp_path: Path) -> None:
    first, second = placed(tmp_path / "one", "first"), placed(tmp_path / "two" / "deep", "second")
    assert made == ["first"]
    assert (first.folder, second.folder) == (tmp_path / "one", tmp_path / "two" / "deep")
    assert files(tmp_path / "one") == files(tmp_path / "two" / "deep")
    assert torch.equal(first.expand().images, second.expand().images)
    assert first.facts["source"]["asked"] == "here"
    (kept,) = (cache_dir() / "sets").iterdir()
    assert files(kept) == files(tmp_path / "one")
    assert WORK not in {p.name for p in tmp_path.rglob("*")}


def test_a_set_that_is_there_is_left_alone(made: list[str], tmp_path: Path) -> None:
    placed(tmp_path / "set")
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*")}
    placed(tmp_path / "set")
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*")}
    assert len(made) == 1


def test_a_set_that_was_removed_comes_back_from_the_cache(made: list[str], tmp_path: Path) -> None:
    before = files(placed(tmp_path / "set").folder or tmp_path)
    shutil.rmtree(tmp_path / "set")
    placed(tmp_path / "set")
    assert files(tmp_path / "set") == before
    assert len(made) == 1


@pytest.mark.parametrize(
    "other",
    [{"ipc": 5}, {"seed": 1}, {"networks": dict(reversed(tiny.NETWORKS.items()))}, {"data": tiny.dataset(seed=8)}],
    ids=["ipc", "seed", "order of networks", "data set"],
)
def test_a_folder_of_another_set_is_replaced(other: dict[str, Any], made: list[str], tmp_path: Path) -> None:
    placed(tmp_path / "set", "first")
    (tmp_path / "set" / "stranger.txt").write_text("of the first one")
    found = placed(tmp_path / "set", "second", **other)
    assert made == ["first", "second"]
    assert found.facts["command"] == "second"
    assert list(found.recipe.networks) == list(tiny.recipe(**{k: v for k, v in other.items() if k != "data"}).networks)
    assert not (tmp_path / "set" / "stranger.txt").exists()
    assert DistilledDataset.load(tmp_path / "set").facts == found.facts


def test_a_copy_that_was_cut_off_is_made_again(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(source: Path, target: Path, **options: Any) -> None:
        target.mkdir(parents=True)
        shutil.copy2(source / "manifest.json", target / "manifest.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            placed(tmp_path / "set")
    assert len(placed(tmp_path / "set")) == 24
    assert len(made) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_recipe_that_cannot_be_is_refused_and_leaves_nothing_behind(made: list[str], tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match="has no room at ipc=1"):
        placed(tmp_path / "set", ipc=1)
    assert not made
    assert not (tmp_path / "set").exists()


def test_what_a_set_took_is_told_without_what_the_same_reporter_was_told_before(tmp_path: Path) -> None:
    reporter = Reporter({"distil (statistics)": 5000.0, "train students": 7000.0})
    folder = tmp_path / "set"
    made_set(DATA, tiny.recipe(), folder, device=tiny.device(), reporter=reporter)
    told = read_json(folder / "run.json")["seconds"]
    assert "train students" not in told
    assert 0.0 < told["distil (statistics)"] < 100.0
    assert reporter.seconds["distil (statistics)"] > 5000.0


@contextmanager
def beside(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Let another process make the same set while this one is busy making it; yields what that one answered.

    It begins when this one holds the lock, and asks for the lock before anything is written.
    """
    paths = os.pathsep.join([str(Path(together.__file__).parents[1]), *(p for p in sys.path if p)])
    other = subprocess.Popen(
        [sys.executable, together.__file__, how, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    realise: Callable[..., Any] = vars(engine)["_realise"]

    def busy(*given: Any) -> Any:
        print(file=other.stdin, flush=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        time.sleep(0.5)  # ten times as long as a lock waits before it is asked for again
        return realise(*given)

    answer: dict[str, Any] = {}
    try:
        assert other.stdout.readline() == "ready\n"
        monkeypatch.setattr(engine, "_realise", busy)
        yield answer
        said, errors = other.communicate(timeout=60)
        assert other.returncode == 0, errors
        answer |= json.loads(said)
    finally:
        other.kill()
        other.communicate()


def test_two_processes_that_ask_for_the_same_set_at_once_make_it_once(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with beside("set", tmp_path / "theirs", monkeypatch) as answer:
        made_set(tiny.dataset(), together.RECIPE, tmp_path / "ours", device=tiny.device(), reporter=Reporter())
    assert answer == {"made": 0, "manifest": sha256_file(tmp_path / "ours" / "manifest.json")}
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert len(made) == 1
    assert WORK not in {p.name for p in tmp_path.rglob("*")}


def test_two_processes_that_write_to_one_folder_wait_for_each_other_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    with beside("distil", folder, monkeypatch) as answer:
        engine.distil(tiny.dataset(), together.RECIPE, device=tiny.device(), reporter=Reporter(), out=folder)
    assert answer == {
        "made": 0, "says": f"'{folder}' holds a finished set; choose another --out, or remove it first."
    }  # fmt: skip
    assert len(DistilledDataset.load(folder)) == 16
    assert WORK not in {p.name for p in folder.iterdir()}
