"""The page of a frontier: which random real images a method is held against, the front, the charts and the tables."""

from __future__ import annotations

import copy
import itertools
import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from datastill.errors import DatastillError
from datastill.measure.stats import Difference
from datastill.report import words
from datastill.report.frontier import render, write_frontier
from datastill.report.frontier_plots import METHODS, SENT, SIGNS, frontier_plots, frontier_svg, marks_of
from datastill.report.frontier_rows import (
    codec_and_label,
    difference,
    front,
    frontier_verdicts,
    line_name,
    random_words,
    rivals,
    series,
)
from datastill.report.pages import write_any
from datastill.runtime.files import write_json
from datastill.runtime.seeds import rng
from report.samples_comparison import CLASSES
from report.samples_frontier import METHODS as SAMPLES
from report.samples_frontier import STUDENT, frontier_of, random_point
from report.test_report_browser import BROWSER, DESKTOP, PHONE, asked
from report.test_report_html import Page

TABLE = "accuracies frontier sortable"


@pytest.fixture(scope="module")
def text() -> str:
    """The page of all columns."""
    return render(frontier_of())


def scored(row: dict[str, Any], scores: list[float], total: int) -> dict[str, Any]:
    """Return a row with these accuracies and this many bytes."""
    mean = sum(scores) / len(scores)
    top1 = row["top1"] | {"per_seed": scores, "mean": mean, "n": len(scores)}
    return row | {"top1": top1, "seeds": list(range(len(scores))), "bytes": row["bytes"] | {"total": total}}


def small(method: list[float], points: dict[str, tuple[list[float], int]], **changes: Any) -> dict[str, Any]:
    """Return a frontier of INFER at 1,000 bytes beside random real images with soft labels: codec -> (top-1, bytes)."""
    results = frontier_of()
    (infer,) = [row for row in results["rows"] if row["arm"] == "infer, own ipc10"]
    made = [scored(random_point(codec, "klt", 150), *told) for codec, told in points.items()]
    return results | {"rows": [scored(infer, method, 1000), *made], "networks": []} | changes


def test_a_method_is_held_against_the_best_random_real_images_of_its_column_at_no_more_bytes():
    results = small(
        [30.0, 31.0, 32.5],
        {"avif:30": ([25.0, 25.5, 26.0], 400), "avif:60": ([38.0, 39.5, 39.0], 1000),
         "avif:45": ([38.7, 38.7, 38.8], 1000), "raw/1": ([50.0, 50.0, 51.0], 1001)},
    )  # fmt: skip
    hard = scored(random_point("jpeg:75", "hard", 150), [90.0, 90.0, 91.0], 10)
    other = scored(random_point("jpeg:75", "klt", 150, student="resnet18"), [90.0, 90.0, 91.0], 10)
    results["rows"] += [hard, other]
    (found,) = frontier_verdicts(results, STUDENT)
    gap = Difference.of([30.0, 31.0, 32.5], [38.0, 39.5, 39.0])
    assert gap.verdict == "worse"
    assert found.sentence == (
        "infer, own ipc10 (1.00 kB) is worse than random real images under avif:60 with klt labels at ipc 150 "
        f"(1.00 kB): {gap}. With {STUDENT}, it reaches {words.top1(results['rows'][0]['top1'])} and they reach "
        f"{words.top1(results['rows'][2]['top1'])}."
    )
    assert (found.column, found.tone, found.what) == ("S", "bad", "beside the best of 3 points")


def test_of_two_equally_accurate_points_the_smaller_one_is_named_and_random_real_images_are_never_judged():
    results = small([30.0, 31.0, 32.5], {"avif:60": ([38.0, 39.0, 40.0], 900), "avif:45": ([39.0, 38.0, 40.0], 800)})
    method, *_ = results["rows"]
    assert [codec_and_label(row)[0] for row in rivals(method, results["rows"])] == ["avif:45", "avif:60"]
    assert len(frontier_verdicts(results, STUDENT)) == 1


@pytest.mark.parametrize(
    ("scores", "said", "tone"),
    [([40.0, 41.1, 42.0], "is better than", "good"),
     ([30.0, 33.0, 31.5], "does not differ, beyond noise, from", "bad"),
     ([20.0, 21.1, 22.0], "is worse than", "bad"),
     ([40.0, 41.0], "was measured with fewer than 3 common seeds, which proves nothing, beside", "open")],
)  # fmt: skip
def test_a_verdict_has_the_words_of_its_test(scores, said, tone):
    (found,) = frontier_verdicts(small(scores, {"avif:60": ([31.0, 32.0, 33.1], 900)}), STUDENT)
    assert found.sentence.startswith(f"infer, own ipc10 (1.00 kB) {said} random real images under avif:60")
    assert found.tone == tone


