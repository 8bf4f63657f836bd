"""docs/results.md: a section per group, the runs behind them, proxies, speeds, and what waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.measure.ledger import Entry
from datastill.measure.stats import Difference, Summary, verdict_sentence
from datastill.recipe import methods
from datastill.report import rows, tables, words
from datastill.runtime.files import digest_of

from . import proxies
from . import words as cells
from .ledger import Group, Ledger

INTRODUCTION = """\
# Results

Everything on this page was written by `make tables` from the files in `docs/results/`: one file per measured row, with
its recipe, command, versions, device, seeds, accuracy of every seed, times and bytes. Rows that share a data set, a
number of images per class, a student and a protocol stand together. Each accuracy is a link to its row file. How such a
number is made is told in [What a number means](what-a-number-means.md); in short:
"""
SPEED = (
    "Each phase against a plain implementation of the same mathematics (`make bench`) in turns, in the same precision "
    "and against the plain one in float32. Both compute the same: differences are relative, in float64. Memory is the "
    "largest of each process above what its libraries take."
)
WAITING = (
    "These commands are ready to run as they stand; their rows are not there yet. The number beside each is the "
    "paper's, not ours."
)
SEVERAL = {
    "better": "better than {} are {}",
    "none": "within noise of {} are {}",
    "worse": "worse than {} are {}",
    "unproven": "not told apart, for want of seeds, from {} are {}",
}
BARE = "students without crops, flips or mixing, for the [robust scores](scores.md) alone:"
HEADINGS = ["arm", "top-1, % (n)", "against random, same labels", "the method against this", "steps", "labels",
            "bytes, of the real set", "their networks, top-1", "items (pictures)"]  # fmt: skip


def results_page(found: Ledger) -> str:
    """Return docs/results.md."""
    meanings = "\n".join(
        f"- **{word}.** {sentence}"
        for word, sentence in words.what_numbers_mean("Against random, the method against this")
    )
    parts = [INTRODUCTION + "\n" + meanings]
    for group in found.groups:
        parts += _section(group)
    if not found.groups:
        parts.append("No run has been measured yet.")
    parts += _runs(found.groups)
    if found.proxies:
        parts += ["## Proxies", *(part for entry in found.proxies for part in proxies.section(entry))]
    if found.speed:
        parts += ["## Speed against a plain reference", SPEED]
    for name, bench in found.speed.items():
        parts += _speed(name, bench)
    if found.waiting:
        parts += ["## Waiting for a GPU", WAITING, *(_waits(entry) for entry in found.waiting)]
    return cells.page(parts)


def title(group: Group) -> str:
    """Return the heading of a group."""
    split = ", on validation images" if group.split == "validation" else ""
    return (
        f"{tables.escaped(group.source)} at {group.ipc} {'image' if group.ipc == 1 else 'images'} per class: student "
        f"{tables.code(group.student)}, "
        f"{group.steps:,} steps of {group.batch:,} items{split}"
    )


def said(group: Group, block: Sequence[Entry]) -> list[str]:
    """Return the verdicts in words, a sentence for each column; then how a method stands to its controls."""
    spoken = []
    for column in words.COLUMNS:
        mine = [e for e in block if e.row["role"] == "method" and e.row["column"] == column and not e.row["random"]]
        spoken += [f"**{tables.escaped(sentence)}**" for sentence in _verdicts(group, mine)]
    for run in {digest_of(e.run): e.run for e in block}.values():
        beside = (e.row for e in block if e.run == run)
        mine = [row for row in beside if row["role"] == "method" or "method_minus_this" in row]
        if sum(row["role"] == "method" for row in mine) == 1:
            standing = rows.standing({"rows": mine, "paper": [], "real_bytes": run["real_bytes"]}, group.student)
            spoken += [tables.escaped(standing)] if standing else []
    return spoken


def _verdicts(group: Group, mine: Sequence[Entry]) -> list[str]:
    if len(mine) == 1:
        return [verdict(group, mine[0])]
    found: dict[str, list[str]] = {}
    for entry in mine:
        gap = group.against_random(entry)
        if gap:
            found.setdefault(gap["verdict"], []).append(entry.row["arm"])
    parts = [text.format(cells.RANDOM, words.listed(found[key])) for key, text in SEVERAL.items() if key in found]
    return [f"Column {mine[0].row['column']} with {group.student}: " + "; ".join(parts) + "."] if parts else []


def verdict(group: Group, entry: Entry) -> str:
    """Return the sentence that a method's row owes its reader first."""
    row, gap, beside = entry.row, group.against_random(entry), group.random_beside(entry)
    ours = _summary(row)
    if gap is None or beside is None:
        return (
            f"{row['arm']} reaches {ours} with {group.student}; its nearest control, {cells.RANDOM}, was not run, so "
            "this says nothing about the method."
        )
    found = Difference(gap["mean"], gap["t"], gap["p"], gap["n"])
    return verdict_sentence(row["arm"], cells.RANDOM, group.student, ours, _summary(beside.row), found)


