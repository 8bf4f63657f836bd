"""The page of an ablation: what became of each variant and why, the ladder as a chart, and the recipe at the end."""

from __future__ import annotations

import copy
import io
import json
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.axes import Axes
from rich.console import Console

from datastill.errors import DatastillError
from datastill.measure.ablation import Ablation, Plan, ablate
from datastill.measure.ledger import read_rows, write_rows
from datastill.measure.stats import Difference
from datastill.recipe import compose
from datastill.report import words
from datastill.report.ablation import FATES, chart, render, write_ablation
from datastill.report.ablation_rows import (
    ablation_failures,
    ablation_verdicts,
    best_of,
    changes_of,
    climbed,
    decision,
    ladder_sentence,
    recipe_command,
    row_name,
    rule_words,
    trials,
)
from datastill.report.pages import write_any
from datastill.report.tables import rich_ablation
from datastill.runtime.files import write_json
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.comparing import STUDENT, TEACHING
from reference.ladder import CLASSES, HOSTILE, INFO, RULE, START, gap_of, ladder
from report.test_report_browser import BROWSER, DESKTOP, PHONE, asked
from report.test_report_html import Page

TABLE = "accuracies trials"
M = "\u2212"


@pytest.fixture(scope="module")
def text() -> str:
    """The page of every experiment."""
    return render(ladder())


def variants(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in trials(results)}  # type: ignore[misc]  # rows of the fixture are dicts


def judged(points: list[float], *, adopted: str | None = None, adopt: bool = True, **changes: Any) -> str:
    """Return what became of a variant with these points above the start, under the usual rule."""
    row = {"variant": "mine", "of": None, "adopted": adopted == "mine"} | changes
    row["against_best"] = gap_of(
        {"top1": {"per_seed": [a + b for a, b in zip(START, points, strict=True)]}}, {"top1": {"per_seed": START}}
    )
    return decision(row, {"adopt": adopt, "adopted": adopted}, RULE)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([0.1, 0.2, 0.3], "not kept: +0.20 is under 0.3"),
        ([-2.0, -1.0, -1.5], f"not kept: {M}1.50 is under 0.3"),
        ([0.296, 0.298, 0.297], "not kept: +0.297 is under 0.3"),
        ([0.9, 2.0, -1.4], "not kept: +0.50 is under one deviation (1.73)"),
        ([1.0, 0.0, 0.4996], "not kept: +0.4999 is under one deviation (0.5000)"),
    ],
)
def test_what_is_not_kept_says_which_number_was_too_small(points, said):
    assert judged(points) == said


def test_what_passed_is_kept_or_says_which_one_gained_more():
    assert judged([1.0, 1.1, 1.2], adopted="mine") == "kept"
    assert judged([1.0, 1.1, 1.2], adopted="other") == "not kept: other gained more"
    assert judged([1.0, 1.1, 1.2], of="herding") == "not kept: another method is never kept"
    assert judged([1.0, 1.1, 1.2], adopt=False) == "only reported"


def test_a_rule_of_two_deviations_is_named_so():
    rule = RULE | {"sds": 2.0}
    row = {"of": None, "adopted": False, "against_best": {"mean": 0.5, "sd": 0.4}}
    assert decision(row, {"adopt": True, "adopted": None}, rule) == "not kept: +0.50 is under 2 deviations (0.80)"
    assert "at least 0.3 points over the best so far, and at least 2 deviations of the differences" in rule_words(rule)


def test_each_experiment_stands_beside_the_best_that_the_earlier_ones_left():
    results = ladder()
    beside = {experiment["name"]: row_name(best) for experiment, best in climbed(results)}
    assert beside == {"loss": "the start", "labels": "T = 4 (loss)", "codec": "T = 4 (loss)",
                      "controls": "q45 (codec)", "views": "q45 (codec)"}  # fmt: skip
    assert best_of(results)["variant"] == "q45"
    assert best_of(ladder(only=["labels"])) == ladder(only=["labels"])["start"]
    for experiment, best in climbed(results):
        for row in experiment["rows"]:
            gaps = [a - b for a, b in zip(row["top1"]["per_seed"], best["top1"]["per_seed"], strict=True)]
            assert row["against_best"]["mean"] == pytest.approx(sum(gaps) / 3)


