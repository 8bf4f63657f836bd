"""One side in a process of its own, so that each has its allocator and its peak of memory to itself.

Reads a command a line and answers each with a line of JSON: `first FILE` writes the numbers of the first round,
`exact FILE` those of a small one in float64, `again` runs a round and tells its times, `peak` the largest resident size
so far, less that of the libraries.
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
from benchmarks.sides import ready
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
    side = None
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        answer: dict[str, Any] = {}
        if command == "first":
            side = ready(case)
            save_arrays(Path(path), side.first())
        elif command == "exact":
            save_arrays(Path(path), ready(case.exact).first())
        elif command == "again":
            cpu, wall = time.process_time(), time.perf_counter()
            side.again()
            answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        else:
            answer = {"bytes": memory_peak_bytes() - libraries}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
