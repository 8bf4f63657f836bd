"""Commands for downstream proxies: what a distilled set is good for beside training one network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from datastill.api import load_again
from datastill.artifact import DistilledDataset
from datastill.cli.common import Compile, Device, Folder, Jobs, Precision, app, command_line, console, listed
from datastill.errors import DatastillError
from datastill.measure.jobs import jobs_on
from datastill.measure.proxies import continual, hyper, nas
from datastill.recipe import read_networks
from datastill.report.proxies import write_proxy_report
from datastill.runtime.device import open_device
from datastill.runtime.progress import Terminal

proxy = typer.Typer(
    help="What a distilled set is good for: architecture search, hyper-parameters, continual learning.",
    no_args_is_help=True,
)
app.add_typer(proxy, name="proxy")

Run = Annotated[Path, typer.Option(help="Folder of results; the same command goes on where it stopped.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps per student; default the recipe's.")]
RealSteps = Annotated[int | None, typer.Option(help="Steps on the whole real set; default as many as --steps.")]
Source = Annotated[str | None, typer.Option(help="Where the real set is now, if it moved.")]


@proxy.command("nas")
def nas_(
    folder: Folder,
    run: Run,
    networks: Annotated[str | None, typer.Option(help="Candidates; default 24 small ConvNets.")] = None,
    seeds: Annotated[int, typer.Option(help="Students per candidate.")] = 1,
    steps: Steps = None,
    real_steps: RealSteps = None,
    source: Source = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Rank architectures on a distilled set, on random real images and on the whole real set.

    Example: datastill proxy nas small --run runs/nas --steps 200
    """
    candidates = list(read_networks(networks)) if networks else None
    _run(nas, folder, run, source, jobs, device, precision, compile_, networks=candidates, seeds=seeds, steps=steps,
         real_steps=real_steps)  # fmt: skip


@proxy.command("hyper")
def hyper_(
    folder: Folder,
    run: Run,
    student: Annotated[str, typer.Option(help="The network whose hyper-parameters are ranked.")] = "convnet",
    lr: Annotated[str | None, typer.Option(help="Learning rates: 0.001,0.01,0.1.")] = None,
    weight_decay: Annotated[str | None, typer.Option(help="Weight decays: 0,0.0005.")] = None,
    seeds: Annotated[int, typer.Option(help="Students per candidate.")] = 1,
    steps: Steps = None,
    real_steps: RealSteps = None,
    source: Source = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Rank learning rates and weight decays on a distilled set, on random real images and on the whole real set.

    Example: datastill proxy hyper small --run runs/hyper --steps 200
    """
    _run(hyper, folder, run, source, jobs, device, precision, compile_, student=student, lr=_decimals(lr, "--lr"),
         weight_decay=_decimals(weight_decay, "--weight-decay"), seeds=seeds, steps=steps,
         real_steps=real_steps)  # fmt: skip


@proxy.command("continual")
def continual_(
    folder: Folder,
    run: Run,
    student: Annotated[str, typer.Option(help="The network that is trained after each step.")] = "convnet",
    groups: Annotated[int, typer.Option(help="Steps in which the classes arrive.")] = 5,
    seeds: Annotated[int, typer.Option(help="Students per step, each with an order of classes of its own.")] = 3,
    steps: Steps = None,
    whole: Annotated[bool, typer.Option("--whole", help="Also train on all real images, as the ceiling.")] = False,
    source: Source = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Use a distilled set as the memory of class-incremental learning, beside random real images.

    Example: datastill proxy continual small --run runs/continual --steps 200
    """
    _run(continual, folder, run, source, jobs, device, precision, compile_, student=student, groups=groups,
         seeds=seeds, steps=steps, whole=whole)  # fmt: skip


def _run(
    measure: Callable[..., dict[str, Any]],
    folder: Path,
    run: Path,
    source: str | None,
    jobs: int | None,
    device: str,
    precision: str,
    compiled: bool,
    **options: Any,
) -> None:
    distilled = DistilledDataset.load(folder)
    data, opened = load_again(distilled, source), open_device(device, precision, compile=compiled)
    results = measure(
        distilled, data, run=run, device=opened, reporter=Terminal(console), jobs=jobs_on(opened, jobs),
        command=command_line(), **options,
    )  # fmt: skip
    for sentence in results["verdict"]:
        console.print(sentence, soft_wrap=True)
    console.print(f"Report: {write_proxy_report(run)}", soft_wrap=True)


def _decimals(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in listed(text)]
    except ValueError as error:
        raise DatastillError(f"{option} wants numbers with commas between, not '{text}'.") from error
