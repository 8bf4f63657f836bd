"""The one loop: against plain torch, exactly its steps, and bit for bit from any checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.recipe import TrainRecipe
from datastill.runtime.device import Device, open_device
from datastill.training import loop
from datastill.training.loop import Learner, train
from datastill.training.supply import Batch, Data, supply
from reference import training as plain

MakeLearner = Callable[..., Learner]
SOFT = {"mix": "mixup", "temperature": 30.0}


def batches(learner: Learner, data: Data) -> list[Batch]:
    return list(supply(data, learner.work, learner.recipe, learner.seed, start=learner.step))


def finished(learner: Learner, data: Data) -> Learner:
    for _ in train(learner, supply(data, learner.work, learner.recipe, learner.seed, start=learner.step)):
        pass
    return learner


def soft(data: Data) -> Data:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(5)) * 8
    return Data(data.images, data.classes, logits, "logits")


def state(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.network.state_dict().items()}


def assert_same(one: Learner, two: Learner) -> None:
    assert one.step == two.step
    assert torch.equal(one.losses, two.losses)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[name]), name


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "adam"])
@pytest.mark.parametrize("kind", ["classes", "logits"])
def test_training_is_what_plain_torch_does(optimiser: str, kind: str, make_learner: MakeLearner, data: Data) -> None:
    """Adam gets no BatchNorm: it would blow up the gradient of the bias before it, which is nothing but rounding."""
    own: dict[str, Any] = {"lr": 0.05} if optimiser == "sgd" else {"lr": 1e-3, "settings": {"width": 8, "norm": "none"}}
    learner = make_learner(optimiser=optimiser, epochs=4, **own, **(SOFT if kind == "logits" else {}))
    told = soft(data) if kind == "logits" else data
    twin = make_learner(optimiser=optimiser, epochs=4, **own).network
    twin.load_state_dict(learner.network.state_dict())
    losses = plain.train(twin, batches(learner, told), learner.recipe, learner.work.epoch)
    finished(learner, told)
    torch.testing.assert_close(learner.losses, torch.stack(losses), rtol=2e-4, atol=1e-6)
    for name, value in learner.network.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_instance_norms_are_fast_on_a_cpu_and_teach_the_same(
    make_learner: MakeLearner, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"width": 8, "norm": "instance"}
    fast = make_learner(epochs=4, settings=settings)
    assert not any(type(module) is nn.GroupNorm for module in fast.network.modules())
    monkeypatch.setattr(loop, "hasten", lambda network: None)
    torchs = make_learner(epochs=4, settings=settings)
    assert any(type(module) is nn.GroupNorm for module in torchs.network.modules())
    assert fast.network.state_dict().keys() == torchs.network.state_dict().keys()
    torch.testing.assert_close(finished(fast, data).losses, finished(torchs, data).losses, rtol=2e-4, atol=1e-6)
    assert fast.losses[-1] < fast.losses[0]


def test_training_makes_the_loss_fall(make_learner: MakeLearner, data: Data) -> None:
    learner = finished(make_learner(epochs=12), data)
    per_epoch = learner.losses.view(12, 3).mean(1)
    assert per_epoch[-1] < 0.5 * per_epoch[0]


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_exactly_the_asked_steps_are_run_with_the_last_epoch_cut(
    steps: int, make_learner: MakeLearner, data: Data
) -> None:
    learner = make_learner(steps=steps)
    told = [
        (step.index, step.loss.item(), learner.optimiser.param_groups[0]["lr"])
        for step in train(learner, supply(data, learner.work, learner.recipe, 0))
    ]
    assert [index for index, _, _ in told] == list(range(steps))
    assert learner.step == steps == len(learner.losses)
    assert learner.losses.tolist() == [loss for _, loss, _ in told]
    assert (learner.losses != 0).all()
    assert [rate for _, _, rate in told[:3]] == [0.05] * min(steps, 3)
    assert len({rate for _, _, rate in told}) == -(-steps // 3)
    for value in learner.network.state_dict().values():
        assert value.isfinite().all()
    assert dict(learner.network.named_buffers())["body.blocks.1.num_batches_tracked"] == steps


def test_the_last_state_is_the_result_even_where_an_earlier_one_was_better(
    make_learner: MakeLearner, data: Data
) -> None:
    learner = make_learner(lr=1.5, epochs=3)
    seen = []
    for _ in train(learner, supply(data, learner.work, learner.recipe, 0)):
        seen.append(state(learner))
    assert learner.losses.argmin() < learner.work.steps - 1
    for name, value in learner.network.state_dict().items():
        assert torch.equal(value, seen[-1][name])


def test_the_network_trains_in_training_mode_and_every_weight_moves(make_learner: MakeLearner, data: Data) -> None:
    learner = make_learner()
    before = state(learner)
    learner.network.eval()
    finished(learner, data)
    assert learner.network.training
    moved = {name for name, value in learner.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(before) - {"space.mean", "space.std"}


@pytest.mark.parametrize(("arch", "steps", "breaks"), [("convnet", 6, range(7)), ("efficientnet_b0", 3, range(1, 3))])
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_training_goes_on_bit_for_bit_from_a_checkpoint_at_any_step(
    arch: str, steps: int, breaks: range, optimiser: str, make_learner: MakeLearner, data: Data, tmp_path: Path
) -> None:
    """EfficientNet has dropout, whose numbers must not depend on where the training was broken off."""
    kinds: dict[str, Any] = {
        "arch": arch,
        "optimiser": optimiser,
        "lr": 0.05 if optimiser == "sgd" else 1e-3,
        "steps": steps,
    }
    unbroken = make_learner(**kinds)
    told = batches(unbroken, data)
    unbroken.save(tmp_path / "0")
    for step in train(unbroken, told):
        unbroken.save(tmp_path / str(step.index + 1))
    for start in breaks:
        again = make_learner(**kinds)
        again.network.apply(_spoil)
        again.load(tmp_path / str(start))
        assert again.step == start
        for _ in train(again, told[start:]):
            pass
        assert_same(again, unbroken)


def _spoil(module: nn.Module) -> None:
    for p in module.parameters(recurse=False):
        p.data.add_(1.0)


def test_saving_changes_nothing(make_learner: MakeLearner, data: Data, tmp_path: Path) -> None:
    plainly, watched = make_learner(), make_learner()
    finished(plainly, data)
    for _ in train(watched, supply(data, watched.work, watched.recipe, 0)):
        watched.save(tmp_path / "x")
    assert_same(watched, plainly)


def test_whoever_looks_is_shown_the_logits_before_each_step_and_changes_nothing(
    make_learner: MakeLearner, data: Data
) -> None:
    plainly, seen = make_learner(), make_learner()
    finished(plainly, data)
    told, shown = batches(seen, data), []

    def see(batch: Batch, logits: Tensor) -> None:
        assert batch is told[seen.step]
        assert not logits.requires_grad
        shown.append(nn.functional.cross_entropy(logits, batch.hard).item())

    for _ in train(seen, told, see):
        pass
    assert_same(seen, plainly)
    assert shown == pytest.approx(seen.losses.tolist(), rel=1e-5)


class DropPath(nn.Module):
    """Stochastic depth as libraries have it: no subclass of torch's dropouts."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        draws = self.training and self.drop_prob > 0
        return x * (torch.rand(len(x), 1, 1, 1) > self.drop_prob) if draws else x


