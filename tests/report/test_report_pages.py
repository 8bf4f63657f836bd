"""docs/tables: pages and figures from row files, the same every time, and a check that says when they are stale."""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from datastill.measure.ledger import write_rows
from datastill.report.plots import COLOURS
from datastill.runtime.files import write_json
from reference.ladder import ladder
from reference.measured import compared, frontier, measured, proxy, row

ROOT = Path(__file__).parents[2]
README = "# Title\n\n<!-- results -->\nold\n<!-- /results -->\n\nThe rest.\n"
PROXIES = "# Proxies\n\nProse.\n\n<!-- proxies -->\n<!-- /proxies -->\n"
LEVERS = "# Levers\n\nProse.\n\n<!-- levers -->\n<!-- /levers -->\n"
FRONTIER = "# The frontier\n\nProse.\n\n<!-- frontier -->\n<!-- /frontier -->\n"
NB = "\u00a0"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    folder = ROOT / "docs" / "tables"
    spec = importlib.util.spec_from_file_location(
        "docs_tables", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["docs_tables"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("docs_tables.build")


def groups_of(script: ModuleType, root: Path) -> list[str]:
    ledger = sys.modules["docs_tables.ledger"]
    return [group.name for group in ledger.read(root / "docs" / "results").groups]


def choose(root: Path, order: list[str], *readme: dict[str, Any]) -> None:
    text = yaml.safe_dump({"readme": list(readme), "order": order})
    (root / "docs" / "results" / "pages.yaml").write_text(text)


@pytest.fixture
def root(script, tmp_path):
    folder = tmp_path / "docs" / "results"
    write_rows(compared(), folder)
    write_rows(compared(ipc=7), folder)
    (folder / "waiting.yaml").write_bytes((ROOT / "docs" / "results" / "waiting.yaml").read_bytes())
    choose(tmp_path, [])
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "docs" / "frontier.md").write_text(FRONTIER)
    (tmp_path / "docs" / "proxies.md").write_text(PROXIES)
    (tmp_path / "docs" / "levers.md").write_text(LEVERS)
    (ten,) = [name for name in groups_of(script, tmp_path) if "-ipc10-" in name]
    choose(tmp_path, [ten], {"group": ten, "methods": ["infer"]})
    return tmp_path


def page(root: Path, name: str = "docs/results.md") -> str:
    return (root / name).read_text(encoding="utf-8")


def test_the_page_has_a_section_per_group_in_the_stated_order_with_the_verdict_first(script, root):
    assert script.main([], root) == 0
    text = page(root)
    first, second = text.index("at 10 images per class"), text.index("at 7 images per class")
    assert first < second < text.index("## Waiting for a GPU")
    assert (
        first
        < text.index("infer does not beat its control: it is worse.")
        < text.index("### Accuracies with `convnet`")
        < second
    )
    assert "datastill compare photos --out 'run'" in text
    assert "/home" not in text
    assert "what infer &lt;i&gt;is" in text


def test_a_row_says_its_labels_its_bytes_its_networks_and_how_it_stands_to_random_real_images(script, root):
    script.main([], root)
    infer = next(line for line in page(root).splitlines() if line.startswith("| `infer`<br>"))
    for said in (
        f"[**46.50{NB}±{NB}0.50{NB}(n=3)**](results/photos-infer-ipc10-convnet-s-400-", " 400 ",
        f"| worse<br>−5.00<br>t{NB}−86.6,{NB}p{NB}<{NB}0.001 |",
        f"soft, 100{NB}B", f"1.20{NB}kB<br>6{NB}%", " 81.00 ",
    ):  # fmt: skip
        assert said in infer
    assert "### Bytes" in page(root)
    assert "| real training images, lossless WebP |" in page(root)


def test_no_table_holds_two_columns_of_labels(script, root):
    script.main([], root)
    section = page(root).partition("### Accuracies")[2].partition("### Bytes")[0]
    tables = re.findall(r"Column (.) \([^\n]*\n\n(\|.*?)\n\n", section, re.DOTALL)
    arms = {column: re.findall(r"^\| `(\w+)`", table, re.MULTILINE) for column, table in tables}
    assert arms == {"S": ["random", "infer"], "H": ["random_hard", "infer_hard"]}


def test_every_row_of_a_table_has_the_cells_of_its_heading(script, root):
    write_rows(frontier(), root / "docs" / "results")
    write_rows(proxy("nas"), root / "docs" / "results")
    write_rows(proxy("continual"), root / "docs" / "results")
    write_rows(ladder(), root / "docs" / "results")
    script.main([], root)
    names = ("results", "leaderboard", "frontier", "proxies", "levers")
    for name in (*(f"docs/{name}.md" for name in names), "README.md"):
        for table in re.findall(r"(?:^\|[^\n]*\n)+", page(root, name), re.MULTILINE):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


def test_several_methods_share_a_sentence_for_each_verdict(script, root):
    write_rows(compared(ipc=3, pdd=[60.0, 61.0, 60.5], idc=[51.0, 52.0, 51.5]), root / "docs" / "results")
    script.main([], root)
    assert (
        "**Column S with convnet: better than random real images with the same kind of labels are pdd; within noise of "
        "random real images with the same kind of labels are idc; worse than random real images with the same kind of "
        "labels are infer.**"
    ) in page(root)


def test_two_sets_with_the_same_names_have_tables_of_their_own_and_each_its_own_random_row(script, root):
    folder = root / "docs" / "results"
    other = copy.deepcopy(compared())
    for each in other["rows"]:
        each["recipe"]["seed"] = 1
    scores = [51.4, 51.0, 52.1]  # the mean of the other set's random row, another deviation of differences
    other["rows"][2] = row("random", scores)
    other["rows"][2]["recipe"]["seed"] = 1
    write_rows(measured(other["rows"]) | {"commands": ["datastill compare again"]}, folder)
    script.main([], root)
    text = page(root).partition("at 7 images")[0]
    assert "Rows 1 of 2, whose networks are `convnet`:" in text
    assert "datastill compare again" in text
    assert len(re.findall(r"-5\.00 points \(paired, t -86\.6", text)) == 1
    assert len(re.findall(r"-5\.00 points \(paired, t -\d+\.\d", text)) == 2


def test_rows_of_a_run_without_networks_stand_among_those_of_a_run_that_has_them(script, root):
    folder = root / "docs" / "results"
    hard = [row("dm", [56.0, 57.0, 56.5], column="H"), row("random", [51.0, 52.0, 51.5], column="H")]
    write_rows(measured(hard) | {"teachers": {}}, folder)
    script.main([], root)
    text = page(root).partition("at 7 images")[0]
    assert "Rows 1 of 2" not in text
    table = text.partition("Column H (hard labels only):")[2].partition("\n\n| arm |")[2].partition("\n\n")[0]
    assert "| `dm`<br>" in table
    assert "| `convnet` |" in text  # the networks of the other rows are still told


def test_a_method_without_its_control_claims_nothing(script, root):
    folder = root / "docs" / "results"
    write_rows(measured([row("infer", [46.0, 47.0, 46.5], ipc=2)]), folder)
    script.main([], root)
    assert "was not run, so this says nothing about the method." in page(root)


def test_a_row_with_other_steps_stands_in_the_group_of_its_comparison_and_is_marked(script, root):
    folder = root / "docs" / "results"
    other = row("infer", [30.0, 31.0, 32.0], arm="other_steps", role="control", ipc=5, steps=100, same_work=False)
    write_rows(measured([row("infer", [46.0, 47.0, 46.5], ipc=5), other]), folder)
    assert len(groups_of(script, root)) == 3
    script.main([], root)
    assert "| 100 (other) |" in page(root)


def test_the_whole_training_set_stands_in_the_group_of_every_ipc(script, root):
    folder = root / "docs" / "results"
    write_rows(measured([row("random", [90.0, 90.5, 90.2], arm="whole", role="whole", column="H")]), folder)
    assert len(groups_of(script, root)) == 2
    script.main([], root)
    assert page(root).count("| `whole`<br>") == 2


def test_students_without_augmentation_have_a_table_of_their_own_and_are_compared_with_nothing(script, root):
    rows = [
        row("infer", [46.0, 47.0, 46.5], ipc=5),
        row("random", [46.0, 47.0, 46.5], ipc=5),
        row("infer", [20.0, 21.0, 20.5], arm="infer@plain", role="plain", ipc=5),
        row("random", [46.0, 47.0, 46.5], arm="random@plain", role="plain", ipc=5),
    ]
    write_rows(measured(rows), root / "docs" / "results")
    (group,) = [g for g in sys.modules["docs_tables.ledger"].read(root / "docs" / "results").groups if g.ipc == 5]
    own = next(e for e in group.entries if e.row["arm"] == "infer")
    assert group.random_beside(own).row["arm"] == "random"
    script.main([], root)
    table = (
        page(root).partition("Column S, students without crops, flips or mixing")[2].partition("\n\nThe networks")[0]
    )
    assert re.findall(r"^\| `([\w@]+)`", table, re.MULTILINE) == ["random@plain", "infer@plain"]
    assert "against" not in table


BENCH = {
    "machine": {"name": "A CPU", "cores": 2, "system": "Linux"},
    "versions": {"torch": "2.9"},
    "threads": 1,
    "clock": "cpu",
    "classes": 10,
    "rounds": 9,
    "rows": [
        {"phase": "recovery", "network": "convnet", "precision": "float32", "items": 20, "ratio": 2.504,
         "product_s": 0.1, "ratio_min": 2.4, "ratio_max": 2.6, "ratio_to_float32_reference": 3.1,
         "max_relative_difference_float64": 3e-15,
         "reference_peak_bytes": 3 << 20, "product_peak_bytes": 2 << 20},
    ],
}  # fmt: skip


def test_rows_of_the_benchmark_have_a_section_of_their_own(script, root):
    write_json(root / "docs" / "results" / "bench-cpu.json", BENCH)
    assert script.main([], root) == 0
    speed = page(root).partition("## Speed against")[2]
    assert "| recovery | `convnet` | float32 | 20 | 2.50 | 2.40 to 2.60 | 3.10 | 200 | 3e-15 | 3 | 2 |" in speed
    assert "a hour" not in speed
    write_json(root / "docs" / "results" / "bench-cpu.json", BENCH | {"says": ["CIFAR takes a hour of *one* thread."]})
    script.main([], root)
    assert r"takes a hour of \*one\* thread." in page(root).partition("## Speed against")[2]
    assert "10 classes; 9 rounds, threads: 1, by the processor's clock" in speed


def test_runs_that_wait_for_a_gpu_show_their_commands_and_the_papers_numbers(script, root):
    script.main([], root)
    waiting = page(root).partition("## Waiting for a GPU")[2]
    for said in (
        "datastill distill cifar100 --method infer --ipc 10 --out runs/cifar100-infer --device cuda\n",
        "datastill distill cifar100 --method infer-dyn --ipc 10 --out runs/cifar100-infer-dyn --device cuda\n",
        "datastill evaluate runs/cifar100-infer --students resnet18 --seeds 3\n",
        "The paper's number: 45.2 (0.04), Table 1 of arXiv 2408.06927.",
        "The paper's number: 53.4 (0.6), Table 1 of arXiv 2408.06927.",
    ):
        assert said in waiting


def board(text: str, source: str, student: str, column: str) -> str:
    section = text.partition(f"### {source} with `{student}`\n")[2].partition("\n##")[0]
    return section.partition(f"Column {column} ")[2].partition("\n\nColumn")[0]


def test_the_leaderboard_shows_ours_beside_random_and_the_papers_in_a_column_of_its_own(script, root):
    write_rows(compared("cifar100"), root / "docs" / "results")
    script.main([], root)
    text = page(root, "docs/leaderboard.md")
    table = board(text, "cifar100", "convnet", "S").splitlines()
    assert table[2].endswith("| the paper's, top-1 % (deviation), and where it stands |")
    (infer,) = [
        line for line in table if line.startswith("| `infer`<br>INFER, static labels<br>networks `convnet` | 10 |")
    ]
    assert f"[**46.50{NB}±{NB}0.50{NB}(n=3)**](results/cifar100-infer-" in infer
    assert f"| [51.50{NB}±{NB}0.56{NB}(n=3)](results/cifar100-random-" in infer
    assert "| worse<br>−5.00<br>t" in infer
    assert f"| 400 | 1.20{NB}kB<br>6{NB}% | 81.00 | 41.0{NB}(0.4)<br>Table 1, arXiv:2408.06927 |" in infer
    assert "the paper" not in board(text, "photos", "convnet", "S")


@pytest.mark.parametrize(
    "label", [{"kind": "dense"}, {"kind": "views", "views": 4}, {"kind": "replayed"}, {"kind": "dynamic"}],
    ids=lambda label: label["kind"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [True, False], ids=["with its control", "without"])
def test_a_row_stands_beside_random_images_with_the_same_kind_of_labels_or_beside_none(script, root, label, beside):
    column = "D" if label["kind"] in ("replayed", "dynamic") else "S"
    others = {"kind": "static" if column == "S" else "dynamic", "teacher_mode": "batch"}
    own, random, other = (
        row(method, scores, arm=arm, column=column, ipc=3)
        for method, arm, scores in (
            ("infer", "infer", [46.0, 47.0, 46.5]), ("random", "z", [51.0, 52.1, 51.4]),
            ("random", "a", [51.0, 52.1, 51.4]),
        )
    )  # fmt: skip
    for each, told in ((own, label), (random, label), (other, others)):
        each["recipe"] |= {"label": told | {"codec": {"kind": "int4"}}}
    results = measured([own, random, other])
    assert own["against_random"] is not None  # of the row with its own labels
    assert other["against_random"] is None
    results["rows"] = [row for row in results["rows"] if beside or row is not random]
    write_rows(results, root / "docs" / "results")
    script.main([], root)
    ledger = sys.modules["docs_tables.ledger"]
    (group,) = (g for g in ledger.read(root / "docs" / "results").groups if g.ipc == 3)
    (entry,) = (e for e in group.entries if e.row["method"] == "infer")
    found = group.random_beside(entry)
    assert (found.row["arm"] if found else None) == ("z" if beside else None)
    page_of, board_of = (page(root, f"docs/{name}.md") for name in ("results", "leaderboard"))
    line = next(line for line in board_of.splitlines() if line.startswith("| `infer`") and "| 3 |" in line)
    assert ("51.50" in line) == ("−5.00" in line) == ("worse" in line) == beside
    section = page_of.partition("photos at 3 images per class")[2].partition("### Bytes")[0]
    assert ("its nearest control" in section) != beside
    assert ("−5.00" in section) == beside


def test_what_has_no_row_is_waiting_or_not_run_and_only_where_a_paper_has_a_number(script, root):
    script.main([], root)
    text = page(root, "docs/leaderboard.md")
    table = board(text, "cifar100", "resnet18", "S")
    assert (
        f"| `infer`<br>INFER, static labels | 10 | waiting for a GPU | 45.2{NB}(0.04)<br>Table 1, arXiv:2408.06927 |"
        in table
    )
    assert (
        f"| `infer`<br>INFER, static labels | 100 | not run yet | 66.3{NB}(0.1)<br>Table 1, arXiv:2408.06927 |" in table
    )
    assert f"| 10 | waiting for a GPU | 53.4{NB}(0.6)<br>Table 1, arXiv:2408.06927 |" in board(
        text, "cifar100", "resnet18", "D"
    )
    assert "not run yet" not in text.partition("## photos")[2].partition("\n## ")[0]
    assert text.index("## photos") < text.index("## cifar10\n")


def test_validation_rows_are_on_the_results_page_and_not_on_the_leaderboard(script, root):
    rows = [row("infer", [46.0, 47.0, 46.5], ipc=1) | {"split": "validation"}]
    write_rows(measured(rows), root / "docs" / "results")
    script.main([], root)
    assert "VALIDATION split" in page(root)
    assert "| `infer`<br>INFER, static labels | 1 |" not in page(root, "docs/leaderboard.md")


def test_the_readme_states_the_margin_and_keeps_all_but_what_stands_between_its_markers(script, root):
    script.main([], root)
    text = page(root, "README.md")
    assert text.startswith("# Title\n\n<!-- results -->\n")
    assert text.endswith("\n<!-- /results -->\n\nThe rest.\n")
    assert "old" not in text
    table = text[text.index("| method |") :].splitlines()
    assert table[0].startswith("| method | top-1, % (n) | random real images, same labels, same steps | margin |")
    assert f"| **46.50{NB}±{NB}0.50{NB}(n=3)** | 51.50{NB}±{NB}0.56{NB}(n=3) | −5.00<br>" in table[2]
    assert "| `random" not in text


def test_the_readme_has_a_table_for_each_group_that_is_asked_for_and_one_last_line(script, root):
    ten, seven = groups_of(script, root)
    choose(root, [], {"group": ten, "methods": ["infer"]}, {"group": seven, "methods": ["infer"]})
    script.main([], root)
    text = page(root, "README.md")
    assert text.count("| method | top-1, % (n) |") == 2
    assert text.index("at 10 images per class") < text.index("at 7 images per class")
    assert text.count("More rows, and what a number means") == 1


def test_a_readme_without_markers_is_left_alone(script, root):
    (root / "README.md").write_text("# Title\n")
    assert script.main([], root) == 0
    assert page(root, "README.md") == "# Title\n"


def figures(root: Path) -> list[Path]:
    return sorted((root / "docs" / "assets").glob("*.svg"))


def test_a_frontier_has_two_charts_named_apart_with_words_for_those_who_do_not_see_them(script, root):
    write_rows(frontier(), root / "docs" / "results")
    script.main([], root)
    text = page(root, "docs/frontier.md")
    assert text.startswith("# The frontier\n\nProse.\n")
    assert text.index("### Equal bytes: everything") < text.index("### Equal raw pixels: images per class")
    assert [path.name.rsplit("-", 1)[1] for path in figures(root)] == ["bytes.svg", "ipc.svg"]
    for path in figures(root):
        tree = ET.parse(path).getroot()
        assert float(tree.attrib["width"]) > 600
        drawn = path.read_text(encoding="utf-8")
        assert "currentColor" not in drawn
        assert "var(--" not in drawn
        assert "Column S" in drawn
        assert COLOURS[0] in drawn
        assert f"](assets/{path.name})" in text
    assert "random avif:60, hard: 51.0 % at 500 B, 51.0 % at 2.10 kB" in text
    assert "ship resnet18, fp16: 90.0 % at 9.00 kB" in text
    assert "random avif:60, hard: 51.0 % at ipc 10" in text
    assert text.index("| `ship convnet, fp16` | [80.00](results/") < text.index("| `ship resnet18, fp16`")


def test_the_rows_of_a_frontier_stand_on_its_page_and_its_methods_on_the_leaderboard_where_no_other_row_does(
    script, root
):
    write_rows(frontier(), root / "docs" / "results")
    before = groups_of(script, root)
    script.main([], root)
    table = page(root, "docs/frontier.md").partition("### The rows")[2]
    assert table.count("| `infer, logits ipc") == 2
    assert "`random_hard`" not in table
    assert groups_of(script, root) == before
    assert "avif" not in page(root)
    lines = board(page(root, "docs/leaderboard.md"), "photos", "convnet", "S").splitlines()
    ipcs = [line.split("|")[2].strip() for line in lines if line.startswith("| `infer`")]
    assert ipcs == ["7", "10", "50"]


def test_without_a_frontier_the_page_says_so_and_a_figure_that_belongs_to_no_rows_goes(script, root, capsys):
    script.main([], root)
    assert "\nNo row yet.\n" in page(root, "docs/frontier.md")
    old = root / "docs" / "assets" / "frontier-old-bytes.svg"
    old.parent.mkdir()
    old.write_text("<svg/>")
    capsys.readouterr()
    assert script.main(["--check"], root) == 1
    assert "frontier-old-bytes.svg belongs to no rows: run make tables" in capsys.readouterr().out
    assert old.exists()
    assert script.main([], root) == 0
    assert not old.exists()


def test_proxies_have_a_table_each_on_their_page_and_on_the_results_page(script, root):
    script.main([], root)
    assert "\nNo row yet.\n" in page(root, "docs/proxies.md")
    write_rows(proxy("nas"), root / "docs" / "results")
    write_rows(proxy("continual"), root / "docs" / "results")
    script.main([], root)
    for name in ("docs/proxies.md", "docs/results.md"):
        text = page(root, name)
        assert "**It ranks no better than &lt;i&gt;random.**" in text
        assert f"| `infer`<br>what infer is | 0.50{NB}[0.10,{NB}−0.70] | not defined |" in text
        assert "| `size`<br>no training at all |" in text
        assert f"| none<br>−2.00<br>t{NB}−4.0,{NB}p{NB}0.050 | 90.00" in text
        assert "| 1 classes | 3 classes |" in text


def test_a_ladder_has_its_experiments_in_order_with_what_became_of_each_variant(script, root):
    script.main([], root)
    assert page(root, "docs/levers.md").endswith("No row yet.\n<!-- /levers -->\n")
    write_rows(ladder(), root / "docs" / "results")
    script.main([], root)
    text = page(root, "docs/levers.md")
    assert (
        "### levers: photos &lt;b&gt;, student `convnet(width=64)`, 1,200 steps, 400 kB, on validation images\n" in text
    )
    assert text.index("**Of 4 experiments, 2 brought") < text.index("1. loss: T = 4 is kept") < text.index("| start |")
    table = [line for line in text.splitlines() if line.startswith("|")]
    names = [re.split(r"<br>| \|", line)[0].removeprefix("| ") for line in table[2:]]
    assert names == [
        "start", "**1. loss**", "T = 4", "squared error", "a\\|b &lt;b&gt;x", "**2. labels**", "hard", "**3. codec**",
        "q30", "q45", "herding", "**4. controls**", "INFER", "without loss",
    ]  # fmt: skip
    (kept,) = [line for line in table if line.startswith("| T = 4<br>")]
    assert kept.startswith("| T = 4<br>`student.temperature=4.0`<br>`student.kl_scale=temperature-squared` | ")
    assert f"| [**46.53{NB}±{NB}0.64{NB}(n=3)**](results/photos-b-levers-loss-t-4-" in kept
    assert f"| +1.00<br>sd{NB}0.20,{NB}t{NB}8.7,{NB}p{NB}0.013 | **kept** | 910 | soft, 27.3{NB}kB |" in kept
    assert "| not kept: +0.20 is under 0.3 | 920 |" in text
    assert f"| not kept: −1.90 is under 0.3 | 940 | hard | 332{NB}kB<br>8.3{NB}% |" in text
    assert "method `infer` |" in text
    assert "was left out: label 'views' needs a student without crops." in text
    assert "  --set store.codec.quality=45 \\\n  --set store.total=960\n```" in text
    assert "/home" not in text


def test_a_ladder_stands_on_its_own_page_and_on_no_other_one(script, root):
    script.main([], root)
    before = {name: page(root, name) for name in ("docs/results.md", "docs/leaderboard.md", "README.md")}
    groups = groups_of(script, root)
    write_rows(ladder(), root / "docs" / "results")
    script.main([], root)
    assert {name: page(root, name) for name in before} == before
    assert groups_of(script, root) == groups


def test_ladders_of_other_protocols_have_sections_of_their_own(script, root):
    for results in (ladder(), ladder(budget=None), ladder(split="test", only=["controls"])):
        write_rows(results, root / "docs" / "results")
    script.main([], root)
    text = page(root, "docs/levers.md")
    assert text.count("### levers: photos") == 3
    assert "sets of any size, on validation images" in text
    assert "400 kB, on test images" in text
    assert "Ladder 1 of" not in text


def test_what_a_later_climb_left_of_an_earlier_one_comes_last_and_claims_nothing(script, root):
    folder = root / "docs" / "results"
    write_rows(ladder(), folder)
    later = ladder()
    for experiment in later["experiments"][2:]:  # they stand on another recipe now
        for each in experiment["rows"]:
            each["recipe"]["seed"] = 7
    later["commands"] = ["datastill ablate again"]
    write_rows(later, folder)
    script.main([], root)
    text = page(root, "docs/levers.md")
    whole, old = text.partition("Ladder 1 of 2:")[2].split("Ladder 2 of 2:")
    assert "datastill ablate again" in whole
    assert whole.count("brought a change that stays") == 1
    assert "| start |" in whole
    assert "| start |" not in old
    assert "brought a change" not in old
    assert "q45" in old


def test_running_twice_changes_nothing(script, root, capsys):
    write_rows(frontier(), root / "docs" / "results")
    script.main([], root)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    assert "written" in capsys.readouterr().out
    assert script.main([], root) == 0
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["docs/results.md", "docs/leaderboard.md", "README.md"])
def test_check_fails_when_a_page_is_out_of_date_and_writes_nothing(script, root, capsys, name):
    script.main([], root)
    assert script.main(["--check"], root) == 0
    changed = page(root, name).replace("46.50", "99.99")
    (root / name).write_text(changed)
    capsys.readouterr()
    assert script.main(["--check"], root) == 1
    assert capsys.readouterr().out == f"{name} is out of date: run make tables\n"
    assert page(root, name) == changed


def test_check_fails_when_a_figure_is_out_of_date(script, root, capsys):
    write_rows(frontier(), root / "docs" / "results")
    script.main([], root)
    figures(root)[0].write_text("<svg/>")
    capsys.readouterr()
    assert script.main(["--check"], root) == 1
    assert f"docs/assets/{figures(root)[0].name} is out of date" in capsys.readouterr().out


def test_a_listed_group_that_is_not_there_yet_is_named_and_the_pages_go_without_it(script, root, capsys):
    ten = groups_of(script, root)[0]
    choose(root, ["later", ten], {"group": ten[:-1], "methods": ["infer"]})
    assert script.main([], root) == 0
    said = capsys.readouterr().err
    assert "lists the group 'later', of which docs/results/ has no row" in said
    assert re.search(rf"has no row; did you mean .*'{ten}'", said)
    assert page(root, "README.md") == README
    assert script.main(["--check"], root) == 1


@pytest.mark.parametrize(
    "text",
    [
        "readme: b\n",
        "order: b\nreadme: []\n",
        "[",
        "a: 1\n",
        "order: []\nreadme: [{group: b}]\n",
        "order: []\nreadme: {group: b, methods: []}\n",
        "order: []\nreadme: null\n",
    ],
)
def test_a_broken_list_of_pages_is_one_sentence_and_exit_code_2(script, root, capsys, text):
    (root / "docs" / "results" / "pages.yaml").write_text(text)
    assert script.main([], root) == 2
    said = capsys.readouterr().err
    assert said.startswith("tables: ")
    assert "pages.yaml" in said


def test_a_row_that_is_not_understood_stops_everything_with_one_sentence(script, root, capsys):
    (root / "docs" / "results" / "cut.json").write_text("{")
    assert script.main([], root) == 2
    assert "cut.json" in capsys.readouterr().err
    assert not (root / "docs" / "results.md").exists()


def test_a_run_is_added_as_rows_and_its_new_numbers_only_when_asked(script, root, capsys):
    write_json(root / "run" / "results.json", compared(ipc=2))
    assert script.main(["--add", str(root / "run")], root) == 0
    assert "docs/results/photos-infer-ipc2-convnet-s-400-" in capsys.readouterr().out
    assert "at 2 images per class" in page(root)
    changed = compared(ipc=2)
    changed["rows"][0]["per_class"] = [1.0, 2.0, 3.0]
    write_json(root / "run" / "results.json", changed)
    assert script.main(["--add", str(root / "run" / "results.json")], root) == 2
    assert "say --replace" in capsys.readouterr().err
    assert script.main(["--add", str(root / "run"), "--replace"], root) == 0


def test_a_project_without_results_says_so(script, root):
    for path in (root / "docs" / "results").glob("*.json"):
        path.unlink()
    choose(root, [])
    assert script.main([], root) == 0
    assert "No run has been measured yet." in page(root)


def test_the_committed_pages_are_up_to_date(script):
    assert script.main(["--check"]) == 0
