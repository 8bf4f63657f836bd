"""The public face in Python: load, distill, evaluate, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.engine import RUN, distil
from datastill.errors import DatastillError
from datastill.measure.compare import CROSS, Comparison
from datastill.measure.compare import compare as _compare
from datastill.measure.evaluate import Plan
from datastill.measure.evaluate import evaluate as _evaluate
from datastill.measure.jobs import jobs_on
from datastill.recipe import Recipe, compose
from datastill.runtime.device import open_device
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset, load


def distill(
    dataset: Dataset | str,
    recipe: Recipe | str = "infer",
    *,
    ipc: int = 10,
    seed: int = 0,
    changes: Iterable[str] = (),
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
        recipe: a `Recipe`, or the name of a method (then ipc, seed and changes apply).
        ipc: nominal images per class.
        seed: of everything random.
        changes: `path=value` texts, as `--set` takes them.
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
    made = compose(recipe, data.info, ipc=ipc, seed=seed, changes=changes) if isinstance(recipe, str) else recipe
    return distil(
        data, made, device=open_device(device, precision, compile=compile), reporter=reporter or Reporter(),
        out=None if out is None else Path(out), resume=resume, command=command, source=source,
    )  # fmt: skip


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
