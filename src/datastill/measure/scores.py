"""The robust scores: how much of an accuracy is due to the images, and not to soft labels or to augmentation.

They are those of DD-Ranking (Li et al., arXiv:2505.13300; NUS-HPC-AI-Lab/DD-Ranking, commit b8b0966, README.md, and
ddranking/metrics/soft_label.py and aug_robust.py), on fractions. The published package hands percentages to exp(),
keeps the best epoch on the test split, and tunes the learning rate there; nothing of it is used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from datastill.errors import DatastillError
from datastill.measure.rows import label_kind
from datastill.measure.stats import Summary

PLAIN = "@plain"  # ends the name of an arm that is trained without any augmentation or mixing
# What each score is made of: the words of `_ingredients`.
NEEDS = {
    "hlr": ("whole", "hard"),
    "ior": ("own", "random"),
    "lrs": ("whole", "hard", "own", "random"),
    "ars": ("own", "random", "plain", "random plain"),
}
WORDS = {
    "whole": "the whole training set with hard labels",
    "hard": "its images with hard labels",
    "random": "random real images with the same kind of labels",
    "plain": "it without augmentation",
    "random plain": "random real images without augmentation",
}

Row = Mapping[str, Any]
BySeed = Mapping[int, float]


def hlr(full_hard: float, distilled_hard: float) -> float:
    """Return the hard label recovery: full_hard - distilled_hard, in [-1, 1]. Less is better; 0 recovers everything.

    Args:
        full_hard: accuracy after training on the whole real set with hard labels, a fraction.
        distilled_hard: accuracy after training on the distilled images with hard labels, a fraction.

    Raises: DatastillError for an accuracy outside 0..1. A percentage below 1 cannot be told from a fraction.
    """
    return _accuracy(full_hard) - _accuracy(distilled_hard)


def ior(distilled: float, random: float) -> float:
    """Return the improvement over random: distilled - random, in [-1, 1]. More is better; 0 is no improvement.

    Args:
        distilled: accuracy after training on the distilled set with its own labels, a fraction.
        random: accuracy after training on as many random real images with the same kind of labels, a fraction.

    Raises: DatastillError for an accuracy outside 0..1.
    """
    return _accuracy(distilled) - _accuracy(random)


def lrs(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Return the label-robust score, in [0, 1]; more is better.

    (exp(a) - exp(-1)) / (exp(1) - exp(-1)) with a = weight * ior - (1 - weight) * hlr, in [-1, 1].

    Args:
        hlr: hard label recovery, in [-1, 1].
        ior: improvement over random, in [-1, 1].
        weight: of ior, in [0, 1]; DD-Ranking's w, 0.5 on its leaderboard.

    Raises: DatastillError for a value outside its range.
    """
    return _stretched(_weight(weight) * _gap(ior) - (1.0 - weight) * _gap(hlr))


def ars(ior_augmented: float, ior_plain: float, weight: float = 0.5) -> float:
    """Return the augmentation-robust score, in [0, 1]; more is better.

    (exp(b) - exp(-1)) / (exp(1) - exp(-1)) with b = weight * ior_augmented + (1 - weight) * ior_plain, in [-1, 1].

    Args:
        ior_augmented: improvement over random where both sides are trained as the recipe says, in [-1, 1].
        ior_plain: the same where both sides are trained without any augmentation or mixing, in [-1, 1].
        weight: of ior_augmented, in [0, 1]; DD-Ranking's gamma.

    Raises: DatastillError for a value outside its range.
    """
    return _stretched(_weight(weight) * _gap(ior_augmented) + (1.0 - weight) * _gap(ior_plain))


def scores_of(rows: Sequence[Row], weight: float = 0.5) -> list[dict[str, Any]]:
    """Return the scores of each method in the rows of a comparison, in the order of the rows.

    A score is computed per seed, from the seeds that all its rows have, and then summed up. A score whose rows are not
    all there is None, and `missing` says what is not there.

    Args:
        rows: of a comparison; accuracies in percent. Rows of the same arm, trained without augmentation, are those
            whose arm ends in "@plain".
        weight: of `lrs` and `ars`.

    Returns: a dict per row with the role "method" (per ipc, student, method and column): `ipc`, `student`, `method`,
        `column`, `weight`; `hlr`, `ior`, `lrs`, `ars`, each None or a dict of `seeds`, `per_seed`, `mean`, `std`
        (sample deviation; None for one seed), `n`, and `same_work` (whether all its rows had equal steps), as
        fractions; and `missing`, a sentence by the name of each score that is None.
    """
    augmented = [row for row in rows if not row["arm"].endswith(PLAIN)]
    plain = [row for row in rows if row["arm"].endswith(PLAIN)]
    return [_scores(row, augmented, plain, _weight(weight)) for row in augmented if row["role"] == "method"]


