"""Commands that measure: students on a set, methods beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from datastill.api import compare as compare_methods
from datastill.api import distill as distill_set
from datastill.api import evaluate as evaluate_set
from datastill.api import load_again
from datastill.artifact import DistilledDataset
from datastill.cli.common import (
    Changes,
    Classes,
    Compile,
    Device,
    Folder,
    Jobs,
    Precision,
    Size,
    SkipBad,
    Teachers,
    app,
    command_line,
    console,
    describe,
    introduce,
    listed,
    loaded,
    numbers,
)
from datastill.errors import DatastillError
from datastill.measure.compare import CROSS, Comparison
from datastill.measure.frontier import GRIDS, LABELS
from datastill.measure.frontier import frontier as measure_frontier
from datastill.measure.jobs import jobs_on
from datastill.measure.reproduce import Reproduction
from datastill.measure.reproduce import reproduce as run_reproduction
from datastill.recipe import compose
from datastill.report.compared import failures, ipcs, reproduction_sentence, verdicts
from datastill.report.frontier_rows import frontier_verdicts
from datastill.report.html import write_report
from datastill.report.pages import write_any
from datastill.report.rows import coded
from datastill.report.rows import students as students_of
from datastill.report.tables import rich_comparison, rich_table
from datastill.runtime.device import open_device
from datastill.runtime.progress import Terminal
from datastill.sources import load


@app.command()
def evaluate(
    folder: Folder,
    students: Annotated[str, typer.Option(help="Networks: convnet,resnet18.")] = "convnet",
    seeds: Annotated[int, typer.Option(help="Students per set; 3 or more for a claim.")] = 3,
    controls: Annotated[bool, typer.Option(help="Train students on the controls too.")] = True,
    only: Annotated[str | None, typer.Option(help="Only these controls: random_soft,noise.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps per student; default the recipe's.")] = None,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    source: Annotated[str | None, typer.Option(help="Where the real set is now, if it moved.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of results; default FOLDER-run.")] = None,
    jobs: Jobs = 1,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Train students on a distilled set and on its controls: same steps, same seeds, last step, test split once.

    Example: datastill evaluate small --students convnet,resnet18 --seeds 3
    """
    _evaluate(folder, students, source=source, seeds=seeds, controls=only.split(",") if only else controls, steps=steps,
                        split=split, run=run or folder.with_name(folder.name + "-run"), device=device,
                        precision=precision, compile=compile_, jobs=jobs)  # fmt: skip


def _evaluate(folder: Path, students: str, *, run: Path, source: str | None = None, **options: Any) -> dict[str, Any]:
    distilled = DistilledDataset.load(folder)
    data = load_again(distilled, source)
    results = evaluate_set(
        distilled, [students], dataset=data, run=run, reporter=Terminal(console), command=command_line(), **options
    )
    for student in dict.fromkeys(row["student"] for row in results["rows"]):
        console.print(rich_table(results, student))
    for sentence in results["verdict"]:
        console.print(sentence, soft_wrap=True)
    console.print(f"Report: {write_report(run)}", soft_wrap=True)
    return results


@app.command()
def compare(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")],
    methods: Annotated[str, typer.Option(help="Methods: random,herding,infer.")] = "random,infer",
    ipc: Annotated[str, typer.Option(help="Images per class: 10, or 1,10,50.")] = "10",
    students: Annotated[str, typer.Option(help="Networks; the default has one of each kind.")] = ",".join(CROSS),
    seeds: Annotated[int, typer.Option(help="Students per arm and network; 3 or more for a claim.")] = 3,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps of every student; default the methods' most.")
    ] = None,
    controls: Annotated[bool, typer.Option(help="Run the methods' own controls too.")] = True,
    only: Annotated[str | None, typer.Option(help="Only these controls: infer/noise,infer/natural_only.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also run what the robust scores need.")] = False,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    set_: Changes = None,
    teachers: Teachers = None,
    classes: Classes = None,
    size: Size = None,
    skip_bad: SkipBad = False,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Distil SOURCE with several methods, and measure them and every control under one protocol.

    Example: datastill compare digits --methods random,herding,infer --students 'convnet(width=32)' --out runs/compare
    """
    data, asked = loaded(source, classes, size, skip_bad)
    results = compare_methods(
        data, listed(methods), out=out, ipc=numbers(ipc, "--ipc"), students=[students], seeds=seeds, steps=steps,
        controls=listed(only) if only else controls, scores=scores, split=split, changes=set_ or [], teachers=teachers,
        device=device, precision=precision, compile=compile_, jobs=jobs, reporter=Terminal(console),
        command=command_line(), source=asked,
    )  # fmt: skip
    show(results, out)


@app.command()
def frontier(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of every student, whatever the size of its set.")],
    methods: Annotated[str, typer.Option(help="Methods that stand beside random real images.")] = "infer",
    ipc: Annotated[str, typer.Option(help="Images per class of the methods: 10, or 1,10,50.")] = "10",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Random real images: 'codecs=avif:60,webp-lossless/1 ipc=10,all labels=hard,klt'; repeat it."
        ),
    ] = None,
    labels: Annotated[str, typer.Option(help="Labels of the methods' sets: own,hard,klt:0.05.")] = ",".join(LABELS),
    students: Annotated[str, typer.Option(help="Networks: convnet,resnet18.")] = "convnet",
    seeds: Annotated[int, typer.Option(help="Students per point; 3 or more for a claim.")] = 3,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    set_: Changes = None,
    teachers: Teachers = None,
    classes: Classes = None,
    size: Size = None,
    skip_bad: SkipBad = False,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Measure accuracy against bytes: random real images under every codec, methods, and shipped networks.

    Example: datastill frontier digits --steps 200 --students 'convnet(width=32)' --out runs/frontier
    """
    data, recorded = loaded(source, classes, size, skip_bad)
    asked = Comparison(
        methods=listed(methods), ipcs=numbers(ipc, "--ipc"), students=(students,), seeds=seeds, steps=steps,
        split=split, changes=tuple(set_ or ()), networks=teachers,
    )  # fmt: skip
    opened = open_device(device, precision, compile=compile_)
    results = measure_frontier(
        data, asked, grid or GRIDS, listed(labels), out=out, device=opened, reporter=Terminal(console),
        jobs=jobs_on(opened, jobs), command=command_line(),
        source=recorded,
    )  # fmt: skip
    show(results, out)


