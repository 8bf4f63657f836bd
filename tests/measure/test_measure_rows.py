"""Rows: equal students are trained once, what differs has another address, and each row stands beside its control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure import rows as measured
from datastill.measure import student as students
from datastill.measure.arms import Arm
from datastill.measure.rows import (
    Bench,
    make_row,
    own_steps,
    paired,
    put_against_random,
    run_facts,
    scored_on,
    train_students,
    trained,
)
from datastill.measure.stats import Difference
from datastill.measure.teachers import Teachers
from datastill.recipe import choice
from datastill.runtime.files import read_json, write_json
from datastill.runtime.progress import Reporter
from reference import tiny
from reference.comparing import STUDENT, count_students

RANDOM: dict[str, Any] = {"store": choice("pixels"), "match": choice("none")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def own(root: Path) -> Arm:
    return Arm("infer", "as distilled", tiny.distilled(root / "infer"), role="method")


@pytest.fixture(scope="module")
def random(root: Path) -> Arm:
    return Arm("random", "real images", tiny.distilled(root / "random", **RANDOM), role="method")


def bench(run: Path, *, testing: students.Testing | None = None) -> Bench:
    return Bench(testing or scored_on(tiny.dataset(), "test", 0, 0), run, tiny.device(), Reporter())


def address(arm: Arm, run: Path, monkeypatch: pytest.MonkeyPatch, *, student: str = STUDENT, steps: int = 4,
            **options: Any) -> Path | str:  # fmt: skip
    """Return where the result of an arm's second student would lie; none is trained."""
    with monkeypatch.context() as patch:
        patch.setattr(measured, "run_tasks", lambda *args, **options: {})
        return train_students([arm], [student], 2, steps, bench(run, **options))[arm.name, student, 1]


def resaved(arm: Arm, folder: Path, **changes: Any) -> Arm:
    """Return an arm of the same set, saved somewhere else under some changes."""
    made = DistilledDataset.load(arm.distilled.folder or folder)
    other = replace(made, **changes)
    other.save(folder)
    return replace(arm, distilled=other)