def _scores(own: Row, augmented: Sequence[Row], plain: Sequence[Row], weight: float) -> dict[str, Any]:
    there = _ingredients(own, augmented, plain)
    top1 = {name: _fractions(row) for name, row in there.items()}
    gaps = {
        "hlr": _each(hlr, top1.get("whole"), top1.get("hard")),
        "ior": _each(ior, top1.get("own"), top1.get("random")),
    }
    without = _each(ior, top1.get("plain"), top1.get("random plain"))
    found = gaps | {
        "lrs": _each(partial(lrs, weight=weight), gaps["hlr"], gaps["ior"]),
        "ars": _each(partial(ars, weight=weight), gaps["ior"], without),
    }
    named = {name: own[name] for name in ("ipc", "student", "method", "column")}
    summaries = {score: _summary(found[score], score, there) for score in NEEDS}
    missing = {score: _missing(score, there) for score, summary in summaries.items() if summary is None}
    return named | {"weight": weight} | summaries | {"missing": missing}


def _ingredients(own: Row, augmented: Sequence[Row], plain: Sequence[Row]) -> dict[str, Row]:
    """Return the rows that are there, by the words of `NEEDS`."""
    student = [row for row in augmented if row["student"] == own["student"]]
    beside = [row for row in student if row["ipc"] == own["ipc"]]
    hard = [row for row in beside if (row["method"], row["column"]) == (own["method"], "H")]
    # The real set has no images per class, so that of another ipc will do; that of the same ipc had the same steps.
    whole = [row for row in [*beside, *student] if (row["role"], row["column"]) == ("whole", "H")]
    found = {
        "own": own,
        "whole": _first(whole),
        "hard": own if own["column"] == "H" else _first(row for row in hard if row["role"] in ("hard", "method")),
        "random": _first(row for row in beside if row["random"] and labelled_alike(row, own)),
    }
    for name, of in (("plain", "own"), ("random plain", "random")):
        found[name] = _first(row for row in plain if _is_plain(row, found[of]))
    return {name: row for name, row in found.items() if row is not None}


def labelled_alike(one: Row, other: Row) -> bool:
    """Whether the students of two rows are told the same kind of labels, of the same networks where these are soft."""
    soft = [row["recipe"] for row in (one, other) if row["column"] != "H"]
    told = [(recipe["networks"], label_kind(recipe.get("label", {}))) for recipe in soft]
    return bool(one["column"] == other["column"]) and told[:1] == told[1:]


def _first(rows: Iterable[Row]) -> Row | None:
    return next(iter(rows), None)


def _is_plain(row: Row, of: Row | None) -> bool:
    """Whether a row is that of the same arm without augmentation."""
    same = ("ipc", "student", "column")
    return of is not None and row["arm"] == of["arm"] + PLAIN and all(row[k] == of[k] for k in same)


def _fractions(row: Row) -> BySeed:
    """Return a row's accuracies by seed: the one place where percent become fractions."""
    return {seed: top1 / 100.0 for seed, top1 in zip(row["seeds"], row["top1"]["per_seed"], strict=True)}


def _each(score: Callable[[float, float], float], first: BySeed | None, second: BySeed | None) -> BySeed | None:
    """Return a score of each seed that both have; None where one is not there."""
    if first is None or second is None:
        return None
    return {seed: score(first[seed], second[seed]) for seed in first if seed in second}


def _summary(values: BySeed | None, score: str, there: Mapping[str, Row]) -> dict[str, Any] | None:
    if not values:
        return None
    made = asdict(Summary.of(list(values.values())))
    work = all(there[name]["same_work"] for name in NEEDS[score])
    return {"seeds": list(values)} | made | {"per_seed": list(values.values()), "same_work": work}


def _missing(score: str, there: Mapping[str, Row]) -> str:
    absent = [WORDS[name] for name in NEEDS[score] if name not in there]
    if not absent:
        return "its rows have no seed in common."
    return f"there is no row of {', nor of '.join(absent)}."


def _accuracy(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise DatastillError(
            f"an accuracy of {value:g} is no fraction between 0 and 1, which the scores are made of; divide a "
            "percentage by 100."
        )
    return value


def _gap(value: float) -> float:
    if not -1.0 <= value <= 1.0:
        raise DatastillError(
            f"{value:g} is no difference of two accuracies between 0 and 1, which lies in -1..1; divide percentages by "
            "100."
        )
    return value


def _weight(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise DatastillError(f"a weight of {value:g} is not between 0 and 1; 0.5 weighs both parts alike.")
    return value


def _stretched(value: float) -> float:
    """Return exp, moved and stretched so that -1..1 becomes 0..1."""
    return (math.exp(value) - math.exp(-1.0)) / (math.exp(1.0) - math.exp(-1.0))
