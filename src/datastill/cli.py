"""The command line: a thin skin over the public face."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from datastill.api import distill as distill_set
from datastill.api import evaluate as evaluate_set
from datastill.api import load_again
from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.export import FORMS, export, sheet
from datastill.fields import ROOMS, registered, resolve
from datastill.networks import list_networks
from datastill.recipe import Recipe, compose, methods
from datastill.report.html import write_report
from datastill.report.tables import rich_table
from datastill.runtime.cache import cache_dir
from datastill.runtime.device import open_device
from datastill.runtime.progress import Terminal
from datastill.runtime.versions import VERSION, versions
from datastill.sources import Dataset, list_sources, load

app = typer.Typer(
    help="Distil an image classification set into a few images and labels, and say honestly how good they are.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
console = Console(markup=False)  # what is printed holds strangers' names

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto (bf16 on CUDA, float32 on a CPU), float32 or bf16.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile networks before training: pays on a GPU.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change the recipe: --set match.rounds=200.")
]
Folder = Annotated[Path, typer.Argument(help="Folder of a distilled set.")]


@app.command()
def distill(
    source: Annotated[str, typer.Argument(help="A name, a folder of class folders, a Parquet file, hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    method: Annotated[str | None, typer.Option(help="See `datastill methods`; default infer.")] = None,
    ipc: Annotated[int | None, typer.Option(help="Nominal images per class; default 10.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe file (YAML) instead of --method.")] = None,
    set_: Changes = None,
    teachers: Annotated[str | None, typer.Option(help="Networks: resnet18,'convnet(width=64)'.")] = None,
    classes: Annotated[str | None, typer.Option(help="Keep only these classes: cat,dog.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square images, in pixels.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and count them.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of everything random; default 0.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in the folder.")] = False,
    show_recipe: Annotated[bool, typer.Option("--show-recipe", help="Print the whole recipe, and stop.")] = False,
) -> None:
    """Distil SOURCE into a folder.

    Example: datastill distill digits --ipc 10 --out small --set match.rounds=50
    """
    chosen = tuple(c.strip() for c in classes.split(",")) if classes else None
    data = load(source, classes=chosen, size=size, skip_bad=skip_bad)
    made = _recipe(data, method, recipe, {"ipc": ipc, "seed": seed}, set_ or [], teachers)
    resolve(made, data.info)
    if show_recipe:
        console.print(made.to_yaml(), highlight=False, soft_wrap=True)
        return
    _introduce(data, made)
    asked = {"asked": source, "classes": list(chosen or []), "size": size, "skip_bad": skip_bad}
    distilled = distill_set(
        data, made, out=out, resume=resume, device=device, precision=precision, compile=compile_,
        reporter=Terminal(console),
        command=_command(), source=asked,
    )  # fmt: skip
    _describe(distilled)
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
    device: Device = "auto",
    precision: Precision = "auto",
    compile_: Compile = False,
) -> None:
    """Train students on a distilled set and on its controls: same steps, same seeds, last step, test split once.

    Example: datastill evaluate small --students convnet,resnet18 --seeds 3
    """
    _evaluate(folder, students, source=source, seeds=seeds, controls=only.split(",") if only else controls, steps=steps,
                        split=split, run=run or folder.with_name(folder.name + "-run"), device=device,
                        precision=precision, compile=compile_)  # fmt: skip


def _evaluate(folder: Path, students: str, *, run: Path, source: str | None = None, **options: Any) -> None:
    distilled = DistilledDataset.load(folder)
    data = load_again(distilled, source)
    results = evaluate_set(
        distilled, [students], dataset=data, run=run, reporter=Terminal(console), command=_command(), **options
    )
    for student in dict.fromkeys(row["student"] for row in results["rows"]):
        console.print(rich_table(results, student))
    for sentence in results["verdict"]:
        console.print(sentence, soft_wrap=True)
    console.print(f"Report: {write_report(run)}", soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("runs/demo"),
    device: Device = "auto",
) -> None:
    """Distil scikit-learn's handwritten digits with INFER, train students beside all controls, write a report."""
    data = load("digits")
    recipe = compose("infer", data.info, ipc=10)
    _introduce(data, recipe)
    distilled = distill_set(data, recipe, out=out / "set", resume=True, device=device, reporter=Terminal(console),
                            command="datastill distill digits --method infer --ipc 10 --out DIR",
                            source={"asked": "digits"})  # fmt: skip
    _describe(distilled)
    _evaluate(out / "set", DEMO_STUDENTS, run=out, seeds=3, steps=DEMO_STEPS, device=device)


DEMO_STUDENTS, DEMO_STEPS = "convnet(width=32)", 200


@app.command()
def inspect(
    folder: Folder,
    png: Annotated[Path | None, typer.Option(help="Where to put sample pictures; default FOLDER-samples.png.")] = None,
) -> None:
    """Show what a distilled set holds, what every part weighs, and sample pictures."""
    distilled = DistilledDataset.load(folder)
    _describe(distilled)
    path = png or folder.with_name(folder.name + "-samples.png")
    sheet(distilled).save(path)
    console.print(f"Samples, a row per class: {path}", soft_wrap=True)


