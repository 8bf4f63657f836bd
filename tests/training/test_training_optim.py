"""Learning rates, weight decay, and optimiser state that survives being written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.recipe import TrainRecipe, Work
from datastill.runtime.files import load_arrays, save_arrays
from datastill.training.optim import learning_rate, load_optimiser_arrays, make_optimiser, optimiser_arrays


def rates(recipe: TrainRecipe, work: Work) -> list[float]:
    return [learning_rate(recipe, work, step) for step in range(work.steps)]


def test_cosine_is_held_for_an_epoch_and_follows_torchs_own() -> None:
    recipe = TrainRecipe(lr=0.1, epochs=7, batch=10)
    work = recipe.work(45)
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    wanted = []
    for _ in range(recipe.epochs):
        wanted += [schedule.get_last_lr()[0]] * work.epoch
        optimiser.step()
        schedule.step()
    assert rates(recipe, work) == pytest.approx(wanted)
    assert len(set(rates(recipe, work))) == recipe.epochs


def test_the_rate_begins_whole_is_half_at_half_and_ends_near_zero() -> None:
    recipe = TrainRecipe(lr=0.25, hold="step")
    work = Work(items=10, batch=10, epoch=1, steps=1000)
    found = rates(recipe, work)
    assert found[0] == 0.25
    assert found[500] == pytest.approx(0.125)
    assert found[999] == pytest.approx(6.17e-7, rel=1e-3)
    assert sum(found) == pytest.approx(125.125)
    assert found == sorted(found, reverse=True)
    per_epoch = TrainRecipe(lr=0.25, epochs=400, batch=64)
    assert learning_rate(per_epoch, per_epoch.work(4_500), 200 * 71) == pytest.approx(0.125)


def test_exact_steps_hold_the_cosine_of_the_steps_that_were_done_when_the_epoch_began() -> None:
    recipe = TrainRecipe(lr=1.0, batch=10, steps=10)
    work = recipe.work(35)
    assert (work.epoch, work.steps) == (4, 10)
    wanted = [0.5 * (1 + math.cos(math.pi * (step // 4 * 4) / 10)) for step in range(10)]
    assert rates(recipe, work) == pytest.approx(wanted)


def test_a_constant_rate_stays() -> None:
    recipe = TrainRecipe(lr=0.3, schedule="constant", epochs=3, batch=5)
    assert set(rates(recipe, recipe.work(20))) == {0.3}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("hold", ["epoch", "step"])
def test_warm_up_rises_from_a_hundredth_in_a_line(schedule: str, hold: str) -> None:
    recipe = TrainRecipe(lr=0.2, warmup=5, epochs=20, batch=10, schedule=schedule, hold=hold)  # type: ignore[arg-type]
    work = recipe.work(40)
    found = rates(recipe, work)
    assert found[0] == pytest.approx(0.002)
    assert found[5 * work.epoch] == pytest.approx(0.2)
    ends = found[: 5 * work.epoch + 1 : work.epoch]
    gaps = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    assert gaps == pytest.approx([0.2 * 0.99 / 5] * 5)
    assert max(found) == pytest.approx(0.2)
    if schedule == "cosine":
        half = 5 * work.epoch + 15 * work.epoch // 2
        at = half - half % work.epoch if hold == "epoch" else half
        share = (at - 5 * work.epoch) / (15 * work.epoch)
        assert found[half] == pytest.approx(0.1 * (1 + math.cos(math.pi * share)))


def test_a_training_shorter_than_its_warm_up_never_reaches_the_rate() -> None:
    recipe = TrainRecipe(lr=1.0, warmup=5, steps=3, batch=10)
    assert max(rates(recipe, recipe.work(10))) < 0.5


def stepped(network: nn.Module, recipe: TrainRecipe) -> dict[str, tuple[Tensor, Tensor]]:
    """Return every parameter before and after one step without any gradient but decay."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = make_optimiser(network, recipe)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    return {name: (before[name], p.detach()) for name, p in network.named_parameters()}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_every_parameter_decays_or_the_matrices_alone(optimiser: str, make_network: Callable[..., Any]) -> None:
    recipe = {"optimiser": optimiser, "lr": 0.1, "weight_decay": 0.5}
    everything = stepped(make_network(), TrainRecipe(**recipe, decay="all"))  # type: ignore[arg-type]
    for before, after in everything.values():
        torch.testing.assert_close(after, before * 0.95)
    matrices = stepped(make_network(), TrainRecipe(**recipe, decay="matrices"))  # type: ignore[arg-type]
    assert {before.ndim for before, _ in matrices.values()} == {1, 2, 4}
    for before, after in matrices.values():
        torch.testing.assert_close(after, before * (0.95 if before.ndim >= 2 else 1.0))


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_every_parameter_is_trained_once_whether_it_decays_or_not(decay: str, make_network: Callable[..., Any]) -> None:
    network = make_network()
    groups = make_optimiser(network, TrainRecipe(decay=decay)).param_groups  # type: ignore[arg-type]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())


def test_frozen_parameters_are_left_alone(make_network: Callable[..., Any]) -> None:
    network = make_network()
    network.body.head.requires_grad_(False)
    held = {id(p) for group in make_optimiser(network, TrainRecipe()).param_groups for p in group["params"]}
    assert held == {id(p) for p in network.body.blocks.parameters()}


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_the_recipe_names_the_optimiser_and_its_numbers(
    name: str, kind: type, make_network: Callable[..., Any]
) -> None:
    recipe = TrainRecipe(optimiser=name, momentum=0.7, betas=(0.5, 0.8), lr=0.3)  # type: ignore[arg-type]
    made = make_optimiser(make_network(), recipe)
    assert type(made) is kind
    (group,) = made.param_groups
    assert group["lr"] == 0.3
    assert group.get("momentum", 0.7) == 0.7
    assert not group.get("nesterov", False)
    assert group.get("betas", (0.5, 0.8)) == (0.5, 0.8)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "adam"])
@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_written_state_goes_on_bit_for_bit_whatever_the_memory_layout(
    optimiser: str, decay: str, make_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Fused kernels walk memory: a state laid out otherwise than its parameter would be mixed up silently."""
    recipe = TrainRecipe(optimiser=optimiser, decay=decay, lr=0.1)  # type: ignore[arg-type]
    networks = [make_network().to(memory_format=torch.channels_last) for _ in range(2)]
    optimisers = [make_optimiser(network, recipe) for network in networks]
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("state") / "x"
    for step in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in networks[0].parameters()]
        if step == 2:
            save_arrays(path, optimiser_arrays(optimisers[1]))
            optimisers[1] = make_optimiser(networks[1], recipe)
            load_optimiser_arrays(optimisers[1], load_arrays(path))
        for network, made in zip(networks, optimisers, strict=True):
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p.grad = torch.empty_like(p).copy_(gradient)
            made.step()
    for one, two in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, two)


def test_an_optimiser_that_has_not_stepped_has_nothing_to_write(make_network: Callable[..., Any]) -> None:
    optimiser = make_optimiser(make_network(), TrainRecipe(momentum=0.0))
    assert optimiser_arrays(optimiser) == {}
    load_optimiser_arrays(optimiser, {})
    assert optimiser.state_dict()["state"] == {}
