"""Hyper-parameters: do learning rates and weight decays come in the order of the whole real set?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.measure.proxies.common import Run, check_counts, read_student
from datastill.measure.proxies.ranking import Candidate, Plan, check_candidates, rank
from datastill.recipe import TrainRecipe
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset

RATE_FACTORS, DECAY_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0), (0.0, 0.1, 1.0, 10.0)
USUAL_DECAY = 5e-4  # what the factors multiply where the recipe has no weight decay


def default_values(recipe: TrainRecipe) -> tuple[list[float], list[float]]:
    """Return five learning rates and four weight decays around the recipe's own."""
    decay = recipe.weight_decay or USUAL_DECAY
    return [_rounded(recipe.lr * f) for f in RATE_FACTORS], [_rounded(decay * f) for f in DECAY_FACTORS]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def hyper(
    distilled: DistilledDataset,
    dataset: Dataset,
    *,
    run: Path,
    device: Device,
    reporter: Reporter,
    student: str = "convnet",
    lr: Sequence[float] | None = None,
    weight_decay: Sequence[float] | None = None,
    seeds: int = 1,
    steps: int | None = None,
    real_steps: int | None = None,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Rank pairs of learning rate and weight decay on the distilled set, and compare with the whole real set.

    One network is trained with every pair, on the arms and by the rules of `nas`; all else of the recipe is the set's
    own. The use is that of Ding et al. (arXiv:2405.17535), who distil for it; here any set is asked.

    Args:
        distilled, dataset, run, device, reporter, seeds, steps, real_steps, jobs, command: as in `nas`.
        student: NAME or NAME(setting=value).
        lr: learning rates; None takes five, from a tenth of the recipe's to ten times as much.
        weight_decay: weight decays; None takes four: zero, and from a tenth of the recipe's to ten times as much.

    Returns: the results, as `results.json` in `run` holds them.
    Raises: DatastillError for a grid of fewer than three pairs, a value that no recipe can have, or as `nas` does.
    """
    check_counts(seeds=seeds, steps=steps, real_steps=real_steps)
    network = read_student(student, distilled)
    rates, decays = default_values(distilled.recipe.student)
    rates, decays = (
        (list(lr) if lr is not None else rates),
        (list(weight_decay) if weight_decay is not None else decays),
    )
    if not rates or not decays:
        raise DatastillError(
            "the grid of learning rates and weight decays is empty; give at least one of each, or leave them out for "
            "the default."
        )
    candidates = [_candidate(rate, decay, network, distilled) for rate, decay in itertools.product(rates, decays)]
    check_candidates(candidates, "settings")
    plan = Plan.of(distilled, seeds, steps, real_steps)
    made = Run(run, device, reporter, jobs, command)
    return rank("hyper", f"settings of {network}", candidates, distilled, dataset, plan, made)


def _candidate(rate: float, decay: float, network: str, distilled: DistilledDataset) -> Candidate:
    wanted = replace(distilled.recipe.student, lr=rate, weight_decay=decay)
    recipe = distilled.recipe.patched({"student": wanted}).student  # checks the ranges
    return Candidate(
        f"lr={rate:g}, weight_decay={decay:g}", network, recipe, {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    )
