"""Both sides of one phase and network, run in turns, and the rows that come of it."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.cases import EXACT, PRECISIONS, SIDES, Case, Sizes
from datastill.runtime.files import load_arrays

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
Key = tuple[str, str]  # side and precision


@dataclass(frozen=True)
class Plan:
    """How to measure: the rounds of each side, its threads, and the sizes of a round.

    With one thread the clock is the processor's time, which other programs disturb little; with more it is the wall's,
    since threads that wait spin.
    """

    rounds: int
    threads: int
    sizes: Sizes

    @property
    def clock(self) -> str:
        """Which of a worker's two times counts."""
        return "cpu" if self.threads == 1 else "wall"


class Worker:
    """A side in its own process: see `benchmarks.worker`."""

    def __init__(self, case: Case) -> None:
        paths = [str(ROOT / "tests"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.case = case
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(case.threads)},
        )  # fmt: skip

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises: RuntimeError with what the worker printed if it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            _, errors = self.process.communicate()
            raise RuntimeError(f"the worker of {self.case} ended:\n{errors}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def working(case: Case) -> Iterator[Worker]:
    """Start a worker, and end it."""
    worker = Worker(case)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.process.communicate()


def difference(reference: dict[str, Tensor], product: dict[str, Tensor], names: Sequence[str]) -> float:
    """Return the largest absolute difference in any of the arrays, relative to that array's largest value."""
    pairs = [(reference[name].double(), product[name].double()) for name in names]
    return max(float((mine - theirs).abs().max() / theirs.abs().max()) for theirs, mine in pairs)


def compare(
    phase: str, network: str, precisions: Sequence[str], plan: Plan, advance: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """Measure one phase of one network; returns a row per precision.

    Each side is a process of its own, because the allocator's settings and the peak of memory belong to a process. All
    stand by and take their rounds in turns, so that whatever disturbs the machine disturbs them alike.

    Args:
        phase, network: of `cases`.
        precisions: float32 first; its reference is what research code runs, and is set beside every precision.
        plan: how to measure.
        advance: called after each turn of all workers, `plan.rounds` + 2 times.
    """
    keys = [(side, precision) for precision in precisions for side in SIDES]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = {
            key: stack.enter_context(working(Case(phase, network, key[1], key[0], plan.sizes, plan.threads)))
            for key in keys
        }
        apart = {p: _apart(workers, p, f"first {folder}/{p}", ("outcome",)) for p in precisions}
        advance()
        times: dict[Key, list[float]] = {key: [] for key in keys}
        peaks: dict[Key, int] = {}
        for _ in range(plan.rounds):
            for key, worker in workers.items():
                answer = worker.ask("again")
                times[key].append(answer[plan.clock])
                peaks[key] = answer["bytes"]
            advance()
        apart[EXACT] = _apart(workers, precisions[0], f"exact {folder}/{EXACT}")
        advance()
    items = Case(phase, network, PRECISIONS[0], SIDES[0], plan.sizes).items
    shown = {"phase": phase, "network": network, "items": items}
    return [shown | _row(precision, times, peaks, apart) for precision in precisions]


def _apart(workers: dict[Key, Worker], precision: str, command: str, names: Sequence[str] = ()) -> float:
    """Let both sides save numbers under `command`, and return how far they are apart (in all arrays, or in `names`)."""
    found = []
    for side in SIDES:
        workers[side, precision].ask(f"{command}-{side}")
        found.append(load_arrays(Path(f"{command.partition(' ')[2]}-{side}")))
    return difference(found[0], found[1], names or sorted(found[0]))


def _row(
    precision: str, times: dict[Key, list[float]], peaks: dict[Key, int], apart: dict[str, float]
) -> dict[str, Any]:
    reference, product = (times[side, precision] for side in SIDES)
    ratios = [r / p for r, p in zip(reference, product, strict=True)]
    usual = [r / p for r, p in zip(times[SIDES[0], PRECISIONS[0]], product, strict=True)]
    return {
        "precision": precision,
        "reference_s": statistics.median(reference),
        "product_s": statistics.median(product),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_to_float32_reference": statistics.median(usual),
        "max_relative_difference": apart[precision],
        "max_relative_difference_float64": apart[EXACT],
        "reference_peak_bytes": peaks[SIDES[0], precision],
        "product_peak_bytes": peaks[SIDES[1], precision],
    }
