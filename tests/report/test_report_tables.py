"""Tables for pages and terminals, the words in them, and the reduced form of results."""

from __future__ import annotations

import copy
import io
import json

import pytest
from rich.console import Console

from datastill.report import rows, tables, words
from report.samples import WORSE, results_of


def test_no_markdown_table_holds_two_columns_of_labels(results):
    parts = tables.accuracy_tables(results, "resnet18").split("\n\n")
    arms = [
        [line.split("|")[1].split("<br>")[0].strip() for line in part.splitlines()[2:]]
        for part in parts
        if part.startswith("|")
    ]
    assert arms == [["`infer`", "`random_soft`", "`other_steps`"], ["`random_hard`"], ["`dynamic`"]]
    assert [part[:8] for part in parts if part.startswith("Column")] == ["Column S", "Column H", "Column D"]


def test_every_row_of_a_markdown_table_has_the_cells_of_its_heading(results):
    texts = [tables.accuracy_tables(results, "resnet18"), tables.teachers_table(results), tables.bytes_table(results),
             tables.times_table(results)]  # fmt: skip
    for text in texts:
        for table in (part for part in text.split("\n\n") if part.startswith("|")):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_markdown_row_says_what_the_results_say(results):
    text = tables.accuracy_tables(results, "resnet18").replace("\u00a0", " ")
    assert "| `infer`<br>INFER, static labels, as distilled | **46.50 ± 0.50 (n=3)** |  |  | 32 | 8 | 400 |" in text
    control = "| `random_soft`<br>random real images, same labels | 51.50 ± 0.56 (n=3) |"
    assert control + " \u22125.00<br>t \u221286.6, p < 0.001 | worse | 16 | 8 | 400 |" in text
    assert "| 100 (other) |" in text


def test_the_papers_column_is_named_as_the_papers_and_only_there_where_it_has_a_number(distilled):
    results = results_of(distilled, {"resnet18": WORSE, "vgg": WORSE}, paper=True)
    assert "| the paper's (arXiv:2408.06927) |" in tables.accuracy_tables(results, "resnet18")
    assert "| 45.2\u00a0(0.04),\u00a0Table\u00a01 |" in tables.accuracy_tables(results, "resnet18")
    assert "paper" not in tables.accuracy_tables(results, "vgg")


def test_the_ensemble_comes_last_and_a_network_in_fp16_has_half_the_bytes(results):
    lines = tables.teachers_table(results).splitlines()
    assert lines[-1].startswith("| `mean of logits` | 98.75 |  | 134 kB | 66.9 kB |")
    assert lines[2].startswith("| `convnet` | 98.61 | 115 | 44.6 kB | 22.3 kB | 15.0 % |")


def test_bytes_in_the_table_are_the_ledgers(results, distilled):
    first = tables.bytes_table(results).splitlines()[2]
    assert first == "| `infer` | " + " | ".join(f"{count:,}" for count in distilled.ledger().values()) + " |"


def test_the_terminal_table_shows_every_arm_and_names_with_brackets_whole(results):
    for row in results["rows"]:
        row["student"] = "convnet[red](width=32)"
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables.rich_table(results, "convnet[red](width=32)"))
    text = console.export_text()
    assert "Student convnet[red](width=32)" in text
    for said in ("infer", "random_soft", "\u22125.00 worse", "46.50 ± 0.50 (n=3)", "100 (other)"):
        assert said in text
    assert text.index("random_soft") < text.index("random_hard") < text.index("dynamic")


def test_a_step_that_shows_several_pictures_of_an_item_says_how_many(results):
    console, seen = Console(width=200, record=True, file=io.StringIO()), "400 of 128 pictures"
    assert "pictures |" in tables.accuracy_tables(results, "resnet18")
    assert " of 64 pictures" not in tables.accuracy_tables(results, "resnet18")
    results["rows"][0] |= {"batch": 64, "seen_per_step": 128}
    results["rows"][1] |= {"batch": 64, "seen_per_step": 64}
    text = tables.accuracy_tables(results, "resnet18")
    console.print(tables.rich_table(results, "resnet18"))
    assert text.count(seen) == console.export_text().count(seen) == 1
    other = next(row for row in results["rows"] if row["arm"] == "other_steps")
    other["seen_per_step"] = 2 * other["batch"]
    assert f"| 100 of {2 * other['batch']} pictures (other) |" in tables.accuracy_tables(results, "resnet18")


def test_the_standing_leaves_out_arms_with_other_work(results):
    assert rows.standing(results, "resnet18") == (
        "With resnet18, infer is within noise of dynamic (D); worse than random_soft (S) and random_hard (H)."
    )


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([40.0, 40.8, 40.2], "infer (S) is 6.17 points above (paired, t 69.9, p < 0.001)."),
        ([46.5, 46.4, 46.6], "infer (S) is within noise of that: +0.00 points (paired, t 0.0, p 1.000)."),
        ([80.0, 80.5, 80.1], "infer (S) is 33.70 points below (paired, t −220.6, p < 0.001)."),
        ([47.0, 48.0, 47.5], "infer (S) is 1.00 points below (paired, no test: every seed differs by the same)."),
    ],
)
def test_what_the_bytes_buy_as_coded_images_is_one_sentence_however_it_came_out(distilled, scores, said):
    results = results_of(distilled, {"convnet": {"infer": WORSE["infer"], "random_hard": scores}})
    assert rows.coded(results, "convnet") == ""
    own, beside = results["rows"]
    beside["arm"], beside["pictures"], beside["bytes"]["total"] = "coded_hard", 1345, 12340
    sentence = rows.coded(results, "convnet")
    of = f"12,340 of {own['bytes']['total']:,}"
    top1 = words.top1(beside["top1"])
    assert sentence == (
        f"The same bytes as coded real images with hard labels ({of}): 1,345 of them, top-1 {top1}; {said}"
    )


