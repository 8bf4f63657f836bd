"""The page of a sweep: its first sentence, its table and figure, and that nothing of a stranger runs in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from datastill.errors import DatastillError
from datastill.measure.critical import critical_of
from datastill.report.critical import LUCK, PAGE, chart, critical_sentences, rich_critical, write_critical
from datastill.report.pages import write_any
from datastill.report.words import MINUS as M
from datastill.runtime.files import write_json
from reference.ladder import gap_of, ladder

NOISE, LOSS, GAIN = [0.4, -0.6, 0.1], [-3.0, -3.1, -2.9], [1.0, 1.1, 0.9]


def sweep(*shares: tuple[float, list[float]]) -> dict[str, Any]:
    """Return results of a sweep with these points above the start for each share, and no failure."""
    results = ladder(only=["controls"])
    (experiment,) = results["experiments"]
    like, start = experiment["rows"][0], results["start"]
    experiment["rows"] = []
    for keep, points in shares:
        scores = [a + b for a, b in zip(start["top1"]["per_seed"], points, strict=True)]
        top1 = {"per_seed": scores, "mean": sum(scores) / 3, "std": 1.0, "n": 3}
        row = like | {"changes": [f"select.keep={keep!r}"], "variant": f"keep {keep:g}", "top1": top1}
        experiment["rows"].append(row | {"against_best": gap_of(row, start)})
    return results | {"critical": critical_of(results)}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([(0.6, NOISE), (0.2, LOSS)],
         f"The critical keep-ratio is 0.6: on held-out training images, students of this share do not differ beyond "
         f"noise from those of all images ({M}0.03 points, n=3), and at every smaller one they are worse. A loss of up "
         f"to 1.31 points may still be there, unseen."),
        ([(0.6, NOISE), (0.2, GAIN)],
         "The critical keep-ratio is 0.2: on held-out training images, students of this share are better than those "
         "of all images (+1.00 points, n=3), and no smaller one was tried."),
        ([(0.6, LOSS)], "No pruning is free: on held-out training images, students are worse at every share below 1, "
         "beyond noise."),
        ([], "No share below 1 could be measured."),
    ],
)  # fmt: skip
def test_the_first_sentence_is_the_finding_and_what_it_leaves_open(shares: Any, said: str) -> None:
    sentences = critical_sentences(sweep(*shares))
    assert sentences[0] == said
    assert (LUCK in sentences) == bool(shares)


def test_larger_shares_that_are_worse_are_named_and_so_is_what_was_left_out() -> None:
    results = sweep((0.8, LOSS), (0.6, LOSS), (0.4, NOISE))
    results["failures"] = [{"method": "keep-ratio: keep 0.1", "ipc": 0, "says": "class 'a' keeps 1."}]
    sentences = critical_sentences(results)
    assert sentences[1] == "Larger shares are worse all the same: 0.8 and 0.6."
    assert sentences[-1] == "keep-ratio: keep 0.1 was left out: class 'a' keeps 1."


def test_the_figure_tells_what_is_worse_by_shape_and_in_words() -> None:
    plot = chart(sweep((0.6, NOISE), (0.2, LOSS)))
    assert ElementTree.fromstring(plot.svg).tag == "svg"
    assert [mark.sign for mark in plot.legend] == ["●", "▼"]
    assert "0.2: 42.53" in plot.alt
    assert len(chart(sweep((0.6, NOISE))).legend) == 1


def test_a_terminal_shows_every_share_with_its_worst_case() -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=140).print(rich_critical(sweep((0.6, NOISE), (0.2, LOSS))))
    said = " ".join(buffer.getvalue().split())
    for part in ("keep", "at worst", "45.53", f"{M}0.03", f"{M}1.31", "worse", "VALIDATION"):
        assert part in said


def test_the_page_says_the_finding_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    results = sweep((0.6, NOISE), (0.2, LOSS))
    write_json(tmp_path / "results.json", results)
    page = write_critical(tmp_path).read_text(encoding="utf-8")
    assert critical_sentences(results)[0] in page
    assert "photos &lt;b&gt;" in page
    assert "photos <b>" not in page
    assert page.count('class="own"') == 1
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_report_that_is_written_again_is_that_of_the_sweep_too(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", sweep((0.6, NOISE), (0.2, LOSS)))
    assert write_any(tmp_path) == tmp_path / "report.html"
    first = (tmp_path / PAGE).read_text(encoding="utf-8")
    write_json(tmp_path / "results.json", sweep((0.6, LOSS), (0.2, LOSS)))
    write_any(tmp_path)
    assert "No pruning is free" in (tmp_path / PAGE).read_text(encoding="utf-8") != first
    write_json(tmp_path / "plain" / "results.json", ladder())
    write_any(tmp_path / "plain")
    assert not (tmp_path / "plain" / PAGE).exists()


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", ladder())
    with pytest.raises(DatastillError, match="holds no sweep of keep-ratios; datastill critical writes them"):
        write_critical(tmp_path)
    results = sweep((0.6, NOISE))
    del results["critical"]["rows"][0]["top1"]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(DatastillError, match="lacks something that a report needs .* datastill critical again"):
        write_critical(tmp_path)