def test_random_real_images_are_named_by_their_codec_their_labels_and_their_number():
    own, hard = frontier_of()["rows"][:2]
    said = "random real images as their preset stores them, with hard labels at ipc 10"
    assert (random_words(own), random_words(hard)) == (said, said)
    point = random_point("avif:60/1", "topk:5", 1500)
    assert random_words(point) == "random real images under avif:60/1 with topk:5 labels at ipc 1,500"


def test_seeds_are_paired_by_their_number_and_only_common_ones_count():
    ours, theirs = (scored(random_point("avif:60", "klt", 50), s, 9) for s in ([1.0, 2.0, 3.5], [9.0, 1.5, 1.0, 7.0]))
    theirs["seeds"] = [5, 1, 0, 2]
    assert difference(ours, theirs) == Difference.of([1.0, 2.0, 3.5], [1.0, 1.5, 7.0])
    theirs["seeds"] = [6, 7, 8, 9]
    assert difference(ours, theirs) is None
    results = small([1.0, 2.0, 3.5], {"avif:60": ([1.0, 1.5, 7.0], 9)})
    results["rows"][1]["seeds"] = [7, 8, 9]
    (found,) = frontier_verdicts(results, STUDENT)
    assert found.tone == "open"
    assert "share no seed with it, so this says nothing about the method." in found.sentence


def test_without_random_real_images_of_so_few_bytes_nothing_is_said_of_the_method():
    (found,) = frontier_verdicts(small([30.0, 31.0, 32.5], {"avif:60": ([20.0, 21.0, 22.0], 1001)}), STUDENT)
    assert found.tone == "open"
    assert "random real images of column S were not measured at no more bytes" in found.sentence


def test_networks_are_facts_the_best_that_fits_beside_a_method_and_the_largest_of_all():
    network = {"network": "convnet", "arm": "ship", "top1": 60.0}
    results = small(
        [30.0, 31.0, 32.5], {"avif:60": ([38.0, 39.0, 40.0], 900), "raw/1": ([70.0, 70.0, 70.0], 1500)},
        networks=[network | {"form": "int8", "bytes": 990}, network | {"form": "fp16", "bytes": 1200, "top1": 62.0},
                  network | {"form": "fp32", "bytes": 1400, "top1": 61.0}],
    )  # fmt: skip
    method, fact = frontier_verdicts(results, STUDENT)
    assert method.sentence.endswith(" In no more bytes, convnet in int8 (990 B) reaches 60.00 by itself.")
    assert fact.column == ""
    assert fact.sentence.startswith("The largest network that was sent, convnet in fp32 (1.40 kB), reaches 61.00")
    assert (
        "The best set of column S in no more bytes, random avif:60, klt ipc150 (900 B), reaches 39.00" in fact.sentence
    )
    assert "column H" not in fact.sentence


@pytest.mark.parametrize("chart", ["bytes", "ipc"])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_holds_every_point_that_no_other_beats_as_a_plain_loop_finds_it(chart, seed):
    stream = rng(seed, "front")
    rows = []
    for i in range(40):
        at, mean = int(stream.integers(1, 15)), float(stream.integers(20, 40))
        made = scored(random_point("avif:60", "klt", at), [mean], at)
        rows.append(made | {"arm": f"random {i}", "method": "infer" if i % 9 == 0 else "random"})
    mine = [(row["ipc"], row["top1"]["mean"]) for row in rows if row["method"] == "random"]
    plain = {
        (x, y) for x, y in mine if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in mine)
    }  # fmt: skip
    found = [(row["ipc"], row["top1"]["mean"]) for row in front(rows, "S", chart)]
    assert found == sorted(plain)
    assert front(rows, "H", chart) == []


def test_a_line_is_a_codec_with_its_labels_and_its_points_go_by_bytes():
    rows = frontier_of()["rows"]
    lines = series(reversed(rows), "S", "bytes")
    assert line_name(rows[0]) == "random, own"
    assert codec_and_label(rows[0]) == ("", "own")
    assert [row["ipc"] for row in lines["random avif:60, klt"]] == [50, 150, 500]
    assert [row["arm"] for row in lines["infer, own"]] == ["infer, own ipc10", "infer, own ipc50"]
    assert codec_and_label(lines["random raw/1, fp16"][0]) == ("raw/1", "fp16")
    for mine in lines.values():
        assert [row["bytes"]["total"] for row in mine] == sorted(row["bytes"]["total"] for row in mine)


