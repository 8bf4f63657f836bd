"""Both sides of one phase and network, run in turns; from it the rows of the table."""

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

from benchmarks.cases import SIDES, Case, Sizes
from datastill.runtime.files import load_arrays

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Plan:
    """How to measure: rounds of each side, and threads. With one thread the clock is the processor's time, which other
    programs disturb little; with more it is the wall's, since waiting threads spin."""

    rounds: int
    threads: int
    sizes: Callable[[str], Sizes]

    @property
    def clock(self) -> str:
        """Which of a worker's clocks counts."""
        return "cpu" if self.threads == 1 else "wall"


class Worker:
    """A side in its own process."""

    def __init__(self, case: Case) -> None:
        paths = [str(ROOT / "tests"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(case.threads)},
        )  # fmt: skip

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def working(case: Case) -> Iterator[Worker]:
    """Start a worker, and end it."""
    worker = Worker(case)
    try:
        yield worker
    finally:
        worker.process.communicate()


def difference(reference: dict[str, Tensor], product: dict[str, Tensor]) -> float:
    """Return the largest absolute difference of any array, divided by that array's largest value in the reference."""
    assert reference.keys() == product.keys()
    return max(float((product[name] - value).abs().max() / value.abs().max()) for name, value in reference.items())


def compare(phase: str, network: str, precisions: Sequence[str], plan: Plan, advance: Callable[[], object]) -> list[dict[str, Any]]:
    """Measure one phase of one network; returns a row per precision.

    All workers stand by and take their rounds in turns, so that whatever disturbs the machine disturbs them alike.

    Args:
        phase, network: of `cases`.
        precisions: "float32" first: it is the one whose numbers are compared to `TOLERANCE`.
        plan: how to measure.
        advance: called after every turn of all workers.
    """
    sizes = plan.sizes(network)
    cases = {
        (side, precision): Case(phase, network, precision, side, sizes, plan.threads)
        for precision in precisions
        for side in SIDES
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = {key: stack.enter_context(working(case)) for key, case in cases.items()}
        numbers = {key: Path(folder) / "-".join(key) for key in workers}
        for key, worker in workers.items():
            worker.ask(f"first {numbers[key]}")
        apart = {p: difference(*(load_arrays(numbers[side, p]) for side in SIDES)) for p in precisions}
        advance()
        times: dict[tuple[str, str], list[float]] = {key: [] for key in workers}
        for _ in range(plan.rounds):
            for key, worker in workers.items():
                times[key].append(worker.ask("again")[plan.clock])
            advance()
        peaks = {key: worker.ask("peak")["bytes"] for key, worker in workers.items()}
    shown = {"phase": phase, "network": network, "items": cases[SIDES[0], precisions[0]].items}
    return [shown | _row(precision, times, peaks, apart[precision]) for precision in precisions]


def _row(precision: str, times: dict[tuple[str, str], list[float]], peaks: dict[tuple[str, str], int], apart: float) -> dict[str, Any]:
    reference, product = (times[side, precision] for side in SIDES)
    ratios = [r / p for r, p in zip(reference, product, strict=True)]
    plainest = [r / p for r, p in zip(times[SIDES[0], "float32"], product, strict=True)]
    return {
        "precision": precision,
        "reference_s": statistics.median(reference),
        "product_s": statistics.median(product),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_to_float32_reference": statistics.median(plainest),
        "max_relative_difference": apart,
        "reference_peak_bytes": peaks[SIDES[0], precision],
        "product_peak_bytes": peaks[SIDES[1], precision],
    }
