"""The pages in a browser, driven from the command line: narrow, wide, dark and printed; sorting; and no request."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from datastill.report.comparison import render
from report.samples_comparison import comparison_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
PHONE, DESKTOP = 360, 1240
LIGHT, DARK = (251, 250, 248), (20, 23, 26)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="these tests need Chromium, and none of chromium, chromium-browser, google-chrome is here"
)

TOOLS = """
const name = (row) => (row.querySelector("b") ?? row.cells[0].firstChild).textContent.trim();
const bodies = (table) => [...table.tBodies].map((body) => [...body.rows].map(name));
const press = (head, key) => head.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const sorts = (table) => [...table.tHead.rows[0].cells].map((head) => head.getAttribute("aria-sort"));
const light = (text) => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = text.match(/[\\d.]+/g).map((n) => linear(n / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!colour.startsWith("rgba(")) return colour;
  }
};
const contrast = (node) => {
  const [low, high] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
"""


def run_browser(folder: Path, page: Path, *flags: str) -> str:
    assert BROWSER is not None
    profile = folder / f"profile-{len(list(folder.glob('profile-*')))}"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=folder)
    return done.stdout


def asked(folder: Path, page: str, script: str, *flags: str, width: int = DESKTOP) -> Any:
    """Return what a script that ends in `return ...` finds on a page: it is added to a copy, as the last element.

    The copy stands in a frame as wide as the screen that is meant: the browser's own window has a smallest width.
    """
    answer = "parent.document.documentElement.dataset.found"
    script = f"{TOOLS}{answer} = btoa(encodeURIComponent(JSON.stringify((() => {{{script}}})())));"
    copy = html.escape(page.replace("</body>", f"<script>{script}</script></body>"))
    frame = f'<iframe srcdoc="{copy}" style="border: 0; width: {width}px; height: 900px"></iframe>'
    head = '<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    path = folder / "frame.html"
    path.write_text(head + frame, encoding="utf-8")
    found = re.search(r'data-found="([^"]*)"', run_browser(folder, path, *flags, "--dump-dom"))
    assert found is not None, "the added script did not come to its end"
    return json.loads(unquote(base64.b64decode(found[1]).decode()))


@pytest.fixture(scope="module")
def comparison() -> str:
    """The page of two ipc, two students and all columns."""
    return render(comparison_of())


@pytest.fixture
def of_kind(comparison: str, page: str) -> Callable[[str], str]:
    """A page by its kind."""
    return {"comparison": comparison, "report": page}.__getitem__


@pytest.mark.parametrize("kind", ["comparison", "report"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen_and_nothing_is_asked_for_elsewhere(tmp_path, of_kind, kind, width):
    script = """
        for (const part of document.querySelectorAll("details")) part.open = true;
        const root = document.documentElement, wide = [];
        for (const node of document.querySelectorAll("main *"))
          if (!node.closest(".scroll, pre, svg") && node.getBoundingClientRect().right > innerWidth + 0.5)
            wide.push(node.outerHTML.slice(0, 80));
        return {
          width: innerWidth, scroll: root.scrollWidth, body: document.body.scrollWidth, wide,
          requests: performance.getEntriesByType("resource").map((entry) => entry.name),
          addresses: [...document.querySelectorAll("[src], [href], [srcset], [data], [poster]")]
            .map((node) => node.getAttribute("src") ?? node.getAttribute("href") ?? ""),
        };"""
    found = asked(tmp_path, of_kind(kind), script, width=width)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["body"] <= width
    assert found["wide"] == []
    assert [name for name in found["requests"] if not name.startswith("data:")] == []
    assert [name for name in found["addresses"] if not name.startswith(("#", "data:image/png;base64,"))] == []


def test_a_click_sorts_numbers_from_the_largest_inside_each_column_and_the_third_brings_back_the_order(
    tmp_path, comparison
):
    script = """
        const table = document.querySelectorAll("table.accuracies")[2], head = table.tHead.rows[0].cells[1];
        const seen = [[bodies(table), sorts(table)[1]]];
        for (let i = 0; i < 3; i++) { head.click(); seen.push([bodies(table), sorts(table)[1]]); }
        return seen;"""
    before, down, up, back = asked(tmp_path, comparison, script)
    assert before == [
        [["H", "random", "dm", "infer_hard", "whole"], ["S", "infer", "random_S", "infer/noise", "infer/other_steps"],
         ["D", "infer-dyn", "random_D"]], "none",
    ]  # fmt: skip
    assert down == [
        [["H", "whole", "dm", "random", "infer_hard"], ["S", "random_S", "infer/noise", "infer", "infer/other_steps"],
         ["D", "infer-dyn", "random_D"]], "descending",
    ]  # fmt: skip
    assert up == [[[body[0], *reversed(body[1:])] for body in down[0]], "ascending"]
    assert back == before


def test_enter_and_space_sort_one_column_at_a_time_and_a_header_can_be_reached(tmp_path, comparison):
    script = """
        const table = document.querySelectorAll("table.accuracies")[2], heads = [...table.tHead.rows[0].cells];
        const reached = heads.every((head) => { head.focus(); return document.activeElement === head; });
        press(heads[0], "Enter");
        const names = bodies(table), first = sorts(table);
        press(heads[7], " ");
        const steps = bodies(table), second = sorts(table);
        press(heads[2], "a");
        return { reached, names, first, steps, second, third: sorts(table) };"""
    found = asked(tmp_path, comparison, script)
    assert found["reached"]
    assert found["names"][0] == ["H", "dm", "infer_hard", "random", "whole"]
    assert found["first"] == ["ascending"] + ["none"] * 9
    assert found["steps"][1] == ["S", "infer", "random_S", "infer/noise", "infer/other_steps"]
    assert found["second"] == found["third"]
    assert [place for place, order in enumerate(found["second"]) if order != "none"] == [7]


def test_numbers_sort_by_their_value_and_blanks_stay_last_both_ways(tmp_path, comparison):
    script = """
        const own = document.querySelectorAll("table.accuracies")[2], scores = document.querySelector("table.scores");
        const values = (body, place) => [...body.rows].slice(1).map((row) => row.cells[place].dataset.value);
        const seen = [];
        for (const [table, place] of [[own, 3], [own, 9], [scores, 3]])
          for (let i = 0; i < 2; i++) {
            table.tHead.rows[0].cells[place].click();
            seen.push([...table.tBodies].map((body) => values(body, place)));
          }
        return seen;"""
    seen = asked(tmp_path, comparison, script)
    for down, up in zip(seen[::2], seen[1::2], strict=True):
        for largest, smallest in zip(down, up, strict=True):
            numbers = [float(value) for value in largest if value]
            assert numbers == sorted(numbers, reverse=True)
            assert [float(value) for value in smallest if value] == numbers[::-1]
            blanks = [""] * (len(largest) - len(numbers))
            assert largest[len(numbers) :] == smallest[len(numbers) :] == blanks
    assert any("" in body for body in seen[0])
    assert any(float(value) < 0 for body in seen[0] for value in body if value)


def test_the_table_of_a_run_sorts_too(tmp_path, page):
    script = """
        const table = document.querySelector("table.accuracies");
        table.tHead.rows[0].cells[1].click();
        return bodies(table);"""
    assert asked(tmp_path, page, script) == [
        ["S", "random_soft", "infer", "other_steps"],
        ["H", "random_hard"],
        ["D", "dynamic"],
    ]


@pytest.mark.parametrize(("flags", "paper", "dark"), [((), LIGHT, False), (("--force-dark-mode",), DARK, True)])
def test_every_text_can_be_read_on_light_and_on_dark(tmp_path, comparison, flags, paper, dark):
    script = """
        const texts = "main :is(p, td, th, small, strong, span, dt, dd, li, summary, pre, h1, h2, h3)";
        const low = [...document.querySelectorAll(texts)]
          .filter((node) => node.textContent.trim() && contrast(node) < 4.5).map((node) => node.outerHTML.slice(0, 80));
        const ink = getComputedStyle(document.querySelector("figure.plot svg text")).fill;
        const dark = matchMedia("(prefers-color-scheme: dark)").matches;
        return { low, dark, ink, page: getComputedStyle(document.body).color };"""
    found = asked(tmp_path, comparison, script, *flags)
    assert found["dark"] == dark
    assert found["low"] == []
    assert found["ink"] == found["page"]
    (tmp_path / "page.html").write_text(comparison, encoding="utf-8")
    shot = tmp_path / "shot.png"
    run_browser(tmp_path, tmp_path / "page.html", f"--window-size={DESKTOP},900", *flags, f"--screenshot={shot}")
    with Image.open(shot) as image:
        assert image.convert("RGB").getpixel((2, 2)) == paper


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_screenshot_is_as_wide_as_the_screen_and_full_of_ink(tmp_path, comparison, width):
    (tmp_path / "page.html").write_text(comparison, encoding="utf-8")
    shot = tmp_path / "shot.png"
    run_browser(tmp_path, tmp_path / "page.html", f"--window-size={width},1600", f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (1600, width)
    darkest = pixels.min(axis=1).tolist()
    assert all(min(darkest[i : i + 400]) < 128 for i in range(0, 1600, 400))


def test_the_script_changes_nothing_but_the_headers_of_tables(tmp_path, comparison):
    doms = []
    for text in (comparison, re.sub(r"<script>.*</script>\n", "", comparison, flags=re.DOTALL)):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        doms.append(run_browser(tmp_path, tmp_path / "page.html", "--dump-dom"))
    running = re.sub(r"<script>.*</script>\n", "", doms[0], flags=re.DOTALL)
    assert running.count(' aria-sort="none"') > 50
    assert re.sub(r' (tabindex="0"|aria-sort="none"|title="Sort by this column")', "", running) == re.sub(
        r' tabindex="0"', "", doms[1]
    )


@pytest.mark.parametrize("kind", ["comparison", "report"])
def test_print_has_all_text_as_text_the_closed_parts_too(tmp_path, of_kind, kind):
    plain = of_kind(kind)
    folded, without = tmp_path / "folded.html", tmp_path / "without.html"
    folded.write_text(plain, encoding="utf-8")
    without.write_text(re.sub(r"<details.*?</details>", "", plain, flags=re.DOTALL), encoding="utf-8")
    counts = [_glyphs(tmp_path, path) for path in (folded, without)]
    assert min(counts) > 2000
    assert counts[0] > counts[1] + 500


def _glyphs(folder: Path, page: Path) -> int:
    """Return how many glyphs a page's print shows, in fonts that say which letters they are."""
    printed = page.with_suffix(".pdf")
    run_browser(folder, page, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    data = printed.read_bytes()
    assert data.startswith(b"%PDF-")
    assert b"/ToUnicode" in data
    count = 0
    for stream in data.split(b"endstream"):
        content = _inflated(stream.partition(b"stream")[2].lstrip(b"\r\n"))
        for block in content.split(b"BT\n")[1:]:  # glyphs are hexadecimal, four digits each
            count += sum(len(found) // 4 for found in re.findall(rb"<([0-9A-Fa-f]+)>", block.partition(b"ET\n")[0]))
    return count


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)
    except zlib.error:
        return b""
