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
from datastill.fields import Real
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.stats import Difference, Summary, verdict_sentence
from datastill.measure.student import Testing, run_student, student_steps
from datastill.networks import sketch
from datastill.recipe import Paper, method, read_networks
from datastill.runtime.cache import locked
from datastill.runtime.device import Device, memory_peak_bytes
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.sources import Dataset
from datastill.training.bank import Bank, Training
from datastill.training.predict import accuracy, predict

RESULTS = "results.json"
NEAREST_CONTROL = "random_soft"


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
    command: str = "",
) -> dict[str, Any]:
    """Measure a saved distilled set beside its controls.

    Args:
        distilled: loaded from or saved to a folder.
        dataset: the real set that it was made from.
        plan: what to measure.
        run: folder of results; students that are already there are not trained again.
        device, reporter: where, and who is told.
        command: recorded.

    Returns: the results, as `results.json` in `run` holds them.
    Raises: DatastillError for another data set, or a set that was not saved.
    """
    if dataset.fingerprint != distilled.facts["source"]["fingerprint"]:
        raise DatastillError(
            f"'{dataset.name}' is not the data set that '{distilled.folder}' was distilled from: its contents differ."
        )
    testing = _testing(distilled, dataset, plan.split)
    steps = student_steps(distilled.recipe.student, len(distilled), plan.steps)
    with locked(run / "run"):
        maker = ArmMaker(distilled, dataset, device, reporter, run / "arms")
        known = {c.name: c for c in method(distilled.recipe.method).controls}
        made = [maker.own(), *(maker.make(known[name]) for name in plan.controls)]
        arms = [arm for arm in made if arm is not None]
        teachers = measure_teachers(distilled, dataset, testing, device, reporter)
        rows = []
        for student in plan.students:
            for arm in arms:
                rows.append(_row(arm, student, plan, testing, steps, run, device, reporter, embed=arm is arms[0]))
            _compare(rows, student, plan)
        results = _results(distilled, dataset, plan, rows, teachers, device, command)
        write_json(run / RESULTS, results)
    return results


def _row(
    arm: Arm,
    student: str,
    plan: Plan,
    testing: Testing,
    steps: int,
    run: Path,
    device: Device,
    reporter: Reporter,
    *,
    embed: bool,
) -> dict[str, Any]:
    """Train an arm's students, one per seed, and return what is known of them."""
    expanded, own_steps = arm.distilled.expand(), max(1, round(steps * arm.scale))
    found = []
    for seed in range(plan.seeds):
        key = digest_of([arm.distilled.recipe.plain(), arm.distilled.facts["expanded"], student, seed, own_steps,
                         plan.split, device.precision, versions()["torch"]])  # fmt: skip
        path = run / "students" / f"{key}.json"
        if not path.exists():
            run_student(
                arm.distilled, expanded, testing, student, seed, steps=own_steps, device=device, reporter=reporter,
                path=path, label=f"{arm.name}: {student}, seed {seed}", embed=embed and seed == 0,
            )  # fmt: skip
        found.append(read_json(path))
    top1 = Summary.of([f["top1"] for f in found])
    return {
        "arm": arm.name,
        "says": arm.says,
        "student": student,
        "column": arm.column,
        "split": plan.split,
        "epoch": "last",
        "items": len(arm.distilled),
        "pictures": len(arm.distilled.content.pictures.cls),
        "steps": own_steps,
        "batch": found[0]["batch"],
        "bytes": arm.distilled.ledger(),
        "seeds": list(range(plan.seeds)),
        "top1": {"per_seed": list(top1.per_seed), "mean": top1.mean, "std": top1.std, "n": top1.n},
        "per_class": [_mean(v) for v in zip(*(f["per_class"] for f in found), strict=True)],
        "seconds": [f["seconds"] for f in found],
        "losses": found[0]["losses"],
        "item_accuracy": found[0]["item_accuracy"],
        "embedding": found[0].get("embedding"),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _compare(rows: list[dict[str, Any]], student: str, plan: Plan) -> None:
    """Put beside each control how far the method is from it."""
    mine = [r for r in rows if r["student"] == student]
    for row in mine[1:]:
        gap = Difference.of(mine[0]["top1"]["per_seed"], row["top1"]["per_seed"])
        row["method_minus_this"] = {"mean": gap.mean, "t": gap.t, "p": gap.p, "n": gap.n, "verdict": gap.verdict}


def _testing(distilled: DistilledDataset, dataset: Dataset, split: str) -> Testing:
    if split == "test":
        return Testing(dataset.test.pixels, dataset.test.labels, split)
    rows = Real(dataset, distilled.recipe.validation, distilled.recipe.seed).held_out
    return Testing(dataset.train.batch(rows), dataset.train.labels[rows], split)


def measure_teachers(
    distilled: DistilledDataset, dataset: Dataset, testing: Testing, device: Device, reporter: Reporter
) -> dict[str, Any]:
    """Return each network's own accuracy and bytes, and the accuracy of their mean logits ("ship the teacher")."""
    recipe = distilled.recipe
    bank, real = Bank(device, reporter), Real(dataset, recipe.validation, recipe.seed)
    found: dict[str, Any] = {}
    total = None
    for name, made in recipe.networks.items():
        training = Training(name, made, dataset.info, real.key, device.precision)
        network = bank.get(training, real.data)
        logits = predict(network, testing.images, device=device.torch)
        total = logits if total is None else total + logits
        record = bank.record(training)
        found[name] = {
            "arch": made.arch,
            "top1": accuracy(logits, testing.labels),
            "bytes": record["bytes"],
            "steps": record["steps"],
            "seconds": record["seconds"],
            "losses": record["losses"],
        }
    if total is not None:
        found["mean of logits"] = {
            "arch": "ensemble",
            "top1": accuracy(total, testing.labels),
            "bytes": sum(f["bytes"] for f in found.values()),
        }
    return found


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
        mine = {r["arm"]: r for r in rows if r["student"] == student}
        own = next(iter(mine.values()))
        control = mine.get(NEAREST_CONTROL)
        ours = Summary.of(own["top1"]["per_seed"])
        if control is None:
            said.append(
                f"{own['arm']} reaches {ours} with {student}; its nearest control, random real images with the same "
                "kind of labels, was not run, so this says nothing about the method."
            )
            continue
        theirs = Summary.of(control["top1"]["per_seed"])
        gap = Difference.of(ours.per_seed, theirs.per_seed)
        name = "random real images with the same kind of labels"
        said.append(verdict_sentence(own["arm"], name, student, ours, theirs, gap))
    return said
