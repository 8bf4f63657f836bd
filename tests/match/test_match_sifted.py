"""Level 2 of BiLP inside matches: what is looked at, what is asked for, resume, refusals, and that it can be off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Context, Weighing, registered, resolve
from datastill.match import features, gradients
from datastill.match.influence import feature_effects, slope_effects
from datastill.match.lives import fresh
from datastill.match.paired import ClassImages, pixels_of
from datastill.match.slopes import Meeting
from datastill.recipe import Recipe, choice
from datastill.runtime.files import load_arrays
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.select.bilp import Bilp
from datastill.select.sieve import Sieve
from reference import tiny
from reference.selection import pruned

NETWORK = {"arch": "convnet_in", "settings": {"width": 4}}
SMALL: dict[str, dict[str, Any]] = {
    "gradients": {"rounds": 2, "outer": 2, "inner": 1, "batch": 8, "lr": 0.1, "network": NETWORK, "augment": "one"},
    "features": {"rounds": 2, "steps": 2, "batch": 8, "network": NETWORK, "augment": "one"},
    "living": {
        "rounds": 2, "batch": 8, "network": NETWORK, "beta": 0.0, "policy": {"kind": "fixed", "outer": 2, "inner": 1},
        "terms": [{"tap": "embed"}],
    },
}  # fmt: skip
MATCHES = sorted(SMALL)
Influence = Callable[[Weighing], Tensor]


def recipe(name: str, select: dict[str, Any] | None, **settings: Any) -> Recipe:
    how = choice("random") if select is None else choice("bilp", **select)
    return tiny.recipe(
        ipc=2, networks={}, select=how, match=choice(name, **(SMALL[name] | settings)), label=choice("hard"),
        store=choice("synthetic", init="real", bound=False, storage="fp32"),
    )  # fmt: skip


def context(name: str, select: dict[str, Any] | None, **settings: Any) -> Context:
    return engine.make_context(tiny.dataset(), recipe(name, select, **settings), tiny.device(), Reporter())


def learned(name: str, select: dict[str, Any] | None, **settings: Any) -> Tensor:
    return engine.build_content(context(name, select, **settings)).arrays["pixels"].detach()


def drafted(ctx: Context) -> Draft:
    match, content = ctx.fields.match, ctx.fields.store.begin(ctx)
    draft = Draft(
        ctx.fields.store, content, match.parts(content.items, ()), match.optimise(),
        rounds=match.total_rounds, classes=ctx.info.classes, device=ctx.device.torch,
    )  # fmt: skip
    match.begin(draft, ctx)
    return draft


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that the class of every estimate is put into."""
    asked: list[int] = []

    def slopes(meeting: Any, see: Any, own: Tensor, real: Tensor, cls: int, *rest: Any) -> Tensor:
        asked.append(cls)
        return slope_effects(meeting, see, own, real, cls, *rest)

    def vectors(aligner: Any, own: Tensor, real: Any, cls: int, *rest: Any) -> Tensor:
        asked.append(cls)
        return feature_effects(aligner, own, real, cls, *rest)

    monkeypatch.setattr(gradients, "slope_effects", slopes)
    monkeypatch.setattr(features, "feature_effects", vectors)
    return asked


# --- off ---


@pytest.mark.parametrize("name", MATCHES)
def test_without_pruning_a_run_is_the_base_to_the_bit_and_no_effect_is_asked_for(name: str, weighed: list[int]) -> None:
    ctx = context(name, {"keep": 1.0, "beta": 0.0})
    content = engine.build_content(ctx)
    assert torch.equal(content.arrays["pixels"].detach(), learned(name, None))
    assert not weighed
    assert "real_seen" not in ctx.memo["counted"]
    draft = drafted(ctx)
    ctx.fields.match.round(draft, ctx)
    assert not any(key.startswith("sieve") for key in draft.state)


