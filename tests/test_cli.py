"""The command line, driven as a person does: commands in, sentences and exit codes out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from datastill import DistilledDataset
from datastill import recipe as recipes
from datastill.cli import main
from datastill.cli.common import command_line
from datastill.recipe import Paper, method
from datastill.report.compared import reproduction_sentence

TINY = ["--teachers", "convnet(width=8),resnet10(width=8)", "--set", "networks.*.training.epochs=1",
        "--classes", "0,1,7", "--set", "match.rounds=2", "--set", "student.batch=16", "--device", "cpu"]  # fmt: skip


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must end in one sentence on stderr, exit code 2 and no traceback."""
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("datastill: ")
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    return said


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "small"
    assert run("distill", "digits", "--ipc", "4", "--out", str(out), *TINY) == 0
    return out


def test_distill_writes_a_set_that_loads_and_prints_its_budget(
    distilled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DistilledDataset.load(distilled)
    assert made.classes == ("0", "1", "7")
    assert list(made.recipe.networks) == ["convnet(width=8)", "resnet10(width=8)"]
    assert len(made) == 2 * 3 * 3  # N = 4 * 3 // (3 + 2) = 2 sets, 3 classes, naturals and two compensators
    assert run("inspect", str(distilled), "--png", str(distilled.parent / "s.png")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Budget: 10 of 12 images used (6 natural, 4 compensators), 2 left over." in said
    assert f"{made.ledger()['total']:,}" in said
    with Image.open(distilled.parent / "s.png") as sheet:
        assert sheet.height == 3 * (64 + 2)


def test_the_recorded_command_repeats_the_run_in_any_folder(distilled: Path) -> None:
    assert (
        command_line(["distill", "digits", "--out", "x/y", "--resume", "--ipc", "4"])
        == "datastill distill digits --out DIR --ipc 4"
    )
    assert command_line(["distill", "digits", "--out=x"]) == "datastill distill digits --out=DIR"


def test_evaluate_measures_every_control_and_goes_on_where_it_stopped(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("evaluate", str(distilled), "--students", "convnet(width=8)", "--seeds", "2", "--steps", "4",
             "--run", str(tmp_path / "run"), "--device", "cpu")  # fmt: skip
    assert run(*words) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    arms = [row["arm"] for row in results["rows"]]
    assert arms == ["infer", "infer_hard", "random_soft", "random_hard", "natural_only", "noise", "equal_bytes_soft",
                    "equal_bytes_hard", "coded_hard", "other_steps"]  # fmt: skip
    assert {row["steps"] for row in results["rows"] if row["arm"] != "other_steps"} == {4}
    assert {row["top1"]["n"] for row in results["rows"]} == {2}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "students").glob("*.json")}
    assert run(*words) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "students").glob("*.json")}
    assert "fewer than 3 seeds" in " ".join(capsys.readouterr().out.split())


def test_networks_in_the_loop_are_stored_weighed_and_asked(tmp_path: Path) -> None:
    out, folder = tmp_path / "dyn", str(tmp_path / "run")
    assert run("distill", "digits", "--method", "infer-dyn", "--ipc", "4", "--out", str(out), *TINY) == 0
    assert len(list((out / "teachers").glob("*.safetensors"))) == 2
    assert run("evaluate", str(out), "--students", "convnet(width=8)", "--seeds", "1", "--steps", "2", "--run", folder,
               "--device", "cpu") == 0  # fmt: skip
    rows = {row["arm"]: row for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"]}
    assert {arm: row["column"] for arm, row in rows.items()} == {
        "infer-dyn": "D", "infer_hard": "H", "random_soft": "D", "random_hard": "H", "natural_only": "D", "noise": "D",
        "equal_bytes_soft": "S", "equal_bytes_hard": "H", "coded_hard": "H", "other_steps": "D",
    }  # fmt: skip
    assert rows["infer-dyn"]["bytes"]["teachers"] > 20_000
    assert rows["other_steps"]["steps"] == 6
    assert rows["equal_bytes_hard"]["items"] > rows["random_hard"]["items"]
    for name in ("equal_bytes_hard", "coded_hard"):
        assert rows[name]["bytes"]["total"] <= rows["infer-dyn"]["bytes"]["total"]


def test_without_controls_only_the_method_is_trained(distilled: Path, tmp_path: Path) -> None:
    assert run("evaluate", str(distilled), "--students", "convnet(width=8)", "--seeds", "1", "--steps", "2",
               "--no-controls", "--run", str(tmp_path / "run")) == 0  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["arm"] for row in results["rows"]] == ["infer"]


def test_export_as_folders_loads_again_as_a_source(distilled: Path, tmp_path: Path) -> None:
    assert run("export", str(distilled), "--to", "imagefolder", "--out", str(tmp_path / "tree")) == 0
    files = sorted((tmp_path / "tree").glob("*/*.png"))
    assert len(files) == 18
    assert json.loads((tmp_path / "tree" / "classes.json").read_text()) == {"0000-0": "0", "0001-1": "1", "0002-7": "7"}
    assert pq.read_table(tmp_path / "tree" / "labels.parquet").num_rows == 18