@app.command()
def reproduce(
    method: Annotated[str, typer.Argument(help="A method whose paper's number is wanted.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")],
    source: Annotated[str, typer.Option(help="The paper's data set.")] = "cifar100",
    ipc: Annotated[int | None, typer.Option(help="Of the paper's number; default its first.")] = None,
    student: Annotated[str | None, typer.Option(help="Of the paper's number; default its first.")] = None,
    seeds: Annotated[int, typer.Option(help="Students; 3 or more for a claim.")] = 3,
    limit: Annotated[float, typer.Option(help="Hours that the run may cost; beyond, its cost is said.")] = 2.0,
    scale: Annotated[
        float, typer.Option(help="Share of epochs and rounds; below 1 the rows are named after it.")
    ] = 1.0,
    set_: Changes = None,
    teachers: Teachers = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Run a preset under its paper's protocol and under the common one, and put the paper's number beside ours.

    Example: datastill reproduce infer --source cifar100 --ipc 10 --student resnet18 --out runs/infer-paper
    """
    if not 0.0 < scale <= 1.0:
        raise DatastillError(f"--scale must be above 0 and at most 1, not {scale}.")
    data, opened = load(source), open_device(device, precision, compile=compile_)
    asked = Reproduction(
        method=method, ipc=ipc, student=student, seeds=seeds, limit=3600.0 * limit, scale=scale,
        changes=tuple(set_ or ()), networks=teachers,
    )  # fmt: skip
    results = run_reproduction(
        data, asked, out=out, device=opened, reporter=Terminal(console), jobs=jobs_on(opened, jobs),
        command=command_line(), source={"asked": source},
    )  # fmt: skip
    show(results, out)
    for found in results["reproduction"]:
        console.print(reproduction_sentence(found), soft_wrap=True)


def show(results: Mapping[str, Any], out: Path) -> None:
    """Print what a comparison or a frontier says, and write its report."""
    for student in students_of(results):
        found = frontier_verdicts(results, student) if results["kind"] == "frontier" else []
        for ipc in ipcs(results) if results["kind"] == "comparison" else ():
            console.print(rich_comparison(results, ipc, student))
            found += verdicts(results, ipc, student)
        for verdict in found:
            console.print(verdict.sentence, soft_wrap=True)
    for sentence in failures(results):
        console.print(sentence, soft_wrap=True)
    console.print(f"Report: {write_any(out)}", soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    device: Device = "auto",
) -> None:
    """Distil scikit-learn's handwritten digits with INFER, train students beside all controls, write a report."""
    data = load("digits")
    recipe = compose("infer", data.info, ipc=10)
    introduce(data, recipe)
    distilled = distill_set(data, recipe, out=out / "set", resume=True, device=device, reporter=Terminal(console),
                            command="datastill distill digits --method infer --ipc 10 --out DIR",
                            source={"asked": "digits"})  # fmt: skip
    describe(distilled)
    results = _evaluate(out / "set", DEMO_STUDENTS, run=out, seeds=3, steps=DEMO_STEPS, device=device)
    if beside := coded(results, DEMO_STUDENTS):
        console.print(beside, soft_wrap=True)


DEMO_STUDENTS, DEMO_STEPS = "convnet(width=32)", 200