@app.command("export")
def export_(
    folder: Folder,
    to: Annotated[str, typer.Option(help=f"One of: {', '.join(FORMS)}.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write every item of a distilled set as pictures or as one Parquet file."""
    console.print(f"Written to {export(DistilledDataset.load(folder), to, out)}.", soft_wrap=True)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of results, from `datastill evaluate`.")]) -> None:
    """Write the HTML report of a run again."""
    console.print(f"Report: {write_report(run)}", soft_wrap=True)


@app.command("methods")
def methods_() -> None:
    """List the methods, and the choices of every field."""
    table = Table("method", "what it is", "source")
    for found in methods().values():
        table.add_row(found.name, found.title, found.cite)
    console.print(table)
    fields = Table("field", "choices")
    for room in ROOMS:
        fields.add_row(room, ", ".join(registered(room)))
    console.print(fields)
    console.print(f"Networks: {', '.join(list_networks())}; timm:NAME and torchvision:NAME with the vision extra.")


@app.command()
def sources() -> None:
    """List the data sets that can be asked for by name."""
    table = Table("name", "what it is", "at hand", "where")
    for found in list_sources():
        table.add_row(found.name, found.about, "yes" if found.at_hand else "no", found.where)
    console.print(table)
    console.print("Also: a folder of class folders, a Parquet file or folder, hf:OWNER/NAME.")


@app.command()
def doctor(device: Device = "auto", precision: Precision = "auto") -> None:
    """Say what this machine offers: device, threads, precision, cache, versions, extras."""
    table = Table("what", "value")
    for name, value in (open_device(device, precision).describe() | versions()).items():
        table.add_row(name, value)
    table.add_row("cores", str(os.cpu_count()))
    table.add_row("CUDA devices", str(torch.cuda.device_count()))
    table.add_row("cache", str(cache_dir()))
    free = shutil.disk_usage(next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())).free
    table.add_row("free space there", f"{free / 1e9:.1f} GB")
    for extra, needs in (("vision", "timm"), ("hub", "datasets")):
        there = importlib.util.find_spec(needs) is not None
        table.add_row(f"extra {extra}", f"{needs} {importlib.metadata.version(needs)}" if there else "not installed")
    console.print(table)


def _introduce(data: Dataset, recipe: Recipe) -> None:
    shape = " x ".join(map(str, data.shape))
    console.print(
        f"{data.name}: {len(data.classes)} classes, {len(data.train)} training and {len(data.test)} test images of "
        f"{shape} (channels, height, width).", soft_wrap=True,
    )  # fmt: skip
    for note in data.notes:
        console.print(f"  {note}", soft_wrap=True)
    names = ", ".join(recipe.networks)
    console.print(f"Method {recipe.method}, ipc {recipe.ipc}; networks: {names}.", soft_wrap=True)


def _describe(distilled: DistilledDataset) -> None:
    counts, ledger = distilled.facts["counts"], distilled.ledger()
    console.print(
        f"{distilled.recipe.method} of {distilled.info.name}: {len(distilled)} items from "
        f"{len(distilled.content.pictures.cls)} pictures; labels: {distilled.labels.kind}.", soft_wrap=True,
    )  # fmt: skip
    if "nominal" in counts:
        used = counts["natural"] + counts["compensators"]
        console.print(
            f"Budget: {used} of {counts['nominal']} images used ({counts['natural']} natural, "
            f"{counts['compensators']} compensators), {counts['leftover']} left over.", soft_wrap=True,
        )  # fmt: skip
    table = Table("part", "bytes")
    for name, size in ledger.items():
        table.add_row(name, f"{size:,}")
    table.add_row("real training set, lossless WebP", f"{distilled.facts['real_bytes']['webp']:,}")
    table.add_row("ratio", f"{ledger['total'] / distilled.facts['real_bytes']['webp']:.4f}")
    console.print(table)


def _command(arguments: Sequence[str] | None = None) -> str:
    """Return the command that repeats this run: without --resume, and with the output folder as DIR."""
    words, kept = list(sys.argv[1:] if arguments is None else arguments), []
    skip = False
    for word in words:
        if skip:
            kept.append("DIR")
            skip = False
        elif word not in ("--resume", "--debug"):
            name, equals, _ = word.partition("=")
            kept.append("--out=DIR" if equals and name == "--out" else word)
            skip = word == "--out"
    return "datastill " + shlex.join(kept)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Distil an image classification set into a few images and labels, and say honestly how good they are."""
    if version:
        console.print(VERSION)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input ends in one sentence and exit code 2; --debug adds the traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        code = app(args=words, prog_name="datastill", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        said = _sentence(error)
        if debug or said is None:
            raise
        print(f"datastill: {said[0]}", file=sys.stderr)
        sys.exit(said[1])
    sys.exit(code or 0)


def _sentence(error: BaseException) -> tuple[str, int] | None:
    """Return what to tell a person and the exit code, or None for a mistake of our own."""
    if isinstance(error, DatastillError):
        return str(error), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted; run it again to go on from here (distill wants --resume).", 130
    # Typer brings its parser's errors from Click or from a copy of it, depending on its version.
    tell = getattr(error, "format_message", None)
    return (tell(), 2) if tell else None
