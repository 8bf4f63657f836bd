"""The page of an ablation: what each change brought, a table per experiment, and the recipe that is left at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from datastill.errors import DatastillError
from datastill.measure.evaluate import RESULTS
from datastill.measure.stats import FEWEST, Difference
from datastill.report import ablation_rows as read
from datastill.report import words
from datastill.report.page import rendered, whole
from datastill.report.parts import REPORT, byte_kinds, networks
from datastill.report.plots import COLOURS, FAINT, INK, MARKERS, OTHERS, STYLE, Mark, Plot, svg_of
from datastill.report.rows import caption_of, real_lines
from datastill.runtime.files import read_json, write_bytes

KIND = "ablation"
RISER = Mark("the best so far", "currentColor", width=1.0)
# Colours of what became of a variant; shapes are columns of labels.
FATES = {"the start": INK, read.KEPT: COLOURS[2], "not kept": COLOURS[0], read.REPORTED: OTHERS}


@dataclass(frozen=True)
class Trial:
    """A row as its table shows it. decision: what became of it. ratio: its bytes to those of the real set."""

    row: read.Row
    top1: str
    difference: str
    test: str
    decision: str
    size: str
    ratio: str


@dataclass(frozen=True)
class Rung:
    """One experiment. number: from 1. beside: the best before it, which its variants are compared with."""

    number: int
    name: str
    says: str
    adopt: bool
    verdict: str
    beside: str
    trials: list[Trial]


def write_ablation(run: Path) -> Path:
    """Write the page of an ablation beside its results.

    Args:
        run: the folder that `ablate` wrote.

    Returns: the path of the page.
    Raises: DatastillError when the results are missing, damaged, or not those of an ablation.
    """
    results = read_json(run / RESULTS)
    if not isinstance(results, dict) or results.get("kind") != KIND:
        raise DatastillError(f"'{run / RESULTS}' holds no results of an ablation; datastill ablate writes them.")
    with whole(run / RESULTS, "datastill ablate"):
        page = render(results)
    write_bytes(run / REPORT, page.encode())
    return run / REPORT


def render(results: Mapping[str, Any]) -> str:
    """Return the page of an ablation; every text in it is escaped but our own figure."""
    rows, best, rule = read.trials(results), read.best_of(results), results["protocol"]["rule"]
    return rendered(
        "ablation.html.j2",
        version=results["versions"]["datastill"],
        results=results,
        title=read.ladder_title(results),
        shape=" × ".join(map(str, results["shape"])),
        tone=_tone(results, best),
        sentence=read.ladder_sentence(results),
        validation=results["protocol"]["split"] != "test",
        failures=read.ablation_failures(results),
        rule=read.rule_words(rule),
        caption=caption_of(results["start"]),
        start=_trial(results["start"], "the start", results),
        rungs=_rungs(results),
        chart=chart(results),
        columns=words.COLUMNS,
        meanings=meanings(results),
        command=read.recipe_command(results),
        best=best,
        best_name=read.row_name(best),
        best_top1=words.top1(best["top1"]),
        recipe=yaml.safe_dump(best["recipe"] | {"student": best["trained"]}, sort_keys=False),
        networks=networks(results),
        shipping=words.SHIPPING,
        kinds=byte_kinds(rows),
        arms=rows,
        real=real_lines(results),
        times=words.times({**results, "rows": rows}),
    )


def _tone(results: Mapping[str, Any], best: read.Row) -> str:
    """Return good where the last recipe beats the first beyond noise, open where that is not proven, else fact."""
    if best is results["start"]:
        return "fact"
    gap = Difference.of(best["top1"]["per_seed"], results["start"]["top1"]["per_seed"])
    return "good" if gap.verdict == "better" else "open"


def _rungs(results: Mapping[str, Any]) -> list[Rung]:
    rule, verdicts = results["protocol"]["rule"], read.ablation_verdicts(results)
    return [
        Rung(
            number=i,
            name=experiment["name"],
            says=experiment["says"],
            adopt=experiment["adopt"],
            verdict=verdicts[i - 1],
            beside=read.row_name(best),
            trials=[_trial(row, read.decision(row, experiment, rule), results) for row in experiment["rows"]],
        )
        for i, (experiment, best) in enumerate(read.climbed(results), 1)
    ]


def _trial(row: read.Row, decision: str, results: Mapping[str, Any]) -> Trial:
    gap = row["against_best"]
    return Trial(
        row=row,
        top1=words.top1(row["top1"]),
        difference=words.signed(gap["mean"]) if gap else "",
        test=f"sd {gap['sd']:.2f}, {words.paired(gap)}" if gap else "",
        decision=decision,
        size=read.SIZES[row["size"]],
        ratio=words.share(row["bytes"]["total"], results["real_bytes"][words.CODEC]),
    )


def meanings(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the numbers of a ladder obey, as (word, sentence)."""
    columns = "; ".join(f"{name}: {says}" for name, says in words.COLUMNS.items())
    return [
        (
            "Where it is scored",
            "Students are scored after their last step, on training images that were held out: nothing on this page "
            "looked at the test split."
            if results["protocol"]["split"] != "test"
            else "Students are scored after their last step, on the test split. Nothing was chosen there.",
        ),
        (
            "One change at a time",
            "A variant is the best recipe so far under the named changes and nothing else; where another method is "
            "named, that method's own recipe.",
        ),
        (
            "Against the best so far",
            "The mean difference in points over seeds, paired; sd is the deviation of these differences, t and p are "
            f"those of a paired t test, two-sided. With fewer than {FEWEST} seeds it proves nothing.",
        ),
        ("Kept", read.rule_words(results["protocol"]["rule"])),
        (
            "H, S and D in one table",
            f"{columns}. Elsewhere these never share a table. A ladder asks what a receiver of so many bytes should be "
            "sent, labels included, so here they do, and every row names its own.",
        ),
        ("Bytes", "Those of the files that a receiver stores, labels and metadata included."),
    ]


