"""The arms of a comparison: each control is what its specification says, and weighs what a receiver stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datastill.artifact import MANIFEST, DistilledDataset
from datastill.engine import distil
from datastill.fields import SeededViews
from datastill.measure import arms
from datastill.measure.arms import Arm, ArmMaker
from datastill.recipe import Control, choice, method
from datastill.runtime.progress import Reporter
from reference import tiny

CONTROLS = {control.name: control for control in method("infer").controls}
MATCH = choice("statistics", rounds=6, lr=0.3, jitter=1)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> DistilledDataset:
    """The method's own set: N = 2, M = 2, K = 4."""
    folder = tmp_path_factory.mktemp("arms")
    return distil(
        tiny.dataset(), tiny.recipe(match=MATCH), device=tiny.device(), reporter=Reporter(), out=folder / "set"
    )


@pytest.fixture(scope="module")
def maker(own: DistilledDataset, tmp_path_factory: pytest.TempPathFactory) -> ArmMaker:
    return ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path_factory.mktemp("arms"))


def made(maker: ArmMaker, name: str) -> Arm:
    arm = maker.make(CONTROLS[name])
    assert arm is not None
    assert arm.name == name
    return arm


def values(distilled: DistilledDataset) -> torch.Tensor:
    assert distilled.labels.values is not None
    return distilled.labels.values.float()


def test_the_methods_own_arm_is_the_set_itself(maker: ArmMaker, own: DistilledDataset) -> None:
    arm = maker.own()
    assert arm.distilled is own
    assert (arm.name, arm.column, arm.scale) == ("infer", "S", 1.0)


def test_random_soft_is_ipc_real_images_per_class_that_extend_the_naturals(
    maker: ArmMaker, own: DistilledDataset
) -> None:
    arm = made(maker, "random_soft")
    pictures = arm.distilled.content.pictures
    assert arm.column == "S"
    assert pictures.cls.tolist() == [k for k in range(4) for _ in range(4)]
    first = pictures.pixels.view(4, 4, *tiny.SHAPE)[:, :2]
    assert torch.equal(first, own.content.pictures.pixels.view(4, 2, *tiny.SHAPE))
    assert torch.equal(arm.distilled.expand().images, pictures.pixels)
    naturals = own.content.items.maker == -1
    wanted = values(own)[naturals].view(4, 2, 4)
    torch.testing.assert_close(values(arm.distilled).view(4, 4, 4)[:, :2], wanted, rtol=2e-3, atol=2e-3)


def test_random_hard_is_the_same_images_without_soft_labels(maker: ArmMaker) -> None:
    soft, hard = made(maker, "random_soft"), made(maker, "random_hard")
    assert hard.column == "H"
    assert hard.distilled.labels.kind == "classes"
    assert torch.equal(hard.distilled.expand().images, soft.distilled.expand().images)
    assert torch.equal(hard.distilled.expand().cls, soft.distilled.expand().cls)
    assert hard.distilled.ledger()["labels"] == 0 < soft.distilled.ledger()["labels"]


def test_natural_only_is_the_naturals_and_nothing_else(maker: ArmMaker, own: DistilledDataset) -> None:
    arm = made(maker, "natural_only")
    assert arm.distilled.content.pictures.ids == own.content.pictures.ids
    assert torch.equal(arm.distilled.expand().images, own.content.pictures.pixels)
    assert not arm.distilled.content.arrays
    naturals = own.content.items.maker == -1
    torch.testing.assert_close(values(arm.distilled), values(own)[naturals], rtol=2e-3, atol=2e-3)


def test_noise_replaces_every_compensator_by_one_of_equal_norm(maker: ArmMaker, own: DistilledDataset) -> None:
    arm = made(maker, "noise")
    mine, theirs = (d.facts["counts"]["compensator_norms"] for d in (arm.distilled, own))
    assert len(mine) == 4
    assert mine == pytest.approx(theirs, rel=1e-5)
    assert min(mine) > 1
    assert arm.distilled.content.pictures.ids == own.content.pictures.ids
    one, two = (d.content.arrays["compensators"].float().flatten(1) for d in (arm.distilled, own))
    assert torch.cosine_similarity(one, two).abs().max() < 0.3
    made_items = own.content.items.maker >= 0
    assert not torch.equal(values(arm.distilled)[made_items], values(own)[made_items])
    torch.testing.assert_close(values(arm.distilled)[~made_items], values(own)[~made_items], rtol=2e-3, atol=2e-3)


