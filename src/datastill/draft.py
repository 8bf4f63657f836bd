"""The set while it is distilled: the only thing that a match touches."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from datastill.fields import Content, Optimise, Part, Store
from datastill.training.losses import one_hot
from datastill.training.optim import load_optimiser_arrays, optimiser_arrays
from datastill.training.supply import Data


class Draft:
    """Some parts of an open content on the device, with an optimiser for each learned array.

    Leaves and optimiser state are cut by unit, so that parts which run one after another do not disturb each other;
    Adam and SGD are elementwise, hence parts that run together do not either.

    What a match keeps of these parts from round to round stands in `state`, which checkpoints hold, or in `memo`, where
    it can be had again. Both begin empty.

    Args:
        store: decodes.
        content: the whole open content; `commit` writes back into it.
        parts: run together; their rows follow each other in `rows`.
        optimise: optimiser and schedule by learned name; names that the content does not learn are left out.
        rounds: the length of the schedule.
        classes: K, of the hard targets.
        device: where the parts are worked on.
    """

    def __init__(
        self,
        store: Store,
        content: Content,
        parts: list[Part],
        optimise: dict[str, Optimise],
        *,
        rounds: int,
        classes: int,
        device: torch.device,
    ) -> None:
        self.store, self.parts, self.rounds, self.round = store, parts, rounds, 0
        self._whole = content
        self._optimise = {name: plan for name, plan in optimise.items() if name in content.learned}
        self.rows = torch.cat([p.rows for p in parts])
        self.cls = content.items.cls[self.rows].cpu()
        part, self._units = content.part(self.rows)
        self._local = _moved(part, device)
        self._targets = one_hot(self._local.items.cls, classes)
        self._place = {int(row): i for i, row in enumerate(self.rows)}
        self._leaves = {name: self._local.arrays[name].requires_grad_() for name in content.learned}
        self._optimisers = {name: _optimiser(self._leaves[name], plan) for name, plan in self._optimise.items()}
        self.memo: dict[str, Any] = {}
        self.state: dict[str, Tensor] = {}

    def _where(self, rows: Tensor) -> Tensor:
        device = self._targets.device
        if rows is self.rows:
            return torch.arange(len(rows), device=device)
        return torch.tensor([self._place[int(r)] for r in rows], device=device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return detached open pixels x float[B, C, H, W], a leaf that wants a gradient, and targets float[B, K]."""
        where = self._where(rows)
        with torch.no_grad():
            x = self.store.decode(self._local, where, open=True)
        return x.requires_grad_(), self._targets[where]

    def pull(self, rows: Tensor, dx: Tensor) -> None:
        """Chain the gradient dx float[B, C, H, W] at the pixels of `rows` into the learned arrays."""
        with torch.enable_grad():
            x = self.store.decode(self._local, self._where(rows), open=True)
        torch.autograd.backward(x, dx)

    def data(self) -> Data:
        """Return these parts as training data: detached open pixels float[B, C, H, W], and hard targets."""
        x, targets = self.batch(self.rows)
        return Data(x.detach(), self._local.items.cls, targets, "classes")

    def step(self) -> None:
        """Step every optimiser once on what was pulled, then let the store project."""
        for name, optimiser in self._optimisers.items():
            plan = self._optimise[name]
            _step(optimiser, plan, plan.lr * _share(plan, self.round / self.rounds))
            optimiser.zero_grad(set_to_none=True)
        self.store.settle(self._local, "step")

    def end_round(self) -> None:
        """Let the store project what it projects between rounds, and count the round."""
        self.store.settle(self._local, "round")
        self.round += 1

    def fill(self, name: str, values: Tensor) -> None:
        """Set a learned array of these parts, units in ascending order, to `values`."""
        self._leaves[name].data.copy_(values)

    def arrays(self) -> dict[str, Tensor]:
        """Return everything that the rest of the rounds depends on."""
        found = {f"learned.{name}": leaf.detach() for name, leaf in self._leaves.items()}
        for name, optimiser in self._optimisers.items():
            found |= {f"optimiser.{name}.{key}": value for key, value in optimiser_arrays(optimiser).items()}
        found |= {f"state.{name}": value.detach() for name, value in self.state.items()}
        return found | {"round": torch.tensor(self.round)}

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Go on from what `arrays` returned."""
        for name, leaf in self._leaves.items():
            leaf.data.copy_(arrays[f"learned.{name}"])
            prefix = f"optimiser.{name}."
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if state:
                load_optimiser_arrays(self._optimisers[name], state)
        device = self._targets.device
        self.state = {k.removeprefix("state."): v.to(device) for k, v in arrays.items() if k.startswith("state.")}
        self.round = int(arrays["round"])

    def commit(self) -> None:
        """Write the learned arrays of these parts back into the whole content."""
        for name, leaf in self._leaves.items():
            self._whole.arrays[name][self._units] = leaf.detach().to(self._whole.arrays[name].device)


def _optimiser(leaf: Tensor, plan: Optimise) -> torch.optim.Optimizer:
    if plan.momentum is None:
        return torch.optim.Adam([leaf], lr=plan.lr, betas=plan.betas, eps=plan.eps)
    return torch.optim.SGD([leaf], lr=plan.lr, momentum=plan.momentum)


def _share(plan: Optimise, done: float) -> float:
    """Return what part of the learning rate is left when the share `done` of the rounds is over."""
    if plan.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    passed = sum(done >= at for at in plan.milestones) if plan.schedule == "steps" else 0
    return plan.drop**passed


def _step(optimiser: torch.optim.Optimizer, plan: Optimise, lr: float) -> None:
    momentum = plan.momentum or 0.0
    coasting = plan.turns if momentum else 1
    optimiser.param_groups[0]["lr"] = lr if coasting == 1 else lr * (1 - momentum**coasting) / (1 - momentum)
    optimiser.step()
    if coasting > 1:
        for state in optimiser.state.values():
            state["momentum_buffer"].mul_(momentum ** (coasting - 1))


def _moved(content: Content, device: torch.device) -> Content:
    items = type(content.items)(**{k: v.to(device) for k, v in vars(content.items).items()})
    pictures = content.pictures
    moved = type(pictures)(pictures.pixels.to(device), pictures.cls.to(device), pictures.ids)
    return Content(items, moved, {k: v.to(device) for k, v in content.arrays.items()}, content.learned)