def _summary(row: Mapping[str, Any]) -> Summary:
    return Summary.of(row["top1"]["per_seed"])


def accuracy_tables(group: Group, block: Sequence[Entry]) -> list[str]:
    """Return a table for each of the columns H, S and D, never one for all; the methods' column first."""
    first = next((e.row["column"] for e in block if e.row["role"] == "method" and not e.row["random"]), "H")
    several = sum(e.row["role"] == "method" for e in block) > 1
    parts = []
    for column in dict.fromkeys([first, *words.COLUMNS]):
        mine = [e for e in block if e.row["column"] == column and e.row["role"] != "plain"]
        bare = [e for e in block if e.row["column"] == column and e.row["role"] == "plain"]
        if mine:
            parts += [cells.column_line(column), cells.compact(HEADINGS, [_cells(group, e, several) for e in mine])]
        if bare:
            parts += [f"Column {column}, {BARE}", cells.compact(HEADINGS, [_bare(group, e) for e in bare])]
    return parts


def _cells(group: Group, entry: Entry, several: bool) -> list[str]:
    row = entry.row
    reached = cells.accuracy(row, row["role"] == "method" and not row["random"])
    beside = f" (beside {tables.code(row['method'])})" if several and row["role"] == "control" else ""
    return [
        f"{tables.code(row['arm'])}<br>{tables.escaped(row['says'])}{beside}",
        cells.linked(reached, entry.name), cells.standing(group.against_random(entry)),
        cells.standing(row.get("method_minus_this")), cells.steps(row), cells.labels(row),
        cells.weight(row, entry.run), cells.percent(row["teacher_top1"]), f"{row['items']:,} ({row['pictures']:,})",
    ]  # fmt: skip


def _bare(group: Group, entry: Entry) -> list[str]:
    """Return the cells of a row whose students were trained in another way: it is compared with nothing here."""
    made = _cells(group, entry, several=False)
    return [*made[:2], "", "", *made[4:]]


def _section(group: Group) -> list[str]:
    blocks = group.blocks
    parts = [f"## {title(group)}"]
    for i, block in enumerate(blocks):
        parts += [_set(i, blocks), *said(group, block)] if len(blocks) > 1 else said(group, block)
    parts.append(f"In `pages.yaml` this group is `{group.name}`.")
    parts.append(f"### Accuracies with {tables.code(group.student)}")
    for i, block in enumerate(blocks):
        shared = {(e.row["batch"], tuple(e.row["seeds"])): e.row for e in block}
        parts += [_set(i, blocks)] if len(blocks) > 1 else []
        parts += [tables.escaped(caption(row)) for row in shared.values()]
        parts += [cells.commands(run) for run in {digest_of(e.run): e.run for e in block}.values()]
        parts += accuracy_tables(group, block)
        parts += _networks(block)
    ledgers = [e.row for block in blocks for e in block]
    real = group.entries[0].run["real_bytes"]
    return [*parts, "### Bytes", _bytes(ledgers, real)]


def _set(place: int, blocks: Sequence[Sequence[Entry]]) -> str:
    """Return the line that tells sets of rows apart."""
    networks = {name: None for e in blocks[place] for name, facts in e.run["teachers"].items()
                if facts["arch"] != words.ENSEMBLE}  # fmt: skip
    said_of = words.listed([tables.code(name) for name in networks]) if networks else "none"
    return f"Rows {place + 1} of {len(blocks)}, whose networks are {said_of}:"


def caption(row: Mapping[str, Any]) -> str:
    """Return what holds for every row of a table."""
    return rows.caption_of(row)


def _networks(block: Sequence[Entry]) -> list[str]:
    runs = {digest_of(e.run["teachers"]): e.run for e in block if e.run["teachers"]}
    parts = [] if not runs else ["The networks behind the labels, and what shipping one instead would cost:"]
    parts += [tables.teachers_table({"real_bytes": r["real_bytes"], "teachers": r["teachers"]}) for r in runs.values()]
    return [*parts, words.SHIPPING] if runs else []


