"""The report: what stands in it, in what order, and that it loads nothing and runs nothing of a stranger's."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.report import rows
from datastill.report.html import render, write_report
from datastill.report.parts import byte_bars
from datastill.report.pictures import Picture, amplification, chosen_classes, class_grid
from report.samples import CLASSES, WORSE, results_of, small_set

Run = Callable[[dict[str, Any]], Path]


class Page(HTMLParser):
    """Reads a page: every address that it names, and its tables as [[row of cell texts] per tbody] by class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.text = ""
        self._table: list[list[list[str]]] = []
        self._bodies: list[list[list[str]]] | None = None
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.addresses += [found[name] for name in ("src", "href", "data", "srcset", "xlink:href") if name in found]
        self.addresses += re.findall(r"url\(['\"]?([^)'\"]*)", found.get("style", "") + found.get("clip-path", ""))
        if tag == "table":
            self._table = self.tables.setdefault(found.get("class", ""), [])
        elif tag == "tbody":
            self._bodies = self._table
            self._bodies.append([])
        elif tag == "tr" and self._bodies:
            self._bodies[-1].append([])
        elif tag in ("td", "th") and self._bodies and self._bodies[-1]:
            self._bodies[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        if tag == "tbody":
            self._bodies = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell and self._bodies and self._bodies[-1]:
            self._bodies[-1][-1][-1] += data + " "


@pytest.mark.parametrize(
    ("scores", "tone"),
    [
        ([46.0, 47.0, 46.5], "Does not beat its control"),
        ([56.0, 57.0, 56.5], "Beats its control"),
        ([51.9, 50.9, 52.0], "Does not beat its control"),
        ([46.0, 47.0], "Nothing proven"),
    ],
)
def test_the_page_opens_with_the_verdict_in_plain_words(distilled, run_of, scores, tone):
    arms = {"infer": scores, "random_soft": [51.0, 52.1, 51.4][: len(scores)]}
    results = results_of(distilled, {"convnet": arms})
    text = Page(write_report(run_of(results)).read_text(encoding="utf-8")).text
    verdict = results["verdict"][0].replace("-", "\u2212")
    assert text.index(tone) < text.index(verdict) < text.index("Accuracies")


def test_sections_stand_in_the_order_of_importance(page):
    places = [page.index(f'<section id="{name}">') for name in
              ("accuracies", "networks", "bytes", "pictures", "curves", "embedding", "counts", "repeat")]  # fmt: skip
    assert places == sorted(places)


def test_the_page_loads_nothing_from_anywhere(page):
    read = Page(page)
    assert read.addresses
    outside = [a for a in read.addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert not {"link", "iframe", "object", "embed", "base"} & set(read.tags)
    assert read.tags.count("script") == 1  # the page's own, which sorts tables; an address would be among the others
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http://" not in page
    assert "https://" not in page


def test_texts_of_strangers_are_shown_and_never_run(page):
    assert CLASSES[0] not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "tiny <b>" not in page
    assert "Grey &amp; &lt;i&gt;small&lt;/i&gt;." in page
    for name in CLASSES:
        assert name in Page(page).text


def test_columns_h_s_and_d_are_groups_of_their_own_with_the_method_first_in_its_own(page):
    bodies = Page(page).tables["accuracies sortable"]
    groups = [(body[0][0].split()[0], [row[0].split()[0] for row in body[1:]]) for body in bodies]
    assert groups == [("S", ["infer", "random_soft", "other_steps"]), ("H", ["random_hard"]), ("D", ["dynamic"])]


def test_a_row_says_accuracy_difference_test_and_verdict(page):
    _, method, control, steps = Page(page).tables["accuracies sortable"][0]
    assert "46.50 ± 0.50 (n=3)" in method[1]
    assert method[3].strip() == ""
    assert "51.50 ± 0.56 (n=3)" in control[1]
    assert control[3].split() == ["\u22125.00", "t", "\u221286.6,", "p", "<", "0.001"]
    assert control[4].split() == ["▼", "worse"]
    assert "other steps" in steps[7]


def test_a_step_that_shows_several_pictures_of_an_item_says_how_many(results, distilled):
    results["rows"][0] |= {"seen_per_step": 128}
    _, method, control, _ = Page(render(results, distilled)).tables["accuracies sortable"][0]
    assert method[7].split() == ["400", "of", "128", "pictures"]
    assert control[7].split() == ["400"]


def test_bytes_to_the_byte_are_those_of_the_ledger(page, distilled):
    ledger = distilled.ledger()
    rows = Page(page).tables["ledger"][0]
    assert [cell.strip() for cell in rows[0]] == ["infer", *(f"{count:,}" for count in ledger.values())]
    assert sum(path.stat().st_size for path in distilled.folder.rglob("*") if path.is_file()) == ledger["total"]
    assert [row[-1].strip() for row in rows[-2:]] == ["148,668", "92,032"]


def test_the_papers_number_stands_in_its_own_column_of_the_methods_row_alone(distilled, run_of):
    results = results_of(distilled, {"resnet18": WORSE, "convnet(width=32)": WORSE}, paper=True)
    text = write_report(run_of(results)).read_text(encoding="utf-8")
    own, *others = [row for body in Page(text).tables["accuracies sortable"][:3] for row in body[1:]]
    assert own[5].strip() == "45.2 (0.04), Table 1"
    assert all(row[5].strip() == "" for row in others)
    assert text.count("the paper&#39;s (arXiv:2408.06927)") == 1
    assert text.count("Table 1") == 1


@pytest.mark.parametrize(
    "path",
    ["verdict", "counts.natural", "rows.0.top1.std", "rows.1.method_minus_this", "peak_bytes", "rows.0.losses",
     "rows.0.embedding", "versions.datastill", "real_bytes.webp"],
)  # fmt: skip
def test_a_missing_key_is_an_error_not_a_dash(results, run_of, path):
    broken = json.loads(json.dumps(results))
    *way, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = broken
    for name in way:
        place = place[name]
    del place[last]
    run = run_of(broken)
    with pytest.raises(DatastillError, match=f"results.json' lacks .*{last}.*run datastill evaluate again"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_values_that_are_null_by_design_are_said_in_words(distilled, run_of):
    results = results_of(distilled, {"convnet": {"infer": [46.0], "random_soft": [51.0]}})
    results["rows"][0]["embedding"] = None
    results["rows"][0]["per_class"][1] = None
    text = Page(write_report(run_of(results)).read_text(encoding="utf-8")).text
    for words in ("46.00 (n=1)", "no test: one seed", "Not recorded.", "no test images"):
        assert words in text
    assert "None" not in text
    assert "nan" not in text


def test_results_of_another_set_are_refused(results, run_of):
    results["bytes"]["total"] += 1
    with pytest.raises(DatastillError, match="is not the set that .* measured"):
        write_report(run_of(results))


def test_a_set_that_is_gone_is_named(results, run_of):
    results["distilled"] = "nowhere/set"
    with pytest.raises(DatastillError, match="'nowhere/set' holds no distilled set"):
        write_report(run_of(results))


def test_equal_results_give_equal_bytes(results, distilled):
    assert render(results, distilled) == render(results, distilled)


def test_commands_recipe_seeds_versions_and_device_stand_in_the_page(page, results):
    text = Page(page).text
    torch_version = f"torch {results['versions']['torch']}"
    for said in (*results["commands"], "kind: compensated", "Seeds of students: 0, 1, 2.", torch_version,
                 "A CPU (cpu, float32, 1 thread)", "2 were left over and not spent", "986 MB"):  # fmt: skip
        assert said in text


def test_pictures_are_the_very_pixels_that_a_student_sees(distilled):
    grid, expanded, items = class_grid(distilled), distilled.expand().images, distilled.content.items
    assert [name for name, _ in grid.rows] == list(CLASSES)
    makers = len(distilled.recipe.networks)
    assert len(grid.headings) == 2 * (makers + 1)
    for k, (_, cells) in enumerate(grid.rows):
        for place, cell in enumerate(cells):
            assert cell is not None
            number, maker = divmod(place, makers + 1)
            (row,) = (
                ((items.cls == k) & (items.set == number) & (items.maker == maker - 1)).nonzero().flatten().tolist()
            )
            assert np.array_equal(_pixels(cell), expanded[row, 0].numpy())


def test_compensators_are_shown_amplified_by_the_stated_factor_around_grey(distilled):
    grid, u = class_grid(distilled), distilled.content.arrays["compensators"].float() / 127.0
    assert grid.factor == 2
    assert grid.compensators is not None
    assert grid.compensators[0] is None
    for place, unit in ((1, 0), (2, 1), (3, 2), (5, 3)):
        wanted = ((0.5 + 2 * u[unit, 0]).clamp(0, 1) * 255).round().to(torch.uint8)
        assert np.array_equal(_pixels(grid.compensators[place]), wanted.numpy())


def test_a_set_without_compensators_is_shown_item_by_item(distilled):
    items = dataclasses.replace(distilled.content.items, **{name: torch.full_like(distilled.content.items.cls, -1)
                                                            for name in ("maker", "unit")})  # fmt: skip
    plain = dataclasses.replace(distilled, content=dataclasses.replace(distilled.content, items=items, arrays={}))
    grid = class_grid(plain)
    assert grid.factor is None
    assert grid.compensators is None
    assert grid.headings[0] == "image 1"
    assert all(len(cells) == len(grid.headings) for _, cells in grid.rows)


def test_large_pictures_are_made_smaller_and_at_most_ten_classes_are_shown():
    made = small_set(tuple(f"class {i}" for i in range(23)), side=120)
    grid = class_grid(made)
    assert [name for name, _ in grid.rows] == [f"class {i}" for i in chosen_classes(23)]
    assert len(grid.rows) == 10
    assert not grid.tiny
    assert _pixels(grid.rows[0][1][0]).shape == (112, 112)


@pytest.mark.parametrize(("largest", "factor"), [(0.9, 1), (0.2, 2), (0.01, 16), (0.0, 16)])
def test_the_factor_brings_the_largest_values_to_black_or_white(largest, factor):
    assert amplification(torch.tensor([0.0, largest, -largest, largest])) == factor


def ledgers(results: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    return [(row["arm"], row["bytes"]) for row in results["rows"]]


def test_small_sets_are_drawn_to_the_scale_of_the_real_one_and_then_magnified(results):
    results["real_bytes"] = {"webp": 1_000_000, "raw": 2_000_000}
    (first, (own, *real)), (second, arms) = byte_bars(ledgers(results), rows.real_lines(results))
    largest = max(row["bytes"]["total"] for row in results["rows"])
    assert first == "To the scale of the real set"
    assert second == f"All arms, magnified {2_000_000 / largest:.0f} times"
    assert sum(width for *_, width, _ in own.parts) == pytest.approx(100 * own.total / 2_000_000)
    assert [bar.parts[0][2] for bar in real] == [50.0, 100.0]
    assert max(sum(width for *_, width, _ in bar.parts) for bar in arms) == pytest.approx(100.0)


def test_sets_that_weigh_much_stand_beside_the_real_one_on_one_scale(results):
    ((heading, bars),) = byte_bars(ledgers(results), rows.real_lines(results))
    assert heading == "All to one scale"
    assert [bar.label for bar in bars[:2]] == ["infer", "random_soft"]
    assert max(sum(width for *_, width, _ in bar.parts) for bar in bars) == pytest.approx(100.0)
    assert any(kind == "teachers" for bar in bars for kind, *_ in bar.parts)


def _pixels(picture: Picture | None) -> np.ndarray:
    assert picture is not None
    return np.array(Image.open(io.BytesIO(base64.b64decode(picture.uri.removeprefix("data:image/png;base64,")))))


def test_the_fixture_is_a_set_that_loads(distilled):
    assert torch.equal(DistilledDataset.load(distilled.folder).expand().images, distilled.expand().images)