def test_too_few_seeds_say_nothing_of_coded_images(distilled):
    results = results_of(distilled, {"convnet": {"infer": [46.0], "random_hard": [80.0]}})
    results["rows"][1]["arm"] = "coded_hard"
    assert rows.coded(results, "convnet").endswith(
        "infer (S) is \u221234.00 points from that, with too few seeds to prove anything."
    )


def test_a_validation_run_says_that_it_is_no_result(results):
    for row in results["rows"]:
        row["split"] = "validation"
    assert "VALIDATION split (held-out training images, for choices; no result)" in rows.caption(results, "resnet18")


def test_a_method_with_hard_labels_has_its_column_first(results):
    results["rows"][0]["column"] = "H"
    assert [column for column, _ in rows.lines(results, "resnet18")] == ["H", "S", "D"]


def test_reduced_results_hold_no_path_no_embedding_and_every_number(results):
    before = copy.deepcopy(results)
    reduced = tables.reduce_results(results)
    assert results == before
    assert "/home" not in json.dumps(reduced)
    assert reduced["distilled"] == "set"
    assert reduced["source"]["asked"] == "photos"
    assert reduced["commands"] == [
        "datastill distill photos --ipc 4 --out DIR",
        "datastill evaluate 'set' --students convnet",
    ]
    for old, new in zip(results["rows"], reduced["rows"], strict=True):
        assert set(old) - set(new) == {"embedding"}
        assert all(old[key] == new[key] for key in new if key != "losses")
        assert len(new["losses"]) == 38
        assert new["losses"][0] == pytest.approx(sum(old["losses"][:4]) / 4, abs=1e-6)
    for key in ("verdict", "recipe", "versions", "counts", "bytes", "seconds", "device"):
        assert reduced[key] == results[key]
    assert tables.reduce_results(reduced) == reduced


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/srv/runs/x", "x"),
        ("/srv/runs/x/", "x"),
        ("DATASTILL_DATA=/srv/data datastill distill cifar10", "DATASTILL_DATA=data datastill distill cifar10"),
        ("--out '/my runs/a b' -v", "--out 'a b' -v"),
        (r"C:\Users\me\set", "set"),
        ("../shared/data runs/x ~/x", "../shared/data runs/x ~/x"),
        ("hf:OWNER/NAME train/test 3 / 4", "hf:OWNER/NAME train/test 3 / 4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_absolute_paths_are_cut_down_to_their_last_name(text, kept):
    assert tables.without_paths(text) == kept


def test_a_strangers_text_does_nothing_in_markdown():
    assert tables.escaped("a|b <i> *x* [l](u)\n# h") == r"a\|b &lt;i&gt; \*x\* \[l\](u) \# h"
    assert tables.code("a|b`c") == r"`a\|b'c`"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (28_175, "28.2 kB"), (92_032, "92.0 kB"), (999_900, "1.00 MB"),
     (148_668, "149 kB"), (2_493_368, "2.49 MB"), (5.4e15, "5400 TB")],
)  # fmt: skip
def test_sizes_have_three_digits(count, text):
    assert words.size(count) == text


@pytest.mark.parametrize(("part", "text"), [(8.7, "0.87 %"), (190, "19.0 %"), (1990, "199.0 %"), (8386, "8.4 times")])
def test_shares_become_multiples_where_they_are_large(part, text):
    assert words.share(part, 1000) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.06, "60 ms"), (1.06, "1.1 s"), (59.97, "1 min 00 s"), (66.05, "1 min 06 s"), (3700, "1 h 01 min")],
)
def test_times_show_their_two_largest_units(seconds, text):
    assert words.duration(seconds) == text


def test_a_test_that_could_not_be_made_says_why():
    assert words.paired({"t": None, "p": None, "n": 1}) == "no test: one seed"
    assert words.paired({"t": None, "p": None, "n": 3}) == "no test: every seed differs by the same"
    assert words.paired({"t": 2.0, "p": 0.1234, "n": 3}) == "t 2.0, p 0.123"


def test_times_count_no_training_twice(results):
    assert [phase for phase, _ in words.times(results)] == [
        "distil (statistics)", "label", *(f"train the network {name} (once, then cached)" for name in
                                          ("convnet", "resnet10", "mobilenetv2")),
        "train 15 students resnet18",
    ]  # fmt: skip


def test_a_set_of_plain_pictures_has_a_sentence_of_its_own(results):
    results["counts"] = {"natural": 16, "items": 16}
    assert words.budget(results) == ["16 natural images are 16 items."]
    assert words.losses_before_and_after(results) == []
