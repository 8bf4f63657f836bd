"""How error falls with the number of images and with the bytes of each: a law fitted to a few trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """error(n, L) = floor + A n^-a + B L^-b in percent, for n images of L bytes (arXiv 2407.17954).

    Exponents lie in 0.05..2, the other constants are not negative.
    """

    floor: float
    big_a: float
    a: float
    big_b: float
    b: float

    @classmethod
    def fit(cls, trials: Sequence[tuple[float, float, float]]) -> Law:
        """Fit the law to (images, bytes per image, error in percent) by least squares.

        For each pair of exponents on a grid the other three constants are a non-negative least-squares problem, whose
        best solution is found exactly; so no start has to be guessed.
        """
        from scipy.optimize import nnls  # half a second of import that most runs need not wait for

        n, size, error = (np.array(column, dtype=np.float64) for column in zip(*trials, strict=True))
        exponents = np.geomspace(0.05, 2.0, 25)
        best: tuple[float, Law] | None = None
        for a in exponents:
            for b in exponents:
                columns = np.stack([np.ones_like(n), n**-a, size**-b], axis=1)
                scale = columns.max(axis=0)
                found, residual = nnls(columns / scale, error)
                floor, big_a, big_b = found / scale
                if best is None or residual < best[0]:
                    best = residual, cls(float(floor), float(big_a), float(a), float(big_b), float(b))
        assert best is not None, "the grid of exponents is not empty"
        return best[1]

    def error(self, images: Any, size: Any) -> Floats:
        """Return the expected error in percent; both arguments broadcast."""
        n, bytes_ = np.asarray(images, dtype=np.float64), np.asarray(size, dtype=np.float64)
        found: Floats = self.floor + self.big_a * n**-self.a + self.big_b * bytes_**-self.b
        return found
