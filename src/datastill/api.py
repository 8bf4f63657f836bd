"""The public face in Python: load, distill, evaluate, compare."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datastill.artifact import MANIFEST, DistilledDataset
from datastill.engine import RUN, distil, label_content, make_context
from datastill.errors import DatastillError
from datastill.measure.budget import ALONE, METHOD, STEPS, Budget, read_bytes
from datastill.measure.compare import CROSS, Comparison
from datastill.measure.compare import compare as _compare
from datastill.measure.evaluate import Plan
from datastill.measure.evaluate import evaluate as _evaluate
from datastill.measure.jobs import jobs_on
from datastill.recipe import Recipe, compose
from datastill.runtime.device import Device, open_device
from datastill.runtime.files import read_json, sha256_file, write_json
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.sources import Dataset, load

RELABELLED = "relabelled"  # in a manifest: what the set was before


def distill(
    dataset: Dataset | str,
    recipe: Recipe | str | None = None,
    *,
    ipc: int | None = None,
    seed: int = 0,
    changes: Iterable[str] = (),
    budget: str | int | None = None,
    steps: int = STEPS,
    labels: Sequence[str] = ("hard",),
    jobs: int | None = 1,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    reporter: Reporter | None = None,
    command: str = "",
    source: dict[str, Any] | None = None,
) -> DistilledDataset:
    """Distil a data set.

    Args:
        dataset: from `datastill.load`, or a source that it takes.
        recipe: a `Recipe`, or the name of a method (then ipc, seed and changes apply); None takes "infer", and with a
            budget "datastill".
        ipc: nominal images per class; None takes 10.
        seed: of everything random.
        changes: `path=value` texts, as `--set` takes them.
        budget: bytes to spend, such as "4MB" or 4_000_000, in place of a method and an ipc; see `spend`.
        steps, labels, jobs: of the search of a budget; see `spend`.
        out: folder to write; None keeps the set in memory.
        resume: go on with an unfinished run in `out`.
        device: auto, cpu or cuda.
        precision: auto, float32 or bf16.
        compile: compile networks before they are trained; pays on a GPU and on long runs.
        reporter: told about phases; None is silent.
        command, source: recorded in the manifest.

    Returns: the distilled set.
    Raises: DatastillError, in sentences that say what would do.
    """
    data = load(dataset) if isinstance(dataset, str) else dataset
    if budget is not None and ipc is not None:
        raise DatastillError(ALONE)
    named = recipe or ("infer" if budget is None else METHOD)
    given = 10 if ipc is None else ipc
    made = compose(named, data.info, ipc=given, seed=seed, changes=changes) if isinstance(named, str) else named
    told = reporter or Reporter()
    if budget is not None:
        made = spend(
            data, made, budget, steps=steps, labels=labels, jobs=jobs, device=device, precision=precision,
            compile=compile, reporter=told, command=command, source=source,
        )  # fmt: skip
    return distil(
        data, made, device=open_device(device, precision, compile=compile), reporter=told,
        out=None if out is None else Path(out), resume=resume, command=command, source=source,
    )  # fmt: skip


def spend(
    dataset: Dataset,
    recipe: Recipe,
    budget: str | int,
    *,
    steps: int = STEPS,
    labels: Sequence[str] = ("hard",),
    jobs: int | None = 1,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    reporter: Reporter | None = None,
    command: str = "",
    source: dict[str, Any] | None = None,
) -> Recipe:
    """Return the recipe of the set that a number of bytes buys; what was chosen and why is told in three lines.

    Args:
        dataset: the real set; choices are made on training images that are held out.
        recipe: of the method "datastill": how its students are trained, and the networks that give soft labels.
        budget: bytes of the whole folder, such as "4MB" or 4_000_000.
        steps: optimiser steps of whoever will train on the set.
        labels: "hard", and "soft" if these are to be tried too, which trains the networks.
        jobs: students trained at once, as in `evaluate`.
        device, precision, compile, reporter: as in `distill`.
        command, source: as `distill` will record them: they are bytes of the set.

    Raises: DatastillError for another method, a recipe that sets what the budget decides, and too few bytes.
    """
    opened, told = open_device(device, precision, compile=compile), reporter or Reporter()
    search = Budget(
        read_bytes(str(budget)), dataset, recipe, steps, opened, told, labels=tuple(labels),
        jobs=jobs_on(opened, jobs), command=command, source=source,
    )  # fmt: skip
    found = search.choose()
    for line in found.says:
        told.say(line)
    return found.recipe


def relabel(
    distilled: DistilledDataset | str | Path,
    label: str,
    *,
    out: str | Path,
    changes: Iterable[str] = (),
    dataset: Dataset | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    reporter: Reporter | None = None,
    command: str = "",
) -> DistilledDataset:
    """Label the items of a saved set anew, into a folder of its own; its images stay what they are, to the bit.

    The networks are those of its recipe: from the cache, or trained again. The new manifest says which set it was
    made from, by the hash of that manifest, and how that one was labelled.

    Args:
        distilled: a saved set, or its folder.
        label: the kind of label, as in `label=static`.
        out: folder to write, new or empty; it is there only when all of it is.
        changes: `path=value` texts of the label and of the recipe's student, whose views labels may belong to.
        dataset: the real set, which networks are trained on; None loads what the manifest names.
        device, precision, compile, reporter, command: as in `distill`.

    Raises: DatastillError for a change of anything else, another data set, or a label that does not fit.
    """
    old = DistilledDataset.load(distilled) if isinstance(distilled, (str, Path)) else distilled
    folder, asked = Path(out), list(changes)
    if old.folder is None:
        raise DatastillError("a set is labelled anew from its folder; save this one first, with save(folder).")
    strange = [c for c in asked if not c.startswith(("label.", "student."))]
    if strange:
        raise DatastillError(
            f"'{strange[0]}' would change more than what students are told; change label.* and student.* here, or "
            "distil the set again."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatastillError(f"'{folder}' is not an empty folder; choose another --out.")
    data = dataset if dataset is not None else load_again(old)
    if data.fingerprint != old.facts["source"]["fingerprint"]:
        raise DatastillError(
            f"'{data.name}' is not the data set that '{old.folder}' was distilled from: its contents differ."
        )
    recipe = old.recipe.changed([f"label={label}", *asked])
    opened, told = open_device(device, precision, compile=compile), reporter or Reporter()
    before = dict(told.seconds)  # of what the same reporter was told earlier
    made = label_content(make_context(data, recipe, opened, told), old.content, _new_facts(old, opened, command))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    made.save(part)
    _time(old.folder / RUN, part / RUN, {k: took - before.get(k, 0.0) for k, took in told.seconds.items()})
    part.replace(folder)
    made.folder = folder
    return made


def _new_facts(old: DistilledDataset, device: Device, command: str) -> dict[str, Any]:
    """Return what is recorded of a set that is labelled anew: what it was stands under a key of its own."""
    assert old.folder is not None, "a saved set"
    before = {"manifest": sha256_file(old.folder / MANIFEST), "label": old.recipe.label.plain()}
    before |= {k: old.facts[k] for k in ("versions", "device", "command", RELABELLED) if k in old.facts}
    kept = {k: v for k, v in old.facts.items() if k not in ("files", "expanded")}
    return kept | {"versions": versions(), "device": device.describe(), "command": command, RELABELLED: before}


def _time(before: Path, after: Path, took: dict[str, float]) -> None:
    """Write what a set took: its images as they were timed once, and its new labels. Nothing, where nobody timed it."""
    if before.exists():
        run = read_json(before)
        images = {name: seconds for name, seconds in run["seconds"].items() if name != "label"}
        write_json(after, run | {"seconds": images | {name: seconds for name, seconds in took.items() if seconds}})


def evaluate(
    distilled: DistilledDataset | str | Path,
    students: Sequence[str] = ("convnet",),
    seeds: int = 3,
    *,
    dataset: Dataset | None = None,
    controls: bool | Iterable[str] = True,
    steps: int | None = None,
    split: str = "test",
    run: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    jobs: int | None = 1,
    reporter: Reporter | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train students on a distilled set and on its controls, and return the results as plain data.

    Args:
        distilled: a set, or its folder.
        students: networks, NAME or NAME(setting=value).
        seeds: students per arm; 3 or more for a claim.
        dataset: the real set; None loads what the manifest names.
        controls: whether to run the method's controls, or the names of those to run.
        steps: optimiser steps of every student; None takes the recipe's.
        split: "test", or "validation" for choices.
        run: folder of the results; None takes a temporary one, which is removed.
        jobs: students trained at once, each in a process of its own; from a script, more than one needs the usual
            guard `if __name__ == "__main__"`. None takes as many as the device bears.
        device, precision, compile, reporter, command: as in `distill`.

    Raises: DatastillError, in sentences that say what would do.
    """
    made = DistilledDataset.load(distilled) if isinstance(distilled, (str, Path)) else distilled
    plan = Plan.of(made, students, seeds=seeds, controls=controls, steps=steps, split=split)
    data = dataset if dataset is not None else load_again(made)
    opened = open_device(device, precision, compile=compile)
    count = jobs_on(opened, jobs)
    with tempfile.TemporaryDirectory() as temporary:
        if made.folder is None:
            made.save(Path(temporary) / "set")
        folder = Path(run) if run else Path(temporary) / "run"
        return _evaluate(
            made, data, plan, run=folder, device=opened, reporter=reporter or Reporter(),
            jobs=count, command=command,
        )  # fmt: skip