def chart(results: Mapping[str, Any]) -> Plot:
    """Return the whole ladder: the best so far as a staircase, every variant as a point with its deviation."""
    rule = results["protocol"]["rule"]
    shapes = dict(zip([c for c in words.COLUMNS if c in {row["column"] for row in read.trials(results)}], MARKERS,
                      strict=False))  # fmt: skip
    drawn: set[str] = set()
    with matplotlib.rc_context(STYLE):
        count = len(results["experiments"])
        figure = Figure(figsize=(max(6.6, min(11.0, 2.2 + 0.8 * count)), 3.4), layout="constrained")
        split = results["protocol"]["split"]
        axes = figure.add_subplot(title=f"Top-1 (%) on the {split} split", xlabel="experiment")
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        _point(axes, 0.0, results["start"], "the start", shapes, drawn)
        steps = [(0.0, results["start"])]
        for i, (experiment, _) in enumerate(read.climbed(results), 1):
            axes.axvline(i - 0.5, color=FAINT, linewidth=0.5)
            # What was kept comes last, so that all others lie beside the line that they were compared with.
            rows = sorted(experiment["rows"], key=lambda row: row["adopted"])
            for x, row in zip(_places(i, len(rows)), rows, strict=True):
                _point(axes, x, row, read.decision(row, experiment, rule).partition(":")[0], shapes, drawn)
                steps += [(x, row)] if row["adopted"] else []
        axes.plot([*(x for x, _ in steps), count + 0.5],
                  [*(row["top1"]["mean"] for _, row in steps), steps[-1][1]["top1"]["mean"]], color=INK,
                  linewidth=RISER.width, drawstyle="steps-post", zorder=1.5)  # fmt: skip
        axes.set_xlim(-0.5, count + 0.5)
        axes.xaxis.set_major_locator(FixedLocator(range(count + 1)))
        axes.set_xticklabels(["start", *map(str, range(1, count + 1))])
        svg = svg_of(figure, "ladder")
    columns = [Mark(f"{c}, {words.COLUMNS[c]}", "currentColor", sign=sign) for c, (_, sign) in shapes.items()]
    fates = [
        Mark(fate, colour.replace(INK, "currentColor"), sign="●") for fate, colour in FATES.items() if fate in drawn
    ]
    legend = (RISER, *fates, *(columns if len(columns) > 1 else []))
    return Plot(svg, words.minus(_described(results, rule)), legend)


def _places(middle: int, count: int) -> list[float]:
    """Return where an experiment's points stand: side by side around its number, none near its neighbours."""
    return [middle + (i + 0.5) / count * 0.8 - 0.4 for i in range(count)]


def _point(
    axes: Axes, x: float, row: read.Row, fate: str, shapes: Mapping[str, Sequence[str]], drawn: set[str]
) -> None:
    drawn.add(fate)
    axes.errorbar([x], [row["top1"]["mean"]], yerr=[row["top1"]["std"] or 0.0], color=FATES[fate], elinewidth=1,
                  marker=shapes[row["column"]][0], markersize=6, linestyle="none", zorder=2.5)  # fmt: skip


def _described(results: Mapping[str, Any], rule: Mapping[str, float]) -> str:
    """Return the chart in words, for those who do not see it."""
    parts = [f"start {results['start']['top1']['mean']:.1f} %"]
    for i, (experiment, _) in enumerate(read.climbed(results), 1):
        parts.append(f"experiment {i}, {experiment['name']}: {_listed(experiment, rule)}")
    return f"Top-1 of {results['protocol']['student']} along the ladder: {'; '.join(parts)}."


def _listed(experiment: Mapping[str, Any], rule: Mapping[str, float]) -> str:
    said = (
        f"{row['variant']} {row['top1']['mean']:.1f} % ({read.decision(row, experiment, rule).partition(':')[0]})"
        for row in experiment["rows"]
    )
    return ", ".join(said) or "nothing measured"
