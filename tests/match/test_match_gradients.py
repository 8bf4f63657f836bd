"""Gradient matching: its loops, what networks learn between updates, and the released algorithm beside it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Content, Context
from datastill.match import Gradients
from datastill.match.gradients import loops
from datastill.match.lives import Life, fresh, settle_norms
from datastill.match.paired import ClassImages, pixels_of
from datastill.networks import Network
from datastill.recipe import Work, choice
from datastill.runtime.device import Device, open_device
from datastill.runtime.files import load_arrays, save_arrays
from datastill.runtime.seeds import derive
from datastill.training.supply import batch_rows
from reference import gradients as plain
from reference import tiny

INNER = {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "batch": 256, "crop": 0,
         "flip": False}  # fmt: skip
NETWORK = {"arch": "convnet_in", "settings": {"width": 8}, "training": INNER}
SMALL: dict[str, Any] = {"rounds": 2, "outer": 2, "inner": 2, "batch": 6, "lr": 0.1, "network": NETWORK}


def started(init: str = "real", ipc: int = 2, **settings: Any) -> tuple[Context, Gradients]:
    ctx = tiny.context(
        ipc=ipc, networks={}, match=choice("gradients", **(SMALL | settings)), label=choice("hard"),
        store=choice("synthetic", init=init, bound=False, storage="fp32"),
    )  # fmt: skip
    assert isinstance(ctx.fields.match, Gradients)
    return ctx, ctx.fields.match


def drafted(ctx: Context) -> Draft:
    match, content = ctx.fields.match, ctx.fields.store.begin(ctx)
    draft = Draft(
        ctx.fields.store, content, match.parts(content.items, ctx.makers), match.optimise(),
        rounds=match.total_rounds, classes=ctx.info.classes, device=ctx.device.torch,
    )  # fmt: skip
    match.begin(draft, ctx)
    return draft


def learned(**settings: Any) -> Tensor:
    return engine.build_content(started(**settings)[0]).arrays["pixels"].detach()


def plain_body(match: Gradients, ctx: Context, round_: int) -> nn.Module:
    """Return the network of a round with torch's own norms, contiguous in memory."""
    body = copy.deepcopy(fresh(match.network, ctx, round_).body).to(memory_format=torch.contiguous_format)
    for module in body.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = nn.GroupNorm
    return body


# --- the released algorithm ---


@pytest.mark.parametrize(("augment", "init"), [("none", "noise"), ("one", "real"), ("all", "real")])
def test_it_learns_what_the_released_algorithm_learns(augment: str, init: str) -> None:
    ctx, match = started(init, augment=augment)
    start = ctx.fields.store.begin(ctx).arrays["pixels"].detach()
    classes, real = ctx.info.classes, ClassImages(ctx)
    space = fresh(match.network, ctx, 0).space
    work = Work(len(start), len(start), 1, 2)

    def real_of(round_: int, step: int) -> list[Tensor]:
        drawn = real.draw(ctx.rng(f"real {step}", round=round_), match.batch)
        return [space.into(pixels_of(real, places)) for places in drawn]

    def see(round_: int, step: int, k: int, z: Tensor) -> Tensor:
        return match.drawn(ctx, round_, step).of(torch.full((len(z),), k)).apply(z)

    def order_of(round_: int, step: int) -> list[list[int]]:
        seed = derive(ctx.recipe.seed, ctx.stage, "life", match.network.seed, round_)
        return [batch_rows(work, seed, epoch).tolist() for epoch in range(2 * (step - 1), 2 * step)]

    wanted = plain.condense(
        start, classes, rounds=2, outer=2, inner=2, lr=match.lr, momentum=match.momentum,
        network_of=lambda round_: plain_body(match, ctx, round_), real_of=real_of, see=see, order_of=order_of,
    )  # fmt: skip
    found = learned(init=init, augment=augment)
    moved = float((wanted - start).abs().max())
    assert moved > 1e-2
    assert float((found - wanted).abs().max()) < 1e-3 * moved