def compare(
    dataset: Dataset | str,
    methods: Sequence[str],
    *,
    out: str | Path,
    ipc: int | Sequence[int] = 10,
    students: Sequence[str] = CROSS,
    seeds: int = 3,
    steps: int | None = None,
    controls: bool | Iterable[str] = True,
    scores: bool = False,
    split: str = "test",
    changes: Iterable[str] = (),
    teachers: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    jobs: int | None = 1,
    reporter: Reporter | None = None,
    command: str = "",
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Distil with several methods, and measure every set and control under one protocol.

    Args:
        dataset: from `datastill.load`, or a source that it takes.
        methods: their names; random real images always stand beside them.
        out: folder of the run: sets, students, results.json. The same call goes on where it stopped.
        ipc: images per class, one number or several.
        students: networks, NAME or NAME(setting=value); by default one of each kind.
        seeds: students per arm and network; 3 or more for a claim.
        steps: optimiser steps of every student; None takes the most that one of the methods asks for.
        controls: whether each method's own controls are run too, or which of them, as METHOD/CONTROL.
        scores: whether to run what the robust scores need: the whole real set, and students without augmentation.
        split: "test", or "validation" for choices (with changes=["validation=COUNT"]).
        changes: `path=value` texts for every method, as `--set` takes them, or `METHOD:path=value` for one of them.
        teachers: the table of networks of every method, as `--teachers` takes it.
        device, precision, compile, jobs, reporter, command: as in `evaluate`.
        source: recorded, as in `distill`.

    Returns: the results as plain data; what had to be left out is in its "failures", a sentence each.
    Raises: DatastillError, in sentences that say what would do.
    """
    data = load(dataset) if isinstance(dataset, str) else dataset
    opened = open_device(device, precision, compile=compile)
    asked = Comparison(
        methods=tuple(methods), ipcs=(ipc,) if isinstance(ipc, int) else tuple(ipc), students=tuple(students),
        seeds=seeds, steps=steps, controls=bool(controls), only=None if isinstance(controls, bool) else tuple(controls),
        scores=scores, split=split, changes=tuple(changes), networks=teachers,
    )  # fmt: skip
    return _compare(
        data, asked, out=Path(out), device=opened, reporter=reporter or Reporter(),
        jobs=jobs_on(opened, jobs), command=command, source=source,
    )  # fmt: skip


def load_again(distilled: DistilledDataset, moved: str | None = None) -> Dataset:
    """Load the real set that a distilled one was made from.

    Args:
        distilled: a set; its manifest says what was asked for, and run.json beside it where that was found.
        moved: where it is now, instead.

    Raises: DatastillError where it is not at hand.
    """
    source = distilled.facts["source"]
    options = {k: source[k] for k in ("classes", "size", "skip_bad") if source.get(k)}
    beside = distilled.folder / RUN if distilled.folder else None
    origin = read_json(beside).get("origin") if beside and beside.exists() else None
    try:
        if moved is None and origin and Path(origin).is_absolute() and Path(origin).exists():
            return load(Path(origin), **options)
        return load(moved or source["asked"], **options)
    except DatastillError as error:
        raise DatastillError(f"the real set of '{distilled.folder}' is not at hand: {error}") from error
