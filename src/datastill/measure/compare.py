"""Several methods under one protocol: same student, same optimiser steps, every control, last step, test once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datastill.errors import DatastillError, unknown
from datastill.fields import Real, resolve
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.evaluate import RESULTS
from datastill.measure.rows import (
    SCHEMA,
    Bench,
    label_kind,
    make_row,
    paired,
    put_against_random,
    run_facts,
    scored_on,
    train_students,
    trained,
)
from datastill.measure.scores import PLAIN, scores_of
from datastill.measure.sets import made_set
from datastill.measure.student import Testing
from datastill.measure.teachers import Teachers
from datastill.networks import sketch
from datastill.recipe import Control, Recipe, TrainRecipe, choice, compose, method, methods, read_networks
from datastill.runtime.cache import locked
from datastill.runtime.device import Device
from datastill.runtime.files import write_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from datastill.sources import Dataset

# The field's small network, its usual large one, one of depthwise convolutions, one without BatchNorm, a small ViT.
CROSS = ("convnet", "resnet18", "mobilenetv2", "convnet(norm=instance)", "vit_tiny")
NETWORKS = "networks."
OF_ALL = ("student", "seed", "validation")  # students are trained alike, and scored on images that no method has seen
RANDOM = {"select": choice("random"), "store": choice("pixels"), "match": choice("none")}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how. students: NAME or NAME(setting=value). steps: of every student; None for the most
    that one of the methods asks for. controls: whether each method's own controls are run too; only: which of them,
    as METHOD/CONTROL (None: all). scores: whether the whole real set and students without augmentation are run, which
    the robust scores need. changes: `path=value` for every method, or `METHOD:path=value` for one. networks: the table
    of every method, as `--teachers` takes it.
    student: how students are trained; None for the recipe of `random`.
    """

    methods: tuple[str, ...]
    ipcs: tuple[int, ...] = (10,)
    students: tuple[str, ...] = CROSS
    seeds: int = 3
    steps: int | None = None
    controls: bool = True
    only: tuple[str, ...] | None = None
    scores: bool = False
    split: str = "test"
    changes: tuple[str, ...] = ()
    networks: str | None = None
    student: TrainRecipe | None = None

    def checked(self, dataset: Dataset) -> Comparison:
        """Return the comparison with each name once, or refuse it before any work.

        Raises: DatastillError for an empty grid, an unknown method, split or student.
        """
        known = methods()
        for name in [*self.methods, *(name for name, _ in map(_addressed, self.changes) if name)]:
            if name not in known:
                raise unknown("method", name, known)
        if self.split not in ("test", "validation"):
            raise unknown("split", self.split, ("test", "validation"))
        if not self.methods or not self.ipcs or not self.students:
            raise DatastillError("a comparison needs at least one method, one ipc and one student; this grid is empty.")
        if self.seeds < 1 or (self.steps is not None and self.steps < 1) or min(self.ipcs) < 1:
            raise DatastillError("a comparison needs at least one seed, one step and one image per class.")
        asked = {label: made for text in self.students for label, made in read_networks(text).items()}
        for arch, settings in asked.values():
            sketch(arch, classes=len(dataset.classes), shape=dataset.shape, settings=settings)
        self._check_changes()
        named = [f"{name}/{control.name}" for name in self.methods for control in method(name).controls]
        for control in self.only or ():
            if control not in named:
                raise unknown("control METHOD/CONTROL", control, named)
        names = tuple(dict.fromkeys(self.methods))
        return replace(self, methods=names, students=tuple(asked), ipcs=tuple(sorted(set(self.ipcs))))

    def wanted(self, name: str) -> list[Control]:
        """Return the controls of a method that are run."""
        if not self.controls:
            return []
        return [c for c in method(name).controls if self.only is None or f"{name}/{c.name}" in self.only]

    def _check_changes(self) -> None:
        """Refuse changes that would make rows incomparable, or that are asked for elsewhere."""
        for change in self.changes:
            name, path = _addressed(change.partition("=")[0])
            room = path.partition(".")[0].strip()
            if room == "ipc":
                raise DatastillError(f"'{change}': images per class are those of the grid; ask for them with --ipc.")
            if name and room in OF_ALL:
                raise DatastillError(
                    f"'{change}': {', '.join(OF_ALL[:-1])} and {OF_ALL[-1]} are the same for every method of a "
                    f"comparison; leave '{name}:' out to change them for all."
                )

    def recipe(self, name: str, dataset: Dataset, ipc: int) -> Recipe:
        """Return a method's recipe here. Raises: DatastillError where the method cannot serve the ipc or the set.

        Changes of networks for all methods are for those that have any. Random real images that nobody asked for have
        hard labels where all methods have: no network is trained for them alone.
        """
        meant = [(to, change) for to, change in map(_addressed, self.changes) if to in ("", name)]
        hard = name == "random" and name not in self.methods and self._all_hard(dataset, ipc)
        others = ["label=hard"] if hard else []
        others += [change for _, change in meant if not change.startswith(NETWORKS)]
        made = compose(name, dataset.info, ipc=ipc, changes=others)
        made = replace(made, networks={}) if hard and made.label.kind == "hard" else made
        of_networks = [c for to, c in meant if c.startswith(NETWORKS) and (to or made.networks)]
        made = (made.with_networks(self.networks) if self.networks and made.networks else made).changed(of_networks)
        resolve(made, dataset.info)
        return made

    def _all_hard(self, dataset: Dataset, ipc: int) -> bool:
        """Whether students of every method are told the classes alone; a method that cannot be made has no say."""
        hard = []
        for name in self.methods:
            try:
                hard.append(self.recipe(name, dataset, ipc).label.kind == "hard")
            except DatastillError:
                continue
        return bool(hard) and all(hard)


