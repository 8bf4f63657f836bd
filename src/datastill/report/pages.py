"""The page of a run, whatever was measured in it."""

from __future__ import annotations

from pathlib import Path

from datastill.errors import unknown
from datastill.measure.evaluate import RESULTS
from datastill.report.ablation import write_ablation
from datastill.report.comparison import write_comparison
from datastill.report.critical import write_critical
from datastill.report.frontier import write_frontier
from datastill.report.html import write_report
from datastill.report.proxies import write_proxy_report
from datastill.runtime.files import read_json

WRITERS = {
    "evaluation": write_report,
    "comparison": write_comparison,
    "frontier": write_frontier,
    "proxy": write_proxy_report,
    "ablation": write_ablation,
}


def write_any(run: Path) -> Path:
    """Write the page of a run beside its results, and a page of its own for the sweep of keep-ratios that it may be.

    Returns: the path of the page with all numbers.
    Raises: DatastillError when results are missing, damaged, or of a kind that is not known.
    """
    results = read_json(run / RESULTS)
    kind = results.get("kind", "evaluation") if isinstance(results, dict) else ""
    if kind not in WRITERS:
        raise unknown("kind of results", str(kind), WRITERS)
    if "critical" in results:
        write_critical(run)
    return WRITERS[kind](run)
