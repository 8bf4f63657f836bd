"""Independent trainings, several at once: processes that share what is large, and one that fails stops no other."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import torch

from datastill.errors import DatastillError
from datastill.runtime.device import Device, open_device
from datastill.runtime.progress import Reporter

MOST_ON_CPU, MOST_ON_CUDA = 4, 3
CUDA_BYTES = 5 << 30  # of free memory for each process on a GPU: a ResNet-18 in training, its context and some room


class Task(Protocol):
    """One training of its own. It is pickled; what all tasks share comes separately, once per process."""

    @property
    def label(self) -> str:
        """What it is called."""

    def run(self, shared: Any, device: Device, reporter: Reporter) -> Any:
        """Do it; results that must last are files."""


def automatic_jobs(device: Device) -> int:
    """Return how many trainings a device bears at once: a core each on a CPU, memory for each on a GPU."""
    if device.torch.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device.torch)
        return max(1, min(MOST_ON_CUDA, free // CUDA_BYTES))
    return max(1, min(MOST_ON_CPU, os.cpu_count() or 1))


def jobs_on(device: Device, asked: int | None) -> int:
    """Return how many trainings run at once: as many as asked for, with None as many as the device bears.

    Raises: DatastillError for a number below 1.
    """
    if asked is None:
        return automatic_jobs(device)
    if asked < 1:
        raise DatastillError(f"--jobs must be at least 1, not {asked}.")
    return asked


def run_tasks(
    tasks: Sequence[Task], shared: Any, *, jobs: int, device: Device, reporter: Reporter, phase: str
) -> dict[int, str]:
    """Run tasks, `jobs` at a time; returns the sentence of each one that could not be done, by its index.

    Args:
        tasks: independent of each other.
        shared: handed to every task; with several jobs it is pickled once per process.
        jobs: processes. With 1 everything runs in this one, on all its threads; else each gets its share of the cores.
            From a script of one's own, several need the usual guard `if __name__ == "__main__"`.
        device, reporter: where, and who is told. With one job tasks report their own steps.
        phase: what the progress of several jobs is called.

    Raises: DatastillError for fewer jobs than one, and whatever a task raises that is none: a mistake of our own is not
        a result.
    """
    jobs = jobs_on(device, jobs)
    if jobs == 1 or len(tasks) < 2:
        return _one_by_one(tasks, shared, device, reporter)
    failed: dict[int, str] = {}
    how = (device.torch.type, device.precision, device.compile, max(1, (os.cpu_count() or 1) // jobs), shared)
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), multiprocessing.get_context("spawn"), initializer=_begin, initargs=how
    )
    try:
        with reporter.phase(phase, len(tasks)) as progress:
            running = {pool.submit(_work, task): i for i, task in enumerate(tasks)}
            for future in as_completed(running):
                said = _result(future)
                if said is not None:
                    failed[running[future]] = said
                progress.advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _result(future: Future[str | None]) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DatastillError(
            "a training process was ended from outside, most likely for want of memory; run the same command with "
            "fewer --jobs: what was finished is kept."
        ) from error


def _one_by_one(tasks: Sequence[Task], shared: Any, device: Device, reporter: Reporter) -> dict[int, str]:
    failed = {}
    for i, task in enumerate(tasks):
        try:
            task.run(shared, device, reporter)
        except DatastillError as error:
            failed[i] = str(error)
    return failed


_held: dict[str, Any] = {}  # of a worker process


def _begin(kind: str, precision: str, compiled: bool, threads: int, shared: Any) -> None:
    torch.set_num_threads(threads)
    _held["device"], _held["shared"] = open_device(kind, precision, compile=compiled), shared


def _work(task: Task) -> str | None:
    try:
        task.run(_held["shared"], _held["device"], Reporter())
    except DatastillError as error:
        return str(error)
    return None
