"""Several trainings at once: the results of one after another, one failure stops no other, a bug is no result."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datastill.errors import DatastillError
from datastill.measure import jobs
from datastill.measure import student as measured
from datastill.measure.jobs import automatic_jobs, jobs_on, run_tasks
from datastill.measure.student import StudentTask
from datastill.runtime.device import Device
from datastill.runtime.files import read_json, write_json
from datastill.runtime.progress import Reporter
from reference import tiny


@dataclass(frozen=True)
class Writes:
    """A task that writes down what it was handed and where it ran."""

    label: str
    path: Path

    def run(self, shared: Any, device: Device, reporter: Reporter) -> None:
        """Do it."""
        write_json(self.path, {"shared": shared, "process": os.getpid(), "precision": device.precision})


@dataclass(frozen=True)
class Refuses:
    """A task that cannot be done."""

    label: str

    def run(self, shared: Any, device: Device, reporter: Reporter) -> None:
        """Say so."""
        raise DatastillError(f"{self.label} cannot be done.")


@dataclass(frozen=True)
class Breaks:
    """A task with a mistake of our own."""

    label: str

    def run(self, shared: Any, device: Device, reporter: Reporter) -> None:
        """Break."""
        raise ValueError(f"{self.label} is a bug")


class Inline:
    """What stands in for a pool of processes: the same calls, at once and here."""

    made: list[dict[str, Any]]

    def __init__(self, workers: int, context: Any, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
        self.made.append({"workers": workers, "start": context.get_start_method(), "threads": initargs[3]})
        initializer(*initargs)

    def submit(self, work: Callable[..., Any], task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        self.made[-1]["shut down"] = (wait, cancel_futures)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pools that are made from now on, which run here."""
    monkeypatch.setattr(Inline, "made", [], raising=False)
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(jobs, "_held", {})
    return Inline.made


def done(tasks: list[Any], *, at_once: int = 1, shared: Any = None, reporter: Reporter | None = None) -> dict[int, str]:
    return run_tasks(
        tasks, shared, jobs=at_once, device=tiny.device(), reporter=reporter or Reporter(), phase="all of them"
    )


def students(folder: Path, to: Path) -> list[Any]:
    made = [StudentTask(folder, "convnet(width=8)", seed, tiny.STUDENT, 4, to / f"{seed}.json", f"seed {seed}")
            for seed in range(2)]  # fmt: skip
    return [made[0], Refuses("the second"), made[1]]


def test_two_processes_give_what_one_gives_after_another(tmp_path: Path) -> None:
    test = tiny.dataset().test
    testing = measured.Testing(test.pixels.clone(), test.labels.clone(), "test")
    tiny.distilled(tmp_path / "set")
    failed = [
        done(students(tmp_path / "set", tmp_path / str(count)), at_once=count, shared=testing) for count in (1, 2)
    ]
    assert failed == [{1: "the second cannot be done."}] * 2
    for seed in range(2):
        one, two = (read_json(tmp_path / str(count) / f"{seed}.json") for count in (1, 2))
        assert one["top1"] == two["top1"]
        assert one["per_class"] == two["per_class"]
        assert one["losses"] == pytest.approx(two["losses"], abs=1e-4)
    assert not list((tmp_path / "2").glob("*.checkpoint*"))


def test_one_failure_is_said_by_its_index_and_stops_no_other(tmp_path: Path) -> None:
    tasks = [Refuses("one"), Writes("two", tmp_path / "two.json"), Refuses("three"), Writes("4", tmp_path / "4.json")]
    assert done(tasks, shared="what all share") == {0: "one cannot be done.", 2: "three cannot be done."}
    for name in ("two", "4"):
        found = read_json(tmp_path / f"{name}.json")
        assert found == {"shared": "what all share", "process": os.getpid(), "precision": "float32"}


def test_the_pool_is_told_what_all_share_once_and_threads_are_divided(
    inline: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    reporter = Reporter()
    tasks = [Writes("one", tmp_path / "one.json"), Refuses("two"), Writes("three", tmp_path / "three.json")]
    assert done(tasks, at_once=4, shared=[1], reporter=reporter) == {1: "two cannot be done."}
    assert inline == [{"workers": 3, "start": "spawn", "threads": 2, "shut down": (True, True)}]
    assert torch.get_num_threads() == 2
    assert [read_json(tmp_path / f"{name}.json")["shared"] for name in ("one", "three")] == [[1], [1]]
    assert list(reporter.seconds) == ["all of them"]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_bug_is_raised(at_once: int, inline: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the second is a bug"):
        done([Writes("first", tmp_path / "first.json"), Breaks("the second")], at_once=at_once)
    assert [pool["shut down"] for pool in inline] == [(True, True)] * (at_once - 1)


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_jobs_than_one_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(DatastillError, match=f"--jobs must be at least 1, not {count}"):
        done([Writes("one", tmp_path / "one.json")], at_once=count)
    with pytest.raises(DatastillError, match=f"--jobs must be at least 1, not {count}"):
        jobs_on(tiny.device(), count)
    assert not list(tmp_path.iterdir())


def test_a_single_task_needs_no_process(inline: list[dict[str, Any]], tmp_path: Path) -> None:
    assert done([Writes("one", tmp_path / "one.json")], at_once=8) == {}
    assert done([], at_once=8) == {}
    assert not inline


@pytest.mark.parametrize(("cores", "wanted"), [(None, 1), (1, 1), (2, 2), (64, 4)])
def test_a_cpu_bears_a_training_per_core_up_to_a_few(
    cores: int | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert automatic_jobs(tiny.device()) == jobs_on(tiny.device(), None) == wanted
    assert jobs_on(tiny.device(), 7) == 7


@pytest.mark.parametrize(("gigabytes", "wanted"), [(1, 1), (5, 1), (11, 2), (80, 3)])
def test_a_gpu_bears_as_many_as_its_free_memory_holds(
    gigabytes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gigabytes << 30, 80 << 30))
    assert automatic_jobs(Device(SimpleNamespace(device="cuda"), "bf16")) == wanted
