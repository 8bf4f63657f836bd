"""Commands about which real images a method needs: scores of each, and how many can go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datastill.cli.common import (
    Changes,
    Classes,
    Compile,
    Device,
    Jobs,
    Precision,
    Size,
    SkipBad,
    Teachers,
    app,
    command_line,
    console,
    listed,
    loaded,
)
from datastill.errors import DatastillError
from datastill.measure.critical import Sweep
from datastill.measure.critical import critical as run_sweep
from datastill.measure.hardness import SELECT, form_of, score_table, write_table
from datastill.measure.jobs import jobs_on
from datastill.recipe import compose
from datastill.report.critical import PAGE, critical_sentences, rich_critical
from datastill.report.pages import write_any
from datastill.runtime.device import open_device
from datastill.runtime.progress import Terminal


@app.command()
def scores(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="File to write: NAME.parquet or NAME.csv.")],
    score: Annotated[
        str, typer.Option(help="Columns: loss_early,loss_converge,el2n,forgetting,monte_carlo.")
    ] = "loss_early",
    method: Annotated[str, typer.Option(help="Whose networks score; see `datastill methods`.")] = "infer",
    set_: Changes = None,
    teachers: Teachers = None,
    classes: Classes = None,
    size: Size = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Write how hard each training image is, as select=bilp sees it, to a table.

    Example: datastill scores digits --score loss_early,el2n --out scores.csv
    """
    form_of(out)  # before any work
    data, _ = loaded(source, classes, size, skip_bad)
    changes = [f"select={SELECT}", *(set_ or [])]
    of_networks = [change for change in changes if change.startswith("networks.")]
    recipe = compose(method, data.info, changes=[change for change in changes if change not in of_networks])
    recipe = (recipe.with_networks(teachers) if teachers else recipe).changed(of_networks)
    opened = open_device(device, precision, compile=compile_)
    table = score_table(data, recipe, listed(score), device=opened, reporter=Terminal(console))
    write_table(table, out)
    console.print(f"{table.num_rows:,} training images: {out}", soft_wrap=True)


@app.command()
def critical(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of every student.")],
    method: Annotated[str, typer.Option(help="The method that is run on fewer and fewer images.")] = "infer",
    keep: Annotated[str, typer.Option(help="Shares of each class, the easiest.")] = "1,0.8,0.6,0.4,0.2",
    select: Annotated[str, typer.Option(help="The choice whose keep is swept.")] = SELECT,
    ipc: Annotated[int, typer.Option(help="Nominal images per class.")] = 10,
    student: Annotated[str, typer.Option(help="Network: convnet, or 'convnet(width=64)'.")] = "convnet",
    seeds: Annotated[int, typer.Option(help="Students per share, paired by seed; 3 or more.")] = 3,
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
    """Find how many real images can be pruned before students become worse, on held-out training images.

    Example: datastill critical digits --keep 1,0.5,0.2 --steps 200 --set validation=200 --out runs/critical
    """
    data, recorded = loaded(source, classes, size, skip_bad)
    asked = Sweep(
        method=method, keeps=_shares(keep), steps=steps, select=select, student=student, seeds=seeds,
        changes=(f"ipc={ipc}", *(set_ or ())), networks=teachers,
    )  # fmt: skip
    opened = open_device(device, precision, compile=compile_)
    results = run_sweep(
        data, asked, out=out, device=opened, reporter=Terminal(console), jobs=jobs_on(opened, jobs),
        command=command_line(), source=recorded,
    )  # fmt: skip
    console.print(rich_critical(results))
    for sentence in critical_sentences(results):
        console.print(sentence, soft_wrap=True)
    report = write_any(out)
    console.print(f"Report: {report.with_name(PAGE)}; all numbers: {report}", soft_wrap=True)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in listed(text))
    except ValueError as error:
        raise DatastillError(f"--keep wants numbers with commas between, not '{text}'.") from error
