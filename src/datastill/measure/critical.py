"""The critical keep-ratio: how many real images can be pruned before a method's students become worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastill.errors import DatastillError
from datastill.measure.ablation import Ablation, Experiment, Plan, Variant, ablate
from datastill.measure.evaluate import RESULTS
from datastill.measure.stats import FEWEST, LEVEL
from datastill.runtime.device import Device
from datastill.runtime.files import write_json
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset

KEEP = "select.keep"
SWEPT = "keep-ratio"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept, and how. keeps: shares of each class, 1 among them or not. select: a choice with a `keep`.

    changes: `path=value` for every recipe; with validation=COUNT, on which the ratio is chosen. networks: as
    `--teachers` takes them. steps, student, seeds: of all students.
    """

    method: str
    keeps: tuple[float, ...]
    steps: int
    select: str = "bilp"
    student: str = "convnet"
    seeds: int = 3
    changes: tuple[str, ...] = ()
    networks: str | None = None

    def ablation(self) -> Ablation:
        """Return the sweep as an ablation that only reports, everything kept being where it begins.

        Raises: DatastillError for shares that are none, too few of them or of seeds, and changes of what is swept.
        """
        if not all(0.0 < keep <= 1.0 for keep in self.keeps):
            raise DatastillError("--keep wants shares above 0 and at most 1, with commas between: 1,0.6,0.2.")
        shares = sorted({*self.keeps} - {1.0}, reverse=True)
        if not shares:
            raise DatastillError("--keep names no share below 1, so there is nothing to compare; add one: 1,0.6,0.2.")
        if self.seeds < FEWEST:
            raise DatastillError(f"what is beyond noise takes {FEWEST} seeds or more; give --seeds {FEWEST}.")
        for change in self.changes:
            if change.partition("=")[0].strip() in ("select", KEEP):
                raise DatastillError(f"'{change}': this command sets that itself; use --select and --keep.")
        experiment = Experiment(
            name=SWEPT, says="How many real images can be pruned before students become worse?", adopt=False,
            variants={f"keep {keep:g}": Variant(changes=(f"{KEEP}={keep!r}",), size="own") for keep in shares},
        )  # fmt: skip
        plan = Plan(
            name="critical keep-ratio", says="The same method on fewer and fewer real images, the easiest first.",
            method=self.method, changes=(f"select={self.select}", *self.changes, f"{KEEP}=1.0"),
            experiments=(experiment,),
        )  # fmt: skip
        return Ablation(
            plan=plan, budget=None, steps=self.steps, student=self.student, seeds=self.seeds, networks=self.networks
        )


def critical(
    dataset: Dataset,
    asked: Sweep,
    *,
    out: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Distil at every share, train students with the same seeds and steps, and find the critical ratio.

    Students are scored on held-out training images: a ratio is a choice, and none is made on the test split.

    Args:
        dataset, out, device, reporter, jobs, command, source: as in `ablate`.
        asked: what is swept.

    Returns: the results of the ablation, and under "critical" what `critical_of` returns, as `results.json` holds them.
    Raises: DatastillError for what cannot be run. A share that cannot is left out, and said.
    """
    results = ablate(
        dataset, asked.ablation(), out=out, device=device, reporter=reporter, jobs=jobs, command=command, source=source
    )
    results |= {"critical": critical_of(results)}
    write_json(out / RESULTS, results)
    return results


def critical_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rows of a sweep say.

    ratio: the smallest share that is not worse than 1 beyond noise (paired over seeds, p < 0.05); 1 where all are.
    worse: larger shares that are worse all the same. rows: from 1 down, each with its gap to 1 in points and `low`, the
    lower end of the gap's 95 % interval: as bad it may be without being seen (all None for 1 itself).
    """
    (experiment,) = results["experiments"]
    rows = [_told(1.0, results["start"])]
    rows += [_told(float(row["changes"][0].partition("=")[2]), row) for row in experiment["rows"]]
    ratio = min(row["keep"] for row in rows if row["verdict"] != "worse")
    worse = [row["keep"] for row in rows if row["verdict"] == "worse" and row["keep"] > ratio]
    return {"ratio": ratio, "worse": worse, "rows": rows}


def _told(keep: float, row: Mapping[str, Any]) -> dict[str, Any]:
    gap = row["against_best"]
    if gap is None:
        return {"keep": keep, "top1": row["top1"], "gap": None, "low": None, "p": None, "verdict": None}
    low = gap["mean"] - _half_width(gap["sd"], gap["n"])
    return {"keep": keep, "top1": row["top1"], "gap": gap["mean"], "low": low, "p": gap["p"], "verdict": gap["verdict"]}


def _half_width(sd: float, n: int) -> float:
    """Return half the width of the two-sided interval of a mean of n paired differences."""
    from scipy.stats import t  # a second of import that most runs need not wait for

    return float(t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
