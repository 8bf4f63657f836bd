"""What every command shares: the application, the console, the options, and the command as it is recorded."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.recipe import Recipe
from datastill.sources import Dataset, load

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
Teachers = Annotated[str | None, typer.Option(help="Networks: resnet18,'convnet(width=64)'.")]
Classes = Annotated[str | None, typer.Option(help="Keep only these classes: cat,dog.")]
Size = Annotated[int | None, typer.Option(help="Side of the square images, in pixels.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and count them.")]
Jobs = Annotated[int | None, typer.Option(help="Students trained at once, a process each.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a distilled set.")]


def loaded(source: str, classes: str | None, size: int | None, skip_bad: bool) -> tuple[Dataset, dict[str, Any]]:
    """Load a data set as options ask for it; returns it with what was asked, as it is recorded."""
    chosen = listed(classes) if classes else None
    data = load(source, classes=chosen, size=size, skip_bad=skip_bad)
    return data, {"asked": source, "classes": list(chosen or []), "size": size, "skip_bad": skip_bad}


def introduce(data: Dataset, recipe: Recipe) -> None:
    """Say what is about to be distilled, and how."""
    shape = " x ".join(map(str, data.shape))
    console.print(
        f"{data.name}: {len(data.classes)} classes, {len(data.train)} training and {len(data.test)} test images of "
        f"{shape} (channels, height, width).", soft_wrap=True,
    )  # fmt: skip
    for note in data.notes:
        console.print(f"  {note}", soft_wrap=True)
    names = f"; networks: {', '.join(recipe.networks)}" if recipe.networks else ""
    console.print(f"Method {recipe.method}, ipc {recipe.ipc}{names}.", soft_wrap=True)


def describe(distilled: DistilledDataset) -> None:
    """Say what a distilled set holds and weighs."""
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
    elif "extra" in counts:
        console.print(
            f"{counts['natural']} natural images ({counts['extra']} of them beside the natural sets), "
            f"{counts['compensators']} compensators.", soft_wrap=True,
        )  # fmt: skip
    table = Table("part", "bytes")
    for name, size in ledger.items():
        table.add_row(name, f"{size:,}")
    table.add_row("real training set, lossless WebP", f"{distilled.facts['real_bytes']['webp']:,}")
    table.add_row("ratio", f"{ledger['total'] / distilled.facts['real_bytes']['webp']:.4f}")
    console.print(table)


def command_line(arguments: Sequence[str] | None = None) -> str:
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


def listed(text: str) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the whole numbers of a list with commas. Raises: DatastillError, naming the option."""
    try:
        return tuple(int(part) for part in listed(text))
    except ValueError as error:
        raise DatastillError(f"{option} wants whole numbers with commas between, not '{text}'.") from error
