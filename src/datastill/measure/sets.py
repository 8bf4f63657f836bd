"""Distilled sets by what they are made from: made once, kept in the cache, copied to the run that asks for them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datastill.artifact import FORMAT, MANIFEST, DistilledDataset
from datastill.engine import WORK, distil
from datastill.fields import Real
from datastill.recipe import Recipe
from datastill.runtime.cache import cache_dir
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, sha256_file
from datastill.runtime.progress import Reporter
from datastill.settings import chosen
from datastill.sources import Dataset


def made_set(
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    device: Device,
    reporter: Reporter,
    source: Mapping[str, Any] | None = None,
    command: str = "",
) -> DistilledDataset:
    """Return the set of a recipe, saved in `folder`: copied from the cache, where it is made if it is not there yet.

    A set of another recipe in `folder` is replaced. Raises: DatastillError, as `distil` does.
    """
    real = Real(dataset, recipe.validation, recipe.seed)
    key = digest_of([chosen(recipe), list(recipe.networks), real.key, device.precision, FORMAT])
    kept = cache_dir() / "sets" / key
    distil(
        dataset, recipe, device=device, reporter=reporter, out=kept, resume=True, source=source, command=command,
        kept=cache_dir() / "learned",
    )  # fmt: skip
    copied = folder / MANIFEST
    if not copied.exists() or sha256_file(copied) != sha256_file(kept / MANIFEST):
        part = folder.with_name(f".{folder.name}.part")  # renamed once it is whole
        for old in (folder, part):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(kept, part, ignore=shutil.ignore_patterns(WORK))
        part.rename(folder)
    return DistilledDataset.load(folder)
