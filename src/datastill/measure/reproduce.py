"""A paper's number beside ours: the preset under its paper's own protocol and under the common one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError, suggestion
from datastill.fields import resolve
from datastill.measure.arms import ArmMaker
from datastill.measure.compare import RANDOM
from datastill.measure.costs import Cost, estimate, told_time
from datastill.measure.evaluate import RESULTS
from datastill.measure.ledger import write_rows
from datastill.measure.rows import (
    SCHEMA,
    Bench,
    make_row,
    put_against_random,
    run_facts,
    scored_on,
    train_students,
    trained,
)
from datastill.measure.sets import made_set
from datastill.measure.teachers import Teachers
from datastill.recipe import Paper, Recipe, TrainRecipe, compose, method
from datastill.runtime.cache import locked
from datastill.runtime.device import Device
from datastill.runtime.files import write_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from datastill.sources import Dataset

MARGIN = 0.9  # of the limit, for the scale that is proposed: no two timings are equal
ROWS = "rows"
PAPERS, COMMON = "the paper's protocol", "the common protocol"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What is asked for. ipc, student: of the paper's number; None for the first that it prints for the data set.
    limit: seconds that the whole run may cost. scale: share of the steps and rounds, 1 for all of them."""

    method: str
    ipc: int | None = None
    student: str | None = None
    seeds: int = 3
    limit: float = 7200.0
    scale: float = 1.0
    changes: tuple[str, ...] = ()
    networks: str | None = None

    def paper(self, dataset: Dataset) -> Paper:
        """Return the number that is reproduced. Raises: DatastillError where the paper has none for this."""
        known = [p for p in method(self.method).paper if p.source == dataset.name]
        wanted = [p for p in known if self.ipc in (None, p.ipc) and self.student in (None, p.student)]
        if wanted:
            return wanted[0]
        if known:
            cells = ", ".join(f"--ipc {p.ipc} --student {p.student}" for p in known)
            raise DatastillError(
                f"the paper of '{self.method}' has no such number for '{dataset.name}'; it has those of {cells}."
            )
        sources = sorted({p.source for p in method(self.method).paper})
        if not sources:
            raise DatastillError(f"no number of a paper is on record for method '{self.method}'.")
        raise DatastillError(
            f"the paper of '{self.method}' has no number for '{dataset.name}'{suggestion(dataset.name, sources)}"
        )


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return the recipe with `scale` times the epochs of its networks and students and the rounds of its match."""
    if scale == 1.0:
        return recipe

    def fewer(training: TrainRecipe) -> TrainRecipe:
        steps = None if training.steps is None else max(1, round(training.steps * scale))
        epochs, warmup = max(1, round(training.epochs * scale)), round(training.warmup * scale)
        return replace(training, epochs=epochs, warmup=warmup, steps=steps)

    settings = dict(recipe.match.settings)
    if "rounds" in settings:
        settings["rounds"] = max(1, round(settings["rounds"] * scale))
    networks = {name: replace(made, training=fewer(made.training)) for name, made in recipe.networks.items()}
    return replace(
        recipe, networks=networks, student=fewer(recipe.student), match=replace(recipe.match, settings=settings)
    )


def reproduce(
    dataset: Dataset,
    asked: Reproduction,
    *,
    out: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a preset as its paper does, and put the paper's number, ours and the control side by side.

    Args:
        dataset: the real set.
        asked: which number, how many seeds, and how much it may cost.
        out: folder of the run; the same call goes on where it stopped.
        device, reporter, jobs, command, source: as in `compare`.

    Returns: the results, as `results.json` in `out` holds them, with a file for each row in `rows/`: rows under the
        paper's own protocol and under the common one (the student recipe of `random`, as many steps), with random real
        images beside them, and "reproduction": the paper's number, ours, the difference, and that in standard errors.
    Raises: DatastillError where the paper has no such number, or where the run would cost more than `limit`.
    """
    paper = asked.paper(dataset)
    student = asked.student or paper.student
    recipe = scaled(_recipe(asked, asked.method, dataset, paper.ipc), asked.scale)
    resolve(recipe, dataset.info)
    common = scaled(_recipe(asked, "random", dataset, paper.ipc), asked.scale).student
    cost = estimate(dataset, recipe, common, student, asked.seeds, device)
    if cost.total > asked.limit:
        share, limit = MARGIN * asked.scale * asked.limit / cost.total, told_time(asked.limit)
        raise DatastillError(
            f"this would take about {told_time(cost.total)} on this device ({cost}), more than the {limit} "
            f"that --limit allows; raise --limit, or run a part of it with --scale {max(share, 0.0001):.2g} (its rows "
            "are named after the scale)."
        )
    if cost.unknown:
        reporter.say(f"What this run may cost was worked out without {' and '.join(cost.unknown)}.")
    testing = scored_on(dataset, "test", recipe.validation, recipe.seed)
    bench = Bench(testing, out, device, reporter, jobs)
    run = _Reproducing(dataset, asked, recipe, common, student, bench, dict(source or {"asked": dataset.origin}))
    with locked(out / "run"):
        results = run.results(paper, cost, command)
        write_json(out / RESULTS, results)
        write_rows(results, out / ROWS, replace=True)
    return results


