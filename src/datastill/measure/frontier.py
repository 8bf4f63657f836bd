"""Accuracy against bytes: random real images under every codec, methods, label codecs, and shipped networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure.arms import Arm, ArmMaker
from datastill.measure.compare import Comparison
from datastill.measure.evaluate import RESULTS
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
from datastill.measure.shipping import FORMS, ship
from datastill.measure.teachers import Teachers
from datastill.recipe import Choice, Recipe, TrainRecipe, choice
from datastill.runtime.cache import locked
from datastill.runtime.device import Device
from datastill.runtime.files import write_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from datastill.sources import Dataset
from datastill.training.bank import Bank, Training

TILES = 1024
LOSSLESS = ("raw", "png", "webp-lossless")
LABELS = ("own", "hard")
GRIDS = (
    "codecs=raw/1,webp-lossless/1,webp-lossless ipc=10,50,150,all labels=hard,fp16",
    "codecs=avif:60,avif:45,avif:30,webp:75:420,jpeg:75 ipc=50,150,all labels=hard,klt",
    "codecs=avif:60/1,webp:75:420/1,jpeg:75/1 ipc=50 labels=hard",
    "codecs=avif:60 ipc=150 labels=fp32,fp16,int8,int4,topk:5,topk:10,klt:0.01,klt:0.05",
)


@dataclass(frozen=True)
class Grid:
    """Random real images: every codec with every number of images per class (0: all) and every label.

    codecs: (as written, settings of a `PictureCodec`). labels: (as written, the label choice).
    """

    codecs: tuple[tuple[str, Mapping[str, Any]], ...]
    ipcs: tuple[int, ...]
    labels: tuple[tuple[str, Choice], ...]

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Read `codecs=avif:60,raw/1 ipc=10,all labels=hard,fp16,topk:5,klt:0.01`.

        A codec is FORMAT[:QUALITY[:CHROMA]][/TILES], packed 1,024 to a file unless TILES says otherwise. Raises:
        DatastillError for anything else, and for a part that is empty.
        """
        words = [word.partition("=")[::2] for word in text.split()]
        parts = dict(words)
        if sorted(name for name, _ in words) != ["codecs", "ipc", "labels"]:
            raise DatastillError(f"--grid wants 'codecs=... ipc=... labels=...', not '{text}'.")
        lists = {name: [entry for entry in value.split(",") if entry] for name, value in parts.items()}
        for name, entries in lists.items():
            if not entries:
                raise DatastillError(f"the grid '{text}' is empty: '{name}' names nothing.")
        return cls(
            tuple((entry, _codec(entry)) for entry in lists["codecs"]),
            tuple(_ipc(entry) for entry in lists["ipc"]),
            tuple((entry, _label(entry)) for entry in lists["labels"]),
        )


def _codec(entry: str) -> dict[str, Any]:
    asked, _, tiles = entry.partition("/")
    name, *rest = asked.split(":")
    settings: dict[str, Any] = {"format": name, "tiles": _whole(tiles, entry) if tiles else TILES}
    if len(rest) > 2 or (rest and name in LOSSLESS):
        raise DatastillError(f"'{entry}' is no codec; write FORMAT[:QUALITY[:CHROMA]][/TILES], such as avif:60:444/1.")
    if rest:
        settings["quality"] = _whole(rest[0], entry)
    if len(rest) == 2:
        settings["chroma"] = rest[1]
    return settings


def _ipc(entry: str) -> int:
    number = 0 if entry == "all" else _whole(entry, entry)
    if entry != "all" and number < 1:
        raise DatastillError("a grid needs at least one image per class; 'all' stands for every one.")
    return number


def _label(entry: str) -> Choice:
    name, colon, value = entry.partition(":")
    if name == "hard" and not colon:
        return choice("hard")
    settings: dict[str, Any] = {"kind": name}
    if colon and name not in ("topk", "klt"):
        raise DatastillError(f"'{entry}' is no label codec; only topk:K and klt:ERROR take a number.")
    if colon:
        settings |= {"k": _whole(value, entry)} if name == "topk" else {"error": value}
    return choice("static", codec=settings)