def test_an_experiment_has_a_sentence_with_its_numbers():
    said = dict(sentence.split(": ", 1) for sentence in ablation_verdicts(ladder()))
    assert said == {
        "loss": "T = 4 is kept, +1.00 points (sd 0.20, t 8.7, p 0.013, n=3) against the start.",
        "labels": f"nothing is kept; hard stands at {M}1.90 points (sd 0.36, t {M}9.1, p 0.012, n=3) against T = 4 "
        f"(loss): {M}1.90 is under 0.3.",
        "codec": "q45 is kept, +1.10 points (sd 0.26, t 7.2, p 0.019, n=3) against T = 4 (loss).",
        "controls": f"only reported. Against q45 (codec): INFER {M}4.50 points (sd 0.50, t {M}15.6, p 0.004, n=3); "
        "without loss +0.60 points (sd 0.10, t 10.4, p 0.009, n=3).",
        "views": "nothing was measured; every variant failed.",
    }


def test_where_nothing_is_kept_the_best_of_what_could_have_been_is_named():
    results = ladder(only=["codec"])
    (experiment,) = results["experiments"]
    experiment["adopted"] = None
    for row, mean in zip(experiment["rows"], (0.1, 0.25, 3.0), strict=True):
        row["adopted"] = False
        row["against_best"] |= {"mean": mean}
    (said,) = ablation_verdicts(results)
    assert said.startswith("codec: nothing is kept; the best of 2, q45, stands at +0.25 points")
    assert said.endswith("against the start: +0.25 is under 0.3.")


def test_the_first_sentence_says_how_far_the_ladder_rose_and_what_that_is_worth():
    results = ladder()
    gap = Difference.of(best_of(results)["top1"]["per_seed"], START)
    said = ladder_sentence(results)
    assert said.startswith("Of 4 experiments, 2 brought a change that stays. Top-1: it begins at 45.53 ")
    assert f"{words.top1(best_of(results)['top1'])}, {gap}. The gains were chosen on these very images" in said
    none = "Of 1 experiment none brought a change that stays: the recipe is as it began."
    assert ladder_sentence(ladder(only=["labels"])).startswith(none)
    assert ladder_sentence(ladder(only=["controls"])).startswith("No experiment of this plan could change the recipe")


def test_the_last_recipe_can_be_typed_and_is_that_of_the_last_row():
    results = ladder()
    *_, total = changes_of(results)
    assert total == f"store.total={best_of(results)['pictures']}"
    typed = shlex.split(recipe_command(results).replace("\\\n", " "))
    assert typed[:7] == ["datastill", "distill", "/home/someone/photos", "--method", "datastill", "--ipc", "10"]
    made = compose("datastill", INFO, changes=[a for i, a in enumerate(typed) if typed[i - 1] == "--set"])
    assert made.label.kind == "static"
    assert made.store.settings == {"codec": {"quality": 45}, "total": 960}
    assert (made.student.temperature, made.student.kl_scale) == (4.0, "temperature-squared")


def test_of_two_tables_of_networks_the_later_one_is_the_recipes():
    results = ladder()
    results["plan"]["changes"] = ["teachers=convnet", "label=static"]
    results["best"]["changes"] = ["teachers=convnet,'resnet10(width=32)'", "student.ema=0.99"]
    said = recipe_command(results)
    assert said.count("--teachers") == 1
    typed = shlex.split(said.replace("\\\n", " "))
    assert typed[typed.index("--teachers") + 1] == "convnet,'resnet10(width=32)'"
    assert [a for i, a in enumerate(typed) if typed[i - 1] == "--set"][0] == "label=static"


def test_the_chart_has_every_row_in_the_pages_ink_and_in_words_and_no_text_of_a_plan():
    results = ladder()
    plot = chart(results)
    assert ElementTree.fromstring(plot.svg).tag == "svg"
    assert "Top-1 (%) on the validation split" in plot.svg
    assert "currentColor" in plot.svg
    for name in ("loss", "T = 4", "q45", "<b>"):
        assert name not in plot.svg
    for row in trials(results)[1:]:
        assert f"{row['variant']} {row['top1']['mean']:.1f} % (" in plot.alt
    assert "start 45.5 %; experiment 1, loss: T = 4 46.5 % (kept), squared error 45.7 % (not kept)" in plot.alt
    assert "INFER 43.1 % (only reported)" in plot.alt
    assert "views: nothing measured" in plot.alt
    names = [mark.name for mark in plot.legend]
    assert names[:5] == ["the best so far", *FATES]
    assert [name[0] for name in names[5:]] == ["H", "S"]
    alone = chart(ladder(only=["controls"]))
    assert [mark.name for mark in alone.legend] == ["the best so far", "the start", "only reported"]


