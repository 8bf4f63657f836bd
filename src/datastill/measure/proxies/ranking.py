"""Candidates trained on a distilled set, on random real images and on all real images: do they come in one order?

n candidates. Every accuracy is top-1 in percent on the test split after the last step, the mean over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.measure.proxies.common import (
    WHOLE,
    Feed,
    ProxyTask,
    Run,
    Shared,
    common_facts,
    distillation_seconds,
    make_feeds,
    nearest_control,
    opened,
    summarised,
)
from datastill.measure.rows import scored_on
from datastill.measure.student import Testing, student_steps
from datastill.recipe import TrainRecipe
from datastill.runtime.files import read_json
from datastill.runtime.seeds import rng
from datastill.settings import chosen, plain
from datastill.sources import Dataset

FEWEST = 20  # candidates for a claim
NEEDED = 3  # candidates for a rank correlation that can be more than a coin's two sides
RESAMPLES = 1000
LOW, HIGH = 2.5, 97.5  # percentiles of an interval
MEASURES = ("rho", "tau")
SCOPES = ("all", "top half")


@dataclass(frozen=True)
class Candidate:
    """One thing to rank: a network and how it is trained. size: a number that might rank it without any training."""

    name: str
    student: str
    recipe: TrainRecipe
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None


@dataclass(frozen=True)
class Plan:
    """seeds: students per candidate and arm. steps: of the method's and the control's students. real_steps: of those on
    the whole real set."""

    seeds: int
    steps: int
    real_steps: int

    @classmethod
    def of(cls, distilled: DistilledDataset, seeds: int, steps: int | None, real_steps: int | None) -> Plan:
        """Complete a plan: the recipe's own steps on the distilled set, and as many on the real one."""
        own = student_steps(distilled.recipe.student, len(distilled), steps)
        return cls(seeds, own, real_steps or own)

    def steps_of(self, feed: Feed) -> int:
        """Return the optimiser steps of an arm's students."""
        return self.real_steps if feed.role == "whole" else self.steps


def check_candidates(candidates: Sequence[Candidate], what: str) -> None:
    """Refuse too few candidates, and one that stands there twice. Raises: DatastillError."""
    if len(candidates) < NEEDED:
        raise DatastillError(
            f"the grid holds {len(candidates)} {what}; a ranking needs at least {NEEDED}, and a claim {FEWEST}."
        )
    names = [c.name for c in candidates]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DatastillError(f"'{twice[0]}' stands twice in the grid; name it once.")


def rank(
    proxy: str,
    what: str,
    candidates: Sequence[Candidate],
    distilled: DistilledDataset,
    dataset: Dataset,
    plan: Plan,
    run: Run,
) -> dict[str, Any]:
    """Train every candidate on every arm and compare the orders; returns the results, which are also written.

    Args:
        proxy, what: the name of the proxy, and what its candidates are called ("networks").
        candidates: checked.
        distilled, dataset, plan, run: a saved set, the real one, and how it is measured.
    """
    nearest = nearest_control(distilled)
    with opened(run, proxy, distilled, dataset):
        feeds = make_feeds(distilled, dataset, run, controls=[nearest] if nearest else [], whole=True)
        control = nearest if nearest in feeds else None  # a control may have no meaning for a set
        testing = scored_on(dataset, "test", 0, 0)
        tasks = _tasks(candidates, feeds, testing, plan, run)
        run.train([t for many in tasks.values() for t in many], Shared(feeds, testing), f"rank {what}")
        found = {key: [read_json(task.path) for task in many] for key, many in tasks.items()}
        rows = [_row(candidate, feeds, found) for candidate in candidates]
        results = common_facts(proxy, distilled, dataset, run) | {
            "what": what,
            "control": control,
            "protocol": _protocol(candidates, distilled, plan),
            "arms": [feed.plain() | {"steps": plan.steps_of(feed)} for feed in feeds.values()],
            "rows": rows,
        }
        results |= orders(rows, control)
        results["time"] = _times(rows, distillation_seconds(distilled, dataset, run))
        return run.write(results | {"verdict": verdict(results)})


def _tasks(
    candidates: Sequence[Candidate], feeds: Mapping[str, Feed], testing: Testing, plan: Plan, run: Run
) -> dict[tuple[str, str], list[ProxyTask]]:
    """Return the students of each arm and candidate, one per seed."""
    return {
        (name, c.name): [
            ProxyTask(
                f"{name}: {c.name}, seed {seed}", name, c.student, c.recipe, seed, plan.steps_of(feed),
                run.path(feed, testing, c.student, chosen(c.recipe), seed, plan.steps_of(feed)),
            )
            for seed in range(plan.seeds)
        ]
        for name, feed in feeds.items()
        for c in candidates
    }  # fmt: skip