def _whole(text: str, entry: str) -> int:
    if not text.isdigit():
        raise DatastillError(f"'{entry}': '{text}' is not a whole number.")
    return int(text)


def frontier(
    dataset: Dataset,
    asked: Comparison,
    grids: Sequence[str] = GRIDS,
    labels: Sequence[str] = LABELS,
    *,
    out: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure accuracy against the bytes of everything that a receiver stores.

    Args:
        dataset: the real set.
        asked: students, steps, seeds, split; its methods and `random` stand on the frontier at its ipcs too. Steps must
            be given: sets of every size are trained for as many.
        grids: random real images, as `Grid.parse` reads them.
        labels: of the methods' sets: "own", "hard", or a label codec of a grid.
        out, device, reporter, jobs, command, source: as in `compare`. What cannot be made is left out, and said.

    Returns: the results, as `results.json` in `out` holds them.
    Raises: DatastillError for a mistaken or empty grid, or where nothing could be measured.
    """
    made = [Grid.parse(text) for text in grids]
    asked = replace(asked, methods=("random", *asked.methods)).checked(dataset)
    if asked.steps is None:
        raise DatastillError("a frontier compares sets of every size under equal work: give --steps.")
    recipe = asked.recipe("random", dataset, asked.ipcs[0])
    testing = scored_on(dataset, asked.split, recipe.validation, recipe.seed)
    teachers = Teachers(dataset, testing, device, reporter)
    bench = Bench(testing, out, device, reporter, jobs)
    for label in labels:
        if label not in LABELS:
            _label(label)
    run = _Frontier(asked, dataset, recipe, out, bench, dict(source or {"asked": dataset.origin}), tuple(labels), [])
    with locked(out / "run"):
        arms = run.methods() + [arm for grid in made for arm in run.points(grid)]
        rows = _measured(run, arms, teachers)
        if not rows:
            raise DatastillError("nothing could be measured: " + " ".join(f["says"] for f in run.failures))
        results = _results(run, rows, teachers, command)
        write_json(out / RESULTS, results)
    return results


@dataclass
class _Frontier:
    """A frontier under way."""

    asked: Comparison
    dataset: Dataset
    recipe: Recipe
    out: Path
    bench: Bench
    source: dict[str, Any]
    labels: tuple[str, ...]
    failures: list[dict[str, Any]]

    @property
    def student(self) -> TrainRecipe:
        """How every student is trained."""
        return self.asked.student or self.recipe.student

    def _set(self, recipe: Recipe, name: str) -> Any:
        return made_set(
            self.dataset, recipe, self.out / "sets" / name.replace("/", "-").replace(":", "-").replace(" ", "_"),
            device=self.bench.device, reporter=self.bench.reporter, source=self.source,
            command=f"datastill frontier ({name})",
        )  # fmt: skip

    def failed(self, name: str, ipc: int, error: object) -> None:
        """Write down why a point is left out; the rest goes on."""
        entry = {"method": name, "ipc": ipc, "says": str(error)}
        if entry not in self.failures:
            self.failures.append(entry)
            self.bench.reporter.say(f"{name} at ipc {ipc} is left out: {error}")

    def methods(self) -> list[Arm]:
        """Return the methods' sets, under each kind of label that was asked for."""
        arms = []
        for name in self.asked.methods:
            for ipc in self.asked.ipcs:
                try:
                    distilled = self._set(self.asked.recipe(name, self.dataset, ipc), f"{name} ipc{ipc}")
                except DatastillError as error:
                    self.failed(name, ipc, error)
                    continue
                maker = ArmMaker(distilled, self.dataset, self.bench.device, self.bench.reporter, self.out / "arms")
                own = distilled.fields.label.column
                same = own == "H" and "hard" in self.labels  # then "own" and "hard" are one
                for label in [x for x in self.labels if x != "own" or not same]:
                    called = f"{name}, {label} ipc{ipc}"
                    try:
                        arms.append(replace(_labelled(maker, label), name=called, student=self.student))
                    except DatastillError as error:
                        self.failed(called, ipc, error)
        return arms

    def points(self, grid: Grid) -> list[Arm]:
        """Return random real images at every point of a grid."""
        real = Real(self.dataset, self.recipe.validation, self.recipe.seed)
        arms = []
        for codec, settings in grid.codecs:
            for count in grid.ipcs:
                for label, told in grid.labels:
                    store = choice("coded", codec=dict(settings), **({} if count else {"total": len(real.rows)}))
                    ipc = count or -(-len(real.rows) // len(self.dataset.classes))
                    name = f"random {codec}, {label} ipc{ipc}"
                    try:
                        recipe = self.recipe.patched({"store": store, "label": told, "ipc": ipc})
                        distilled = self._set(recipe, name)
                    except DatastillError as error:
                        self.failed(name, ipc, error)
                        continue
                    says = f"random real images under {codec}, labels {label}"
                    arms.append(Arm(name, says, distilled, role="frontier", student=self.student))
        return arms


def _labelled(maker: ArmMaker, label: str) -> Arm:
    """Return a method's images with "own" labels, "hard" ones, or its soft ones under a codec."""
    if label == "own":
        return maker.own()
    if label == "hard":
        return maker.hard()
    name = f"{maker.distilled.recipe.method}_{label.replace(':', '-')}"
    return maker.relabelled(name, f"its images with soft labels under {label}", {"label": _label(label)})


def _measured(run: _Frontier, arms: Sequence[Arm], teachers: Teachers) -> list[dict[str, Any]]:
    """Train the students of every arm, and return their rows."""
    asked, steps = run.asked, run.asked.steps
    assert steps is not None, "checked before any work"
    arms = list({arm.name: arm for arm in arms}.values())
    files = train_students(arms, asked.students, asked.seeds, steps, run.bench)
    rows = []
    for student in asked.students:
        for arm in arms:
            try:
                there = trained(files, arm, student, asked.seeds)
                row = make_row(arm, student, there, steps, asked.split, teachers)
                rows.append(row | {"ipc": _raw_ipc(arm, len(run.dataset.classes))})
            except DatastillError as error:
                run.failed(arm.name, arm.distilled.recipe.ipc, error)
    put_against_random(rows)
    return rows


def _raw_ipc(arm: Arm, classes: int) -> int:
    """Return the place of a set on the axis of equal raw pixels: its ipc, or what a size of its own comes to."""
    recipe, counts = arm.distilled.recipe, arm.distilled.facts["counts"]
    if not {"total", "sets", "extra"} & set(recipe.store.settings):
        return recipe.ipc
    images = int(counts["natural"]) + int(counts.get("compensators", 0))
    return -(-images // classes)


def _shipped(run: _Frontier) -> list[dict[str, Any]]:
    """Return what it is to send each of the recipe's networks, in every form."""
    recipe, device = run.recipe, run.bench.device
    real, bank = Real(run.dataset, recipe.validation, recipe.seed), Bank(device, run.bench.reporter)
    rows = []
    for name, made in recipe.networks.items():
        network = bank.get(Training(name, made, run.dataset.info, real.key, device.precision), real.data)
        for form in FORMS:
            found = ship(network, form, run.bench.testing, device)
            rows.append({"arm": f"ship {name}, {form}", "network": name, "form": form} | found)
    return rows


def _results(run: _Frontier, rows: list[dict[str, Any]], teachers: Teachers, command: str) -> dict[str, Any]:
    asked, student = run.asked, run.student
    shared = run_facts(run.dataset, run.source, run.bench, command)
    return {
        "kind": "frontier",
        "schema": SCHEMA,
        "protocol": {
            "student": plain(student), "steps": asked.steps, "batch": student.batch, "seeds": list(range(asked.seeds)),
            "split": asked.split, "epoch": "last",
        },
        "chosen_on": "validation" if run.recipe.validation else None,
        "rows": rows,
        "networks": _shipped(run),
        "failures": run.failures,
        "teachers": teachers.facts(run.recipe),
    } | shared  # fmt: skip
