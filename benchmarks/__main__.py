"""The command: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.cases import FLOAT32, NETWORKS, PHASES, PRECISIONS, Sizes
from benchmarks.compare import TOLERANCE, Plan, compare
from datastill.engine import GROUP_VALUES
from datastill.errors import DatastillError, unknown
from datastill.recipe import read_networks
from datastill.report.words import duration
from datastill.runtime.device import open_device
from datastill.runtime.files import write_json
from datastill.runtime.versions import versions
from datastill.store.crops import Crops

ROUNDS, QUICK_ROUNDS = 9, 3
STEPS = {"convnet": 4}  # of a round; one step of the others is long enough to be timed
CONDENSED = "convnet_in"  # the network of dataset condensation, which is measured at the sizes of the papers
MIB = 1 << 20


def sizes(network: str, classes: int = Sizes.classes) -> Sizes:
    """Return the sizes of a round; as many parts are recovered together as the engine puts into one pass on a CPU."""
    arch = network.partition("(")[0]
    made = Sizes(classes=classes, steps=STEPS.get(arch, 1))
    if arch == CONDENSED:
        made = replace(made, real=256, matched=10)
    part = made.classes * 3 * made.pixels**2
    return replace(made, parts=max(1, GROUP_VALUES["cpu"] // part))


def measure(
    phases: list[str], networks: list[str], rounds: int, threads: int, classes: int = Sizes.classes
) -> list[dict[str, Any]]:
    """Return the rows of every phase and network, with a progress bar."""
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(phases) * len(networks) * (rounds + 2))
        for network in networks:
            plan = Plan(rounds, threads, sizes(network, classes))
            for phase in phases:
                progress.update(bar, description=f"{phase}, {network}")
                precisions = PRECISIONS[:1] if phase in FLOAT32 else PRECISIONS
                rows += compare(phase, network, precisions, plan, lambda: progress.advance(bar))
    return rows


def table(rows: list[dict[str, Any]], clock: str) -> Table:
    """Return the rows as a table."""
    made = Table(title="Speed against the plain reference, memory above the libraries'")
    names = ("phase", "network", "precision", "items", f"reference ({clock} s)", f"product ({clock} s)", "times faster",
             "min to max", "items a second", "than float32", "apart", "float64 apart", "reference MiB",
             "product MiB")  # fmt: skip
    for place, name in enumerate(names):
        made.add_column(name, justify="left" if place < 3 else "right")
    for row in rows:
        made.add_row(
            row["phase"], row["network"], row["precision"], str(row["items"]),
            f"{row['reference_s']:.3f}", f"{row['product_s']:.3f}", f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}", f"{row['items'] / row['product_s']:,.0f}",
            f"{row['ratio_to_float32_reference']:.2f}",
            f"{row['max_relative_difference']:.0e}", f"{row['max_relative_difference_float64']:.0e}",
            str(row["reference_peak_bytes"] // MIB), str(row["product_peak_bytes"] // MIB),
        )  # fmt: skip
    return made


def says(rows: list[dict[str, Any]], threads: int) -> list[str]:
    """Return for each scoring row how long RDED would look at CIFAR-100: a sentence each."""
    store, classes, each = Crops(), 100, 500
    crops = classes * min(store.mipc, each) * store.crops
    noun = "thread" if threads == 1 else "threads"
    return [
        f"At {row['items'] / row['product_s']:,.0f} crops a second a trained {row['network']} scores the {crops:,} "
        "crops that RDED looks at on CIFAR-100, whatever the images per class, in "
        f"{duration(crops * row['product_s'] / row['items'])} of {threads} {noun} ({row['precision']})."
        for row in rows
        if row["phase"] == "scoring"
    ]


def _named(text: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown("phase", name, known)
    return names


def main(
    phases: Annotated[str, typer.Option(help="which phases, with commas between")] = ",".join(PHASES),
    networks: Annotated[str, typer.Option(help="which networks, as NAME or NAME(setting=value)")] = ",".join(NETWORKS),
    quick: Annotated[bool, typer.Option("--quick", help="fewer rounds: a first impression")] = False,
    threads: Annotated[int, typer.Option(min=1, help="of each side; one is timed by the processor's clock")] = 1,
    classes: Annotated[int, typer.Option(min=2, help="of the pictures")] = Sizes.classes,
    out: Annotated[Path | None, typer.Option(help="write the rows to this JSON file, too")] = None,
) -> None:
    """Time each phase against a plain reference of the same mathematics, and compare numbers and peaks of memory."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    try:
        asked = _named(phases, PHASES), list(read_networks(networks))
    except DatastillError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    rows = measure(*asked, rounds, threads, classes)
    clock = Plan(rounds, threads, Sizes()).clock
    told = says(rows, threads)
    Console(width=None if Console().is_terminal else 190).print(table(rows, clock), *told, sep="\n")
    if out is not None:
        name = open_device("cpu").describe()["name"]
        machine = {"name": name, "cores": os.cpu_count(), "system": platform.platform()}
        write_json(out, {"machine": machine, "versions": versions(), "threads": threads, "clock": clock,
                         "classes": classes, "rounds": rounds, "rows": rows, "says": told})  # fmt: skip
    wrong = [
        f"{row['phase']} of {row['network']}"
        for row in rows
        if row["precision"] == PRECISIONS[0]
        and max(row["max_relative_difference"], row["max_relative_difference_float64"]) > TOLERANCE
    ]
    if wrong:
        typer.echo(f"error: the two sides differ by more than {TOLERANCE} in {', '.join(wrong)}.", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