def test_infer_hard_is_its_own_images_with_their_classes(maker: ArmMaker, own: DistilledDataset) -> None:
    arm = made(maker, "infer_hard")
    assert arm.column == "H"
    assert torch.equal(arm.distilled.expand().images, own.expand().images)
    assert torch.equal(arm.distilled.expand().cls, own.expand().cls)
    assert own.labels.kind == "logits"


@pytest.mark.parametrize("name", ["equal_bytes_soft", "equal_bytes_hard"])
def test_equal_bytes_is_filled_to_the_last_item(
    maker: ArmMaker, own: DistilledDataset, name: str, tmp_path: Path
) -> None:
    arm = made(maker, name)
    count, payload = len(arm.distilled), own.ledger()["total"]
    assert 4 < count < 48
    assert arm.distilled.ledger()["total"] <= payload
    more = arm.distilled.recipe.patched({"store": choice("pixels", total=count + 1)})
    one_more = distil(
        tiny.dataset(), more, device=tiny.device(), reporter=Reporter(), out=tmp_path / "more",
        source=own.facts["source"],
    )  # fmt: skip
    assert one_more.ledger()["total"] > payload
    assert arm.column == ("S" if name.endswith("soft") else "H")


def test_coded_images_fill_the_bytes_of_the_method_under_a_lossy_codec(tmp_path: Path) -> None:
    """A long source is bytes of the manifest: weighed without it, more images would be taken than fit."""
    data, source = tiny.dataset(per_class=200), {"asked": "a source that has quite a long name " * 10}
    own = distil(
        data, tiny.recipe(match=MATCH), device=tiny.device(), reporter=Reporter(), out=tmp_path / "set", source=source
    )
    maker, payload = ArmMaker(own, data, tiny.device(), Reporter(), tmp_path / "arms"), own.ledger()["total"]
    arm = made(maker, "coded_hard")
    recipe, count = arm.distilled.recipe, len(arm.distilled)
    assert (arm.column, recipe.networks, recipe.match.kind) == ("H", {}, "none")
    assert (recipe.store.kind, recipe.store.settings) == ("coded", {"total": count})
    assert 0.97 * payload < arm.distilled.ledger()["total"] <= payload
    more = recipe.patched({"store": choice("coded", total=count + 8)})  # AVIF may take an image for nothing
    larger = distil(
        data, more, device=tiny.device(), reporter=Reporter(), out=tmp_path / "more", source=own.facts["source"]
    )
    assert larger.ledger()["total"] > payload


def test_a_store_that_a_control_names_keeps_its_codec_when_it_is_filled(own: DistilledDataset, tmp_path: Path) -> None:
    codec = {"format": "jpeg", "quality": 31, "chroma": "420", "tiles": 16}
    store = choice("coded", codec=codec)
    patch = {"store": store, "match": choice("none"), "label": choice("hard")}
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path)
    arm = maker.make(Control("jpegs", "says", patch, needs="bytes"))
    assert arm is not None
    assert arm.distilled.recipe.store.settings == {"codec": codec, "total": len(arm.distilled)}
    assert store.settings == {"codec": codec}


def test_other_steps_is_the_set_under_the_other_labels_work(maker: ArmMaker, own: DistilledDataset) -> None:
    arm = made(maker, "other_steps")
    assert arm.distilled is own
    assert arm.scale == pytest.approx(1 / 3)