def test_equal_students_are_trained_once(own: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = count_students(monkeypatch)
    twin = replace(resaved(own, tmp_path / "twin"), name="twin", says="the same under another name", role="control")
    files = train_students([own, twin], [STUDENT], 3, 4, bench(tmp_path))
    assert len(done) == len(set(done)) == 3
    assert trained(files, own, STUDENT, 3) == trained(files, twin, STUDENT, 3) == done
    assert len({read_json(path)["losses"][0] for path in done}) == 3
    train_students([twin], [STUDENT], 3, 4, bench(tmp_path))
    assert len(done) == 3
    train_students([twin], [STUDENT], 4, 4, bench(tmp_path))
    assert len(done) == 4


def test_the_address_does_not_change_with_names_folders_or_lossless_codecs(
    random: Arm, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = address(random, tmp_path, monkeypatch)
    named = replace(random, name="another", says="another", role="control")
    store = choice("pixels", codec={"format": "png"})
    png = replace(random, distilled=tiny.distilled(root / "png", **RANDOM | {"store": store}))
    assert first == address(named, tmp_path, monkeypatch)
    assert first == address(resaved(random, root / "again"), tmp_path, monkeypatch)
    assert first == address(png, tmp_path, monkeypatch)


def test_the_address_changes_with_everything_that_a_student_meets(
    own: Arm, random: Arm, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, data = own.distilled, tiny.dataset()
    values = made.labels.values
    assert values is not None
    changed = values.clone()
    changed[0, 0] += 0.5
    recipe = own.distilled.recipe.student
    info = replace(made.info, mean=(0.1, 0.1, 0.1))
    held, other = (scored_on(data, "validation", 8, seed) for seed in (0, 1))
    found = [
        address(own, tmp_path, monkeypatch),
        address(random, tmp_path, monkeypatch),
        address(resaved(own, root / "labels", labels=replace(made.labels, values=changed, arrays=None)), tmp_path,
                monkeypatch),
        address(resaved(own, root / "space", info=info), tmp_path, monkeypatch),
        address(replace(own, student=replace(recipe, lr=0.02)), tmp_path, monkeypatch),
        address(replace(own, student=replace(recipe, flip=True)), tmp_path, monkeypatch),
        address(replace(own, scale=0.5), tmp_path, monkeypatch),
        address(own, tmp_path, monkeypatch, steps=5),
        address(own, tmp_path, monkeypatch, student="convnet(width=9)"),
        address(own, tmp_path, monkeypatch, testing=held),
        address(own, tmp_path, monkeypatch, testing=other),
        address(own, tmp_path, monkeypatch, testing=replace(held, split="test")),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    hard = tiny.distilled(root / "hard", label=choice("hard"))
    assert address(replace(own, distilled=hard), tmp_path, monkeypatch) not in found


def test_each_seed_has_an_address_of_its_own(own: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "run_tasks", lambda *args, **options: {})
    assert len(set(train_students([own], [STUDENT], 5, 4, bench(tmp_path)).values())) == 5


def test_a_student_that_cannot_be_trained_is_said_for_every_arm_that_needs_it(
    own: Arm, random: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = vars(students)["run_student"]

    def refusing(distilled: Any, expanded: Any, testing: Any, student: str, seed: int, **options: Any) -> Any:
        if seed == 1 and options["label"].startswith("infer"):
            raise DatastillError("seed 1 cannot be trained.")
        return plain(distilled, expanded, testing, student, seed, **options)

    monkeypatch.setattr(students, "run_student", refusing)
    twin = replace(own, name="twin")
    files = train_students([own, twin, random], [STUDENT], 2, 2, bench(tmp_path))
    for arm in (own, twin):
        assert isinstance(files[arm.name, STUDENT, 0], Path)
        with pytest.raises(DatastillError, match="seed 1 cannot be trained"):
            trained(files, arm, STUDENT, 2)
        assert len(trained(files, arm, STUDENT, 1)) == 1
    assert len(trained(files, random, STUDENT, 2)) == 2


def test_steps_of_an_arm_are_those_of_the_comparison_times_its_scale(own: Arm) -> None:
    assert [own_steps(replace(own, scale=scale), 10) for scale in (1.0, 1 / 3, 3.0, 0.001)] == [10, 3, 30, 1]


def results(folder: Path, top1: list[float], per_class: list[list[float | None]]) -> list[Path]:
    for seed, (mine, each) in enumerate(zip(top1, per_class, strict=True)):
        write_json(folder / f"{seed}.json", {"top1": mine, "per_class": each, "batch": 8, "seconds": seed + 0.5,
                   "losses": [seed], "item_accuracy": [[1, 2.0]]})  # fmt: skip
    return [folder / f"{seed}.json" for seed in range(len(top1))]


def test_a_row_sums_its_seeds_up_and_weighs_its_set(own: Arm, tmp_path: Path) -> None:
    each: list[list[float | None]] = [[100.0, None, 0.0, 20.0], [50.0, None, 10.0, None], [0.0, None, 5.0, 40.0]]
    testing = scored_on(tiny.dataset(), "test", 0, 0)
    teachers = Teachers(tiny.dataset(), testing, tiny.device(), Reporter())
    files = results(tmp_path, [10.0, 20.0, 60.0], each)
    row = make_row(replace(own, scale=0.5), STUDENT, files, 9, "validation", teachers)
    assert row["top1"] == {
        "per_seed": [10.0, 20.0, 60.0], "mean": pytest.approx(30.0), "std": pytest.approx(26.457513), "n": 3,
    }  # fmt: skip
    assert row["per_class"] == [pytest.approx(50.0), None, pytest.approx(5.0), pytest.approx(30.0)]
    assert (row["steps"], row["same_work"], row["split"], row["epoch"]) == (4, False, "validation", "last")
    assert (row["method"], row["title"], row["ipc"], row["role"]) == ("infer", "INFER, static labels", 4, "method")
    assert (row["items"], row["pictures"], row["column"], row["random"]) == (24, 8, "S", False)
    assert (row["seeds"], row["seconds"], row["losses"], row["batch"]) == ([0, 1, 2], [0.5, 1.5, 2.5], [0], 8)
    assert row["bytes"] == own.distilled.ledger()
    assert row["label_bytes"] == own.distilled.ledger()["labels"] > 0
    assert row["recipe"] == own.distilled.recipe.plain()
    assert row["embedding"] is None
    ctx, test = tiny.context(), tiny.dataset().test
    with torch.no_grad():
        logits = torch.stack([ctx.network(name)(test.pixels.float() / 255) for name in ctx.makers]).mean(dim=0)
    assert row["teacher_top1"] == pytest.approx(100.0 * float((logits.argmax(dim=1) == test.labels).double().mean()))


def test_a_row_with_hard_labels_has_no_teachers_and_no_bytes_of_labels(root: Path, tmp_path: Path) -> None:
    arm = Arm("hard", "hard", tiny.distilled(root / "hard-row", label=choice("hard")), role="hard")
    teachers = Teachers(tiny.dataset(), scored_on(tiny.dataset(), "test", 0, 0), tiny.device(), Reporter())
    row = make_row(arm, STUDENT, results(tmp_path, [10.0], [[1.0] * 4]), 4, "test", teachers)
    assert (row["teacher_top1"], row["label_bytes"], row["column"]) == (None, 0, "H")
    assert row["top1"]["std"] is None


@pytest.mark.parametrize(
    ("settings", "seen", "column"),
    [
        ({}, 16, "S"),
        ({"views": "flat"}, 8, "S"),
        ({"weight": 0.0}, 8, "S"),
        ({"own": "hard", "local": "hard"}, 16, "H"),
    ],
)
def test_a_row_says_how_many_pictures_a_step_had(
    settings: dict[str, Any], seen: int, column: str, root: Path, tmp_path: Path
) -> None:
    dense = choice("dense", grid=3, **settings)
    made = tiny.distilled(tmp_path / "set", label=dense, match=choice("none"))
    teachers = Teachers(tiny.dataset(), scored_on(tiny.dataset(), "test", 0, 0), tiny.device(), Reporter())
    row = make_row(Arm("dense", "dense", made), STUDENT, results(tmp_path, [10.0], [[1.0] * 4]), 4, "test", teachers)
    assert (row["batch"], row["seen_per_step"], row["same_work"], row["column"]) == (8, seen, True, column)
    assert (row["teacher_top1"] is None) == (column == "H")


def test_dense_labels_stand_beside_no_other_labels_of_their_column(own: Arm) -> None:
    recipe = own.distilled.recipe.plain()
    rows: list[dict[str, Any]] = []
    for label in ({"kind": "static"}, {"kind": "dense"}, {"kind": "dense", "codec": {"kind": "int4"}}):
        for random in (True, False):
            top1 = {"per_seed": [10.0, 11.0, 12.0]}
            rows.append({"recipe": recipe | {"label": label}, "column": "S", "ipc": 1, "student": "a", "role": "method",
                         "random": random, "top1": top1, "arm": str(label)})  # fmt: skip
    rows[1]["top1"] = {"per_seed": [11.0, 12.0, 13.0]}
    rows[3]["top1"] = rows[5]["top1"] = {"per_seed": [13.0, 14.0, 15.0]}
    put_against_random(rows)
    assert [row["against_random"] and row["against_random"]["mean"] for row in rows] == [None, 1.0, None, 3.0, 0.0, 3.0]


def test_the_seconds_of_a_set_leave_out_networks_and_are_unknown_where_nobody_timed(own: Arm, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"seconds": {"train first (convnet)": 50.0, "distil": 2.0, "features of a": 1.5}})
    assert measured._set_seconds(tmp_path) == 3.5
    assert measured._set_seconds(tmp_path / "nowhere") is None
    assert own.distilled.folder is not None
    told = read_json(own.distilled.folder / "run.json")["seconds"]
    wanted = sum(seconds for name, seconds in told.items() if not name.startswith("train "))
    assert measured._set_seconds(own.distilled.folder) == wanted > 0


def line(arm: str, *per_seed: float, ipc: int = 4, student: str = "a", column: str = "S", random: bool = False,
         role: str = "method", networks: str = "a") -> dict[str, Any]:  # fmt: skip
    return {"arm": arm, "ipc": ipc, "student": student, "column": column, "random": random, "role": role,
            "top1": {"per_seed": list(per_seed)},
            "recipe": {"networks": networks, "label": {"kind": "static"}}}  # fmt: skip


def test_a_row_stands_beside_random_images_of_its_ipc_student_and_column_only() -> None:
    rows = [
        line("infer", 50.0, 52.0, 57.0),
        line("random", 40.0, 41.0, 45.0, random=True),
        line("random_hard", 20.0, 21.0, 22.0, column="H", random=True, role="hard"),
        line("infer_hard", 10.0, 15.0, 16.0, column="H", role="hard"),
        line("infer, other ipc", 50.0, 52.0, 57.0, ipc=5),
        line("infer, other student", 50.0, 52.0, 57.0, student="b"),
        line("infer-dyn", 50.0, 52.0, 57.0, column="D"),
        line("infer@plain", 50.0, 52.0, 57.0, role="plain"),
        line("whole", 90.0, 91.0, 92.0, column="H", role="whole"),
        line("infer, other networks", 50.0, 52.0, 57.0, networks="b"),
        line("infer_hard, other networks", 30.0, 31.0, 32.0, column="H", role="hard", networks="b"),
        line("second random", 1.0, 2.0, 3.0, random=True, role="control"),
    ]
    put_against_random(rows)
    found = {row["arm"]: row["against_random"] for row in rows}
    assert {arm for arm, gap in found.items() if gap is None} == {
        "random", "random_hard", "infer, other ipc", "infer, other student", "infer-dyn", "infer@plain",
        "infer, other networks",
    }  # fmt: skip
    assert found["infer"]["mean"] == pytest.approx((10 + 11 + 12) / 3)
    assert found["infer_hard"]["mean"] == pytest.approx((-10 - 6 - 6) / 3)
    assert found["whole"]["mean"] == pytest.approx(70.0)
    assert found["infer_hard, other networks"]["mean"] == pytest.approx(10.0)
    assert found["second random"]["mean"] == pytest.approx(-40.0)
    gap = Difference.of([50.0, 52.0, 57.0], [40.0, 41.0, 45.0])
    assert found["infer"] == {"mean": gap.mean, "t": gap.t, "p": gap.p, "n": 3, "verdict": "better"}
    assert paired(rows[1], rows[0])["mean"] == pytest.approx(-11.0)


def test_without_random_rows_nothing_is_claimed() -> None:
    rows = [line("infer", 50.0), line("infer_hard", 10.0, column="H")]
    put_against_random(rows)
    assert [row["against_random"] for row in rows] == [None, None]


def test_what_is_scored_on_is_the_test_split_or_held_out_training_images() -> None:
    data = tiny.dataset()
    test = scored_on(data, "test", 8, 3)
    assert torch.equal(test.images, data.test.pixels)
    assert (test.split, test.key) == ("test", data.fingerprint)
    held = scored_on(data, "validation", 8, 3)
    real = Real(data, 8, 3)
    assert torch.equal(held.images, data.train.pixels[real.held_out])
    assert torch.equal(held.labels, data.train.labels[real.held_out])
    assert held.split == "validation"
    assert len({test.key, held.key, scored_on(data, "validation", 8, 4).key}) == 3


def test_a_validation_split_of_nothing_is_refused() -> None:
    with pytest.raises(DatastillError, match="hold one out: --set validation=COUNT"):
        scored_on(tiny.dataset(), "validation", 0, 0)


def test_what_a_run_shares_is_recorded(tmp_path: Path) -> None:
    used = replace(bench(tmp_path), jobs=3)
    used.reporter.seconds["phase"] = 1.5
    found = run_facts(tiny.dataset(), {"asked": "here"}, used, "the command")
    assert found["source"] == {
        "asked": "here", "name": "tiny", "fingerprint": tiny.dataset().fingerprint, "notes": [], "skipped": [],
    }  # fmt: skip
    assert (found["shape"], found["train_images"], found["commands"]) == ([3, 8, 8], 48, ["the command"])
    assert found["real_bytes"]["raw"] == 48 * 3 * 8 * 8
    assert found["device"]["jobs"] == "3"
    assert found["seconds"] == {"phase": 1.5}
