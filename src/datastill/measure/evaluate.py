"""Every method beside its controls: same students, same optimiser steps, same seeds, last step, test split once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.engine import RUN
from datastill.errors import DatastillError, unknown
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.rows import (
    SCHEMA,
    Bench,
    make_row,
    paired,
    put_against_random,
    scored_on,
    train_students,
    trained,
)
from datastill.measure.stats import Difference, Summary, verdict_sentence
from datastill.measure.student import student_steps
from datastill.measure.teachers import Teachers
from datastill.networks import sketch
from datastill.recipe import Control, Paper, method, read_networks
from datastill.runtime.cache import locked
from datastill.runtime.device import Device, memory_peak_bytes
from datastill.runtime.files import read_json, write_json
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.sources import Dataset

RESULTS = "results.json"


@dataclass(frozen=True)
class Plan:
    """What is measured. students: NAME or NAME(setting=value) texts. steps: of each student; None for the recipe's.

    controls: names of the method's controls to run beside it. split: "test", or "validation" for choices.
    """

    students: tuple[str, ...]
    seeds: int
    controls: tuple[str, ...]
    steps: int | None = None
    split: str = "test"

    @classmethod
    def of(
        cls,
        distilled: DistilledDataset,
        students: Sequence[str],
        *,
        seeds: int = 3,
        controls: bool | Iterable[str] = True,
        steps: int | None = None,
        split: str = "test",
    ) -> Plan:
        """Check and complete a plan. Raises: DatastillError for an unknown control, split, or a plan of nothing."""
        known = {c.name: c for c in method(distilled.recipe.method).controls}
        names = tuple(known) if controls is True else () if controls is False else tuple(controls)
        for name in names:
            if name not in known:
                raise unknown("control", name, known)
        if split not in ("test", "validation"):
            raise unknown("split", split, ("test", "validation"))
        if split == "validation" and not distilled.recipe.validation:
            raise DatastillError(
                "this set was distilled with no validation images; distil with --set validation=COUNT to choose on "
                "them."
            )
        if seeds < 1 or not students or (steps is not None and steps < 1):
            raise DatastillError("evaluation needs at least one student, one seed and one step.")
        asked = {label: made for text in students for label, made in read_networks(text).items()}
        for arch, settings in asked.values():
            sketch(arch, classes=distilled.info.classes, shape=distilled.info.shape, settings=settings)
        return cls(tuple(asked), seeds, names, steps, split)


def evaluate(
    distilled: DistilledDataset,
    dataset: Dataset,
    plan: Plan,
    *,
    run: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Measure a saved distilled set beside its controls.

    Args:
        distilled: loaded from or saved to a folder.
        dataset: the real set that it was made from.
        plan: what to measure.
        run: folder of results; students that are already there are not trained again.
        device, reporter: where, and who is told.
        jobs: how many students are trained at once.
        command: recorded.

    Returns: the results, as `results.json` in `run` holds them.
    Raises: DatastillError for another data set, or a set that was not saved.
    """
    if dataset.fingerprint != distilled.facts["source"]["fingerprint"]:
        raise DatastillError(
            f"'{dataset.name}' is not the data set that '{distilled.folder}' was distilled from: its contents differ."
        )
    recipe = distilled.recipe
    testing = scored_on(dataset, plan.split, recipe.validation, recipe.seed)
    steps = student_steps(recipe.student, len(distilled), plan.steps)
    with locked(run / "run"):
        maker = ArmMaker(distilled, dataset, device, reporter, run / "arms")
        known = {c.name: c for c in method(recipe.method).controls}
        made = [maker.own(), *(_control(maker, known[name], reporter) for name in plan.controls)]
        arms = [arm for arm in made if arm is not None]
        answering = Teachers(dataset, testing, device, reporter)
        teachers = answering.facts(recipe)
        bench = Bench(testing, run, device, reporter, jobs)
        files = train_students(arms, plan.students, plan.seeds, steps, bench, embed=arms[0])
        rows: list[dict[str, Any]] = []
        for student in plan.students:
            for arm in arms:
                there = trained(files, arm, student, plan.seeds)
                rows.append(make_row(arm, student, there, steps, plan.split, answering))
            _compare(rows, student)
        put_against_random(rows)
        results = _results(distilled, dataset, plan, rows, teachers, device, command)
        write_json(run / RESULTS, results)
    return results


def _control(maker: ArmMaker, control: Control, reporter: Reporter) -> Arm | None:
    """Return a control's arm; one that cannot be made here, as without its codec, is left out, and that is told."""
    try:
        return maker.make(control)
    except DatastillError as error:
        reporter.say(f"The control {control.name} was left out: {error}")
        return None


def _compare(rows: list[dict[str, Any]], student: str) -> None:
    """Put beside each control how far the method is from it."""
    mine = [r for r in rows if r["student"] == student]
    for row in mine[1:]:
        row["method_minus_this"] = paired(mine[0], row)


def _results(
    distilled: DistilledDataset,
    dataset: Dataset,
    plan: Plan,
    rows: list[dict[str, Any]],
    teachers: Mapping[str, Any],
    device: Device,
    command: str,
) -> dict[str, Any]:
    recipe, folder = distilled.recipe, distilled.folder
    assert folder is not None, "a set without a folder has no ledger, which is asked for first"
    timed = folder / RUN
    return {
        "kind": "evaluation",
        "schema": SCHEMA,
        "source": distilled.facts["source"],
        "classes": list(distilled.classes),
        "method": recipe.method,
        "ipc": recipe.ipc,
        "verdict": verdict(rows, plan),
        "rows": rows,
        "teachers": dict(teachers),
        "paper": [vars(p) for p in _papers(distilled)],
        "counts": distilled.facts["counts"],
        "bytes": distilled.ledger(),
        "real_bytes": distilled.facts["real_bytes"],
        "recipe": recipe.plain(),
        "distilled": str(folder),
        "chosen_on": "validation" if recipe.validation else None,
        "seconds": read_json(timed)["seconds"] if timed.exists() else {},
        "peak_bytes": memory_peak_bytes(),
        "versions": versions(),
        "device": device.describe(),
        "commands": [distilled.facts["command"], command],
        "python": sys.version.split()[0],
    }


def _papers(distilled: DistilledDataset) -> list[Paper]:
    """Return the paper's numbers for this very data set and ipc; none for a subset or another set."""
    recipe, info = distilled.recipe, distilled.info
    return [p for p in method(recipe.method).paper if (p.source, p.ipc) == (info.name, recipe.ipc)]


def verdict(rows: Sequence[Mapping[str, Any]], plan: Plan) -> list[str]:
    """Return one sentence per student: the method against random real images with the same labels."""
    said = []
    for student in plan.students:
        own, *others = (r for r in rows if r["student"] == student)
        ours = Summary.of(own["top1"]["per_seed"])
        if own["against_random"] is None:
            said.append(
                f"{own['arm']} reaches {ours} with {student}; its nearest control, random real images with the same "
                "kind of labels, was not run, so this says nothing about the method."
            )
            continue
        control = next(r for r in others if r["random"] and paired(own, r) == own["against_random"])
        theirs = Summary.of(control["top1"]["per_seed"])
        gap = Difference.of(ours.per_seed, theirs.per_seed)
        name = "random real images with the same kind of labels"
        said.append(verdict_sentence(own["arm"], name, student, ours, theirs, gap))
    return said
