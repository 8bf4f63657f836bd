"""Results of proxies as they are written, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.measure.proxies.common import summarised
from datastill.measure.proxies.continual import compare_with_random
from datastill.measure.proxies.continual import verdict as memory_verdict
from datastill.measure.proxies.ranking import orders, verdict
from datastill.recipe import DatasetInfo, compose
from datastill.runtime.versions import versions
from datastill.settings import plain

ARMS = ("infer", "random_soft", "whole")
SAYS = {
    "infer": ("INFER, static labels, as distilled", "method", "S"),
    "random_soft": ("random real images, same labels", "control", "S"),
    "random_hard": ("random real images, hard labels", "control", "H"),
    "whole": ("all real training images, hard labels", "whole", "H"),
}
CLASSES = ("<b>cat</b>", "dog & co", "owl", "fox")


def rows_of(scores: Mapping[str, Sequence[float]], sizes: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return a row per candidate. scores: arm -> accuracy of each, the method first."""
    return [
        {
            "candidate": f"network {i}",
            "settings": {},
            "size": sizes[i] if sizes else None,
            "top1": {arm: summarised([values[i]]) for arm, values in scores.items()},
            "seconds": {arm: [1.5] for arm in scores},
        }
        for i in range(len(next(iter(scores.values()))))
    ]


def ranked(scores: Mapping[str, Sequence[float]], proxy: str = "nas") -> dict[str, Any]:
    """Return the results of a ranking."""
    control = "random_soft" if "random_soft" in scores else None
    rows = rows_of(scores, list(range(100, 100 + len(scores["whole"]))) if proxy == "nas" else None)
    results = _facts(proxy) | {
        "what": "networks" if proxy == "nas" else "settings of convnet",
        "control": control,
        "arms": [_arm(arm) for arm in scores],
        "rows": rows,
        "time": {"students": dict.fromkeys(scores, 30.0), "distillation": 12.0, "saved": -12.0},
    }
    results |= orders(rows, control)
    return results | {"verdict": verdict(results)}


def remembered(averages: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Return the results of continual learning. averages: arm -> accuracies per seed, of each group."""
    rows = []
    for arm, groups in averages.items():
        seeds = list(zip(*groups, strict=True))
        rows.append(
            _arm(arm)
            | {
                "after": [summarised(group) for group in groups],
                "average": summarised([sum(s) / len(s) for s in seeds]),
                "held": [[4, 8] for _ in seeds],
                "seconds": [2.0] * len(seeds),
            }
        )
    compare_with_random(rows)
    count = len(next(iter(averages.values())))
    return _facts("continual") | {
        "student": "convnet",
        "orders": [[[0, 1], [2, 3]], [[3, 1], [2, 0]]],
        "seen": [2 * (i + 1) for i in range(count)],
        "rows": rows,
        "verdict": memory_verdict(rows, "convnet", count),
    }


def _arm(arm: str) -> dict[str, Any]:
    says, role, column = SAYS[arm]
    ledger = None if role == "whole" else {"natural images": 900, "labels": 100, "total": 1000}
    return {"arm": arm, "says": says, "role": role, "column": column, "items": 40, "bytes": ledger, "steps": 60}


def _facts(proxy: str) -> dict[str, Any]:
    info = DatasetInfo("tiny <i>", 4, (3, 8, 8), 48, (0.5,) * 3, (0.2,) * 3)
    recipe = compose("infer", info, ipc=4)
    return {
        "kind": "proxy", "schema": 1, "proxy": proxy, "classes": list(CLASSES), "shape": [3, 8, 8], "train_images": 48,
        "method": "infer", "title": "INFER, static labels", "ipc": 4, "recipe": recipe.plain(), "distilled": "set",
        "source": {"asked": "tiny", "name": "tiny <i>", "fingerprint": "f4" * 16, "notes": [], "skipped": []},
        "real_bytes": {"webp": 9000, "raw": 9216}, "peak_bytes": 800_000_000, "versions": versions(),
        "device": {"device": "cpu", "name": "A CPU", "precision": "float32", "threads": "1", "jobs": "2"},
        "commands": ["datastill distill tiny --out DIR", ""], "python": "3.11.7",
        "protocol": {"student": plain(recipe.student), "steps": 60, "real_steps": 120, "batch": 64, "seeds": [0, 1],
                     "split": "test", "epoch": "last"},
    }  # fmt: skip