def _addressed(change: str) -> tuple[str, str]:
    """Return (method, change) of `METHOD:path=value`; the method is "" where a change is meant for all.

    A colon after a dot belongs to a path, as in `networks.timm:resnet18.seed=1`.
    """
    path, equals, value = change.partition("=")
    name, colon, rest = path.partition(":")
    return (name.strip(), rest + equals + value) if colon and "." not in name else ("", change)


@dataclass
class _Run:
    """A comparison under way."""

    asked: Comparison
    dataset: Dataset
    source: Mapping[str, Any]
    out: Path
    bench: Bench
    teachers: Teachers
    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    networks: dict[str, Any]

    @property
    def device(self) -> Device:
        return self.bench.device

    def failed(self, name: str, ipc: int, error: object) -> None:
        """Write down why something is left out; the rest goes on."""
        entry = {"method": name, "ipc": ipc, "says": str(error)}
        if entry not in self.failures:
            self.failures.append(entry)
            self.bench.reporter.say(f"{name} at ipc {ipc} is left out: {error}")


def compare(
    dataset: Dataset,
    asked: Comparison,
    *,
    out: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Distil with every method, and train students on every set and control under one protocol.

    Args:
        dataset: the real set.
        asked: what is compared.
        out: folder of the run. Sets are copied to `sets/`, and made only if the cache does not hold them; students that
            are there are not trained again, so that the same command goes on where it stopped.
        device, reporter, jobs, command: as in `evaluate`.
        source: how to load the data set again, as in `distil`.

    Returns: the results, as `results.json` in `out` holds them: rows, and a sentence for whatever was left out.
    Raises: DatastillError for an empty or mistaken grid, or where nothing at all could be measured.
    """
    asked = asked.checked(dataset)
    recipe = asked.recipe("random", dataset, asked.ipcs[0])
    testing = scored_on(dataset, asked.split, recipe.validation, recipe.seed)
    protocol = asked.student or recipe.student
    with locked(out / "run"):
        run = _Run(
            asked, dataset, source or {"asked": dataset.origin}, out, Bench(testing, out, device, reporter, jobs),
            Teachers(dataset, testing, device, reporter), [], [], {},
        )  # fmt: skip
        results: dict[str, Any] = {}
        for ipc in asked.ipcs:
            _compare_at(run, ipc, protocol)
            results = _results(run, protocol, testing, command)
            write_json(out / RESULTS, results)
    if not run.rows:
        raise DatastillError("nothing could be compared: " + " ".join(f["says"] for f in run.failures))
    return results


def _compare_at(run: _Run, ipc: int, protocol: TrainRecipe) -> None:
    """Make the arms of one ipc, train their students, and add their rows."""
    arms, most = _arms(run, ipc, protocol)
    steps = run.asked.steps or most
    files = train_students(arms, run.asked.students, run.asked.seeds, steps, run.bench)
    found: list[dict[str, Any]] = []
    for student in run.asked.students:
        for arm in arms:
            try:
                there = trained(files, arm, student, run.asked.seeds)
                found.append(make_row(arm, student, there, steps, run.bench.testing.split, run.teachers))
            except DatastillError as error:
                run.failed(arm.name, ipc, error)
    put_against_random(found)
    _put_against_method(found)
    order = {"H": 0, "S": 1, "D": 2}
    students = list(run.asked.students)
    found.sort(key=lambda row: (students.index(row["student"]), order[row["column"]]))
    run.rows += found


def _put_against_method(rows: list[dict[str, Any]]) -> None:
    """Put beside each control of a method how far the method is above it."""
    own = {(row["student"], row["method"]): row for row in rows if row["role"] == "method"}
    for row in rows:
        beside = own.get((row["student"], row["method"]))
        if beside is not None and beside is not row:
            row["method_minus_this"] = paired(beside, row)


def _arms(run: _Run, ipc: int, protocol: TrainRecipe) -> tuple[list[Arm], int]:
    """Return every arm at this ipc, each but once, and the most steps that a method asks for."""
    arms: list[Arm] = []
    makers: list[ArmMaker] = []
    most = 1
    for name in dict.fromkeys(["random", *run.asked.methods]):
        try:
            recipe, place = run.asked.recipe(name, run.dataset, ipc), f"{name}-ipc{ipc}"
            distilled = made_set(
                run.dataset, recipe, run.out / "sets" / place, device=run.device, reporter=run.bench.reporter,
                source=run.source, command=f"datastill compare ({place})",
            )  # fmt: skip
            run.networks |= run.teachers.facts(distilled.recipe)
            maker = ArmMaker(distilled, run.dataset, run.device, run.bench.reporter, run.out / "arms")
            own = maker.own()
            mine = [own] if own.column == "H" else [own, maker.hard()]
            arms += [replace(arm, student=protocol) for arm in mine]
        except DatastillError as error:
            run.failed(name, ipc, error)
            continue
        makers.append(maker)
        most = max(most, protocol.work(len(distilled)).steps)
    for maker in makers:
        _add_controls(run, ipc, maker, arms, protocol)
    return arms, most


def _add_controls(run: _Run, ipc: int, maker: ArmMaker, arms: list[Arm], protocol: TrainRecipe) -> None:
    """Add what stands beside a method: random real images with its labels always, and its own controls if asked.

    One that cannot be made is left out by itself.
    """
    own = maker.own()
    name = own.distilled.recipe.method
    wanted: dict[str, Callable[[], Arm | None]] = {}
    if not any(arm.random and _labelled_alike(arm, own) for arm in arms):
        beside = f"random_{own.column}"
        if any(arm.name == beside for arm in arms):
            beside = f"{name}/{beside}"
        wanted[beside] = partial(maker.patched, beside, "random real images, same labels", RANDOM)
    for control in run.asked.wanted(name):
        wanted[_prefixed(name, control.name)] = partial(maker.make, control)
    for arm_name, make in wanted.items():
        try:
            made = make()
        except DatastillError as error:
            run.failed(arm_name, ipc, error)
            continue
        _add(arms, [] if made is None else [replace(made, name=arm_name)], protocol)
    if run.asked.scores:
        try:
            _add_for_scores(run, maker, arms, protocol)
        except DatastillError as error:
            run.failed(name, ipc, error)


def _labelled_alike(one: Arm, other: Arm) -> bool:
    """Whether students of two arms are told the same kind of labels, of the same networks where they are soft."""
    recipes = [arm.distilled.recipe for arm in (one, other)]
    told = [label_kind(recipe.label.plain()) for recipe in recipes]
    same = one.column == "H" or recipes[0].networks == recipes[1].networks
    return one.column == other.column and told[0] == told[1] and same


def _prefixed(name: str, control: str) -> str:
    return control if control.startswith(name) else f"{name}/{control}"


def _add_for_scores(run: _Run, maker: ArmMaker, arms: list[Arm], protocol: TrainRecipe) -> None:
    """Add the whole real set, and this method and its random images without augmentation.

    Each has a row of its own, even where its students would meet what those of another arm meet.
    """
    real = Real(run.dataset, maker.distilled.recipe.validation, maker.distilled.recipe.seed)
    if not any(arm.role == "whole" for arm in arms):
        patch = RANDOM | {"store": choice("pixels", total=len(real.rows)), "label": choice("hard")}
        whole = maker.patched("whole", "the whole real training set", patch)
        arms.append(replace(whole, role="whole", student=protocol))
    bare = replace(protocol, crop=0, resized_crop=None, flip=False, cutout=0, mix="none")
    own = maker.own()
    beside = [own, *(arm for arm in arms if arm.random and _labelled_alike(arm, own))]
    there = {arm.name for arm in arms}
    plain = {arm.name + PLAIN: replace(arm, name=arm.name + PLAIN, role="plain", student=bare) for arm in beside}
    arms += [arm for name, arm in plain.items() if name not in there]


def _add(arms: list[Arm], more: Sequence[Arm], protocol: TrainRecipe) -> None:
    """Add controls, but none whose students would meet what those of an earlier arm meet."""
    there = {(arm.key, arm.scale) for arm in arms}
    for arm in more:
        made = replace(arm, student=protocol)
        if (made.key, made.scale) not in there:
            there.add((made.key, made.scale))
            arms.append(made)


def _results(run: _Run, protocol: TrainRecipe, testing: Testing, command: str) -> dict[str, Any]:
    dataset, asked = run.dataset, run.asked
    recipe = asked.recipe("random", dataset, asked.ipcs[0])
    steps = max((row["steps"] for row in run.rows if row["same_work"]), default=0)
    return {
        "kind": "comparison",
        "schema": SCHEMA,
        "protocol": {
            "student": plain(protocol), "steps": steps, "batch": protocol.batch, "seeds": list(range(asked.seeds)),
            "split": testing.split, "epoch": "last",
        },
        "chosen_on": "validation" if recipe.validation else None,
        "rows": run.rows,
        "scores": scores_of(run.rows) if asked.scores else [],
        "failures": run.failures,
        "teachers": run.networks,
        "paper": _papers(asked, dataset),
    } | run_facts(dataset, run.source, run.bench, command)  # fmt: skip


def _papers(asked: Comparison, dataset: Dataset) -> list[dict[str, Any]]:
    """Return what the compared methods' papers print for this very data set; none for a subset or another set."""
    return [
        {"method": name, "cite": method(name).cite} | vars(paper)
        for name in asked.methods
        for paper in method(name).paper
        if paper.source == dataset.name and paper.ipc in asked.ipcs
    ]
