"""Stratified splits that depend on nothing but a seed and the rows of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datastill.errors import DatastillError
from datastill.runtime.seeds import rng


def stratified_test(
    labels: npt.NDArray[np.int64], classes: tuple[str, ...], *, seed: int, fraction: float
) -> npt.NDArray[np.bool_]:
    """Draw the test rows of each class.

    Args:
        labels: int64[N], 0..K-1.
        classes: K class names, for errors.
        seed: equal seeds and labels give equal splits.
        fraction: share of each class, between 0 and 1; at least one image of each class stays on either side.

    Returns: bool[N], true for test.
    Raises: DatastillError, naming a class with fewer than two images.
    """
    testing = np.zeros(len(labels), bool)
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise DatastillError(
                f"class '{name}' has {len(rows)} readable image(s), and two are needed to split off a test image; "
                "add some, or name the classes to keep with --classes."
            )
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        testing[rng(seed, "test split", label).permutation(rows)[:count]] = True
    return testing


def split_note(fraction: float, seed: int, train: int, test: int) -> str:
    """Return the sentence that says how the test split was made."""
    return (
        f"No test split was given: {100 * fraction:g}% of each class, drawn with seed {seed}, are the test split "
        f"({train} training and {test} test images)."
    )
