"""docs/tables.py: pages from row files, the same every time, and a check that says when they are stale."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from datastill.report.tables import reduce_results
from datastill.runtime.files import write_json

ROOT = Path(__file__).parents[2]
README = "# Title\n\n<!-- results -->\nold\n<!-- /results -->\n\nThe rest.\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_tables"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path, results):
    folder = tmp_path / "docs" / "results"
    write_json(folder / "b.json", reduce_results(results))
    write_json(folder / "a.json", reduce_results(results | {"ipc": 7}))
    (folder / "pages.yaml").write_text("readme: b.json\norder: [b.json]\n")
    (folder / "waiting.yaml").write_bytes((ROOT / "docs" / "results" / "waiting.yaml").read_bytes())
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_the_page_has_a_section_per_file_in_the_stated_order_with_the_verdict_first(script, root, results):
    assert script.main([], root) == 0
    page = (root / "docs" / "results.md").read_text()
    first, second = page.index("at 4 images per class"), page.index("at 7 images per class")
    assert first < second < page.index("## Waiting for a GPU")
    assert (
        first
        < page.index("infer does not beat its control: it is worse.")
        < page.index("### Accuracies with `resnet18`")
    )
    assert "datastill distill photos --ipc 4 --out DIR" in page
    assert "/home" not in page
    assert "tiny &lt;b&gt; at 4" in page
    assert "[b.json](results/b.json)" in page


BENCH = {
    "machine": {"name": "A CPU", "cores": 2, "system": "Linux"},
    "versions": {"torch": "2.9"},
    "threads": 1,
    "clock": "cpu",
    "rounds": 9,
    "rows": [
        {"phase": "recovery", "network": "convnet", "precision": "float32", "items": 20, "ratio": 2.504,
         "ratio_min": 2.4, "ratio_max": 2.6, "max_relative_difference_float64": 3e-15,
         "reference_peak_bytes": 3 << 20, "product_peak_bytes": 2 << 20},
    ],
}  # fmt: skip


def test_rows_of_the_benchmark_have_a_section_of_their_own(script, root):
    write_json(root / "docs" / "results" / "bench-cpu.json", BENCH)
    assert script.main([], root) == 0
    speed = (root / "docs" / "results.md").read_text().partition("## Speed against")[2]
    assert "| recovery | `convnet` | float32 | 20 | 2.50 | 2.40 to 2.60 | 3e-15 | 3 | 2 |" in speed
    assert "9 rounds, threads: 1, by the processor's clock" in speed


def test_runs_that_wait_for_a_gpu_show_their_commands_and_the_papers_numbers(script, root):
    script.main([], root)
    waiting = (root / "docs" / "results.md").read_text().partition("## Waiting for a GPU")[2]
    for said in (
        "datastill distill cifar100 --method infer --ipc 10 --out runs/cifar100-infer --device cuda\n",
        "datastill distill cifar100 --method infer-dyn --ipc 10 --out runs/cifar100-infer-dyn --device cuda\n",
        "datastill evaluate runs/cifar100-infer --students resnet18 --seeds 3\n",
        "The paper's number: 45.2 (0.04), Table 1 of arXiv 2408.06927.",
        "The paper's number: 53.4 (0.6), Table 1 of arXiv 2408.06927.",
    ):
        assert said in waiting


def test_the_readme_keeps_all_but_what_stands_between_its_markers(script, root):
    script.main([], root)
    text = (root / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- results -->\n")
    assert text.endswith("\n<!-- /results -->\n\nThe rest.\n")
    assert "old" not in text
    assert "**46.50\u00a0±\u00a00.50\u00a0(n=3)**" in text


def test_a_readme_without_markers_is_left_alone(script, root):
    (root / "README.md").write_text("# Title\n")
    assert script.main([], root) == 0
    assert (root / "README.md").read_text() == "# Title\n"


def test_running_twice_changes_nothing(script, root, capsys):
    script.main([], root)
    before = {path: path.read_bytes() for path in root.rglob("*.md")}
    assert "written" in capsys.readouterr().out
    assert script.main([], root) == 0
    assert {path: path.read_bytes() for path in root.rglob("*.md")} == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("page", ["docs/results.md", "README.md"])
def test_check_fails_when_a_page_is_out_of_date_and_writes_nothing(script, root, capsys, page):
    script.main([], root)
    assert script.main(["--check"], root) == 0
    changed = (root / page).read_text().replace("46.50", "99.99")
    (root / page).write_text(changed)
    capsys.readouterr()
    assert script.main(["--check"], root) == 1
    assert capsys.readouterr().out == f"{page} is out of date: run make tables\n"
    assert (root / page).read_text() == changed


def test_a_listed_file_that_is_not_there_yet_is_named_and_the_pages_go_without_it(script, root, capsys):
    (root / "docs" / "results" / "pages.yaml").write_text("readme: later.json\norder: [later.json, b.json]\n")
    assert script.main([], root) == 0
    assert "lists 'later.json', which is not in docs/results/" in capsys.readouterr().err
    assert (root / "README.md").read_text() == README
    assert script.main(["--check"], root) == 1


@pytest.mark.parametrize("text", ["readme: b.json\n", "order: b.json\nreadme: null\n", "[", "a: 1\n"])
def test_a_broken_list_of_pages_is_one_sentence_and_exit_code_2(script, root, capsys, text):
    (root / "docs" / "results" / "pages.yaml").write_text(text)
    assert script.main([], root) == 2
    said = capsys.readouterr().err
    assert said.startswith("tables: ")
    assert "pages.yaml" in said


def test_a_project_without_results_says_so(script, root):
    for path in (root / "docs" / "results").glob("*.json"):
        path.unlink()
    (root / "docs" / "results" / "pages.yaml").write_text("readme: null\norder: []\n")
    assert script.main([], root) == 0
    assert "No run has been measured yet." in (root / "docs" / "results.md").read_text()


def test_the_committed_pages_are_up_to_date(script):
    assert script.main(["--check"]) == 0
