"""Parts that pages share: stacked bars of bytes, the table of networks, and the scale of a strip of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datastill.report import rows as read
from datastill.report import words
from datastill.report.plots import COLOURS

REPORT = "report.html"
TONES = {"better": "good", "worse": "bad", "none": "bad", "unproven": "open"}  # not to beat a control is bad news
BYTE_KINDS = tuple(zip((*words.KINDS, words.LEARNED), (*COLOURS, "#997700"), strict=True))


@dataclass(frozen=True)
class Bar:
    """A stacked bar: parts are (kind, bytes, percent of the longest bar, colour)."""

    label: str
    total: int
    parts: tuple[tuple[str, int, float, str], ...]


def byte_bars(
    arms: Sequence[tuple[str, Mapping[str, int]]], real: Sequence[tuple[str, int]]
) -> list[tuple[str, list[Bar]]]:
    """Return blocks of bars, each to a scale of its own that its heading names.

    Where every arm is small beside the real set, the first block shows that, and the second one magnifies the arms.

    Args:
        arms: (label, bytes by kind and in total), the first one is shown beside the real set.
        real: (label, bytes) of the real training images, a line for each way to store them.
    """
    largest = max(ledger["total"] for _, ledger in arms)
    whole = max(largest, *(count for _, count in real))
    real_bars = [Bar(says, n, (("real images", n, 100 * n / whole, "var(--faint)"),)) for says, n in real]
    if 4 * largest >= whole:
        return [("All to one scale", [*(_bar(*arm, whole) for arm in arms), *real_bars])]
    return [
        ("To the scale of the real set", [_bar(*arms[0], whole), *real_bars]),
        (f"All arms, magnified {whole / largest:.0f} times", [_bar(*arm, largest) for arm in arms]),
    ]


def byte_kinds(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (kind, colour) of what the bytes of these rows are for."""
    there = words.byte_kinds(rows)
    return [(kind, colour) for kind, colour in BYTE_KINDS if kind in there]


def _bar(label: str, ledger: Mapping[str, int], longest: int) -> Bar:
    parts = tuple(
        (kind, ledger[kind], 100 * ledger[kind] / longest, colour) for kind, colour in BYTE_KINDS if ledger.get(kind)
    )
    return Bar(label, ledger["total"], parts)


def networks(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the table of networks shows of each: its own accuracy, its bytes, and those in fp16."""
    real = results["real_bytes"][words.CODEC]
    return [
        {
            "name": name,
            "together": found["arch"] == words.ENSEMBLE,
            "top1": found["top1"],
            "bytes": found["bytes"],
            "half": found["bytes"] // 2,
            "ratio": words.share(found["bytes"] // 2, real),
            "steps": None if found["arch"] == words.ENSEMBLE else found["steps"],
        }
        for name, found in read.teachers(results)
    ]


def span_of(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends, in percent, of a strip that shows every seed of the rows with some room at both sides."""
    scores = [score for row in rows for score in row["top1"]["per_seed"]]
    room = max(1.0, 0.05 * (max(scores) - min(scores)))
    return max(0.0, min(scores) - room), min(100.0, max(scores) + room)
