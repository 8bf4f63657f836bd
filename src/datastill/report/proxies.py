"""The page of a proxy: how it stands to its control, in a sentence, a figure and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from datastill.errors import DatastillError, unknown
from datastill.measure.evaluate import RESULTS
from datastill.measure.proxies.common import WHOLE
from datastill.measure.proxies.ranking import FEWEST, RESAMPLES, SCOPES, standing, told_value
from datastill.measure.stats import Summary
from datastill.recipe import Recipe
from datastill.report import words
from datastill.report.page import rendered, whole
from datastill.report.parts import REPORT, TONES
from datastill.report.plots import COLOURS, MARKERS, STYLE, Mark, Plot, svg_of
from datastill.runtime.files import read_json, write_bytes

SHAPES = (*MARKERS, ("D", "◆"))  # arms differ in colour and in shape
KINDS = {"nas": "Architecture search", "hyper": "Hyper-parameters", "continual": "Continual learning"}
SCOPE_WORDS = dict(zip(SCOPES, ("all of them", "the better half on the whole real set"), strict=True))
SIZE = "number of parameters, nothing trained"


def write_proxy_report(run: Path) -> Path:
    """Write the page of a proxy's run beside its results.

    Args:
        run: the folder that `nas`, `hyper` or `continual` wrote.

    Returns: the path of the page.
    Raises: DatastillError when results are missing, damaged, of another kind or of another version.
    """
    results = read_json(run / RESULTS)
    if not isinstance(results, dict) or results.get("kind") != "proxy":
        raise DatastillError(f"'{run / RESULTS}' holds no results of a proxy; run datastill proxy first.")
    with whole(run / RESULTS, f"datastill proxy {results.get('proxy')}"):
        page = render_proxy(results)
    write_bytes(run / REPORT, page.encode())
    return run / REPORT


def render_proxy(results: Mapping[str, Any]) -> str:
    """Return the page of a proxy's results; every text in it is escaped but our own figure.

    Raises: DatastillError for a proxy that is not known, KeyError or jinja2.UndefinedError where something is missing.
    """
    if results["proxy"] not in KINDS:
        raise unknown("proxy", str(results["proxy"]), KINDS)
    shown = _continual(results) if results["proxy"] == "continual" else _ranking(results)
    return rendered(
        "proxy.html.j2",
        version=results["versions"]["datastill"],
        results=results,
        title=f"{KINDS[results['proxy']]} with {results['source']['name']} at {results['ipc']} images per class, "
        f"distilled with {results['title']}",
        columns=words.COLUMNS,
        shape=" × ".join(map(str, results["shape"])),
        recipe=Recipe.from_plain(results["recipe"]).to_yaml(),
        **shown,
    )


def _marks(names: Sequence[str]) -> tuple[Mark, ...]:
    return tuple(Mark(name, COLOURS[i % len(COLOURS)], sign=SHAPES[i % len(SHAPES)][1]) for i, name in enumerate(names))


def _ranking(results: Mapping[str, Any]) -> dict[str, Any]:
    own, control = results["arms"][0]["arm"], results["control"]
    arms = [own, control] if control else [own]
    rows = sorted(results["rows"], key=lambda row: -row["top1"][WHOLE]["mean"])
    return {
        "tone": TONES[standing(results)],
        "arms": results["arms"],
        "figures": [scatter(results, arms)],
        "agreement": _agreement(results, arms),
        "heads": [WHOLE, *arms],
        "lines": _candidates(rows, [WHOLE, *arms]),
        "choices": [("the best one on the whole real set", results["choices"]["best"], 0.0)]
        + [(arm, results["choices"]["arms"][arm], results["choices"]["arms"][arm]["behind"]) for arm in arms],
        "blind": results["choices"]["blind"],
        "times": _times(results),
        "fewest": FEWEST,
        "resamples": RESAMPLES,
    }


def _agreement(results: Mapping[str, Any], arms: Sequence[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return (scope in words, [(what, rho, tau)]) with the difference and the number of parameters where there are."""
    found = []
    for scope, says in SCOPE_WORDS.items():
        n = results["agreement"][arms[0]][scope]["n"]
        lines = [(arm, results["agreement"][arm][scope], "") for arm in arms]
        if results["difference"]:
            lines.append(("method minus control", results["difference"][scope], "+"))
        if "size" in results["agreement"]:
            lines.append((SIZE, results["agreement"]["size"][scope], ""))
        told = [(name, told_value(part["rho"], sign), told_value(part["tau"], sign)) for name, part, sign in lines]
        found.append((f"{says}: {n} {results['what']}", told))
    return found


def _candidates(
    rows: Sequence[Mapping[str, Any]], heads: Sequence[str]
) -> list[tuple[str, list[tuple[float, str, int]]]]:
    """Return (candidate, [(mean, accuracy in words, rank)] by arm); rank 1 is the best, equals share a rank."""
    means = {arm: [row["top1"][arm]["mean"] for row in rows] for arm in heads}

    def cell(top1: Mapping[str, Any], arm: str) -> tuple[float, str, int]:
        return top1["mean"], words.top1(top1), 1 + sum(mean > top1["mean"] for mean in means[arm])

    return [(row["candidate"], [cell(row["top1"][arm], arm) for arm in heads]) for row in rows]