def test_augmentation_with_no_operation_is_no_augmentation_to_the_bit() -> None:
    assert torch.equal(learned(augment="one", operations=()), learned())
    assert not torch.equal(learned(augment="one"), learned())


def test_one_step_for_all_classes_is_a_step_of_each_with_a_momentum_of_its_own() -> None:
    ctx, match = started(rounds=3, inner=0)
    draft, whole = drafted(ctx), ctx.fields.store.begin(ctx).arrays["pixels"].detach().double()
    each = [w.clone().requires_grad_() for w in whole.chunk(ctx.info.classes)]
    optimisers = [torch.optim.SGD([leaf], lr=match.lr, momentum=match.momentum) for leaf in each]
    joint = whole.clone().requires_grad_()
    optimiser = torch.optim.SGD([joint], lr=match.lr, momentum=match.momentum)
    pulled: list[Tensor] = []
    pull = draft.pull
    draft.pull = lambda rows, dx: (pulled.append(dx.double()), pull(rows, dx))[1]  # type: ignore[method-assign,func-returns-value]
    for _ in range(3):
        match.round(draft, ctx)
        draft.end_round()
    for dx in pulled:
        joint.grad = dx
        optimiser.step()
        for leaf, own, grad in zip(each, optimisers, dx.chunk(ctx.info.classes), strict=True):
            leaf.grad = grad
            own.step()
    assert len(pulled) == 6
    assert torch.equal(torch.cat(list(each)), joint)


# --- loops ---


@pytest.mark.parametrize(("ipc", "expected"), [(1, (1, 1)), (10, (10, 50)), (50, (50, 10)), (5, (5, 100)),
                                               (100, (50, 10)), (25, (25, 20))])  # fmt: skip
def test_loops_follow_the_table_and_go_on_between_its_entries(ipc: int, expected: tuple[int, int]) -> None:
    assert loops(ipc) == expected


