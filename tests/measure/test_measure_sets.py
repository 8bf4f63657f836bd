"""Distilled sets are made once, kept in the cache, and copied whole to whoever asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from reference import tiny

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
