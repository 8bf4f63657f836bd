"""The command that changes one thing at a time."""

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
    loaded,
)
from datastill.measure.ablation import Ablation, Plan
from datastill.measure.ablation import ablate as run_ablation
from datastill.measure.budget import read_bytes
from datastill.measure.jobs import jobs_on
from datastill.report.ablation_rows import ablation_failures, ablation_verdicts, ladder_sentence
from datastill.report.pages import write_any
from datastill.report.tables import rich_ablation
from datastill.runtime.device import open_device
from datastill.runtime.progress import Terminal


@app.command()
def ablate(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    plan: Annotated[Path, typer.Option(help="YAML file of experiments, each a few changes.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it stopped.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of every student.")],
    budget: Annotated[str | None, typer.Option(help="Bytes that each set fills: 400kB.")] = None,
    student: Annotated[str, typer.Option(help="Network: convnet, or 'convnet(width=64)'.")] = "convnet",
    seeds: Annotated[int, typer.Option(help="Students per variant, paired by seed; 3 or more for a claim.")] = 3,
    split: Annotated[
        str, typer.Option(help="validation for choices; test only where nothing is chosen.")
    ] = "validation",
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
    """Change a method one thing at a time; what helps on held-out training images stays.

    Example: datastill ablate digits --plan plan.yaml --steps 200 --set validation=200 --out runs/ablation
    """
    data, recorded = loaded(source, classes, size, skip_bad)
    asked = Ablation(
        plan=Plan.from_yaml(plan), budget=None if budget is None else read_bytes(budget), steps=steps, student=student,
        seeds=seeds, split=split, changes=tuple(set_ or ()), networks=teachers,
    )  # fmt: skip
    opened = open_device(device, precision, compile=compile_)
    results = run_ablation(
        data, asked, out=out, device=opened, reporter=Terminal(console), jobs=jobs_on(opened, jobs),
        command=command_line(), source=recorded,
    )  # fmt: skip
    console.print(rich_ablation(results))
    for sentence in (ladder_sentence(results), *ablation_verdicts(results), *ablation_failures(results)):
        console.print(sentence, soft_wrap=True)
    console.print(f"Report: {write_any(out)}", soft_wrap=True)