@pytest.mark.parametrize(("ipc", "updates", "epochs"), [(1, 1, 0), (10, 10, 9 * 50)])
def test_one_image_a_class_trains_no_network_and_ten_do_by_the_table(
    ipc: int, updates: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, match = started(ipc=ipc, outer=None, inner=None, rounds=2, batch=2)
    learnt: list[int] = []
    monkeypatch.setattr(Life, "learn", lambda self, data, steps: learnt.append(steps // self.work.epoch))
    draft, steps = drafted(ctx), []
    step = draft.step
    draft.step = lambda: (steps.append(1), step())[1]  # type: ignore[method-assign,func-returns-value]
    match.round(draft, ctx)
    assert (len(steps), sum(learnt), len(learnt)) == (updates, epochs, updates - 1)
    content = ctx.fields.store.begin(ctx)
    facts = match.facts(ctx, content, content)
    assert facts == {"networks_met": 2, "image_updates": 2 * updates, "network_steps": 2 * epochs}


def test_networks_learn_from_the_set_as_it_stands_and_from_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, match = started(rounds=1, outer=3)
    draft, seen = drafted(ctx), []
    monkeypatch.setattr(Life, "learn", lambda self, data, steps: seen.append(data.images))
    match.round(draft, ctx)
    assert [len(images) for images in seen] == [8, 8]
    assert not torch.equal(seen[0], seen[1])
    assert not seen[0].requires_grad


def test_networks_learn_from_real_images_in_an_order_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    training = INNER | {"batch": 16}
    ctx, match = started(rounds=1, outer=3, inner=None, inner_on="real", inner_images=40,
                         network=NETWORK | {"training": training})  # fmt: skip
    learn, steps = Life.learn, []

    def learned_(self: Life, data: Any, count: int) -> None:
        steps.append((self._learner.step, count, len(data)))
        learn(self, data, count)

    monkeypatch.setattr(Life, "learn", learned_)
    match.round(drafted(ctx), ctx)
    assert steps == [(0, 3, 48), (3, 3, 48)]


# --- networks ---


def test_every_round_has_a_network_of_its_own() -> None:
    ctx, match = started()
    one, two, again = (fresh(match.network, ctx, round_) for round_ in (0, 1, 0))
    assert not torch.equal(next(one.parameters()), next(two.parameters()))
    assert torch.equal(next(one.parameters()), next(again.parameters()))
    assert one.training


def test_early_networks_learn_from_real_images_first_and_keep_their_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    training = INNER | {"batch": 16, "momentum": 0.9}
    given: dict[str, Any] = {"source": "early", "epochs": 2, "rounds": 1, "network": NETWORK | {"training": training}}
    lives: list[tuple[int, int, int]] = []
    learn = Life.learn

    def learned_(self: Life, data: Any, count: int) -> None:
        lives.append((id(self), count, len(data)))
        learn(self, data, count)

    monkeypatch.setattr(Life, "learn", learned_)
    ctx, match = started(inner=None, inner_on="real", inner_images=16, **given)
    match.round(drafted(ctx), ctx)
    assert [entry[1:] for entry in lives] == [(6, 48), (1, 48)]
    assert lives[0][0] == lives[1][0]
    lives.clear()
    ctx, match = started(inner=1, **given)
    match.round(drafted(ctx), ctx)
    assert [entry[1:] for entry in lives] == [(6, 48), (1, 8)]


def test_a_pool_is_trained_once_and_met_in_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, match = started(source="pool", pool=2, epochs=1, rounds=6)
    match.prepare(ctx)
    trained = []
    monkeypatch.setattr(type(ctx.bank), "_make", lambda *given: trained.append(given))
    draft = drafted(ctx)
    met: set[float] = set()
    begun = Gradients._begun

    def kept(self: Gradients, *given: Any) -> tuple[Network, Life | None]:
        network, life = begun(self, *given)
        met.add(float(next(network.parameters()).detach().sum()))
        return network, life

    monkeypatch.setattr(Gradients, "_begun", kept)
    for _ in range(6):
        match.round(draft, ctx)
        draft.end_round()
    assert not trained
    assert len(met) == 2  # training between updates has changed no network of the pool


def test_at_most_so_many_images_of_a_class_take_part() -> None:
    ctx, match = started(ipc=3, most=2, rounds=1, outer=1, momentum=0.0)
    draft = drafted(ctx)
    before = draft.batch(draft.rows)[0].detach()
    match.round(draft, ctx)
    moved = (draft.batch(draft.rows)[0].detach() != before).flatten(1).any(dim=1).view(4, 3).sum(dim=1)
    assert moved.tolist() == [2, 2, 2, 2]
    rows = [torch.cat(match._rows(draft, ctx, step)).tolist() for step in (0, 1)]
    assert rows[0] != rows[1]
    assert torch.cat(match._rows(draft, ctx, 0)).tolist() == rows[0]


# --- BatchNorm ---


def batchnormed(ctx: Context, match: Gradients) -> Network:
    network = fresh(match.network, ctx, 0)
    with torch.no_grad():
        network(pixels_of(ClassImages(ctx), torch.arange(9)))
    return network


@pytest.mark.parametrize("how", ["exact", "released"])
def test_norms_of_batches_hold_what_real_images_gave_them(how: str) -> None:
    ctx, match = started(network=NETWORK | {"arch": "convnet"})
    network = batchnormed(ctx, match)
    (norm,) = (m for m in network.modules() if isinstance(m, _BatchNorm))
    before = copy.deepcopy(norm)
    x = pixels_of(ClassImages(ctx), torch.arange(20))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    settle_norms(network, x, how)  # type: ignore[arg-type]  # a literal
    share = 1.0 if how == "exact" else 0.1
    for name, value in (("mean", seen[0].mean((0, 2, 3))), ("var", seen[0].var((0, 2, 3)))):
        wanted = torch.lerp(getattr(before, f"running_{name}"), value, share)
        torch.testing.assert_close(getattr(norm, f"running_{name}"), wanted)
    assert norm.momentum == before.momentum
    assert not network.training


def test_a_class_meets_fixed_statistics_and_leaves_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, match = started(network=NETWORK | {"arch": "convnet"}, rounds=1, outer=1)
    draft, states = drafted(ctx), []
    settle, update = Gradients._settle, Gradients._update

    def settled(self: Gradients, network: Network, *given: Any) -> None:
        settle(self, network, *given)
        states.append(tiny.state(network))

    def updated(self: Gradients, meeting: Any, network: Network, *given: Any) -> Tensor:
        losses = update(self, meeting, network, *given)
        states.append(tiny.state(network))
        return losses

    monkeypatch.setattr(Gradients, "_settle", settled)
    monkeypatch.setattr(Gradients, "_update", updated)
    found = match.round(draft, ctx)["distance"]
    assert found.isfinite().all()
    assert len(states) == 2
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- steps, resume, refusals ---


def test_classes_that_step_in_turn_coast() -> None:
    _, match = started(turns=4)
    assert match.optimise()["pixels"].turns == 4
    assert not torch.equal(learned(turns=4), learned())


def test_a_round_follows_from_names_so_that_a_resumed_run_gives_the_same_bytes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rounds": 4, "augment": "one", "most": 1, "network": NETWORK | {"arch": "convnet"}}
    ctx, match = started(**settings)
    whole, part = drafted(ctx), drafted(ctx)
    for draft, rounds in ((whole, 4), (part, 2)):
        for _ in range(rounds):
            match.round(draft, ctx)
            draft.end_round()
    save_arrays(tmp_path / "checkpoint.safetensors", part.arrays())
    ctx, match = started(**settings)
    resumed = drafted(ctx)
    resumed.load(load_arrays(tmp_path / "checkpoint.safetensors"))
    for _ in range(2):
        match.round(resumed, ctx)
        resumed.end_round()
    wanted = whole.arrays()
    assert wanted.keys() == resumed.arrays().keys()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.arrays().items())


def test_the_set_is_one_part_that_waits_for_no_network() -> None:
    ctx, match = started()
    content: Content = ctx.fields.store.begin(ctx)
    (part,) = match.parts(content.items, ())
    assert (part.network, part.alone, len(part.rows)) == ("", True, 8)
    assert match.trained(("teacher",)) == ()
    assert started(rounds=0)[1].parts(content.items, ()) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"network": {"arch": "convnet_on"}}, "match 'gradients': there is no network 'convnet_on'"),
        ({"inner": 3, "inner_on": "real"}, "counts epochs on the set, but inner_on=real; set inner_images"),
        ({"distance": "cosine"}, "'match.distance' is 'cosine'"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DatastillError, match=says):
        started(**settings)


# --- 16 bits ---


def pull(device: Device, other: int | None = None) -> Tensor:
    """Return what a round's one image update does to the pixels; `other` draws other real batches."""
    ctx, match = started(rounds=1, outer=1)
    ctx = replace(ctx, device=device)
    draft, found = drafted(ctx), []
    real: ClassImages = draft.memo["real"]
    if other is not None:
        drawn = real.draw(np.random.default_rng(other), match.batch)
        real.draw = lambda *given: drawn  # type: ignore[method-assign]
    draft.pull = lambda rows, dx: found.append(dx.clone())  # type: ignore[method-assign]
    with device.autocast():
        match.round(draft, ctx)
    assert found[0].dtype == torch.float32
    return found[0]


def test_what_16_bits_do_to_the_pull_is_small_beside_what_another_batch_does() -> None:
    exact, half = pull(tiny.device()), pull(open_device("cpu", "bf16"))
    assert not torch.equal(exact, half)
    others = [float((pull(tiny.device(), other) - exact).norm()) for other in range(3)]
    assert float((half - exact).norm()) < 0.2 * min(others)
