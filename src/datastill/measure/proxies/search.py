"""Architecture search: do networks trained on a distilled set come in the order of the whole real set?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.measure.proxies.common import Run, check_counts, read_student
from datastill.measure.proxies.ranking import Candidate, Plan, check_candidates, rank
from datastill.networks import sketch
from datastill.recipe import read_networks
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset

WIDTHS, DEPTHS, NORMS = (8, 16, 32, 64), (1, 2, 3), ("batch", "instance")


def default_grid() -> list[str]:
    """Return 24 ConvNets: four widths, three depths, two norms. Depth 3 fits the smallest images that there are."""
    return [
        f"convnet(width={width}, depth={depth}, norm={norm})"
        for width, depth, norm in itertools.product(WIDTHS, DEPTHS, NORMS)
    ]


def nas(
    distilled: DistilledDataset,
    dataset: Dataset,
    *,
    run: Path,
    device: Device,
    reporter: Reporter,
    networks: Sequence[str] | None = None,
    seeds: int = 1,
    steps: int | None = None,
    real_steps: int | None = None,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Rank networks by their accuracy on the distilled set, and compare with their order on the whole real set.

    Every network is trained on the distilled set, on random real images of the same count and labels (the control
    `random_soft`, where the method has it), and on all real training images with hard labels. The recipe of all
    students is the set's own. The use is that of Zhao et al. (arXiv:2006.05929); the control, the bootstrap interval
    over networks and the better half are ours.

    Args:
        distilled: a saved set.
        dataset: the real set that it was made from.
        run: folder of results; students that are already there are not trained again.
        device, reporter: where, and who is told.
        networks: the grid, NAME or NAME(setting=value) each; None takes `default_grid`.
        seeds: students per network and arm; their mean is ranked.
        steps: optimiser steps on the distilled set and on the control; None takes the recipe's.
        real_steps: optimiser steps on the whole real set; None takes as many.
        jobs: trainings at once.
        command: recorded.

    Returns: the results, as `results.json` in `run` holds them.
    Raises: DatastillError for a grid of fewer than three networks, one that cannot be built, another data set, a
        control that cannot be made, or a student that could not be trained.
    """
    check_counts(seeds=seeds, steps=steps, real_steps=real_steps)
    asked = list(default_grid() if networks is None else networks)
    if not asked:
        raise DatastillError("the grid of networks is empty; name at least three, or leave it out for the default.")
    candidates = [_candidate(text, distilled) for text in asked]
    check_candidates(candidates, "networks")
    plan = Plan.of(distilled, seeds, steps, real_steps)
    return rank("nas", "networks", candidates, distilled, dataset, plan, Run(run, device, reporter, jobs, command))


def _candidate(text: str, distilled: DistilledDataset) -> Candidate:
    name = read_student(text, distilled)
    ((arch, settings),) = read_networks(name).values()
    made = sketch(arch, classes=distilled.info.classes, shape=distilled.info.shape, settings=settings)
    size = sum(p.numel() for p in made.parameters())
    return Candidate(name, name, distilled.recipe.student, {"network": arch} | settings, size)
