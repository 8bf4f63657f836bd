"""What a row file must hold: a field, a test and words for each, so that every mistake is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 1
KINDS = ("accuracy", "network", "proxy", "trial")
RUNS = ("evaluation", "comparison", "frontier", "proxy", "ablation")  # the commands whose results hold rows
ROLES = ("method", "hard", "control", "plain", "whole", "frontier")
VERDICTS = ("better", "worse", "none", "unproven")
SIZES = ("budget", "same", "own")  # of a trial: how many images it has

Test = Callable[[Any], bool]
Rules = dict[str, tuple[Test, str]]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(value: Any) -> bool:
    return _number(value) and 0 <= value <= 100


def _list_of(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(test(v) for v in value)


def _one_of(*names: str) -> Test:
    return lambda value: isinstance(value, str) and value in names


def _or_null(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _ledger(value: Any) -> bool:
    if not isinstance(value, dict) or not all(_count(v) for v in value.values()) or "total" not in value:
        return False
    return bool(value["total"] == sum(v for k, v in value.items() if k != "total"))


def _gap(value: Any) -> bool:
    if not isinstance(value, dict) or not {"mean", "t", "p", "n", "verdict"} <= set(value):
        return False
    numbers = _number(value["mean"]) and _or_null(_number)(value["t"]) and _or_null(_number)(value["p"])
    return numbers and _count(value["n"]) and value["verdict"] in VERDICTS


def _spread_gap(value: Any) -> bool:
    return _gap(value) and _number(value.get("sd"))


def _scores(value: Any) -> bool:
    """Whether it is {per_seed, mean, std, n} of at least one accuracy, with the n and the mean of its seeds."""
    if not isinstance(value, dict) or not {"per_seed", "mean", "std", "n"} <= set(value):
        return False
    each = value["per_seed"]
    if not isinstance(each, list) or not each or not all(_percent(v) for v in each) or value["n"] != len(each):
        return False
    same = _number(value["mean"]) and abs(value["mean"] - sum(each) / len(each)) < 1e-6
    return same and _or_null(_number)(value["std"])


def _holds(*names: str) -> Test:
    return lambda value: isinstance(value, dict) and all(name in value for name in names)


def _ladder(value: Any) -> bool:
    """Whether it is the protocol of a ladder: how a change is judged belongs to it."""
    whole = _holds("student", "steps", "seeds", "split", "budget", "rule")(value)
    return whole and _holds("gain", "sds")(value["rule"]) and all(_number(v) for v in value["rule"].values())


FILE: Rules = {
    "key": (_mapping, "a mapping"),
    "row": (_mapping, "a mapping"),
    "run": (_mapping, "a mapping"),
}
ACCURACY: Rules = {
    "arm": (_text, "a text"),
    "says": (_text, "a text"),
    "method": (_text, "a text"),
    "title": (_text, "a text"),
    "ipc": (_count, "a count"),
    "role": (_one_of(*ROLES), f"one of {', '.join(ROLES)}"),
    "random": (lambda value: isinstance(value, bool), "true or false"),
    "student": (_text, "a text"),
    "column": (_one_of("H", "S", "D"), "H, S or D"),
    "split": (_one_of("test", "validation"), "test or validation"),
    "epoch": (_one_of("last"), "last"),
    "items": (_count, "a count"),
    "pictures": (_count, "a count"),
    "steps": (_count, "a count"),
    "batch": (_count, "a count"),
    "bytes": (_ledger, "counts by kind with their total"),
    "label_bytes": (_count, "a count"),
    "teacher_top1": (_or_null(_percent), "within 0..100, or null"),
    "seeds": (_list_of(_count), "a list of counts"),
    "top1": (_scores, "per_seed within 0..100, with their mean, std and number n"),
    "per_class": (_list_of(_or_null(_percent)), "a list of accuracies within 0..100, or null"),
    "seconds": (_list_of(_number), "a list of numbers"),
    "losses": (_list_of(_number), "a list of numbers"),
    "recipe": (_or_null(_mapping), "a mapping, or null"),
    "same_work": (lambda value: isinstance(value, bool), "true or false"),
    "against_random": (_or_null(_gap), "mean, t, p, n and verdict, or null"),
}
NETWORK: Rules = {
    "arm": (_text, "a text"),
    "bytes": (_count, "a count"),
    "top1": (_percent, "within 0..100"),
}
PROXY: Rules = {
    "proxy": (_text, "a text"),
    "method": (_text, "a text"),
    "ipc": (_count, "a count"),
    "verdict": (_list_of(_text), "a list of sentences"),
    "rows": (_list_of(_mapping), "a list of mappings"),
}
TRIAL: Rules = ACCURACY | {
    "says": (lambda value: isinstance(value, str), "a text"),
    "role": (_one_of("trial"), "trial"),  # and no other kind has this role: a trial is never taken for a result
    "plan": (_text, "a text"),
    "experiment": (_text, "a text"),
    "order": (_count, "a count"),
    "variant": (_text, "a text"),
    "changes": (_list_of(_text), "a list of changes"),
    "of": (_or_null(_text), "a text, or null"),
    "size": (_one_of(*SIZES), f"one of {', '.join(SIZES)}"),
    "trained": (_mapping, "a mapping"),
    "against_best": (_or_null(_spread_gap), "mean, sd, t, p, n and verdict, or null"),
    "beside": (_text, "a text"),
    "adopted": (lambda value: isinstance(value, bool), "true or false"),
}
ROWS: Mapping[str, Rules] = {"accuracy": ACCURACY, "network": NETWORK, "proxy": PROXY, "trial": TRIAL}
RUN: Rules = {
    "kind": (_one_of(*RUNS), f"one of {', '.join(RUNS)}"),
    "source": (_holds("name", "fingerprint"), "a mapping with name and fingerprint"),
    "versions": (_holds("datastill"), "a mapping with datastill"),
    "device": (_holds("name", "device", "precision"), "a mapping with name, device and precision"),
    "commands": (_list_of(lambda value: isinstance(value, str)), "a list of texts"),
}
TASKS: Rules = RUN | {
    "protocol": (_holds("steps", "batch", "seeds", "split"), "a mapping with steps, batch, seeds and split"),
}
STUDENTS: Rules = RUN | {
    "real_bytes": (_holds("webp", "raw"), "a mapping with webp and raw"),
    "protocol": (_holds("student", "steps", "batch", "split"), "a mapping with student, steps, batch and split"),
    "teachers": (_mapping, "a mapping"),
    "seconds": (_mapping, "a mapping"),
}
LADDER: Rules = STUDENTS | {
    "protocol": (_ladder, "a mapping with student, steps, seeds, split, budget and a rule of gain and sds"),
    "plan": (_holds("name", "says", "method", "changes"), "a mapping with name, says, method and changes"),
    "experiments": (_list_of(_holds("name", "says", "adopt", "adopted")), "a list with name, says, adopt and adopted"),
    "best": (_holds("changes"), "a mapping with changes"),
    "failures": (_list_of(_holds("method", "says")), "a list with method and says"),
}
RUN_RULES: Mapping[str, Rules] = {"accuracy": STUDENTS, "network": STUDENTS, "proxy": TASKS, "trial": LADDER}


def mistakes(file: Any) -> list[str]:
    """Return what keeps plain data from being a row file, a clause each; none for one that is."""
    if not isinstance(file, dict):
        return ["it is no mapping"]
    if file.get("schema") != SCHEMA:
        return [f"its schema is {file.get('schema')!r}"]
    kind = file.get("kind")
    if kind not in KINDS:
        return [f"its kind is {kind!r}"]
    found = _broken(file, FILE, "")
    if found:
        return found
    row, run = file["row"], file["run"]
    found = _broken(row, ROWS[kind], "row.") + _broken(run, RUN_RULES[kind], "run.")
    if not found and kind in ("accuracy", "trial") and row["top1"]["n"] != len(row["seeds"]):
        found = [f"it has {row['top1']['n']} accuracies of {len(row['seeds'])} seeds"]
    if not found and kind == "trial" and (row["against_best"] is None) != (row["order"] == 0):
        found = ["a variant stands beside the best so far, and only the start beside nothing"]
    return found


def _broken(part: Mapping[str, Any], rules: Rules, where: str) -> list[str]:
    missing = [f"'{where}{name}' is missing" for name in rules if name not in part]
    wrong = [f"'{where}{name}' must be {says}" for name, (test, says) in rules.items()
             if name in part and not test(part[name])]  # fmt: skip
    return missing + wrong
