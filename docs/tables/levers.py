"""The generated part of docs/levers.md: a ladder for each plan that was measured, its experiments in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.measure.ledger import Entry
from datastill.report import ablation_rows as read
from datastill.report import rows, tables, words
from datastill.runtime.files import digest_of

from . import words as cells

HEADINGS = ["experiments and their variants", "top-1, % (n)", "against the best so far", "decision", "items", "labels",
            "bytes, of the real set"]  # fmt: skip


def climbed(entries: Sequence[Entry]) -> str:
    """Return what stands between the markers of docs/levers.md."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(title(entry), []).append(entry)
    return "\n\n".join(part for name in sorted(groups) for part in _section(name, groups[name])) or "No row yet."


def title(entry: Entry) -> str:
    """Return the heading of the group of a trial: plan, source, student, steps, split and bytes."""
    row, budget = entry.row, entry.run["protocol"]["budget"]
    source, size = entry.run["source"]["name"], words.size(budget) if budget else "sets of any size"
    return (
        f"{tables.escaped(row['plan'])}: {tables.escaped(source)}, student {tables.code(row['student'])}, "
        f"{row['steps']:,} steps, {size}, on {row['split']} images"
    )


def _section(name: str, entries: Sequence[Entry]) -> list[str]:
    runs: dict[str, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(digest_of(entry.run), []).append(entry)
    ladders = sorted(runs.values(), key=_age)
    parts = [f"### {name}"]
    for i, mine in enumerate(ladders, 1):
        parts += [f"Ladder {i} of {len(ladders)}:"] if len(ladders) > 1 else []
        parts += _ladder(mine)
    return parts


def _age(entries: Sequence[Entry]) -> tuple[int, int]:
    """Return what puts whole climbs first: of an old one, a new climb of the plan replaces all but what it left out."""
    return min(entry.row["order"] for entry in entries), -len(entries)


def _ladder(entries: Sequence[Entry]) -> list[str]:
    """Return one climb: its verdicts, its command and its table. What is left of an old one has a table alone."""
    files = {(entry.row["experiment"], entry.row["variant"]): entry.name for entry in entries}
    results = results_of(entries)
    caption, rule = rows.caption_of(entries[0].row), read.rule_words(results["protocol"]["rule"])
    parts = [tables.escaped(results["plan"]["says"])] if results["plan"]["says"] else []
    kept = all(e["adopted"] is None or any(row["adopted"] for row in e["rows"]) for e in results["experiments"])
    whole = kept and results["start"] is not None
    if whole:
        parts += [f"**{tables.escaped(read.ladder_sentence(results))}**"]
        parts += ["\n".join(f"1. {tables.escaped(words.minus(said))}" for said in read.ablation_verdicts(results))]
    parts += [tables.escaped(f"{caption} {rule}"), cells.commands(results), _table(results, files)]
    parts += [tables.escaped(sentence) for sentence in read.ablation_failures(results)]
    if whole:
        parts += [f"The recipe at the end, {tables.escaped(read.row_name(read.best_of(results)))}:",
                  cells.shell([read.recipe_command(results)])]  # fmt: skip
    return parts


def results_of(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the results that the rows of one run came from, as far as pages read them; without a start it is None."""
    run, mine = entries[0].run, sorted((entry.row for entry in entries), key=lambda row: row["order"])
    experiments = [dict(told) | {"rows": [row for row in mine if row["order"] and row["experiment"] == told["name"]]}
                   for told in run["experiments"]]  # fmt: skip
    return dict(run) | {"start": next((row for row in mine if not row["order"]), None), "experiments": experiments}


def _table(results: Mapping[str, Any], files: Mapping[tuple[str, str], str]) -> str:
    lines = [_cells(results["start"], "the start", results, files)] if results["start"] else []
    for number, experiment in enumerate(results["experiments"], 1):
        if experiment["rows"]:
            says = f"<br>{tables.escaped(experiment['says'])}" if experiment["says"] else ""
            lines.append([f"**{number}. {tables.escaped(experiment['name'])}**{says}", *[""] * (len(HEADINGS) - 1)])
        for row in experiment["rows"]:
            told = read.decision(row, experiment, results["protocol"]["rule"])
            lines.append(_cells(row, told, results, files))
    return tables.markdown_table(HEADINGS, lines)


def _cells(row: read.Row, decision: str, results: Mapping[str, Any], files: Mapping[tuple[str, str], str]) -> list[str]:
    gap, kept = row["against_best"], decision == read.KEPT
    changes = [*([f"method {tables.code(row['of'])}"] if row["of"] else []), *map(tables.code, row["changes"])]
    test = f"sd {gap['sd']:.2f}, {words.paired(gap)}" if gap else ""
    return [
        "<br>".join([tables.escaped(row["variant"]), *changes]),
        cells.linked(cells.accuracy(row, strong=kept), files[row["experiment"], row["variant"]]),
        f"{words.signed(gap['mean'])}<br>{cells.unbroken(test)}" if gap else "",
        f"**{decision}**" if kept else tables.escaped(words.minus(decision)), f"{row['items']:,}",
        cells.labels(row), cells.weight(row, results),
    ]  # fmt: skip
