"""Commands that tell: what a set holds, what there is to choose from, what this machine offers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from datastill.artifact import DistilledDataset
from datastill.cli.common import Device, Folder, Precision, app, console, describe
from datastill.export import FORMS, export, sheet
from datastill.fields import ROOMS, registered
from datastill.networks import list_networks
from datastill.recipe import methods
from datastill.report.pages import write_any
from datastill.runtime.cache import cache_dir
from datastill.runtime.device import open_device
from datastill.runtime.versions import versions
from datastill.sources import list_sources


@app.command()
def inspect(
    folder: Folder,
    png: Annotated[Path | None, typer.Option(help="Where to put sample pictures; default FOLDER-samples.png.")] = None,
) -> None:
    """Show what a distilled set holds, what every part weighs, and sample pictures."""
    distilled = DistilledDataset.load(folder)
    describe(distilled)
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
def report(run: Annotated[Path, typer.Argument(help="Folder of results, of any command that measures.")]) -> None:
    """Write the HTML report of a run again."""
    console.print(f"Report: {write_any(run)}", soft_wrap=True)


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
