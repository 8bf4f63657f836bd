"""CAFE's match against its plain twin, DM, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datastill import engine
from datastill.artifact import DistilledDataset
from datastill.draft import Draft
from datastill.engine import distil
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.match import Living
from datastill.match.aligned import Aligner, Term
from datastill.match.dynamic import COUNTED
from datastill.match.lives import Life, fresh
from datastill.match.paired import MATCHED, pixels_of
from datastill.networks import Network, Space, create_network
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from reference import cafe, tiny

CLASSES, SHAPE, DEPTH = 3, (3, 8, 8), 2
SMALL = {"network": {"settings": {"width": 4, "depth": DEPTH}}, "batch": 6, "rounds": 2}
FIXED = {"kind": "fixed", "outer": 3, "inner": 2}


def made(**changes: Any) -> dict[str, Any]:
    return {
        "store": choice("synthetic", bound=False, storage="fp32"), "label": choice("hard"), "networks": {}, "ipc": 2,
        "match": choice("living", **(SMALL | changes)),
    }  # fmt: skip


def opened(kind: str = "living", **changes: Any) -> tuple[Context, Content, Draft]:
    """Return a context, a content and a draft that has begun."""
    ctx = tiny.context(given={}, **(made() | {"match": choice(kind, **(SMALL | changes))}))
    content = ctx.fields.store.begin(ctx)
    match = ctx.fields.match
    draft = Draft(
        ctx.fields.store, content, match.parts(content.items, ctx.makers), match.optimise(),
        rounds=match.total_rounds, classes=4, device=ctx.device.torch,
    )  # fmt: skip
    match.begin(draft, ctx)
    return ctx, content, draft


def learned(kind: str = "living", **changes: Any) -> Tensor:
    ctx = tiny.context(given={}, **(made() | {"match": choice(kind, **(SMALL | changes))}))
    return engine.build_content(ctx).arrays["pixels"].detach()


# --- the loss ---


def network(norm: str = "convnet_in") -> Network:
    space = Space((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    made = create_network(norm, classes=CLASSES, shape=SHAPE, space=space, width=4, depth=DEPTH, seed=1)
    return made.double().train()


def images(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return pixels and classes, in class order."""
    x = rng(0, name).random((count * CLASSES, *SHAPE))
    return torch.from_numpy(x), torch.arange(CLASSES).repeat_interleave(count)


def slopes(
    found: Network, real: tuple[Tensor, Tensor], synthetic: tuple[Tensor, Tensor], *, most: int = 10**9, **changes: Any
) -> tuple[float, Tensor]:
    """Return the whole loss and its gradient at the synthetic pixels, as the match makes them."""
    match = Living(**changes)
    aligner = Aligner(found, match.terms, CLASSES, most=most)
    places = [(real[1] == k).nonzero().flatten() for k in range(CLASSES)]
    items = [(synthetic[1] == k).nonzero().flatten() for k in range(CLASSES)]
    told, dx = match._slopes(aligner, real[0].__getitem__, places, synthetic[0], items)
    return float(told["distance"] + match.beta * told.get("discrimination", torch.zeros(1))), dx


