"""The ledger: a file per row, named by what it is, read back only where it is understood."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.measure.evaluate import Plan, evaluate
from datastill.measure.ledger import Entry, read_rows, row_files, settled, thinned, write_rows
from datastill.recipe import TrainRecipe
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from reference import tiny
from reference.ladder import ladder
from reference.measured import compared, frontier, measured, proxy, row


def test_every_row_of_a_comparison_is_a_file_named_by_what_it_is(tmp_path):
    paths = write_rows(compared(), tmp_path)
    assert [path.name[:-14] for path in paths] == [
        "photos-infer-ipc10-convnet-s-400", "photos-infer-infer-hard-ipc10-convnet-h-400",
        "photos-random-ipc10-convnet-s-400", "photos-random-random-hard-ipc10-convnet-h-400",
    ]  # fmt: skip
    assert len({path.name[-13:-5] for path in paths}) == 4


def test_a_row_comes_back_with_its_numbers_thinner_curves_and_what_its_run_shared(tmp_path):
    results = compared()
    results["seconds"]["infer: convnet, seed 12"] = 3.0
    before = copy.deepcopy(results)
    write_rows(results, tmp_path)
    assert results == before
    entries = read_rows(tmp_path)
    assert all(isinstance(entry, Entry) and entry.kind == "accuracy" for entry in entries)
    (own,) = [entry for entry in entries if entry.row["arm"] == "infer"]
    old = results["rows"][0]
    assert {k: v for k, v in own.row.items() if k != "losses"} == {
        k: v for k, v in old.items() if k not in ("losses", "embedding")
    }
    assert len(own.row["losses"]) == 38
    assert own.row["losses"][0] == pytest.approx(sum(old["losses"][:4]) / 4, abs=1e-6)
    assert own.run["seconds"] == {"train students": 12.0}
    for name in ("real_bytes", "versions", "device", "python", "peak_bytes", "protocol", "chosen_on"):
        assert own.run[name] == results[name]
    assert own.run["teachers"]["convnet"] == {k: v for k, v in results["teachers"]["convnet"].items() if k != "losses"}
    assert all(entry.run == own.run for entry in entries)


def test_no_file_holds_a_path_of_the_machine(tmp_path):
    for results in (compared(), frontier(), proxy("nas"), proxy("continual"), ladder()):
        for path in write_rows(results, tmp_path):
            text = path.read_text(encoding="utf-8")
            assert "/home" not in text
            assert "embedding" not in text
    commands = {tuple(entry.run["commands"]) for entry in read_rows(tmp_path)}
    assert commands == {
        ("datastill compare photos --out 'run'",),
        ("datastill ablate photos --plan levers.yaml --out 'run'",),
    }


def evaluated() -> dict[str, Any]:
    """Results of an evaluation: no protocol of their own, a recipe of the set, controls whose recipe is not known."""
    own, control = row("infer", [46.0, 47.0]), row("infer", [51.0, 52.0], arm="random_soft", role="control")
    control["random"] = True
    results = measured([own, control], kind="evaluation")
    control["recipe"] = None
    del results["protocol"]
    return results | {"recipe": {"method": "infer", "student": {"lr": 0.1}}, "counts": {"items": 30}}


def test_an_evaluation_without_a_kind_is_read_with_a_protocol_made_from_its_recipe():
    results = evaluated()
    del results["kind"], results["schema"]
    own, control = row_files(results).values()
    assert own["run"]["protocol"] == {
        "student": {"lr": 0.1}, "steps": 400, "batch": 64, "seeds": [0, 1], "split": "test", "epoch": "last"
    }  # fmt: skip
    assert own["run"]["counts"] == {"items": 30}
    assert control["key"]["recipe"] is None
    assert control["row"]["against_random"] is None
    assert own["row"]["against_random"]["mean"] == -5.0


def test_controls_of_two_sets_are_two_rows_though_their_own_recipes_are_not_known():
    first, second = evaluated(), evaluated()
    second["recipe"] = second["recipe"] | {"seed": 1}
    assert not set(row_files(first)) & set(row_files(second))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["rows"][0].update(ipc=50),
        lambda r: r["rows"][0].update(steps=401),
        lambda r: r["rows"][0]["recipe"].update(seed=1),
        lambda r: r["protocol"]["student"].update(lr=0.2),
        lambda r: r["device"].update(precision="bf16"),
        lambda r: r["versions"].update(datastill="9.9"),
        lambda r: r["source"].update(fingerprint="00" * 32),
    ],
)
def test_what_makes_another_row_makes_another_file(change):
    results = copy.deepcopy(compared())
    change(results)
    assert next(iter(row_files(compared()))) not in row_files(results)


def test_another_machine_or_another_time_makes_no_other_row():
    results = copy.deepcopy(compared())
    results["device"]["name"] = "Another CPU"
    results["rows"][0]["seconds"] = [9.0, 9.0, 9.0]
    assert list(row_files(results)) == list(row_files(compared()))


def test_networks_of_a_frontier_and_a_run_of_a_proxy_are_rows_of_their_own_kinds(tmp_path):
    write_rows(frontier(), tmp_path)
    write_rows(proxy("nas"), tmp_path)
    entries = read_rows(tmp_path)
    assert [e.kind for e in entries].count("network") == 2
    (task,) = [e for e in entries if e.kind == "proxy"]
    assert task.name.startswith("photos-infer-nas-ipc10-")
    assert task.row["agreement"] == proxy("nas")["agreement"]
    assert task.row["rows"] == [{"candidate": f"net{i}", "top1": {}} for i in range(4)]
    assert task.row["distilled"] == "set"


def test_every_row_of_an_ablation_is_a_trial_named_by_its_plan_its_experiment_and_its_variant(tmp_path):
    paths = write_rows(ladder(), tmp_path)
    assert [path.name[:-14] for path in paths][:3] == [
        "photos-b-levers-start-convnet-width-64-1200", "photos-b-levers-loss-t-4-convnet-width-64-1200",
        "photos-b-levers-loss-squared-error-convnet-width-64-1200",
    ]  # fmt: skip
    entries = sorted(read_rows(tmp_path), key=lambda entry: entry.row["order"])
    assert {entry.kind for entry in entries} == {"trial"}
    assert [entry.row["order"] for entry in entries] == list(range(10))
    (start, *_), results = entries, ladder()
    assert {k: v for k, v in start.row.items() if k != "losses"} == {
        k: v for k, v in results["start"].items() if k not in ("losses", "embedding")
    }
    assert len(start.row["losses"]) == 38
    for name in ("plan", "best", "failures", "protocol", "real_bytes"):
        assert start.run[name] == results[name]
    assert start.run["experiments"][0] == {"name": "loss", "says": "Which loss reads a label best?", "adopt": True,
                                           "adopted": "T = 4"}  # fmt: skip
    assert all(entry.run == start.run for entry in entries)


def start_key(change: Any) -> str:
    results = ladder()
    change(results)
    return next(iter(row_files(results)))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["start"].update(plan="other"),
        lambda r: r["start"].update(experiment="other"),
        lambda r: r["start"].update(variant="other"),
        lambda r: r["start"].update(student="resnet18"),
        lambda r: r["start"].update(steps=1201),
        lambda r: r["start"].update(split="test"),
        lambda r: r["start"]["recipe"].update(seed=1),
        lambda r: r["start"]["trained"].update(lr=0.5),
        lambda r: r["protocol"].update(budget=400_001),
        lambda r: r["protocol"].update(budget=None),
        lambda r: r["source"].update(fingerprint="00" * 32),
        lambda r: r["versions"].update(datastill="9.9"),
    ],
)
def test_what_makes_another_trial_makes_another_file(change):
    assert start_key(change) != start_key(lambda r: None)


def test_a_training_is_the_same_whether_a_default_was_written_down_or_not():
    written = plain(TrainRecipe(lr=0.3, batch=32))
    before = {k: v for k, v in written.items() if k not in ("ema", "nesterov")}
    for recipe in (written, before):
        assert settled({"networks": [recipe]}) == {"networks": [{"lr": 0.3, "batch": 32}]}
    assert settled(written | {"ema": 0.9}) != settled(written)
    assert settled({"kind": "statistics", "lr": 0.1}) == {"kind": "statistics", "lr": 0.1}


def test_a_longer_plan_makes_no_other_trial():
    assert set(row_files(ladder(only=["loss", "labels"]))) < set(row_files(ladder()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["row"].update(role="method"), r"'row\.role' must be trial"),
        (lambda f: f["row"].pop("variant"), r"'row\.variant' is missing"),
        (lambda f: f["row"].update(order=-1), r"'row\.order' must be a count"),
        (lambda f: f["row"].update(changes="label=hard"), r"'row\.changes' must be a list of changes"),
        (lambda f: f["row"].update(size="big"), r"'row\.size' must be one of budget, same, own"),
        (lambda f: f["row"].update(adopted=None), r"'row\.adopted' must be true or false"),
        (lambda f: f["row"]["against_best"].pop("sd"), r"'row\.against_best' must be mean, sd, t, p"),
        (lambda f: f["row"].update(against_best=None), r"a variant stands beside the best so far"),
        (lambda f: f["row"].update(seeds=[0, 1]), r"3 accuracies of 2 seeds"),
        (
            lambda f: f["run"]["protocol"]["rule"].pop("sds"),
            r"'run\.protocol' must be a mapping with .* a rule of gain",
        ),
        (lambda f: f["run"]["protocol"].update(rule=None), r"'run\.protocol' must be a mapping with"),
        (lambda f: f["run"].pop("experiments"), r"'run\.experiments' is missing"),
        (lambda f: f["run"]["protocol"].update(budget=1), r"its key is not that of its row"),
        (lambda f: f.update(kind="accuracy"), r"'row\.role' must be one of method"),
    ],
)
def test_a_trial_that_is_not_understood_is_refused_and_none_passes_for_a_result(tmp_path, change, said):
    file = copy.deepcopy(list(row_files(ladder()).values())[1])
    change(file)
    (tmp_path / "bad.json").write_text(json.dumps(file))
    with pytest.raises(DatastillError, match=said):
        read_rows(tmp_path)


def test_the_same_numbers_may_be_written_again_and_others_only_when_asked(tmp_path):
    write_rows(compared(), tmp_path)
    again = compared()
    again["rows"][0]["seconds"] = [7.0, 7.0, 7.0]
    write_rows(again, tmp_path)
    other = measured([row("random", [51.0, 52.1, 51.4]), row("infer", [99.0, 99.0, 99.0], total=1200)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DatastillError, match=r"photos-infer-.*holds this row with other numbers; say --replace"):
        write_rows(other, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_rows(other, tmp_path, replace=True)
    assert [e.row["top1"]["mean"] for e in read_rows(tmp_path) if e.row["arm"] == "infer"] == [99.0]


def test_speeds_beside_the_rows_are_no_rows(tmp_path):
    (tmp_path / "bench-cpu.json").write_text("{}")
    assert read_rows(tmp_path) == []


def broken(change: Any) -> dict[str, Any]:
    file = copy.deepcopy(next(iter(row_files(compared()).values())))
    change(file)
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(schema=2), r"its schema is 2"),
        (lambda f: f.pop("schema"), r"its schema is None"),
        (lambda f: f.update(kind="guess"), r"its kind is 'guess'"),
        (lambda f: f.pop("run"), r"'run' is missing"),
        (lambda f: f["row"].pop("top1"), r"'row\.top1' is missing"),
        (lambda f: f["row"].update(column="T"), r"'row\.column' must be H, S or D"),
        (lambda f: f["row"].update(epoch="best"), r"'row\.epoch' must be last"),
        (lambda f: f["row"].update(split="train"), r"'row\.split' must be test or validation"),
        (lambda f: f["row"].update(steps="400"), r"'row\.steps' must be a count"),
        (lambda f: f["row"].update(same_work=1), r"'row\.same_work' must be true or false"),
        (lambda f: f["row"].update(recipe="infer"), r"'row\.recipe' must be a mapping, or null"),
        (lambda f: f["row"]["top1"].update(per_seed=[46.0, 147.0, 46.5]), r"per_seed within 0\.\.100"),
        (lambda f: f["row"]["top1"].update(n=4), r"their mean, std and number n"),
        (lambda f: f["row"]["top1"].update(mean=47.0), r"their mean, std and number n"),
        (lambda f: f["row"].update(seeds=[0, 1]), r"3 accuracies of 2 seeds"),
        (lambda f: f["row"]["bytes"].update(total=1), r"counts by kind with their total"),
        (lambda f: f["row"]["against_random"].pop("p"), r"'row\.against_random' must be mean, t, p"),
        (lambda f: f["run"]["source"].pop("fingerprint"), r"'run\.source' must be a mapping with name and fingerprint"),
        (lambda f: f["row"].update(ipc=50), r"its key is not that of its row"),
        (lambda f: [f["row"].pop(k) for k in ("arm", "says", "steps", "batch")], r"and 1 more"),
    ],
)
def test_a_row_that_is_not_understood_is_refused_in_one_sentence_that_names_the_file(tmp_path, change, said):
    (tmp_path / "bad.json").write_text(json.dumps(broken(change)))
    with pytest.raises(DatastillError, match=said) as caught:
        read_rows(tmp_path)
    assert "bad.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"schema": 1, "kind": "accuracy", "key": 1}'])
def test_a_file_that_was_cut_short_or_holds_something_else_is_refused(tmp_path, text):
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises(DatastillError, match=r"cut\.json"):
        read_rows(tmp_path)


def test_two_files_that_claim_one_row_are_both_named(tmp_path):
    path = write_rows(compared(), tmp_path)[0]
    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    with pytest.raises(DatastillError, match=r"claim the same row") as caught:
        read_rows(tmp_path)
    assert path.name in str(caught.value)
    assert "copy.json" in str(caught.value)


def test_results_of_another_kind_or_with_a_row_twice_are_refused(tmp_path):
    with pytest.raises(DatastillError, match=r"of kind 'poem' and schema 1"):
        row_files(compared() | {"kind": "poem"})
    with pytest.raises(DatastillError, match=r"schema 2"):
        row_files(compared() | {"schema": 2})
    with pytest.raises(DatastillError, match=r"two rows of the results have one key"):
        row_files(measured([row("infer", [1.0]), row("infer", [1.0])]))
    with pytest.raises(DatastillError, match=r"row 'infer' of the results .*'row\.title' is missing"):
        row_files(measured([{k: v for k, v in row("infer", [1.0]).items() if k != "title"}]))
    for name in ("start", "plan", "failures"):
        with pytest.raises(DatastillError, match=r"of the results is no row that this version can read"):
            row_files({k: v for k, v in ladder().items() if k != name})
    assert list(tmp_path.iterdir()) == []


def test_a_thinner_curve_is_made_of_means_of_neighbours():
    assert thinned([1.0, 3.0, 5.0, 7.0, 9.0], 3) == [2.0, 6.0, 9.0]
    assert thinned([1.0, 3.0], 3) == [1.0, 3.0]


def test_what_an_evaluation_writes_is_what_the_ledger_reads(tmp_path):
    made = distil(tiny.dataset(), tiny.recipe(), device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    plan = Plan.of(made, ["convnet(width=8)"], seeds=1, steps=2, controls=["random_soft"])
    results = evaluate(made, tiny.dataset(), plan, run=tmp_path / "run", device=tiny.device(), reporter=Reporter())
    write_rows(results, tmp_path / "rows")
    own, control = sorted(read_rows(tmp_path / "rows"), key=lambda entry: entry.row["role"] != "method")
    assert own.row["against_random"]["mean"] == own.row["top1"]["mean"] - control.row["top1"]["mean"]
    assert own.key["beside"] == control.key["beside"] is not None
    assert own.run["protocol"]["steps"] == 2