@pytest.mark.parametrize("name", MATCHES)
def test_effects_that_all_pass_change_nothing_though_they_are_asked_for(
    name: str, weighed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no stream of the base is drawn from, and what is estimated leaves networks and images as they are."""
    monkeypatch.setattr(Sieve, "passing", lambda self, k, places: places)
    base = learned(name, None)
    for estimate in ("taylor", "sketch"):
        asked = {"beta": 0.2, "estimate": estimate, "every": 3, "sketches": 2}
        assert torch.equal(learned(name, asked), base)
    assert sorted(weighed) == [k for k in range(4) for _ in range(4)]


# --- on ---


@pytest.mark.parametrize("name", MATCHES)
@pytest.mark.parametrize("every", [1, 3])
def test_effects_are_asked_for_in_every_so_many_batches_of_a_class(name: str, every: int, weighed: list[int]) -> None:
    ctx = context(name, {"beta": 0.2, "every": every})
    found = engine.build_content(ctx).arrays["pixels"]
    assert found.isfinite().all()
    assert not torch.equal(found, learned(name, None))
    assert weighed == [*range(4)] * (4 if every == 1 else 2)
    seen = ctx.memo["counted"]["real_seen"]
    assert seen["drawn"] == 4 * 4 * 8
    assert 0.5 * seen["drawn"] < seen["passed"] < seen["drawn"]
    if every == 1:  # of 8 images round(0.8) are below, and as many above, at first; then it is of all recent ones
        assert seen["passed"] > 0.6 * seen["drawn"]


def test_the_real_side_is_the_mean_of_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context("gradients", {"beta": 0.4, "every": 2}, augment="none")
    draft, looked, passed = drafted(ctx), [], []
    real, sift = Meeting.real, Bilp.sift

    def noted(self: Meeting, z: Tensor, cls: int) -> list[Tensor]:
        looked.append((cls, z.clone()))
        return real(self, z, cls)

    def sifted(self: Bilp, k: int, places: Tensor, influence: Influence, *rest: Any) -> Tensor:
        passed.append((k, places, sift(self, k, places, influence, *rest)))
        looked.clear()  # what was seen while effects were estimated
        return passed[-1][2]

    monkeypatch.setattr(Meeting, "real", noted)
    monkeypatch.setattr(Bilp, "sift", sifted)
    match = ctx.fields.match
    assert isinstance(match, gradients.Gradients)
    images: ClassImages = draft.memo["real"]
    network = fresh(match.network, ctx, 0)
    match.round(draft, ctx)
    ((cls, z),) = looked
    k, places, kept = passed[-1]
    assert cls == k == 3
    assert 0 < len(kept) < len(places)
    assert torch.isin(kept, places).all()
    torch.testing.assert_close(z, network.space.into(pixels_of(images, kept)))
    drawn = images.draw(ctx.rng("real 1", round=0), 8)
    assert places.tolist() == drawn[3].tolist()  # the batch itself is the base's draw


def test_old_masks_serve_between_estimates_and_the_unknown_pass() -> None:
    ctx = context("features", {"beta": 0.5, "every": 3})
    select, state = ctx.fields.select, {}  # type: ignore[var-annotated]  # of a draft
    places, other = torch.arange(8), torch.arange(8, 12)
    effects = torch.tensor([5.0, 1, 2, 3, 4, 0, 6, 7])

    def never(_: Weighing) -> Tensor:
        raise AssertionError("not yet")

    first = select.sift(0, places, lambda _: effects, state, ctx)
    assert first.tolist() == [0, 2, 3, 4]  # two below and two above are gone
    assert select.sift(0, torch.cat([places, other]), never, state, ctx).tolist() == [0, 2, 3, 4, 8, 9, 10, 11]
    assert select.sift(0, torch.tensor([5, 6, 1]), never, state, ctx).tolist() == [6]  # the nearest to 3.5
    again = select.sift(0, places, lambda _: effects.flip(0), state, ctx)
    assert again.tolist() == [3, 4, 5, 7]  # none is lost for ever
    assert select.counted(state) == {"real_seen": {"drawn": 8 + 12 + 3 + 8, "passed": 4 + 8 + 1 + 4}}


def test_an_image_alone_is_looked_at_and_weighed_by_nobody() -> None:
    ctx = context("features", {"beta": 0.5})
    calls: list[Weighing] = []
    found = ctx.fields.select.sift(2, torch.tensor([7]), calls.append, {}, ctx)  # type: ignore[arg-type]  # never asked
    assert found.tolist() == [7]
    assert not calls


def test_others_that_pass_fill_the_batch_where_that_is_asked_for() -> None:
    ctx = context("features", {"beta": 0.5, "refill": True})
    select = ctx.fields.select
    mine = (tiny.dataset().train.labels[ctx.pool] == 1).nonzero().flatten()
    places, state = mine[:8], {}  # type: ignore[var-annotated]  # of a draft
    found = select.sift(1, places, lambda _: torch.arange(8.0), state, ctx)
    assert found[:4].tolist() == places[2:6].tolist()
    assert sorted(found[4:].tolist()) == mine[8:].tolist()  # all of the four that were not drawn
    found = select.sift(1, mine[2:], lambda _: torch.arange(10.0), state, ctx)
    assert found.tolist() == mine[2:].tolist()[:4] + mine[8:].tolist()  # the others of the class do not pass
    order = rng(0, 0, "refill", 1, 0).permutation(4)
    state = {}
    again = select.sift(1, places, lambda _: torch.arange(8.0), state, ctx)
    assert again[4:].tolist() == mine[8:][torch.from_numpy(order)].tolist()


def test_pruned_before_and_in_batches_a_match_looks_at_what_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from reference.planted import made_up

    few = {"keep": 0.5, "beta": 0.3, "every": 2}
    table = {"networks": tiny.NETWORKS}
    made = recipe("gradients", few)
    ctx = engine.make_context(tiny.dataset(), Recipe(**(vars(made) | table)), tiny.device(), Reporter())
    scores = torch.arange(48.0).double()
    made_up(monkeypatch, ctx, loss=scores)
    draft = drafted(ctx)
    classes = tiny.dataset().train.labels[ctx.real.rows].tolist()
    assert ctx.pool.tolist() == ctx.real.rows[pruned(scores.tolist(), classes, 0.5)].tolist()
    assert len(draft.memo["real"].images) == len(ctx.pool) == 24
    ctx.fields.match.round(draft, ctx)
    assert draft.state["sieve.open"].shape == (24,)
    assert not draft.state["sieve.open"].all()


class Killed(Exception):
    """In place of a machine that stops."""


@pytest.mark.parametrize("name", ["gradients", "features"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(name, {"beta": 0.3, "every": 3, "refill": True, "estimate": "sketch", "sketches": 2}, rounds=3)

    def run(folder: str, resume: bool = False) -> Any:
        return engine.distil(
            tiny.dataset(),
            asked,
            device=tiny.device(),
            reporter=Reporter(),
            out=tmp_path / folder,
            resume=resume,
        )

    whole = run("whole")
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    kind = registered("match")[name]
    rounds = kind.round  # type: ignore[attr-defined]  # matches have it
    left: Iterator[int] = iter(range(2))

    def dying(self: Any, draft: Any, ctx: Context) -> Any:
        if next(left, None) is None:
            raise Killed
        return rounds(self, draft, ctx)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "round", dying)
        with pytest.raises(Killed):
            run("stopped")
    stopped = run("stopped", resume=True)
    one, two = (load_arrays(tmp_path / folder / "arrays.safetensors") for folder in ("whole", "stopped"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert whole.facts["counts"]["real_seen"] == stopped.facts["counts"]["real_seen"]


# --- refusals ---


@pytest.mark.parametrize("name", sorted(set(registered("match")) - {*MATCHES}))
def test_matches_that_form_no_mean_of_real_images_are_refused(name: str) -> None:
    made = tiny.recipe(select=choice("bilp", beta=0.2), match=tiny.chosen("match", name))
    said = f"given beta=0.2, but match '{name}' forms no mean over a batch of real images; take match=gradients or"
    with pytest.raises(DatastillError, match=said):
        resolve(made, tiny.dataset().info)
    resolve(tiny.recipe(select=choice("bilp"), match=choice("none")), tiny.dataset().info)


@pytest.mark.parametrize("distance", ["l1", "l1_mean"])
def test_absolute_values_ask_for_images_to_be_left_out(distance: str) -> None:
    for estimate in ("taylor", "sketch"):
        said = f"estimate={estimate} is 0 for every image under the distance '{distance}' .* take select.estimate=exact"
        with pytest.raises(DatastillError, match=said):
            context("gradients", {"beta": 0.2, "estimate": estimate}, distance=distance)
    context("gradients", {"beta": 0.2, "estimate": "exact"}, distance=distance)
    context("gradients", {"beta": 0.0}, distance=distance)


def test_networks_in_which_images_meet_are_refused_where_their_features_are_matched() -> None:
    batch = {"network": NETWORK | {"arch": "convnet"}}
    with pytest.raises(DatastillError, match="images meet in the BatchNorm of 'convnet', .* or select.beta=0"):
        context("features", {"beta": 0.2}, **batch)
    assert learned("gradients", {"beta": 0.2}, rounds=1, **batch).isfinite().all()  # these see one class, held fixed


def test_the_discrimination_loss_of_cafe_is_refused() -> None:
    with pytest.raises(DatastillError, match="match 'living' L_disc .*; take match.beta=0, or select.beta=0"):
        context("living", {"beta": 0.2}, beta=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": 1.0}, r"'select\.beta' must be between"),
        ({"every": 0}, r"'select\.every' must be at least 1"),
        ({"tails": "upper"}, r"'select\.tails' is 'upper'"),
        ({"keep": 0.5}, "the table 'networks' is empty; name one with --teachers"),
        ({"then": "easiest"}, "the table 'networks' is empty"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DatastillError, match=said):
        context("gradients", {"beta": 0.2} | settings)


def test_a_class_of_which_nothing_stays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context("gradients", None)
    rows = ctx.real.rows[tiny.dataset().train.labels != 2]
    monkeypatch.setattr(type(ctx.fields.select), "pool", lambda self, ctx: rows)
    with pytest.raises(DatastillError, match="leaves no training image of class 'class 2' for match 'gradients'"):
        ClassImages(ctx)
