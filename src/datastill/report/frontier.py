"""The page of a frontier: accuracy against bytes, in two charts that are named apart, and every point in a table."""

from __future__ import annotations

from pathlib import Path

from datastill.report.comparison import write_comparison


def write_frontier(run: Path) -> Path:
    """Write the page of a frontier beside its results; returns its path."""
    return write_comparison(run)