def test_loss_and_gradient_are_those_of_the_plain_loop_over_classes_and_images() -> None:
    real, (x, cls) = images("real", 5), images("synthetic", 2)
    leaf = x.clone().requires_grad_()
    wanted = cafe.loss(network(), real[0], leaf, (real[1], cls), CLASSES, 0.01)
    (slope,) = torch.autograd.grad(wanted, leaf)
    value, dx = slopes(network(), real, (x, cls))
    assert value == pytest.approx(float(wanted.detach()), rel=1e-12)
    torch.testing.assert_close(dx, slope, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    real, (x, cls) = images("real", 4), images("synthetic", 2)
    _, dx = slopes(network(), real, (x, cls), beta=1.0)
    for seed in range(3):
        way = torch.from_numpy(rng(seed, "way").standard_normal(x.shape))
        up, down = (slopes(network(), real, (x + e * way, cls), beta=1.0)[0] for e in (1e-6, -1e-6))
        assert (up - down) / 2e-6 == pytest.approx(float((dx * way).sum()), rel=1e-5)


def test_class_by_class_with_centres_known_before_is_the_joint_form() -> None:
    real, synthetic = images("real", 5), images("synthetic", 4)
    whole = slopes(network(), real, synthetic, beta=1.0)
    for most in (1, 5 * 192):  # an image at a time, or as much as one class and a bit
        parts = slopes(network(), real, synthetic, beta=1.0, most=most)
        assert parts[0] == pytest.approx(whole[0], rel=1e-12)
        torch.testing.assert_close(parts[1], whole[1], rtol=1e-10, atol=1e-10)
    joint = [slopes(network("convnet"), real, synthetic, most=most) for most in (1, 10**9)]
    assert torch.equal(joint[0][1], joint[1][1])  # images meet in BatchNorm: one batch, whatever the room


def test_equal_batches_are_aligned_and_still_judged() -> None:
    same = images("real", 3)
    value, dx = slopes(network(), same, same, beta=0.0)
    assert value == pytest.approx(0.0, abs=1e-25)
    assert float(dx.abs().max()) < 1e-12
    assert slopes(network(), same, same)[0] > 0.01


def test_twice_the_weight_is_exactly_twice_the_loss() -> None:
    real, synthetic = images("real", 5), images("synthetic", 2)
    one, two = (slopes(network(), real, synthetic, beta=0.0, terms=(Term(weight=w),)) for w in (1.0, 2.0))
    assert two[0] == 2 * one[0]
    assert torch.equal(two[1], 2 * one[1])


def test_neither_the_names_of_classes_nor_the_order_within_one_matter() -> None:
    real, (x, cls) = images("real", 5), images("synthetic", 3)
    value, dx = slopes(network(), real, (x, cls), beta=1.0)
    names = torch.tensor([2, 0, 1])
    renamed, slope = slopes(network(), (real[0], names[real[1]]), (x, names[cls]), beta=1.0)
    assert renamed == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(slope, dx, rtol=1e-10, atol=1e-12)
    order = torch.tensor([2, 0, 1, 3, 5, 4, 6, 7, 8])
    swapped, slope = slopes(network(), real, (x[order], cls), beta=1.0)
    assert swapped == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(slope, dx[order], rtol=1e-10, atol=1e-12)


def test_the_cross_entropy_of_real_images_that_is_left_out_has_no_gradient_at_synthetic_ones() -> None:
    real, (x, cls) = images("real", 4), images("synthetic", 2)
    leaf, found = x.clone().requires_grad_(), network()
    told = cafe.loss(found, real[0], leaf, (real[1], cls), CLASSES, 0.01)
    more = told + functional.cross_entropy(found(real[0]), real[1])
    assert float(more.detach()) > float(told.detach())
    assert torch.equal(*(torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in (told, more)))


# --- what it is without what it adds ---


def test_with_fresh_networks_and_last_features_alone_it_is_distribution_matching_to_the_bit() -> None:
    dm: dict[str, Any] = {"rounds": 5, "lr": 1.0, "augment": "one", "terms": [{"tap": "embed"}]}
    bare: dict[str, Any] = {"beta": 0.0, "policy": {"kind": "fresh"}, "milestones": []}
    assert torch.equal(learned("features", **dm), learned(**dm, **bare))
    several = {"policy": {"kind": "fixed", "outer": 3, "inner": 0}}
    assert torch.equal(learned("features", **dm, steps=3), learned(**dm, **(bare | several)))


def test_two_lives_are_those_of_the_plain_algorithm() -> None:
    ctx, _, draft = opened(policy=FIXED)
    match, real = ctx.fields.match, draft.memo["real"]
    assert isinstance(match, Living)
    x = draft.batch(draft.rows)[0].detach()
    scale = torch.tensor([ctx.info.mean, ctx.info.std])
    mean, deviation = scale[:, :, None, None]
    synthetic = (x - mean) / deviation
    velocity = torch.zeros_like(synthetic)
    for round in range(2):
        batches = []
        for step in range(3):
            places = real.draw(ctx.rng(f"real {step}", round=round), 6)
            batches.append((pixels_of(real, torch.cat(places)), torch.arange(4).repeat_interleave(6)))
        synthetic = cafe.life(
            fresh(match.network, ctx, round), synthetic, draft.cls, batches, classes=4, lr=0.1, momentum=0.5,
            velocity=velocity, inner=2, scale=scale,
        )  # fmt: skip
        match.round(draft, ctx)
        draft.end_round()
        found = (draft.batch(draft.rows)[0].detach() - mean) / deviation
        assert float((found - synthetic).abs().max()) < 1e-4 * float((synthetic - (x - mean) / deviation).abs().max())


def test_no_thresholds_are_the_fixed_counts_to_the_bit() -> None:
    free = {"kind": "dynamic", "settle": 1.0, "move": 0.0, "query": 12, "window": 5}
    ctx, _, draft = opened(rounds=1, policy=free)
    ctx.fields.match.round(draft, ctx)
    assert ctx.fields.match.counted(draft)["lives"] == dict(zip(COUNTED, (1, 5, 20, 0, 0), strict=True))
    found = draft.batch(draft.rows)[0]
    ctx, _, draft = opened(rounds=1, policy={"kind": "fixed", "outer": 5, "inner": 5})
    ctx.fields.match.round(draft, ctx)
    assert ctx.fields.match.counted(draft)["lives"] == dict(zip(COUNTED, (1, 5, 20, 0, 0), strict=True))
    assert torch.equal(draft.batch(draft.rows)[0], found)


# --- what it leaves alone, and what lives on ---


def test_image_updates_leave_the_network_and_training_leaves_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, _, draft = opened(policy=FIXED)
    seen: list[tuple[str, bool, bool]] = []
    networks: list[Network] = []

    def watched(name: str, act: Any) -> Any:
        def acting(*args: Any) -> Any:
            weights, pixels = tiny.state(networks[-1]), draft.batch(draft.rows)[0]
            told = act(*args)
            same = all(torch.equal(weights[k], v) for k, v in networks[-1].state_dict().items())
            seen.append((name, same, torch.equal(pixels, draft.batch(draft.rows)[0])))
            return told

        return acting  # fmt: skip

    def begun(*given: Any) -> Network:
        networks.append(fresh(*given))
        return networks[-1]

    monkeypatch.setattr("datastill.match.features.fresh", begun)
    monkeypatch.setattr(Life, "learn", watched("epoch", Life.learn))
    monkeypatch.setattr(Living, "_update", watched("update", Living._update))
    ctx.fields.match.round(draft, ctx)
    update, epoch = ("update", True, False), ("epoch", False, True)
    assert seen == [update, epoch, epoch, update, epoch, epoch, update]
    assert all(p.grad is None and not p.requires_grad for p in networks[0].parameters())


def pulled(draft: Draft) -> list[Tensor]:
    """Return a list to which every gradient at the pixels is added."""
    found, pull = list[Tensor](), draft.pull

    def noting(rows: Tensor, dx: Tensor) -> None:
        found.append(dx)
        pull(rows, dx)

    draft.pull = noting  # type: ignore[method-assign]  # noted on the way
    return found


def test_the_momentum_of_the_images_survives_a_change_of_networks() -> None:
    ctx, _, draft = opened(policy={"kind": "fresh"}, momentum=0.9)
    ctx.fields.match.round(draft, ctx)
    draft.end_round()
    (name,) = [n for n in draft.arrays() if n.endswith("momentum_buffer")]
    before = draft.arrays()[name].clone()
    slopes = pulled(draft)
    ctx.fields.match.round(draft, ctx)
    deviation = torch.tensor(ctx.info.std)[:, None, None]
    torch.testing.assert_close(draft.arrays()[name], 0.9 * before + slopes[0] * deviation)


def test_the_rate_of_the_images_is_halved_at_its_milestones() -> None:
    ctx, _, draft = opened(rounds=10, policy={"kind": "fresh"}, momentum=0.0)
    slopes = pulled(draft)
    variance = torch.tensor(ctx.info.std)[:, None, None] ** 2
    for done, rate in ((0, 0.1), (5, 0.1), (6, 0.05), (7, 0.05), (8, 0.025), (9, 0.0125)):
        draft.round, before = done, draft.batch(draft.rows)[0].detach()
        ctx.fields.match.round(draft, ctx)
        moved = draft.batch(draft.rows)[0].detach() - before
        torch.testing.assert_close(moved, -rate * variance * slopes[-1], rtol=1e-3, atol=1e-6)


def test_a_batch_of_real_images_is_drawn_for_every_update_and_a_query_for_every_decision() -> None:
    asked: list[str] = []
    ctx, _, draft = opened(policy={"kind": "dynamic", "window": 2, "most_outer": 2, "most_inner": 3, "move": 1.0,
                                   "settle": 0.0, "query": 8})  # fmt: skip
    stream = ctx.rng

    def noting(name: str, **where: int) -> np.random.Generator:
        asked.append(name)
        return stream(name, **where)

    ctx.rng = noting  # type: ignore[method-assign]  # noted on the way
    ctx.fields.match.round(draft, ctx)
    assert asked == ["real 0", "query 0 0", "query 1 0", "query 1 1", "query 1 2", "real 1", "query 1 3"]
    assert ctx.fields.match.counted(draft)["lives"] == dict(zip(COUNTED, (1, 2, 3, 1, 1), strict=True))


DYNAMIC = {"kind": "dynamic", "window": 2, "most_outer": 4, "most_inner": 3, "query": 8}


def run(folder: Path, *, resume: bool = False) -> DistilledDataset:
    recipe = tiny.recipe(**made(rounds=3, augment="one", policy=DYNAMIC, network=SMALL["network"]))
    return distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=folder, resume=resume)