def test_no_two_lines_of_a_panel_look_alike_and_both_charts_agree():
    rows = frontier_of()["rows"]
    marks = marks_of(rows)
    for column in words.COLUMNS:
        mine = [mark for (held, _), mark in marks.items() if held == column]
        assert len({(mark.colour, mark.sign) for mark in mine}) == len(mine)
        assert len(mine) == len(series(rows, column, "ipc"))
    assert marks["H", "random avif:60, hard"].sign == marks["S", "random avif:60, klt"].sign
    assert {marks["H", name].colour for name in ("dm, own", "infer, hard")} == set(METHODS)
    assert SENT.sign not in SIGNS
    for plot, other in zip(frontier_plots(rows, "bytes", []), frontier_plots(rows, "ipc", []), strict=True):
        assert plot.legend[:-1] == other.legend[:-1]


def test_a_figure_is_one_column_in_the_pages_ink_with_all_its_points_in_words():
    results = frontier_of()
    rows = results["rows"]
    plots = frontier_plots(rows, "bytes", results["networks"])
    for column, plot in zip(words.COLUMNS, plots, strict=True):
        assert ElementTree.fromstring(plot.svg).tag == "svg"
        assert f"Column {column}: top-1 (%) on the test split" in plot.svg
        assert sum(f"Column {other}" in plot.svg for other in words.COLUMNS) == 1
        assert "currentColor" in plot.svg
        assert "avif" not in plot.svg
        for row in rows:
            said = f"{row['top1']['mean']:.1f} % at {words.size(row['bytes']['total'])}"
            assert (said in plot.alt) or row["column"] != column
        assert "ship convnet, fp16: 60.5 % at 22.3 kB." in plot.alt
    assert "the best random real images in no more bytes: random avif:30, klt from 52.2 kB" in plots[1].alt
    assert [plot.legend[-1] == SENT for plot in plots] == [True] * 3
    assert [plot.legend[-1] == SENT for plot in frontier_plots(rows, "ipc", [])] == [False] * 3


def test_a_file_of_its_own_has_its_legend_inside_and_a_panel_below_the_other():
    results = frontier_of()
    drawn = frontier_svg(results["rows"], "bytes", results["networks"], ["H", "S", "D"], name="x", legend=True)
    for name in ("Column H", "Column S", "Column D", "random avif:60, klt", "infer-dyn, own", SENT.name):
        assert name in drawn
    assert drawn.count(f"{SENT.name}</text>") == 3
    assert drawn == frontier_svg(results["rows"], "bytes", results["networks"], ["H", "S", "D"], name="x", legend=True)


def test_the_page_opens_with_a_verdict_for_each_row_of_a_method_then_what_was_left_out(text):
    read = Page(text).text
    head = read[: read.index("Real training set")]
    places = [head.index(f"{name} (") for name in SAMPLES if not name.startswith("random")]
    assert places == sorted(places)
    left = head.index("random webp:75:420/1, hard ipc50 at ipc 50 was left out: this Pillow has no <b>webp</b>.")
    assert places[-1] < head.index("The largest network that was sent, resnet10 in fp32 (1.24 MB)") < left
    for verdict in frontier_verdicts(frontier_of(), STUDENT):
        assert words.minus(verdict.sentence) in head
    first, second = read.index("Equal bytes as stored"), read.index("Equal raw pixels (images per class), as papers")
    assert left < first < second < read.index("Every point")


def test_no_table_mixes_two_columns_and_a_row_says_all_that_belongs_beside_its_number(text):
    results = frontier_of()
    bodies = Page(text).tables[TABLE]
    assert len(bodies) == 3
    for column, body in zip(words.COLUMNS, bodies, strict=True):
        mine = sorted((r for r in results["rows"] if r["column"] == column), key=lambda r: r["bytes"]["total"])
        assert [cells[5].strip() for cells in body] == [words.size(row["bytes"]["total"]) for row in mine]
        assert sorted(cells[0].split() for cells in body) == sorted(f"{r['arm']} {r['says']}".split() for r in mine)
    (own,) = [cells for cells in bodies[1] if cells[0].startswith("infer, own ipc50")]
    (row,) = [row for row in results["rows"] if row["arm"] == "infer, own ipc50"]
    assert own[1].strip() == "50"
    assert own[2].strip() == "200"
    assert own[3].strip() == words.top1(row["top1"])
    assert [cell.split() for cell in own[4:]] == [
        ["static", "1.60", "kB"], ["395", "kB"], ["4.2", "%"], ["1.98", "kB"],
    ]  # fmt: skip
    marked = [cells[0].split() for cells in bodies[0] if "on the front" in cells[3]]
    assert marked == [f"{row['arm']} {row['says']}".split() for row in front(results["rows"], "H", "bytes")]


