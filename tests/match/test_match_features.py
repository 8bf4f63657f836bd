"""Distribution matching as a match: fresh networks, one view for both sides, refusals, resume, and the plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill import engine
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Context
from datastill.match import features as module
from datastill.match.features import Features
from datastill.match.lives import fresh
from datastill.networks import Network
from datastill.recipe import Choice, choice
from datastill.runtime.files import load_arrays
from datastill.runtime.progress import Reporter
from reference import features as plain
from reference import tiny

SHAPE = (3, 16, 16)
NETWORK = {"arch": "convnet_in", "settings": {"width": 8}}
ATTENTION = {"tap": "relu", "reduce": "channels", "power": 4, "normalise": True, "weight": 100}
EMBED = {"tap": "embed"}


def match(*terms: dict[str, Any], **settings: Any) -> Choice:
    made = {"rounds": 3, "batch": 5, "network": NETWORK, "terms": list(terms or [ATTENTION, EMBED])}
    return choice("features", **(made | settings))


def context(*terms: dict[str, Any], per_class: int | tuple[int, ...] = 12, **settings: Any) -> Context:
    return tiny.context(
        tiny.dataset(per_class=per_class, shape=SHAPE), given={}, ipc=2, match=match(*terms, **settings), networks={},
        store=choice("synthetic", init="real", bound=False), label=choice("hard"),
    )  # fmt: skip


def draft(ctx: Context) -> Draft:
    content, features = ctx.fields.store.begin(ctx), ctx.fields.match
    made = Draft(ctx.fields.store, content, features.parts(content.items, ()), features.optimise(),
                 rounds=features.total_rounds, classes=tiny.CLASSES, device=ctx.device.torch)  # fmt: skip
    features.begin(made, ctx)
    return made


def learned(ctx: Context) -> Tensor:
    return engine.build_content(ctx).arrays["pixels"]


@pytest.mark.parametrize("augment", ["none", "one"])
@pytest.mark.parametrize("arch", ["convnet_in", "convnet"])
def test_a_round_is_a_step_of_the_plain_loss(arch: str, augment: str) -> None:
    ctx = context(augment=augment, lr=0.5, per_class=(12, 3, 12, 4), network=NETWORK | {"arch": arch})
    features, made = ctx.fields.match, draft(ctx)
    assert isinstance(features, Features)
    before = made.arrays()["learned.pixels"].clone()
    found = features.round(made, ctx)
    network = fresh(features.network, ctx, 0)
    images = made.memo["real"]
    places = images.draw(ctx.rng("real 0"), 5)
    assert [len(of_class) for of_class in places] == [5, 3, 5, 4]
    real = [images.images[of_class] / 255.0 for of_class in places]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (ctx.info.mean, ctx.info.std))
    leaf = before.clone().requires_grad_()
    synthetic = list((leaf * std + mean).split(2))
    drawn = features.drawn(ctx, 0, 0) if augment == "one" else None
    loss = plain.loss(network, real, synthetic, drawn=drawn, spatial_weight=100.0, joint=arch == "convnet")
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(found["distance"], loss.detach()[None], rtol=1e-3, atol=1e-5)
    moved = before - made.arrays()["learned.pixels"]
    assert torch.nn.functional.cosine_similarity(moved.flatten(), gradient.flatten(), dim=0) > 0.999
    torch.testing.assert_close(moved, 0.5 * gradient, rtol=0, atol=0.02 * float(gradient.abs().max()))


def test_every_round_has_another_network_and_other_images_and_momentum_goes_on() -> None:
    ctx = context(momentum=0.5)
    features, made = ctx.fields.match, draft(ctx)
    assert isinstance(features, Features)
    one, two = fresh(features.network, ctx, 0), fresh(features.network, ctx, 1)
    assert not torch.equal(next(one.body.parameters()), next(two.body.parameters()))
    features.round(made, ctx)
    made.end_round()
    before, momentum = (
        made.arrays()[name].clone() for name in ("learned.pixels", "optimiser.pixels.0.momentum_buffer")
    )
    features.round(made, ctx)
    now = made.arrays()
    assert not torch.equal(now["optimiser.pixels.0.momentum_buffer"], momentum)
    step = before - now["learned.pixels"]
    torch.testing.assert_close(step, now["optimiser.pixels.0.momentum_buffer"], rtol=1e-4, atol=1e-5)


def test_a_network_may_live_for_more_steps_and_each_has_its_own_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[Network] = []
    draws: list[str] = []
    drawn = Features.drawn

    def watched(self: Features, ctx: Context, round: int, step: int) -> Any:
        draws.append(f"{round} {step}")
        return drawn(self, ctx, round, step)

    def counted(*given: Any) -> Network:
        met.append(fresh(*given))
        return met[-1]

    monkeypatch.setattr(Features, "drawn", watched)
    monkeypatch.setattr(module, "fresh", counted)
    learned(context(rounds=2, steps=3, augment="one"))
    assert len(met) == 2
    assert draws == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
    for network in met:
        assert all(p.grad is None for p in network.parameters())
        assert network.training


def test_how_many_images_pass_at_once_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = learned(context(EMBED, augment="one"))
    for room in (1, 7):
        monkeypatch.setitem(module.PASS_VALUES, "cpu", room * 3 * 16 * 16)
        torch.testing.assert_close(learned(context(EMBED, augment="one")), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "terms", "lr"),
    [("convnet_in", [EMBED], 1.0), ("convnet_in", [EMBED, ATTENTION], 0.2), ("convnet", [EMBED, ATTENTION], 0.2)],
)
def test_images_come_nearer(arch: str, terms: list[dict[str, Any]], lr: float) -> None:
    ctx = context(*terms, rounds=25, batch=12, lr=lr, network={"arch": arch, "settings": {"width": 16}})
    made = draft(ctx)
    found = []
    while made.round < made.rounds:
        found.append(float(ctx.fields.match.round(made, ctx)["distance"]))
        made.end_round()
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


class Killed(Exception):
    """In place of a machine that stops."""


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.dataset(shape=SHAPE)
    recipe = tiny.recipe(
        ipc=2, store=choice("synthetic", init="real", bound=False, storage="fp32"),
        match=match(rounds=5, augment="one", network=NETWORK | {"arch": "convnet"}), label=choice("hard"), networks={},
    )  # fmt: skip

    def run(name: str, resume: bool = False) -> None:
        engine.distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / name, resume=resume)

    run("whole")
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    rounds = Features.round
    left: Iterator[int] = iter(range(3))

    def dying(self: Features, made: Any, ctx: Context) -> Any:
        if next(left, None) is None:
            raise Killed
        return rounds(self, made, ctx)

    with monkeypatch.context() as patched:
        patched.setattr(Features, "round", dying)
        with pytest.raises(Killed):
            run("stopped")
    run("stopped", resume=True)
    whole, stopped = (load_arrays(tmp_path / name / "arrays.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"terms": []}, "was given no terms; give one at least"),
        ({"terms": [EMBED | {"reduce": "channels"}]}, r"terms\[0\]: what the head sees is no map to sum over"),
        ({"terms": [EMBED, {"tap": "relu", "power": 2}]}, r"terms\[1\]: power=2.0 is of a sum"),
        ({"network": {"arch": "resnet10"}}, "tap=relu, which the network 'resnet10' does not have; .* or tap=embed"),
        (
            {"network": NETWORK | {"settings": {"depth": 1}}},
            "a ConvNet of two blocks or more, or tap=embed or relu_last",
        ),
        ({"network": NETWORK | {"settings": {"depth": 9}}}, "match 'features': a ConvNet was asked for depth 9"),
        ({"terms": [EMBED | {"tap": "head"}]}, r"'match.terms\[0\].tap' is 'head'"),
        ({"terms": [EMBED | {"power": 0.5}]}, r"'match.terms\[0\].power' must be between 1.0 and 16.0"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_a_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DatastillError, match=says):
        context(**settings)


def test_terms_are_data_that_read_back_from_yaml_and_change_the_hash() -> None:
    one, two = (tiny.recipe(store=choice("synthetic"), match=match(*terms)) for terms in ([EMBED], [EMBED, ATTENTION]))
    changed = one.changed(
        ["match.terms=[{tap: embed}, {tap: relu, reduce: channels, power: 4, normalise: true, weight: 100}]"]
    )
    assert changed.match.plain() == two.match.plain()
    found = tiny.context(tiny.dataset(shape=SHAPE), given=dict.fromkeys(tiny.NETWORKS), store=choice("synthetic"),  # type: ignore[arg-type]  # never asked
                         match=changed.match).fields.match  # fmt: skip
    assert isinstance(found, Features)
    assert [(t.tap, t.power, t.weight) for t in found.terms] == [("embed", 1.0, 1.0), ("relu", 4.0, 100.0)]
