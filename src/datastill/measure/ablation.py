"""Changes to a method, one at a time: each is measured beside the best so far, and stays only if it helps.

A plan is a YAML file:

    name: levers
    says: what the ladder is for
    method: datastill
    changes: [label=static]             # where it begins, over the method's preset
    experiments:
      - name: loss
        says: what is asked
        variants:
          T = 4: [student.temperature=4.0, student.kl_scale=temperature-squared]
          mean squared error: [student.soft_loss=mse]
      - name: controls
        says: what stands beside the result
        adopt: false                    # these rows are only reported
        variants:
          without loss: {changes: [store.codec.format=webp-lossless], size: same}
          INFER: {method: infer, size: own}
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Real, resolve
from datastill.measure.arms import Arm
from datastill.measure.evaluate import RESULTS
from datastill.measure.filling import filled
from datastill.measure.rows import SCHEMA, Bench, make_row, paired, run_facts, scored_on, train_students, trained
from datastill.measure.sets import made_set
from datastill.measure.teachers import Teachers
from datastill.networks import sketch
from datastill.recipe import Recipe, choice, compose, read_networks, read_yaml
from datastill.runtime.cache import locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.runtime.progress import Reporter
from datastill.settings import build, chosen, plain, setting
from datastill.sources import Dataset

GAIN, DEVIATIONS = 0.3, 1.0  # what a change must bring: points, and deviations of the paired differences
SLACK = 0.002  # of the budget: an ablation is not worth a dozen codings for its last image
DIGITS = 512  # bytes that the manifest's measurements of learned units may take beyond those of a first round
START = "start"
TEACHERS = "teachers="  # a change of its own: the table of networks, as --teachers takes it


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One change of an experiment.

    changes: `path=value`, or `teachers=NAME,NAME(setting=value)` for another table of networks; over the running best,
    or over the preset of `method` where one is named. size: "budget" fills the bytes of the ablation, "same" takes as
    many images as the running best has, "own" what the recipe says.
    """

    changes: tuple[str, ...] = setting(())
    method: str | None = setting(None)
    size: Literal["budget", "same", "own"] = setting("budget")

    @classmethod
    def parse(cls, value: Any, path: str, mistakes: list[str]) -> Variant | None:
        """Read a list of changes, or a mapping."""
        given = {"changes": value} if isinstance(value, (list, tuple)) else value
        return cast("Variant | None", build(cls, given, path, mistakes))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Variants that answer one question. adopt: whether the best of them may become the running best."""

    name: str
    says: str = setting("")
    adopt: bool = setting(True)
    variants: dict[str, Variant]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a ladder begins, and its experiments in order."""

    name: str
    says: str = setting("")
    method: str = setting("datastill")
    changes: tuple[str, ...] = setting(())
    experiments: tuple[Experiment, ...] = setting(())

    @classmethod
    def from_yaml(cls, path: Path) -> Plan:
        """Read a plan. Raises: DatastillError with every mistake, naming the file."""
        mistakes: list[str] = []
        made = cast("Plan | None", build(cls, read_yaml(path), "", mistakes))
        if made is not None:
            names = [experiment.name for experiment in made.experiments]
            mistakes += [f"the experiment '{name}' stands there twice." for name in set(names) if names.count(name) > 1]
            mistakes += [f"the experiment '{e.name}' has no variants." for e in made.experiments if not e.variants]
            mistakes += ["it has no experiments."] if not names else []
        if mistakes or made is None:
            raise DatastillError(f"the plan '{path}': " + " ".join(mistakes))
        return made


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A plan and its protocol.

    budget: bytes that variants fill, None to take every set as its recipe says. student: NAME or NAME(setting=value).
    steps: of every student. changes: `path=value` for every recipe, whatever its method. networks: their table, as
    `--teachers` takes it.
    """

    plan: Plan
    budget: int | None
    steps: int
    student: str = "convnet"
    seeds: int = 3
    split: str = "validation"
    changes: tuple[str, ...] = ()
    networks: str | None = None

    def checked(self, dataset: Dataset) -> Ablation:
        """Return the ablation, or refuse before any work what cannot be run.

        Raises: DatastillError for an unknown student or method, a change that leads nowhere, or too few seeds.
        """
        if self.split not in ("test", "validation"):
            raise DatastillError(f"--split must be test or validation, not '{self.split}'.")
        if self.steps < 1 or (self.budget is not None and self.budget < 1):
            raise DatastillError("an ablation needs at least one step, and one byte.")
        if self.seeds < 2:
            raise DatastillError("an ablation pairs students by seeds and wants their spread: give --seeds 2 or more.")
        if self.split == "test" and any(experiment.adopt for experiment in self.plan.experiments):
            raise DatastillError(
                "choices are not made on the test split: give --split validation with --set validation=COUNT, or "
                "write 'adopt: false' into every experiment of the plan."
            )
        ((label, (arch, settings)),) = read_networks(self.student).items()
        sketch(arch, classes=len(dataset.classes), shape=dataset.shape, settings=settings)
        self.recipe(dataset, self.plan.method, self.plan.changes)
        for experiment in self.plan.experiments:
            for variant in experiment.variants.values():
                before = () if variant.method else self.plan.changes
                self.recipe(dataset, variant.method or self.plan.method, (*before, *variant.changes))
        return replace(self, student=label)

    def recipe(self, dataset: Dataset, method: str, changes: tuple[str, ...]) -> Recipe:
        """Return a preset under the changes for all and its own. Raises: DatastillError, naming what is wrong."""
        both = (*self.changes, *changes)
        tables = [change.removeprefix(TEACHERS) for change in both if change.startswith(TEACHERS)]
        of_networks = [change for change in both if change.startswith("networks.")]
        others = [change for change in both if change not in of_networks and not change.startswith(TEACHERS)]
        made = compose(method, dataset.info, changes=others)
        networks = tables[-1] if tables else self.networks
        made = (made.with_networks(networks) if networks and made.networks else made).changed(of_networks)
        resolve(made, dataset.info)
        return made


@dataclass
class _Ladder:
    """An ablation under way. best: the changes that were adopted so far."""

    asked: Ablation
    dataset: Dataset
    source: Mapping[str, Any]
    out: Path
    bench: Bench
    teachers: Teachers
    best: tuple[str, ...] = ()
    beside: str = START
    failures: list[dict[str, Any]] = field(default_factory=list)
    networks: dict[str, Any] = field(default_factory=dict)
    order: int = 0

    def arm(self, name: str, variant: Variant, like: Arm | None) -> Arm:
        """Return the set of a variant, with how its students are trained."""
        changes = variant.changes if variant.method else (*self.asked.plan.changes, *self.best, *variant.changes)
        recipe = self.asked.recipe(self.dataset, variant.method or self.asked.plan.method, changes)
        # Sets are shared by variants that differ in their students alone.
        base = self.asked.recipe(self.dataset, recipe.method, ())
        made = self._sized(replace(recipe, student=_rendered(base, recipe)), variant.size, like)
        distilled = made_set(
            self.dataset, made, self.out / "sets" / digest_of(chosen(made))[:16], device=self.bench.device,
            reporter=self.bench.reporter, source=self.source, command="datastill ablate",
        )  # fmt: skip
        self.networks |= self.teachers.facts(distilled.recipe)
        return Arm(name, "", distilled, role="trial", student=recipe.student)

    def _sized(self, recipe: Recipe, size: str, like: Arm | None) -> Recipe:
        if size == "own" or (size == "budget" and self.asked.budget is None):
            return recipe
        fillable = recipe.store.kind in ("pixels", "coded") or "sets" in recipe.store.settings
        if not fillable:
            raise DatastillError(
                f"store '{recipe.store.kind}' cannot be filled image by image; give the variant 'size: own', or a "
                f"number of compensated sets, store.sets, beside which other images may stand."
            )
        if size == "same":
            assert like is not None, "the start is never 'same'"
            return _with_total(recipe, len(like.distilled.content.pictures.cls), self.dataset.info.classes)
        return _with_total(recipe, self._filled(recipe), self.dataset.info.classes)

    def _filled(self, recipe: Recipe) -> int:
        """Return how many images fill the budget, as found now or in an earlier run."""
        budget = self.asked.budget
        assert budget is not None, "asked only where there is one"
        path = self.out / "filled" / f"{digest_of([chosen(recipe), budget])}.json"
        if not path.exists():
            rows = len(Real(self.dataset, recipe.validation, recipe.seed).rows)
            least = self.dataset.info.classes * recipe.store.settings.get("sets", 1)
            light = _unlearned(recipe)
            held = budget if light == recipe else budget - DIGITS
            count = filled(lambda n: self._weigh(light, n), held, least, rows, slack=SLACK)
            if self._weigh(light, count) > held:
                raise DatastillError(f"{budget:,} bytes cannot hold one image of each class of this recipe.")
            write_json(path, {"total": count})
        return int(read_json(path)["total"])

    def _weigh(self, recipe: Recipe, count: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            made = distil(
                self.dataset, _with_total(recipe, count, self.dataset.info.classes), device=self.bench.device,
                reporter=Reporter(), out=Path(folder) / "set", source=self.source, command="datastill ablate",
            )  # fmt: skip
            return made.ledger()["total"]

    def measure(self, arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
        """Train the students of every arm, and return their rows by the arms' names; what fails is left out."""
        asked = self.asked
        files = train_students(list(arms.values()), [asked.student], asked.seeds, asked.steps, self.bench)
        rows = {}
        for name, arm in arms.items():
            try:
                there = trained(files, arm, asked.student, asked.seeds)
                rows[name] = make_row(arm, asked.student, there, asked.steps, asked.split, self.teachers)
            except DatastillError as error:
                self.failed(name, error)
        return rows

    def failed(self, name: str, error: object) -> None:
        """Write down why a variant is left out; the rest goes on."""
        self.failures.append({"method": name, "ipc": 0, "says": str(error)})
        self.bench.reporter.say(f"{name} is left out: {error}")

    def told(self, row: dict[str, Any], experiment: str, name: str, variant: Variant, arm: Arm) -> dict[str, Any]:
        """Return a row with its place on the ladder."""
        row |= {
            "plan": self.asked.plan.name, "experiment": experiment, "order": self.order, "variant": name,
            "changes": list(variant.changes), "of": variant.method, "size": variant.size,
            "trained": plain(arm.training), "against_random": None, "against_best": None, "beside": self.beside,
            "adopted": False,
        }  # fmt: skip
        self.order += 1
        return row


