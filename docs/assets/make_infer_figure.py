"""Draw docs/assets/infer.png: natural images, the compensators that they share, and the items that come of both.

    python docs/assets/make_infer_figure.py [FOLDER]

FOLDER holds a set that was distilled with INFER; without one, scikit-learn's digits are distilled first (minutes).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import datastill
from datastill import DistilledDataset

PICTURE = Path(__file__).with_name("infer.png")
SET, CLASSES = 0, 10  # the natural set that is drawn, and how many of its classes
INK, FAINT = "#1f2933", "#7b8794"


def main(arguments: list[str]) -> None:
    """Draw one natural set of a distilled set."""
    distilled = DistilledDataset.load(arguments[0]) if arguments else datastill.distill("digits", "infer", ipc=10)
    items, images = distilled.content.items, distilled.expand().images
    u = distilled.content.arrays["compensators"].float().numpy() / 127.0  # [N * M, C, H, W], pixel units
    limit = float(np.quantile(np.abs(u), 0.98))
    names = ["natural images", *(f"+ {name}" for name in distilled.recipe.networks)]
    figure = Figure(figsize=(9.6, 3.6), facecolor="white")
    widths = [1.9, 1.0, 0.35] + [1.0] * CLASSES
    axes = figure.subplots(
        len(names), len(widths), gridspec_kw={"width_ratios": widths, "wspace": 0.08, "hspace": 0.08}, squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, name in enumerate(names):
        places = [
            int(((items.cls == k) & (items.set == SET) & (items.maker == row - 1)).nonzero()[0]) for k in range(CLASSES)
        ]
        axes[row, 0].text(1.0, 0.5, name, ha="right", va="center", fontsize=10, color=INK)
        if row:
            _draw(axes[row, 1], u[int(items.unit[places[0]])].mean(axis=0), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes[row, 2].text(0.5, 0.5, "→", ha="center", va="center", fontsize=13, color=FAINT)
        for axis, place in zip(axes[row, 3:], places, strict=True):
            _draw(axis, images[place].permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
    kept = f"Kept: {CLASSES} real images (one a class) and {len(names) - 1} compensators (one a network)."
    colours = f"Full red adds {limit:.2f} or more, full blue takes as much away; pixels range from 0 to 1."
    figure.text(0.5, 0.94, f"{kept}  A student sees {len(names) * CLASSES} items.", fontsize=10, color=INK, ha="center")
    figure.text(0.5, 0.03, colours, fontsize=9, color=FAINT, ha="center")
    figure.savefig(PICTURE, dpi=150, bbox_inches="tight", pad_inches=0.12)


def _draw(axis: Axes, image: np.ndarray, **how: Any) -> None:
    axis.set_axis_on()
    axis.imshow(image, interpolation="nearest", **how)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color(FAINT)


if __name__ == "__main__":
    main(sys.argv[1:])
