"""One side in a process of its own, so that each has its allocator and its peak of memory to itself.

Reads a command a line: `first FILE` prepares the side and writes the numbers of its first round, `again` runs a round
and times it, `exact FILE` writes the numbers of a small round in float64. Each is answered by a line of JSON with the
peak of resident memory so far, less that of the libraries.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning_fabric
import torch

from benchmarks.cases import Case, Sizes
from benchmarks.sides import Ready, ready
from datastill.runtime.device import memory_peak_bytes
from datastill.runtime.files import save_arrays


def main() -> None:
    """Serve the case of the first argument until the input ends."""
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    described: dict[str, Any] = json.loads(sys.argv[1])
    case = Case(**described | {"sizes": Sizes(**described["sizes"])})
    torch.set_num_threads(case.threads)
    # The product's device brings Fabric; both sides load it before memory is counted.
    lightning_fabric.Fabric(accelerator="cpu", devices=1)
    libraries = memory_peak_bytes()
    made: list[Ready] = []
    for line in sys.stdin:
        answer = _obey(line.strip(), case, made) | {"bytes": memory_peak_bytes() - libraries}
        print(json.dumps(answer), file=answers, flush=True)


def _obey(line: str, case: Case, made: list[Ready]) -> dict[str, Any]:
    """Do what a line says, with the side in `made`, and return what is to be answered."""
    command, _, path = line.partition(" ")
    if command == "first":
        made.append(ready(case))
        save_arrays(Path(path), made[0].first())
    elif command == "exact":
        save_arrays(Path(path), ready(case.exact).first())
    elif command == "again":
        cpu, wall = time.process_time(), time.perf_counter()
        made[0].again()
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {}


if __name__ == "__main__":
    main()