def test_export_as_parquet_keeps_images_labels_and_logits(distilled: Path, tmp_path: Path) -> None:
    assert run("export", str(distilled), "--to", "parquet", "--out", str(tmp_path / "p")) == 0
    table = pq.read_table(tmp_path / "p" / "train.parquet")
    made = DistilledDataset.load(distilled)
    assert table["label"].to_pylist() == made.content.items.cls.tolist()
    assert table["logits"].to_pylist() == made.labels.values.float().tolist()  # type: ignore[union-attr]


def test_show_recipe_prints_yaml_that_distills_the_same_set(
    distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("distill", "digits", "--ipc", "4", "--out", "unused", "--show-recipe", *TINY) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    assert run("distill", "digits", "--recipe", str(tmp_path / "recipe.yaml"), "--classes", "0,1,7",
               "--out", str(tmp_path / "again")) == 0  # fmt: skip
    for name in ("images.parquet", "arrays.safetensors", "labels/logits.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (distilled / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("digits", "--method", "infr"), "there is no method 'infr'; did you mean 'infer'"),
        (("digits", "--ipc", "1"), "ask for --ipc 2 or more"),
        (("digits", "--ipc", "0"), "at least 1"),
        (("digits", "--teachers", "resnet81"), "did you mean 'resnet18'"),
        (("digits", "--teachers", "vit_tiny"), "reads BatchNorm layers"),
        (("digits", "--set", "match.round=3"), "there is no setting 'match.round'; did you mean 'match.rounds'"),
        (("digits", "--set", "store.project=sideways"), "store.project"),
        (("digits", "--set", "match=statistic"), "did you mean 'statistics'"),
        (("digits", "--set", "label=soft"), "there is no label 'soft'"),
        (("digits", "--set", "rounds"), "--set wants path=value"),
        (("digits", "--classes", "0,eleven"), "eleven"),
        (("digits", "--device", "tpu"), "there is no device 'tpu'"),
        (("digits", "--precision", "fp8"), "there is no precision 'fp8'"),
        (("nowhere/at/all",), "nowhere/at/all"),
        (("digits", "--recipe", "missing.yaml"), "missing.yaml"),
        (("digits", "--iqc", "3"), "--iqc"),
        (("digits", "--method", "datastill", "--set", "store.codec.quality=101"), "must be between 0 and 100, not 101"),
        (("digits", "--method", "datastill", "--set", "store.codec.quality=-1"), "must be between 0 and 100, not -1"),
        (("digits", "--budget", "20kB", "--ipc", "3"), "give it without --method, --ipc and --recipe"),
        (("digits", "--budget", "20kB", "--method", "infer"), "give it without --method, --ipc and --recipe"),
        (("digits", "--budget", "20kB", "--set", "store.codec.quality=30"), "leave out what sets 'store'"),
        (("digits", "--budget", "20kB", "--labels", "sotf"), "did you mean 'soft'"),
        (("digits", "--budget", "lots"), "--budget wants a number of bytes, such as 4MB or 20kB, not 'lots'"),
        (("digits", "--budget", "5kB"), "the smallest that can, in full hundreds, is"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "distill", *words, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_recipe_file_with_a_wrong_type_is_refused_with_every_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("distill", "digits", "--out", "unused", "--show-recipe") == 0
    text = capsys.readouterr().out.replace("ipc: 10", "ipc: ten").replace("rounds: 200", "rounds: [1, 2]")
    (tmp_path / "bad.yaml").write_text(text)
    said = refused(capsys, "distill", "digits", "--recipe", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "o"))
    assert "'ipc' must be a whole number, not 'ten'" in said


def test_a_finished_set_is_not_overwritten(distilled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (distilled / "manifest.json").read_bytes()
    assert "choose another --out" in refused(capsys, "distill", "digits", "--ipc", "4", "--out", str(distilled), *TINY)
    assert (distilled / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--students", "convnett"), "did you mean 'convnet'"),
        (("--only", "randm_soft"), "did you mean 'random_soft'"),
        (("--split", "train"), "there is no split 'train'"),
        (("--split", "validation"), "no validation images"),
        (("--seeds", "0"), "at least one student"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_trained(
    distilled: Path, tmp_path: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "evaluate", str(distilled), *words, "--run", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("inspect",), ("evaluate",), ("export", "--to", "parquet", "--out", str(tmp_path / "x"))):
        assert str(tmp_path) in refused(capsys, command[0], str(tmp_path), *command[1:])


def test_debug_shows_the_traceback() -> None:
    from datastill import DatastillError

    with pytest.raises(DatastillError):
        main(["distill", "digits", "--method", "infr", "--out", "unused", "--debug"])


@pytest.mark.parametrize(
    "words", [("methods",), ("sources",), ("doctor",), ("--version",), ("--help",), ("distill", "--help")]
)
def test_the_commands_that_only_tell_succeed(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 0
    assert capsys.readouterr().out.strip()


FEW = ["--teachers", "convnet(width=8),resnet10(width=8)", "--set", "networks.*.training.steps=4", "--classes", "0,1,7",
       "--set", "student.batch=8", "--students", "convnet(width=8)", "--jobs", "1", "--device", "cpu"]  # fmt: skip


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_compare_measures_methods_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    words = ("compare", "digits", "--methods", "infer", "--ipc", "4", "--seeds", "2", "--steps", "3", "--only",
             "infer/noise", "--set", "infer:match.rounds=2", "--out", str(out), *FEW)  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["datastill", *words])
    assert run(*words) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["arm"] for row in results["rows"]] == ["random_hard", "infer_hard", "random", "infer", "infer/noise"]
    assert results["source"]["asked"] == "digits"
    assert results["source"]["classes"] == ["0", "1", "7"]
    assert results["commands"][0].startswith("datastill compare digits --methods infer --ipc 4 --seeds 2 --steps 3")
    assert "--out DIR --teachers" in results["commands"][0]
    said = words_of(capsys)
    assert "fewer than 3 seeds" in said
    assert (out / "report.html").stat().st_size > 10_000
    before = {p: p.stat().st_mtime_ns for p in (out / "students").glob("*.json")}
    assert len(before) == 10
    assert run(*words) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (out / "students").glob("*.json")}


def test_compare_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "digits", "--methods", "infer", "--ipc", "1", "--seeds", "1", "--steps", "1", "--no-controls",
               "--out", str(tmp_path / "run"), *FEW) == 0  # fmt: skip
    assert "infer at ipc 1 was left out: store 'compensated' has no room at ipc=1" in words_of(capsys)


def test_frontier_measures_codecs_and_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("frontier", "digits", "--steps", "2", "--methods", "random", "--ipc", "2", "--seeds", "1", "--grid",
               "codecs=raw/1,webp-lossless,nope ipc=2 labels=hard", "--grid", "codecs=raw ipc=2 labels=fp16",
               "--out", str(out), *FEW) == 0  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert {row["arm"] for row in results["rows"]} == {
        "random, own ipc2", "random, hard ipc2", "random raw/1, hard ipc2", "random webp-lossless, hard ipc2",
        "random raw, fp16 ipc2",
    }  # fmt: skip
    assert len(results["networks"]) == 6
    assert "random nope, hard ipc2 at ipc 2 was left out" in words_of(capsys)
    assert (out / "report.html").stat().st_size > 10_000


def test_reproduce_puts_the_papers_number_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = Paper("digits", 4, "convnet(width=8)", "S", 90.0, None, "Table 99")
    monkeypatch.setitem(recipes._METHODS, "infer", replace(method("infer"), paper=(paper,)))
    few = [w for w in FEW if w not in ("--classes", "0,1,7", "--students", "convnet(width=8)")]
    out = tmp_path / "run"
    assert run("reproduce", "infer", "--source", "digits", "--seeds", "1", "--scale", "0.5", "--set", "match.rounds=2",
               "--set", "student.epochs=2", "--out", str(out), *few) == 0  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert [line["scale"] for line in results["reproduction"]] == [0.5, 0.5]
    said = words_of(capsys)
    assert "Table 99" in said
    for line in results["reproduction"]:
        assert reproduction_sentence(line) in said
    assert "--scale" in refused(capsys, "reproduce", "infer", "--source", "digits", "--limit", "0", "--out",
                                str(tmp_path / "other"), *few)  # fmt: skip
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("compare", "digits", "--methods", "infr"), "there is no method 'infr'; did you mean 'infer'"),
        (("compare", "digits", "--methods", ","), "this grid is empty"),
        (("compare", "digits", "--ipc", "ten"), "--ipc wants whole numbers with commas between, not 'ten'"),
        (("compare", "digits", "--students", "convnett"), "did you mean 'convnet'"),
        (("compare", "digits", "--set", "infr:match.rounds=2"), "there is no method 'infr'"),
        (("compare", "digits", "--set", "infer:seed=2"), "the same for every method"),
        (("compare", "digits", "--only", "infer/nois"), "did you mean 'infer/noise'"),
        (("compare", "digits", "--split", "validation"), "hold one out: --set validation=COUNT"),
        (("compare", "digits", "--jobs", "0"), "--jobs must be at least 1, not 0"),
        (("compare", "nowhere/at/all"), "nowhere/at/all"),
        (("frontier", "digits", "--steps", "2", "--grid", "codecs=raw"), "--grid wants"),
        (("frontier", "digits", "--steps", "0"), "at least one seed, one step"),
        (("frontier", "digits", "--steps", "2", "--jobs", "0"), "--jobs must be at least 1, not 0"),
        (("frontier", "digits"), "--steps"),
        (("reproduce", "infer", "--source", "digits"), "has no number for 'digits'; there are: cifar10, cifar100"),
        (("reproduce", "herding", "--source", "digits"), "no number of a paper is on record for method 'herding'"),
        (("reproduce", "infer", "--source", "digits", "--scale", "2"), "--scale must be above 0 and at most 1, not 2"),
        (("reproduce", "infer", "--source", "digits", "--jobs", "0"), "--jobs must be at least 1, not 0"),
    ],
)
def test_a_bad_measurement_is_refused_before_any_work(
    words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, *words, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "results.json").exists()