@pytest.mark.parametrize(
    ("layer", "draws"),
    [(nn.Dropout(0.5), True), (nn.Dropout2d(0.5), True), (nn.AlphaDropout(0.5), True), (DropPath(0.5), True),
     (nn.Dropout(0.0), False), (DropPath(0.0), False), (nn.ReLU(), False)],
    ids=lambda value: str(value),
)  # fmt: skip
def test_whatever_draws_is_seeded_by_the_step_and_leaves_torchs_generator_alone(
    layer: nn.Module, draws: bool, cpu: Device, make_network: Callable[..., Any], data: Data, tmp_path: Path
) -> None:
    recipe = TrainRecipe(batch=8, lr=0.05, steps=4, crop=0)

    def learner() -> Learner:
        network = make_network()
        network.body.blocks.append(layer)
        return Learner(network, recipe, recipe.work(20), 0, cpu)

    one, two = learner(), learner()
    assert one.draws == draws
    before = torch.get_rng_state()
    finished(one, data)
    assert torch.equal(torch.get_rng_state(), before)
    for _ in islice(train(two, supply(data, two.work, recipe, 0)), 2):
        pass
    two.save(tmp_path / "x")
    three = learner()
    three.load(tmp_path / "x")
    assert_same(finished(three, data), one)


def test_another_seed_drops_other_units(cpu: Device, make_network: Callable[..., Any], data: Data) -> None:
    recipe = TrainRecipe(batch=20, steps=1, crop=0, flip=False)
    losses = []
    for seed in (0, 0, 1):
        learner = Learner(make_network("efficientnet_b0"), recipe, recipe.work(20), seed, cpu)
        told = list(supply(data, learner.work, recipe, 0))
        losses += [step.loss.item() for step in train(learner, told)]
    assert losses[0] == losses[1] != losses[2]


def test_other_units_are_dropped_in_every_step(make_learner: MakeLearner, data: Data) -> None:
    learner = make_learner("efficientnet_b0", lr=0.0, steps=2, crop=0, flip=False)
    (told, _) = batches(learner, data)
    first, second = [step.loss.item() for step in train(learner, [told, told])]
    assert first != second


def test_a_step_in_bf16_runs_and_keeps_weights_and_losses_in_float32(make_learner: MakeLearner, data: Data) -> None:
    exact, half = make_learner(**SOFT), make_learner(device=open_device("cpu", "bf16"), **SOFT)
    finished(exact, soft(data))
    finished(half, soft(data))
    assert half.losses.isfinite().all()
    assert not torch.equal(half.losses, exact.losses)
    torch.testing.assert_close(half.losses, exact.losses, rtol=0.1, atol=1e-3)
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in half.network.parameters())