def _bytes(mine: Sequence[Mapping[str, Any]], real: Mapping[str, int]) -> str:
    """Return the exact bytes of every arm by what they are for, beside the real training images."""
    kinds = list(dict.fromkeys(kind for row in mine for kind in row["bytes"] if kind != "total"))
    lines = {(row["arm"], row["column"], row["bytes"]["total"]): row for row in mine}.values()
    made = [
        [tables.code(r["arm"]), r["column"], *(f"{r['bytes'].get(k, 0):,}" for k in [*kinds, "total"])] for r in lines
    ]
    blank = [""] * (len(kinds) + 1)
    made += [[says, *blank, f"{count:,}"] for says, count in rows.real_lines({"real_bytes": real})]
    return tables.markdown_table(["arm", "column", *kinds, "total"], made)


def _runs(groups: Sequence[Group]) -> list[str]:
    """Return counts, times and the machine of each run, once, whatever the number of groups that show its rows."""
    found: dict[str, tuple[Mapping[str, Any], list[Entry]]] = {}
    for group in groups:
        for run, mine in group.runs:
            there = found.setdefault(digest_of(run), (run, []))[1]
            there += [entry for entry in mine if entry not in there]  # the whole set stands in several groups
    parts = ["## The runs behind these rows"] if found else []
    for number, (run, mine) in enumerate(found.values(), 1):
        names = {e.row["student"]: None for e in mine}
        said_of = words.listed([tables.code(name) for name in names])
        parts.append(f"### Run {number}: {tables.escaped(run['source']['name'])}, students {said_of}")
        parts += [cells.commands(run), _machine(run, mine)]
        if run["counts"]:
            shown = {"counts": run["counts"], "classes": mine[0].row["per_class"], "ipc": mine[0].row["ipc"]}
            parts.append(" ".join(words.budget(shown)))
            measured = words.losses_before_and_after(shown)
            parts += [tables.markdown_table(words.LOSSES, measured)] if measured else []
        parts.append(tables.times_table(
            {"seconds": run["seconds"], "teachers": run["teachers"], "rows": [e.row for e in mine]}
        ))  # fmt: skip
        if run["peak_bytes"]:
            parts.append(f"Largest memory of the measuring process: {words.size(run['peak_bytes'])}.")
    return parts


def _machine(run: Mapping[str, Any], mine: Sequence[Entry]) -> str:
    device = run["device"]
    versions = ", ".join(f"{key} {version}" for key, version in run["versions"].items())
    threads = f", threads: {device['threads']}" if "threads" in device else ""
    seeds = sorted({e.row["recipe"]["seed"] for e in mine if e.row["recipe"]})
    seeded = f" Seed of the sets: {words.listed([str(s) for s in seeds])}." if seeds else ""
    chosen = "on a validation split" if run["chosen_on"] else "none"
    return (
        f"Device: {tables.escaped(device['name'])} ({device['device']}, {device['precision']}{threads}). "
        f"Versions: {versions}.{seeded} Choices made: {chosen}."
    )


def _waits(entry: Mapping[str, Any]) -> str:
    found = [p for p in methods()[entry["method"]].paper
             if (p.source, p.ipc, p.student) == (entry["source"], entry["ipc"], entry["student"])]  # fmt: skip
    cite = methods()[entry["method"]].cite.replace("arXiv:", "arXiv ")
    printed = [f"The paper's number: {cells.paper(p)}, {p.where} of {cite}." for p in found]
    told = printed or ["The paper prints no number for it."]
    return "\n\n".join([f"**{tables.escaped(entry['what'])}**", cells.shell([entry["command"]]), *told])


def _speed(name: str, bench: Mapping[str, Any]) -> list[str]:
    machine, versions = bench["machine"], bench["versions"]
    clock = {"cpu": "the processor's clock", "wall": "the wall clock"}[bench["clock"]]
    mib = 1 << 20
    lines = [
        (
            row["phase"], tables.code(row["network"]), row["precision"], str(row["items"]), f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}", f"{row['ratio_to_float32_reference']:.2f}",
            f"{row['items'] / row['product_s']:,.0f}",
            f"{row['max_relative_difference_float64']:.0e}",
            f"{row['reference_peak_bytes'] / mib:.0f}", f"{row['product_peak_bytes'] / mib:.0f}",
        )
        for row in bench["rows"]
    ]  # fmt: skip
    head = ["phase", "network", "precision", "items", "times faster, median", "least to most",
            "times faster than the plain one in float32", "items a second", "difference in float64",
            "reference, MiB", "Datastill, MiB"]  # fmt: skip
    told = (
        f"{bench['classes']} classes; {bench['rounds']} rounds, threads: {bench['threads']}, by {clock}, on "
        f"{tables.escaped(machine['name'])} with torch {versions['torch']}. The row file: [{name}](results/{name})."
    )
    shown = [told, tables.markdown_table(head, lines)]
    return [*shown, *([" ".join(map(tables.escaped, bench["says"]))] if bench.get("says") else [])]