@dataclass
class _Reproducing:
    """A reproduction under way."""

    dataset: Dataset
    asked: Reproduction
    recipe: Recipe
    common: TrainRecipe
    student: str
    bench: Bench
    source: dict[str, Any]

    @property
    def tail(self) -> str:
        """What the names of rows end in that are not the paper's run as it stands."""
        scaled_to = "" if self.asked.scale == 1.0 else f", scaled to {self.asked.scale:g}"
        return scaled_to + (", changed" if self.asked.changes or self.asked.networks else "")

    def rows(self, distilled: DistilledDataset, teachers: Teachers) -> list[dict[str, Any]]:
        """Return the rows of the set and of random real images, under the paper's protocol and under the common one."""
        maker = ArmMaker(distilled, self.dataset, self.bench.device, self.bench.reporter, self.bench.run / "arms")
        beside = maker.patched("random", "random real images, same labels", RANDOM)
        steps, seeds, rows = self.recipe.student.work(len(distilled)).steps, self.asked.seeds, []
        for protocol, training in ((PAPERS, self.recipe.student), (COMMON, self.common)):
            arms = [replace(arm, name=f"{arm.name}, {protocol}{self.tail}", student=training)
                    for arm in (maker.own(), beside)]  # fmt: skip
            files = train_students(arms, [self.student], seeds, steps, self.bench)
            made = [make_row(arm, self.student, trained(files, arm, self.student, seeds), steps, "test", teachers)
                    for arm in arms]  # fmt: skip
            put_against_random(made)
            rows += made
        return rows

    def results(self, paper: Paper, cost: Cost, command: str) -> dict[str, Any]:
        """Distil, measure, and return what `results.json` holds."""
        bench, recipe, asked = self.bench, self.recipe, self.asked
        distilled = made_set(
            self.dataset, recipe, bench.run / "set", device=bench.device, reporter=bench.reporter, source=self.source,
            command=command,
        )  # fmt: skip
        teachers = Teachers(self.dataset, bench.testing, bench.device, bench.reporter)
        rows = self.rows(distilled, teachers)
        printed = [{"method": asked.method, "cite": method(asked.method).cite} | vars(paper)]
        return {
            "kind": "comparison",
            "schema": SCHEMA,
            "protocol": {
                "student": plain(recipe.student), "steps": rows[0]["steps"], "batch": recipe.student.batch,
                "seeds": list(range(asked.seeds)), "split": "test", "epoch": "last",
            },
            "chosen_on": None,
            "rows": rows,
            "scores": [],
            "failures": [],
            "teachers": teachers.facts(recipe),
            "paper": [] if self.tail else printed,
            "reproduction": _beside(paper, rows, asked.scale),
            "estimate": dict(cost.phases),
            "not_estimated": list(cost.unknown),
        } | run_facts(self.dataset, self.source, bench, command)  # fmt: skip


def _recipe(asked: Reproduction, name: str, dataset: Dataset, ipc: int) -> Recipe:
    of_networks = [c for c in asked.changes if c.startswith("networks.")]
    mine = [c for c in asked.changes if c not in of_networks] if name == asked.method else []
    made = compose(name, dataset.info, ipc=ipc, faithful=name == asked.method, changes=mine)
    return (made.with_networks(asked.networks) if asked.networks else made).changed(of_networks)


def _beside(paper: Paper, rows: list[dict[str, Any]], scale: float) -> list[dict[str, Any]]:
    """Return per protocol the paper's number, ours, the difference, and that in standard errors of ours.

    The paper's own deviation is shown, not used: over how many runs it was taken is often not said.
    """
    found = []
    for row in rows:
        if row["role"] != "method":
            continue
        top1 = row["top1"]
        error = None if not top1["std"] else top1["std"] / math.sqrt(top1["n"])
        gap = top1["mean"] - paper.top1
        found.append(
            {
                "arm": row["arm"],
                "paper": paper.top1,
                "paper_std": paper.std,
                "where": paper.where,
                "ours": top1,
                "difference": gap,
                "standard_errors": None if error is None else gap / error,
                "against_random": row["against_random"],
                "scale": scale,
                "steps": row["steps"],
                "seconds": sum(row["seconds"]) + (row["set_seconds"] or 0.0),
            }
        )
    return found