def test_the_line_rises_where_a_variant_was_kept_and_nowhere_else(monkeypatch):
    drawn: list[tuple[list[float], list[float]]] = []

    def kept(axes: Axes, xs: list[float], ys: list[float], **style: Any) -> None:
        drawn.append((list(xs), list(ys)))

    monkeypatch.setattr(Axes, "plot", kept)
    results = ladder()
    chart(results)
    (line,) = drawn
    means = [variants(results)[name]["top1"]["mean"] for name in ("start", "T = 4", "q45")]
    assert line[1] == [*means, means[-1]]
    assert [round(x) for x in line[0][:3]] == [0, 1, 3]  # the start, then the experiments that kept something
    assert line[0][3] == 5.5


def test_the_page_says_what_was_kept_before_any_number_of_a_table(text):
    read = Page(text).text
    head = read[: read.index("Real training set")]
    assert head.index("VALIDATION split") < head.index("Better than where it began") < head.index("Of 4 experiments, 2")
    places = [head.index(sentence) for sentence in map(words.minus, ablation_verdicts(ladder()))]
    assert places == sorted(places)
    assert places[-1] < head.index(ablation_failures(ladder())[0])


def test_a_table_for_each_experiment_says_all_that_belongs_beside_a_number(text):
    results = ladder()
    start, *bodies = Page(text).tables[TABLE]
    assert len(bodies) == 4  # nothing of the fifth one was measured
    assert [[row[0].strip() for row in body] for body in [start, *bodies]] == [
        ["start"], ["T = 4", "squared error", HOSTILE], ["hard"], ["q30", "q45", "herding"], ["INFER", "without loss"],
    ]  # fmt: skip
    own = variants(results)["squared error"]
    assert [cell.split() for cell in bodies[0][1][1:]] == [
        ["student.soft_loss=mse"], ["920", "fill", "the", "bytes"], ["S", "27.6", "kB"], ["353", "kB", "8.8", "%"],
        words.top1(own["top1"]).split(), ["+0.20", "sd", "0.10,", "t", "3.5,", "p", "0.074"],
        ["not", "kept:", "+0.20", "is", "under", "0.3"],
    ]  # fmt: skip
    assert bodies[3][0][1].split() == ["method", "infer"]
    assert bodies[1][0][3].split() == ["H", "0", "B"]


def test_bytes_networks_recipe_protocol_times_and_versions_stand_in_the_page(text):
    read, results = Page(text), ladder()
    ledgers = {cells[0].strip(): cells[-1].strip() for body in read.tables["ledger"] for cells in body}
    for row in trials(results):
        assert ledgers[row["arm"]] == f"{row['bytes']['total']:,}"
    for said in ("photos <b>: levers in 400 kB", "What moves the number?", recipe_command(results), "lr: 0.007",
                 "convnet(width=64), 1,200 optimiser steps of 64", "Coded real images (datastill) with label=static",
                 "mean of logits", rule_words(RULE), results["commands"][0],
                 f"torch {results['versions']['torch']}", "train 30 students",
                 "A CPU (cpu, float32, 1 thread)", "Seeds of students: 0, 1, 2."):  # fmt: skip
        assert said in read.text, said


def test_the_page_loads_nothing_and_runs_nothing_of_a_strangers(text):
    read = Page(text)
    assert [address for address in read.addresses if not address.startswith("#")] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(read.tags)
    assert read.tags.count("script") == 1
    assert "http://" not in text
    assert "https://" not in text
    hostile = copy.deepcopy(ladder())
    hostile["plan"] |= {"name": CLASSES[0], "says": CLASSES[0], "changes": [CLASSES[0]]}
    hostile["failures"] = [{"method": CLASSES[0], "ipc": 0, "says": CLASSES[0]}]
    for experiment in hostile["experiments"]:
        experiment |= {"name": CLASSES[0], "says": CLASSES[0]}
        for row in experiment["rows"]:
            row |= {"variant": CLASSES[0], "experiment": CLASSES[0], "says": CLASSES[0], "changes": [CLASSES[0]]}
    assert CLASSES[0] not in render(hostile)


