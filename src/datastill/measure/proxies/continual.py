"""Class-incremental learning from a memory alone, as GDumb does it (Prabhu et al., ECCV 2020).

K classes come in groups. After each group a network is trained from scratch on the memory of all classes seen so far,
and tested on the test images of these classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.fields import Expanded, Labels, SeededViews
from datastill.measure.proxies.common import (
    CONTROL,
    HARD_CONTROL,
    Feed,
    ProxyTask,
    Run,
    Shared,
    check_counts,
    common_facts,
    make_feeds,
    opened,
    read_student,
    summarised,
)
from datastill.measure.rows import scored_on
from datastill.measure.stats import FEWEST, Difference, Summary
from datastill.measure.student import Testing, student_steps
from datastill.networks import Network
from datastill.runtime.device import Device
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.settings import chosen, plain
from datastill.sources import Dataset


def class_groups(classes: int, groups: int, seed: int) -> list[tuple[int, ...]]:
    """Return the classes 0..K-1 in the order of a seed, cut into groups whose sizes differ by at most one.

    Raises: DatastillError for more groups than classes.
    """
    if groups > classes:
        raise DatastillError(
            f"{groups} groups were asked for, but the set has {classes} classes; ask for --groups {classes} or fewer."
        )
    order = rng(seed, "continual", "classes").permutation(classes)
    return [tuple(int(k) for k in part) for part in np.array_split(order, groups)]


def seen_after(groups: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return, after each group, all classes so far, ascending."""
    return [tuple(sorted(k for group in groups[: i + 1] for k in group)) for i in range(len(groups))]


@dataclass(frozen=True)
class MemoryTask(ProxyTask):
    """A student on the memory of the classes that were seen so far, ascending."""

    seen: tuple[int, ...]

    def run(self, shared: Shared, device: Device, reporter: Reporter) -> None:
        """Train and score the student on these classes alone."""
        feed = restricted(shared.feeds[self.arm], self.seen)
        self._train(feed, restricted_testing(shared.testing, self.seen), device, reporter)


def restricted(feed: Feed, seen: Sequence[int]) -> Feed:
    """Return the memory of some classes: its items, told of these classes only, which are numbered 0..S-1 anew.

    A memory must not tell of classes that have not come yet, and a stored soft label does: it says how much of a dog
    is in this cat. So logits lose the columns of all other classes. Their softmax at any temperature is then the
    distribution given that the class is one of those seen, and mixing acts on logits column by column, as before.
    Networks that answer in the loop lose the same columns. Students have S outputs; a network with K of them, the
    others masked, would compute the same.

    What stays is what the images themselves know: they were distilled with networks that had met all classes.

    Args:
        feed: of K classes.
        seen: S of them, ascending.
    """
    columns, whole = torch.tensor(seen), feed.distilled
    expanded, labels = feed.expanded, feed.expanded.labels
    rows = torch.isin(expanded.cls, columns).nonzero().flatten()
    per_item = 1 if labels.views is None else labels.views.count
    of_items = (rows[:, None] * per_item + torch.arange(per_item)).flatten()
    values = None if labels.values is None else labels.values[of_items][:, columns]
    told = Labels(labels.kind, values, labels.teachers, views=labels.views)
    cls = torch.searchsorted(columns, expanded.cls[rows])
    part = Expanded(expanded.images[rows], cls, told, len(seen), expanded.scale)
    distilled = replace(
        whole,
        info=replace(whole.info, classes=len(seen)),
        classes=tuple(whole.classes[k] for k in seen),
        labels=told,
        teachers={name: cast(Network, SomeLogits(n, columns)) for name, n in whole.teachers.items()},
    )
    return replace(feed, distilled=distilled, expanded=part)


class SomeLogits(nn.Module):
    """A network that says nothing of other classes: the columns long[S] of its logits float[B, K]."""

    def __init__(self, network: nn.Module, columns: Tensor) -> None:
        super().__init__()
        self.network, self.columns = network, columns

    def forward(self, x: Tensor) -> Tensor:
        """Return float[B, S]."""
        logits: Tensor = self.network(x)
        return logits[:, self.columns.to(logits.device)]


def restricted_testing(testing: Testing, seen: Sequence[int]) -> Testing:
    """Return the test images of some classes (ascending), which are numbered anew."""
    columns = torch.tensor(seen)
    rows = torch.isin(testing.labels, columns).nonzero().flatten()
    labels = torch.searchsorted(columns, testing.labels[rows])
    return replace(testing, images=testing.images[rows], labels=labels)


def _refuse_bound_labels(distilled: DistilledDataset) -> None:
    """Refuse labels that hold for the whole set alone."""
    if isinstance(distilled.labels.views, SeededViews):
        raise DatastillError(
            "a memory of some classes numbers its items anew, but the views that this set's labels belong to are named "
            "by the numbers of its items; distil it with label=static."
        )
    if distilled.labels.records is not None:
        raise DatastillError(
            "a memory of some classes holds some of the items, but the labels of this set belong to recorded batches "
            "of all of them; label it anew with label=static, or with label=dynamic."
        )


