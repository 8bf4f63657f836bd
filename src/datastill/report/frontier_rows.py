"""The rows of a frontier, read once for its page, its charts and the terminal: lines, the front, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datastill.measure.stats import FEWEST, Difference
from datastill.report import words
from datastill.report.compared import Verdict
from datastill.report.parts import TONES

Row = Mapping[str, Any]

RANDOM = "random"  # the method whose rows are random real images, under whatever codec
STANDS = {
    "better": "is better than",
    "worse": "is worse than",
    "none": "does not differ, beyond noise, from",
    "unproven": f"was measured with fewer than {FEWEST} common seeds, which proves nothing, beside",
}
NETWORK = "a network in place of a set"


def line_name(row: Row) -> str:
    """Return the name of the line that a row lies on: its arm without the size that changes along the line."""
    parts = [part for part in row["arm"].split() if not part.removeprefix("ipc").isdigit()]
    return " ".join(parts) or str(row["arm"])


def codec_and_label(row: Row) -> tuple[str, str]:
    """Return the codec and the labels of a row as they were asked for; a preset's own store has the codec ""."""
    name, _, label = line_name(row).partition(", ")
    return name.removeprefix(row["method"]).strip(), label


def label_words(row: Row) -> str:
    """Return the labels of a row as its table names them: a codec, or the kind of the recipe's own labels."""
    label = codec_and_label(row)[1]
    return str(row["recipe"]["label"]["kind"]) if label == "own" else label


def place(row: Row, chart: str) -> float:
    """Return where a row stands on the axis of a chart, "bytes" or "ipc"."""
    return float(row["bytes"]["total"] if chart == "bytes" else row["ipc"])


def columns(rows: Iterable[Row]) -> list[str]:
    """Return the columns that have rows, in the order H, S, D."""
    found = {row["column"] for row in rows}
    return [column for column in words.COLUMNS if column in found]


def series(rows: Iterable[Row], column: str, chart: str) -> dict[str, list[Row]]:
    """Return the rows of a column from left to right, by the name of their line."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["column"] == column and place(row, chart) > 0:
            found.setdefault(line_name(row), []).append(row)
    order = ("bytes", "ipc") if chart == "bytes" else ("ipc", "bytes")
    return {name: sorted(found[name], key=lambda row: (*(place(row, c) for c in order), row["arm"])) for name in found}


def front(rows: Iterable[Row], column: str, chart: str) -> list[Row]:
    """Return the random real images of a column that no others reach at the same place or left of it, left to right.

    Of points with equal accuracy the leftmost stays. Rows must be those of one student.
    """
    mine = [row for row in rows if row["method"] == RANDOM and row["column"] == column and place(row, chart) > 0]
    kept: list[Row] = []
    for row in sorted(mine, key=lambda row: (place(row, chart), -row["top1"]["mean"], row["arm"])):
        if not kept or row["top1"]["mean"] > kept[-1]["top1"]["mean"]:
            kept.append(row)
    return kept


def rivals(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Return the random real images that a row is held against, the best first: same student and column, no more bytes.

    Of equal means the one of fewer bytes comes first.
    """
    found = [
        other for other in rows
        if other["method"] == RANDOM and all(other[key] == row[key] for key in ("student", "column"))
        and place(other, "bytes") <= place(row, "bytes")
    ]  # fmt: skip
    return sorted(found, key=lambda other: (-other["top1"]["mean"], place(other, "bytes"), other["arm"]))


def difference(ours: Row, theirs: Row) -> Difference | None:
    """Return how far a row is above another, paired over the seeds that both have; None without any."""
    mine, other = (dict(zip(row["seeds"], row["top1"]["per_seed"], strict=True)) for row in (ours, theirs))
    common = [seed for seed in mine if seed in other]
    return Difference.of([mine[s] for s in common], [other[s] for s in common]) if common else None


def frontier_verdicts(results: Mapping[str, Any], student: str) -> list[Verdict]:
    """Return how each row of a method stands to the best random real images of its column at no more bytes.

    The column H comes first, then S and D. The last sentence, of no column, is the largest network that was sent.
    """
    rows = [row for row in results["rows"] if row["student"] == student]
    asked = [row for row in rows if row["method"] != RANDOM]
    found = [
        _verdict(row, rivals(row, rows), results["networks"])
        for column in words.COLUMNS for row in asked if row["column"] == column
    ]  # fmt: skip
    if results["networks"]:
        found.append(_largest(results["networks"], rows))
    return found


def _verdict(row: Row, others: Sequence[Row], networks: Sequence[Row]) -> Verdict:
    named = f"{row['arm']} ({words.size(row['bytes']['total'])})"
    gap = difference(row, others[0]) if others else None
    if gap is None:
        why = "share no seed with it" if others else "were not measured at no more bytes"
        said = (
            f"{named} reaches {words.top1(row['top1'])} with {row['student']}; random real images of column "
            f"{row['column']} {why}, so this says nothing about the method."
        )
        return Verdict(row["column"], "", "open", said + _beside(row, networks))
    best = others[0]
    said = (
        f"{named} {STANDS[gap.verdict]} {random_words(best)} ({words.size(best['bytes']['total'])}): {gap}. With "
        f"{row['student']}, it reaches {words.top1(row['top1'])} and they reach {words.top1(best['top1'])}."
    )
    what = f"beside the best of {len(others)} points" if len(others) > 1 else "beside the only point"
    return Verdict(row["column"], what, TONES[gap.verdict], said + _beside(row, networks))


def random_words(row: Row) -> str:
    """Return random real images in words: their codec, their labels, their number per class."""
    codec, _ = codec_and_label(row)
    stored = f"under {codec}" if codec else "as their preset stores them,"
    return f"random real images {stored} with {label_words(row)} labels at ipc {row['ipc']:,}"


def _beside(row: Row, networks: Sequence[Row]) -> str:
    fitting = [network for network in networks if network["bytes"] <= row["bytes"]["total"]]
    if not fitting:
        return ""
    best = max(fitting, key=lambda network: (network["top1"], -network["bytes"]))
    return f" In no more bytes, {_network(best)} reaches {best['top1']:.2f} by itself."


def _network(network: Row) -> str:
    return f"{network['network']} in {network['form']} ({words.size(network['bytes'])})"


def _largest(networks: Sequence[Row], rows: Sequence[Row]) -> Verdict:
    largest = max(networks, key=lambda network: (network["bytes"], network["top1"]))
    said = [f"The largest network that was sent, {_network(largest)}, reaches {largest['top1']:.2f} by itself."]
    for column in columns(rows):
        fitting = [r for r in rows if r["column"] == column and r["bytes"]["total"] <= largest["bytes"]]
        if fitting:
            best = max(fitting, key=lambda row: (row["top1"]["mean"], -row["bytes"]["total"]))
            said.append(
                f"The best set of column {column} in no more bytes, {best['arm']} "
                f"({words.size(best['bytes']['total'])}), reaches {words.top1(best['top1'])}."
            )
    return Verdict("", NETWORK, "open", " ".join(said))