def test_a_run_that_is_cut_between_lives_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
    rounds = list[int]()
    original = Living.round

    def dying(self: Living, draft: Draft, ctx: Context) -> dict[str, Tensor]:
        rounds.append(draft.round)
        if len(rounds) in (2, 4):
            raise KeyboardInterrupt
        return original(self, draft, ctx)

    monkeypatch.setattr(Living, "round", dying)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", resume=resume)
    cut = run(tmp_path / "cut", resume=True)
    assert rounds == [0, 1, 1, 2, 2]
    for name in ("arrays.safetensors", "items.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert cut.facts["counts"] == whole.facts["counts"]
    lives = cut.facts["counts"]["lives"]
    assert lives["networks"] == 3
    assert 6 <= lives["image updates"] <= 12
    assert lives["epochs"] >= 2 * (lives["image updates"] - 3)


def test_what_was_counted_comes_along_where_a_set_is_learned_once_for_several_labels(tmp_path: Path) -> None:
    recipe = tiny.recipe(**made(rounds=1, policy=DYNAMIC))
    found = [distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), kept=tmp_path) for _ in range(2)]
    assert found[0].facts["counts"]["lives"]["networks"] == 1
    assert found[0].facts["counts"] == found[1].facts["counts"]


# --- what cannot work ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 2}, "match 'living' was given steps=2, but `policy` says how many"),
        ({"policy": {"kind": "dynamic", "most_inner": 9}}, "policy.window=10, which never fills in 9 updates"),
        ({"terms": [{"tap": "relu"}]}, "match 'living' with beta above 0 needs the means of what the head sees"),
        ({"policy": {"kind": "dinamic"}}, "'match.policy.kind' is 'dinamic'"),
        ({"network": {"settings": {"width": 4, "depth": 1}}}, "a term at tap=relu, which the network 'convnet_in'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_a_sentence(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DatastillError, match=says.replace("(", r"\(")):
        tiny.context(given={}, **made(**changes))


def test_its_defaults_are_those_of_the_released_code() -> None:
    match = Living()
    assert (match.rounds, match.lr, match.momentum, match.milestones) == (2000, 0.1, 0.5, (0.6, 0.8, 0.9))
    assert (match.beta, match.batch, match.augment, match.network) == (0.01, 256, "none", MATCHED)
    assert [(t.tap, t.weight) for t in match.terms] == [("relu", 0.1), ("relu_last", 1.0), ("embed", 2.0)]
    policy = match.policy
    assert (policy.kind, policy.settle, policy.move, policy.window, policy.query) == ("dynamic", 0.04, 0.03, 10, 1280)
    assert (policy.outer, policy.inner, policy.most_outer, policy.most_inner) == (20, 10, 50, 50)
    plan = match.optimise()["pixels"]
    assert (plan.lr, plan.momentum, plan.schedule, plan.drop) == (0.1, 0.5, "steps", 0.5)
