"""Results of a frontier as `datastill frontier` writes them, without any training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datastill.measure.rows import put_against_random
from datastill.measure.stats import Summary
from datastill.report.words import COLUMNS
from datastill.runtime.seeds import rng
from report.samples_comparison import CLASSES, comparison_of, row_of

STUDENT = "convnet(width=32)"
# codec: (bytes per image, points lost to it)
CODECS = {
    "raw/1": (3086, 0.0), "webp-lossless/1": (2000, 0.0), "webp-lossless": (1950, 0.0), "avif:60": (600, 0.5),
    "avif:45": (400, 1.5), "avif:30": (240, 4.0), "webp:75:420": (500, 2.0), "jpeg:75": (800, 2.5),
    "avif:60/1": (950, 0.5), "jpeg:75/1": (1400, 2.5),
}  # fmt: skip
LABELS = {"hard": 0, "fp16": 8, "klt": 3, "fp32": 16, "int8": 4, "int4": 2, "topk:5": 5, "topk:10": 7}
GRIDS: tuple[tuple[Sequence[str], Sequence[int], Sequence[str]], ...] = (
    (("raw/1", "webp-lossless/1", "webp-lossless"), (10, 50, 150, 500), ("hard", "fp16")),
    (("avif:60", "avif:45", "avif:30", "webp:75:420", "jpeg:75"), (50, 150, 500), ("hard", "klt")),
    (("avif:60/1", "jpeg:75/1"), (50,), ("hard",)),
    (("avif:60",), (150,), tuple(LABELS)),
)
# name of an arm: (its row in a comparison, images per class, points above or below random real images of its size)
METHODS = {
    "random, own ipc10": ("random", 10, 0.0), "random, hard ipc10": ("random", 10, 0.0),
    "dm, own ipc10": ("dm", 10, 4.0), "infer, hard ipc10": ("infer_hard", 10, -6.0),
    "infer, own ipc10": ("infer", 10, -2.0), "infer, own ipc50": ("infer", 50, 6.0),
    "infer, klt:0.01 ipc10": ("infer", 10, -2.1), "infer-dyn, own ipc10": ("infer-dyn", 10, 3.0),
}  # fmt: skip
FAILURES = [{"method": "random webp:75:420/1, hard ipc50", "ipc": 50, "says": "this Pillow has no <b>webp</b>."}]


def frontier_of(
    *,
    columns: Sequence[str] = tuple(COLUMNS),
    seeds: int = 3,
    split: str = "test",
    students: Sequence[str] = (STUDENT,),
) -> dict[str, Any]:
    """Return fresh results: methods at two sizes, and random real images under ten codecs and eight kinds of labels."""
    rows = []
    for student in students:
        rows += [_method(name, *told, student, seeds, split) for name, told in METHODS.items()]
        rows += [random_point(*point, student=student, seeds=seeds, split=split) for point in _points()]
    kept = [row for row in rows if row["column"] in columns]
    put_against_random(kept)
    networks = [
        {"arm": f"ship {name}, {form}", "network": name, "form": form, "bytes": size * width, "top1": top1 - 2 / width}
        for name, size, top1 in (("convnet", 11_150, 61.5), ("resnet10", 310_000, 68.0))
        for form, width in (("fp32", 4), ("fp16", 2), ("int8", 1))
    ]
    shared = comparison_of((10,), (STUDENT,), seeds=seeds, split=split)
    unused = ("paper", "scores", "rows", "failures")
    return {name: value for name, value in shared.items() if name not in unused} | {
        "kind": "frontier", "rows": kept, "networks": networks, "failures": [dict(entry) for entry in FAILURES],
        "commands": ["datastill frontier photos --steps 400 --out runs/frontier"],
    }  # fmt: skip


def _points() -> Iterator[tuple[str, str, int]]:
    known = {(c, label, ipc) for codecs, ipcs, labels in GRIDS for c in codecs for ipc in ipcs for label in labels}
    yield from sorted(known, key=lambda point: (list(CODECS).index(point[0]), list(LABELS).index(point[1]), point[2]))


def random_point(
    codec: str, label: str, ipc: int, *, student: str = STUDENT, seeds: int = 3, split: str = "test", **changes: Any
) -> dict[str, Any]:
    """Return a row of random real images, with what a test changes in it."""
    each, lost = CODECS[codec]
    column = "H" if label == "hard" else "S"
    return _row("random" if column == "H" else "random_S", f"random {codec}, {label} ipc{ipc}", ipc, -lost, student,
                seeds, split, each, LABELS[label]) | {
        "says": f"random real images under {codec}, labels {label}", "role": "frontier", "method": "random",
        "random": False,
    } | changes  # fmt: skip


def _method(name: str, arm: str, ipc: int, points: float, student: str, seeds: int, split: str) -> dict[str, Any]:
    return _row(arm, name, ipc, points, student, seeds, split, 1950, 8 if arm == "infer" else 0)


def _row(
    arm: str, name: str, ipc: int, points: float, student: str, seeds: int, split: str, each: int, label: int
) -> dict[str, Any]:
    """Return a row whose accuracy grows with the logarithm of its size."""
    made = row_of(arm, ipc, student, seeds, split)
    level = 20.0 + 7.0 * math.log(ipc) / math.log(5) + (6.0 if made["column"] != "H" else 0.0) + points
    noise = rng(0, name, student).normal(size=seeds)
    top1 = Summary.of([round(level + 0.4 * float(n), 2) for n in noise])
    items = ipc * len(CLASSES)
    return made | {
        "arm": name, "bytes": _ledger(items, each, label, made["column"]), "label_bytes": items * label,
        "top1": {"per_seed": list(top1.per_seed), "mean": top1.mean, "std": top1.std, "n": top1.n},
    }  # fmt: skip


def _ledger(items: int, each: int, label: int, column: str) -> Mapping[str, int]:
    found = {"natural images": each * items, "compensators": 0, "labels": items * label, "items": 900 + items,
             "teachers": 89_200 if column == "D" else 0, "metadata": 2500}  # fmt: skip
    return found | {"total": sum(found.values())}
