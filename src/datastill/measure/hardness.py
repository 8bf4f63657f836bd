"""How hard each real training image is, or how useful, as a table that other tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from datastill.engine import make_context
from datastill.errors import DatastillError, unknown
from datastill.recipe import Recipe
from datastill.runtime.device import Device
from datastill.runtime.files import write_atomic
from datastill.runtime.progress import Reporter
from datastill.runtime.versions import versions
from datastill.select.bilp import SCORES, Bilp
from datastill.sources import Dataset
from datastill.training.bank import Bank

SELECT = "bilp"
FORMS = (".parquet", ".csv")


def form_of(path: Path) -> str:
    """Return the form that a file's name asks for. Raises: DatastillError where it is none of `FORMS`."""
    if path.suffix.lower() not in FORMS:
        raise DatastillError(f"'{path.name}' names no form of a table; end it in {' or '.join(FORMS)}.")
    return path.suffix.lower()


def score_table(
    dataset: Dataset, recipe: Recipe, scores: Sequence[str], *, device: Device, reporter: Reporter
) -> pa.Table:
    """Return a row for every training image that the recipe may look at, in the order of the training split.

    Columns: `row` of the training split; `id`, its name in the source; `class`; and one per score, float64. A score is
    large for what is hard, but `monte_carlo` for what is useful (in percent, to be compared within a class). Rows that
    the recipe holds out are not there. The table's metadata say what was scored, and how.

    Args:
        dataset: the real set; its test split is not looked at.
        recipe: whose `select` is "bilp".
        scores: some of `SCORES`.
        device, reporter: where, and who is told.

    Raises: DatastillError for no score, an unknown one, another `select`, or whatever `resolve` refuses.
    """
    for name in scores or [""]:
        if name not in SCORES:
            raise unknown("score", name, SCORES)
    if recipe.select.kind != SELECT:
        raise DatastillError(f"scores are those of select '{SELECT}', not of '{recipe.select.kind}'; leave select out.")
    bank, columns, how = Bank(device, reporter), {}, {}
    for name in dict.fromkeys(scores):
        asked = replace(recipe.select, settings={**recipe.select.settings, "score": name})
        ctx = make_context(dataset, replace(recipe, select=asked), device, reporter, bank)
        select = ctx.fields.select
        assert isinstance(select, Bilp), "its name is that of the choice"
        columns[name] = pa.array(select.scored(ctx).numpy())
        how[name] = asked.plain() | {"network": select.asked(ctx)}
    rows = ctx.real.rows
    found: dict[str, Any] = {
        "row": pa.array(rows.numpy()),
        "id": [dataset.train.ids[row] for row in rows.tolist()],
        "class": [dataset.classes[k] for k in dataset.train.labels[rows].tolist()],
    }
    told = {
        "source": dataset.name, "fingerprint": dataset.fingerprint, "rows": ctx.real.key, "seed": recipe.seed,
        "scores": how, "networks": recipe.plain()["networks"], "versions": versions(),
    }  # fmt: skip
    return pa.table(found | columns).replace_schema_metadata({"datastill": json.dumps(told)})


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table in the form of the file's name, whole or not at all; CSV has no room for the metadata."""
    write = pyarrow.csv.write_csv if form_of(path) == ".csv" else pyarrow.parquet.write_table
    write_atomic(path, lambda part: write(table, str(part)))
