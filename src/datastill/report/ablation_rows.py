"""The trials of an ablation, read once for its page, for terminals and for docs/: what was kept, and why the rest not.

Results are those of `datastill ablate`: a start, and experiments with a row per variant. A row stands beside the
running best of its experiment, which is the last adopted variant before it, or the start.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from datastill.measure.ablation import TEACHERS
from datastill.measure.stats import Difference, Summary
from datastill.report import words

Row = Mapping[str, Any]

KEPT, REPORTED = "kept", "only reported"
SIZES = {
    "budget": "fill the bytes",
    "same": "as the best so far",
    "own": "as its recipe says",
}
LUCK = (
    "The gains were chosen on these very images, so a part of them is luck; what the last recipe is worth, the test "
    "split says, once."
)


def trials(results: Mapping[str, Any]) -> list[Row]:
    """Return all rows: the start, then every variant in the order in which they were measured."""
    return [results["start"], *(row for experiment in results["experiments"] for row in experiment["rows"])]


def climbed(results: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Row]]:
    """Yield each experiment with the running best that its variants stand beside."""
    best: Row = results["start"]
    for experiment in results["experiments"]:
        yield experiment, best
        best = next((row for row in experiment["rows"] if row["adopted"]), best)


def best_of(results: Mapping[str, Any]) -> Row:
    """Return the running best at the end: the last adopted variant, or the start."""
    rows: list[Row] = [results["start"], *(row for row in trials(results) if row["adopted"])]
    return rows[-1]


def row_name(row: Row) -> str:
    """Return a row as a sentence names it: its variant and its experiment."""
    return "the start" if row["order"] == 0 else f"{row['variant']} ({row['experiment']})"


def decision(row: Row, experiment: Mapping[str, Any], rule: Mapping[str, float]) -> str:
    """Return what became of a variant, in words.

    Args:
        row: of the variant.
        experiment: that it belongs to: whether one could be kept, and which one was.
        rule: "gain" in points and "sds" in standard deviations of the paired differences, which a mean has to reach.
    """
    if not experiment["adopt"]:
        return REPORTED
    return KEPT if row["adopted"] else f"not kept: {_reason(row, experiment, rule)}"


def _reason(row: Row, experiment: Mapping[str, Any], rule: Mapping[str, float]) -> str:
    gap = row["against_best"]
    least = rule["sds"] * gap["sd"]
    if row["of"]:
        return "another method is never kept"
    if gap["mean"] < rule["gain"]:
        return f"{words.signed(gap['mean'], _digits(gap['mean'], rule['gain']))} is under {rule['gain']:g}"
    if gap["mean"] < least:
        digits = _digits(gap["mean"], least)
        return f"{words.signed(gap['mean'], digits)} is under {_deviations(rule)} ({least:.{digits}f})"
    return f"{experiment['adopted']} gained more"


def _digits(value: float, limit: float) -> int:
    """Return how many digits tell two numbers apart: two, or more where these are not enough."""
    return next((n for n in range(2, 6) if round(value, n) != round(limit, n)), 6)


def _deviations(rule: Mapping[str, float]) -> str:
    return "one deviation" if rule["sds"] == 1 else f"{rule['sds']:g} deviations"


def rule_words(rule: Mapping[str, float]) -> str:
    """Return the rule by which a variant is kept, in one sentence."""
    return (
        f"A variant is kept when it gains at least {rule['gain']:g} points over the best so far, and at least "
        f"{_deviations(rule)} of the differences, paired by seed; of several, the one that gains most."
    )


def gap_words(gap: Mapping[str, Any]) -> str:
    """Return a paired difference: its mean in points, the deviation over seeds, the test."""
    return f"{words.signed(gap['mean'])} points (sd {gap['sd']:.2f}, {words.paired(gap)}, n={gap['n']})"


def ablation_verdicts(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each experiment: which variant was kept, or why none was, with its numbers."""
    rule = results["protocol"]["rule"]
    return [f"{experiment['name']}: {_verdict(experiment, best, rule)}" for experiment, best in climbed(results)]


def _verdict(experiment: Mapping[str, Any], best: Row, rule: Mapping[str, float]) -> str:
    rows = experiment["rows"]
    if not rows:
        return "nothing was measured; every variant failed."
    if not experiment["adopt"]:
        said = "; ".join(f"{row['variant']} {gap_words(row['against_best'])}" for row in rows)
        return f"only reported. Against {row_name(best)}: {said}."
    kept = next((row for row in rows if row["adopted"]), None)
    if kept is not None:
        return f"{kept['variant']} is kept, {gap_words(kept['against_best'])} against {row_name(best)}."
    changed = [row for row in rows if row["of"] is None] or rows
    top = max(changed, key=lambda row: row["against_best"]["mean"])
    named = f"the best of {len(changed)}, {top['variant']}," if len(changed) > 1 else top["variant"]
    return (
        f"nothing is kept; {named} stands at {gap_words(top['against_best'])} against {row_name(best)}: "
        f"{_reason(top, experiment, rule)}."
    )


def ladder_sentence(results: Mapping[str, Any]) -> str:
    """Return how far the ladder rose, in the first sentence, and what that proves."""
    asked = sum(bool(experiment["adopt"]) for experiment in results["experiments"])
    kept = sum(experiment["adopted"] is not None for experiment in results["experiments"])
    start, best = results["start"], best_of(results)
    reached = f"it begins at {_summary(start)}"
    if not asked:
        return f"No experiment of this plan could change the recipe: all of them only report. Top-1: {reached}."
    noun = "experiment" if asked == 1 else "experiments"
    if best is start:
        return f"Of {asked} {noun} none brought a change that stays: the recipe is as it began. Top-1: {reached}."
    gap = Difference.of(best["top1"]["per_seed"], start["top1"]["per_seed"])
    rose = f"Of {asked} {noun}, {kept} brought a change that stays. Top-1: {reached} and ends at {_summary(best)}"
    return words.minus(f"{rose}, {gap}. {LUCK}")


def _summary(row: Row) -> Summary:
    return Summary.of(row["top1"]["per_seed"])


def changes_of(results: Mapping[str, Any]) -> list[str]:
    """Return the changes over the plan's method that make the last recipe, in order, with its number of images."""
    total = best_of(results)["recipe"]["store"].get("total")
    filled = [] if total is None else [f"store.total={total}"]
    return [*results["plan"]["changes"], *results["best"]["changes"], *filled]


def recipe_command(results: Mapping[str, Any]) -> str:
    """Return the command that makes the set of the last recipe, a line for each change."""
    best, changes = best_of(results), changes_of(results)
    asked = shlex.quote(results["source"]["asked"])
    lines = [f"datastill distill {asked} --method {shlex.quote(best['method'])} --ipc {best['ipc']} --out DIR"]
    networks = [change.removeprefix(TEACHERS) for change in changes if change.startswith(TEACHERS)]
    lines += [f"--teachers {shlex.quote(names)}" for names in networks[-1:]]  # a later table replaces the earlier one
    lines += [f"--set {shlex.quote(change)}" for change in changes if not change.startswith(TEACHERS)]
    return " \\\n  ".join(lines)


def ablation_failures(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each variant that could not be measured."""
    return [f"{found['method']} was left out: {found['says'].rstrip('.')}." for found in results["failures"]]


def ladder_title(results: Mapping[str, Any]) -> str:
    """Return what a ladder is called: its source, its plan, its bytes."""
    budget = results["protocol"]["budget"]
    return f"{results['source']['name']}: {results['plan']['name']}{f' in {words.size(budget)}' if budget else ''}"