@pytest.mark.parametrize("only", [("labels",), ("controls",), ("loss",), ("views",)])
def test_a_ladder_of_one_experiment_without_a_budget_is_a_whole_page(only):
    read = Page(render(ladder(only=only, budget=None)))
    assert "its own" in read.text
    assert ("Unchanged" in read.text) == (only != ("loss",))
    for missing in ("nan", "None"):
        assert missing not in read.text


def test_two_seeds_prove_nothing_and_the_page_says_so():
    read = Page(render(ladder(only=["loss"], seeds=2))).text
    assert "Changed, nothing proven" in read
    assert "(n=2)" in read


def test_on_the_test_split_nothing_is_shouted_and_nothing_was_chosen():
    page = render(ladder(only=["controls"], split="test"))
    assert "VALIDATION" not in page
    assert "on the test split. Nothing was chosen there." in page


def test_the_terminal_shows_every_variant_with_what_became_of_it():
    console = Console(width=180, record=True, file=io.StringIO())
    console.print(rich_ablation(ladder()))
    said = console.export_text()
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert ["", "start", "S", "900", "345 kB", "45.53 ± 0.50 (n=3)", "", "the start"] in lines
    assert ["loss", "T = 4", "S", "910", "349 kB", "46.53 ± 0.64 (n=3)", "+1.00 (sd 0.20)", "kept"] in lines
    assert ["", HOSTILE, "S", "930", "357 kB", "46.03 ± 1.46 (n=3)", "+0.50 (sd 1.10)",
            "not kept: +0.50 is under one deviation (1.10)"] in lines  # fmt: skip
    assert len(lines) == len(trials(ladder()))
    assert "VALIDATION split" in said


def test_the_page_is_written_beside_its_results_and_equal_results_give_equal_bytes(tmp_path, text):
    write_json(tmp_path / "results.json", ladder())
    assert write_any(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", ["start.label_bytes", "protocol.rule", "failures", "best", "experiments.0.says"])
def test_a_missing_key_is_an_error_not_a_dash(tmp_path, path):
    results = json.loads(json.dumps(ladder()))
    *way, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place: Any = results
    for name in way:
        place = place[name]
    del place[last]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(DatastillError, match=f"lacks .*{last}.*run datastill ablate again"):
        write_ablation(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("found", [{"kind": "frontier"}, {}, []])
def test_other_results_are_refused_in_one_sentence(tmp_path, found):
    write_json(tmp_path / "results.json", found)
    with pytest.raises(DatastillError, match=r"holds no results of an ablation; datastill ablate writes them\."):
        write_ablation(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="this test needs Chromium")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(tmp_path, text, width):
    script = """
        for (const part of document.querySelectorAll("details")) part.open = true;
        const wide = [...document.querySelectorAll("main *")].filter((node) => !node.closest(".scroll, pre, svg")
          && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.outerHTML.slice(0, 80));
        return { scroll: document.documentElement.scrollWidth, wide };"""
    found = asked(tmp_path, text, script, width=width)
    assert found["scroll"] <= width
    assert found["wide"] == []


PLAN = """
name: small
changes: [label=static, store.codec.format=webp-lossless, ipc=4]
experiments:
  - name: loss
    variants: {mse: [student.soft_loss=mse]}
  - name: beside
    adopt: false
    variants: {raw: {changes: [store.codec.format=raw], size: same}, cannot: {method: infer, size: same}}
"""


def test_what_an_ablation_writes_is_what_the_page_and_the_ledger_read(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    plan = Ablation(plan=Plan.from_yaml(tmp_path / "plan.yaml"), budget=None, steps=4, student=STUDENT, seeds=2,
                    changes=("student.batch=8", "validation=8", *TEACHING), networks=STUDENT)  # fmt: skip
    run = tmp_path / "run"
    found = ablate(tiny.dataset(classes=4, per_class=16), plan, out=run, device=tiny.device(), reporter=Reporter())
    read = Page(write_any(run).read_text(encoding="utf-8"))
    assert "beside: cannot was left out: " in read.text
    assert len(read.tables[TABLE]) == 3
    recipe = yaml.safe_load(read.text.partition("how its students are trained")[2].partition("Bytes")[0])
    assert recipe["student"] == best_of(found)["trained"]
    write_rows(found, tmp_path / "rows")
    assert sorted(e.row["order"] for e in read_rows(tmp_path / "rows")) == [0, 1, 2]
