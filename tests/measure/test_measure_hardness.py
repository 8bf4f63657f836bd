"""Scores as a table: whose rows, in which order, written whole, and refused before any work where it must be."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datastill.engine import make_context
from datastill.errors import DatastillError
from datastill.measure.hardness import form_of, score_table, write_table
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny

FEW = {"epochs": 2, "runs": 1, "trials": 2, "steps": 2}


def scored(*scores: str, select: str = "bilp", **changes: Any) -> pa.Table:
    recipe = tiny.recipe(select=choice(select, **(FEW if select == "bilp" else {})), validation=8, **changes)
    return score_table(tiny.dataset(), recipe, scores, device=tiny.device(), reporter=Reporter())


@pytest.fixture(scope="module")
def table(_own_cache: None) -> pa.Table:
    return scored("loss_early", "forgetting", "monte_carlo")


def test_every_allowed_row_has_its_name_its_class_and_the_scores_that_pruning_uses(table: pa.Table) -> None:
    assert table.column_names == ["row", "id", "class", "loss_early", "forgetting", "monte_carlo"]
    data = tiny.dataset()
    for score in table.column_names[3:]:
        recipe = tiny.recipe(select=choice("bilp", score=score, keep=0.5, **FEW), validation=8)
        ctx = make_context(data, recipe, tiny.device(), Reporter())
        rows = ctx.real.rows.tolist()
        assert table["row"].to_pylist() == rows
        assert len(rows) == 40
        assert not set(rows) & set(ctx.real.held_out.tolist())
        found = dict(zip(rows, table[score].to_pylist(), strict=True))
        sign = -1 if score == "monte_carlo" else 1
        stay = set(ctx.pool.tolist())
        for k in range(4):
            mine = ctx.real.of_class(k).tolist()
            worst = max(sign * found[row] for row in mine if row in stay)
            assert all(sign * found[row] >= worst for row in mine if row not in stay)
    assert table["id"].to_pylist() == [data.train.ids[row] for row in table["row"].to_pylist()]
    wanted = [f"class {int(data.train.labels[row])}" for row in table["row"].to_pylist()]
    assert table["class"].to_pylist() == wanted


def test_a_parquet_file_says_what_was_scored_and_a_csv_file_has_the_same_rows(table: pa.Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "scores.parquet")
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.equals(table)
    told = json.loads(found.schema.metadata[b"datastill"])
    assert told["fingerprint"] == tiny.dataset().fingerprint
    assert told["scores"]["loss_early"] == {"kind": "bilp", **FEW, "score": "loss_early", "network": "first"}
    write_table(table, tmp_path / "scores.CSV")
    with (tmp_path / "scores.CSV").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == table["row"].to_pylist()
    for name in ("loss_early", "forgetting"):
        for line, value in zip(lines, table[name].to_pylist(), strict=True):
            assert float(line[name]) == pytest.approx(value) or math.isinf(value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.CSV", "scores.parquet"]


def test_what_names_no_score_or_no_form_is_refused_with_what_would_do() -> None:
    with pytest.raises(DatastillError, match="loss_erly.*loss_early"):
        scored("loss_erly")
    with pytest.raises(DatastillError, match="score"):
        scored()
    with pytest.raises(DatastillError, match="those of select 'bilp', not of 'random'"):
        scored("el2n", select="random")
    with pytest.raises(DatastillError, match=r"'scores.txt' names no form .* .parquet or .csv"):
        form_of(Path("scores.txt"))
