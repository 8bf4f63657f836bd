"""The report of a comparison: its verdicts, its columns that never merge, and what it says of all that is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from datastill.errors import DatastillError
from datastill.report import compared
from datastill.report.accuracy_plots import against_ipc, by_arm, marks_of
from datastill.report.comparison import render, write_comparison
from datastill.report.tables import rich_comparison
from datastill.runtime.files import write_json
from report.samples_comparison import CLASSES, STUDENTS, comparison_of
from report.test_report_html import Page

ACCURACIES = "accuracies comparison sortable"


@pytest.fixture(scope="module")
def text() -> str:
    """The page of two ipc, two students, all columns."""
    return render(comparison_of())


def small(**changes: Any) -> dict[str, Any]:
    """Results of one ipc and one student."""
    return comparison_of((10,), ("resnet18",), **changes)


def row(results: dict[str, Any], arm: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["arm"] == arm)


def test_the_page_opens_with_a_verdict_for_each_column_student_and_ipc(text):
    read = Page(text).text
    head = read[: read.index("What a number means here")]
    for ipc in ("1 image per class", "10 images per class"):
        for student in STUDENTS:
            assert f"{ipc}, {student}" in head
    assert head.count("infer does not beat its control: it is worse. With") == 4
    assert head.count("infer-dyn beats its control. With") == 4
    assert head.count("dm beats its control") == 2
    assert head.count("INFER is named wherever") == 1


def test_a_verdict_says_margin_t_p_and_n_whatever_its_sign():
    results = small()
    (hard, soft, dynamic) = compared.verdicts(results, 10, "resnet18")
    assert [(v.column, v.tone) for v in (hard, soft, dynamic)] == [("H", "good"), ("S", "bad"), ("D", "good")]
    assert hard.what == "highest mean of 2"
    gap = row(results, "infer")["against_random"]
    assert gap["mean"] < 0
    assert f"{gap['mean']:+.2f} points (paired, t {gap['t']:.1f}, p {gap['p']:.3f}, n=3)." in soft.sentence
    assert "random real images with the same kind of labels reach" in soft.sentence


@pytest.mark.parametrize(
    ("verdict", "p", "n", "said", "tone"),
    [("better", 0.01, 3, "beats its control", "good"), ("none", 0.5, 3, "the difference is within noise", "bad"),
     ("worse", 0.01, 3, "it is worse", "bad"), ("unproven", 0.01, 2, "which proves nothing", "open")],
)  # fmt: skip
def test_a_verdict_has_the_words_of_its_test(verdict, p, n, said, tone):
    results = small()
    mean = -1.0 if verdict == "worse" else 1.0
    row(results, "infer")["against_random"] = {"mean": mean, "t": 2.0, "p": p, "n": n, "verdict": verdict}
    found = next(v for v in compared.verdicts(results, 10, "resnet18") if v.column == "S")
    assert said in found.sentence
    assert found.tone == tone


def test_infer_is_named_even_where_another_method_is_the_best_of_its_column():
    results = small()
    results["rows"].append(row(results, "infer") | {"arm": "other", "method": "other"})
    results["rows"][-1]["top1"] = row(results, "infer-dyn")["top1"]
    said = [(v.what, v.sentence.split()[0]) for v in compared.verdicts(results, 10, "resnet18") if v.column == "S"]
    assert said == [("highest mean of 2", "other"), ("always named", "infer")]


def test_controls_and_the_whole_real_set_are_never_the_best():
    results = small()
    assert row(results, "whole")["top1"]["mean"] > row(results, "dm")["top1"]["mean"]
    named = {v.sentence.split()[0] for v in compared.verdicts(results, 10, "resnet18")}
    assert named == {"dm", "infer", "infer-dyn"}


def test_a_method_without_its_control_claims_nothing():
    results = small()
    results["rows"] = [r for r in results["rows"] if r["arm"] != "random_S"]
    for other in results["rows"]:
        other["against_random"] = None if other["column"] == "S" else other["against_random"]
    found = next(v for v in compared.verdicts(results, 10, "resnet18") if v.column == "S")
    assert (found.tone, "says nothing about the method" in found.sentence) == ("open", True)
    assert "no control" in render(results)


def test_what_was_left_out_stands_right_below_the_verdicts_in_words(text):
    read = Page(text).text
    first = "kcenter at ipc 10 was left out: kcenter needs 50 training images in class 'a|b', which has 12."
    second = "dm at ipc 1 was left out: the student of seed 2 ran out of memory."
    assert read.rindex("its control. With") < read.index(first) < read.index(second) < read.index("Real training set")


def test_no_table_of_accuracies_mixes_two_columns(text):
    bodies = Page(text).tables[ACCURACIES]
    found = [(body[0][0].split()[0], [cells[0].split()[0] for cells in body[1:]]) for body in bodies]
    hard, soft, dynamic = (
        ("H", ["random", "infer_hard", "whole"]),
        ("S", ["infer", "random_S", "infer/noise", "infer/other_steps"]),
        ("D", ["infer-dyn", "random_D"]),
    )
    with_dm = ("H", ["random", "dm", "infer_hard", "whole"])
    assert found == [hard, soft, dynamic, hard, soft, dynamic, with_dm, soft, dynamic, with_dm, soft, dynamic]


def test_a_row_says_all_that_belongs_beside_its_number():
    results = small()
    read = Page(render(results))
    soft = {cells[0].split()[0]: cells for cells in read.tables[ACCURACIES][1][1:]}
    own, gap = soft["infer"], row(results, "infer")["against_random"]
    assert own[0].split() == ["infer", "INFER,", "static", "labels,", "as", "distilled"]
    assert f"{row(results, 'infer')['top1']['mean']:.2f} ± " in own[1]
    assert own[3].split()[0] == f"\u2212{abs(gap['mean']):.2f}"
    assert "p 0.007" in own[3]
    assert own[4].split() == ["▼", "worse"]
    assert own[5].split() == ["45.2", "(0.04),", "Table", "1", "arXiv:2408.06927"]
    assert [cell.split() for cell in own[6:8]] == [["40"], ["400"]]
    assert own[8].split() == ["static", "3.20", "kB"]
    assert own[9].split() == ["86.6", "kB", "0.93", "%"]
    assert own[10].strip() == "63.00"
    assert soft["random_S"][4].strip() == "the control"
    assert soft["random_S"][3].strip() == ""
    assert soft["infer/other_steps"][7].split() == ["100", "other", "work"]
    assert soft["infer/noise"][4].split() == ["=", "none"]


def test_an_arm_without_augmentation_says_so():
    results = small()
    results["rows"].append(row(results, "infer") | {"arm": "infer@plain", "role": "control"})
    (_, lines) = compared.groups(results, 10, "resnet18")[1]
    assert lines[-1].says == "INFER, static labels, as distilled, trained without augmentation"
    assert lines[-1].paper is None


def test_the_papers_number_stands_beside_its_own_row_alone_and_where_there_is_none_there_is_no_column():
    bodies = Page(render(small())).tables[ACCURACIES]
    printed = [cells[0].split()[0] for body in bodies for cells in body[1:] if cells[5].strip()]
    assert printed == ["infer"]
    without = render(small() | {"paper": []})
    assert "the paper’s" not in without
    assert {len(cells) for body in Page(without).tables[ACCURACIES] for cells in body[1:]} == {10}


def test_a_matrix_of_students_holds_one_column_of_one_ipc(text):
    results = comparison_of()
    found = compared.matrices(results, STUDENTS)
    assert [(m.ipc, m.column) for m in found] == [(1, "H"), (1, "S"), (1, "D"), (10, "H"), (10, "S"), (10, "D")]
    for matrix in found:
        for arm, _, cells in matrix.rows:
            lines = [line for line in cells if line is not None]
            assert [line.student for line in lines] == list(STUDENTS)
            assert {(line.arm, line.ipc, line.column) for line in lines} == {(arm, matrix.ipc, matrix.column)}
    assert len(Page(text).tables["matrix sortable"]) == 6
    assert compared.matrices(small(), ["resnet18"]) == []


def test_a_student_that_is_missing_leaves_a_dash_in_the_matrix():
    results = comparison_of((10,))
    results["rows"] = [r for r in results["rows"] if (r["arm"], r["student"]) != ("dm", "resnet18")]
    (cells,) = [cells for body in Page(render(results)).tables["matrix sortable"] for cells in body if "dm" in cells[0]]
    assert cells[2].strip() == "–"


def test_scores_stay_in_their_columns_and_a_dash_has_its_reason(text):
    bodies = Page(text).tables["scores sortable"]
    assert [body[0][0].split()[0] for body in bodies] == ["H", "S", "D"]
    soft = bodies[1][1]
    assert soft[0].strip() == "infer"
    assert soft[4].strip().startswith("\u2212")
    assert soft[6].strip() == "–"
    reason = "there is no row of it without augmentation, nor of random real images without augmentation."
    assert f'title="{reason}"' in text
    assert f"ARS of infer: {reason}" in text
    assert 'id="scores"' not in render(comparison_of((10,), scores=False))


def test_figures_hold_one_column_each_and_an_arm_keeps_its_mark():
    results = comparison_of()
    marks = marks_of(results)
    plots = against_ipc(results, "resnet18", marks)
    assert [[mark.name for mark in plot.legend] for plot in plots] == [
        ["random", "infer_hard", "dm"], ["infer", "random_S", "infer/noise", "infer/other_steps"],
        ["infer-dyn", "random_D"],
    ]  # fmt: skip
    assert all(mark == marks[mark.name] for plot in plots for mark in plot.legend)
    assert against_ipc(small(), "resnet18", marks) == []


def test_the_figure_of_a_column_shows_every_arm_and_every_seed():
    results = small()
    _, (column, lines), _ = compared.groups(results, 10, "resnet18")
    plot = by_arm(column, lines, marks_of(results), (30.0, 60.0))
    for line in lines:
        assert f"{line.arm}</text>" in plot.svg.replace("\n", "")
        assert f"{line.arm} {line.top1}" in plot.alt
    points = [part.split("</g>")[0].count("<use") for part in plot.svg.split('<g id="PathCollection')[1:]]
    assert points == [len(line.per_seed) for line in lines]
    one_seed = small(seeds=1)
    _, (column, lines), _ = compared.groups(one_seed, 10, "resnet18")
    assert "n=1" in by_arm(column, lines, marks_of(one_seed), (30.0, 60.0)).alt


def test_a_validation_split_is_shouted_at_the_top_in_every_caption_and_in_the_protocol():
    page = render(small(split="validation"))
    assert "VALIDATION split: held-out training images, for choices. Nothing on this page is a result." in page
    assert page.count("VALIDATION split (held-out training images, for choices; no result)") == 2
    assert "VALIDATION" not in render(small())


def test_protocol_teachers_bytes_times_commands_and_versions_stand_in_the_page(text):
    read, results = Page(text), comparison_of()
    for said in ("400 optimiser steps, 64 items in every step, seeds 0, 1, 2.", "momentum: 0.9", "mean of logits",
                 "distil (statistics)", results["commands"][0], f"torch {results['versions']['torch']}", "986 MB",
                 "A CPU (cpu, float32, 1 thread)"):  # fmt: skip
        assert said in read.text
    ledger = {cells[0].strip(): cells[-1].strip() for cells in read.tables["ledger"][1]}
    assert ledger["infer"] == f"{row(small(), 'infer')['bytes']['total']:,}"
    assert ledger["real training images, lossless WebP"] == "9,300,000"


def test_a_step_that_shows_several_pictures_of_an_item_says_how_many():
    results = small()
    row(results, "infer")["seen_per_step"] = 128
    row(results, "random_S")["seen_per_step"] = 64
    cells = {cells[0].split()[0]: cells for body in Page(render(results)).tables[ACCURACIES] for cells in body}
    assert "of 128 pictures" in " ".join(" ".join(cells["infer"]).split())
    assert "of 64 pictures" not in render(results)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_comparison(results, 10, "resnet18"))
    assert console.export_text().count("400 of 128 pictures") == 1


def test_steps_that_differ_by_ipc_are_said_in_words():
    results = small()
    results["protocol"]["steps"] = None
    assert "as many optimiser steps as the method that asks for most" in render(results)


def test_one_seed_and_no_networks_are_said_in_words():
    results = small(seeds=1) | {"teachers": {}}
    text = Page(render(results)).text
    assert "no test: one seed" in text
    assert "There are no networks behind the labels." in text
    assert "None" not in text
    assert "nan" not in text


def test_texts_of_strangers_are_shown_and_never_run(text):
    read = Page(text)
    assert "tiny <b>" in read.text
    assert "tiny <b>" not in text
    assert "Grey &amp; &lt;i&gt;small&lt;/i&gt;." in text
    hostile = small()
    hostile["failures"] = [{"method": CLASSES[0], "ipc": 10, "says": CLASSES[0]}]
    for entry in hostile["rows"]:
        entry |= {"says": CLASSES[0], "student": CLASSES[0]}
    assert CLASSES[0] not in render(hostile)


def test_the_page_loads_nothing_from_anywhere(text):
    read = Page(text)
    assert [a for a in read.addresses if not a.startswith("#")] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(read.tags)
    assert read.tags.count("script") == 1
    assert "http://" not in text
    assert "https://" not in text


def test_equal_results_give_equal_bytes(text):
    assert render(comparison_of()) == text


def test_the_page_is_written_beside_its_results(tmp_path):
    write_json(tmp_path / "run" / "results.json", small())
    path = write_comparison(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    assert path.read_text(encoding="utf-8") == render(small())


@pytest.mark.parametrize(
    "path", ["versions.datastill", "rows.4.against_random", "rows.0.random", "protocol.split", "failures", "peak_bytes"]
)
def test_a_missing_key_is_an_error_not_a_dash(tmp_path, path):
    results = json.loads(json.dumps(small()))
    *way, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = results
    for name in way:
        place = place[name]
    del place[last]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(DatastillError, match=f"lacks .*{last}.*run datastill compare again"):
        write_comparison(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("change", [{"kind": "other"}, {"rows": []}])
def test_other_results_are_refused(tmp_path, change):
    write_json(tmp_path / "results.json", small() | change)
    with pytest.raises(DatastillError, match="holds no rows of a comparison; datastill compare writes them"):
        write_comparison(tmp_path)


def test_results_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(DatastillError, match=r"results\.json"):
        write_comparison(tmp_path)


def test_the_terminal_shows_one_ipc_and_student_with_the_columns_apart():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(rich_comparison(comparison_of(), 10, "resnet18"))
    text = console.export_text()
    assert "10 images per class. Student resnet18: top-1 in percent on the test split" in text
    for said in ("dm", "whole", "\u22121.55 worse", "100 (other)", "+0.28 none"):
        assert said in text
    assert text.index("whole") < text.index("random_S") < text.index("random_D")