def continual(
    distilled: DistilledDataset,
    dataset: Dataset,
    *,
    run: Path,
    device: Device,
    reporter: Reporter,
    student: str = "convnet",
    groups: int = 5,
    seeds: int = 3,
    steps: int | None = None,
    whole: bool = False,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Use a distilled set as the memory of a class-incremental learner, beside random real images.

    The order of classes is that of the seed, so seeds differ in it and in the students. The set was distilled once,
    from all classes: this measures it as a memory, and not a learner that distils group by group.

    Args:
        distilled, dataset, run, device, reporter, jobs, command: as in `nas`.
        student: NAME or NAME(setting=value).
        groups: in how many groups the classes come.
        seeds: orders of classes, each with its students; 3 or more for a claim.
        steps: optimiser steps after each group, the same for every arm; None takes the recipe's on the whole set.
        whole: also train on all real images of the classes seen, which is the ceiling.

    Returns: the results, as `results.json` in `run` holds them.
    Raises: DatastillError for more groups than classes, for labels of views or recorded batches, or as `nas` does.
    """
    check_counts(groups=groups, seeds=seeds, steps=steps)
    _refuse_bound_labels(distilled)
    classes = distilled.info.classes
    orders = [class_groups(classes, groups, seed) for seed in range(seeds)]
    network = read_student(student, distilled)
    for seen in {len(s) for order in orders for s in seen_after(order)}:
        read_student(student, distilled, seen)
    each = student_steps(distilled.recipe.student, len(distilled), steps)
    made = Run(run, device, reporter, jobs, command)
    with opened(made, "continual", distilled, dataset):
        feeds = make_feeds(distilled, dataset, made, controls=[CONTROL, HARD_CONTROL], whole=whole)
        testing = scored_on(dataset, "test", 0, 0)
        tasks = _tasks(feeds, testing, network, orders, each, made)
        made.train(tasks.values(), Shared(feeds, testing), "fill memories")
        rows = [_row(feed, orders, tasks, each) for feed in feeds.values()]
        compare_with_random(rows)
        recipe = distilled.recipe.student
        results = common_facts("continual", distilled, dataset, made) | {
            "student": network,
            "protocol": {"student": plain(recipe), "steps": each, "batch": recipe.batch, "seeds": list(range(seeds)),
                         "split": "test", "epoch": "last", "groups": groups, "network": network, "whole": whole},
            "orders": [[list(group) for group in order] for order in orders],
            "seen": [len(s) for s in seen_after(orders[0])],
            "rows": rows,
        }  # fmt: skip
        return made.write(results | {"verdict": verdict(rows, network, groups)})


Key = tuple[str, int, int]  # arm, group, seed


def _tasks(
    feeds: Mapping[str, Feed], testing: Testing, network: str, orders: Sequence[Any], steps: int, run: Run
) -> dict[Key, MemoryTask]:
    """Return a student per arm, group and seed."""
    recipe = feeds[next(iter(feeds))].distilled.recipe.student
    found = {}
    for name, feed in feeds.items():
        for seed, order in enumerate(orders):
            for i, seen in enumerate(seen_after(order)):
                path = run.path(feed, testing, network, chosen(recipe), seed, steps, list(seen))
                label = f"{name}: {len(seen)} classes, seed {seed}"
                found[name, i, seed] = MemoryTask(label, name, network, recipe, seed, steps, path, seen)
    return found


def _row(feed: Feed, orders: Sequence[Any], tasks: Mapping[Key, MemoryTask], steps: int) -> dict[str, Any]:
    """Return accuracies after each group, over seeds, and their average over groups."""
    found = [
        [read_json(tasks[feed.name, i, seed].path) for i in range(len(order))] for seed, order in enumerate(orders)
    ]
    held = [[int(torch.isin(feed.expanded.cls, torch.tensor(s)).sum()) for s in seen_after(order)] for order in orders]
    after = [summarised([f["top1"] for f in group]) for group in zip(*found, strict=True)]
    average = summarised([sum(f["top1"] for f in many) / len(many) for many in found])
    return feed.plain() | {
        "steps": steps,
        "after": after,
        "average": average,
        "held": held,  # items in the memory, by seed and group
        "seconds": [sum(f["seconds"] for f in many) for many in found],
    }


def compare_with_random(rows: Sequence[dict[str, Any]]) -> None:
    """Put beside each row how far its average is above that of random real images with the same kind of labels."""
    random = [row for row in rows if row["role"] == "control"]
    for row in rows:
        beside = [r for r in random if r["column"] == row["column"] and r is not row]
        row["against_random"] = None
        if beside and row["role"] == "method":
            gap = Difference.of(row["average"]["per_seed"], beside[0]["average"]["per_seed"])
            row["against_random"] = {"arm": beside[0]["arm"], "mean": gap.mean, "t": gap.t, "p": gap.p, "n": gap.n,
                                     "verdict": gap.verdict}  # fmt: skip


def verdict(rows: Sequence[Mapping[str, Any]], student: str, groups: int) -> list[str]:
    """Return the sentence on top: the method as a memory against random real images with the same kind of labels."""
    own, gap = rows[0], rows[0]["against_random"]
    mine = _summary(own)
    if gap is None:
        return [
            f"As a memory, {own['arm']} reaches {mine} with {student}, averaged over {groups} groups of classes; "
            "random real images with the same kind of labels were not run, so this says nothing about the method."
        ]
    said = {
        "better": "beats its control",
        "worse": "does not beat its control: it is worse",
        "none": "does not beat its control: the difference is within noise",
        "unproven": f"was measured with fewer than {FEWEST} seeds, which proves nothing",
    }[gap["verdict"]]
    theirs = _summary(next(row for row in rows if row["arm"] == gap["arm"]))
    difference = Difference(gap["mean"], gap["t"], gap["p"], gap["n"])
    return [
        f"As a memory, {own['arm']} {said}. With {student}, averaged over {groups} groups of classes, it reaches "
        f"{mine} and random real images with the same kind of labels reach {theirs}: {difference}."
    ]


def _summary(row: Mapping[str, Any]) -> Summary:
    return Summary.of(row["average"]["per_seed"])
