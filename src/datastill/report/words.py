"""Numbers and facts as a reader meets them; one wording for terminal, pages and report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datastill.measure.stats import FEWEST, LEVEL, Summary

COLUMNS = {
    "H": "hard labels only",
    "S": "stored soft labels, whose bytes count",
    "D": "networks label every batch while a student trains, and the networks' bytes count",
}
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "none": "none",  # a difference within noise is called none
    "unproven": f"unproven, n < {FEWEST}",
}
KINDS = ("natural images", "compensators", "labels", "items", "teachers", "metadata")
LEARNED = "learned images"  # a kind of bytes that few sets have
CODEC = "webp"  # the lossless codec that the real set is weighed under
ENSEMBLE = "ensemble"
MINUS = "\u2212"
SHIPPING = (
    "Each network of the recipe, trained on the real training images. Whoever may ship a network can send one in fp16, "
    "half its bytes, in place of any distilled set; accuracies are those before such rounding."
)


def size(count: float) -> str:
    """Return bytes in decimal units with three digits: 28.2 kB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    return f"{count:.{0 if count >= 99.95 else 1 if count >= 9.995 else 2}f} {unit}"


def byte_kinds(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what the bytes of these rows are for: the kinds that every ledger has, and others that one of them has."""
    return (*KINDS, LEARNED) if any(LEARNED in row["bytes"] for row in rows) else KINDS


def share(part: float, whole: float) -> str:
    """Return part / whole in percent, or as a multiple where it is two or more."""
    ratio = part / whole
    if ratio >= 2:
        return f"{ratio:.1f} times"
    return f"{100 * ratio:.2g} %" if ratio < 0.1 else f"{100 * ratio:.1f} %"


def minus(text: str) -> str:
    """Return a text whose negative numbers have a minus in place of a hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, minus as a minus."""
    return minus(f"{value:+.{digits}f}")


def duration(seconds: float) -> str:
    """Return a time in the two largest units that say something."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.095 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def seen(row: Mapping[str, Any]) -> str:
    """Return how many pictures a row's student sees in a step, "" where that is one of each item.

    Rows from before this was counted have one of each.
    """
    count = row.get("seen_per_step", row["batch"])
    return "" if count == row["batch"] else f"{count:,} pictures"


def work(steps: int, same_work: bool, pictures: str) -> str:
    """Return optimiser steps, with what `seen` says of them, marked where they are not those of the comparison."""
    return f"{steps:,}" + (f" of {pictures}" if pictures else "") + ("" if same_work else " (other)")


def top1(found: Mapping[str, Any]) -> str:
    """Return `mean ± std (n=...)` of a row's "top1", in percent."""
    return str(Summary(tuple(found["per_seed"]), found["mean"], found["std"], found["n"]))


def paired(gap: Mapping[str, Any]) -> str:
    """Return t and p of a paired difference, or why there is none."""
    if gap["t"] is None or gap["p"] is None:
        return "no test: one seed" if gap["n"] < 2 else "no test: every seed differs by the same"
    p = "p < 0.001" if gap["p"] < 0.001 else f"p {gap['p']:.3f}"
    return minus(f"t {gap['t']:.1f}, {p}")


def listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def what_numbers_mean(difference: str = "Method minus this") -> list[tuple[str, str]]:
    """Return what every accuracy here obeys, as (word, sentence). difference: the heading of differences."""
    columns = "; ".join(f"{name}: {says}" for name, says in COLUMNS.items())
    return [
        (
            "Last step, test split, once",
            "An accuracy is that of a student's last step, measured once on the test split. Where a validation split "
            "was used instead, the table says so.",
        ),
        (
            "Mean ± deviation (n)",
            "n students differ in their seed alone; the deviation is that of the sample. A claim takes "
            f"{FEWEST} seeds or more.",
        ),
        (
            difference,
            f"A paired t test over seeds, two-sided. With p of {LEVEL} or more the difference is within noise and is "
            "called none.",
        ),
        ("H, S and D never merge", f"{columns}. Rows of different columns are different comparisons."),
        (
            "Equal work",
            "Every arm has the same student, the same number of optimiser steps and the same number of items in each "
            "step, except where the table marks other steps. Where a step shows more than one picture of an item, the "
            "table says how many it shows.",
        ),
        (
            "Bytes",
            "Bytes are those of the files that a receiver stores, labels and metadata included; the ratio is to the "
            "real training images, each in lossless WebP. Arms named by equal bytes share that axis, the others share "
            "the nominal images per class.",
        ),
    ]


def budget(results: Mapping[str, Any]) -> list[str]:
    """Return the counts of a set in sentences; which of them there are depends on its store and match."""
    counts, classes = results["counts"], len(results["classes"])
    said = []
    if "nominal" in counts:
        said.append(
            f"The nominal budget is {counts['nominal']:,} images: {results['ipc']} per class in {classes:,} classes."
        )
        left = f"{counts['leftover']:,} were left over and not spent" if counts["leftover"] else "nothing was left over"
        said.append(
            f"It bought {counts['natural']:,} natural images ({counts['sets']:,} sets of one per class) and "
            f"{counts['compensators']:,} compensators, which all classes share; {left}."
        )
        said.append(f"Together they expand to {counts['items']:,} items, which is what a student sees.")
    elif "extra" in counts:
        said.append(
            f"{counts['natural']:,} natural images (as sets of one per class: {counts['natural'] - counts['extra']:,}; "
            f"beside them, without compensators: {counts['extra']:,}) and {counts['compensators']:,} compensators, "
            f"which all classes share, expand to {counts['items']:,} items, which is what a student sees."
        )
    elif "learned" in counts:
        said.append(f"{counts['learned']:,} images whose every pixel was learned are {counts['items']:,} items.")
    elif "tiles" in counts:
        said.append(f"Crops of {counts['natural']:,} real images, {counts['tiles']} to a picture, are "
                    f"{counts['items']:,} items.")  # fmt: skip
    else:
        said.append(f"{counts['natural']:,} natural images are {counts['items']:,} items.")
    if "saturated_share" in counts:
        said.append(
            f"Compensators have a root mean square of {counts['compensator_rms']:.3f} and a largest value of "
            f"{counts['compensator_max']:.3f}, where black is 0 and white is 1. Of the values of natural image plus "
            f"compensator, {100 * counts['saturated_share']:.1f} % lie outside black and white and are clipped."
        )
    return said


FORMS = {
    "natural": "natural images, before",
    "open": "as they were optimised",
    "rendered": "as a receiver renders them",
}
LOSSES = ["network", "images", "cross-entropy", "distance of statistics"]


def losses_before_and_after(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return what the match measured: (network, form of the images, cross-entropy, distance of statistics)."""
    return [
        (name, text, f"{forms[form]['cross-entropy']:.3f}", f"{forms[form]['statistics']:,.1f}")
        for name, forms in results["counts"].get("losses", {}).items()
        for form, text in FORMS.items()
        if form in forms
    ]


def times(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return (phase, seconds): of distillation, of each network when it was trained, and of all students of an arm."""
    found = [(name, s) for name, s in results["seconds"].items() if not name.startswith("train ")]
    for name, teacher in results["teachers"].items():
        if teacher["arch"] != ENSEMBLE:
            found.append((f"train the network {name} (once, then cached)", teacher["seconds"]))
    by_student: dict[str, list[float]] = {}
    for row in results["rows"]:
        by_student.setdefault(row["student"], []).extend(row["seconds"])
    return found + [(f"train {len(s)} students {name}", sum(s)) for name, s in by_student.items()]