def test_bytes_by_kind_networks_protocol_times_and_versions_stand_in_the_page(text):
    read, results = Page(text), frontier_of()
    ledgers = {cells[0].strip(): cells[-1].strip() for body in read.tables["ledger"] for cells in body}
    for row in results["rows"]:
        assert ledgers[row["arm"]] == f"{row['bytes']['total']:,}"
    shipped = [[cell.strip() for cell in cells] for cells in read.tables["shipped sortable"][0]]
    assert shipped[1] == ["convnet", "fp16", "60.50", "22.3 kB", "0.24 %"]
    assert len(shipped) == 6
    for said in ("400 optimiser steps, 64 items in every step, seeds 0, 1, 2.", "momentum: 0.9", "distil (statistics)",
                 results["commands"][0], f"torch {results['versions']['torch']}", "A CPU (cpu, float32, 1 thread)",
                 "tiny <b>: accuracy against bytes, 70 sets and 6 networks"):  # fmt: skip
        assert said in read.text


def test_the_page_loads_nothing_and_runs_nothing_of_a_strangers(text):
    read = Page(text)
    assert [address for address in read.addresses if not address.startswith("#")] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(read.tags)
    assert read.tags.count("script") == 1
    assert "http://" not in text
    assert "https://" not in text
    hostile = copy.deepcopy(frontier_of(columns=("S",), students=(CLASSES[0],)))
    hostile["failures"] = [{"method": CLASSES[0], "ipc": 10, "says": CLASSES[0]}]
    for entry in itertools.chain(hostile["rows"], hostile["networks"]):
        entry |= {"says": CLASSES[0], "network": CLASSES[0]}
    assert CLASSES[0] not in render(hostile)


@pytest.mark.parametrize("column", list(words.COLUMNS))
def test_a_frontier_of_one_column_one_seed_and_no_networks_is_a_whole_page(column):
    results = frontier_of(columns=(column,), seeds=1) | {"networks": [], "failures": [], "teachers": {}}
    read = Page(render(results))
    assert len(read.tables[TABLE]) == 1
    assert read.tags.count("figure") == 2
    assert "Nothing proven" in read.text
    assert "No network was sent: the recipe has none." in read.text
    for missing in ("Left out", "nan", "None", "shipped"):
        assert missing not in read.text


def test_random_real_images_alone_are_said_to_judge_nothing():
    results = frontier_of(columns=("H",)) | {"networks": []}
    results["rows"] = [row for row in results["rows"] if row["method"] == "random"]
    assert "Only random real images were measured: there is no method to judge." in Page(render(results)).text


def test_two_students_have_charts_and_tables_of_their_own():
    read = Page(render(frontier_of(columns=("S",), students=(STUDENT, "resnet18"))))
    assert len(read.tables[TABLE]) == 2
    assert read.tags.count("figure") == 5
    assert read.text.count("At no more bytes, ") == 2


def test_a_validation_split_is_shouted(text):
    page = render(frontier_of(columns=("S",), split="validation"))
    assert "VALIDATION split: held-out training images, for choices. Nothing on this page is a result." in page
    assert "on the validation split" in page
    assert "VALIDATION" not in text


def test_the_page_is_written_beside_its_results_and_equal_results_give_equal_bytes(tmp_path, text):
    write_json(tmp_path / "results.json", frontier_of())
    assert write_any(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", ["networks", "versions.datastill", "rows.4.label_bytes", "failures", "peak_bytes"])
def test_a_missing_key_is_an_error_not_a_dash(tmp_path, path):
    results = json.loads(json.dumps(frontier_of(columns=("S",))))
    *way, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place: Any = results
    for name in way:
        place = place[name]
    del place[last]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(DatastillError, match=f"lacks .*{last}.*run datastill frontier again"):
        write_frontier(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("change", [{"kind": "comparison"}, {"rows": []}])
def test_other_results_are_refused(tmp_path, change):
    write_json(tmp_path / "results.json", frontier_of() | change)
    with pytest.raises(DatastillError, match="holds no rows of a frontier; datastill frontier writes them"):
        write_frontier(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="this test needs Chromium, which is not here")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen_and_nothing_is_asked_for_elsewhere(tmp_path, text, width):
    script = """
        for (const part of document.querySelectorAll("details")) part.open = true;
        const wide = [...document.querySelectorAll("main *")].filter((node) => !node.closest(".scroll, pre, svg")
          && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.outerHTML.slice(0, 80));
        const low = [...document.querySelectorAll("main :is(p, td, th, small, strong, span, dt, dd, li, b)")]
          .filter((node) => node.textContent.trim() && !node.ariaHidden && contrast(node) < 4.5)
          .map((node) => node.outerHTML.slice(0, 80));
        return { wide, low, width: innerWidth, scroll: document.documentElement.scrollWidth,
          requests: performance.getEntriesByType("resource").map((entry) => entry.name) };"""
    found = asked(tmp_path, text, script, width=width)
    assert found == {"wide": [], "low": [], "width": width, "scroll": width, "requests": []}