def test_other_steps_of_dynamic_labels_are_more_steps(tmp_path: Path) -> None:
    recipe = tiny.recipe(label=choice("dynamic"), method="infer-dyn")
    dynamic = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(dynamic, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    assert made(maker, "other_steps").scale == 3.0
    soft = made(maker, "random_soft")
    assert (soft.column, maker.own().column) == ("D", "D")
    assert soft.distilled.ledger()["teachers"] == dynamic.ledger()["teachers"] > 0


def test_noise_means_nothing_without_compensators(tmp_path: Path) -> None:
    recipe = tiny.recipe(store=choice("pixels"), match=choice("none"))
    plain = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(plain, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    assert maker.make(CONTROLS["noise"]) is None


def test_naturals_alone_mean_nothing_without_natural_sets(tmp_path: Path) -> None:
    recipe = tiny.recipe(store=choice("pixels"), match=choice("none"))
    plain = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(plain, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    assert maker.make(CONTROLS["natural_only"]) is None


def test_noise_is_run_beside_a_set_that_is_kept_as_jpeg(tmp_path: Path) -> None:
    recipe = tiny.recipe(store=choice("compensated", storage="jpeg75"))
    jpeg = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(jpeg, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
    assert made(maker, "noise").distilled.facts["counts"]["compensator_norms"] == pytest.approx(
        jpeg.facts["counts"]["compensator_norms"], rel=1e-5
    )


def test_equal_bytes_takes_what_small_classes_have(tmp_path: Path) -> None:
    data = tiny.dataset(per_class=(40, 40, 6, 40))
    recipe = tiny.recipe(label=choice("dynamic"))
    large = distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    maker = ArmMaker(large, data, tiny.device(), Reporter(), tmp_path / "arms")
    filled = made(maker, "equal_bytes_hard").distilled
    counts = filled.content.pictures.cls.bincount().tolist()
    assert counts.pop(2) == 6
    assert min(counts) > 6, "large classes give more where a small one is used up"
    assert filled.ledger()["total"] <= large.ledger()["total"]


def test_equal_bytes_of_a_small_set_are_found_without_weighing_the_whole_real_set(
    own: DistilledDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, weighed = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path), []
    maker.bytes -= 2000

    def noted(*args: Any, **options: Any) -> DistilledDataset:
        weighed.append(args[1].store.settings["total"])
        return distil(*args, **options)

    monkeypatch.setattr(arms, "distil", noted)
    made(maker, "equal_bytes_hard")
    assert 4 <= weighed[-1] < 16 == max(weighed)


def test_the_arms_of_another_set_are_not_taken_for_this_ones(own: DistilledDataset, tmp_path: Path) -> None:
    recipe = tiny.recipe(match=choice("statistics", rounds=8, lr=0.3, jitter=1))
    other = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    for distilled in (own, other):
        maker = ArmMaker(distilled, tiny.dataset(), tiny.device(), Reporter(), tmp_path / "arms")
        for name in ("infer_hard", "noise"):
            arm = made(maker, name)
            assert arm.distilled.content.pictures.ids == distilled.content.pictures.ids
        assert torch.equal(made(maker, "infer_hard").distilled.expand().images, distilled.expand().images)


@pytest.mark.parametrize("name", ["random_soft", "infer_hard", "noise"])
def test_an_arm_that_is_there_is_not_made_again(maker: ArmMaker, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(maker, name)
    written = (maker.folder / name / MANIFEST).stat().st_mtime_ns

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(DistilledDataset, "save", never)
    again = made(maker, name)
    assert (maker.folder / name / MANIFEST).stat().st_mtime_ns == written
    assert torch.equal(again.distilled.expand().images, first.distilled.expand().images)
    assert again.distilled.ledger() == first.distilled.ledger()


def test_making_arms_leaves_the_set_and_its_networks_as_they_were(own: DistilledDataset, tmp_path: Path) -> None:
    assert own.folder is not None
    before = {p: p.read_bytes() for p in own.folder.rglob("*") if p.is_file()}
    ctx = tiny.context()
    networks = {name: tiny.state(ctx.network(name)) for name in ctx.makers}
    maker = ArmMaker(own, tiny.dataset(), tiny.device(), Reporter(), tmp_path)
    for name in ("infer_hard", "noise", "random_soft"):
        made(maker, name)
    assert {p: p.read_bytes() for p in own.folder.rglob("*") if p.is_file()} == before
    fresh = tiny.context()
    for name in fresh.makers:
        assert all(torch.equal(networks[name][key], value) for key, value in fresh.network(name).state_dict().items())


def test_the_views_that_labels_belong_to_are_part_of_what_students_meet(own: DistilledDataset) -> None:
    views = (None, SeededViews(2, 0, 1, False), SeededViews(2, 1, 1, False), SeededViews(2, 0, 1, True))
    made = [replace(own, labels=replace(own.labels, views=each)) for each in views]
    keys = [Arm("infer", "as distilled", distilled).key for distilled in made]
    assert len(set(keys)) == 4
    assert keys[0] == Arm("infer", "as distilled", own).key
