"""Commands that make a distilled set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from datastill.api import distill as distill_set
from datastill.api import load_again, spend
from datastill.api import relabel as relabel_set
from datastill.artifact import DistilledDataset
from datastill.cli.common import (
    Changes,
    Classes,
    Compile,
    Device,
    Folder,
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
)
from datastill.errors import DatastillError
from datastill.fields import resolve
from datastill.measure.budget import ALONE, METHOD, STEPS
from datastill.recipe import Recipe, compose
from datastill.runtime.progress import Terminal
from datastill.sources import Dataset


@app.command()
def distill(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    method: Annotated[str | None, typer.Option(help="See `datastill methods`; default infer.")] = None,
    ipc: Annotated[int | None, typer.Option(help="Nominal images per class; default 10.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe file (YAML) instead of --method.")] = None,
    set_: Changes = None,
    teachers: Teachers = None,
    classes: Classes = None,
    size: Size = None,
    skip_bad: SkipBad = False,
    seed: Annotated[int | None, typer.Option(help="Of everything random; default 0.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Bytes to spend, 4MB or 20kB, in place of --ipc: the best coded images.")
    ] = None,
    steps: Annotated[int, typer.Option(help="With --budget: optimiser steps of whoever will train on it.")] = STEPS,
    labels: Annotated[str, typer.Option(help="With --budget: labels to try; soft ones need networks.")] = "hard",
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in the folder.")] = False,
    show_recipe: Annotated[bool, typer.Option("--show-recipe", help="Print the whole recipe, and stop.")] = False,
) -> None:
    """Distil SOURCE into a folder.

    Example: datastill distill digits --ipc 10 --out small --set match.rounds=50
    """
    data, asked = loaded(source, classes, size, skip_bad)
    if budget is not None and (method not in (None, METHOD) or ipc is not None or recipe is not None):
        raise DatastillError(ALONE)
    named = METHOD if budget is not None else method
    made = _recipe(data, named, recipe, {"ipc": ipc, "seed": seed}, set_ or [], teachers)
    told = Terminal(console)
    if budget is None:
        resolve(made, data.info)
    else:
        made = spend(
            data, made, budget, steps=steps, labels=listed(labels), jobs=None, device=device, precision=precision,
            compile=compile_, reporter=told, command=command_line(), source=asked,
        )  # fmt: skip
    if show_recipe:
        console.print(made.to_yaml(), highlight=False, soft_wrap=True)
        return
    introduce(data, made)
    distilled = distill_set(
        data, made, out=out, resume=resume, device=device, precision=precision, compile=compile_,
        reporter=told, command=command_line(), source=asked,
    )  # fmt: skip
    describe(distilled)
    console.print(f"Written to {out}. Next: datastill evaluate {shlex.quote(str(out))}", soft_wrap=True)


@app.command()
def relabel(
    folder: Folder,
    label: Annotated[str, typer.Option(help="static, views, dynamic, replayed, hard; see `datastill methods`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    set_: Changes = None,
    source: Annotated[str | None, typer.Option(help="Where the real set is now, if it moved.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Tell students something else about the images of a distilled set: a new folder, the same images.

    Example: datastill relabel small --label replayed --set label.epochs=20 --out small-replayed
    """
    distilled = DistilledDataset.load(folder)
    made = relabel_set(
        distilled, label, out=out, changes=set_ or [], dataset=load_again(distilled, source), device=device,
        precision=precision, compile=compile_, reporter=Terminal(console), command=command_line(),
    )  # fmt: skip
    describe(made)
    console.print(f"Written to {out}. Next: datastill evaluate {shlex.quote(str(out))}", soft_wrap=True)


def _recipe(
    data: Dataset,
    method: str | None,
    file: Path | None,
    numbers: dict[str, int | None],
    changes: Sequence[str],
    teachers: str | None,
) -> Recipe:
    """Compose a recipe: a preset or a file, then its numbers and changes, its networks, and changes of these."""
    if file and method:
        raise DatastillError("--recipe and --method were both given; a recipe file names its method itself.")
    given = [f"{name}={value}" for name, value in numbers.items() if value is not None]
    of_networks = [c for c in changes if c.startswith("networks.")]
    others = given + [c for c in changes if c not in of_networks]
    made = Recipe.from_yaml(file).changed(others) if file else compose(method or "infer", data.info, changes=others)
    return (made.with_networks(teachers) if teachers else made).changed(of_networks)