def _times(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, how long), and what the method saves."""
    time, many = results["time"], len(results["rows"]) * len(results["protocol"]["seeds"])
    found = [(f"train {many} students on {arm}", words.duration(s)) for arm, s in time["students"].items()]
    if time["distillation"] is None:
        return [*found, ("distil the set, networks included", "not on record"), ("saved", "not known")]
    saved = time["saved"]
    what = "saved: whole real set, less the set's students and its distillation"
    if saved < 0:
        what = "lost: the set's students and its distillation, less the whole real set"
    return [
        *found,
        ("distil the set, networks included", words.duration(time["distillation"])),
        (what, words.duration(abs(saved))),
    ]


def scatter(results: Mapping[str, Any], arms: Sequence[str]) -> Plot:
    """Return accuracy on the whole real set against accuracy on each arm, a point per candidate."""
    marks = _marks(arms)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.add_subplot(
            title=f"A point per {'network' if results['proxy'] == 'nas' else 'setting'}",
            xlabel="top-1 after training on the whole real set (%)",
            ylabel="top-1 after training on the arm (%)",
        )
        axes.set_axisbelow(True)
        for arm, mark, (shape, _) in zip(arms, marks, SHAPES, strict=False):
            xs, ys = ([row["top1"][name]["mean"] for row in results["rows"]] for name in (WHOLE, arm))
            axes.scatter(xs, ys, s=26, c=mark.colour, marker=shape, linewidths=0, alpha=0.85)
        svg = svg_of(figure, "proxy scatter")
    taus = "; ".join(f"{arm}: {told_value(results['agreement'][arm]['all']['tau'])}" for arm in arms)
    alt = (
        f"Accuracy of {len(results['rows'])} {results['what']} on the whole real set against that on each arm. "
        f"Kendall's tau, {taus}. All accuracies stand in the last table."
    )
    return Plot(svg, words.minus(alt), marks)


def _continual(results: Mapping[str, Any]) -> dict[str, Any]:
    rows = results["rows"]
    gap = rows[0]["against_random"]
    return {
        "tone": TONES[gap["verdict"]] if gap else "open",
        "arms": rows,
        "figures": progress(results),
        "groups": [(column, [_memory(row) for row in mine]) for column, mine in _by_column(rows)],
        "verdict_words": words.VERDICTS,
        "orders": [
            "; ".join(words.listed([results["classes"][k] for k in group]) for group in order)
            for order in results["orders"]
        ],
    }


def _by_column(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return (column of labels, its rows), the method's column first; columns are never mixed."""
    columns = dict.fromkeys(row["column"] for row in rows)
    return [(column, [row for row in rows if row["column"] == column]) for column in columns]


def _memory(row: Mapping[str, Any]) -> dict[str, Any]:
    gap = row["against_random"]
    return {
        "arm": row["arm"],
        "says": row["says"],
        "own": row["role"] == "method",
        "after": [words.top1(found) for found in row["after"]],
        "average": words.top1(row["average"]),
        "gap": gap,
        "difference": words.signed(gap["mean"]) if gap else "",
        "test": words.paired(gap) if gap else "",
    }


def progress(results: Mapping[str, Any]) -> list[Plot]:
    """Return accuracy after each group of classes, a line per arm with its deviation over seeds, and a figure for each
    of the columns H, S and D that there is."""
    marks = _marks([row["arm"] for row in results["rows"]])
    of_arm = {mark.name: (mark, shape) for mark, (shape, _) in zip(marks, SHAPES, strict=False)}
    return [_progress(column, mine, results["seen"], of_arm) for column, mine in _by_column(results["rows"])]


def _progress(
    column: str, rows: Sequence[Mapping[str, Any]], seen: Sequence[int], of_arm: Mapping[str, tuple[Mark, str]]
) -> Plot:
    title = f"Top-1 on the classes seen so far (%), column {column}"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="classes seen")
        axes.set_axisbelow(True)
        for row in rows:
            mark, shape = of_arm[row["arm"]]
            found = [Summary.of(each["per_seed"]) for each in row["after"]]
            axes.errorbar(
                seen, [f.mean for f in found], yerr=[f.std or 0.0 for f in found], color=mark.colour, marker=shape,
                markersize=5, linewidth=1.5, elinewidth=0.9, capsize=2.5,
            )  # fmt: skip
        axes.set_ylim(0.0, 103.0)  # a point at 100 is not cut
        axes.xaxis.set_major_locator(FixedLocator(seen))
        svg = svg_of(figure, title)
    said = "; ".join(
        f"{row['arm']} from {row['after'][0]['mean']:.1f} to {row['after'][-1]['mean']:.1f} %" for row in rows
    )
    return Plot(svg, f"{title}, from {seen[0]} to {seen[-1]} classes: {said}", tuple(of_arm[r["arm"]][0] for r in rows))
