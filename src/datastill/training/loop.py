"""THE training loop: one generator of steps; progress, checkpoints and counts are its callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from datastill.networks.norms import hasten
from datastill.recipe import TrainRecipe, Work
from datastill.runtime.device import Device
from datastill.runtime.files import load_arrays, save_arrays
from datastill.runtime.seeds import torch_seeded
from datastill.training.losses import training_loss
from datastill.training.optim import (
    learning_rate,
    load_optimiser_arrays,
    make_optimiser,
    milestones,
    optimiser_arrays,
)
from datastill.training.supply import Batch


@dataclass(frozen=True)
class Step:
    """One finished optimiser step: its index, and its loss as a detached scalar on the device."""

    index: int
    loss: Tensor


class Learner:
    """A network under training: weights, optimiser, the steps done and their losses. All of it can be saved."""

    def __init__(self, network: nn.Module, recipe: TrainRecipe, work: Work, seed: int, device: Device) -> None:
        self.network = network.to(device.torch).to(memory_format=torch.channels_last)
        if device.torch.type == "cpu":
            hasten(self.network)
        self.recipe, self.work, self.seed, self.device = recipe, work, seed, device
        self.optimiser = make_optimiser(self.network, recipe)
        if recipe.bn_momentum is not None:
            for norm in _norms(self.network):
                norm.momentum = recipe.bn_momentum
        self.losses = torch.zeros(work.steps, device=device.torch)
        self.step = 0
        self.draws = any(_draws(module) for module in network.modules())
        self.mean = [p.detach().clone() for p in self.network.parameters()] if recipe.ema else []

    def save(self, path: Path) -> None:
        """Write everything that the rest of the training depends on."""
        arrays = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        arrays |= {f"optimiser.{k}": v for k, v in optimiser_arrays(self.optimiser).items()}
        arrays |= {f"mean.{i}": value for i, value in enumerate(self.mean)}
        save_arrays(path, arrays | {"losses": self.losses, "step": torch.tensor(self.step)})

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        arrays = load_arrays(path)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimiser": {}, "mean": {}}
        for name, value in arrays.items():
            room, _, rest = name.partition(".")
            if rest:
                parts[room][rest] = value
        self.network.load_state_dict(parts["network"])
        load_optimiser_arrays(self.optimiser, parts["optimiser"])
        for i, value in enumerate(self.mean):
            value.copy_(parts["mean"][str(i)])
        self.losses.copy_(arrays["losses"])
        self.step = int(arrays["step"])

    @torch.no_grad()
    def settle(self, batches: Iterable[Batch]) -> None:
        """Put the mean of the weights, where the recipe keeps one, in place of the last ones.

        BatchNorm's statistics belong to the weights that made them: they are measured anew on `batches`.
        """
        if not self.mean:
            return
        for parameter, value in zip(self.network.parameters(), self.mean, strict=True):
            parameter.copy_(value)
        norms = [m for m in _norms(self.network) if m.track_running_stats]
        if not norms:
            return
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self.network.train()
        for batch in batches:
            with self.device.autocast():
                self.network(batch.x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return every BatchNorm layer, in the order of the modules."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _draws(module: nn.Module) -> bool:
    """Whether a module may draw random numbers in training: dropout, stochastic depth, attention dropout.

    They are known by their rates, since timm and torchvision have layers of their own; a seed too many does no harm.
    """
    rates = (getattr(module, name, None) for name in ("p", "dropout", "attention_dropout", "drop_prob", "drop_rate"))
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


def train(
    learner: Learner, batches: Iterable[Batch], see: Callable[[Batch, Tensor], None] | None = None
) -> Iterator[Step]:
    """Train on `batches`, yielding after every step; nothing is read back from the device inside a step.

    Args:
        learner: what is trained; its `step` says where the batches begin.
        batches: `supply(..., start=learner.step)`.
        see: shown each batch and the network's detached logits, float[B, K], before the step; must keep neither.
    """
    network, optimiser, recipe = learner.network, learner.optimiser, learner.recipe
    network.train()
    forward = learner.device.compiled(network)
    forgetting = milestones(recipe, learner.work) if recipe.reset_momentum else []
    for batch in batches:
        rate = learning_rate(recipe, learner.work, learner.step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        if learner.step in forgetting:
            optimiser.state.clear()
        with torch_seeded(learner.seed, "dropout", learner.step) if learner.draws else nullcontext():
            with learner.device.autocast():
                logits = forward(batch.x)
            loss = training_loss(
                recipe, batch.kind, logits, batch.target, batch.mixed, batch.weight, batch.mixed_weight
            )
            if see:
                see(batch, logits.detach())
            loss.backward()
        optimiser.step()
        if learner.mean:
            # The first steps count less, or the mean would remember the initialisation.
            decay = min(recipe.ema, (1 + learner.step) / (10 + learner.step))
            torch._foreach_lerp_(learner.mean, [p.detach() for p in network.parameters()], 1 - decay)
        # Whatever outlives its step stands in the way of the next one's blocks and raises the peak of memory.
        optimiser.zero_grad(set_to_none=True)
        done = Step(learner.step, loss.detach())
        del batch, logits, loss
        learner.losses[done.index] = done.loss
        learner.step += 1
        yield done