def ablate(
    dataset: Dataset,
    asked: Ablation,
    *,
    out: Path,
    device: Device,
    reporter: Reporter,
    jobs: int = 1,
    command: str = "",
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Climb a ladder of experiments.

    A variant is adopted when its students are, paired by seed, at least `GAIN` points and `DEVIATIONS` standard
    deviations of the differences above those of the running best; of several, the one that is furthest above.

    Args:
        dataset: the real set.
        asked: plan and protocol.
        out: folder of the run: sets, students, results.json. The same call goes on where it stopped.
        device, reporter, jobs, command, source: as in `compare`.

    Returns: the results, as `results.json` in `out` holds them.
    Raises: DatastillError for a plan that cannot be run. A variant that cannot is left out, and said.
    """
    asked = asked.checked(dataset)
    recipe = asked.recipe(dataset, asked.plan.method, asked.plan.changes)
    testing = scored_on(dataset, asked.split, recipe.validation, recipe.seed)
    with locked(out / "run"):
        ladder = _Ladder(
            asked, dataset, source or {"asked": dataset.origin}, out, Bench(testing, out, device, reporter, jobs),
            Teachers(dataset, testing, device, reporter),
        )  # fmt: skip
        first = Variant(size="own" if asked.budget is None else "budget")
        arm = ladder.arm(START, first, None)
        rows = ladder.measure({START: arm})
        if START not in rows:
            raise DatastillError("where the ladder begins could not be measured: " + ladder.failures[-1]["says"])
        start = best = ladder.told(rows[START], START, START, first, arm)
        found: list[dict[str, Any]] = []
        results: dict[str, Any] = {}
        for experiment in asked.plan.experiments:
            entry, arm, best = _climb(ladder, experiment, arm, best)
            found.append(entry)
            results = _results(ladder, recipe, start, found, command)
            write_json(out / RESULTS, results)
    return results


def _climb(
    ladder: _Ladder, experiment: Experiment, arm: Arm, best: dict[str, Any]
) -> tuple[dict[str, Any], Arm, dict[str, Any]]:
    """Run one experiment; returns what is told of it, and the running best after it (its arm and its row)."""
    arms: dict[str, Arm] = {}
    for name, variant in experiment.variants.items():
        called = f"{experiment.name}: {name}"
        try:
            arms[called] = ladder.arm(called, variant, arm)
        except DatastillError as error:
            ladder.failed(called, error)
    measured = ladder.measure(arms)
    rows, passed = [], []
    for name, variant in experiment.variants.items():
        called = f"{experiment.name}: {name}"
        if called in measured:
            row = ladder.told(measured[called], experiment.name, name, variant, arms[called])
            row["against_best"] = against(row, best)
            rows.append(row)
            if experiment.adopt and not variant.method and helps(row["against_best"]):
                passed.append((row["against_best"]["mean"], name, row))
    entry = {"name": experiment.name, "says": experiment.says, "adopt": experiment.adopt, "adopted": None, "rows": rows}
    if passed:
        _, name, best = max(passed, key=lambda each: each[0])
        best["adopted"] = True
        ladder.best += experiment.variants[name].changes
        ladder.beside = entry["adopted"] = name
        arm = arms[f"{experiment.name}: {name}"]
    return entry, arm, best


def against(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far a row is above another one with the same seeds, with the deviation of the differences."""
    gaps = [a - b for a, b in zip(ours["top1"]["per_seed"], theirs["top1"]["per_seed"], strict=True)]
    return paired(ours, theirs) | {"sd": statistics.stdev(gaps)}


def helps(gap: Mapping[str, Any]) -> bool:
    """Whether a paired difference is large enough for a change to stay."""
    return bool(gap["mean"] >= GAIN and gap["mean"] >= DEVIATIONS * gap["sd"])


def _with_total(recipe: Recipe, total: int, classes: int) -> Recipe:
    """Return the recipe with so many real images: in all, those of compensated sets included."""
    settings = {k: v for k, v in recipe.store.settings.items() if k != "per_class"}
    held = {"extra": total - settings["sets"] * classes} if "sets" in settings else {"total": total}
    return replace(recipe, store=choice(recipe.store.kind, **(settings | held)))


def _unlearned(recipe: Recipe) -> Recipe:
    """Return a recipe whose sets weigh as much and are made at once: what is learned takes its bytes from the start."""
    if "sets" not in recipe.store.settings:
        return recipe
    return replace(recipe, match=choice(recipe.match.kind, **(dict(recipe.match.settings) | {"rounds": 1})))


def _rendered(base: Recipe, recipe: Recipe) -> Any:
    """Return the student recipe that a set is made under: the preset's, but for what stored labels depend on."""
    ours = recipe.student
    return replace(base.student, crop=ours.crop, flip=ours.flip) if recipe.label.kind == "views" else base.student


def _results(
    ladder: _Ladder, recipe: Recipe, start: dict[str, Any], found: list[dict[str, Any]], command: str
) -> dict[str, Any]:
    asked, plan = ladder.asked, ladder.asked.plan
    return {
        "kind": "ablation",
        "schema": SCHEMA,
        "protocol": {
            "student": asked.student, "steps": asked.steps, "seeds": list(range(asked.seeds)), "split": asked.split,
            "epoch": "last", "budget": asked.budget, "rule": {"gain": GAIN, "sds": DEVIATIONS},
        },
        "plan": {"name": plan.name, "says": plan.says, "method": plan.method, "changes": list(plan.changes)},
        "chosen_on": "validation" if recipe.validation else None,
        "start": start,
        "experiments": found,
        "best": {"changes": list(ladder.best)},
        "failures": ladder.failures,
        "teachers": ladder.networks,
    } | run_facts(ladder.dataset, ladder.source, ladder.bench, command)  # fmt: skip