def _row(
    candidate: Candidate, feeds: Mapping[str, Feed], found: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> dict[str, Any]:
    mine = {name: found[name, candidate.name] for name in feeds}
    return {
        "candidate": candidate.name,
        "settings": dict(candidate.settings),
        "size": candidate.size,
        "top1": {name: summarised([f["top1"] for f in many]) for name, many in mine.items()},
        "seconds": {name: [f["seconds"] for f in many] for name, many in mine.items()},
    }


def _protocol(candidates: Sequence[Candidate], distilled: DistilledDataset, plan: Plan) -> dict[str, Any]:
    student = distilled.recipe.student
    return {"student": plain(student), "steps": plan.steps, "real_steps": plan.real_steps, "batch": student.batch,
            "seeds": list(range(plan.seeds)), "split": "test", "epoch": "last",
            "grid": [[c.student, c.name] for c in candidates]}  # fmt: skip


def orders(rows: Sequence[Mapping[str, Any]], control: str | None) -> dict[str, Any]:
    """Return how the arms' orders agree with that of the whole real set, and what each would have chosen.

    Args:
        rows: of candidates, as the results hold them; the first arm is the method.
        control: the arm of random real images with the method's kind of labels, if there is one.

    Returns: "agreement" by arm (and "size", where candidates have one) and scope, "difference" (method minus control)
        by scope or None, and "choices" by arm.
    """
    means = {arm: [row["top1"][arm]["mean"] for row in rows] for arm in rows[0]["top1"]}
    real = means.pop(WHOLE)
    own = next(iter(means))
    scores: dict[str, list[float]] = dict(means)
    if all(row["size"] is not None for row in rows):
        scores["size"] = [float(row["size"]) for row in rows]
    half = sorted(range(len(real)), key=lambda i: -real[i])[: (len(real) + 1) // 2]
    agreement: dict[str, dict[str, Any]] = {name: {} for name in scores}
    difference: dict[str, Any] = {}
    for scope, kept in zip(SCOPES, (range(len(real)), half), strict=True):
        part = {name: [values[i] for i in kept] for name, values in scores.items()}
        found, gaps = agree([real[i] for i in kept], part, own, control)
        for name in scores:
            agreement[name][scope] = found[name]
        difference[scope] = gaps
    return {
        "agreement": agreement,
        "difference": difference if control else None,
        "choices": choices(real, means, [row["candidate"] for row in rows]),
    }


def agree(
    real: Sequence[float], scores: Mapping[str, Sequence[float]], own: str, control: str | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return Spearman's rho and Kendall's tau (tau-b) of every score with `real`, and how far `own` is above `control`.

    Each is {"value", "low", "high"}: a bootstrap interval (2.5 to 97.5 %) over candidates, drawn with replacement and
    the same for every score. What nothing varies in has no value (None), and no part in an interval.

    Args:
        real, scores: n accuracies each, in the same order.
        own, control: names of scores; without a control there is no difference.
    """
    n, y = len(real), np.asarray(real)
    draws = rng(0, "bootstrap", n).integers(0, n, (RESAMPLES, n))
    drawn = {
        name: [correlations(np.asarray(values), y), *resampled(np.asarray(values), y, draws)]
        for name, values in scores.items()
    }
    found = {name: {"n": n} | _with_intervals(many) for name, many in drawn.items()}
    if control is None:
        return found, None
    gaps = [
        {m: None if a[m] is None or b[m] is None else a[m] - b[m] for m in MEASURES}
        for a, b in zip(drawn[own], drawn[control], strict=True)
    ]
    return found, {"n": n} | _with_intervals(gaps)


def _with_intervals(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first value of each measure with the interval of the others."""
    made = {}
    for measure in MEASURES:
        value, *rest = [each[measure] for each in many]
        known = [v for v in rest if v is not None]
        low, high = np.percentile(known, [LOW, HIGH]) if known and value is not None else (None, None)
        made[measure] = {"value": value, "low": None if low is None else float(low),
                         "high": None if high is None else float(high)}  # fmt: skip
    return made


def correlations(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return {"rho", "tau"} of two rows of n numbers; None where one of them does not vary."""
    from scipy.stats import kendalltau, spearmanr  # a second of import that most runs need not wait for

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return dict.fromkeys(MEASURES)
    return {"rho": float(spearmanr(x, y).statistic), "tau": float(kendalltau(x, y).statistic)}


def resampled(x: np.ndarray, y: np.ndarray, draws: np.ndarray) -> list[dict[str, Any]]:
    """Return `correlations(x[rows], y[rows])` for each row of draws, long[R, n].

    Written out, since a thousand calls with their p-values took seconds: Spearman's rho is the correlation of ranks,
    and tau-b that of the signs of all differences.
    """
    from scipy.stats import rankdata

    signs = [np.sign(v[:, None] - v[None, :]) for v in (x, y)]
    ranks = [rankdata(v[draws], axis=1) for v in (x, y)]
    found: list[dict[str, Any]] = []
    for i, rows in enumerate(draws):
        a, b = (r[i] - r[i].mean() for r in ranks)
        c, d = (s[rows[:, None], rows] for s in signs)
        found.append({"rho": _cosine(a, b), "tau": _cosine(c, d)})
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    norm = float((a * a).sum() * (b * b).sum()) ** 0.5
    return float((a * b).sum()) / norm if norm > 0 else None


def choices(real: Sequence[float], means: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, Any]:
    """Return what each arm would have chosen (its first best), how good that is on the whole real set, and how far
    behind the best; beside it the mean of all, which a blind choice gets."""
    best = int(np.argmax(real))
    found = {arm: int(np.argmax(values)) for arm, values in means.items()}
    return {
        "best": {"candidate": names[best], "real_top1": real[best]},
        "blind": {"real_top1": statistics.fmean(real), "behind": real[best] - statistics.fmean(real)},
        "arms": {
            arm: {"candidate": names[i], "real_top1": real[i], "behind": real[best] - real[i]}
            for arm, i in found.items()
        },
    }


def _times(rows: Sequence[Mapping[str, Any]], distillation: float | None) -> dict[str, Any]:
    """Return seconds: of all students of each arm, of the distillation, and what the method saves (None: unknown)."""
    students = {arm: sum(s for row in rows for s in row["seconds"][arm]) for arm in rows[0]["seconds"]}
    own = next(iter(students))
    saved = None if distillation is None else students[WHOLE] - students[own] - distillation
    return {"students": students, "distillation": distillation, "saved": saved}


def standing(results: Mapping[str, Any]) -> str:
    """Return "better", "worse" or "none" than the control by the interval of the difference of tau; else "unproven"."""
    if results["difference"] is None or len(results["rows"]) < FEWEST:
        return "unproven"
    gap = results["difference"]["all"]["tau"]
    if gap["low"] is None:
        return "unproven"
    return "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "none"


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Return the sentences on top: the agreement against the control's, among the better half, and the choice."""
    own, n, what = results["arms"][0]["arm"], len(results["rows"]), results["what"]
    return [
        _first(results, own, f"{n} {what}"),
        _sentence(results, lambda arm: told_value(results["agreement"][arm]["top half"]["tau"]),
                  f"Among the better half ({(n + 1) // 2} {what}), Kendall's tau of {own} is {{}}"),
        _sentence(results, lambda arm: "'{candidate}', which reaches {real_top1:.2f} on the whole real set".format(
            **results["choices"]["arms"][arm]), f"{own} would have chosen {{}}")
        + " The best one is '{candidate}' with {real_top1:.2f}; all of them reach {blind:.2f} on average.".format(
            **results["choices"]["best"], blind=results["choices"]["blind"]["real_top1"]),
    ]  # fmt: skip


def _first(results: Mapping[str, Any], own: str, many: str) -> str:
    said = {
        "better": f"{own} ranks {many} more like the whole real set than its control does",
        "worse": f"{own} ranks {many} less like the whole real set than its control does",
        "none": f"{own} does not rank {many} more like the whole real set than its control: the difference is within "
        "noise",
        "unproven": f"{own} was tried on {many}; a claim takes {FEWEST} or more, and a control",
    }[standing(results)]
    end = _sentence(results, lambda arm: told_value(results["agreement"][arm]["all"]["tau"]), "Kendall's tau is {}")
    gap = results["difference"] and results["difference"]["all"]["tau"]
    return f"{said}. {end}" + (f" The difference is {told_value(gap, sign='+')}." if gap else "")


def _sentence(results: Mapping[str, Any], told: Callable[[str], str], opening: str) -> str:
    """Return the opening with what is told of the method, and the same of the control where there is one."""
    own, control = results["arms"][0]["arm"], results["control"]
    end = f"; random real images with the same kind of labels: {told(control)}." if control else "."
    return opening.format(told(own)) + end


def told_value(value: Mapping[str, Any], sign: str = "") -> str:
    """Return a value with its interval."""
    if value["value"] is None:
        return "undefined, since nothing varies"
    if value["low"] is None:
        return f"{value['value']:{sign}.2f}"
    return f"{value['value']:{sign}.2f} [{value['low']:{sign}.2f}, {value['high']:{sign}.2f}]"
